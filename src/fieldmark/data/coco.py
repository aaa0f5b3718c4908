"""Instances of a COCO annotation file, and the rasterising of their polygons and run lengths.

Runs go down the columns and start with the zero run. A run-length string is the same counts, five
bits a character from "0" on, each count from the fourth on as the difference to the count two
before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fieldmark.core.errors import MaskError, TableError
from fieldmark.data.masks import Mask

Segmentation: TypeAlias = list[list[float]] | dict[str, Any]


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
        files=tuple(images[row["image_id"]]["file_name"] for row in kept),
        sizes=np.array([[images[r["image_id"]][k] for k in ("height", "width")] for r in kept]),
        labels=np.array([number[categories[row["category_id"]]] for row in kept], np.int64),
        classes=names,
        segmentations=tuple(row["segmentation"] for row in kept),
    )


def _load(source: Path) -> dict[str, Any]:
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
        for part in ("images", "annotations", "categories"):
            if not isinstance(content[part], list):
                raise TypeError(part)
    except FileNotFoundError as error:
        raise TableError("no such file", where=source, mend="mend the path") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TableError(
            "is not a COCO instances file",
            where=source,
            mend="give a JSON file with images, annotations and categories",
        ) from error
    return dict(content)


def draw_segmentation(segmentation: Segmentation, *, size: tuple[int, int]) -> Mask:
    """Rasterise a segmentation.

    Args:
        segmentation: polygons (flat lists x0 y0 x1 y1 ..., drawn as their union), or a dict of
            `counts`, as numbers or as a string, and `size`.
        size: height and width of the image.

    Returns:
        uint8 (H,W), 0 or 255.

    Raises:
        MaskError: run lengths of another size, or that do not add up.
    """
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
    runs = np.asarray(counts, np.int64)
    if runs.ndim != 1 or (runs < 0).any() or int(runs.sum()) != size[0] * size[1]:
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
