"""Read the tables of published figures, a line a figure."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from fieldmark.core.errors import InputError

Figure = TypeVar("Figure")


def read_lines(
    text: str,
    *,
    columns: Sequence[str],
    where: str,
    parse: Callable[[Mapping[str, str]], Figure],
) -> Iterator[tuple[str, Figure]]:
    r"""Yield each figure of a CSV table with the place that it stands at, for messages.

    Args:
        text: the table, its heads in the first line.
        columns: what it must have.
        where: the file, for messages.
        parse: makes a figure of a line; it may raise where a word is missing or no number.

    Raises:
        InputError: a column is missing, or a line is no figure; the line is named.

    Example:
        >>> list(read_lines("a,b\n1,2", columns="ab", where="t.csv", parse=lambda x: int(x["b"])))
        [('t.csv line 2', 2)]
    """
    try:
        yield from _read(text, columns=columns, where=where, parse=parse)
    except csv.Error as error:
        raise InputError(f"is no CSV ({error})", where=where, mend="write it again") from error


def _read(
    text: str,
    *,
    columns: Sequence[str],
    where: str,
    parse: Callable[[Mapping[str, str]], Figure],
) -> Iterator[tuple[str, Figure]]:
    reader = csv.DictReader(text.splitlines(), strict=True)
    missing = [column for column in columns if column not in (reader.fieldnames or ())]
    if missing:
        raise InputError(
            f"lacks the columns {', '.join(missing)}",
            where=where,
            mend=f"begin the file with {','.join(columns)}",
        )
    for number, line in enumerate(reader, start=2):
        place = f"{where} line {number}"
        try:
            yield place, parse(line)
        except (AttributeError, TypeError, ValueError) as error:
            raise InputError(
                f"cannot be read as a figure ({error})",
                where=place,
                mend="fill every column and give table and value as numbers",
            ) from None
