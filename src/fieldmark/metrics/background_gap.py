"""How far answers lean on the background: objects on scenes of their own and of other classes.

The BG-gap (Xiao et al. 2020, "Noise or Signal: The Role of Image Backgrounds in Object
Recognition", section 4: Mixed-Same minus Mixed-Rand) is the accuracy of objects on backgrounds of
their own class less that of the same objects on backgrounds of other classes. The paper draws
Mixed-Rand's backgrounds from all classes; here they are of other classes only, so that the gap does
not shrink with the number of classes.

Composites of one object stand and fall together. So every figure is a mean over objects of the mean
over the object's composites, and objects are drawn for its interval: within their class, or among
all where a class has one object only, whose spread nobody knows.

Shape letters: n composites, U objects.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.core.seeds import generator
from fieldmark.metrics.intervals import UNDEFINED, Estimate, Interval, correct_bias, wilson_interval
from fieldmark.metrics.resampling import Design, draw_units

Floats = NDArray[np.float64]
RESAMPLES, DRAWS = 2000, 10_000
# With so many objects or fewer that differ, all flips of their signs are tried: 8,192 at most.
_EXACT = 13
# Differences are shares of a few composites; sums of them differ in the last bits only.
_EQUAL = 1e-9
# One-sided: what a 95 % interval leaves beyond either end.
_SURE = 0.025


@dataclass(frozen=True, eq=False, kw_only=True)
class ObjectAnswers:
    """What an encoder says of each object, over its composites.

    Attributes:
        objects: U ids, sorted within their class.
        labels: (U,) class of each.
        same: (U,) share of right answers on scenes of the object's own class, NaN without any.
        other: (U,) the same on scenes of other classes.
        flips: (U,) share of the answers on scenes of other classes that are not the usual answer
            on scenes of its own, NaN where either kind of scene is missing.
    """

    objects: tuple[str, ...]
    labels: NDArray[np.int64]
    same: Floats
    other: Floats
    flips: Floats

    @property
    def gaps(self) -> Floats:
        """How much more of its answers are right on scenes of its own class: (U,) in [-1, 1]."""
        return self.same - self.other


@dataclass(frozen=True, kw_only=True)
class BackgroundGap:
    """The BG-gap of one set of answers; all counts are of objects.

    Attributes:
        same: accuracy on scenes of the object's own class.
        other: accuracy on scenes of other classes.
        gap: how far the second lies below the first, over objects that have both.
        flip_rate: share of answers that change when the scene comes from another class.
        p_value: one-sided, that objects do no better on scenes of their own class; NaN when no
            object has both kinds of scene.
        by_class: class to its gap.
    """

    same: Estimate
    other: Estimate
    gap: Estimate
    flip_rate: Estimate
    p_value: float
    by_class: dict[int, Estimate]


@dataclass(frozen=True, kw_only=True)
class GapChange:
    """What a second encoder has over a first, object by object; below 0 where it leans less.

    Attributes:
        gap: change of the BG-gap, in [-2, 2].
        flip_rate: change of the share of answers that change, in [-1, 1].
    """

    gap: Estimate
    flip_rate: Estimate


def tabulate_objects(
    predictions: ArrayLike, *, other: ArrayLike, objects: ArrayLike, labels: ArrayLike
) -> ObjectAnswers:
    """Sum up the answers by object.

    An object's usual answer is the most frequent one on scenes of its own class; of several equally
    frequent ones the right answer counts, or else the one of the lowest number.

    Args:
        predictions: (n,) the class that each composite is taken for.
        other: (n,) whether its scene comes from another class.
        objects: (n,) id of its object.
        labels: (n,) class of its object. An object filed under two classes counts as two.

    Raises:
        ValueError: the arrays differ in length.

    Example:
        >>> found = tabulate_objects([0, 0, 1, 0], other=[0, 0, 1, 1], objects=["a"] * 4,
        ...     labels=[0] * 4)
        >>> found.same.tolist(), found.other.tolist(), found.flips.tolist()
        ([1.0], [0.5], [0.5])
    """
    answer, label = np.asarray(predictions, np.int64), np.asarray(labels, np.int64)
    swapped, names = np.asarray(other, bool), np.asarray(objects, dtype=str)
    if not len(answer) == len(label) == len(swapped) == len(names):
        raise ValueError(
            f"predictions {len(answer)}, other {len(swapped)}, objects {len(names)} and labels "
            f"{len(label)} differ in number"
        )
    units = sorted(set(zip(label.tolist(), names.tolist(), strict=True)))
    table = np.full((len(units), 3), np.nan)
    for place, (kind, name) in enumerate(units):
        mine = (label == kind) & (names == name)
        table[place] = _sum_up(answer[mine & ~swapped], answer[mine & swapped], label=kind)
    return ObjectAnswers(
        objects=tuple(name for _, name in units),
        labels=np.array([kind for kind, _ in units], np.int64),
        same=table[:, 0],
        other=table[:, 1],
        flips=table[:, 2],
    )


def _sum_up(
    same: NDArray[np.int64], other: NDArray[np.int64], *, label: int
) -> tuple[float, float, float]:
    right = [float((part == label).mean()) if len(part) else math.nan for part in (same, other)]
    if not len(same) or not len(other):
        return right[0], right[1], math.nan
    answers, counts = np.unique(same, return_counts=True)
    first = answers[counts == counts.max()]
    usual = label if label in first else int(first[0])
    return right[0], right[1], float((other != usual).mean())


def measure_background_gap(
    answers: ObjectAnswers, *, seed: int = 0, resamples: int = RESAMPLES
) -> BackgroundGap:
    """Measure the BG-gap with its interval and its chance.

    Args:
        answers: from `tabulate_objects`.
        seed: of the resampling.
        resamples: draws of objects for the intervals.

    Example:
        >>> answers = tabulate_objects([0, 1] * 20, other=[0, 1] * 20, labels=[0] * 40,
        ...     objects=[str(number // 2) for number in range(40)])
        >>> found = measure_background_gap(answers)
        >>> found.gap.value, found.gap.interval.low > 0.5, found.p_value < 0.001
        (1.0, True, True)
    """
    gaps, labels = answers.gaps, answers.labels

    def estimate(values: Floats, name: str, *, share: bool) -> Estimate:
        return estimate_mean(values, labels, share=share, seed=seed, name=name, resamples=resamples)

    def estimate_gap(values: Floats, name: str) -> Estimate:
        return _widen(estimate(values, name, share=False), values[~np.isnan(values)], seed=seed)

    by_class = {
        kind: estimate_gap(np.where(labels == kind, gaps, np.nan), f"gap {kind}")
        for kind in np.unique(labels).tolist()
    }
    return BackgroundGap(
        same=estimate(answers.same, "same", share=True),
        other=estimate(answers.other, "other", share=True),
        gap=estimate_gap(gaps, "gap"),
        flip_rate=estimate(answers.flips, "flips", share=True),
        p_value=flip_signs(gaps, seed=seed),
        by_class=by_class,
    )


def _widen(found: Estimate, gaps: Floats, *, seed: int) -> Estimate:
    """Widen the interval of a gap to what so few objects that differ can tell.

    Draws of objects of which one differs know of that one alone, and of none on the other side. So
    the two sides, objects that do better on either kind of scene, have Wilson's interval each,
    joined by squares (Zou and Donner 2008). An end stays where flips of signs tell the gap from 0
    towards it.
    """
    if not len(gaps):
        return found
    (gain, above), (loss, below) = (_bound_share(gaps.clip(0)), _bound_share((-gaps).clip(0)))
    low = found.value - math.hypot(gain - above.low, below.high - loss)
    high = found.value + math.hypot(above.high - gain, loss - below.low)
    old = found.interval
    if flip_signs(gaps, seed=seed) > _SURE:
        old = Interval(max(-1.0, min(low, old.low)), old.high)
    if flip_signs(-gaps, seed=seed) > _SURE:
        old = Interval(old.low, min(1.0, max(high, old.high)))
    return replace(found, interval=old)


def _bound_share(values: Floats) -> tuple[float, Interval]:
    """Return the mean of values in [0, 1] and Wilson's interval of it.

    Trials are as many objects as would be if each value were 0 or 1. Values vary less than that;
    one more object of 0 and one of 1 keep a spread that nobody saw from being none.
    """
    mean, more = float(values.mean()), np.append(values, [0.0, 1.0])
    middle = float(more.mean())
    trials = len(values) * middle * (1 - middle) / float(more.var())
    return mean, wilson_interval(mean * trials, trials)


def compare_background_gaps(
    first: ObjectAnswers, second: ObjectAnswers, *, seed: int = 0, resamples: int = RESAMPLES
) -> GapChange:
    """Compare two encoders on the same composites, paired by object.

    Args:
        first: of one encoder.
        second: of the other, which is what the change leads to.
        seed: of the resampling.
        resamples: draws of objects for the intervals.

    Raises:
        ValueError: they are not of the same objects.

    Example:
        >>> leans, holds = (tabulate_objects(said, other=[0, 1], objects=["a", "a"], labels=[0, 0])
        ...     for said in ([0, 1], [0, 0]))
        >>> compare_background_gaps(leans, holds).gap.value
        -1.0
    """
    same = first.objects == second.objects and bool((first.labels == second.labels).all())
    if not same:
        raise ValueError("the answers are not of the same objects")
    gap, flips = (
        estimate_mean(
            after - before, first.labels, share=False, seed=seed, name=name, resamples=resamples
        )
        for after, before, name in (
            (second.gaps, first.gaps, "gap change"),
            (second.flips, first.flips, "flips change"),
        )
    )
    return GapChange(gap=gap, flip_rate=flips)


def estimate_mean(
    values: ArrayLike,
    labels: ArrayLike,
    *,
    share: bool,
    seed: int = 0,
    name: str = "mean",
    resamples: int = RESAMPLES,
) -> Estimate:
    """Estimate the mean of a figure over objects, with a bias-corrected bootstrap interval.

    Where the draws do not vary, the interval is what so many objects can tell: Wilson's, of a
    difference as far to either side as of a share of 0.

    Args:
        values: (U,) one for each object, NaN for one that has none.
        labels: (U,) class of each, within which objects are drawn.
        share: whether it is a share in [0, 1]; else a difference in [-1, 1].
        seed: of the resampling.
        name: of the figure, so that each has draws of its own.
        resamples: how many are drawn.

    Returns:
        NaN with a count of 0 where no object has a value.

    Example:
        >>> found = estimate_mean([1.0, 1.0, float("nan")], [0, 0, 1], share=True)
        >>> found.value, found.count, round(found.interval.low, 2)
        (1.0, 2, 0.34)
    """
    every = np.asarray(values, np.float64)
    known = ~np.isnan(every)
    mine, strata = every[known], _find_strata(np.asarray(labels, np.int64)[known])
    count = len(mine)
    if not count:
        return Estimate(value=math.nan, interval=UNDEFINED, bias=math.nan, count=0)
    value = float(mine.mean())
    design = Design(mine[None, :, None], np.ones((count, 1)), strata)
    [draws] = draw_units(design, size=resamples, random=generator(seed, "background gap", name))
    drawn = (draws.hits / draws.totals)[:, 0]
    if np.ptp(drawn) > _EQUAL:
        interval = correct_bias(drawn, value)
    elif share:
        interval = wilson_interval(min(max(value, 0.0), 1.0) * count, count)
    else:
        reach = wilson_interval(0, count).high
        # A change of a gap may itself lie beyond 1.
        interval = Interval(
            min(value, max(-1.0, value - reach)), max(value, min(1.0, value + reach))
        )
    bias = float(np.median(drawn)) - value
    return Estimate(value=value, interval=interval, bias=bias, count=count)


def _find_strata(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    _, stratum, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    lonely = len(sizes) > 0 and int(sizes.min()) == 1
    return np.zeros_like(stratum) if lonely else np.asarray(stratum, np.int64)


def flip_signs(differences: ArrayLike, *, seed: int = 0, draws: int = DRAWS) -> float:
    """Test whether differences are above 0 by flipping their signs (one-sided).

    If backgrounds do not matter, an object is as likely to do better on either kind of scene. Where
    at most 13 objects differ, all flips are tried, otherwise so many are drawn.

    Args:
        differences: (U,) one for each object; NaN are left out.
        seed: of the draws.
        draws: how many.

    Returns:
        The share of flips with a sum at least as large as the one observed; 1 where no object
        differs, NaN without objects.

    Example:
        >>> flip_signs([1.0, 1.0, 0.0]), flip_signs([0.0]), flip_signs([])
        (0.25, 1.0, nan)
    """
    every = np.asarray(differences, np.float64)
    every = every[~np.isnan(every)]
    if not len(every):
        return math.nan
    changed = every[np.abs(every) > _EQUAL]
    least = float(changed.sum()) - _EQUAL
    if len(changed) <= _EXACT:
        codes = np.arange(2 ** len(changed))[:, None] >> np.arange(len(changed))
        return float(((1 - 2 * (codes & 1)) @ changed >= least).mean())
    random = generator(seed, "sign flips")
    signs = 1 - 2 * random.integers(2, size=(draws, len(changed)), dtype=np.int8).astype(np.float64)
    return (1 + int((signs @ changed >= least).sum())) / (1 + draws)
