"""What a mitigation trains on: pixels, captions' embeddings, labels and regions, as plain arrays.

Shape letters: n images, R regions, Y classes, D embedding dimensions, S the side of the encoder's
input.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fieldmark.core.errors import InputError
from fieldmark.data.pixels import PixelSource
from fieldmark.methods.mitigation.groups import group_images

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class MitigationData:
    """Images with captions, labels that were parsed from them, and regions.

    Attributes:
        pixels: of n images.
        captions: (n,D) text embedding of each image's caption, of unit norm.
        labels: (n,) class of each image, 0 to Y - 1 or -1 for none; or (n,Y) booleans where an
            image can have several.
        prototypes: (Y,D) text embedding of each class, of unit norm.
        owners: (R,) image of each region, 0 to n - 1, in any order.
        boxes: (R,4) x0 y0 x1 y1 in pixels of the encoder's input.
        spurious: (R,) bool, the regions of the spurious feature.
    """

    pixels: PixelSource
    captions: ArrayLike
    labels: ArrayLike
    prototypes: ArrayLike
    owners: ArrayLike
    boxes: ArrayLike
    spurious: ArrayLike


class RegionBatch(NamedTuple):
    """The regions of some images.

    Attributes:
        places: (r,) position of each region's image among those images, ascending.
        regions: (r,) index of each region.
    """

    places: Tensor
    regions: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Material:
    """The same as tensors on one device, checked, regions in the order of their images.

    Attributes:
        captions: (n,D).
        labels: (n,Y) bool.
        prototypes: (Y,D).
        spurious_images: (n,) bool, whether an image has any spurious region.
        groups: (n,) number of the group of each image, see `groups.group_images`.
        starts: (n+1,) where the regions of each image start.
        boxes: (R,4).
        spurious: (R,) bool.
    """

    captions: Tensor
    labels: Tensor
    prototypes: Tensor
    spurious_images: Tensor
    groups: Tensor
    starts: Tensor
    boxes: Tensor
    spurious: Tensor

    def __len__(self) -> int:
        return len(self.captions)

    def find_regions(self, rows: Tensor) -> RegionBatch:
        """Return the regions of some images.

        Args:
            rows: (b,) index of each image.
        """
        first = self.starts[rows]
        counts = self.starts[rows + 1] - first
        places = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), counts)
        within = torch.arange(len(places), device=rows.device)
        within = within - (counts.cumsum(0) - counts)[places]
        return RegionBatch(places, first[places] + within)

    def fingerprint(self) -> str:
        """Return the SHA-256 of everything but the pixels, 64 hexadecimal digits."""
        digest = hashlib.sha256()
        for name, value in vars(self).items():
            digest.update(f"{name} {tuple(value.shape)}".encode())
            digest.update(value.cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()

    def to(self, device: torch.device) -> Material:
        """Return the same on a device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})


def prepare_material(data: MitigationData) -> Material:
    """Check the arrays of a mitigation and turn them into tensors.

    Raises:
        InputError: they do not fit together, an embedding is not finite or not of unit norm, or a
            label or an owner is out of range.

    Example:
        >>> from fieldmark.data.pixels import PixelArray
        >>> data = MitigationData(
        ...     pixels=PixelArray(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)), captions=np.eye(2),
        ...     labels=[0, -1], prototypes=np.eye(2), owners=[1, 0], boxes=[[0, 0, 8, 8]] * 2,
        ...     spurious=[True, False])
        >>> prepare_material(data).spurious_images.tolist()
        [False, True]
    """
    count = len(data.pixels)
    captions = _read_units(data.captions, what="caption")
    prototypes = _read_units(data.prototypes, what="prototype of a class")
    if len(captions) != count or captions.shape[1] != prototypes.shape[1]:
        raise InputError(
            f"captions {captions.shape} do not fit {count} images and prototypes "
            f"{prototypes.shape}",
            mend="embed one caption an image and one prototype a class with the same text tower",
        )
    labels = _read_labels(data.labels, count=count, classes=len(prototypes))
    owners = np.asarray(data.owners, np.int64).reshape(-1)
    boxes = np.asarray(data.boxes, np.float32).reshape(-1, 4)
    spurious = np.asarray(data.spurious, bool).reshape(-1)
    _check_regions(owners, boxes, spurious, count=count)
    order = np.argsort(owners, kind="stable")
    starts = np.searchsorted(owners[order], np.arange(count + 1))
    has_spurious = np.bincount(owners[spurious], minlength=count) > 0
    return Material(
        captions=torch.from_numpy(captions),
        labels=torch.from_numpy(labels),
        prototypes=torch.from_numpy(prototypes),
        spurious_images=torch.from_numpy(has_spurious),
        groups=torch.from_numpy(group_images(labels, has_spurious)),
        starts=torch.from_numpy(starts),
        boxes=torch.from_numpy(boxes[order]),
        spurious=torch.from_numpy(spurious[order]),
    )


def _read_units(values: ArrayLike, *, what: str) -> NDArray[np.float32]:
    found = np.array(values, np.float32)
    if found.ndim != 2:
        raise InputError(f"embeddings of each {what} must be (n,D), not {found.shape}")
    lengths = np.linalg.norm(found, axis=1)
    # Half-precision encoders leave unit norms that are off by some thousandths.
    bad = np.flatnonzero(~(np.abs(lengths - 1) < 0.02))
    if len(bad):
        raise InputError(
            f"{what} {bad[0]} has norm {lengths[bad[0]]:g}, not 1",
            mend="use the unit embeddings of Encoder.encode_text",
        )
    return np.asarray(found / lengths[:, None], np.float32)


def _read_labels(labels: ArrayLike, *, count: int, classes: int) -> NDArray[np.bool_]:
    found = np.asarray(labels)
    if found.shape == (count, classes) and found.dtype == bool:
        return found
    if found.shape != (count,) or found.dtype.kind not in "iu":
        raise InputError(
            f"labels {found.dtype} {found.shape} are neither whole numbers ({count},) nor booleans "
            f"({count},{classes})"
        )
    bad = np.flatnonzero((found < -1) | (found >= classes))
    if len(bad):
        raise InputError(
            f"image {bad[0]} has label {found[bad[0]]}, and there are {classes} classes",
            mend="give 0 to Y - 1, or -1 for an image without a label",
        )
    return np.asarray(found[:, None] == np.arange(classes))


def _check_regions(
    owners: Ints, boxes: NDArray[np.float32], spurious: NDArray[np.bool_], *, count: int
) -> None:
    lengths: Sequence[int] = (len(owners), len(boxes), len(spurious))
    if len(set(lengths)) > 1:
        raise InputError("{} owners, {} boxes and {} marks of spurious regions".format(*lengths))
    bad = np.flatnonzero((owners < 0) | (owners >= count))
    if len(bad):
        raise InputError(
            f"region {bad[0]} belongs to image {owners[bad[0]]}, and there are {count} images"
        )
