"""What heads said about splits, and the rows of figures that follow from it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fieldmark.core.errors import UsageError
from fieldmark.core.records import ResultRow
from fieldmark.data.tables import ImageTable
from fieldmark.metrics.intervals import (
    Difference,
    Estimate,
    GroupEstimates,
    compare_worst_groups,
    estimate_groups,
)
from fieldmark.metrics.invariance import measure_sensitivity


@dataclass(frozen=True, eq=False, kw_only=True)
class EvaluatedSplit:
    """The images of one split that could be read.

    Attributes:
        name: of the split.
        table: their rows.
        embeddings: (n,D) of unit norm, in the order of the table.
    """

    name: str
    table: ImageTable
    embeddings: NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class Predictions:
    """What one head said about every image of one split.

    Attributes:
        split: the split.
        head: the name of the head.
        seed: the seed of the head.
        predicted: (n,) labels, in the order of `split.table`.
    """

    split: EvaluatedSplit
    head: str
    seed: int
    predicted: NDArray[np.int64]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Return for each image whether its label was predicted: (n,)."""
        return np.asarray(self.predicted == self.split.table.labels)


def name_clusters(table: ImageTable) -> tuple[str, ...] | None:
    """Return the foreground object of each row for clustered intervals.

    A row without an object stands for itself. None when no two rows share one.

    Example:
        >>> from pathlib import Path
        >>> table = ImageTable(
        ...     name="t", root=Path(), ids=("a", "b", "c"), paths=(Path(),) * 3,
        ...     labels=np.zeros(3, np.int64), classes=("bird",), objects=("owl", "owl", ""),
        ... )
        >>> len(set(name_clusters(table)))
        2
    """
    if table.objects is None:
        return None
    names = tuple(
        f"object {of}" if of else f"image {own}"
        for of, own in zip(table.objects, table.ids, strict=True)
    )
    return names if len(set(names)) < len(names) else None


def report_groups(
    predictions: Predictions, *, training: ImageTable | None, blank: ResultRow
) -> Iterator[ResultRow]:
    """Yield the rows of one set of predictions: averages, the worst group, and each group.

    Images whose background is not known count for `acc_avg` and for nothing else.

    Args:
        predictions: of one head on one split.
        training: the table whose group frequencies weigh `adj_acc_avg`, or None.
        blank: a row that says what was run.
    """
    table, seed = predictions.split.table, predictions.seed
    blank = dataclasses.replace(
        blank, split=predictions.split.name, head=predictions.head, seed=seed
    )
    groups, names = table.group_ids(), table.group_names()
    estimates = _estimate(predictions, groups, groups >= 0, known=names, training=training)
    average = estimates.average
    if (groups < 0).any():
        everything = np.ones(len(groups), dtype=bool)
        average = _estimate(predictions, groups, everything, known=(), training=None).average
    yield _fill(blank, "acc_avg", average)
    yield _fill(blank, "acc_wg", estimates.worst)
    yield dataclasses.replace(
        blank, metric="acc_wg_bias", value=estimates.worst.bias, count=estimates.worst.count
    )
    yield _fill(blank, "acc_groups_mean", estimates.groups_mean)
    yield _fill(blank, "adj_acc_avg", estimates.adjusted)
    for group, estimate in estimates.groups.items():
        yield dataclasses.replace(_fill(blank, f"acc_{names[group]}", estimate), group=group)


def _fill(blank: ResultRow, metric: str, estimate: Estimate) -> ResultRow:
    return dataclasses.replace(
        blank,
        metric=metric,
        value=estimate.value,
        ci_low=estimate.interval.low,
        ci_high=estimate.interval.high,
        count=estimate.count,
    )


def _estimate(
    predictions: Predictions,
    groups: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    *,
    known: Iterable[int],
    training: ImageTable | None,
) -> GroupEstimates:
    table = predictions.split.table
    clusters = name_clusters(table)
    return estimate_groups(
        predictions.correct[chosen],
        groups[chosen],
        known=known,
        train_counts=None if training is None else _count_training(training, like=table),
        clusters=None if clusters is None else np.asarray(clusters)[chosen],
        strata=table.labels[chosen],
        seed=predictions.seed,
    )


def _count_training(training: ImageTable, *, like: ImageTable) -> dict[int, int]:
    """Count the groups of a training table, which are those of `like`: labels, or cells."""
    if like.attributes is not None and training.attributes is None:
        return {}
    groups = training.labels if like.attributes is None else training.group_ids()
    ids, counts = np.unique(groups[groups >= 0], return_counts=True)
    return dict(zip(ids.tolist(), counts.tolist(), strict=True))


def report_sensitivity(split: EvaluatedSplit, *, blank: ResultRow) -> Iterator[ResultRow]:
    """Yield both readings of BSI (bap.txt D.1) on the images whose background is known.

    Nothing is yielded for a split without backgrounds; the value is NaN where no class has two
    images on each of two backgrounds.
    """
    attributes = split.table.attributes
    if attributes is None:
        return
    known = attributes >= 0
    result = measure_sensitivity(
        split.embeddings[known], split.table.labels[known], attributes[known]
    )
    for metric, value in (("bsi_per_dimension", result.per_dimension), ("bsi_total", result.total)):
        yield dataclasses.replace(
            blank, split=split.name, metric=metric, value=value, count=result.count
        )


def compare_predictions(first: Predictions, second: Predictions, *, seed: int = 0) -> Difference:
    """Compare the worst-group accuracy of two methods on the images that both have seen.

    Args:
        first: of one method.
        second: of another, on the same split; its worst group minus that of `first` is returned.
        seed: of the resampling.

    Raises:
        UsageError: the two share no image whose group is known.
    """
    table = first.split.table
    at = {name: index for index, name in enumerate(second.split.table.ids)}
    groups = table.group_ids()
    mine = np.array(
        [i for i, name in enumerate(table.ids) if name in at and groups[i] >= 0], np.int64
    )
    if not len(mine):
        raise UsageError(
            "the two sets of predictions share no image",
            where=f"{first.split.name}, {second.split.name}",
            mend="compare methods on one split of one table",
        )
    theirs = [at[table.ids[index]] for index in mine.tolist()]
    clusters = name_clusters(table)
    return compare_worst_groups(
        first.correct[mine],
        second.correct[theirs],
        groups[mine],
        clusters=None if clusters is None else np.asarray(clusters)[mine],
        strata=None if clusters is None else table.labels[mine],
        seed=seed,
    )
