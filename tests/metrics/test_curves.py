"""Areas under curves, and intervals of means and differences, against independent sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.metrics.curves import area_under, contrast_means, draw_means, estimate_means


def test_area_is_numpys_trapezoid_over_the_true_grid():
    x = np.array([0.05, 0.1, 0.5, 1.0])
    y = np.random.default_rng(0).random((3, 4))
    assert area_under(y, x) == pytest.approx(np.trapezoid(y, x) / 0.95)


def test_area_of_rise_is_the_sum_less_half_of_both_ends():
    y = np.random.default_rng(1).random(29)
    assert area_under(y, np.linspace(0, 1, 29)) == pytest.approx(
        (y.sum() - y[0] / 2 - y[-1] / 2) / 28
    )


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=12))
def test_area_lies_between_the_lowest_and_the_highest_point(values):
    area = float(area_under(values, np.arange(len(values))))
    assert min(values) - 1e-9 <= area <= max(values) + 1e-9


@pytest.mark.parametrize("x", [[0.0, 0.0, 1.0], [0.0, 1.0], [0.0, 0.5, 0.4]])
def test_a_grid_that_does_not_increase_or_fit_is_refused(x):
    with pytest.raises(ValueError, match=r"x does not increase|do not fit"):
        area_under([1.0, 1.0, 1.0], x)


def test_undefined_curves_have_undefined_areas():
    assert math.isnan(area_under([1.0, math.nan], [0.0, 1.0]))


def test_interval_of_a_mean_is_that_of_the_normal_for_many_independent_images():
    values = np.random.default_rng(2).normal(3, 2, 400)
    [mean] = estimate_means(values, range(400), size=4000)
    error = values.std(ddof=1) / 20
    assert mean.value == pytest.approx(values.mean())
    assert mean.interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert mean.interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_copies_of_one_object_do_not_narrow_the_interval():
    values = np.random.default_rng(3).normal(size=40)
    [once] = estimate_means(values, range(40))
    [copied] = estimate_means(np.repeat(values, 10), np.repeat(range(40), 10).tolist())
    assert copied.interval == pytest.approx(once.interval)
    assert (copied.count, copied.objects) == (400, 40)


def test_one_object_has_no_interval_and_no_value_no_mean():
    [mean] = estimate_means([1.0, 2.0], ["a", "a"])
    assert mean.value == 1.5
    assert math.isnan(mean.interval.low)
    [empty] = estimate_means([math.nan, math.nan], ["a", "b"])
    assert math.isnan(empty.value)
    assert empty.count == 0


def test_rows_share_their_draws():
    first = np.random.default_rng(4).random(30)
    draws = draw_means([first, first + 1], range(30), size=50)
    assert draws[:, 1] - draws[:, 0] == pytest.approx(1)


def test_differences_are_paired_so_what_images_share_cancels():
    random = np.random.default_rng(5)
    hard = random.normal(0, 10, 60)
    rows = [hard + random.normal(1, 0.1, 60), hard]
    [contrast] = contrast_means(rows, range(60), pairs=[(0, 1)])
    assert 0.9 < contrast.interval.low < contrast.value < contrast.interval.high < 1.1


def test_simultaneous_intervals_are_wider_and_hold_for_all_at_once():
    random, missed = np.random.default_rng(6), []
    pairs = [(k, 0) for k in range(1, 9)]
    for _ in range(60):
        rows = random.normal(size=(9, 40))
        found = contrast_means(rows, range(40), pairs=pairs, size=300)
        for one in found:
            assert one.simultaneous.high - one.simultaneous.low >= 0
        missed.append(any(not one.simultaneous.low <= 0 <= one.simultaneous.high for one in found))
    assert np.mean(missed) < 0.2


def test_an_image_counts_where_both_methods_are_defined():
    [contrast] = contrast_means([[1.0, math.nan, 3.0], [0.0, 0.0, math.nan]], "abc", pairs=[(0, 1)])
    assert (contrast.value, contrast.count) == (1.0, 1)
    assert math.isnan(contrast.simultaneous.low)


@settings(max_examples=20)
@given(st.integers(2, 12), st.integers(0, 5))
def test_a_drawn_mean_lies_among_the_values(count, seed):
    values = np.random.default_rng(seed).random(count)
    draws = draw_means(values, range(count), size=20, seed=seed)
    assert draws.min() >= values.min() - 1e-12
    assert draws.max() <= values.max() + 1e-12


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="2 values and 1 objects"):
        draw_means([1.0, 2.0], ["a"], size=3)


def test_no_pairs_give_no_contrasts():
    assert contrast_means([[1.0]], ["a"], pairs=[]) == []
