"""Nulls of error sources against all permutations and the table in facts/attribution.md."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fieldmark.attribution.error_nulls import (
    draw_partitions,
    draw_voronoi,
    sample_cells,
    shuffle_clusters,
    swap_masks,
)
from fieldmark.metrics.overlap import find_source, score_parts

VALUES = np.array([0.5, 0.3, 0.15, 0.05])
COUNTS = np.array([[6, 1, 0, 0], [0, 3, 5, 9]])


def centred(area, *, side=14):
    edge = round(side * area**0.5)
    start = (side - edge) // 2
    mask = np.zeros((side, side), bool)
    mask[start : start + edge, start : start + edge] = True
    return np.stack([mask.ravel(), ~mask.ravel()])


@pytest.mark.parametrize("rule", ["paper", "density"])
def test_shuffled_clusters_come_to_the_mean_over_all_permutations(rule):
    every = np.array(list(itertools.permutations(VALUES)))
    wins = find_source(score_parts(every, COUNTS, rule=rule))
    found = shuffle_clusters(VALUES[None], COUNTS[None], rule=rule, ids=["a"], draws=4000)
    assert found[0] == pytest.approx([(wins == 0).mean(), (wins == 1).mean()], abs=0.04)


def test_a_cluster_that_is_not_there_takes_no_part():
    values = np.append(VALUES, np.nan)
    counts = np.concatenate([COUNTS, np.zeros((2, 1))], axis=1)
    with_it = shuffle_clusters(values[None], counts[None], rule="density", ids=["a"])
    without = shuffle_clusters(VALUES[None], COUNTS[None], rule="density", ids=["a"])
    np.testing.assert_array_equal(with_it, without)


def test_an_image_gets_the_same_draws_whatever_else_is_in_its_batch():
    values, counts = np.stack([VALUES, VALUES[::-1]]), np.stack([COUNTS, COUNTS])
    both = shuffle_clusters(values, counts, rule="density", ids=["a", "b"])
    one = shuffle_clusters(values[1:], counts[1:], rule="density", ids=["b"])
    np.testing.assert_array_equal(both[1], one[0])


@pytest.mark.parametrize(
    ("area", "rule", "percent"),
    [(0.49, "paper", 54), (0.25, "paper", 82), (0.06, "paper", 96), (0.25, "density", 55)],
)
def test_voronoi_maps_are_called_background_as_often_as_the_facts_say(area, rule, percent):
    found = draw_voronoi(centred(area)[None], grid=(14, 14), rule=rule, ids=["a"], draws=1500)
    # Squares of whole patches: 81 % of the areas in the facts at worst, so a wide tolerance.
    assert 100 * found[0, 1] == pytest.approx(percent, abs=9)


def test_cells_are_those_of_the_nearest_site():
    found = sample_cells(np.random.default_rng(3), grid=(3, 5), count=20, cells=4)
    sites = np.random.default_rng(3).random((20, 4, 2)) * (3, 5)
    for number in range(20):
        for patch in range(15):
            centre = np.array([patch // 5 + 0.5, patch % 5 + 0.5])
            nearest = np.linalg.norm(sites[number] - centre, axis=1).argmin()
            assert found[number, patch] == nearest


def test_a_map_judged_by_other_masks():
    left, right = centred(0.25, side=4), 1 - centred(0.25, side=4)
    maps = np.stack([left[0], left[0], left[0]]).astype(float)
    found = swap_masks(maps, np.stack([left, right, right]), rule="density", ids=["a", "b", "c"])
    assert found[0].tolist() == [0, 1]
    assert found[1, 0] + found[1, 1] == 1
    assert 0.3 < found[1, 0] < 0.7


def test_images_that_are_not_resolvable_have_no_null():
    empty = np.stack([np.zeros(16, bool), np.ones(16, bool)])[None]
    assert draw_voronoi(empty, grid=(4, 4), rule="paper", ids=["a"]).sum() == 0
    assert swap_masks(np.ones((1, 16)), empty, rule="paper", ids=["a"]).sum() == 0
    alone = swap_masks(np.ones((1, 16)), centred(0.25, side=4)[None], rule="paper", ids=["a"])
    assert np.isnan(alone).all()


def test_partitions_keep_sizes_and_move_patches():
    parts = np.array([[[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]])
    dealt = draw_partitions(parts, ids=["a"], draws=30)
    assert (dealt.sum(-1) == [2, 1, 3]).all()
    assert (dealt.sum(2) == 1).all()
    assert dealt[0, :, 0].mean(axis=0) == pytest.approx(np.full(6, 1 / 3), abs=0.3)
    assert len(np.unique(dealt[0].reshape(30, -1), axis=0)) > 10
