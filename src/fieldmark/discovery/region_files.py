"""Read regions of an image table from a table of boxes or from a COCO file.

Their boxes are in pixels of the image files, upright. What each box shows is kept as its name, so
that a discovery can be measured against it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldmark.core.errors import TableError
from fieldmark.core.json_text import parse_json
from fieldmark.data.coco import UNFIT
from fieldmark.data.columns import Columns, read_columns, relative_names
from fieldmark.data.tables import ImageTable
from fieldmark.discovery.regions import Regions, box_fits, collect_regions, map_boxes
from fieldmark.models.encoder import EncoderSpec


def read_region_table(
    source: Path, images: ImageTable, *, spec: EncoderSpec, least: float = 1
) -> Regions:
    """Read boxes from a CSV, TSV or Parquet file.

    Args:
        source: its columns are `image` (an id, a path under the table's root, or a file name that
            no two images share), `x0`, `y0`, `x1`, `y1`, and `name` where it is known what the
            box shows. Rows of other images are passed over.
        images: the images to have regions of.
        spec: of the encoder that the regions are for.
        least: a box with less width or height than this in the encoder's input is left out and
            counted.

    Raises:
        TableError: a column is missing, a number is none, or a box has no area or leaves its
            image; file and row are named.
        InputError: no box is left.
        ImageError: an image cannot be read.
    """
    columns = read_columns(source)
    owners = columns.require("image", "image_id", "filename", "path")
    named = columns.find("name", "label", "category")
    index = _index_images(images)
    rows = [row for row, name in enumerate(owners) if name in index]
    boxes = _read_numbers(columns, rows)
    found: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        found.setdefault(index[owners[row]], []).append(place)
    names = None if named is None else [named[row] for row in rows]

    def complain(place: int, size: tuple[int, int]) -> None:
        corners = ", ".join(f"{value:g}" for value in boxes[place].tolist())
        raise TableError(
            f"box ({corners}) is empty or not inside {size[0]} x {size[1]}",
            where=columns.where(rows[place]),
            mend="give x0 < x1 and y0 < y1 in pixels of the image",
        )

    sizes = {image: images.read(image).size for image in found}
    for image, places in found.items():
        for place, fits in zip(places, box_fits(boxes[places], size=sizes[image]), strict=True):
            if not fits:
                complain(place, sizes[image])
    return _map_all(
        found, boxes, sizes=sizes, names=names, images=images, spec=spec, least=least, source=source
    )


def read_coco_regions(
    source: Path,
    images: ImageTable,
    *,
    spec: EncoderSpec,
    classes: Iterable[str] | None = None,
    least: float = 1,
) -> Regions:
    """Read the boxes of a COCO `instances_*.json`, named by category; crowds are left out.

    Args:
        source: the annotation file.
        images: the images to have regions of, matched by file name.
        spec: of the encoder that the regions are for.
        classes: categories to keep; all by default.
        least: a box with less width or height than this in the encoder's input is left out and
            counted, so are the few boxes without area that COCO itself has.

    Raises:
        TableError: not such a file, or an unknown category.
        InputError: no box is left.
    """
    content = _load(source)
    try:
        return _gather(content, images, spec=spec, classes=classes, least=least, source=source)
    except UNFIT as error:
        raise _no_instances(source, error) from error


def _gather(
    content: Mapping[str, Any],
    images: ImageTable,
    *,
    spec: EncoderSpec,
    classes: Iterable[str] | None,
    least: float,
    source: Path,
) -> Regions:
    categories = {row["id"]: str(row["name"]) for row in content["categories"]}
    kept = set(categories.values()) if classes is None else set(classes)
    if unknown := sorted(kept - set(categories.values())):
        raise TableError(
            f"has no category {unknown[0]!r}",
            where=source,
            mend=f"choose among {', '.join(sorted(categories.values()))}",
        )
    index = _index_images(images)
    files = {row["id"]: row for row in content["images"] if _find(row, index) is not None}
    rows = [
        row
        for row in content["annotations"]
        if not row.get("iscrowd")
        and row["image_id"] in files
        and categories.get(row["category_id"]) in kept
    ]
    boxes = np.array([row["bbox"] for row in rows], np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    if not np.isfinite(boxes).all():
        raise ValueError("a box has a side that is no number")
    found: dict[int, list[int]] = {}
    sizes: dict[int, tuple[int, int]] = {}
    for place, row in enumerate(rows):
        file = files[row["image_id"]]
        image = _find(file, index)
        assert image is not None
        found.setdefault(image, []).append(place)
        sizes[image] = int(file["width"]), int(file["height"])
        if min(sizes[image]) < 1:
            raise ValueError(f"the image {file['file_name']} has no pixel")
    names = [categories[row["category_id"]] for row in rows]
    return _map_all(
        found, boxes, sizes=sizes, names=names, images=images, spec=spec, least=least, source=source
    )


def _map_all(
    found: Mapping[int, list[int]],
    boxes: NDArray[np.float64],
    *,
    sizes: Mapping[int, tuple[int, int]],
    names: list[str] | None,
    images: ImageTable,
    spec: EncoderSpec,
    least: float,
    source: Path,
) -> Regions:
    owners: list[int] = []
    mapped = [np.zeros((0, 4), np.float32)]
    shown: list[str] = []
    for image, places in found.items():
        box, kept = map_boxes(boxes[places], size=sizes[image], spec=spec, least=least)
        mapped.append(box[kept])
        owners += [image] * int(kept.sum())
        if names is not None:
            shown += [names[place] for place, good in zip(places, kept, strict=True) if good]
    return collect_regions(
        owners,
        np.concatenate(mapped),
        count=len(images),
        side=spec.image_size,
        source=str(source),
        names=None if names is None else shown,
        lost=len(boxes) - len(owners),
    )


def _index_images(images: ImageTable) -> dict[str, int]:
    """Return the row of each image by id, by path under the root, and by file name if unique."""
    shared = Counter(path.name for path in images.paths)
    index = {path.name: i for i, path in enumerate(images.paths) if shared[path.name] == 1}
    index |= {name: i for i, name in enumerate(relative_names(images.paths, root=images.root))}
    return index | {name: i for i, name in enumerate(images.ids)}


def _find(file: Mapping[str, Any], index: Mapping[str, int]) -> int | None:
    name = str(file["file_name"])
    return index.get(name, index.get(Path(name).name))


def _read_numbers(columns: Columns, rows: list[int]) -> NDArray[np.float64]:
    corners = [columns.require(name) for name in ("x0", "y0", "x1", "y1")]
    boxes = np.empty((len(rows), 4))
    for place, row in enumerate(rows):
        try:
            boxes[place] = [float(column[row]) for column in corners]
        except ValueError as error:
            raise TableError(
                "has a corner that is no number",
                where=columns.where(row),
                mend="give x0, y0, x1 and y1 in pixels",
            ) from error
    return boxes


def _load(source: Path) -> dict[str, Any]:
    try:
        content = parse_json(source.read_text(encoding="utf-8"))
        for part, fields in _FIELDS.items():
            for row in content[part]:
                missing = [name for name in fields if name not in row]
                if missing:
                    raise KeyError(missing[0])
    except FileNotFoundError as error:
        raise TableError("no such file", where=source, mend="mend the path") from error
    except (OSError, *UNFIT) as error:
        raise _no_instances(source, error) from error
    return dict(content)


def _no_instances(source: Path, error: Exception) -> TableError:
    return TableError(
        f"is not a COCO instances file ({type(error).__name__}: {str(error)[:120]})",
        where=source,
        mend="give a JSON file with images, annotations with boxes, and categories",
    )


_FIELDS = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}
