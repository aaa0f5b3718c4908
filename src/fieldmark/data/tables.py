"""Tables of images to evaluate on, a row an image: class, attribute, split, object and scene."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fieldmark.core.errors import InputError, TableError, UsageError
from fieldmark.data.columns import (
    Columns,
    Encoded,
    check_unique,
    encode_labels,
    encode_names,
    read_columns,
    relative_names,
    resolve_paths,
)
from fieldmark.data.images import hash_image, list_images, read_image

T = TypeVar("T")

SPLIT_FOLDERS = frozenset({"train", "val", "valid", "validation", "dev", "test"})
# WILDS and group DRO number the splits of their metadata.csv.
SPLIT_NUMBERS = {"0": "train", "1": "val", "2": "test"}


@dataclass(frozen=True, eq=False, kw_only=True)
class ImageTable:
    """Labelled images, by column.

    Attributes:
        name: of the data set, for records.
        root: folder that every path lies in.
        ids: n unique ids.
        paths: n absolute paths.
        labels: (n,) index into `classes`.
        classes: class names.
        attributes: (n,) index into `attribute_names`, -1 where it is not known; None when no row
            has one.
        attribute_names: names of the spurious attribute (the background).
        splits: n names of splits, or None.
        masks: n absolute paths of masks, None where a row has none; None when no row has one.
        objects: n ids of the foreground object, for leakage checks and clustered intervals, or
            None.
        scenes: n ids of the background photograph, or None.
    """

    name: str
    root: Path
    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    attributes: NDArray[np.int64] | None = None
    attribute_names: tuple[str, ...] = ()
    splits: tuple[str, ...] | None = None
    masks: tuple[Path | None, ...] | None = None
    objects: tuple[str, ...] | None = None
    scenes: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> Image.Image:
        """Read image `index` as upright RGB.

        Raises:
            ImageError: it cannot be read as an image.
        """
        return read_image(self.paths[index])

    def hashes(self) -> tuple[str, ...]:
        """Return the SHA-256 of each image file."""
        return tuple(map(hash_image, self.paths))

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> ImageTable:
        """Return the rows of `indices`, in that order, with the same classes."""
        rows = np.asarray(indices, np.int64)
        attributes = None if self.attributes is None else self.attributes[rows]
        if attributes is not None and not (attributes >= 0).any():
            attributes = None
        return replace(
            self,
            ids=_take(self.ids, rows),
            paths=_take(self.paths, rows),
            labels=self.labels[rows],
            attributes=attributes,
            attribute_names=self.attribute_names if attributes is not None else (),
            splits=self.splits and _take(self.splits, rows),
            masks=self.masks and _take(self.masks, rows),
            objects=self.objects and _take(self.objects, rows),
            scenes=self.scenes and _take(self.scenes, rows),
        )

    def select(self, split: str) -> ImageTable:
        """Return the rows of one split.

        Raises:
            TableError: there is no such split; the message lists those there are.
        """
        chosen = [i for i, name in enumerate(self.splits or ()) if name == split]
        if not chosen:
            known = ", ".join(sorted(set(self.splits or ()))) or "none"
            raise TableError(
                f"has no split {split!r}; its splits are: {known}",
                where=self.name,
                mend="choose one of them or add a column 'split'",
            )
        return self.take(chosen)

    def name_classes(self, names: Sequence[str] | None) -> tuple[str, ...]:
        """Return the names of the classes for prompts: `names`, or the table's own for none.

        Raises:
            UsageError: there are not as many names as classes.
        """
        if names and len(names) != len(self.classes):
            raise UsageError(
                f"{len(names)} class names for {len(self.classes)} classes",
                where=self.name,
                mend=f"name these, in order: {', '.join(self.classes)}",
            )
        return tuple(names or self.classes)

    def group_ids(self) -> NDArray[np.int64]:
        """Return the group of each row: label * attributes + attribute, or the label alone.

        A row whose attribute is not known is in group -1.
        """
        if self.attributes is None:
            return self.labels.copy()
        groups = self.labels * len(self.attribute_names) + self.attributes
        return np.where(self.attributes < 0, np.int64(-1), groups)

    def group_names(self) -> dict[int, str]:
        """Name every group as WILDS does: "y:landbird_background:water", or "y:landbird"."""
        if self.attributes is None:
            return {label: f"y:{name}" for label, name in enumerate(self.classes)}
        return {
            label * len(self.attribute_names) + number: f"y:{name}_background:{attribute}"
            for label, name in enumerate(self.classes)
            for number, attribute in enumerate(self.attribute_names)
        }


class Readable(Protocol):
    """What `find_unreadable` asks of images: an ImageTable, Foregrounds and Backgrounds all fit."""

    @property
    def paths(self) -> tuple[Path, ...]:
        """Files of the images."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Image.Image:
        """Read one image."""
        ...


@dataclass(frozen=True)
class Unreadable:
    """An image that cannot be used: its index, its file and the one-line reason."""

    index: int
    path: Path
    reason: str


def find_unreadable(
    images: Readable, *, on_progress: Callable[[int, int], None] | None = None
) -> list[Unreadable]:
    """Read every image and return those that cannot be used, for `--skip-unreadable`.

    Args:
        images: a table, foregrounds or backgrounds.
        on_progress: called with how many are done and how many there are.
    """
    found = []
    for index in range(len(images)):
        try:
            images.read(index)
        except InputError as error:
            found.append(Unreadable(index, images.paths[index], str(error)))
        if on_progress is not None:
            on_progress(index + 1, len(images))
    return found


def read_table(
    source: Path,
    *,
    root: Path | None = None,
    split: str | None = None,
    classes: Sequence[str] | None = None,
) -> ImageTable:
    r"""Read a CSV or Parquet table, or a folder of folders.

    A table has the columns `path` (or `filepath`, `img_filename`) and `label` (or `y`) and, if it
    has them, `id` (`img_id`), `attribute` (`place`, `background`), `split`, `mask`, `object` and
    `scene` (`place_filename`). Waterbirds' own `metadata.csv` fits as it is. In a folder of folders
    the class is the name of the folder, beneath `train`, `val` or `test` where the first level is
    made of these.

    Args:
        source: the table or the folder; a folder with a `metadata.csv` stands for that.
        root: folder that the paths are relative to and must lie in; the table's own folder by
            default.
        split: keep this split only. Class and attribute names stay those of the whole table.
        classes: the class names in order, where they are known beforehand.

    Raises:
        TableError: what is off, with file and row.
        MissingExtraError: Parquet without pyarrow.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "a.png").touch()
        ...     _ = (Path(folder) / "t.csv").write_text("path,label,place\na.png,bird,water\n")
        ...     table = read_table(Path(folder) / "t.csv")
        >>> len(table), table.classes, table.group_names()
        (1, ('bird',), {0: 'y:bird_background:water'})
    """
    if source.is_dir() and (source / "metadata.csv").is_file():
        source = source / "metadata.csv"
    table = (
        _read_folder(source, classes=classes)
        if source.is_dir()
        else _read_rows(read_columns(source), root=root or source.parent, classes=classes)
    )
    return table if split is None else table.select(split)


def _read_rows(columns: Columns, *, root: Path, classes: Sequence[str] | None) -> ImageTable:
    names = columns.require("path", "filepath", "img_filename")
    labels = encode_labels(columns, columns.require("label", "y"), classes=classes)
    paths = resolve_paths(columns, names, root=root)
    ids = columns.find("id", "img_id", "image_id") or relative_names(paths, root=root)
    attribute = encode_names(columns.find("attribute", "place", "background") or ())
    scenes = columns.find("scene", "place_filename")
    # In Waterbirds the file name is the name of the CUB photograph that the bird was cut from.
    objects = columns.find("object") or (names if columns.find("place_filename") else None)
    splits = columns.find("split")
    return ImageTable(
        name=columns.source.parent.name
        if columns.source.stem == "metadata"
        else columns.source.stem,
        root=root.resolve(),
        ids=check_unique(columns, ids),
        paths=paths,
        labels=labels.codes,
        classes=labels.names,
        attributes=attribute.codes if attribute.names else None,
        attribute_names=attribute.names,
        splits=None if splits is None else _name_splits(splits),
        masks=_resolve_masks(columns, root=root),
        objects=None if objects is None else tuple(objects),
        scenes=None if scenes is None else tuple(name.lstrip("/") for name in scenes),
    )


def _resolve_masks(columns: Columns, *, root: Path) -> tuple[Path | None, ...] | None:
    names = columns.find("mask")
    if names is None or not any(names):
        return None
    present = [index for index, name in enumerate(names) if name]
    part = Columns(columns.source, {}, [columns.rows[index] for index in present])
    paths = resolve_paths(part, [names[index] for index in present], root=root)
    masks: list[Path | None] = [None] * len(names)
    for index, path in zip(present, paths, strict=True):
        masks[index] = path
    return tuple(masks)


def _name_splits(splits: Sequence[str]) -> tuple[str, ...]:
    if set(splits) <= SPLIT_NUMBERS.keys():
        return tuple(SPLIT_NUMBERS[name] for name in splits)
    return tuple(splits)


def _read_folder(folder: Path, *, classes: Sequence[str] | None) -> ImageTable:
    paths = list_images(folder.resolve())
    names = relative_names(paths, root=folder)
    columns = Columns(folder, {}, range(1, len(paths) + 1))
    parts = [name.split("/") for name in names]
    splits, labels = _split_parts(parts, columns=columns, classes=classes)
    return ImageTable(
        name=folder.resolve().name,
        root=folder.resolve(),
        ids=tuple(names),
        paths=resolve_paths(columns, names, root=folder),
        labels=labels.codes,
        classes=labels.names,
        splits=splits,
    )


def _split_parts(
    parts: list[list[str]], *, columns: Columns, classes: Sequence[str] | None
) -> tuple[tuple[str, ...] | None, Encoded]:
    has_splits = bool(parts) and all(part[0] in SPLIT_FOLDERS for part in parts)
    depth = 2 if has_splits else 1
    loose = next((part for part in parts if len(part) <= depth), None)
    if not parts or loose:
        problem = f"the image {'/'.join(loose)} is in no class folder" if loose else "has no image"
        raise TableError(
            problem, where=columns.source, mend="give it one folder a class, images inside"
        )
    labels = encode_labels(columns, [part[depth - 1] for part in parts], classes=classes)
    return (tuple(part[0] for part in parts) if has_splits else None), labels


def _take(column: tuple[T, ...], rows: NDArray[np.int64]) -> tuple[T, ...]:
    return tuple(column[row] for row in rows)
