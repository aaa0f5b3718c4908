"""Cut images into regions: grids, boxes from a table or a COCO file, or a user's function.

Boxes are kept as the encoder sees them, in pixels of its square input. Boxes that come in pixels of
the image file go through the encoder's own resizing and cropping, and what the crop cuts off is
counted.

Shape letters: n images, R regions, S the side of the encoder's input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from fieldmark.core.errors import InputError, UnsupportedEncoderError
from fieldmark.models.embed import Images
from fieldmark.models.encoder import EncoderSpec

Propose = Callable[[Image.Image], ArrayLike]


@dataclass(frozen=True, eq=False, kw_only=True)
class Regions:
    """Regions of n images, by column, in the order of their images.

    Attributes:
        images: (R,) int64, the image of each region, ascending.
        boxes: (R,4) float32, x0 y0 x1 y1 in pixels of the encoder's input.
        count: n, images without a region among them.
        side: S, the side of the encoder's input that the boxes lie in.
        source: what made them, for records.
        names: R names of what each region shows, or None where that is not known.
        lost: boxes of the source that the encoder's crop leaves nothing of.
    """

    images: NDArray[np.int64]
    boxes: NDArray[np.float32]
    count: int
    side: int
    source: str
    names: tuple[str, ...] | None = None
    lost: int = 0

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Regions:
        """Return the regions of `rows`, which must be ascending, over the same images."""
        chosen = np.asarray(rows, np.int64)
        names = None if self.names is None else tuple(self.names[row] for row in chosen)
        return replace(self, images=self.images[chosen], boxes=self.boxes[chosen], names=names)


class Placement(NamedTuple):
    """Where an image file comes to lie in the encoder's input.

    Attributes:
        scale: factors of width and height.
        offset: pixels from the left and the top of the resized image to those of the input.
    """

    scale: tuple[float, float]
    offset: tuple[int, int]


def collect_regions(
    images: ArrayLike,
    boxes: ArrayLike,
    *,
    count: int,
    side: int,
    source: str,
    names: Sequence[str] | None = None,
    lost: int = 0,
) -> Regions:
    """Put boxes into the order of their images and check them.

    Args:
        images: (R,) image of each box, 0 to `count` - 1.
        boxes: (R,4) x0 y0 x1 y1 in pixels of the encoder's input.
        count: n.
        side: S.
        source: what made the boxes, for messages and records.
        names: R names of what each box shows.
        lost: boxes that were left out before.

    Raises:
        InputError: no box, a box without area or outside of the input, or of no such image.

    Example:
        >>> regions = collect_regions([1, 0], [[0, 0, 4, 4], [2, 2, 8, 8]],
        ...                           count=2, side=8, source="by hand")
        >>> regions.images.tolist(), regions.boxes[0].tolist()
        ([0, 1], [2.0, 2.0, 8.0, 8.0])
    """
    image = np.asarray(images, np.int64).reshape(-1)
    box = np.asarray(boxes, np.float32).reshape(-1, 4)
    if not len(image):
        cut = f" ({lost} lie outside of what the encoder sees)" if lost else ""
        raise InputError(f"no region in {count} images{cut}", where=source, mend="give some boxes")
    if len(image) != len(box) or (names is not None and len(names) != len(box)):
        raise InputError(
            f"{len(box)} boxes, {len(image)} images and {len(names or box)} names differ in number",
            where=source,
        )
    x0, y0, x1, y1 = box.T
    good = (x0 >= 0) & (x0 < x1) & (x1 <= side) & (y0 >= 0) & (y0 < y1) & (y1 <= side)
    good &= (image >= 0) & (image < count)
    if not good.all():
        first = int(np.flatnonzero(~good)[0])
        raise InputError(
            f"box {first} of image {image[first]} ({_write(box[first])}) is empty or not inside "
            f"{side} x {side}",
            where=source,
            mend="give x0 < x1 and y0 < y1 in pixels of the encoder's input",
        )
    order = np.argsort(image, kind="stable")
    return Regions(
        images=image[order],
        boxes=box[order],
        count=count,
        side=side,
        source=source,
        names=None if names is None else tuple(names[row] for row in order),
        lost=lost,
    )


def cut_grid(count: int, *, side: int, rows: int, columns: int) -> Regions:
    """Cut every image into `rows` x `columns` boxes of whole pixels, row by row.

    Args:
        count: n images.
        side: S.
        rows: from 1 to S.
        columns: from 1 to S.

    Raises:
        InputError: more rows or columns than pixels, or no image.

    Example:
        >>> cut_grid(1, side=8, rows=1, columns=2).boxes.tolist()
        [[0.0, 0.0, 4.0, 8.0], [4.0, 0.0, 8.0, 8.0]]
    """
    return _repeat(
        _lay_grid(side, rows=rows, columns=columns),
        count,
        side=side,
        source=f"grid {rows} x {columns}",
    )


def cut_quadrants(count: int, *, side: int) -> Regions:
    """Cut every image into its four quadrants, as RaVL does for digits (appendix B).

    Example:
        >>> len(cut_quadrants(3, side=8))
        12
    """
    return replace(cut_grid(count, side=side, rows=2, columns=2), source="quadrants")


def cut_scales(count: int, *, side: int, scales: Sequence[int] = (1, 2, 3)) -> Regions:
    """Cut every image into a grid of k x k for each k of `scales`.

    Args:
        count: n images.
        side: S.
        scales: 1 is the whole image.

    Raises:
        InputError: no scale, one above S, or no image.

    Example:
        >>> len(cut_scales(2, side=8, scales=(1, 2)))
        10
    """
    grids = [np.zeros((0, 4), np.float32), *(_lay_grid(side, rows=k, columns=k) for k in scales)]
    name = "grids " + ", ".join(f"{k} x {k}" for k in scales)
    return _repeat(np.concatenate(grids), count, side=side, source=name)


def propose_regions(
    images: Images, propose: Propose, *, spec: EncoderSpec, source: str, least: float = 1
) -> Regions:
    """Ask a function for the boxes of each image.

    Args:
        images: n images; one is held at a time.
        propose: from an upright RGB image to (r,4) x0 y0 x1 y1 in its own pixels, r 0 or more.
        spec: of the encoder that the regions are for.
        source: name of the function, for messages and records.
        least: a box with less width or height than this in the input is left out and counted.

    Raises:
        InputError: what the function gives is no (r,4), has no area or leaves the image; or there
            is no region at all.
        ImageError: an image cannot be read.
        UnsupportedEncoderError: the encoder takes images of many shapes (NaFlex).

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> class Pictures:
        ...     def __len__(self): return 1
        ...     def read(self, index, /): return Image.new("RGB", (32, 16))
        ...     def hashes(self): return ("a",)
        >>> halves = lambda image: [[0, 0, 16, 16], [16, 0, 32, 16]]
        >>> spec = FakeEncoder().spec
        >>> propose_regions(Pictures(), halves, spec=spec, source="halves").boxes.tolist()
        [[0.0, 0.0, 4.0, 8.0], [4.0, 0.0, 8.0, 8.0]]
    """
    owners, found, lost = [np.zeros(0, np.int64)], [np.zeros((0, 4), np.float32)], 0
    for index in range(len(images)):
        image = images.read(index)
        boxes = _check_proposals(propose(image), source=f"{source}, image {index}")
        fits = box_fits(boxes, size=image.size)
        if not fits.all():
            first = boxes[int(np.flatnonzero(~fits)[0])]
            raise InputError(
                f"box ({_write(first)}) is empty or not inside {image.width} x {image.height}",
                where=f"{source}, image {index}",
                mend="give x0 < x1 and y0 < y1 in pixels of the image",
            )
        mapped, kept = map_boxes(boxes, size=image.size, spec=spec, least=least)
        found.append(mapped[kept])
        owners.append(np.full(int(kept.sum()), index))
        lost += int((~kept).sum())
    return collect_regions(
        np.concatenate(owners),
        np.concatenate(found),
        count=len(images),
        side=spec.image_size,
        source=source,
        lost=lost,
    )


def box_fits(boxes: NDArray[np.float64], *, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Tell of each box (r,4) whether it has an area and lies in an image of width and height.

    One pixel beyond the edge is let pass, since annotation tools round.

    Example:
        >>> box_fits(np.array([[0, 0, 9, 5], [3, 3, 3, 4], [0, 0, 12, 4]]), size=(8, 8)).tolist()
        [True, False, False]
    """
    x0, y0, x1, y1 = np.asarray(boxes, np.float64).reshape(-1, 4).T
    width, height = size
    inside = (x0 >= -1) & (y0 >= -1) & (x1 <= width + 1) & (y1 <= height + 1)
    return np.asarray(inside & (x0 < x1) & (y0 < y1))


def place_image(size: tuple[int, int], *, spec: EncoderSpec) -> Placement:
    """Tell where an image file comes to lie in the encoder's input (`models.preprocess`).

    Args:
        size: width and height of the upright image.
        spec: gives `image_size` and `resize`.

    Raises:
        UnsupportedEncoderError: `resize` is `naflex`, which has no one input size.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> place_image((16, 32), spec=replace(FakeEncoder().spec, resize="shortest"))
        Placement(scale=(0.5, 0.5), offset=(0, 4))
    """
    side, (width, height) = spec.image_size, size
    if spec.resize == "naflex":
        raise UnsupportedEncoderError(
            "its input has the shape of each image, so regions have no one frame",
            where=spec.uri,
            mend="use a checkpoint with a square input",
        )
    if spec.resize == "squash":
        return Placement((side / width, side / height), (0, 0))
    if spec.resize == "shortest":
        short = min(size)
        target = tuple(side if edge == short else int(side * edge / short) for edge in size)
        offset = tuple(round((edge - side) / 2) for edge in target)
    else:
        ratio = max(size) / side
        target = tuple(round(edge / ratio) for edge in size)
        # Padding takes the smaller half of an odd remainder at the left and the top.
        offset = tuple(-((side - edge) // 2) for edge in target)
    return Placement((target[0] / width, target[1] / height), (offset[0], offset[1]))


def map_boxes(
    boxes: ArrayLike, *, size: tuple[int, int], spec: EncoderSpec, least: float = 1
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Carry boxes from pixels of an image file to pixels of the encoder's input.

    Args:
        boxes: (r,4) x0 y0 x1 y1 in the upright image.
        size: its width and height.
        spec: of the encoder.
        least: width and height in the input below which a box is not kept.

    Returns:
        The boxes (r,4), cut to the input, and which of them are kept (r,).

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> boxes, kept = map_boxes([[0, 0, 8, 32]], size=(16, 32), spec=FakeEncoder().spec)
        >>> boxes.tolist(), kept.tolist()
        ([[0.0, 0.0, 4.0, 8.0]], [True])
    """
    placed = place_image(size, spec=spec)
    scale, offset = np.array(placed.scale * 2), np.array(placed.offset * 2)
    box = np.asarray(boxes, np.float64).reshape(-1, 4) * scale - offset
    box = np.clip(box, 0, spec.image_size).astype(np.float32)
    kept = np.minimum(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]) >= least
    return box, np.asarray(kept)


def _lay_grid(side: int, *, rows: int, columns: int) -> NDArray[np.float32]:
    if not (1 <= rows <= side and 1 <= columns <= side):
        raise InputError(
            f"{side} x {side} pixels have no {rows} x {columns} regions",
            mend=f"choose rows and columns from 1 to {side}",
        )
    y, x = (np.round(np.linspace(0, side, parts + 1)) for parts in (rows, columns))
    top, left = (edge.ravel() for edge in np.meshgrid(y[:-1], x[:-1], indexing="ij"))
    bottom, right = (edge.ravel() for edge in np.meshgrid(y[1:], x[1:], indexing="ij"))
    return np.stack([left, top, right, bottom], axis=1).astype(np.float32)


def _repeat(boxes: NDArray[np.float32], count: int, *, side: int, source: str) -> Regions:
    owners = np.repeat(np.arange(count), len(boxes))
    return collect_regions(
        owners, np.tile(boxes, (count, 1)), count=count, side=side, source=source
    )


def _check_proposals(boxes: ArrayLike, *, source: str) -> NDArray[np.float64]:
    try:
        box = np.asarray(boxes, np.float64)
    except (TypeError, ValueError):
        box = np.zeros(1)
    if box.ndim and len(box) == 0:
        return box.reshape(0, 4)
    if box.ndim != 2 or box.shape[1] != 4:
        raise InputError("did not give boxes of four numbers", where=source, mend="return (r,4)")
    return box


def _write(box: NDArray[np.generic]) -> str:
    return ", ".join(f"{value:g}" for value in box.tolist())
