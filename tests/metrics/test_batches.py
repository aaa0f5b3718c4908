"""A batch gives each of its members what it gets alone; lists of whole numbers and bits do as well.

Undefined members stay undefined and leave the others as they are.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fieldmark.metrics.cluster_gaps import Chance, permute_gaps, take_larger
from fieldmark.metrics.curves import area_under, draw_means
from fieldmark.metrics.influence import find_tied_labels, measure_influence
from fieldmark.metrics.localisation import correlate_ranks, energy_in_mask, pointing_game
from fieldmark.metrics.overlap import (
    UNDECIDED,
    UNRESOLVABLE,
    MapRule,
    find_source,
    measure_density,
    measure_iou,
    score_parts,
)

seeds = st.integers(0, 2**32 - 1)


@given(seeds)
def test_parts_are_scored_image_by_image(seed):
    random = np.random.default_rng(seed)
    maps, parts = random.integers(-2, 5, (3, 4)), random.integers(0, 3, (3, 2, 4))
    rules: list[tuple[MapRule, Any]] = [("paper", measure_iou), ("density", measure_density)]
    for rule, score in rules:
        whole = score_parts(maps.tolist(), parts.tolist(), rule=rule)
        assert whole.shape == (3, 2)
        for row in range(3):
            alone = score(maps[row].astype(float), parts[row].astype(float))
            assert np.array_equal(whole[row], alone, equal_nan=True)


def test_the_paper_rule_by_hand_where_counts_are_large():
    # Cells at half of the top or more: the first two, of 2 and 6 patches; union of part 0: 8.
    found = measure_iou([4, 2, 1], [[2, 2, 0], [0, 4, 9]])
    assert found.tolist() == [4 / 8, 4 / (8 + 13 - 4)]


def test_no_positive_value_overlaps_nothing_and_one_patch_is_enough():
    assert measure_iou([0.0, -1.0], [[1, 0], [0, 1]]).tolist() == [0.0, 0.0]
    assert measure_iou([1.0, 0.0], [[1, 0], [0, 1]]).tolist() == [1.0, 0.0]
    assert measure_iou([[[1.0]], [[0.0]]], [[[[1]]], [[[1]]]]).tolist() == [[[1.0]], [[0.0]]]


@given(st.lists(st.lists(st.integers(0, 3), min_size=2, max_size=2), min_size=1, max_size=5))
def test_sources_are_found_image_by_image(scores):
    found = find_source(scores)
    assert found.dtype == np.int64
    expected = [UNDECIDED if a == b else int(b > a) for a, b in scores]
    assert found.tolist() == expected
    assert find_source(scores, resolvable=[0] * len(scores)).tolist() == [UNRESOLVABLE] * len(
        scores
    )


def test_a_lead_is_told_relative_to_the_larger_score():
    assert find_source([100.0, 100.0 + 1e-9]).item() == UNDECIDED
    assert find_source([0.1, 0.1001]).item() == 1
    assert find_source([math.nan, 0.2]).item() == 1
    assert find_source([math.nan, math.nan]).item() == UNDECIDED


@given(seeds)
def test_rank_correlations_are_scipys_pair_by_pair(seed):
    random = np.random.default_rng(seed)
    first, second = random.integers(0, 4, (2, 4, 2, 3))
    found = correlate_ranks(first.tolist(), second.tolist())
    for row in range(4):
        pair = first[row].ravel(), second[row].ravel()
        if min(len(set(one.tolist())) for one in pair) == 1:
            assert math.isnan(found[row])
        else:
            assert found[row] == pytest.approx(stats.spearmanr(*pair).statistic)


def test_one_map_that_is_not_finite_leaves_the_others_as_they_are():
    first = np.array([[[1.0, 2.0, 3.0]]] * 3)
    second = np.array([[[1.0, 2.0, 3.0]], [[math.inf, 0.0, 1.0]], [[3.0, 2.0, 1.0]]])
    assert correlate_ranks(first, second) == pytest.approx([1, math.nan, -1], nan_ok=True)
    assert correlate_ranks(second, first) == pytest.approx([1, math.nan, -1], nan_ok=True)
    masks = [[[1, 0, 0]]] * 3
    found = energy_in_mask(second, masks)
    assert found[[0, 2]] == pytest.approx([1 / 6, 1 / 2])
    assert math.isnan(found[1])
    assert np.array_equal(pointing_game(second, masks), [0, math.nan, 1], equal_nan=True)


def test_energy_of_soft_masks_and_of_masks_that_leave_nothing_out():
    assert energy_in_mask([[[1, 3]]], [[[0.5, 0.0]]]).tolist() == [0.125]
    assert math.isnan(energy_in_mask([[[1, 3]]], [[[1, 1]]])[0])
    assert math.isnan(energy_in_mask([[[1, 3]]], [[[0, 0]]])[0])
    assert energy_in_mask(np.zeros((0, 1, 2)), np.zeros((0, 1, 2))).shape == (0,)


def test_areas_of_a_batch_and_of_uneven_steps():
    assert area_under([[0, 1, 1], [1, 1, 0]], [0, 1, 4]).tolist() == [3.5 / 4, 2.5 / 4]


@pytest.mark.parametrize("size", [1, 7, 300])
def test_means_are_drawn_by_object_and_a_seed_gives_the_same(size):
    values: list[list[float]] = [[1, 0, 1, 1], [math.nan, 2, math.nan, 2]]
    drawn = draw_means(values, ["a", "a", "b", "c"], size=size, seed=3)
    assert drawn.shape == (size, 2)
    assert np.array_equal(
        drawn, draw_means(values, ["a", "a", "b", "c"], size=size, seed=3), equal_nan=True
    )
    # Object a gives 1 of 2 images, b and c 1 of 1: a mean lies between a's share and theirs.
    assert ((drawn[:, 0] >= 0.5) & (drawn[:, 0] <= 1.0)).all()
    if size > 100:
        assert drawn[:, 0].mean() == pytest.approx(0.77, abs=0.04)
    defined = drawn[~np.isnan(drawn[:, 1]), 1]
    assert set(defined.tolist()) <= {2.0}


def test_default_seeds_are_zero():
    values, names = [[1.0, 0.0, 1.0, 0.0, 1.0]], list("abcde")
    assert np.array_equal(
        draw_means(values, names, size=50), draw_means(values, names, size=50, seed=0)
    )


def test_the_larger_p_value_counts_cluster_by_cluster():
    one, other = (
        Chance(expected=np.array(e), p_values=np.array(p), adjusted=np.array(a), count=9)
        for e, p, a in (
            ([0.5, 0.6], [0.1, 0.9], [0.2, 0.9]),
            ([0.7, 0.8], [0.3, 0.2], [0.1, 1.0]),
        )
    )
    found = take_larger([one, other])
    assert found.p_values.tolist() == [0.3, 0.9]
    assert found.adjusted.tolist() == [0.2, 1.0]
    assert found.expected.tolist() == [0.5, 0.6]
    assert found.count == 9
    assert take_larger([one]).adjusted.tolist() == one.adjusted.tolist()


def test_tied_labels_by_gap_then_by_errors():
    gaps = np.array([[0.2, 0.5], [-0.1, 0.0], [math.nan, math.nan], [0.1, -0.3]])
    misled = np.array([[9, 0], [0, 2], [0, 0], [0, 5]])
    assert find_tied_labels(gaps, misled).tolist() == [1, 1, -1, 0]


def test_influence_takes_lists_of_whole_numbers_and_bits():
    presence = [[1, 0], [1, 1], [0, 1], [1, 0]]
    labels, predictions = [0, 0, 1, 1], [1, 1, 0, 1]
    gaps = np.array([[-0.2, 0.1], [-0.1, -0.3]])
    lists = measure_influence(
        presence, [0, 1, 1, 0], labels=labels, predictions=predictions, gaps=gaps, skip=[0, 0, 0, 0]
    )
    arrays = measure_influence(
        np.array(presence, bool),
        np.array([0, 1, 1, 0]),
        labels=np.array(labels),
        predictions=np.array(predictions),
        gaps=gaps,
    )
    for one, other in zip(lists, arrays, strict=True):
        assert np.array_equal(one, other, equal_nan=True)


@given(seeds)
def test_permuting_takes_lists_and_is_reproducible(seed):
    random = np.random.default_rng(seed)
    presence = random.integers(0, 2, (12, 3))
    labels, correct = random.integers(0, 2, 12), random.integers(0, 2, 12)
    arrays = permute_gaps(
        presence.astype(bool), labels, correct=correct.astype(bool), width=2, permutations=20
    )
    lists = permute_gaps(
        presence.tolist(),
        labels.tolist(),
        correct=correct.tolist(),
        width=2,
        permutations=20,
        seed=0,
        weighted=True,
    )
    assert np.array_equal(arrays.p_values, lists.p_values, equal_nan=True)
    assert np.array_equal(arrays.expected, lists.expected, equal_nan=True)
