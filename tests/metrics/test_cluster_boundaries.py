"""Gaps, influence and ranks of clusters on a boundary, and where nothing is there."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fieldmark.metrics.cluster_gaps import (
    GapTable,
    _compare,
    bound_cluster_gaps,
    bound_label_gaps,
    cluster_gaps,
    label_gaps,
    label_weights,
    mark_presence,
    permute_gaps,
    tabulate_gaps,
)
from fieldmark.metrics.influence import (
    Selection,
    find_strongest_regions,
    find_tied_labels,
    measure_influence,
    measure_precision,
    rank_clusters,
)
from fieldmark.metrics.intervals import (
    wilson_interval,
)
from fieldmark.metrics.overlap import (
    UNDECIDED,
    correct_for_chance,
    find_source,
    is_resolvable,
    measure_iou,
)
from fieldmark.metrics.unit_shuffles import shuffle_units


def newcombe_by_hand(counts, confidence):
    """Newcombe 1998, method 10, of four numbers."""
    hits_in, in_all, hits_out, out_all = counts
    first = wilson_interval(hits_in, in_all, confidence=confidence)
    second = wilson_interval(hits_out, out_all, confidence=confidence)
    one, two = hits_in / in_all, hits_out / out_all
    return (
        one - two - math.hypot(one - first.low, second.high - two),
        one - two + math.hypot(first.high - one, two - second.low),
    )


# Three labels of four clusters: a rise, a fall and none defined; one image each way; nothing.
TABLE = GapTable(
    *np.array(
        [
            [[9, 1, 0], [1, 0, 2], [0, 0, 0], [3, 9, 5]],
            [[10, 10, 3], [1, 1, 4], [0, 0, 0], [6, 9, 10]],
            [[1, 9, 0], [0, 1, 3], [1, 1, 1], [3, 0, 4]],
            [[10, 10, 0], [1, 1, 5], [2, 2, 2], [6, 9, 8]],
        ]
    )
)


@pytest.mark.parametrize("weighted", [True, False])
def test_bounds_of_a_cluster_are_summed_label_by_label(weighted):
    low, high = bound_cluster_gaps(TABLE, weighted=weighted, confidence=0.9)
    assert low.dtype == high.dtype == np.float64
    for cluster in range(4):
        counts = [tuple(part[cluster, label] for part in TABLE) for label in range(3)]
        defined = [one for one in counts if one[1] and one[3]]
        ends = np.zeros(2)
        for one in defined:
            weight = 2 * min(one[1], one[3]) / (one[1] + one[3]) if weighted else 1
            first, last = newcombe_by_hand(one, 0.9 ** (1 / len(defined)))
            nearest = 0 if first <= 0 <= last else min(abs(first), abs(last))
            ends += weight * np.array([nearest, max(abs(first), abs(last))])
        if not defined:
            ends += math.nan
        assert [low[cluster], high[cluster]] == pytest.approx(ends, nan_ok=True)


def test_gaps_weigh_by_default_and_pass_over_labels_without_one():
    assert cluster_gaps(TABLE)[0] == pytest.approx(0.8 + 0.8)
    assert cluster_gaps(TABLE)[3] == pytest.approx(1.0)
    assert cluster_gaps(TABLE, weighted=False)[1] == pytest.approx(1 + 1 + 0.1)
    for one, other in (
        (cluster_gaps(TABLE), cluster_gaps(TABLE, weighted=True)),
        (bound_cluster_gaps(TABLE), bound_cluster_gaps(TABLE, weighted=True, confidence=0.95)),
        (bound_label_gaps(TABLE), bound_label_gaps(TABLE, confidence=0.95)),
    ):
        assert np.array_equal(one, other, equal_nan=True)


def test_no_clusters_have_no_gaps_and_no_bounds():
    nothing = tabulate_gaps(np.zeros((3, 0), bool), [0, 0, 1], correct=[1, 0, 1], width=2)
    assert label_gaps(nothing).shape == label_weights(nothing).shape == (0, 2)
    assert cluster_gaps(nothing).shape == (0,)
    assert [end.shape for end in bound_cluster_gaps(nothing)] == [(0,), (0,)]
    assert mark_presence([], [], count=2, width=3).tolist() == [[False] * 3] * 2


def test_a_label_that_is_all_right_hides_none_after_it():
    presence = np.array([1, 0, 1, 1, 0, 0], bool)[:, None]
    chance = permute_gaps(
        presence, [0, 0, 1, 1, 1, 1], correct=[1, 1, 1, 1, 0, 0], width=2, permutations=129
    )
    assert chance.expected[0] > 0
    assert chance.count == 129


def test_one_image_with_or_without_a_cluster_has_a_gap_without_weights():
    presence = np.array([[1, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, 0]], bool)
    for images in (presence, ~presence):
        chance = permute_gaps(
            images, [0] * 4, correct=[1, 1, 0, 0], width=1, permutations=400, weighted=False
        )
        # One of four, two right: 1 / 1 - 1 / 3 or 0 - 2 / 3, always two thirds.
        assert chance.expected[:2] == pytest.approx([2 / 3, 2 / 3])
        assert math.isnan(chance.expected[2])
        assert chance.p_values[:2].tolist() == [1, 1]


def test_a_gap_that_cannot_vary_leaves_the_others_their_chance():
    drawn = np.array([[0.5, 0.1], [0.5, 0.2], [0.5, 0.3], [0.5, 0.4]])
    chance = _compare(np.array([0.5, 0.28]), drawn)
    assert chance.p_values.tolist() == [1.0, 0.6]
    assert chance.adjusted.tolist() == [1.0, 0.6]
    assert chance.expected == pytest.approx([0.5, 0.25])


def test_shuffles_start_from_every_value_of_a_unit():
    units = np.array([7, 3, 7, 3, 3, 7])
    drawn = shuffle_units(units, size=200, random=np.random.default_rng(0))
    assert drawn.shape == (200, 6)
    assert drawn.dtype == np.int64
    for place in range(6):
        assert set(drawn[:, place].tolist()) == set(range(6))
    for row in drawn:
        assert len({units[value] for value in row[units == 7]}) == 1
        assert sorted(row.tolist()) == list(range(6))
    alone = shuffle_units(np.arange(4), size=3, random=np.random.default_rng(0))
    assert alone.dtype == np.int64


def test_a_small_lead_of_small_scores_and_four_parts():
    assert find_source([1e-10, 2e-10]).item() == 1
    assert find_source([0.0, 0.0, 100.0, 100.0 + 5e-8]).item() == UNDECIDED
    assert is_resolvable([[1, 0], [0, 0], [0, 1]]).item()
    assert measure_iou([1.0, 0.5, 0.25], [[1, 1, 0], [0, 0, 1]]).tolist() == [1.0, 0.0]
    batch = measure_iou([[4.0, 1.0], [1.0, 1.0]], [[[1, 0], [0, 1]]] * 2)
    assert batch.tolist() == [[1.0, 0.0], [0.5, 0.5]]
    assert correct_for_chance(0.5, 0.5).item() == 0.0


GAPS = np.array([[0.0, -0.5], [0.5, 0.0], [0.5, 0.7], [0.4, -0.1], [0.3, -0.2], [math.nan] * 2])
TOTALS = np.array([0.5, 0.5, 1.2, 0.5, 0.5, math.nan])


def test_why_clusters_are_dropped_is_said_and_counted_once():
    influence = np.array([0.9, 0.9, 0.9, 0.25, math.nan, math.nan])
    selection = Selection(opposite_gaps=True)
    found = rank_clusters(TOTALS, influence, gaps=GAPS, selection=selection)
    assert found.order.tolist() == [3]
    assert found.dropped == {
        "no label has images both with and without it": 1,
        "it does not help one label and harm another": 3,
        "no wrong prediction of a label that it harms": 1,
    }
    found = rank_clusters(np.array([0.0, 1.0]), np.array([0.9, 0.2]), gaps=GAPS[3:5])
    assert found.dropped == {
        "accuracy does not change with it": 1,
        "its influence is below 0.25": 1,
    }


def test_ties_of_gaps_go_by_influence_and_an_unknown_one_comes_last():
    influence = np.array([math.nan, 0.0, 0.1, math.nan, 0.0])
    ranking = rank_clusters(
        np.full(5, 0.5), influence, gaps=GAPS[:5], selection=Selection(threshold=None)
    )
    assert ranking.order.tolist() == [2, 1, 4, 0, 3]


def test_a_gap_of_nought_ties_no_label_and_one_error_is_enough():
    gaps = np.array([[0.0, -0.1], [math.nan, 0.4], [0.0, 0.0], [math.nan, 0.2]])
    found = find_tied_labels(gaps, np.array([[0, 1], [5, 0], [0, 0], [0, 0]]))
    assert found.tolist() == [1, 1, -1, 1]
    assert found.dtype == np.int64


def test_precision_looks_at_ten_by_default():
    assert measure_precision([0] * 10 + [1]).hits == 0
    assert measure_precision([0] * 9 + [1]).hits == 1


def test_influence_by_label_and_without_any_error():
    found = measure_influence(
        [[1], [1]], [0, 0], labels=[0, 1], predictions=[0, 1], gaps=np.array([[-0.5, 0.5]])
    )
    assert np.isnan(found.scores).tolist() == [True]
    assert found.errors.dtype == found.misled.dtype == np.int64
    none = find_strongest_regions(np.zeros((0, 2)), [], predictions=[1, 0])
    assert none.tolist() == [-1, -1]
    assert none.dtype == np.int64
