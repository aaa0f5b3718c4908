"""Group accuracies against hand-worked tables and scikit-learn, with a group absent."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, recall_score

from fieldmark.metrics.groups import (
    adjusted_average_accuracy,
    count_groups,
    group_accuracies,
    mean_group_accuracy,
    name_metrics,
    summarise_groups,
    worst_group_accuracy,
)

NAMES = {
    0: "y:landbird_background:land",
    1: "y:landbird_background:water",
    2: "y:waterbird_background:land",
    3: "y:waterbird_background:water",
}
# WILDS, waterbirds_dataset.py: images of each group in its training split.
WATERBIRDS_TRAIN = {0: 3498, 1: 184, 2: 56, 3: 1057}


def _expand(hits, totals):
    """Images with the given counts, in a shuffled order."""
    groups = np.repeat(np.arange(len(totals)), totals)
    correct = np.concatenate([np.arange(n) < k for k, n in zip(hits, totals, strict=True)])
    order = np.random.default_rng(0).permutation(len(groups))
    return correct[order], groups[order]


def test_hand_worked_waterbirds():
    correct, groups = _expand([90, 60, 30, 80], [100, 100, 50, 100])
    summary = summarise_groups(correct, groups, train_counts=WATERBIRDS_TRAIN)
    assert summary.accuracies == {0: 0.9, 1: 0.6, 2: 0.6, 3: 0.8}
    assert summary.counts == {0: 100, 1: 100, 2: 50, 3: 100}
    assert summary.average == 260 / 350
    assert (summary.worst, summary.worst_group) == (0.6, 1)
    assert summary.groups_mean == pytest.approx(0.725)
    by_hand = (0.9 * 3498 + 0.6 * 184 + 0.6 * 56 + 0.8 * 1057) / 4795
    assert summary.adjusted == pytest.approx(by_hand, abs=1e-15)


def test_wilds_names():
    metrics = name_metrics(summarise_groups([True, False], [0, 3], known=NAMES), names=NAMES)
    assert metrics["acc_y:landbird_background:land"] == 1
    assert metrics["count_y:landbird_background:water"] == 0
    assert math.isnan(metrics["acc_y:landbird_background:water"])
    assert {"acc_avg", "acc_wg", "adj_acc_avg", "acc_groups_mean"} < set(metrics)
    assert len(metrics) == 12


def test_absent_group_is_nan_and_ignored():
    correct, groups = _expand([1, 0, 3], [2, 0, 4])
    counts = count_groups(correct, groups, known=[0, 1, 2])
    assert counts.totals.tolist() == [2, 0, 4]
    assert np.isnan(group_accuracies(counts)).tolist() == [False, True, False]
    assert worst_group_accuracy(counts) == 0.5
    assert mean_group_accuracy(counts) == 0.625


def test_no_images_at_all():
    summary = summarise_groups([], [], known=[0, 1], train_counts={0: 1})
    assert summary.counts == {0: 0, 1: 0}
    assert summary.worst_group is None
    for value in (summary.average, summary.worst, summary.groups_mean, summary.adjusted):
        assert math.isnan(value)


def test_adjusted_average_cannot_be_known_without_a_trained_group():
    counts = count_groups([True, True], [0, 0], known=[0, 1])
    assert math.isnan(adjusted_average_accuracy(counts, train_counts={0: 9, 1: 1}))
    assert math.isnan(adjusted_average_accuracy(counts, train_counts={0: 9, 7: 1}))
    assert math.isnan(adjusted_average_accuracy(counts, train_counts={}))
    assert adjusted_average_accuracy(counts, train_counts={0: 9, 1: 0}) == 1


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"correct \(2,\) and groups \(1,\)"):
        count_groups([True, False], [0])


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=60))
def test_against_scikit_learn(rows):
    correct, groups = map(list, zip(*rows, strict=True))
    summary = summarise_groups(correct, groups, known=range(6))
    # Predicting one's own group where right, and a group that nobody has where wrong.
    predicted = [g if c else 9 for c, g in rows]
    recall = recall_score(groups, predicted, labels=sorted(set(groups)), average=None)
    present = {g: a for g, a in summary.accuracies.items() if summary.counts[g]}
    assert list(present.values()) == pytest.approx(recall.tolist())
    assert summary.worst == pytest.approx(recall.min())
    assert summary.groups_mean == pytest.approx(recall.mean())
    assert summary.average == pytest.approx(accuracy_score(groups, predicted))
    assert summary.worst <= summary.average + 1e-12
    # Weighted by the evaluated images themselves, the adjusted average is the plain one.
    counted = summarise_groups(correct, groups, train_counts=summary.counts)
    assert counted.adjusted == pytest.approx(summary.average)
