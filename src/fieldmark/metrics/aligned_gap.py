"""Accuracy where the background is the usual one of its class, less accuracy where it is not.

The gap of natural images between bias-aligned and bias-conflicting samples (Nam et al. 2020,
"Learning from Failure"). Classes count alike. Images of one object stay together in the resampling.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2_contingency

from fieldmark.core.seeds import generator
from fieldmark.metrics.intervals import UNDEFINED, Interval, correct_bias

RESAMPLES = 4000
# At which labels and backgrounds are said to go together.
USUAL_LEVEL = 0.01


@dataclass(frozen=True, kw_only=True)
class AlignedGap:
    """How much accuracy goes with the usual background.

    Attributes:
        aligned: accuracy on the usual background, the mean over classes that have both; NaN if
            none has.
        conflicting: accuracy on other backgrounds, likewise.
        gap: the difference, in [-1, 1].
        interval: of the gap, over objects.
        p_value: one-sided, that a gap as large is chance: share of resamples whose distance from
            the gap is as large; NaN if undefined.
        count: images of the classes that have both.
        classes: how many classes have both.
    """

    aligned: float
    conflicting: float
    gap: float
    interval: Interval
    p_value: float
    count: int
    classes: int


def find_usual(
    labels: ArrayLike, attributes: ArrayLike, *, level: float = USUAL_LEVEL
) -> dict[int, int]:
    """Return the most frequent attribute of each label, where labels and attributes go together.

    In any sample some attribute is the most frequent one. So nothing is usual where a chi-squared
    test does not tell the two from independent, and for a label whose first place is shared.

    Args:
        labels: (n,) classes.
        attributes: (n,) backgrounds, below 0 where unknown.
        level: of the test.

    Example:
        >>> find_usual([0] * 9 + [1] * 9, [5] * 8 + [7] + [7] * 9)
        {0: 5, 1: 7}
        >>> find_usual([0, 0, 0, 1, 1], [5, 5, 7, 5, 7])
        {}
    """
    of, behind = np.asarray(labels, np.int64), np.asarray(attributes, np.int64)
    names, rows = np.unique(of[behind >= 0], return_inverse=True)
    kinds, columns = np.unique(behind[behind >= 0], return_inverse=True)
    if len(names) < 2 or len(kinds) < 2:
        return {}
    table = np.zeros((len(names), len(kinds)))
    np.add.at(table, (rows, columns), 1)
    if chi2_contingency(table).pvalue > level:
        return {}
    return {
        label: int(kinds[counts.argmax()])
        for label, counts in zip(names.tolist(), table, strict=True)
        if (counts == counts.max()).sum() == 1
    }


def measure_aligned_gap(
    correct: ArrayLike,
    labels: ArrayLike,
    aligned: ArrayLike,
    *,
    objects: ArrayLike | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> AlignedGap:
    """Measure how much accuracy goes with the usual background.

    Args:
        correct: (n,) booleans.
        labels: (n,) classes.
        aligned: (n,) 1 on the usual background of the class, 0 on another, below 0 to leave out.
        objects: (n,) the object of each image, drawn as one; None when each stands for itself.
        seed: of the resampling.
        resamples: how many are drawn.

    Raises:
        ValueError: the arrays differ in length.

    Example:
        >>> found = measure_aligned_gap([1, 1, 1, 0], [0] * 4, [1, 1, 0, 0])
        >>> found.aligned, found.conflicting, found.gap
        (1.0, 0.5, 0.5)
    """
    right, of = np.asarray(correct, bool), np.asarray(labels, np.int64)
    side = np.asarray(aligned, np.int64)
    if not len(right) == len(of) == len(side):
        raise ValueError(f"{len(right)}, {len(of)} and {len(side)} values differ in n")
    both = [c for c in np.unique(of).tolist() if {0, 1} <= set(side[of == c].tolist())]
    rows = np.flatnonzero(np.isin(of, both) & (side >= 0))
    if not len(rows):
        nothing = math.nan
        return AlignedGap(
            aligned=nothing, conflicting=nothing, gap=nothing, interval=UNDEFINED,
            p_value=nothing, count=0, classes=0,
        )  # fmt: skip
    units = np.arange(len(right)) if objects is None else np.unique(objects, return_inverse=True)[1]
    hits, totals, strata = _tabulate(right[rows], of[rows], side[rows], units=units[rows])
    means = _average(hits.sum(axis=1), totals.sum(axis=1))
    gap = float(means[1] - means[0])
    draws = _draw_gaps(hits, totals, strata, size=resamples, seed=seed)
    known = draws[~np.isnan(draws)]
    p_value = (1 + int((known - gap >= gap).sum())) / (1 + len(known)) if gap > 0 else 1.0
    return AlignedGap(
        aligned=float(means[1]),
        conflicting=float(means[0]),
        gap=gap,
        interval=correct_bias(known, gap) if len(known) else UNDEFINED,
        p_value=p_value,
        count=len(rows),
        classes=len(both),
    )


def _tabulate(
    right: NDArray[np.bool_], of: NDArray[np.int64], side: NDArray[np.int64],
    *, units: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:  # fmt: skip
    """Return hits and images (C,U,2) by class, unit and side, and the class of each unit."""
    classes, label = np.unique(of, return_inverse=True)
    _, unit = np.unique(units, return_inverse=True)
    shape = (len(classes), int(unit.max()) + 1, 2)
    hits, totals = np.zeros(shape), np.zeros(shape)
    np.add.at(hits, (label, unit, side), right)
    np.add.at(totals, (label, unit, side), 1)
    return hits, totals, totals.sum(axis=2).argmax(axis=0)


def _average(hits: NDArray[np.float64], totals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the accuracy of each side (..., 2), the mean over classes (..., C, 2)."""
    share = np.divide(hits, totals, out=np.full(hits.shape, np.nan), where=totals > 0)
    averages: NDArray[np.float64] = share.mean(axis=-2)
    return averages


def _draw_gaps(
    hits: NDArray[np.float64],
    totals: NDArray[np.float64],
    strata: NDArray[np.int64],
    *,
    size: int,
    seed: int,
) -> NDArray[np.float64]:
    """Draw units anew within their class; NaN where a class lost a side."""
    random = generator(seed, "aligned gap")
    weights = np.zeros((size, len(strata)))
    for label in np.unique(strata):
        units = np.flatnonzero(strata == label)
        drawn = random.multinomial(len(units), np.full(len(units), 1 / len(units)), size=size)
        weights[:, units] = drawn
    means = _average(
        np.einsum("bu,cus->bcs", weights, hits), np.einsum("bu,cus->bcs", weights, totals)
    )
    gaps: NDArray[np.float64] = means[:, 1] - means[:, 0]
    return gaps
