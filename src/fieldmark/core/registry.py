"""Look things up by name; an unknown name lists the known ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from fieldmark.core.errors import UnknownNameError

T = TypeVar("T")


def look_up(table: Mapping[str, T], name: str, *, kind: str) -> T:
    """Return `table[name]`.

    Args:
        table: what there is, by name.
        name: what was asked for.
        kind: what the table holds, for the message ("head", "data set").

    Raises:
        UnknownNameError: the name is not in the table; the message lists what is.

    Example:
        >>> look_up({"zero-shot": 1}, "zero-shot", kind="head")
        1
    """
    try:
        return table[name]
    except KeyError:
        raise UnknownNameError(kind, name, table) from None
