from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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

# Six images of two labels; cluster 0 is in images 0, 1 and 3, cluster 1 in all of label 0,
# cluster 2 in none.
PRESENCE = np.array([[1, 1, 0], [1, 1, 0], [0, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]], bool)
LABELS = np.array([0, 0, 0, 1, 1, 1])
CORRECT = np.array([1, 1, 0, 0, 1, 1], bool)


def test_the_gap_of_a_hand_worked_table():
    table = tabulate_gaps(PRESENCE, LABELS, correct=CORRECT, width=2)
    assert table.hits_in.tolist() == [[2, 0], [2, 0], [0, 0]]
    assert table.totals_in.tolist() == [[2, 1], [3, 0], [0, 0]]
    assert table.hits_out.tolist() == [[0, 2], [0, 2], [2, 2]]
    assert table.totals_out.tolist() == [[1, 2], [0, 3], [3, 3]]
    np.testing.assert_allclose(label_weights(table)[0], [2 / 3, 2 / 3])
    np.testing.assert_allclose(label_gaps(table), np.array([[1, -1], [np.nan] * 2, [np.nan] * 2]))
    np.testing.assert_allclose(cluster_gaps(table), [4 / 3, np.nan, np.nan])
    np.testing.assert_allclose(cluster_gaps(table, weighted=False), [2, np.nan, np.nan])


def gap_by_loops(presence, labels, correct, cluster, width):
    """Definition 2 word for word, one image at a time."""
    total, defined = 0.0, False
    for label in range(width):
        inside: list[bool] = []
        outside: list[bool] = []
        for image in range(len(labels)):
            if labels[image] == label:
                (inside if presence[image][cluster] else outside).append(bool(correct[image]))
        if not inside or not outside:
            continue
        defined = True
        weight = 2 * min(len(inside), len(outside)) / (len(inside) + len(outside))
        total += abs(weight * (sum(inside) / len(inside) - sum(outside) / len(outside)))
    return total if defined else math.nan


@settings(deadline=None, max_examples=60)
@given(data=st.data(), count=st.integers(1, 14), width=st.integers(1, 3))
def test_the_gap_equals_the_definition_worked_by_loops(data, count, width):
    bits = st.lists(st.booleans(), min_size=count, max_size=count)
    presence = np.array([data.draw(bits) for _ in range(3)]).T
    correct = np.array(data.draw(bits))
    labels = np.array(
        data.draw(st.lists(st.integers(0, width - 1), min_size=count, max_size=count))
    )
    table = tabulate_gaps(presence, labels, correct=correct, width=width)
    expected = [gap_by_loops(presence, labels, correct, c, width) for c in range(3)]
    np.testing.assert_allclose(cluster_gaps(table), expected, atol=1e-12)
    low, high = bound_cluster_gaps(table)
    defined = ~np.isnan(expected)
    assert (np.isnan(low) == ~defined).all()
    assert (low[defined] <= cluster_gaps(table)[defined] + 1e-12).all()
    assert (high[defined] >= cluster_gaps(table)[defined] - 1e-12).all()


def test_presence_counts_an_image_once_and_passes_over_regions_in_no_cluster():
    presence = mark_presence([0, 0, 0, 2], [3, 3, -1, 0], count=3, width=4)
    assert presence.astype(int).tolist() == [[0, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [  # Newcombe 1998, table II, method 10, contrasts (a), (b) and (h)
        ((56, 70, 48, 80), (0.0524, 0.3339)),
        ((9, 10, 3, 10), (0.1705, 0.8090)),
        ((10, 10, 0, 10), (0.6075, 1.0000)),
    ],
)
def test_the_interval_of_a_difference_is_newcombes(counts, expected):
    table = GapTable(*(np.array([[count]]) for count in counts))
    low, high = bound_label_gaps(table)
    np.testing.assert_allclose([low.item(), high.item()], expected, atol=6e-5)


def test_the_interval_of_a_gap_over_no_difference_starts_at_nought():
    table = GapTable(*(np.array([[count] * 3]) for count in (10, 20, 11, 20)))
    low, high = bound_cluster_gaps(table)
    assert low.item() == 0
    assert high.item() > cluster_gaps(table).item()


def exact_p_value(presence, labels, correct, cluster, width):
    """Every way to place the right answers within each label, one at a time."""
    members = [np.flatnonzero(labels == label) for label in range(width)]
    observed = gap_by_loops(presence, labels, correct, cluster, width)
    extreme = total = 0
    choices = [itertools.combinations(part, int(correct[part].sum())) for part in members]
    for chosen in itertools.product(*choices):
        placed = np.zeros(len(labels), bool)
        placed[list(itertools.chain(*chosen))] = True
        extreme += gap_by_loops(presence, labels, placed, cluster, width) >= observed - 1e-9
        total += 1
    return extreme / total


def test_the_p_value_agrees_with_all_permutations():
    labels = np.repeat([0, 1], 5)
    presence = np.array([[1, 1, 1, 0, 0] * 2, [1, 0, 0, 0, 1, 1, 1, 0, 0, 1]], bool).T
    correct = np.array([1, 1, 1, 0, 0, 0, 0, 1, 1, 1], bool)
    chance = permute_gaps(presence, labels, correct=correct, width=2, permutations=4000)
    for cluster in (0, 1):
        exact = exact_p_value(presence, labels, correct, cluster, 2)
        assert abs(chance.p_values[cluster] - exact) < 0.03
    assert chance.count == 4000


def step_down_by_loops(observed, drawn):
    """Westfall and Young's algorithm 4.1 with maxima, one cluster and draw at a time."""
    every = [observed, *drawn]
    columns = list(zip(*every, strict=True))
    centre = [statistics.fmean(column) for column in columns]
    spread = [statistics.pstdev(column) for column in columns]
    scores = [[(g - c) / s for g, c, s in zip(row, centre, spread, strict=True)] for row in every]
    order = sorted(range(len(observed)), key=lambda cluster: -scores[0][cluster])
    adjusted, least = [0.0] * len(observed), 0.0
    for rank, cluster in enumerate(order):
        rest = order[rank:]
        extreme = sum(max(row[c] for c in rest) >= scores[0][cluster] for row in scores)
        least = adjusted[cluster] = max(least, extreme / len(every))
    return adjusted


def test_the_correction_is_the_step_down_maximum():
    random = np.random.default_rng(3)
    for shift in (0.0, 0.3):
        drawn = random.gamma(2, 0.1, size=(99, 5)) * [1, 2, 3, 1, 0.1]
        observed = random.gamma(2, 0.1, size=5) + np.array([shift, 0, shift, 0, 0])
        chance = _compare(observed, drawn)
        np.testing.assert_allclose(chance.adjusted, step_down_by_loops(observed, drawn))
        raw = [(1 + (drawn[:, c] >= observed[c]).sum()) / 100 for c in range(5)]
        np.testing.assert_allclose(chance.p_values, raw)


def test_a_family_of_one_cluster_or_of_copies_of_one_costs_nothing():
    random = np.random.default_rng(3)
    labels, correct = np.repeat([0, 1], 30), random.random(60) < 0.6
    presence = random.random((60, 1)) < 0.4
    for copies in (1, 3):
        chance = permute_gaps(
            np.tile(presence, copies), labels, correct=correct, width=2, permutations=299
        )
        np.testing.assert_array_equal(chance.adjusted, chance.p_values)


def test_nothing_spurious_is_reported_no_more_often_than_the_level_says():
    random = np.random.default_rng(0)
    labels, found = np.repeat([0, 1], 40), 0
    for run in range(100):
        presence, correct = random.random((80, 8)) < 0.3, random.random(80) < 0.7
        chance = permute_gaps(presence, labels, correct=correct, width=2, seed=run, permutations=99)
        found += bool((chance.adjusted <= 0.05).any())
    # 12 or more of 100 at a rate of 0.05 happen once in 200.
    assert found <= 11


def test_a_cluster_without_a_gap_has_no_p_value_and_one_that_cannot_vary_has_one():
    chance = permute_gaps(PRESENCE, LABELS, correct=CORRECT, width=2, permutations=50)
    assert np.isnan(chance.p_values).tolist() == [False, True, True]
    assert np.isnan(chance.expected[1])
    right = permute_gaps(PRESENCE, LABELS, correct=np.ones(6, bool), width=2, permutations=50)
    assert right.adjusted[0] == right.p_values[0] == 1
    assert right.expected[0] == 0


def test_a_seed_gives_the_same_figures_again():
    one, again, other = (
        permute_gaps(PRESENCE, LABELS, correct=CORRECT, width=2, seed=seed, permutations=300)
        for seed in (5, 5, 6)
    )
    assert one.expected[0] == again.expected[0] != other.expected[0]
