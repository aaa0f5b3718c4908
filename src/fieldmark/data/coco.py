"""Instances of a COCO annotation file, and the rasterising of their polygons and run lengths.

Runs go down the columns and start with the zero run. A run-length string is the same counts, five
bits a character from "0" on, each count from the fourth on as the difference to the count two
before.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fieldmark.core.errors import MaskError, TableError
from fieldmark.core.json_text import parse_json
from fieldmark.data.masks import Mask

Segmentation: TypeAlias = list[list[float]] | dict[str, Any]

# What a value of another kind than it should be runs into.
UNFIT = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError)
# A point farther out than this is no point of any image.
FARTHEST = 1e6
# Five bits a character: a count beyond this is no count of pixels.
_LONGEST_SHIFT = 60


@dataclass(frozen=True, eq=False)
class Instances:
    """Objects of a COCO file, by column; crowds are left out.

    Attributes:
        ids: annotation ids, as strings.
        files: file name of each object's image.
        sizes: (n,2) height and width of that image.
        labels: (n,) index into `classes`.
        classes: category names, in the order of the file.
        segmentations: polygons or run lengths as they are in the file.
    """

    ids: tuple[str, ...]
    files: tuple[str, ...]
    sizes: NDArray[np.int64]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    segmentations: tuple[Segmentation, ...]


def read_instances(
    source: Path, *, classes: Sequence[str] | None = None, min_box: float = 0
) -> Instances:
    """Read `instances_*.json`.

    Args:
        source: the annotation file.
        classes: categories to keep, in order; all by default.
        min_box: least width and height of an object's box in pixels (BAP uses 28 for vehicles and
            112 for people).

    Raises:
        TableError: not such a file, an unknown category, or no object left.
    """
    content = _load(source)
    try:
        return _gather(content, classes=classes, min_box=min_box, source=source)
    except UNFIT as error:
        raise _no_instances(source, error) from error


def _gather(
    content: Mapping[str, Any], *, classes: Sequence[str] | None, min_box: float, source: Path
) -> Instances:
    categories = {row["id"]: str(row["name"]) for row in content["categories"]}
    names = tuple(classes) if classes is not None else tuple(dict.fromkeys(categories.values()))
    unknown = sorted(set(names) - set(categories.values()))
    if unknown:
        raise TableError(
            f"has no category {unknown[0]!r}",
            where=source,
            mend=f"choose among {', '.join(sorted(categories.values()))}",
        )
    number = {name: index for index, name in enumerate(names)}
    images = {row["id"]: row for row in content["images"]}
    kept = [
        row
        for row in content["annotations"]
        if not row.get("iscrowd")
        and categories.get(row["category_id"]) in number
        and row["image_id"] in images
        and min(row["bbox"][2:]) >= min_box
    ]
    if not kept:
        raise TableError(
            "has no object that fits", where=source, mend="lower the least box or add categories"
        )
    return Instances(
        ids=tuple(str(row["id"]) for row in kept),
        files=tuple(str(images[row["image_id"]]["file_name"]) for row in kept),
        sizes=np.array(
            [[images[r["image_id"]][k] for k in ("height", "width")] for r in kept], np.int64
        ),
        labels=np.array([number[categories[row["category_id"]]] for row in kept], np.int64),
        classes=names,
        segmentations=tuple(row["segmentation"] for row in kept),
    )


def _load(source: Path) -> dict[str, Any]:
    try:
        content = parse_json(source.read_text(encoding="utf-8"))
        for part in ("images", "annotations", "categories"):
            _check_rows(content[part], part=part)
    except FileNotFoundError as error:
        raise TableError("no such file", where=source, mend="mend the path") from error
    except (OSError, *UNFIT) as error:
        raise _no_instances(source, error) from error
    return dict(content)


def _check_rows(rows: object, *, part: str) -> None:
    if not isinstance(rows, list):
        raise TypeError(f"{part} is no list")
    wrong = next((number for number, row in enumerate(rows) if not isinstance(row, dict)), None)
    if wrong is not None:
        raise TypeError(f"{part}[{wrong}] is no object")


def _no_instances(source: Path, error: Exception) -> TableError:
    reason = f"{type(error).__name__}: {str(error)[:120]}"
    return TableError(
        f"is not a COCO instances file ({reason})",
        where=source,
        mend="give a JSON file with images, annotations and categories",
    )


def draw_segmentation(segmentation: Segmentation, *, size: tuple[int, int]) -> Mask:
    """Rasterise a segmentation.

    Args:
        segmentation: polygons (flat lists x0 y0 x1 y1 ..., drawn as their union), or a dict of
            `counts`, as numbers or as a string, and `size`.
        size: height and width of the image.

    Returns:
        uint8 (H,W), 0 or 255.

    Raises:
        MaskError: run lengths of another size, or that do not add up, or something else.
    """
    try:
        return _draw(segmentation, size=size)
    except UNFIT as error:
        raise MaskError(
            f"the segmentation is neither polygons nor run lengths ({str(error)[:120]})",
            mend="export the mask again",
        ) from error


def _draw(segmentation: Segmentation, *, size: tuple[int, int]) -> Mask:
    if isinstance(segmentation, Mapping):
        height, width = (int(side) for side in segmentation["size"])
        if (height, width) != size:
            raise MaskError(
                f"the mask is {width} x {height}, the image {size[1]} x {size[0]}",
                mend="use the masks that were made for this image",
            )
        counts = segmentation["counts"]
        return decode_runs(parse_runs(counts) if isinstance(counts, str) else counts, size=size)
    canvas = Image.new("L", (size[1], size[0]))
    brush = ImageDraw.Draw(canvas)
    for polygon in segmentation:
        if not all(math.isfinite(value) and abs(value) <= FARTHEST for value in polygon):
            raise MaskError("a polygon has a point that is in no image", mend="draw it again")
        if len(polygon) >= 6:
            # COCO counts from the corner of a pixel, Pillow from its centre.
            brush.polygon([value - 0.5 for value in polygon], fill=255)
    return np.array(canvas)


def decode_runs(counts: Sequence[int], *, size: tuple[int, int]) -> Mask:
    """Turn run lengths into a mask, 0 or 255.

    Raises:
        MaskError: the runs do not add up to the size.

    Example:
        >>> decode_runs([1, 2, 1], size=(2, 2)).tolist()
        [[0, 255], [255, 0]]
    """
    total = size[0] * size[1]
    try:
        runs = np.asarray(counts)
    except (ValueError, OverflowError):
        runs = np.zeros((0, 0))
    whole = runs.ndim == 1 and runs.dtype.kind in "iu"
    # Each run by itself first: a sum of huge ones may wrap around to the right one.
    if not whole or (runs < 0).any() or (runs > total).any() or int(runs.sum()) != total:
        raise MaskError(
            f"the runs do not add up to {size[1]} x {size[0]} pixels", mend="export the mask again"
        )
    value = np.where(np.arange(runs.size) % 2 == 1, np.uint8(255), np.uint8(0))
    return np.ascontiguousarray(np.repeat(value, runs).reshape(size[1], size[0]).T)


def encode_runs(mask: Mask) -> list[int]:
    """Turn a mask into run lengths; above 0 is the object.

    Example:
        >>> encode_runs(np.array([[0, 255], [255, 0]], np.uint8))
        [1, 2, 1]
    """
    flat = np.concatenate([[False], (mask > 0).T.ravel()])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    return [int(run) for run in np.diff(np.concatenate([[0], edges, [mask.size]]))]


def parse_runs(text: str) -> list[int]:
    """Decode a compressed run-length string into counts.

    Raises:
        MaskError: the string breaks off or holds a character that cannot be.

    Example:
        >>> parse_runs("121")
        [1, 2, 1]
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64:
            raise MaskError("the run-length string is damaged", mend="export the mask again")
        if shift > _LONGEST_SHIFT:
            raise MaskError("the run-length string is damaged", mend="export the mask again")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    if shift:
        raise MaskError("the run-length string breaks off", mend="export the mask again")
    return counts
