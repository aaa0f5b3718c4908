"""Accuracies by group, keyed by group id, under the names that WILDS uses.

A group without images has accuracy NaN and count 0; it is reported, and ignored for the minimum and
the mean. WILDS (grouper.py, waterbirds_dataset.py) calls the train-frequency weighted mean
`adj_acc_avg`; others use "adjusted" for the unweighted mean over groups, which is `acc_groups_mean`
here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class GroupCounts(NamedTuple):
    """How many images each group has, and how many of them were right.

    Attributes:
        ids: (G,) group ids, ascending.
        hits: (G,) correct predictions.
        totals: (G,) images, 0 for a group that is absent.
    """

    ids: NDArray[np.int64]
    hits: NDArray[np.int64]
    totals: NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """The accuracies of one set of predictions.

    Attributes:
        accuracies: group id to accuracy in [0, 1], NaN for a group without images.
        counts: group id to number of images.
        average: share of all images that are right.
        worst: the lowest accuracy among groups that have images.
        worst_group: the id of that group, None when no group has images.
        groups_mean: unweighted mean over groups that have images.
        adjusted: mean weighted by training frequency, NaN when it cannot be known.
    """

    accuracies: dict[int, float]
    counts: dict[int, int]
    average: float
    worst: float
    worst_group: int | None
    groups_mean: float
    adjusted: float


def count_groups(
    correct: ArrayLike, groups: ArrayLike, *, known: Iterable[int] = ()
) -> GroupCounts:
    """Count images and correct predictions by group.

    Args:
        correct: (n,) booleans.
        groups: (n,) group ids.
        known: ids to report even when no image has them.

    Raises:
        ValueError: the two arrays differ in shape.

    Example:
        >>> count_groups([True, False, True], [0, 0, 2], known=[0, 1, 2]).totals.tolist()
        [2, 0, 1]
    """
    right = np.asarray(correct, dtype=bool)
    of = np.asarray(groups, dtype=np.int64)
    if right.ndim != 1 or right.shape != of.shape:
        raise ValueError(f"correct {right.shape} and groups {of.shape} must both be (n,)")
    ids = np.union1d(of, np.asarray(sorted(known), dtype=np.int64))
    place = np.searchsorted(ids, of)
    totals = np.bincount(place, minlength=len(ids)).astype(np.int64)
    hits = np.bincount(place[right], minlength=len(ids)).astype(np.int64)
    return GroupCounts(ids, hits, totals)


def group_accuracies(counts: GroupCounts) -> NDArray[np.float64]:
    """Return the accuracy of each group, (G,) in [0, 1], NaN where there is no image.

    Example:
        >>> group_accuracies(count_groups([True, False], [0, 0], known=[0, 1])).tolist()
        [0.5, nan]
    """
    accuracies = np.full(len(counts.ids), np.nan)
    np.divide(counts.hits, counts.totals, out=accuracies, where=counts.totals > 0)
    return accuracies


def average_accuracy(counts: GroupCounts) -> float:
    """Return the share of all images that are right, NaN without images.

    On a group-balanced test set this is the AVG of the BAP tables.

    Example:
        >>> average_accuracy(count_groups([True, False, True, True], [0, 0, 1, 1]))
        0.75
    """
    total = int(counts.totals.sum())
    return float(counts.hits.sum() / total) if total else math.nan


def worst_group_accuracy(counts: GroupCounts) -> float:
    """Return the lowest accuracy among groups that have images, NaN without any.

    Example:
        >>> worst_group_accuracy(count_groups([True, False, True], [0, 0, 1], known=[2]))
        0.5
    """
    present = counts.totals > 0
    return float(group_accuracies(counts)[present].min()) if present.any() else math.nan


def mean_group_accuracy(counts: GroupCounts) -> float:
    """Return the unweighted mean accuracy of groups that have images, NaN without any.

    Example:
        >>> mean_group_accuracy(count_groups([True, False, True], [0, 0, 1], known=[2]))
        0.75
    """
    present = counts.totals > 0
    return float(group_accuracies(counts)[present].mean()) if present.any() else math.nan


def adjusted_average_accuracy(counts: GroupCounts, *, train_counts: Mapping[int, int]) -> float:
    """Return the mean of group accuracies weighted by how often a group occurs in training.

    This is `adj_acc_avg` of WILDS for Waterbirds, whose weights are 3498, 184, 56 and 1057.

    Args:
        counts: of the evaluated images.
        train_counts: group id to number of training images; a group left out has weight 0.

    Returns:
        The mean in [0, 1]; NaN when no training image is counted, or when a group that occurs in
        training has no evaluated image, since its accuracy is then unknown.

    Example:
        >>> test = count_groups([True, False, True, True], [0, 0, 1, 1])
        >>> adjusted_average_accuracy(test, train_counts={0: 30, 1: 10})
        0.625
    """
    weighted = {group: count for group, count in train_counts.items() if count > 0}
    if not weighted:
        return math.nan
    accuracies = dict(zip(counts.ids.tolist(), group_accuracies(counts).tolist(), strict=True))
    terms = [count * accuracies.get(group, math.nan) for group, count in weighted.items()]
    return math.fsum(terms) / sum(weighted.values())


def summarise_groups(
    correct: ArrayLike,
    groups: ArrayLike,
    *,
    known: Iterable[int] = (),
    train_counts: Mapping[int, int] | None = None,
) -> GroupSummary:
    """Return every group figure of one set of predictions.

    Args:
        correct: (n,) booleans.
        groups: (n,) group ids.
        known: ids to report even when no image has them.
        train_counts: group id to number of training images, for the adjusted average.

    Example:
        >>> summary = summarise_groups([True, False, True], [0, 0, 2], known=[0, 1, 2])
        >>> summary.worst, summary.worst_group, summary.counts
        (0.5, 0, {0: 2, 1: 0, 2: 1})
    """
    counts = count_groups(correct, groups, known=known)
    accuracies = group_accuracies(counts)
    present = counts.totals > 0
    ids = counts.ids.tolist()
    return GroupSummary(
        accuracies=dict(zip(ids, accuracies.tolist(), strict=True)),
        counts=dict(zip(ids, counts.totals.tolist(), strict=True)),
        average=average_accuracy(counts),
        worst=worst_group_accuracy(counts),
        worst_group=ids[int(np.nanargmin(accuracies))] if present.any() else None,
        groups_mean=mean_group_accuracy(counts),
        adjusted=adjusted_average_accuracy(counts, train_counts=train_counts or {}),
    )


def name_metrics(summary: GroupSummary, *, names: Mapping[int, str]) -> dict[str, float]:
    """Return the figures under their WILDS names.

    Args:
        summary: from `summarise_groups`.
        names: group id to name, such as `y:landbird_background:water`.

    Returns:
        `acc_avg`, `acc_wg`, `adj_acc_avg`, `acc_groups_mean`, and `acc_NAME` and `count_NAME` of
        each group.

    Example:
        >>> summary = summarise_groups([True, False], [0, 1])
        >>> name_metrics(summary, names={0: "y:a", 1: "y:b"})["acc_y:b"]
        0.0
    """
    metrics = {
        "acc_avg": summary.average,
        "acc_wg": summary.worst,
        "adj_acc_avg": summary.adjusted,
        "acc_groups_mean": summary.groups_mean,
    }
    for group, accuracy in summary.accuracies.items():
        metrics[f"acc_{names[group]}"] = accuracy
        metrics[f"count_{names[group]}"] = float(summary.counts[group])
    return metrics
