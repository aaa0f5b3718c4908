"""Accuracy of a second encoder less that of a first, on the same images."""

from __future__ import annotations

from typing import Any

import numpy as np

from fieldmark.benchmarks.audit.accuracy import Accuracy
from fieldmark.benchmarks.audit.findings import correct_holm
from fieldmark.benchmarks.predictions import Predictions, name_clusters
from fieldmark.metrics.intervals import Difference, compare_worst_groups


def compare_accuracy(first: Accuracy, second: Accuracy) -> list[dict[str, Any]]:
    """Compare two encoders by each head that both have, paired by object.

    Returns:
        For each head, for the record: the change of average accuracy and of that of each class,
        with p-values of paired randomisation tests, those of classes corrected by Holm.
    """
    return [
        _compare(said, second.said[head])
        for head, said in first.said.items()
        if head in second.said
    ]


def _compare(first: Predictions, second: Predictions) -> dict[str, Any]:
    table = first.split.table
    labels = range(len(table.classes))
    whole = _measure(first, second, np.arange(len(table)))
    classes = [_measure(first, second, np.flatnonzero(table.labels == label)) for label in labels]
    corrected = correct_holm([one.p_value for one in classes])
    return {
        "head": first.head,
        "average": _figure(whole),
        "p_value": whole.p_value,
        "classes": [
            {"name": name, "figure": _figure(one), "adjusted_p_value": p_value}
            for name, one, p_value in zip(table.classes, classes, corrected, strict=True)
        ],
    }


def _measure(first: Predictions, second: Predictions, rows: np.ndarray[Any, Any]) -> Difference:
    """Compare the accuracy of some images: that of one group, so the worst is the average."""
    table = first.split.table
    clusters = name_clusters(table)
    return compare_worst_groups(
        first.correct[rows],
        second.correct[rows],
        np.zeros(len(rows), np.int64),
        clusters=None if clusters is None else np.asarray(clusters)[rows],
        strata=table.labels[rows],
        seed=first.seed,
    )


def _figure(one: Difference) -> dict[str, Any]:
    return {
        "value": one.value,
        "low": one.interval.low,
        "high": one.interval.high,
        "count": one.count,
    }
