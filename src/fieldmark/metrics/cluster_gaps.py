"""How far accuracy goes with the presence of a cluster of regions (RaVL, Definition 2).

An image is in a cluster when one of its regions is. A label whose images are all in, or all out,
has no gap: it is NaN, it adds nothing to the cluster's gap, and a cluster without any defined label
has gap NaN. The sum of absolute differences is above 0 by chance alone, so each gap comes with the
mean that chance gives it, with a permutation p-value, and with an interval that allows for it.

Shape letters: n images, R regions, C clusters, Y labels, B permutations.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.core.seeds import generator
from fieldmark.metrics.unit_shuffles import shuffle_units

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]
PERMUTATIONS = 999
# Bounds the memory of one block of permutations to some tens of MB at twenty thousand images.
_BLOCK = 128


class GapTable(NamedTuple):
    """Images by cluster and label, those with the cluster and those without it, (C,Y) each.

    Attributes:
        hits_in: correct predictions among the images with the cluster.
        totals_in: images with the cluster.
        hits_out: correct predictions among the images without it.
        totals_out: images without it.
    """

    hits_in: Counts
    totals_in: Counts
    hits_out: Counts
    totals_out: Counts


class Bounds(NamedTuple):
    """Lower and upper ends of intervals, of one shape, NaN where undefined."""

    low: Floats
    high: Floats


@dataclass(frozen=True, eq=False, kw_only=True)
class Chance:
    """What the gaps of C clusters would be if presence had nothing to do with being right.

    Attributes:
        expected: (C,) mean gap over the permutations.
        p_values: (C,) share of the permutations, the data among them, with a gap as large.
        adjusted: (C,) the same corrected over all clusters that have a gap.
        count: B, how many permutations were drawn.
    """

    expected: Floats
    p_values: Floats
    adjusted: Floats
    count: int


def mark_presence(
    images: ArrayLike, clusters: ArrayLike, *, count: int, width: int
) -> NDArray[np.bool_]:
    """Mark which image has a region in which cluster: (n,C).

    Args:
        images: (R,) image of each region, 0 to `count` - 1.
        clusters: (R,) cluster of each region, 0 to `width` - 1; below 0 it is in none.
        count: n.
        width: C. A cluster without regions stays empty, so column c is always cluster c.

    Example:
        >>> mark_presence([0, 0, 1], [1, 1, -1], count=2, width=2).astype(int).tolist()
        [[0, 1], [0, 0]]
    """
    image, cluster = np.asarray(images, np.int64), np.asarray(clusters, np.int64)
    present = np.zeros((count, width), np.bool_)
    inside = cluster >= 0
    present[image[inside], cluster[inside]] = True
    return present


def tabulate_gaps(
    presence: ArrayLike, labels: ArrayLike, *, correct: ArrayLike, width: int
) -> GapTable:
    """Count images and correct predictions by cluster and label.

    Args:
        presence: (n,C) booleans from `mark_presence`.
        labels: (n,) true label, 0 to `width` - 1.
        correct: (n,) whether the prediction is right.
        width: Y.

    Example:
        >>> table = tabulate_gaps([[1], [1], [0]], [0, 0, 0], correct=[1, 0, 1], width=1)
        >>> table.hits_in.item(), table.totals_in.item(), table.totals_out.item()
        (1, 2, 1)
    """
    present = np.asarray(presence, np.bool_)
    label, right = np.asarray(labels, np.int64), np.asarray(correct, np.bool_)
    shape = (present.shape[1], width)
    rows, columns = np.nonzero(present)
    cell = columns * width + label[rows]
    cells = shape[0] * width
    totals_in = np.bincount(cell, minlength=cells).reshape(shape).astype(np.int64)
    hits_in = np.bincount(cell[right[rows]], minlength=cells).reshape(shape).astype(np.int64)
    totals = np.bincount(label, minlength=width).astype(np.int64)
    hits = np.bincount(label[right], minlength=width).astype(np.int64)
    return GapTable(hits_in, totals_in, hits - hits_in, totals - totals_in)


def label_gaps(table: GapTable) -> Floats:
    """Return accuracy with the cluster minus accuracy without it: (C,Y) in [-1, 1], or NaN.

    Example:
        >>> table = tabulate_gaps([[1], [1], [0]], [0, 0, 0], correct=[1, 0, 1], width=1)
        >>> label_gaps(table).tolist()
        [[-0.5]]
    """
    return _divide(table.hits_in, table.totals_in) - _divide(table.hits_out, table.totals_out)


def label_weights(table: GapTable) -> Floats:
    """Return w_y = 2 min(n_in, n_out) / (n_in + n_out): (C,Y) in [0, 1], 0 without images.

    Example:
        >>> table = tabulate_gaps([[1], [1], [0]], [0, 0, 0], correct=[1, 0, 1], width=1)
        >>> label_weights(table).round(2)
        array([[0.67]])
    """
    inside, outside = table.totals_in, table.totals_out
    return np.asarray(2 * np.minimum(inside, outside) / np.maximum(inside + outside, 1))


def cluster_gaps(table: GapTable, *, weighted: bool = True) -> Floats:
    """Return the performance gap of each cluster (RaVL, Definition 2): (C,).

    Args:
        table: from `tabulate_gaps`.
        weighted: with w_y; without it, the first ablation of RaVL's Table 2.

    Returns:
        The sum over labels of |w_y (p_in - p_out)|, in [0, Y]; NaN without a defined label.

    Example:
        >>> table = tabulate_gaps([[1], [1], [0], [1]], [0, 0, 0, 1], correct=[1, 0, 1, 0], width=2)
        >>> cluster_gaps(table).round(3).tolist()
        [0.333]
    """
    gaps = np.abs(label_gaps(table))
    weights = label_weights(table) if weighted else np.ones_like(gaps)
    total = np.where(np.isnan(gaps), 0, weights * gaps).sum(axis=1)
    return np.where(np.isnan(gaps).all(axis=1), np.nan, total)


def bound_label_gaps(table: GapTable, *, confidence: float | Floats = 0.95) -> Bounds:
    """Return Newcombe's interval of each p_in - p_out: two (C,Y), NaN where there is no gap.

    Newcombe 1998, method 10: from the Wilson intervals of both shares.

    Args:
        table: from `tabulate_gaps`.
        confidence: of each two-sided interval, in (0, 1); a number, or (C,1) by cluster.

    Example:
        >>> table = GapTable(*(np.array([[k]]) for k in (56, 70, 48, 80)))
        >>> [round(end.item(), 4) for end in bound_label_gaps(table)]
        [0.0524, 0.3339]
    """
    level = np.asarray((1 + np.asarray(confidence)) / 2)
    z = np.vectorize(NormalDist().inv_cdf, otypes=[np.float64])(level)
    inside = _divide(table.hits_in, table.totals_in)
    outside = _divide(table.hits_out, table.totals_out)
    low_in, high_in = _wilson(inside, table.totals_in, z=z)
    low_out, high_out = _wilson(outside, table.totals_out, z=z)
    gap = inside - outside
    return Bounds(
        gap - np.hypot(inside - low_in, high_out - outside),
        gap + np.hypot(high_in - inside, outside - low_out),
    )


def bound_cluster_gaps(
    table: GapTable, *, weighted: bool = True, confidence: float = 0.95
) -> Bounds:
    """Return an interval of each cluster's gap: two (C,), NaN without a defined label.

    The sum over labels of the ends of |p_in - p_out|, each label at the level that makes all of
    them hold together (Sidak). It is wide. A bootstrap of the sum is not: in simulations of 2 to 10
    labels it held the truth in 0 to 31 of 100 runs where nothing was spurious, and in 1 to 56
    where one label of 5 or 10 was; this one in 94 or more throughout.

    Args:
        table: from `tabulate_gaps`.
        weighted: as in `cluster_gaps`.
        confidence: of the two-sided interval, in (0, 1).

    Example:
        >>> table = GapTable(*(np.array([[k]]) for k in (56, 70, 48, 80)))
        >>> [round(end.item(), 4) for end in bound_cluster_gaps(table)]
        [0.0489, 0.3116]
    """
    gaps = label_gaps(table)
    defined = (~np.isnan(gaps)).sum(axis=1, keepdims=True)
    together = np.asarray(confidence ** (1 / np.maximum(defined, 1)), np.float64)
    low, high = bound_label_gaps(table, confidence=together)
    weights = label_weights(table) if weighted else np.ones_like(gaps)
    spans = (low <= 0) & (high >= 0)
    nearest = np.where(spans, 0, np.minimum(np.abs(low), np.abs(high)))
    farthest = np.maximum(np.abs(low), np.abs(high))
    none = defined[:, 0] == 0
    ends = [np.nansum(weights * end, axis=1) for end in (nearest, farthest)]
    return Bounds(*(np.where(none, np.nan, end) for end in ends))


def permute_gaps(
    presence: ArrayLike,
    labels: ArrayLike,
    *,
    correct: ArrayLike,
    width: int,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    weighted: bool = True,
    units: ArrayLike | None = None,
) -> Chance:
    """Test whether each cluster's gap is more than chance.

    Right and wrong change places among the images of each label, once for all clusters together,
    so that what clusters share is kept. The correction is the step-down maximum of Westfall and
    Young (1993, algorithm 4.1) over gaps in units of their own deviation under chance: a cluster
    in few images has small gaps by its weight alone. Holm's correction would need many more
    permutations than 20 times the number of clusters to reach 0.05, the maximum does not.

    It says that presence goes with accuracy, not that the cluster is spurious: a core feature can
    pass. Every cluster with a gap is in the family, also one that a filter leaves out later, since
    the filters look at the same errors.

    Args:
        presence: (n,C) booleans from `mark_presence`.
        labels: (n,) true label, 0 to `width` - 1.
        correct: (n,) whether the prediction is right.
        width: Y.
        seed: of the shuffling.
        permutations: B, 1 or more.
        weighted: as in `cluster_gaps`.
        units: (n,) what each image shares with others, such as its object or scene; images of one
            unit change places together. By default each image does by itself.

    Example:
        >>> present = np.arange(20)[:, None] < 10
        >>> chance = permute_gaps(present, [0] * 20, correct=present[:, 0], width=1)
        >>> chance.adjusted.tolist()
        [0.001]
    """
    present = np.asarray(presence, np.bool_)
    label, right = np.asarray(labels, np.int64), np.asarray(correct, np.bool_)
    table = tabulate_gaps(present, label, correct=right, width=width)
    observed = cluster_gaps(table, weighted=weighted)
    scale = label_weights(table) if weighted else np.ones(table.totals_in.shape)
    random = generator(seed, "gaps")
    draw = functools.partial(
        _shuffle,
        present,
        label,
        correct=right,
        table=table,
        scale=scale,
        units=np.arange(len(label)) if units is None else np.asarray(units),
        random=random,
    )
    return _compare(observed, np.concatenate([draw(size=size) for size in _cut(permutations)]))


def take_larger(chances: Sequence[Chance]) -> Chance:
    """Return the larger p-values of several tests of the same gaps.

    Where images share objects and scenes, neither test alone allows for both.

    Args:
        chances: one or more, of one length; what chance gives on average is the first one's.

    Example:
        >>> one, other = (
        ...     Chance(expected=values, p_values=values, adjusted=values, count=9)
        ...     for values in (np.array([0.1]), np.array([0.4]))
        ... )
        >>> take_larger([one, other]).p_values.tolist()
        [0.4]
    """
    return replace(
        chances[0],
        p_values=np.max([chance.p_values for chance in chances], axis=0),
        adjusted=np.max([chance.adjusted for chance in chances], axis=0),
    )


def _cut(permutations: int) -> list[int]:
    whole, rest = divmod(permutations, _BLOCK)
    return [_BLOCK] * whole + [rest] * (rest > 0)


def _shuffle(
    present: NDArray[np.bool_],
    labels: Counts,
    *,
    correct: NDArray[np.bool_],
    table: GapTable,
    scale: Floats,
    units: NDArray[np.generic],
    size: int,
    random: np.random.Generator,
) -> Floats:
    """Return the gaps (size,C) with right and wrong shuffled within each label."""
    total = np.zeros((size, present.shape[1]))
    for label in np.unique(labels).tolist():
        members = np.flatnonzero(labels == label)
        right = correct[members]
        if right.all() or not right.any():
            continue
        drawn = right[shuffle_units(units[members], size=size, random=random)]
        # Counts below 2**24 are exact in float32, at twice the speed of float64.
        hits = drawn.astype(np.float32) @ present[members].astype(np.float32)
        inside, outside = table.totals_in[:, label], table.totals_out[:, label]
        others = drawn.sum(axis=1, keepdims=True) - hits
        gap = hits / np.maximum(inside, 1) - others / np.maximum(outside, 1)
        defined = (inside > 0) & (outside > 0)
        total += np.abs(gap) * np.where(defined, scale[:, label], 0)
    return total


def _compare(observed: Floats, drawn: Floats) -> Chance:
    defined = ~np.isnan(observed)
    every = np.concatenate([observed[None], drawn])[:, defined]
    deviation = every.std(axis=0)
    # A gap that no permutation changes tells nothing; rounding must not make it look like one.
    varies = deviation > 1e-9
    scores = np.where(varies, (every - every.mean(axis=0)) / np.where(varies, deviation, 1), 0)
    own, others = scores[0], scores[1:]
    order = np.argsort(-own, kind="stable")
    largest = np.maximum.accumulate(others[:, order][:, ::-1], axis=1)[:, ::-1]
    count = len(drawn)
    # A permutation that gives the observed gap again may differ from it in the last bits.
    stepped = (1 + (largest >= own[order] - 1e-6).sum(axis=0)) / (1 + count)
    adjusted = np.empty(len(own))
    adjusted[order] = np.maximum.accumulate(stepped)
    raw = (1 + (others >= own - 1e-6).sum(axis=0)) / (1 + count)
    return Chance(
        expected=_spread(drawn[:, defined].mean(axis=0), where=defined),
        p_values=_spread(raw, where=defined),
        adjusted=_spread(adjusted, where=defined),
        count=count,
    )


def _spread(values: Floats, *, where: NDArray[np.bool_]) -> Floats:
    out = np.full(where.shape, np.nan)
    out[where] = values
    return out


def _divide(numerator: Counts, denominator: Counts) -> Floats:
    out = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out


def _wilson(share: Floats, count: Counts, *, z: Floats) -> Bounds:
    number = np.maximum(count, 1)
    scale = 1 + z * z / number
    centre = share + z * z / (2 * number)
    half = z * np.sqrt(share * (1 - share) / number + z * z / (4 * number * number))
    # At a share of 0 or 1 rounding would leave an end beyond the share itself.
    return Bounds(
        np.minimum(share, (centre - half) / scale), np.maximum(share, (centre + half) / scale)
    )
