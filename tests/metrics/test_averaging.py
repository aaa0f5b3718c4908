"""Residual variance, its decay and purified means: plain loops, hand-worked figures, chance."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.metrics.averaging import average_first, fit_decay, measure_residuals


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 5))
def test_residuals_are_those_of_plain_means(seed, count, longest):
    rng = np.random.default_rng(seed)
    population = rng.normal(size=(count, 3))
    draws = rng.integers(count, size=(4, longest))
    sizes = [longest, 1, longest + 1]
    got = measure_residuals(population, draws, sizes=sizes)
    for row, chosen in enumerate(draws):
        for column, size in enumerate(sizes[:2]):
            mean = population[chosen[:size]].mean(axis=0)
            expected = ((mean - population.mean(axis=0)) ** 2).sum()
            assert got[row, column] == pytest.approx(expected, abs=1e-12)
    assert np.isnan(got[:, 2]).all()


def test_draws_with_replacement_decay_as_one_over_k_in_the_smallest_pool():
    """Every sequence of four draws from three: the expectation is exact."""
    population = np.random.default_rng(0).normal(size=(3, 5))
    draws = np.array(list(itertools.product(range(3), repeat=4)))
    residuals = measure_residuals(population, draws, sizes=(1, 2, 4))
    variance = residuals.mean(axis=0)
    assert variance * [1, 2, 4] == pytest.approx([variance[0]] * 3)
    decay = fit_decay(residuals, (1, 2, 4))
    assert decay.slope == pytest.approx(-1)
    assert decay.low < -1 < decay.high
    assert decay.count == 81


def test_a_slope_without_variance_is_undefined():
    flat = fit_decay(np.zeros((3, 2)), (1, 2))
    assert all(map(math.isnan, (flat.slope, flat.low, flat.high)))
    assert math.isnan(fit_decay(np.ones((3, 1)), (1,)).slope)
    assert math.isnan(fit_decay([[1.0, 0.5]], (1, 2)).low)
    assert fit_decay(np.empty((0, 2)), (1, 2)).count == 0
    with pytest.raises(ValueError, match="must be"):
        fit_decay(np.ones((3, 2)), (1, 2, 3))
    with pytest.raises(ValueError, match="at least 1"):
        measure_residuals(np.ones((3, 2)), np.zeros((1, 1), int), sizes=(0,))


def test_a_mean_that_cancels_out_is_undefined():
    anchors = average_first([[[1.0, 0.0], [-1.0, 0.0]]], sizes=(1, 2))
    assert anchors[0, 0].tolist() == [1, 0]
    assert np.isnan(anchors[0, 1]).all()
    with pytest.raises(ValueError, match="must be"):
        average_first(np.ones((1, 2, 3)), sizes=(3,))


def test_a_size_beyond_the_draws_is_undefined_and_order_does_not_matter():
    found = measure_residuals([[2.0], [0.0], [4.0]], [[0, 1, 2], [1, 1, 1]], sizes=[3, 1, 4])
    # The population's mean is 2: means of three are 2 and 0, of one 2 and 0.
    assert found[:, :2].tolist() == [[0.0, 0.0], [4.0, 4.0]]
    assert np.isnan(found[:, 2]).all()


def test_more_sequences_than_a_block_agree_with_each_alone():
    draws = np.random.default_rng(0).integers(0, 5, (300, 3))
    values = np.random.default_rng(1).normal(size=(5, 2))
    whole = measure_residuals(values, draws, sizes=[2, 3])
    alone = [measure_residuals(values, row[None], sizes=[2, 3])[0] for row in draws]
    assert np.allclose(whole, alone)


@pytest.mark.parametrize(
    ("population", "draws", "sizes", "problem"),
    [
        ([1.0], [[0]], [1], r"population \(1,\) must be \(N,D\), draws \(1, 1\)"),
        ([[1.0]], [0], [1], r"draws \(1,\)"),
        ([[1.0]], [[0]], [0, 1], r"every K must be at least 1, got \[0, 1\]"),
    ],
)
def test_shapes_and_sizes_that_cannot_be_are_refused(population, draws, sizes, problem):
    with pytest.raises(ValueError, match=problem):
        measure_residuals(population, draws, sizes=sizes)


def test_no_size_gives_no_column():
    assert measure_residuals([[1.0]], [[0]], sizes=[]).shape == (1, 0)


def test_a_slope_by_hand_and_its_interval():
    # log 4 -> log 1 over log 1 -> log 4: slope -1; twice as steep for the other.
    assert fit_decay([[4.0, 1.0]], sizes=[1, 4]).slope == pytest.approx(-1)
    assert fit_decay([[16.0, 1.0]], sizes=[1, 4]).slope == pytest.approx(-2)
    found = fit_decay([[4.0, 1.0]] * 6 + [[16.0, 1.0]] * 6, sizes=[1, 4], seed=1)
    assert found.slope == pytest.approx(math.log(1 / 10) / math.log(4))
    assert -2 <= found.low < found.slope < found.high <= -1
    assert found.count == 12
    assert found == fit_decay([[4.0, 1.0]] * 6 + [[16.0, 1.0]] * 6, sizes=[1, 4], seed=1)
    # A percentile interval of the mean of twelve coin tosses, worked out by their binomial law.
    shares = np.random.default_rng(0).binomial(12, 0.5, 20000) / 12
    slopes = np.log(1 / (4 + 12 * shares)) / math.log(4)
    assert [found.low, found.high] == pytest.approx(np.quantile(slopes, [0.025, 0.975]), abs=0.15)


def test_a_size_with_a_gap_is_left_out_of_the_slope():
    found = fit_decay([[4.0, math.nan, 1.0], [4.0, 7.0, 1.0]], sizes=[1, 2, 4])
    assert found.slope == pytest.approx(-1)


@pytest.mark.parametrize("residuals", [[[4.0]], [[4.0, 2.0]], np.zeros((0, 2))])
def test_one_size_alone_has_no_slope(residuals):
    sizes = [2] * np.shape(residuals)[1] if len(residuals) else [1, 2]
    found = fit_decay(residuals, sizes=sizes)
    assert math.isnan(found.slope)
    assert found.count == len(residuals)


def test_one_sequence_has_a_slope_and_no_interval():
    found = fit_decay([[4.0, 1.0]], sizes=[1, 4])
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.count == 1


def test_residuals_of_another_width_are_refused():
    with pytest.raises(ValueError, match=r"residuals \(1, 2\) must be \(R,3\)"):
        fit_decay([[1.0, 2.0]], sizes=[1, 2, 3])


@pytest.mark.parametrize("sizes", [[0], [3], [1, 3]])
def test_means_of_more_than_there_are_are_refused(sizes):
    with pytest.raises(ValueError, match="with K from"):
        average_first(np.ones((1, 2, 2)), sizes=sizes)
    with pytest.raises(ValueError, match="must be"):
        average_first(np.ones((2, 2)), sizes=[1])


def test_purified_means_by_hand():
    found = average_first([[[3.0, 4.0], [-3.0, 4.0]]], sizes=[2, 1])
    assert found.tolist() == [[[0.0, 1.0], [0.6, 0.8]]]
