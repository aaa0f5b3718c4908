"""Images of COCO with their captions and objects, and what of them an encoder gets to see.

Shape letters: n images, A annotated objects, T captions, C categories, S the side of an encoder's
input in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fieldmark.core.errors import TableError
from fieldmark.core.json_text import parse_json
from fieldmark.data.controlled.images import Ints
from fieldmark.data.datasets.coco import find_annotations, find_images

Flags: TypeAlias = NDArray[np.bool_]
# From texts and the names of each category to the categories that each text names.
Parse: TypeAlias = Callable[[Sequence[str], Sequence[Sequence[str]]], Sequence[Sequence[int]]]
# From an image's width and height to the scale and then the offset, in x and y each, of what lies
# in an encoder's input.
Place: TypeAlias = Callable[[tuple[int, int]], tuple[tuple[float, float], tuple[float, float]]]
PLURALS: Mapping[str, tuple[str, ...]] = {"person": ("people",), "mouse": ("mice",)}
# An object that is cut off by more than half may not be recognised for what it is.
_IN_VIEW, _LEAST_SIDE = 0.5, 1
_MEND = "unpack the annotations again"
_Rows: TypeAlias = list[dict[str, Any]]


@dataclass(frozen=True, eq=False, kw_only=True)
class CocoSplit:
    """Images with captions and annotated objects, by column.

    Attributes:
        source: the annotation file.
        folder: of the images.
        files: n file names.
        sizes: (n,2) width and height.
        captions: T texts, in the order of their images.
        speakers: (T,) image of each caption, ascending.
        owners: (A,) image of each object, ascending.
        categories: (A,) what each object is, a place in `names`.
        boxes: (A,4) x0 y0 x1 y1 in pixels of the image.
        crowds: (A,) whether an object is many in one.
        names: C categories, in the order of the file.
    """

    source: Path
    folder: Path
    files: tuple[str, ...]
    sizes: Ints
    captions: tuple[str, ...]
    speakers: Ints
    owners: Ints
    categories: Ints
    boxes: NDArray[np.float64]
    crowds: Flags
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)


@dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """How an encoder takes images in.

    Attributes:
        side: S.
        place: where an image of a width and height comes to lie (`discovery.regions.place_image`).
        prepare: from an upright RGB image to uint8 (3,S,S). Called from several threads.
        key: JSON values that say all that `prepare` depends on.
    """

    side: int
    place: Place
    prepare: Callable[[Image.Image], NDArray[np.uint8]]
    key: Mapping[str, object]


@dataclass(frozen=True, eq=False, kw_only=True)
class View:
    """What an encoder gets to see of a split.

    Attributes:
        split: the images.
        frame: how they are taken in.
        boxes: (A,4) float32, x0 y0 x1 y1 in pixels of the encoder's input, cut to it.
        marked: (A,) whether an object is a region: no crowd, half of its box or more in the input,
            and a pixel wide and high there.
        shown: (n,C) whether something of a category is in the input, be it a crowd or cut off.
        clear: (n,C) whether a category has a region.
        named: (T,C) whether a caption names a category.
    """

    split: CocoSplit
    frame: Frame
    boxes: NDArray[np.float32]
    marked: Flags
    shown: Flags
    clear: Flags
    named: Flags


def read_split(root: Path, *, split: str = "train2017") -> CocoSplit:
    """Read the captions and objects of a split of COCO 2017.

    Args:
        root: folder that holds `annotations/`, itself or in a folder `coco`.
        split: `train2017` or `val2017`.

    Raises:
        TableError: a file or the folder of images is not there, or an annotation is damaged.

    Example:
        >>> read_split(Path("nowhere"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.TableError: nowhere: has no annotations/instances_train2017.json, ...
    """
    source = find_annotations(root, split=split)
    told = source.with_name(f"captions_{split}.json")
    folder = find_images(source, split=split)
    content = _load(source, parts=("images", "annotations", "categories"))
    texts = _load(told, parts=("annotations",))["annotations"]
    try:
        images, objects = content["images"], content["annotations"]
        names = tuple(str(row["name"]) for row in content["categories"])
        known = {row["id"]: place for place, row in enumerate(content["categories"])}
        places = {row["id"]: place for place, row in enumerate(images)}
        owners = _look_up(objects, "image_id", places, source=source)
        categories = _look_up(objects, "category_id", known, source=source)
        speakers = _look_up(texts, "image_id", places, source=told)
        order, turns = (np.argsort(rows, kind="stable") for rows in (owners, speakers))
        return CocoSplit(
            source=source,
            folder=folder,
            files=tuple(str(row["file_name"]) for row in images),
            sizes=_read_sizes(images, source=source),
            captions=tuple(" ".join(texts[turn]["caption"].split()) for turn in turns),
            speakers=speakers[turns],
            owners=owners[order],
            categories=categories[order],
            boxes=_read_boxes(objects, source=source)[order],
            crowds=np.array([bool(row.get("iscrowd")) for row in objects], np.bool_)[order],
            names=names,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise TableError(
            f"is no annotation file of COCO ({type(error).__name__}: {error})",
            where=f"{source} or {told.name}",
            mend=_MEND,
        ) from error


def _load(path: Path, *, parts: Sequence[str]) -> dict[str, _Rows]:
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        return {part: list(content[part]) for part in parts}
    except FileNotFoundError as error:
        raise TableError("no such file", where=path, mend="unpack the annotations there") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        listed = ", ".join(parts)
        raise TableError(f"is no JSON file with {listed}", where=path, mend=_MEND) from error


def _look_up(rows: _Rows, key: str, known: Mapping[Hashable, int], *, source: Path) -> Ints:
    found = np.empty(len(rows), np.int64)
    for number, row in enumerate(rows):
        place = known.get(row.get(key))
        if place is None:
            raise TableError(
                f"annotation {row.get('id', number)} has the {key} {row.get(key)!r}, which the "
                "file of instances does not list",
                where=source,
                mend=_MEND,
            )
        found[number] = place
    return found


def _read_sizes(images: _Rows, *, source: Path) -> Ints:
    sizes = np.array([(row["width"], row["height"]) for row in images], np.int64).reshape(-1, 2)
    wrong = np.flatnonzero((sizes < 1).any(1))
    if len(wrong):
        name = images[int(wrong[0])]["file_name"]
        raise TableError(f"image {name} has a side below 1 pixel", where=source, mend=_MEND)
    return sizes


def _read_boxes(objects: _Rows, *, source: Path) -> NDArray[np.float64]:
    boxes = np.array([row["bbox"] for row in objects], np.float64).reshape(-1, 4)
    wrong = np.flatnonzero(~np.isfinite(boxes).all(1) | (boxes[:, 2:] < 0).any(1))
    if len(wrong):
        row = objects[int(wrong[0])]
        raise TableError(
            f"annotation {row.get('id')} has the box {row['bbox']}", where=source, mend=_MEND
        )
    return np.hstack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]])


def view_split(split: CocoSplit, frame: Frame, *, parse: Parse) -> View:
    """See a split as an encoder does, and see what its captions name.

    Args:
        split: the images.
        frame: how the encoder takes them in.
        parse: finds the categories that captions name (`methods.mitigation.captions`); it is given
            all categories at once, so that a "hot dog" is no dog.

    Example:
        >>> nothing = np.zeros(0, np.int64)
        >>> split = CocoSplit(
        ...     source=Path("a.json"), folder=Path("a"), files=("a.jpg",), sizes=np.array([[8, 4]]),
        ...     captions=("A dog.",), speakers=np.array([0]), owners=np.array([0]),
        ...     categories=np.array([0]), boxes=np.array([[2.0, 0, 6, 4]]),
        ...     crowds=np.array([False]), names=("dog",))
        >>> frame = Frame(side=4, place=lambda size: ((0.5, 1), (0, 0)), prepare=np.asarray, key={})
        >>> view = view_split(split, frame, parse=lambda texts, names: [[0] for _ in texts])
        >>> view.boxes.tolist(), view.clear.tolist(), view.named.tolist()
        ([[1.0, 0.0, 3.0, 4.0]], [[True]], [[True]])
    """
    boxes, whole, touched = _map_boxes(split, frame)
    marked = whole & ~split.crowds
    named = np.zeros((len(split.captions), len(split.names)), np.bool_)
    forms = [(name, *PLURALS.get(name, ())) for name in split.names]
    for row, found in zip(named, parse(split.captions, forms), strict=True):
        row[list(found)] = True
    return View(
        split=split,
        frame=frame,
        boxes=boxes.astype(np.float32),
        marked=marked,
        shown=_mark(split, touched),
        clear=_mark(split, marked),
        named=named,
    )


def _map_boxes(split: CocoSplit, frame: Frame) -> tuple[NDArray[np.float64], Flags, Flags]:
    """Return boxes in the input, which are in view, and which have anything there."""
    kinds, inverse = np.unique(split.sizes, axis=0, return_inverse=True)
    placed = [frame.place((width, height)) for width, height in kinds.tolist()]
    kind = inverse.ravel()[split.owners]
    scale = np.array([spread * 2 for spread, _ in placed], np.float64).reshape(-1, 4)[kind]
    offset = np.array([start * 2 for _, start in placed], np.float64).reshape(-1, 4)[kind]
    # An annotation may lie a little beyond its image.
    limit = np.tile(split.sizes[split.owners], 2)
    laid = np.clip(split.boxes, 0, limit) * scale - offset
    cut = np.clip(laid, 0, frame.side)
    sides = cut[:, 2:] - cut[:, :2]
    area, whole = sides.prod(1), (laid[:, 2:] - laid[:, :2]).prod(1)
    touched = area > 0
    in_view = touched & (area >= _IN_VIEW * whole) & (sides.min(1) >= _LEAST_SIDE)
    return cut, in_view, touched


def _mark(split: CocoSplit, chosen: Flags) -> Flags:
    marks = np.zeros((len(split), len(split.names)), np.bool_)
    marks[split.owners[chosen], split.categories[chosen]] = True
    return marks
