"""The draws behind every interval, worked one object and one draw at a time from the same seed.

Figures in a record can be worked again only while a seed keeps its draws, so the names of the
streams are part of what is tested.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from fieldmark.core.seeds import generator
from fieldmark.metrics.curves import contrast_means, draw_means, estimate_means
from fieldmark.metrics.intervals import (
    compare_worst_groups,
    correct_bias,
    estimate_groups,
    wilson_interval,
)
from fieldmark.metrics.resampling import (
    Design,
    Draws,
    compute_figures,
    draw_counts,
    draw_units,
    swap_units,
    tabulate_units,
)

OBJECTS = ["a", "a", "b", "c", "c", "c", "d"]
ROWS = np.array([[1, 0, 3, 1, 5, 2, 4], [0, math.nan, 1, 2, 2, math.nan, 9], [1, 1, 1, 1, 1, 1, 2]])


def means_by_loops(rows, seed, size):
    """Rao and Wu: three of the four objects are drawn, blocks of 250 draws at a time."""
    random, names = generator(seed, "curves", "objects"), sorted(set(OBJECTS))
    found = []
    for start in range(0, size, 250):
        block = min(250, size - start)
        for picks in random.integers(4, size=(block, 3)):
            images = [i for pick in picks for i, one in enumerate(OBJECTS) if one == names[pick]]
            values = [[row[i] for i in images if not math.isnan(row[i])] for row in rows]
            found.append([np.mean(part) if part else math.nan for part in values])
    return np.array(found)


@pytest.mark.parametrize(("seed", "size"), [(0, 30), (4, 260)])
def test_means_are_those_of_objects_drawn_one_by_one(seed, size):
    drawn = draw_means(ROWS, OBJECTS, size=size, seed=seed)
    np.testing.assert_allclose(drawn, means_by_loops(ROWS, seed, size))
    [*means] = estimate_means(ROWS, OBJECTS, size=size, seed=seed, level=0.8)
    for mean, column, row in zip(means, drawn.T, ROWS, strict=True):
        assert mean.value == pytest.approx(np.nanmean(row))
        assert mean.interval == pytest.approx(np.nanquantile(column, [0.1, 0.9]))
        assert mean.count == np.isfinite(row).sum()


def test_two_objects_give_one_or_the_other_and_one_gives_itself():
    assert set(draw_means([[0, 1]], "ab", size=40).ravel().tolist()) == {0.0, 1.0}
    assert draw_means([[3]], "a", size=4).ravel().tolist() == [3.0] * 4
    assert np.isnan(draw_means(np.zeros((2, 0)), [], size=3)).all()
    assert draw_means(np.zeros((2, 0)), [], size=3).shape == (3, 2)


def test_contrasts_are_those_of_the_same_draws():
    found = contrast_means(ROWS, OBJECTS, pairs=[(0, 1), (2, 0)], seed=4, size=260, level=0.8)
    changes = np.stack([ROWS[0] - ROWS[1], ROWS[2] - ROWS[0]])
    drawn = means_by_loops(changes, 4, 260)
    centres = np.nanmean(changes, axis=1)
    error = np.nanstd(drawn, axis=0)
    reach = np.quantile(np.nanmax(np.abs(drawn - centres) / error, axis=1), 0.8) * error
    for one, column, centre, width in zip(found, drawn.T, centres, reach, strict=True):
        assert one.value == pytest.approx(centre)
        assert one.interval == pytest.approx(np.nanquantile(column, [0.1, 0.9]))
        assert one.simultaneous == pytest.approx((centre - width, centre + width))
        assert isinstance(one.simultaneous.low, float)


def test_contrasts_of_rows_without_a_common_image_are_undefined():
    [one] = contrast_means([[1.0, math.nan], [math.nan, 1.0]], "ab", pairs=[(0, 1)])
    assert math.isnan(one.value)
    assert math.isnan(one.simultaneous.high)
    assert one.count == 0


def test_two_images_of_two_objects_have_an_interval_of_a_difference():
    [one] = contrast_means([[1.0, 0.0], [0.0, 0.0]], "ab", pairs=[(0, 1)])
    assert one.simultaneous.low <= 0.0 < 1.0 <= one.simultaneous.high
    assert one.interval == (0.0, 1.0)


def test_defaults_are_the_documented_seed_and_level():
    pairs = [(0, 1)]
    assert estimate_means(ROWS, OBJECTS) == estimate_means(ROWS, OBJECTS, seed=0, level=0.95)
    assert contrast_means(ROWS, OBJECTS, pairs=pairs) == contrast_means(
        ROWS, OBJECTS, pairs=pairs, seed=0, size=2000, level=0.95
    )


def tabulate_four_objects():
    return tabulate_units(
        [[1, 0, 1, 1, 0, 1], [0, 0, 1, 0, 1, 1]],
        [0, 1, 1, 0, 0, 1],
        width=3,
        clusters=["b", "b", "a", "c", "d", "d"],
        strata=[7, 7, 7, 3, 3, 3],
    )


def test_units_are_counted_by_stratum_and_object():
    design = tabulate_four_objects()
    assert design.strata.tolist() == [0, 0, 1, 1]  # c, d of class 3, then a, b of class 7
    assert design.strata.dtype == np.int64
    assert design.totals.tolist() == [[1, 0, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0]]
    assert design.hits[0].tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert design.hits[1].tolist() == [[0, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]]
    three = tabulate_units(
        [[1] * 6], [0] * 6, width=1, clusters=[0, 1, 2] * 2, strata=[0, 0, 1, 1, 2, 2]
    )
    assert three.strata.tolist() == [0, 0, 1, 1, 2, 2]
    nothing = tabulate_units([[]], [], width=2, clusters=[], strata=[])
    assert nothing.hits.shape == (1, 0, 2)
    assert nothing.totals.shape == (0, 2)


@pytest.mark.parametrize("size", [3, 252])
def test_units_are_drawn_stratum_by_stratum(size):
    strata = np.array([0, 0, 1, 1, 1, 2])
    totals = np.arange(12.0).reshape(6, 2) + 1
    hits = np.stack([totals / 2, totals / 3])
    first, second = draw_units(
        Design(hits, totals, strata), size=size, random=np.random.default_rng(5)
    )
    random, blocks = np.random.default_rng(5), []
    for start in range(0, size, 250):
        block = min(250, size - start)
        weights = np.zeros((block, 6))
        weights[:, 5] = 1
        for members in ([0, 1], [2, 3, 4]):
            many = len(members)
            for row, picks in enumerate(random.integers(many, size=(block, many - 1))):
                for pick in picks:
                    weights[row, members[pick]] += many / (many - 1)
        blocks.append(weights)
    expected = np.concatenate(blocks)
    np.testing.assert_allclose(first.totals, expected @ totals)
    np.testing.assert_allclose(second.totals, expected @ totals)
    np.testing.assert_allclose(first.hits, expected @ hits[0])
    np.testing.assert_allclose(second.hits, expected @ hits[1])


def test_swaps_move_each_units_hits_group_by_group():
    design = tabulate_four_objects()
    first, second = swap_units(design, size=3, random=np.random.default_rng(2))
    swapped = np.random.default_rng(2).integers(2, size=(3, 4)).astype(bool)
    for row in range(3):
        for found, own, other in ((first, 0, 1), (second, 1, 0)):
            expected = sum(design.hits[other if swapped[row, u] else own][u] for u in range(4))
            assert found.hits[row].tolist() == expected.tolist()
            assert found.totals[row].tolist() == design.totals.sum(axis=0).tolist()


def test_counts_of_a_group_of_one_image_stay_what_they_are():
    drawn = draw_counts([1, 0, 0], [1, 1, 0], size=3, random=np.random.default_rng(0))
    assert drawn.hits.tolist() == [[1, 0, 0]] * 3
    assert drawn.totals.tolist() == [[1, 1, 0]] * 3
    assert drawn.hits.dtype == drawn.totals.dtype == np.float64


def test_figures_by_hand_with_small_weights_and_absent_groups():
    draws = Draws(np.array([[0.5, 2, 0], [1, 1, 0]]), np.array([[1.0, 4, 0], [0, 2, 0]]))
    found = compute_figures(draws, weights=[3, 1, 0])
    np.testing.assert_allclose(found.groups, [[0.5, 0.5, math.nan], [math.nan, 0.5, math.nan]])
    np.testing.assert_allclose(found.average, [0.5, 1.0])
    np.testing.assert_allclose(found.worst, [0.5, 0.5])
    np.testing.assert_allclose(found.groups_mean, [0.5, 0.5])
    np.testing.assert_allclose(found.adjusted, [0.5, math.nan])
    unweighted = compute_figures(draws, weights=[0, 0, 0]).adjusted
    assert unweighted.dtype == np.float64
    assert np.isnan(unweighted).tolist() == [True, True]
    nothing = compute_figures(Draws(np.zeros((2, 0)), np.zeros((2, 0))), weights=[])
    assert np.isnan(nothing.worst).tolist() == [True, True]
    assert np.isnan(nothing.groups_mean).tolist() == [True, True]
    varied = compute_figures(
        Draws(np.array([[1.0, 0], [2, 4]]), np.array([[4.0, 0], [4, 4]])), weights=[1, 0]
    )
    assert varied.groups_mean.tolist() == [0.25, 0.75]
    assert varied.worst.tolist() == [0.25, 0.5]


CORRECT = np.array([1, 0, 1, 1, 0, 1, 1, 1, 0, 1], bool)
OTHER = np.array([1, 1, 0, 1, 1, 1, 0, 1, 1, 1], bool)
GROUPS = np.array([4, 4, 4, 4, 4, 9, 9, 9, 9, 9])
CLUSTERS = np.array(list("aabbccddee"))
STRATA = np.repeat([0, 1], [4, 6])


def test_group_figures_are_those_of_binomial_draws():
    found = estimate_groups(
        CORRECT, GROUPS, train_counts={4: 3, 9: 1}, seed=3, resamples=60, confidence=0.8
    )
    drawn = generator(3, "bootstrap").binomial([5, 5], [0.6, 0.8], size=(60, 2)) / 5
    worst, mean, adjusted = drawn.min(axis=1), drawn.mean(axis=1), drawn @ [0.75, 0.25]
    assert found.worst.interval == pytest.approx(correct_bias(worst, 0.6, confidence=0.8))
    assert found.worst.bias == pytest.approx(np.median(worst) - 0.6)
    assert found.groups_mean.interval == pytest.approx(correct_bias(mean, 0.7, confidence=0.8))
    assert found.adjusted.interval == pytest.approx(
        correct_bias(adjusted, found.adjusted.value, confidence=0.8)
    )
    assert found.groups[4].interval == pytest.approx(wilson_interval(3, 5, confidence=0.8))
    assert found.average.interval == pytest.approx(wilson_interval(7, 10, confidence=0.8))
    counts = [one.count for one in (found.average, found.groups_mean, found.adjusted, found.worst)]
    assert counts == [10, 10, 10, 5]
    assert found.clusters is None


def test_group_figures_by_object_and_their_wilson_intervals_count_objects():
    one_stratum = estimate_groups(CORRECT, GROUPS, clusters=CLUSTERS, resamples=40)
    zeros = estimate_groups(
        CORRECT, GROUPS, clusters=CLUSTERS, strata=[0] * 10, seed=0, resamples=40
    )
    assert one_stratum.worst == zeros.worst
    right = estimate_groups(
        [True] * 10,
        GROUPS,
        clusters=CLUSTERS,
        train_counts={4: 1, 9: 1},
        resamples=40,
        confidence=0.8,
    )
    assert right.groups[4].interval == wilson_interval(3, 3, confidence=0.8)  # a, b and c
    assert right.worst.interval == wilson_interval(3, 3, confidence=0.8)
    for whole in (right.average, right.groups_mean, right.adjusted):
        assert whole.interval == wilson_interval(5, 5, confidence=0.8)
        assert whole.count == 10
    assert right.clusters == 5


def test_a_group_that_is_absent_has_neither_interval_nor_bias():
    absent = estimate_groups([True, False], [0, 0], known=[5], resamples=20).groups[5]
    assert all(map(math.isnan, (absent.value, absent.bias, *absent.interval)))
    assert absent.count == 0


@pytest.mark.parametrize("strata", [None, STRATA])
@pytest.mark.parametrize("clusters", [None, CLUSTERS])
def test_differences_are_those_of_the_same_draws(clusters, strata):
    found = compare_worst_groups(
        CORRECT,
        OTHER,
        GROUPS,
        clusters=clusters,
        strata=strata,
        seed=2,
        resamples=70,
        confidence=0.8,
    )
    inside = strata if strata is not None else GROUPS if clusters is None else np.zeros(10, int)
    units = np.arange(10) if clusters is None else clusters
    design = tabulate_units([CORRECT, OTHER], GROUPS // 9, width=2, clusters=units, strata=inside)
    random = generator(2, "paired")
    before, after = draw_units(design, size=70, random=random)
    kept, changed = swap_units(design, size=70, random=random)

    def worst(draws):
        rows = zip(draws.hits, draws.totals, strict=True)
        return np.array([min(h / t for h, t in zip(*row, strict=True) if t > 0) for row in rows])

    expected = correct_bias(worst(after) - worst(before), found.value, confidence=0.8)
    assert found.value == pytest.approx(0.8 - 0.6)
    assert found.interval == pytest.approx(expected)
    extreme = (np.abs(worst(changed) - worst(kept)) >= abs(found.value) - 1e-9).sum()
    assert found.p_value == pytest.approx((1 + extreme) / 71)


def test_a_difference_that_does_not_vary_reaches_as_far_as_the_images_tell():
    found = compare_worst_groups([True] * 6, [False] * 6, [0] * 4 + [1] * 2, resamples=30)
    assert found.interval == pytest.approx((-1.0, -1.0 + wilson_interval(0, 2).high))
    narrow = compare_worst_groups([True] * 4, [True] * 4, [0] * 4, resamples=30, confidence=0.5)
    reach = wilson_interval(0, 4, confidence=0.5).high
    assert narrow.interval == pytest.approx((-reach, reach))
    default, seeded = (
        compare_worst_groups(CORRECT, OTHER, GROUPS, resamples=30, **seed)
        for seed in ({}, {"seed": 0})
    )
    assert default == seeded
    assert math.isnan(compare_worst_groups([], [], []).interval.high)
