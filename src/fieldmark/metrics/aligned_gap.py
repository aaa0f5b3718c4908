"""Accuracy where the background is the usual one of its class, less accuracy where it is not.

The gap of natural images between bias-aligned and bias-conflicting samples (Nam et al. 2020,
"Learning from Failure"). Classes count alike. Images of one object stay together in the resampling.

Shape letters: n images, U objects of a class, B draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import chi2_contingency

from fieldmark.core.seeds import generator
from fieldmark.metrics.intervals import UNDEFINED, Interval, correct_bias, wilson_interval
from fieldmark.metrics.resampling import Design, draw_units

Floats = NDArray[np.float64]
RESAMPLES = 4000
# Of the draws that are held at once: 32 MiB.
_NUMBERS = 1 << 22
_EQUAL = 1e-9
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
        p_value: one-sided, that a gap as large is chance: share of the draws that deal out the
            sides of each class anew and come to as much; NaN if undefined.
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
    if not both:
        nothing = math.nan
        return AlignedGap(
            aligned=nothing, conflicting=nothing, gap=nothing, interval=UNDEFINED,
            p_value=nothing, count=0, classes=0,
        )  # fmt: skip
    units = np.arange(len(right)) if objects is None else np.unique(objects, return_inverse=True)[1]
    counted = []
    for label in both:
        rows = np.flatnonzero((of == label) & (side >= 0))
        counted.append(_tabulate(right[rows], side[rows], units=units[rows]))
    means = np.mean([one.shares for one in counted], axis=0)
    gap = float(means[1] - means[0])
    random = generator(seed, "aligned gap")
    drawn = _average([_draw_gaps(one, size=resamples, random=random) for one in counted])
    random = generator(seed, "aligned gap", "sides")
    mixed = np.mean([_mix_sides(one, size=resamples, random=random) for one in counted], axis=0)
    return AlignedGap(
        aligned=float(means[1]),
        conflicting=float(means[0]),
        gap=gap,
        interval=_widen(correct_bias(drawn, gap), gap, counted),
        p_value=(1 + int((mixed >= gap - _EQUAL).sum())) / (1 + resamples),
        count=int(sum(one.totals.sum() for one in counted)),
        classes=len(both),
    )


class _Class(NamedTuple):
    """One class: right answers and images (U,2) by object and side."""

    hits: Floats
    totals: Floats

    @property
    def shares(self) -> Floats:
        """Accuracy of each side: (2,)."""
        return np.asarray(self.hits.sum(axis=0) / self.totals.sum(axis=0))


def _tabulate(
    right: NDArray[np.bool_], side: NDArray[np.int64], *, units: NDArray[np.int64]
) -> _Class:
    names, unit = np.unique(units, return_inverse=True)
    hits, totals = np.zeros((len(names), 2)), np.zeros((len(names), 2))
    np.add.at(hits, (unit, side), right)
    np.add.at(totals, (unit, side), 1)
    return _Class(hits, totals)


def _draw_gaps(one: _Class, *, size: int, random: np.random.Generator) -> Floats:
    """Draw the objects of a class anew: its gaps (B,), NaN where a side was lost."""
    design = Design(one.hits[None], one.totals, np.zeros(len(one.hits), np.int64))
    [(hits, totals)] = draw_units(design, size=size, random=random)
    share = np.divide(hits, totals, out=np.full(hits.shape, np.nan), where=totals > 0)
    return np.asarray(share[:, 1] - share[:, 0])


def _average(gaps: Sequence[Floats]) -> Floats:
    """Return the mean over the classes that kept both sides (B,), NaN where none did."""
    table = np.stack(gaps)
    known = ~np.isnan(table)
    count = known.sum(axis=0)
    total = np.where(known, table, 0.0).sum(axis=0)
    return np.asarray(np.divide(total, count, out=np.full(count.shape, np.nan), where=count > 0))


def _mix_sides(one: _Class, *, size: int, random: np.random.Generator) -> Floats:
    """Deal out the sides anew, as if they did not matter: the gaps of a class (B,).

    Images of an object on both sides change places with each other, other objects as a whole.
    """
    paired = (one.totals > 0).all(axis=1)
    hits, totals = one.hits[paired], one.totals[paired]
    right, images = hits.sum(axis=1).astype(int), totals.sum(axis=1).astype(int)
    alone = one.hits[~paired].sum(axis=1), one.totals[~paired].sum(axis=1)
    sides, gaps = one.totals[~paired, 1] > 0, []
    most = max(1, _NUMBERS // len(one.hits))
    for part in (min(most, size - start) for start in range(0, size, most)):
        again = random.hypergeometric(
            right, images - right, totals[:, 1].astype(int), size=(part, len(right))
        ).sum(axis=1)
        dealt = random.permuted(np.tile(sides, (part, 1)), axis=1).astype(float)
        (hit, total), every = (dealt @ each for each in alone), one.totals.sum()
        hit, total = hit + again, total + totals[:, 1].sum()
        gaps.append(hit / total - (one.hits.sum() - hit) / (every - total))
    return np.concatenate(gaps)


def _widen(interval: Interval, gap: float, counted: Sequence[_Class]) -> Interval:
    """Add what no draw tells: how far a side may lie from all right, all wrong, or its one object.

    Wilson's interval says it, by the number of objects; independent errors add up in squares.
    """
    below, above = max(0.0, gap - interval.low) ** 2, max(0.0, interval.high - gap) ** 2
    for one in counted:
        objects = (one.totals > 0).sum(axis=0).tolist()
        for side, (share, number) in enumerate(zip(one.shares.tolist(), objects, strict=True)):
            more = (wilson_interval(0, number).high / len(counted)) ** 2
            down, up = (more * (number == 1 or share == end) for end in (1.0, 0.0))
            below, above = (below + down, above + up) if side else (below + up, above + down)
    return Interval(max(-1.0, gap - math.sqrt(below)), min(1.0, gap + math.sqrt(above)))
