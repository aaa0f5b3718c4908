"""Foregrounds: objects with their masks, from cut-outs, masks, boxes or COCO annotations.

A foreground comes out as an RGBA image, cropped to the box of its mask. Its colours mean something
everywhere, beneath transparent pixels too, since a softened mask lets a little of what lies around
the object through: where there is a photograph these are its true surroundings, where there is only
a cut-out the nearest colour of the object goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from fieldmark.core.atomic import hash_json
from fieldmark.core.errors import InputError, MaskError, TableError
from fieldmark.data.coco import Segmentation, draw_segmentation, read_instances
from fieldmark.data.columns import (
    Columns,
    check_unique,
    encode_labels,
    read_columns,
    relative_names,
    resolve_paths,
)
from fieldmark.data.images import hash_image, list_images, read_cutout, read_grey, read_image
from fieldmark.data.masks import THRESHOLD, Degradation, Mask, degrade_mask, empty_mask, find_box


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What sets an object apart from its image; all None means the image's own alpha.

    Attributes:
        mask: a greyscale image of the same size, the object above 100.
        box: x, y, width, height in pixels.
        segmentation: COCO polygons or run lengths.
    """

    mask: Path | None = None
    box: tuple[float, float, float, float] | None = None
    segmentation: Segmentation | None = None

    @property
    def is_alpha(self) -> bool:
        """Whether the image is a cut-out, without surroundings."""
        return self.mask is None and self.box is None and self.segmentation is None


@dataclass(frozen=True, eq=False, kw_only=True)
class Foregrounds:
    """Objects to paste, by column.

    Attributes:
        name: of the pool, for records.
        root: folder that every path lies in.
        ids: n unique ids; what a table of composites has in its column `object`.
        paths: n absolute paths of images.
        outlines: what sets each object apart.
        labels: (n,) index into `classes`.
        classes: class names.
        degrade: how masks are spoilt (BAP appendix I.2).
    """

    name: str
    root: Path
    ids: tuple[str, ...]
    paths: tuple[Path, ...]
    outlines: tuple[Outline, ...] = field(repr=False)
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    degrade: Degradation = "none"

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, index: int) -> Image.Image:
        """Read object `index` as RGBA, cropped to the box of its mask.

        Raises:
            ImageError: the image cannot be read.
            MaskError: the mask is missing, empty, all zero or of another size, or has no
                surroundings to degrade.
        """
        path, outline = self.paths[index], self.outlines[index]
        try:
            if outline.is_alpha:
                return _cut_alpha(path, degrade=self.degrade)
            image = read_image(path)
            mask = degrade_mask(_draw_outline(outline, image=image), self.degrade)
            box = find_box(mask)
        except MaskError as error:
            raise MaskError(
                error.problem, where=outline.mask or f"{path} ({self.ids[index]})", mend=error.mend
            ) from error
        image.putalpha(Image.fromarray(mask))
        return image.crop(box)

    def hashes(self) -> tuple[str, ...]:
        """Return a SHA-256 of each object's image, outline and degradation."""
        return tuple(
            hash_json(
                [
                    hash_image(path),
                    outline.mask and hash_image(outline.mask),
                    outline.box,
                    outline.segmentation,
                    self.degrade,
                ]
            )
            for path, outline in zip(self.paths, self.outlines, strict=True)
        )

    def take(self, indices: Sequence[int] | NDArray[np.int64]) -> Foregrounds:
        """Return the objects of `indices`, in that order, with the same classes."""
        rows = np.asarray(indices, np.int64)
        return replace(
            self,
            ids=tuple(self.ids[row] for row in rows),
            paths=tuple(self.paths[row] for row in rows),
            outlines=tuple(self.outlines[row] for row in rows),
            labels=self.labels[rows],
        )

    def with_degradation(self, degrade: Degradation) -> Foregrounds:
        """Return the same objects with their masks spoilt: none, dilated, eroded or box."""
        return replace(self, degrade=degrade)


def require_per_class(foregrounds: Foregrounds, minimum: int = 2) -> None:
    """Check that every class has enough objects to draw from, class by class.

    Raises:
        InputError: the classes that have fewer than `minimum`, by name.
    """
    counts = np.bincount(foregrounds.labels, minlength=len(foregrounds.classes))
    short = [
        f"{name} has {count}"
        for name, count in zip(foregrounds.classes, counts, strict=True)
        if count < minimum
    ]
    if short:
        raise InputError(
            f"a class needs at least {minimum} foregrounds: {', '.join(short)}",
            where=foregrounds.name,
            mend="add foregrounds of it or leave the class out",
        )


def read_foregrounds(
    source: Path,
    *,
    root: Path | None = None,
    classes: Sequence[str] | None = None,
    degrade: Degradation = "none",
    min_box: float = 0,
) -> Foregrounds:
    """Read foregrounds from a table, a folder of folders, or a COCO instances file.

    A table has the columns `path` and `label` and, if it has them, `id`, `mask` (a greyscale image
    of the same size) and `box` ("x,y,width,height" in pixels). A row with neither takes the alpha
    of its image. A folder that holds a `foregrounds.csv` stands for that. In a folder of folders
    the class is the first folder's name.

    Args:
        source: the table, the folder or the JSON file.
        root: folder that the paths are relative to; the table's own folder by default. For COCO the
            image folder.
        classes: the class names in order; for COCO the categories to keep.
        degrade: how masks are spoilt (BAP appendix I.2).
        min_box: COCO only: least width and height of an object's box in pixels.

    Raises:
        TableError: what is off, with file and row.
        MissingExtraError: Parquet without pyarrow.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cutout = Image.new("RGBA", (9, 9))
        ...     cutout.paste((255, 0, 0, 255), (2, 3, 6, 5))
        ...     (Path(folder) / "bird").mkdir()
        ...     cutout.save(Path(folder) / "bird" / "a.png")
        ...     foregrounds = read_foregrounds(Path(folder))
        ...     foregrounds.ids, foregrounds.read(0).size
        (('bird/a.png',), (4, 2))
    """
    if source.is_dir() and (source / "foregrounds.csv").is_file():
        source = source / "foregrounds.csv"
    if source.is_dir():
        return _read_folder(source, classes=classes, degrade=degrade)
    if source.suffix.lower() == ".json":
        return _read_coco(source, root=root, classes=classes, degrade=degrade, min_box=min_box)
    return _read_rows(
        read_columns(source), root=root or source.parent, classes=classes, degrade=degrade
    )


def _read_rows(
    columns: Columns, *, root: Path, classes: Sequence[str] | None, degrade: Degradation
) -> Foregrounds:
    labels = encode_labels(columns, columns.require("label", "y"), classes=classes)
    paths = resolve_paths(columns, columns.require("path", "filepath", "img_filename"), root=root)
    ids = columns.find("id", "img_id", "image_id") or relative_names(paths, root=root)
    return Foregrounds(
        name=columns.source.stem,
        root=root.resolve(),
        ids=check_unique(columns, ids),
        paths=paths,
        outlines=_read_outlines(columns, root=root),
        labels=labels.codes,
        classes=labels.names,
        degrade=degrade,
    )


def _read_outlines(columns: Columns, *, root: Path) -> tuple[Outline, ...]:
    count = len(columns.rows)
    masks = columns.find("mask") or ("",) * count
    boxes = columns.find("box", "bbox") or ("",) * count
    present = [index for index, name in enumerate(masks) if name]
    part = Columns(columns.source, {}, [columns.rows[index] for index in present])
    files = resolve_paths(part, [masks[index] for index in present], root=root)
    path = dict(zip(present, files, strict=True))
    return tuple(
        Outline(mask=path.get(index), box=_parse_box(box, where=columns.where(index)))
        for index, box in enumerate(boxes)
    )


def _parse_box(text: str, *, where: str) -> tuple[float, float, float, float] | None:
    if not text:
        return None
    try:
        x, y, width, height = (float(part) for part in text.strip("[]()").split(","))
    except ValueError:
        x = y = width = height = float("nan")
    if not (width > 0 and height > 0 and np.isfinite([x, y, width, height]).all()):
        raise TableError(
            f"{text!r} is not a box", where=where, mend="write it as x,y,width,height in pixels"
        )
    return x, y, width, height


def _read_folder(
    folder: Path, *, classes: Sequence[str] | None, degrade: Degradation
) -> Foregrounds:
    paths = list_images(folder.resolve())
    names = relative_names(paths, root=folder)
    columns = Columns(folder, {}, range(1, len(names) + 1))
    loose = next((name for name in names if "/" not in name), None)
    if loose or not names:
        raise TableError(
            f"the image {loose} is in no class folder" if loose else "has no image",
            where=folder,
            mend="give it one folder a class, images inside",
        )
    labels = encode_labels(columns, [name.split("/")[0] for name in names], classes=classes)
    return Foregrounds(
        name=folder.resolve().name,
        root=folder.resolve(),
        ids=tuple(names),
        paths=resolve_paths(columns, names, root=folder),
        outlines=(Outline(),) * len(names),
        labels=labels.codes,
        classes=labels.names,
        degrade=degrade,
    )


def _read_coco(
    source: Path,
    *,
    root: Path | None,
    classes: Sequence[str] | None,
    degrade: Degradation,
    min_box: float,
) -> Foregrounds:
    instances = read_instances(source, classes=classes, min_box=min_box)
    folder = root or source.parent
    columns = Columns(source, {}, [f"of object {name}" for name in instances.ids])
    return Foregrounds(
        name=source.stem,
        root=folder.resolve(),
        ids=instances.ids,
        paths=resolve_paths(columns, instances.files, root=folder),
        outlines=tuple(Outline(segmentation=s) for s in instances.segmentations),
        labels=instances.labels,
        classes=instances.classes,
        degrade=degrade,
    )


def _draw_outline(outline: Outline, *, image: Image.Image) -> Mask:
    size = (image.height, image.width)
    if outline.mask is not None:
        mask = np.asarray(read_grey(outline.mask))
        if mask.shape != size:
            raise MaskError(
                f"the mask is {mask.shape[1]} x {mask.shape[0]}, the image {size[1]} x {size[0]}",
                mend="use the mask that was made for this image",
            )
        return mask
    if outline.segmentation is not None:
        return draw_segmentation(outline.segmentation, size=size)
    assert outline.box is not None
    x, y, width, height = outline.box
    mask = np.zeros(size, np.uint8)
    mask[
        max(0, round(y)) : max(0, round(y + height)), max(0, round(x)) : max(0, round(x + width))
    ] = 255
    return mask


def _cut_alpha(path: Path, *, degrade: Degradation) -> Image.Image:
    if degrade in ("dilated", "box"):
        raise MaskError(
            f"a cut-out has no surroundings, so its mask cannot be {degrade}",
            mend="give photographs with masks, or use none or eroded",
        )
    cutout = read_cutout(path)
    alpha = np.asarray(cutout.getchannel("A"))
    if not (alpha > THRESHOLD).any():
        raise empty_mask(alpha)
    if alpha.min() == 255:
        raise MaskError(
            "the image has no transparent pixel, so nothing sets the object apart",
            mend="give a cut-out, or a mask or a box in the table",
        )
    mask = degrade_mask(alpha, degrade)
    box = find_box(mask)
    filled = extend_colours(cutout.crop(box))
    filled.putalpha(Image.fromarray(mask).crop(box))
    return filled


def extend_colours(cutout: Image.Image) -> Image.Image:
    """Give every pixel outside the object (alpha up to 100) the nearest colour inside it.

    What a cut-out stores beneath its transparent pixels is arbitrary, often black.

    Example:
        >>> cutout = Image.new("RGBA", (3, 1))
        >>> cutout.putpixel((1, 0), (7, 8, 9, 255))
        >>> extend_colours(cutout).getpixel((0, 0))
        (7, 8, 9, 0)
    """
    pixels = np.array(cutout)
    outside = pixels[..., 3] <= THRESHOLD
    if outside.all():
        return cutout.copy()
    rows, columns = ndimage.distance_transform_edt(
        outside, return_distances=False, return_indices=True
    )
    pixels[..., :3] = pixels[rows, columns, :3]
    return Image.fromarray(pixels)
