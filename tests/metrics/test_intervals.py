"""Intervals against scipy and plain loops, and their coverage by simulation."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fieldmark.metrics.intervals import (
    compare_worst_groups,
    correct_bias,
    estimate_groups,
    mean_and_deviation,
    wilson_interval,
)


def _images(random, shares, count):
    groups = np.repeat(np.arange(len(shares)), count)
    return random.random(len(groups)) < np.asarray(shares)[groups], groups


def _composites(random, *, objects, spread=2.0, level=1.0):
    """Composites of two classes: each object is in both groups of its class, 5 times each.

    Whether a composite is right depends on its object, so images of one object go together.
    """
    cluster = np.repeat(np.arange(2 * objects), 10)
    label = cluster // objects
    group = 2 * label + np.tile(np.repeat([0, 1], 5), 2 * objects)
    ease = random.normal(level, spread, 2 * objects)
    penalty = np.array([0.0, 1.0, 0.0, 1.5])
    share = 1 / (1 + np.exp(-(ease[cluster] - penalty[group])))
    return random.random(len(cluster)) < share, group, cluster, label


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.floats(0, 1), st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_is_scipys(count, share, confidence):
    hits = round(share * count)
    theirs = stats.binomtest(hits, count).proportion_ci(confidence, method="wilson")
    ours = wilson_interval(hits, count, confidence=confidence)
    assert ours == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_wilson_without_images_is_nan():
    assert all(map(math.isnan, wilson_interval(0, 0)))


def test_bias_correction_is_scipys():
    """Without acceleration BCa is BC; a symmetric statistic of symmetric data has none."""
    random = np.random.default_rng(0)
    half = random.normal(size=40)
    data = np.concatenate([half, -half]) + 1
    theirs = stats.bootstrap((data,), np.mean, n_resamples=20_000, rng=1, method="BCa")
    ours = correct_bias(theirs.bootstrap_distribution, data.mean())
    assert ours == pytest.approx(tuple(theirs.confidence_interval), abs=2e-3)


def test_bias_correction_moves_against_the_bias():
    samples = np.random.default_rng(0).normal(-0.05, 0.1, 20_000)
    plain = np.quantile(samples, [0.025, 0.975])
    shifted = correct_bias(samples, 0.0)
    assert shifted.low > plain[0]
    assert shifted.high > plain[1]


def test_mean_and_deviation():
    result = mean_and_deviation([0.5, 0.7, math.nan, 0.9])
    assert result.mean == pytest.approx(0.7)
    assert result.count == 3
    assert result.deviation == pytest.approx(0.2)
    assert math.isnan(mean_and_deviation([0.5]).deviation)
    assert math.isnan(mean_and_deviation([]).mean)


def test_groups_without_clusters():
    correct = np.array([True] * 9 + [False] + [True] * 6 + [False] * 4)
    groups = np.repeat([0, 1], 10)
    result = estimate_groups(correct, groups, known=[0, 1, 2], train_counts={0: 3, 1: 1})
    assert result.groups[1].interval == wilson_interval(6, 10)
    assert result.average.interval == wilson_interval(15, 20)
    assert math.isnan(result.groups[2].interval.low)
    assert result.groups[2].count == 0
    assert (result.worst.value, result.worst.count) == (0.6, 10)
    assert result.worst.interval.low < 0.6 < result.worst.interval.high
    assert result.adjusted.value == pytest.approx(0.825)
    assert result.adjusted.interval.low < 0.825 < result.adjusted.interval.high
    assert result.clusters is None


def test_the_worst_of_equal_groups_is_biased_low():
    correct = np.tile([True] * 40 + [False] * 10, 4)
    result = estimate_groups(correct, np.repeat(np.arange(4), 50))
    random = np.random.default_rng(1)
    minima = (random.binomial(50, 0.8, size=(20_000, 4)) / 50).min(axis=1)
    assert result.worst.bias == pytest.approx(np.median(minima) - 0.8, abs=0.021)
    assert result.worst.bias < -0.03
    assert abs(result.groups[0].bias) < 0.011


def test_same_seed_same_interval():
    correct, groups = _images(np.random.default_rng(0), [0.9, 0.6], 50)
    first, again, other = (
        estimate_groups(correct, groups, seed=seed, resamples=200).groups_mean for seed in (3, 3, 4)
    )
    assert first == again
    assert other != first


def test_without_spread_wilson_stands_in():
    none = estimate_groups([False] * 20, [0] * 20)
    assert none.worst.interval == wilson_interval(0, 20)
    clustered = estimate_groups(
        [True] * 20, [0] * 20, clusters=np.repeat(np.arange(4), 5), strata=[0] * 20
    )
    assert clustered.worst.interval == wilson_interval(4, 4)
    assert clustered.groups[0].interval == wilson_interval(4, 4)
    assert clustered.clusters == 4


def test_one_object_says_little():
    result = estimate_groups([True, False] * 5, [0] * 10, clusters=["owl"] * 10, strata=[0] * 10)
    assert result.groups[0].interval == wilson_interval(0.5, 1)


def test_clustered_spread_is_that_of_objects():
    """All images of an object alike: as one image an object, so sd = sqrt(pq / (m - 1))."""
    outcome = np.array([True] * 30 + [False] * 10)
    correct, cluster = np.repeat(outcome, 6), np.repeat(np.arange(40), 6)
    clustered = estimate_groups(correct, np.zeros(240), clusters=cluster, strata=np.zeros(240))
    plain = estimate_groups(correct, np.zeros(240))
    width = clustered.average.interval.high - clustered.average.interval.low
    assert width == pytest.approx(2 * 1.96 * math.sqrt(0.75 * 0.25 / 39), rel=0.08)
    assert width > 2.2 * (plain.average.interval.high - plain.average.interval.low)


def test_objects_of_singles_agree_with_counts():
    correct, groups = _images(np.random.default_rng(2), [0.9, 0.7], 200)
    plain = estimate_groups(correct, groups)
    singles = estimate_groups(correct, groups, clusters=np.arange(400), strata=groups)
    assert singles.worst.interval == pytest.approx(plain.worst.interval, abs=0.02)
    assert singles.groups[1].interval == pytest.approx(plain.groups[1].interval, abs=0.02)


def test_an_object_in_two_classes_is_two_units():
    result = estimate_groups(
        [True, False, True, True], [0, 0, 1, 1], clusters=["a", "b", "a", "b"], strata=[0, 0, 1, 1]
    )
    assert result.clusters == 4


def test_estimates_of_nothing_are_nan():
    result = estimate_groups([], [], known=[0, 1])
    assert math.isnan(result.worst.value)
    assert math.isnan(result.worst.interval.low)
    assert result.worst.count == 0


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="differ in number"):
        estimate_groups([True, False], [0, 0], clusters=["a"], strata=[0, 0])


@pytest.mark.parametrize(
    ("shares", "count", "least"),
    [
        ([0.95, 0.9, 0.6, 0.9], 60, 0.90),
        ([0.9, 0.3, 0.4, 0.9], 100, 0.90),
        # Four groups that tie are the hardest case: the minimum is furthest from normal.
        ([0.8, 0.8, 0.8, 0.8], 60, 0.80),
    ],
)
def test_coverage_of_the_worst_group(shares, count, least):
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(300):
        correct, groups = _images(random, shares, count)
        low, high = estimate_groups(correct, groups, seed=seed, resamples=600).worst.interval
        covered += low <= min(shares) <= high
    assert least <= covered / 300 <= 0.99


def test_coverage_with_clusters_and_its_lack_without():
    random = np.random.default_rng(0)
    truth = np.array(
        [
            np.mean(1 / (1 + np.exp(-(random.normal(1, 2, 400_000) - penalty))))
            for penalty in (0.0, 1.0, 0.0, 1.5)
        ]
    )
    clustered = plain = group = 0
    for seed in range(200):
        correct, groups, cluster, label = _composites(random, objects=30)
        result = estimate_groups(
            correct, groups, clusters=cluster, strata=label, seed=seed, resamples=600
        )
        low, high = result.worst.interval
        clustered += low <= truth.min() <= high
        low, high = result.groups[0].interval
        group += low <= truth[0] <= high
        low, high = estimate_groups(correct, groups, seed=seed, resamples=600).worst.interval
        plain += low <= truth.min() <= high
    assert clustered / 200 >= 0.88
    assert group / 200 >= 0.90
    assert plain / 200 < 0.85
    assert clustered - plain > 0.08 * 200


def test_difference_by_hand():
    first = np.array([True] * 10 + [True] * 4 + [False] * 6)
    second = np.array([True] * 9 + [False] + [True] * 8 + [False] * 2)
    result = compare_worst_groups(first, second, np.repeat([0, 1], 10))
    assert result.value == pytest.approx(0.8 - 0.4)
    assert result.interval.low < 0.4 < result.interval.high
    assert result.count == 20


def test_difference_is_antisymmetric():
    random = np.random.default_rng(0)
    first, groups = _images(random, [0.9, 0.5], 80)
    second, _ = _images(random, [0.9, 0.7], 80)
    there = compare_worst_groups(first, second, groups, resamples=4000)
    back = compare_worst_groups(second, first, groups, resamples=4000)
    assert there.value == -back.value
    assert there.interval == pytest.approx((-back.interval.high, -back.interval.low), abs=0.01)
    assert there.p_value == pytest.approx(back.p_value, abs=0.02)


def test_a_method_against_itself():
    correct, groups = _images(np.random.default_rng(0), [0.9, 0.5], 50)
    result = compare_worst_groups(correct, correct, groups, resamples=500)
    assert (result.value, result.p_value) == (0, 1)
    assert result.interval == pytest.approx((-0.0713, 0.0713), abs=1e-3)


def test_p_value_is_the_exact_sign_test():
    """One group, 12 images that only the second method gets and 3 that only the first does."""
    first = np.array([False] * 12 + [True] * 3 + [True] * 10)
    second = np.array([True] * 12 + [False] * 3 + [True] * 10)
    exact = stats.binomtest(12, 15).pvalue
    result = compare_worst_groups(first, second, np.zeros(25))
    assert result.p_value == pytest.approx(exact, abs=0.008)


def test_few_objects_cannot_be_significant():
    """Three objects, all in favour: two of eight swaps are as extreme."""
    first, second = np.zeros(30, bool), np.ones(30, bool)
    result = compare_worst_groups(
        first, second, np.zeros(30), clusters=np.repeat(range(3), 10), strata=np.zeros(30)
    )
    assert result.value == 1
    assert result.p_value == pytest.approx(0.25, abs=0.02)
    assert result.interval.low < 0.5
    assert result.interval.high == 1


def test_paired_test_keeps_its_level_with_clusters():
    random = np.random.default_rng(0)
    rejected = 0
    for seed in range(200):
        share = random.beta(2, 1, size=40)
        cluster = np.repeat(np.arange(40), 6)
        first, second = (random.random(240) < share[cluster] for _ in range(2))
        label, group = cluster % 2, 2 * (cluster % 2) + np.tile([0, 1], 120)
        result = compare_worst_groups(
            first, second, group, clusters=cluster, strata=label, seed=seed, resamples=300
        )
        rejected += result.p_value <= 0.05
    assert rejected / 200 <= 0.09


def test_comparison_of_nothing_is_nan():
    result = compare_worst_groups([], [], [])
    assert math.isnan(result.value)
    assert math.isnan(result.p_value)
    assert result.count == 0
