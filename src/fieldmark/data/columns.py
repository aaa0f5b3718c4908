"""Columns of a CSV or Parquet file, and paths and labels read out of them.

Everything is kept by column, so that a table of a million rows costs a few seconds and no object a
row.
"""

from __future__ import annotations

import csv
import os
import stat
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fieldmark.core.errors import MissingExtraError, TableError

TABLE_SUFFIXES = (".csv", ".tsv", ".parquet")
# What pyarrow raises beside its own on damaged values: text that is none, a date without a year.
_UNFIT = (ValueError, TypeError, ArithmeticError, LookupError, MemoryError, RuntimeError)


@dataclass(frozen=True, eq=False)
class Columns:
    """A table as it is on disk: strings by column, blanks around them stripped.

    Attributes:
        source: the file, for messages.
        values: column name to its n strings.
        rows: the number of each row as an editor shows it (the header of a CSV file is row 1).
    """

    source: Path
    values: Mapping[str, Sequence[str]]
    rows: Sequence[int | str]

    def find(self, *names: str) -> Sequence[str] | None:
        """Return the first column of these names that there is, or None."""
        return next((self.values[name] for name in names if name in self.values), None)

    def require(self, *names: str) -> Sequence[str]:
        """Return the first column of these names that there is.

        Raises:
            TableError: there is none; the message lists the columns there are.
        """
        column = self.find(*names)
        if column is None:
            others = f" (or {', '.join(names[1:])})" if len(names) > 1 else ""
            raise TableError(
                f"has no column {names[0]!r}{others}; its columns are {', '.join(self.values)}",
                where=self.source,
                mend="add the column or rename one",
            )
        return column

    def where(self, index: int) -> str:
        """Name the row of an index: "table.csv, row 7"."""
        return f"{self.source}, row {self.rows[index]}"


class Encoded(NamedTuple):
    """Strings as numbers: `names[codes[i]]` is string i; code -1 is blank."""

    codes: NDArray[np.int64]
    names: tuple[str, ...]


def read_columns(source: Path) -> Columns:
    """Read a CSV, TSV or Parquet file whole, as strings.

    Raises:
        TableError: no such file, not a table, no rows, a ragged row, a column twice.
        MissingExtraError: Parquet without pyarrow.
    """
    if not source.is_file():
        raise TableError("no such table", where=source, mend="mend the path")
    table = _read_parquet(source) if source.suffix.lower() == ".parquet" else _read_csv(source)
    if not table.rows:
        raise TableError("has no rows", where=source, mend="give it at least one image")
    return table


def _read_csv(source: Path) -> Columns:
    delimiter = "\t" if source.suffix.lower() == ".tsv" else ","
    rows: list[int] = []
    records: list[list[str]] = []
    try:
        with source.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.reader(stream, delimiter=delimiter)
            header = _check_header([name.strip() for name in next(reader, [])], source=source)
            for record in reader:
                if record:
                    rows.append(reader.line_num)
                    records.append(record)
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(
            f"is not a UTF-8 CSV file ({error})", where=source, mend="export it again as CSV"
        ) from error
    for number, record in zip(rows, records, strict=True):
        if len(record) != len(header):
            raise TableError(
                f"has {len(record)} fields where the header has {len(header)}",
                where=f"{source}, row {number}",
                mend="quote fields that hold a comma",
            )
    columns = zip(*records, strict=True) if records else ((),) * len(header)
    values = {name: _share(column) for name, column in zip(header, columns, strict=True)}
    return Columns(source, values, rows)


def _share(column: Iterable[str]) -> list[str]:
    """Strip strings and keep equal ones once: classes, splits and scenes occur many times."""
    known: dict[str, str] = {}
    return [known.setdefault(text, text) for text in map(str.strip, column)]


def _check_header(header: list[str], *, source: Path) -> list[str]:
    if not header:
        raise TableError("is empty", where=source, mend="give it a header and rows")
    twice = sorted(name for name, count in Counter(header).items() if count > 1)
    if twice:
        raise TableError(
            f"has the column {twice[0]!r} twice", where=source, mend="rename one of them"
        )
    return header


def _read_parquet(source: Path) -> Columns:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError("pyarrow", extra="arrow") from error
    try:
        table = pyarrow.parquet.read_table(source)
        header = _check_header(list(table.column_names), source=source)
        values = {
            name: ["" if v is None else str(v).strip() for v in table.column(index).to_pylist()]
            for index, name in enumerate(header)
        }
    except (pyarrow.ArrowException, OSError, *_UNFIT) as error:
        raise TableError(
            "is not a Parquet file that can be read", where=source, mend="write it again"
        ) from error
    return Columns(source, values, range(1, table.num_rows + 1))


def resolve_paths(columns: Columns, names: Sequence[str], *, root: Path) -> tuple[Path, ...]:
    """Turn the paths of a column into absolute ones, each an existing file inside `root`.

    Links are followed before the check. A folder is resolved once, a file costs one look at the
    disk.

    Raises:
        TableError: a blank, a path outside `root`, or no such file; file, row and path are named.
    """
    base = os.path.realpath(root)
    folders: dict[str, Path] = {}
    paths: list[Path] = []
    for index, name in enumerate(names):
        try:
            paths.append(_locate(name, base=base, folders=folders))
        except (OSError, ValueError) as error:
            problem = str(error) if type(error) is ValueError else f"no such file: {name!r}"
            raise TableError(
                problem, where=columns.where(index), mend="mend the row, or set --root"
            ) from error
    return tuple(paths)


def _locate(name: str, *, base: str, folders: dict[str, Path]) -> Path:
    """Return the absolute path of a file, in strings as far as that goes: a Path each is slow."""
    if not name:
        raise ValueError("the path is blank")
    joined = name if name.startswith(os.sep) else f"{base}{os.sep}{name}"
    folder, _, file = os.path.normpath(joined).rpartition(os.sep)
    if folder not in folders:
        folders[folder] = Path(os.path.realpath(folder))
    path = target = f"{folders[folder]}{os.sep}{file}"
    inside = base.rstrip(os.sep) + os.sep
    mode = os.lstat(path).st_mode if path.startswith(inside) else 0
    if stat.S_ISLNK(mode):
        target = os.path.realpath(path)
        mode = os.lstat(target).st_mode
    if not target.startswith(inside):
        raise ValueError(f"the path {name!r} leads outside {base}")
    if not stat.S_ISREG(mode):
        raise FileNotFoundError(path)
    return folders[folder] / file


def relative_names(paths: Iterable[Path], *, root: Path) -> list[str]:
    """Return paths relative to a root, with forward slashes."""
    prefix = os.path.realpath(root).rstrip(os.sep) + os.sep
    return [str(path).removeprefix(prefix).replace(os.sep, "/") for path in paths]


def encode_names(column: Sequence[str], *, names: Sequence[str] | None = None) -> Encoded:
    """Number the strings of a column; whole numbers keep their order, other names are sorted.

    Args:
        column: n strings; a blank gets code -1.
        names: the known names, in order; without it those in the column. A string that is none of
            them gets code -2.

    Example:
        >>> encode_names(["b", "a", "", "b"])
        Encoded(codes=array([ 1,  0, -1,  1]), names=('a', 'b'))
    """
    if names is None:
        found = {name for name in set(column) if name}
        # Python refuses to read numbers of thousands of digits.
        numbers = all(name.isdecimal() and len(name) < 20 for name in found)
        names = sorted(found, key=int) if numbers else sorted(found)
    code = {name: number for number, name in enumerate(names)}
    code.setdefault("", -1)
    codes = np.fromiter((code.get(name, -2) for name in column), np.int64, len(column))
    return Encoded(codes, tuple(names))


def encode_labels(
    columns: Columns, column: Sequence[str], *, classes: Sequence[str] | None
) -> Encoded:
    """Number the labels of a table.

    Raises:
        TableError: a row without a label, or with one that is none of `classes`.
    """
    labels = encode_names(column, names=classes)
    wrong = np.flatnonzero(labels.codes < 0)
    if wrong.size:
        index = int(wrong[0])
        problem = (
            f"the label {column[index]!r} is none of the classes {', '.join(labels.names)}"
            if column[index]
            else "the label is blank"
        )
        raise TableError(problem, where=columns.where(index), mend="mend the row")
    return labels


def check_unique(columns: Columns, ids: Sequence[str]) -> tuple[str, ...]:
    """Return ids as a tuple.

    Raises:
        TableError: an id is blank or occurs twice; both rows are named.
    """
    if len(set(ids)) < len(ids) or "" in ids:
        seen: dict[str, int] = {}
        for index, name in enumerate(ids):
            if not name:
                raise TableError("the id is blank", where=columns.where(index), mend="give it one")
            if name in seen:
                raise TableError(
                    f"the id {name!r} is taken by row {columns.rows[seen[name]]}",
                    where=columns.where(index),
                    mend="give each row an id of its own",
                )
            seen[name] = index
    return tuple(ids)
