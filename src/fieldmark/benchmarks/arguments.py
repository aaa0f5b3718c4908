"""What a request was given, as JSON values: they say which run it is, and stand in its records."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

# Where a run lies, where it is done and that it goes on change none of its figures.
NEVER = frozenset({"out", "device", "resume"})


def list_arguments(
    request: DataclassInstance, *, left_out: Collection[str] = ("batch_size",)
) -> dict[str, Any]:
    """Return the fields of a request as JSON values, less those that change no figure.

    Args:
        request: a dataclass of texts, numbers, paths, tuples of them, and settings.
        left_out: names of fields to leave out beside `out`, `device` and `resume`.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Request:
        ...     data: Path
        ...     out: Path
        ...     methods: tuple[str, ...] = ("cci",)
        >>> list_arguments(Request(data=Path("images"), out=Path("run")))
        {'data': 'images', 'methods': ['cci']}
    """
    return {
        one.name: _make_plain(getattr(request, one.name))
        for one in dataclasses.fields(request)
        if one.name not in NEVER and one.name not in left_out
    }


def _make_plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_make_plain(one) for one in value]
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
