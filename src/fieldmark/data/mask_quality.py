"""Are masks good enough to say what is background? What is off with each, and does it matter.

`check_mask` looks at one mask: size, border, fragments, holes, outline, agreement with a second
mask. `measure_stability` asks what matters in the end: whether decisions that rest on masks
(background-driven or not) stay the same when every mask is eroded or dilated by a few pixels
(facts/attribution.md section 5: fewer than 2 points for 1 to 8 pixels).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import ConvexHull

from fieldmark.core.errors import MaskError, UsageError
from fieldmark.data.masks import THRESHOLD, Mask, dilate_mask, erode_mask

Verdict = Literal["good", "suspect", "unusable"]
RADII = (1, 2, 3, 4, 5, 6, 7, 8)
# Points that a rate may move by and still count as stable.
MOST_MOVE = 0.02
# Pixels that touch at a corner belong together.
_EIGHT = np.ones((3, 3), bool)


@dataclass(frozen=True, kw_only=True)
class QualityLimits:
    """From where on a mask is suspect; shares in [0, 1].

    Attributes:
        least_area: of the image; a smaller object is hardly more than a patch.
        most_area: of the image; beyond it there is hardly any background.
        least_main: share of the object in its largest fragment.
        most_holes: area of holes as a share of the object with its holes filled.
        least_solidity: share of its convex hull that the object fills.
        least_overlap: intersection over union with the second mask.
    """

    least_area: float = 0.005
    most_area: float = 0.95
    least_main: float = 0.8
    most_holes: float = 0.15
    least_solidity: float = 0.3
    least_overlap: float = 0.7


@dataclass(frozen=True, kw_only=True)
class MaskQuality:
    """What a mask is like; what is undefined is NaN.

    Attributes:
        area: share of the image, in [0, 1].
        border: share of the image's border pixels that are object.
        fragments: parts that do not touch.
        main: share of the object in its largest fragment; NaN without an object.
        holes: parts of the background that the object closes in.
        hole_area: their area as a share of the object with its holes filled; NaN likewise.
        solidity: share of its convex hull that the object fills; NaN likewise.
        overlap: intersection over union with the second mask; NaN without one or if both are empty.
        verdict: good, suspect (look at it) or unusable (nothing can be decided with it).
        reason: one line.
    """

    area: float
    border: float
    fragments: int
    main: float
    holes: int
    hole_area: float
    solidity: float
    overlap: float
    verdict: Verdict
    reason: str

    @property
    def touches_border(self) -> bool:
        """Whether the object reaches the border of the image."""
        return self.border > 0


@dataclass(frozen=True, eq=False, kw_only=True)
class Stability:
    """How decisions move when masks are eroded (radius below 0) or dilated (above 0).

    Attributes:
        radii: R radii in pixels, without 0.
        rate: share of decisions that are yes with the masks as they are; NaN if none is defined.
        count: how many are defined with the masks as they are.
        rates: (R,) share that are yes at each radius, over those defined here and there.
        counts: (R,) how many those are.
        flipped: (R,) share of them that changed.
        moved: (R,) by how much the rate moved over the same images, signed.
    """

    radii: tuple[int, ...]
    rate: float
    count: int
    rates: NDArray[np.float64]
    counts: NDArray[np.int64]
    flipped: NDArray[np.float64]
    moved: NDArray[np.float64]

    @property
    def largest_move(self) -> float:
        """Largest absolute move of the rate; NaN where no radius has a decision."""
        known = np.abs(self.moved[np.isfinite(self.moved)])
        return float(known.max()) if known.size else float("nan")

    @property
    def is_stable(self) -> bool:
        """Whether the rate is defined at every radius and moves by fewer than 2 points."""
        return bool(np.isfinite(self.moved).all() and self.largest_move < MOST_MOVE)


def check_mask(
    mask: Mask, *, other: Mask | None = None, limits: QualityLimits | None = None
) -> MaskQuality:
    """Look at one mask, uint8 (H,W), the object above 100.

    Args:
        mask: to be checked.
        other: a second mask of the same image, from another source or person.
        limits: from where on a mask is suspect.

    Raises:
        MaskError: the mask is no (H,W) array with pixels, or the second one is of another size.

    Example:
        >>> mask = np.zeros((8, 8), np.uint8)
        >>> mask[2:6, 2:6] = 255
        >>> found = check_mask(mask)
        >>> found.area, found.fragments, found.solidity, found.verdict
        (0.25, 1, 1.0, 'good')
        >>> check_mask(np.zeros((8, 8), np.uint8)).reason
        'no pixel is object'
    """
    if mask.ndim != 2 or not mask.size:
        raise MaskError(f"a mask is (H,W), not {mask.shape}", mend="take one channel of it")
    inside = mask > THRESHOLD
    area = float(inside.mean())
    sizes = _measure_parts(inside, _EIGHT)
    filled = ndimage.binary_fill_holes(inside)
    closed = filled & ~inside
    size = int(inside.sum())
    facts = {
        "area": area,
        "border": _share_border(inside),
        "main": float(sizes.max() / size) if size else float("nan"),
        "hole_area": float(closed.sum() / filled.sum()) if size else float("nan"),
        "solidity": measure_solidity(inside),
        "overlap": float("nan") if other is None else measure_overlap(mask, other),
    }
    verdict, reason = _judge(facts, limits or QualityLimits())
    return MaskQuality(
        **facts,
        fragments=len(sizes),
        holes=len(_measure_parts(closed, None)),
        verdict=verdict,
        reason=reason,
    )


def measure_overlap(mask: Mask, other: Mask) -> float:
    """Return the intersection over union of two masks; NaN if both are empty.

    Raises:
        MaskError: they are of different sizes.

    Example:
        >>> mask = np.array([[255, 255, 0]], np.uint8)
        >>> measure_overlap(mask, np.array([[0, 255, 255]], np.uint8))
        0.333...
    """
    if mask.shape != other.shape:
        raise MaskError(
            f"the masks are {mask.shape} and {other.shape}", mend="use masks of one image"
        )
    first, second = mask > THRESHOLD, other > THRESHOLD
    union = int((first | second).sum())
    return int((first & second).sum()) / union if union else float("nan")


def measure_solidity(inside_HW: NDArray[np.bool_]) -> float:
    """Return the share of its convex hull that an object fills, in (0, 1]; NaN without an object.

    The hull is that of the pixels' corners, so that a rectangle fills it wholly.

    Example:
        >>> measure_solidity(np.array([[True, False], [True, True]]))
        0.857...
    """
    rows, columns = np.nonzero(inside_HW & ~ndimage.binary_erosion(inside_HW, _EIGHT))
    if not rows.size:
        return float("nan")
    corners = np.concatenate(
        [np.stack([rows + down, columns + right], 1) for down in (0, 1) for right in (0, 1)]
    )
    # In two dimensions `volume` is the area.
    return min(1.0, float(inside_HW.sum() / ConvexHull(corners).volume))


def measure_stability(
    masks: Sequence[Mask],
    decide: Callable[[list[Mask]], NDArray[np.floating] | NDArray[np.bool_]],
    *,
    radii: Sequence[int] = RADII,
) -> Stability:
    """Erode and dilate all masks and count the decisions that change.

    Rates at a radius and without one are compared over the images that have a decision at both, so
    that an object which erosion wears away does not pass for a change.

    Args:
        masks: n masks, each of its image's size.
        decide: n masks -> n decisions, 1 or True for yes, 0 or False for no, NaN for undefined (an
            empty mask for example). It is called once for each radius and direction, and once more.
        radii: in pixels, 1 or more; each is used for erosion and for dilation.

    Raises:
        UsageError: there is no mask, or a radius is below 1.
        MaskError: `decide` gives another number of decisions, or one that is none of the three.

    Example:
        >>> mask = np.zeros((9, 9), np.uint8)
        >>> mask[2:7, 2:7] = 255
        >>> def is_small(masks):
        ...     return np.array([(each > 0).mean() < 0.2 for each in masks])
        >>> found = measure_stability([mask], is_small, radii=[1])
        >>> found.radii, found.rate, found.moved.tolist(), found.is_stable
        ((-1, 1), 0.0, [1.0, 0.0], False)
    """
    if not masks or not radii or min(radii) < 1:
        raise UsageError(
            "stability needs masks and radii of 1 pixel or more", mend="give at least one of each"
        )
    before = _call(decide, list(masks))
    signed = (*(-radius for radius in sorted(radii, reverse=True)), *sorted(radii))
    compared = [_compare(before, _call(decide, [_move(m, r) for m in masks])) for r in signed]
    rates, counts, flipped, moved = zip(*compared, strict=True)
    known = np.isfinite(before)
    return Stability(
        radii=signed,
        rate=_mean(before[known]),
        count=int(known.sum()),
        rates=np.array(rates),
        counts=np.array(counts),
        flipped=np.array(flipped),
        moved=np.array(moved),
    )


def _judge(facts: dict[str, float], limits: QualityLimits) -> tuple[Verdict, str]:
    area = facts["area"]
    if area == 0:
        return "unusable", "no pixel is object"
    if area == 1:
        return "unusable", "every pixel is object, so there is no background"
    problems = {
        f"the object is {area:.1%} of the image": area < limits.least_area
        or area > limits.most_area,
        f"its largest fragment is only {facts['main']:.0%} of it": facts["main"]
        < limits.least_main,
        f"holes are {facts['hole_area']:.0%} of it": facts["hole_area"] > limits.most_holes,
        f"it fills only {facts['solidity']:.0%} of its hull": facts["solidity"]
        < limits.least_solidity,
        f"it overlaps the second mask by only {facts['overlap']:.2f}": facts["overlap"]
        < limits.least_overlap,
    }
    found = [reason for reason, is_off in problems.items() if is_off]
    return ("suspect", ", ".join(found)) if found else ("good", "nothing is off")


def _measure_parts(
    inside: NDArray[np.bool_], structure: NDArray[np.bool_] | None
) -> NDArray[np.int64]:
    labels, _ = ndimage.label(inside, structure)
    return np.bincount(labels.ravel())[1:]


def _share_border(inside: NDArray[np.bool_]) -> float:
    frame = np.ones_like(inside)
    frame[1:-1, 1:-1] = False
    return float(inside[frame].mean())


def _move(mask: Mask, radius: int) -> Mask:
    return dilate_mask(mask, radius) if radius > 0 else erode_mask(mask, -radius)


def _call(
    decide: Callable[[list[Mask]], NDArray[np.floating] | NDArray[np.bool_]], masks: list[Mask]
) -> NDArray[np.float64]:
    found = np.asarray(decide(masks), np.float64)
    if found.shape != (len(masks),) or not np.isin(found[np.isfinite(found)], (0, 1)).all():
        raise MaskError(
            f"{len(masks)} masks gave decisions {found.shape} that are not all 0, 1 or NaN",
            mend="give one decision for each mask",
        )
    return np.where(np.isinf(found), np.nan, found)


def _compare(
    before: NDArray[np.float64], after: NDArray[np.float64]
) -> tuple[float, int, float, float]:
    both = np.isfinite(before) & np.isfinite(after)
    rate = _mean(after[both])
    flipped = _mean((before != after)[both])
    return rate, int(both.sum()), flipped, rate - _mean(before[both])


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    return float(values.mean()) if values.size else float("nan")
