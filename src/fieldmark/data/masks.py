"""Masks: uint8 arrays (H,W) in [0, 255], the object where a pixel is above 100.

Refinement follows BAP appendix M.3.3 and L.5.2 (threshold, then a Gaussian of radius 1), the three
degradations its appendix I.2. Sizes of degradations are in pixels of the original image, before any
resizing. They are meant for CUB, whose photographs have 500 pixels along their longer side; of a
smaller image they are the same share, since 21 of 128 pixels would leave little of any object.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy import ndimage

from fieldmark.core.errors import MaskError, UsageError

Mask: TypeAlias = NDArray[np.uint8]
Degradation = Literal["none", "dilated", "eroded", "box"]

THRESHOLD = 100
BLUR_RADIUS = 1
DILATION_RADIUS = 15
EROSION_RADIUS = 21
# The longer side of a photograph of CUB.
FULL_SIDE = 500


class Box(NamedTuple):
    """A box in pixels; `right` and `bottom` are just outside it."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def width(self) -> int:
        """Width in pixels."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """Height in pixels."""
        return self.bottom - self.top


def threshold_mask(mask: Mask) -> Mask:
    """Map values above 100 to 255 and the others to 0 (BAP M.3.3 step 3).

    Example:
        >>> threshold_mask(np.array([[0, 100, 101, 255]], np.uint8)).tolist()
        [[0, 0, 255, 255]]
    """
    return np.where(mask > THRESHOLD, np.uint8(255), np.uint8(0))


def soften_mask(mask: Mask) -> Mask:
    """Blur with Pillow's Gaussian of radius 1; beyond the border the border's own value goes on.

    Example:
        >>> soften_mask(np.full((3, 3), 255, np.uint8)).min()
        np.uint8(255)
    """
    blur = ImageFilter.GaussianBlur(BLUR_RADIUS)
    return np.asarray(Image.fromarray(mask).filter(blur))


def refine_mask(mask: Mask) -> Mask:
    """Threshold, then soften: the mask that composites are pasted with (BAP M.3.3 step 3)."""
    return soften_mask(threshold_mask(mask))


def find_box(mask: Mask) -> Box:
    """Return the tight box of the object, the pixels above 100.

    Raises:
        MaskError: there are none.

    Example:
        >>> mask = np.zeros((4, 5), np.uint8)
        >>> mask[1:3, 2] = 255
        >>> find_box(mask)
        Box(left=2, top=1, right=3, bottom=3)
    """
    inside = mask > THRESHOLD
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not rows.size:
        raise empty_mask(mask)
    return Box(int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)


def crop_to_mask(mask: Mask) -> Mask:
    """Return the part of a mask inside its tight box.

    Raises:
        MaskError: the mask has no object.
    """
    box = find_box(mask)
    return mask[box.top : box.bottom, box.left : box.right]


def dilate_mask(mask: Mask, radius: float = DILATION_RADIUS) -> Mask:
    """Grow the object by a disc of `radius` pixels; the result is 0 or 255.

    Example:
        >>> mask = np.zeros((5, 5), np.uint8)
        >>> mask[2, 2] = 255
        >>> int((dilate_mask(mask, 1) == 255).sum())
        5
    """
    inside = mask > THRESHOLD
    if not inside.any():
        return threshold_mask(mask)
    return _to_mask(ndimage.distance_transform_edt(~inside) <= radius)


def erode_mask(mask: Mask, radius: float = EROSION_RADIUS) -> Mask:
    """Shrink the object by a disc of `radius` pixels; the result is 0 or 255.

    Only the object's own edge is worn away: where it is cut off by the image's border it stays,
    since what lies beyond is unknown.

    Example:
        >>> mask = np.zeros((5, 5), np.uint8)
        >>> mask[1:4, 1:4] = 255
        >>> int((erode_mask(mask, 1) == 255).sum())
        1
    """
    inside = mask > THRESHOLD
    if inside.all():
        return threshold_mask(mask)
    return _to_mask(ndimage.distance_transform_edt(inside) > radius)


def fill_box(mask: Mask) -> Mask:
    """Replace the object by its tight box.

    Raises:
        MaskError: the mask has no object.
    """
    box = find_box(mask)
    filled = np.zeros_like(mask)
    filled[box.top : box.bottom, box.left : box.right] = 255
    return filled


def degrade_mask(mask: Mask, kind: Degradation) -> Mask:
    """Spoil a mask as BAP appendix I.2: dilated by 15 px, eroded by 21 px, or its box.

    Degrade before the tight crop, so that the halo holds the pixels of the original photograph. The
    paper calls the two numbers radii; they are taken as radii of a disc. Where the longer side of
    the mask is below 500 pixels they shrink with it.

    Raises:
        MaskError: the mask has no object, or erosion leaves none of it.
        UsageError: unknown kind.
    """
    if kind not in get_args(Degradation):
        raise UsageError(f"unknown degradation {kind!r}", mend="use none, dilated, eroded or box")
    if not (mask > THRESHOLD).any():
        raise empty_mask(mask)
    if kind == "none":
        return mask
    if kind == "box":
        return fill_box(mask)
    share = min(1.0, max(mask.shape) / FULL_SIDE)
    if kind == "dilated":
        return dilate_mask(mask, DILATION_RADIUS * share)
    eroded = erode_mask(mask, EROSION_RADIUS * share)
    if not eroded.any():
        raise MaskError(
            f"erosion by {EROSION_RADIUS * share:.3g} px leaves nothing of the object",
            mend="leave this foreground out (--skip-unreadable) or use a larger image",
        )
    return eroded


def empty_mask(mask: Mask) -> MaskError:
    """Return the error that says why a mask has no object."""
    if not mask.size:
        return MaskError("the mask is empty", mend="draw it again")
    largest = int(mask.max())
    if not largest:
        return MaskError("the mask is all zero", mend="draw it again or leave the image out")
    return MaskError(
        f"the mask has no pixel above {THRESHOLD}, its largest is {largest}",
        mend="store masks as 0 to 255, 255 where the object is",
    )


def _to_mask(inside: NDArray[np.bool_]) -> Mask:
    return np.where(inside, np.uint8(255), np.uint8(0))
