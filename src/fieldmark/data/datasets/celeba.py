"""CelebA: blond hair, gender as spurious attribute (Liu et al., 2015; Sagawa et al., 2020).

Classes are not blond 0 and blond 1, attributes female 0 and male 1, so that the group is
2 * blond + male as in the group DRO code. Three layouts are read: the CSV files of Kaggle and
WILDS, the text files of the authors and of torchvision, and the table that DFR and SubpopBench
ship.

A face fills its image and gender is no background, so BAP does not apply (the paper leaves CelebA
out): there is nothing to pre-train on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fieldmark.core.errors import TableError
from fieldmark.data.columns import Columns, check_unique, read_columns
from fieldmark.data.datasets.built import count_groups, describe_empty_groups, pair_up
from fieldmark.data.datasets.info import DatasetInfo
from fieldmark.data.layout import describe_missing, list_missing, read_lines, require_files
from fieldmark.data.tables import ImageTable
from fieldmark.data.tasks import Task

CLASSES = ("not blond", "blond")
ATTRIBUTES = ("female", "male")
CLASS_WORDS = ("person with dark hair", "person with blond hair")
TARGET, SPURIOUS = "Blond_Hair", "Male"
SPLITS = {"0": "train", "1": "val", "2": "test"}
# Groups in the order of their ids, as the group DRO paper counts them.
PUBLISHED = {
    "train": (71629, 66874, 22880, 1387),
    "val": (8535, 8276, 2874, 182),
    "test": (9767, 7535, 2480, 180),
}
# The authors' archive keeps its parts apart.
PARTS = ("", "Anno", "Eval", "celeba", "celeba/Anno", "celeba/Eval", "CelebA/Anno", "CelebA/Eval")
IMAGES = "img_align_celeba"
METADATA = ("metadata.csv", "celeba_metadata.csv", "metadata_celeba.csv")
LICENCE = "non-commercial research only, no redistribution (the CelebA agreement)"
CITATION = (
    "Liu, Luo, Wang, Tang: Deep Learning Face Attributes in the Wild, ICCV 2015; groups: Sagawa, "
    "Koh, Hashimoto, Liang, ICLR 2020"
)
LAYOUT = """img_align_celeba/*.jpg (or doubled: img_align_celeba/img_align_celeba/*.jpg)
and one of
  list_attr_celeba.csv, list_eval_partition.csv (Kaggle, WILDS, group DRO)
  list_attr_celeba.txt, list_eval_partition.txt (the authors: Anno/ and Eval/; torchvision)
  metadata.csv, celeba_metadata.csv or metadata_celeba.csv (DFR, SubpopBench)"""


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Rows of a layout: file names, 0/1 labels and attributes, split codes, as strings."""

    columns: Columns
    names: Sequence[str]
    blond: Sequence[str]
    male: Sequence[str]
    partition: Sequence[str]


def open_celeba(root: Path) -> Task:
    """Read the images, labels and splits.

    Args:
        root: folder that holds the files, itself or in a folder `celeba`.

    Raises:
        TableError: a file or images are missing (the first ten and their count), a row whose label
            or split is none there is.
    """
    rows = _read_rows(root)
    folder = _find_images(root)
    paths = [folder / name for name in rows.names]
    require_files(paths, root=root.resolve())
    table = ImageTable(
        name="celeba",
        root=folder,
        ids=check_unique(rows.columns, rows.names),
        paths=tuple(paths),
        labels=_encode(rows, rows.blond, what=TARGET),
        classes=CLASSES,
        attributes=_encode(rows, rows.male, what=SPURIOUS),
        attribute_names=ATTRIBUTES,
        splits=_name_splits(rows),
    )
    return Task(
        name="celeba",
        table=table,
        class_words=CLASS_WORDS,
        templates="people",
        reject=(("woman", "man"),),
        accept=pair_up(CLASS_WORDS),
        card={
            "name": "celeba",
            "counts": count_groups(table),
            "licences": [LICENCE],
            "citation": CITATION,
        },
        notes=(
            "gender is no background, so BAP has nothing to pre-train on here",
            *describe_empty_groups(table, ("train", "val", "test")),
            *_compare_counts(table),
        ),
    )


def _read_rows(root: Path) -> _Rows:
    for suffix in ("csv", "txt"):
        attributes = _find(root, f"list_attr_celeba.{suffix}")
        if attributes is None:
            continue
        partition = _find(root, f"list_eval_partition.{suffix}")
        if partition is None:
            raise TableError(
                f"has no list_eval_partition.{suffix} to go with {attributes}",
                where=root,
                mend="put it beside",
            )
        read = read_columns if suffix == "csv" else _read_text
        return _join(read(attributes), read(partition))
    for name in METADATA:
        path = _find(root, name)
        if path is not None:
            return _read_metadata(read_columns(path))
    raise TableError(
        "has neither list_attr_celeba.csv, list_attr_celeba.txt nor metadata.csv",
        where=root,
        mend="check the path of --root",
    )


def _find(root: Path, name: str) -> Path | None:
    paths = (root / part / name for part in PARTS)
    return next((path for path in paths if path.is_file()), None)


def _find_images(root: Path) -> Path:
    places = (root, root / "celeba", root / "Img", root / "celeba/Img", root / "CelebA/Img")
    for folder in (place / IMAGES for place in places):
        if (folder / IMAGES).is_dir():
            return (folder / IMAGES).resolve()
        if folder.is_dir():
            return folder.resolve()
    raise TableError(f"has no folder {IMAGES}", where=root, mend="unpack img_align_celeba.zip")


def _read_text(source: Path) -> Columns:
    """Read the authors' text files: attributes with a count and a header, or names and splits."""
    lines = read_lines(source, mend="download the file again")
    first = 0
    header = ["partition"]
    if lines and lines[0].strip().isdecimal():
        header, first = lines[1].split() if len(lines) > 1 else [], 2
    rows, records = [], []
    for number, line in enumerate(lines[first:], start=first + 1):
        record = line.split()
        if record and len(record) != len(header) + 1:
            raise TableError(
                f"has {len(record)} words, {len(header) + 1} are expected",
                where=f"{source}, row {number}",
                mend="download the file again",
            )
        if record:
            rows.append(number)
            records.append(record)
    if not rows:
        raise TableError("has no rows", where=source, mend="download the file again")
    columns = zip(*records, strict=True)
    return Columns(source, dict(zip(("image_id", *header), columns, strict=True)), rows)


def _join(attributes: Columns, partition: Columns) -> _Rows:
    names = attributes.require("image_id")
    of = dict(zip(partition.require("image_id"), partition.require("partition"), strict=True))
    lacking = next((index for index, name in enumerate(names) if name not in of), None)
    if lacking is not None:
        raise TableError(
            f"{names[lacking]} has no split in {partition.source.name}",
            where=attributes.where(lacking),
            mend="download both files again",
        )
    return _Rows(
        columns=attributes,
        names=[_strip_folder(name) for name in names],
        blond=attributes.require(TARGET),
        male=attributes.require(SPURIOUS),
        partition=[of[name] for name in names],
    )


def _read_metadata(columns: Columns) -> _Rows:
    files = columns.require("img_filename", "filename", "image_id")
    return _Rows(
        columns=columns,
        names=[_strip_folder(name) for name in files],
        blond=columns.require("y", TARGET),
        male=columns.require("place", "a", SPURIOUS),
        partition=columns.require("split", "partition"),
    )


def _strip_folder(name: str) -> str:
    """Return the file's name alone: SubpopBench writes paths, and a name cannot lead elsewhere."""
    return name.replace("\\", "/").rpartition("/")[2]


def _encode(
    rows: _Rows, column: Sequence[str], *, what: str
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    code = {"1": 1, "0": 0, "-1": 0}
    wrong = next((index for index, value in enumerate(column) if value not in code), None)
    if wrong is not None:
        raise TableError(
            f"{what} is {column[wrong]!r}, not -1, 0 or 1",
            where=rows.columns.where(wrong),
            mend="mend the row",
        )
    return np.fromiter((code[value] for value in column), np.int64, len(column))


def _name_splits(rows: _Rows) -> tuple[str, ...]:
    known = {**SPLITS, **{name: name for name in SPLITS.values()}}
    wrong = next((i for i, value in enumerate(rows.partition) if value not in known), None)
    if wrong is not None:
        raise TableError(
            f"the split {rows.partition[wrong]!r} is none of 0, 1 and 2",
            where=rows.columns.where(wrong),
            mend="mend the row",
        )
    return tuple(known[value] for value in rows.partition)


def _compare_counts(table: ImageTable) -> list[str]:
    counts, names = count_groups(table), table.group_names()
    return [
        f"split {split} has {counts.get(split, {}).get(names[group], 0)} of {names[group]}, "
        f"{expected} are published"
        for split, groups in PUBLISHED.items()
        for group, expected in enumerate(groups)
        if counts.get(split, {}).get(names[group], 0) != expected
    ]


def check_celeba(root: Path) -> list[str]:
    """Return what is missing or off, in a line each: files, images, counts that are not published.

    Args:
        root: as in `open_celeba`.
    """
    try:
        rows = _read_rows(root)
        folder = _find_images(root)
        missing = list_missing(folder / name for name in rows.names)
        if missing:
            return [f"{root}: {describe_missing(missing, root=root.resolve())}"]
        return _compare_counts(open_celeba(root).table)
    except TableError as error:
        return [str(error)]


INFO = DatasetInfo(
    name="celeba",
    summary="faces: blond hair or not, with gender as the spurious attribute",
    licence=LICENCE,
    citation=CITATION,
    layout=LAYOUT,
    open=open_celeba,
    check=check_celeba,
)
