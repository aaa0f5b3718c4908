from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.core.errors import NotApplicableError, UsageError
from fieldmark.data.controlled.correlate import _follow_swaps, balance_feature, tie_feature
from fieldmark.metrics.association import cramers_v

TEN = np.repeat(np.arange(10), [95, 105, 100, 98, 102, 100, 97, 103, 100, 100])
SIZES = st.lists(st.integers(4, 60), min_size=2, max_size=6)


def _labels(sizes, seed=0):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    return np.random.default_rng(seed).permutation(labels)


@pytest.mark.parametrize("correlation", [0.2, 0.5, 0.8, 0.9, 0.95])
def test_the_correlation_is_what_was_asked_to_within_a_swap(correlation):
    feature = tie_feature(TEN, target=3, correlation=correlation, seed=1)
    value = cramers_v(TEN, feature)
    # The swap that moves V most is the first in another class: to sqrt(98 / 99).
    assert correlation - 0.006 < value <= correlation
    swapped = np.bincount(TEN, weights=feature != (TEN == 3)) / np.bincount(TEN)
    assert swapped.max() - swapped.min() < 1 / 95


def test_the_share_of_swaps_is_the_one_of_the_published_design():
    # With ten classes of one size and a rate r of swaps, by hand: the share of images with the
    # feature is p = 0.1 + 0.8 r, and V^2 = 0.09 (1 - 2 r)^2 / (p (1 - p)); r = 0.07355 gives 0.7.
    labels = np.repeat(np.arange(10), 1000)
    feature = tie_feature(labels, target=9, correlation=0.7, seed=0)
    share = 0.1 + 0.8 * 0.07355
    assert 0.3 * (1 - 2 * 0.07355) / np.sqrt(share * (1 - share)) == pytest.approx(0.7, abs=2e-4)
    swapped = np.bincount(labels, weights=feature != (labels == 9))
    np.testing.assert_allclose(swapped, 73.55, atol=1)


@given(SIZES, st.floats(0.3, 1), st.integers(0, 9))
def test_one_swap_fewer_is_above(sizes, correlation, seed):
    labels = _labels(sizes)
    try:
        feature = tie_feature(labels, target=1, correlation=correlation, seed=seed)
    except NotApplicableError:
        assert min(sizes) < 10
        return
    assert cramers_v(labels, feature) <= correlation + 1e-9
    swapped = np.flatnonzero(feature != (labels == 1))
    before = [cramers_v(labels, _swap(feature, at=index)) for index in swapped.tolist()]
    # The swap that was last is among these.
    assert not before or max(before) > correlation


def _swap(feature, *, at):
    swapped = feature.copy()
    swapped[at] = not swapped[at]
    return swapped


@given(SIZES, st.integers(0, 9), st.data())
def test_the_followed_values_are_cramers_v(sizes, seed, data):
    labels = _labels(sizes, seed)
    feature = np.array(
        data.draw(st.lists(st.booleans(), min_size=len(labels), max_size=len(labels)))
    )
    values = _follow_swaps(labels, feature)
    assert len(values) == len(labels) + 1
    for swaps in (0, 1, len(labels) // 2, len(labels)):
        swapped = feature.copy()
        swapped[:swaps] = ~swapped[:swaps]
        np.testing.assert_allclose(values[swaps], cramers_v(labels, swapped), atol=1e-9)


def test_a_correlation_of_one_is_the_class_itself():
    feature = tie_feature(TEN, target=3, correlation=1, seed=1)
    np.testing.assert_array_equal(feature, TEN == 3)


def test_draws_go_by_the_seed():
    first, again, other = (
        tie_feature(TEN, target=3, correlation=0.8, seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    halves = [balance_feature(TEN, seed=seed) for seed in (1, 1, 2)]
    np.testing.assert_array_equal(halves[0], halves[1])
    assert (halves[0] != halves[2]).any()


def test_every_image_of_a_class_may_be_swapped():
    drawn = np.mean(
        [tie_feature(TEN, target=3, correlation=0.5, seed=seed) for seed in range(60)], axis=0
    )
    # A rate of 0.153 by the formula above; 60 draws leave an image a standard error of 0.05.
    swapped = np.abs(drawn - (TEN == 3))
    assert abs(swapped.mean() - 0.153) < 0.01
    assert swapped.min() > 0
    assert swapped.max() < 0.153 + 5 * 0.05


@pytest.mark.parametrize("share", [0.1, 0.5, 0.75])
def test_a_balanced_feature_says_nothing_of_the_class(share):
    feature = balance_feature(TEN, share=share, seed=0)
    assert feature.sum() == int(share * len(TEN) + 0.5)
    assert cramers_v(TEN, feature) < 0.015
    counts = np.bincount(TEN, weights=feature)
    assert np.abs(counts - share * np.bincount(TEN)).max() < 1


@given(st.lists(st.integers(1, 4), min_size=2, max_size=3), st.sampled_from([0.3, 0.5, 0.6]))
def test_no_other_draw_of_as_many_features_is_less_correlated(sizes, share):
    labels = _labels(sizes)
    feature = balance_feature(labels, share=share, seed=0)
    value = cramers_v(labels, feature)
    if np.isnan(value):
        assert feature.sum() in (0, len(labels))
        return
    for counts in itertools.product(*(range(size + 1) for size in sizes)):
        if sum(counts) == feature.sum():
            rows = [[True] * k + [False] * (n - k) for k, n in zip(counts, sizes, strict=True)]
            other = cramers_v(np.repeat(np.arange(len(sizes)), sizes), np.concatenate(rows))
            assert value <= other + 1e-9


def test_too_few_images_for_a_low_correlation_is_said():
    with pytest.raises(NotApplicableError, match=r"2 images of class 0 among 3, .* than 0\.500"):
        tie_feature([0, 0, 1], target=0, correlation=0.1, seed=0)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 2, 2]])
def test_a_target_without_images_or_without_others_is_said(labels):
    with pytest.raises(NotApplicableError, match="cannot be tied"):
        tie_feature(labels, target=0, correlation=0.5, seed=0)


@pytest.mark.parametrize("correlation", [0, -1, 1.01, float("nan")])
def test_a_correlation_out_of_range_is_said(correlation):
    with pytest.raises(UsageError, match=r"not in \(0, 1\]"):
        tie_feature([0, 1], target=0, correlation=correlation, seed=0)


@pytest.mark.parametrize("share", [0, 1, float("nan")])
def test_a_share_out_of_range_is_said(share):
    with pytest.raises(UsageError, match=r"not in \(0, 1\)"):
        balance_feature([0, 1], share=share, seed=0)


@pytest.mark.parametrize("labels", [[], [[0, 1]], [0.5, 1.0]])
def test_what_are_no_labels_is_said(labels):
    with pytest.raises(UsageError, match="one list of class codes"):
        balance_feature(labels, seed=0)
