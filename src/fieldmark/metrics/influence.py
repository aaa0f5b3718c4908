"""Which clusters of regions mislead a model (RaVL, Definition 1), and how they are ranked.

RaVL's published code differs from its paper in filters that the paper does not name
(facts/peers_and_layouts.md 3.1); they are options here, off by default: `PAPER` and `REFERENCE`.

Shape letters: n images, R regions, C clusters, Y labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.metrics.cluster_gaps import Counts, Floats


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which clusters are kept.

    Attributes:
        threshold: least influence, inclusive; None leaves influence out of account (the ablation
            "G only" of RaVL's Table 2).
        opposite_gaps: keep only clusters that help one label and harm another.
        skip_single_regions: leave images with one region out of the influence, since their one
            region is always the strongest.
        weighted: weigh each label's gap by w_y.
    """

    threshold: float | None = 0.25
    opposite_gaps: bool = False
    skip_single_regions: bool = False
    weighted: bool = True


PAPER = Selection()
REFERENCE = Selection(opposite_gaps=True, skip_single_regions=True)


class Influence(NamedTuple):
    """How often a cluster holds the region that speaks most for a wrong prediction.

    Attributes:
        scores: (C,) the largest share over labels, in [0, 1]; NaN without an error to look at.
        shares: (C,Y) the share by true label, NaN without an error of it.
        errors: (C,Y) images behind each share.
        misled: (C,Y) wrong predictions that the cluster speaks most for, by predicted label.
    """

    scores: Floats
    shares: Floats
    errors: Counts
    misled: Counts


@dataclass(frozen=True, eq=False)
class Ranking:
    """The clusters that are kept, and why the others are not.

    Attributes:
        order: ids of the clusters kept, the largest gap first; ties go by influence, then by id.
        dropped: reason to number of clusters, each counted under the first reason that holds.
    """

    order: Counts
    dropped: dict[str, int]


class Precision(NamedTuple):
    """Precision at K of a ranked list.

    Attributes:
        value: in [0, 1], NaN for an empty list.
        hits: how many of those considered have the feature.
        considered: the first min(K, size).
        size: of the whole list, the cluster.
    """

    value: float
    hits: int
    considered: int
    size: int


def find_strongest_regions(
    scores: ArrayLike, images: ArrayLike, *, predictions: ArrayLike
) -> NDArray[np.int64]:
    """Find the region of each image that scores highest for the image's predicted label.

    Args:
        scores: (R,Y) score of each region for each label; any increasing function of them, such
            as a softmax temperature, gives the same.
        images: (R,) image of each region, in any order.
        predictions: (n,) predicted label of each image.

    Returns:
        (n,) row of the region, the first of those that tie; -1 for an image without regions.

    Example:
        >>> scores = [[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]]
        >>> find_strongest_regions(scores, [0, 0, 1], predictions=[1, 0, 0]).tolist()
        [1, 2, -1]
    """
    image, predicted = np.asarray(images, np.int64), np.asarray(predictions, np.int64)
    strongest = np.full(len(predicted), -1, np.int64)
    if len(image):
        own = np.asarray(scores)[np.arange(len(image)), predicted[image]]
        # A stable sort keeps the first of regions that tie.
        order = np.lexsort((-own, image))
        owners, first = np.unique(image[order], return_index=True)
        strongest[owners] = order[first]
    return strongest


def measure_influence(
    presence: ArrayLike,
    strongest: ArrayLike,
    *,
    labels: ArrayLike,
    predictions: ArrayLike,
    gaps: Floats,
    skip: ArrayLike | None = None,
) -> Influence:
    """Measure the influence of each cluster (RaVL, Definition 1, equation 1).

    Looked at are the images with the cluster whose prediction is wrong and whose label is
    predicted less well with the cluster than without it.

    Args:
        presence: (n,C) booleans from `cluster_gaps.mark_presence`.
        strongest: (n,) cluster of each image's strongest region, -1 for none.
        labels: (n,) true labels, 0 to Y - 1.
        predictions: (n,) predicted labels, 0 to Y - 1.
        gaps: (C,Y) from `cluster_gaps.label_gaps`.
        skip: (n,) images to leave out; none by default.

    Example:
        >>> presence, gaps = np.array([[1, 1], [1, 0]], bool), np.array([[-0.5, 0], [-0.5, 0]])
        >>> result = measure_influence(
        ...     presence, [0, 1], labels=[0, 0], predictions=[1, 1], gaps=gaps
        ... )
        >>> result.scores.tolist(), result.errors[:, 0].tolist()
        ([0.5, 0.0], [2, 1])
    """
    label, predicted = np.asarray(labels, np.int64), np.asarray(predictions, np.int64)
    looked = predicted != label
    if skip is not None:
        looked &= ~np.asarray(skip, np.bool_)
    rows, columns = np.nonzero(np.asarray(presence, np.bool_) & looked[:, None])
    harmed = gaps[columns, label[rows]] < 0
    rows, columns = rows[harmed], columns[harmed]
    pulled = np.asarray(strongest, np.int64)[rows] == columns
    errors = _count(columns, label[rows], shape=gaps.shape)
    hits = _count(columns[pulled], label[rows[pulled]], shape=gaps.shape)
    shares = np.full(gaps.shape, np.nan)
    np.divide(hits, errors, out=shares, where=errors > 0)
    best = np.where(np.isnan(shares), -np.inf, shares).max(axis=1, initial=-np.inf)
    misled = _count(columns[pulled], predicted[rows[pulled]], shape=gaps.shape)
    return Influence(np.where(np.isinf(best), np.nan, best), shares, errors, misled)


def _count(rows: Counts, columns: Counts, *, shape: tuple[int, ...]) -> Counts:
    height, width = shape
    counts = np.bincount(rows * width + columns, minlength=height * width)
    return counts.reshape(shape).astype(np.int64)


def rank_clusters(
    totals: Floats, influence: Floats, *, gaps: Floats, selection: Selection = PAPER
) -> Ranking:
    """Rank the clusters that pass the filters by their performance gap.

    Args:
        totals: (C,) from `cluster_gaps.cluster_gaps`.
        influence: (C,) scores of `measure_influence`.
        gaps: (C,Y) from `cluster_gaps.label_gaps`.
        selection: the filters.

    Example:
        >>> gaps = np.array([[0.5, -0.5], [0.2, -0.1], [np.nan, np.nan]])
        >>> totals, influence = np.array([1.0, 0.3, np.nan]), np.array([0.3, 0.1, np.nan])
        >>> ranking = rank_clusters(totals, influence, gaps=gaps)
        >>> ranking.order.tolist(), sum(ranking.dropped.values())
        ([0], 2)
    """
    reasons = {
        "no label has images both with and without it": np.isnan(totals),
        "accuracy does not change with it": totals == 0,
    }
    if selection.opposite_gaps:
        both = (gaps > 0).any(axis=1) & (gaps < 0).any(axis=1)
        reasons["it does not help one label and harm another"] = ~both
    if selection.threshold is not None:
        reasons["no wrong prediction of a label that it harms"] = np.isnan(influence)
        reasons[f"its influence is below {selection.threshold:g}"] = influence < selection.threshold
    left = np.ones(len(totals), np.bool_)
    dropped = {}
    for reason, fails in reasons.items():
        if count := int((left & fails).sum()):
            dropped[reason] = count
        left &= ~fails
    kept = np.flatnonzero(left)
    pull = np.nan_to_num(influence[kept], nan=-1)
    return Ranking(kept[np.lexsort((kept, -pull, -totals[kept]))], dropped)


def find_tied_labels(weighted_gaps: Floats, misled: Counts) -> NDArray[np.int64]:
    """Find the label that the model ties to each cluster: (C,), -1 where nothing tells.

    It is the label whose accuracy falls most where the cluster is absent (the largest positive
    gap). Where no label has a positive gap, as when all its images have the cluster, it is the
    label that the cluster's errors are taken for.

    Args:
        weighted_gaps: (C,Y) w_y (p_in - p_out), NaN where undefined. RaVL's demonstration takes
            them without weights.
        misled: (C,Y) of `measure_influence`.

    Example:
        >>> gaps = np.array([[0.4, -0.2], [np.nan, -0.3], [np.nan, np.nan]])
        >>> find_tied_labels(gaps, np.array([[0, 0], [5, 0], [0, 0]])).tolist()
        [0, 0, -1]
    """
    gaps = np.where(np.isnan(weighted_gaps), -np.inf, weighted_gaps)
    by_gap = np.where(gaps.max(axis=1, initial=-np.inf) > 0, gaps.argmax(axis=1), -1)
    by_error = np.where(misled.max(axis=1, initial=0) > 0, misled.argmax(axis=1), -1)
    return np.where(by_gap >= 0, by_gap, by_error).astype(np.int64)


def measure_precision(relevant: ArrayLike, *, k: int = 10) -> Precision:
    """Measure precision at K of regions in ranked order (RaVL, section 3.2).

    The paper leaves a cluster smaller than K open; here its size divides.

    Args:
        relevant: booleans in ranked order, nearest to the medoid first.
        k: K, 1 or more.

    Example:
        >>> measure_precision([True, False, True], k=10)
        Precision(value=0.666..., hits=2, considered=3, size=3)
    """
    found = np.asarray(relevant, np.bool_)
    first = found[:k]
    hits = int(first.sum())
    return Precision(hits / len(first) if len(first) else math.nan, hits, len(first), len(found))
