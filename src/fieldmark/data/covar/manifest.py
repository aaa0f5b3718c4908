"""What a built COVAR has on disk, and how it is read.

    OUT/covar.csv               an image table: id, path, label, attribute (the scene's category),
                                mask, object, scene, subset, realised_area, visible, cut_off,
                                parameters (JSON)
    OUT/images/SUBSET/OBJECT/SCENE.png    and OUT/masks/... alike, the object's share of each pixel
    OUT/info.json               settings, classes, counts, sources, licences, hashes; written last

While it is built, `build.json` says what is being built and `rows.jsonl` what is done.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fieldmark.core.atomic import hash_file, replacing
from fieldmark.core.errors import InputError, TableError
from fieldmark.core.json_text import parse_json
from fieldmark.core.sealed import open_seal
from fieldmark.data.columns import Columns, read_columns
from fieldmark.data.covar.settings import ORIGINAL
from fieldmark.data.layout import describe_missing, list_missing
from fieldmark.data.tables import ImageTable, read_table

TABLE, INFO = "covar.csv", "info.json"
PENDING, JOURNAL = "build.json", "rows.jsonl"
KIND = "covar"
# A PNG file that was written to its end closes with this chunk.
_END = b"\x00\x00\x00\x00IEND\xaeB`\x82"


class Row(NamedTuple):
    """One image of a COVAR, as `covar.csv` has it."""

    id: str
    path: str
    label: str
    attribute: str
    mask: str
    object: str
    scene: str
    subset: str
    realised_area: str
    visible: str
    cut_off: str
    parameters: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Covar:
    """A built COVAR, by column.

    Attributes:
        root: its folder.
        table: the n images; `splits` are the subsets, `attributes` the scene's category.
        subsets: names of the subsets, "original" first.
        realised_area: (n,) share of the image that the object has, in [0, 1].
        visible: (n,) share of the object that is inside the image, in [0, 1].
        cut_off: (n,) bool, whether the border cuts the object off.
        parameters: n dictionaries of what was drawn.
        info: info.json.
    """

    root: Path
    table: ImageTable
    subsets: tuple[str, ...]
    realised_area: NDArray[np.float64]
    visible: NDArray[np.float64]
    cut_off: NDArray[np.bool_]
    parameters: tuple[Mapping[str, Any], ...]
    info: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.table)

    def find_rows(self, subset: str) -> NDArray[np.int64]:
        """Return the indices of the images of a subset.

        Raises:
            TableError: there is no such subset; the message lists those there are.
        """
        if subset not in self.subsets:
            raise TableError(
                f"has no subset {subset!r}",
                where=self.root,
                mend=f"choose among {', '.join(self.subsets)}",
            )
        return np.flatnonzero(np.array(self.table.splits) == subset)


def open_covar(root: Path) -> Covar:
    """Read a built COVAR.

    Raises:
        TableError: it is unfinished, is none, or a file is missing or off.

    Example:
        >>> open_covar(Path("nowhere"))
        Traceback (most recent call last):
        fieldmark.core.errors.TableError: nowhere: is no built COVAR (it has no info.json); ...
    """
    info = read_info(root)
    source = root / TABLE
    # A table from before there were checksums has none to compare with.
    if source.is_file() and info.get("table_sha256", "") not in ("", hash_file(source)):
        raise TableError("is not as it was built", where=source, mend="build it again")
    table, columns = read_table(source), read_columns(source)
    splits = tuple(columns.require("subset"))
    areas, visible = (_read_shares(columns, key) for key in ("realised_area", "visible"))
    known = (ORIGINAL, *_list_subsets(info, source=root / INFO))
    return Covar(
        root=root,
        table=replace(table, name=root.resolve().name, splits=splits),
        subsets=tuple(name for name in known if name in set(splits)),
        realised_area=areas,
        visible=visible,
        cut_off=np.array([text == "1" for text in columns.require("cut_off")]),
        parameters=_read_parameters(columns),
        info=info,
    )


def _list_subsets(info: Mapping[str, Any], *, source: Path) -> list[str]:
    subsets = info.get("subsets") or []
    if not isinstance(subsets, list | dict) or not all(isinstance(name, str) for name in subsets):
        raise TableError("lists no names of subsets", where=source, mend="build it again")
    return list(subsets)


def read_info(root: Path) -> dict[str, Any]:
    """Read info.json of a built COVAR.

    Raises:
        TableError: there is none, or it is not that of a COVAR.
    """
    path = root / INFO
    if not path.is_file():
        unfinished = (root / PENDING).is_file()
        raise TableError(
            f"is {'an unfinished' if unfinished else 'no built'} COVAR (it has no {INFO})",
            where=root,
            mend="go on with `fieldmark covar build --resume`"
            if unfinished
            else "build one with `fieldmark covar build`",
        )
    try:
        info = open_seal(_read_json(path), where=path, mend="build it again")
    except InputError as error:
        raise TableError(error.problem, where=path, mend=error.mend) from error
    if info.get("kind") != KIND:
        raise TableError("is not that of a COVAR", where=path, mend="build it again")
    return info


def check_covar(root: Path) -> list[str]:
    """Return what is missing or torn in a built COVAR, in a line each; nothing if it is whole."""
    try:
        read_info(root)
        columns = read_columns(root / TABLE)
        names = [*columns.require("path"), *columns.require("mask")]
    except TableError as error:
        return [str(error)]
    missing = list_missing([root / name for name in names])
    if missing:
        return [f"{root / TABLE}: {describe_missing(missing, root=root)}"]
    return [f"{root / name} is torn" for name in names if not is_whole(root / name)]


def is_whole(path: Path) -> bool:
    """Return whether a PNG file is there to its end.

    Example:
        >>> is_whole(Path("nowhere.png"))
        False
    """
    try:
        with path.open("rb") as stream:
            stream.seek(-len(_END), 2)
            return stream.read() == _END
    except OSError:
        return False


def write_table(root: Path, rows: Iterable[Row]) -> None:
    """Write covar.csv, whole or not at all."""
    with replacing(root / TABLE) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(Row._fields)
        writer.writerows(rows)


def read_journal(root: Path) -> dict[str, Row]:
    """Return the rows that an unfinished build has done, by id; a torn line counts for nothing.

    A row whose image or mask is not there to its end is left out too.
    """
    path = root / JOURNAL
    rows: dict[str, Row] = {}
    # Bytes that are no text stand in a torn line only.
    lines = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    for line in lines.split("\n"):
        try:
            row = Row(*parse_json(line))
        except (ValueError, TypeError):
            continue
        if not all(isinstance(value, str) and "\0" not in value for value in row):
            continue
        if is_whole(root / row.path) and is_whole(root / row.mask):
            rows[row.id] = row
    return rows


def _read_json(path: Path) -> dict[str, Any]:
    try:
        held = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TableError("is not JSON", where=path, mend="build it again") from error
    if not isinstance(held, dict):
        raise TableError("is not a JSON object", where=path, mend="build it again")
    return held


def read_pending(root: Path) -> dict[str, Any]:
    """Return what an unfinished build is of, or nothing where none is.

    Raises:
        TableError: the file is off.
    """
    path = root / PENDING
    return _read_json(path) if path.is_file() else {}


def _read_shares(columns: Columns, name: str) -> NDArray[np.float64]:
    values = []
    for index, text in enumerate(columns.require(name)):
        try:
            values.append(float(text or "nan"))
        except ValueError as error:
            raise TableError(
                f"{name} {text!r} is no number", where=columns.where(index), mend="build it again"
            ) from error
    return np.array(values)


def _read_parameters(columns: Columns) -> tuple[Mapping[str, Any], ...]:
    held = []
    for index, text in enumerate(columns.require("parameters")):
        try:
            held.append(parse_json(text))
        except ValueError as error:
            raise TableError(
                "the parameters are not JSON", where=columns.where(index), mend="build it again"
            ) from error
    return tuple(held)
