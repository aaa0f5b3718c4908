"""What lies exactly on a boundary, what is empty, and what errors say: by hand, one by one."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.core.errors import UsageError
from fieldmark.metrics.association import cramers_v
from fieldmark.metrics.averaging import average_first, fit_decay, measure_residuals
from fieldmark.metrics.background_gap import compare_background_gaps, tabulate_objects
from fieldmark.metrics.curves import area_under
from fieldmark.metrics.error_shares import split_null, split_sources, summarise_sources
from fieldmark.metrics.groups import count_groups, summarise_groups
from fieldmark.metrics.intervals import (
    UNDEFINED,
    correct_bias,
    mean_and_deviation,
    wilson_interval,
)
from fieldmark.metrics.invariance import (
    measure_residual_variance,
    measure_sensitivity,
    summarise_scores,
)
from fieldmark.metrics.localisation import energy_in_mask, iou_at_area, measure_localisation
from fieldmark.metrics.regions import summarise_images, summarise_regions
from fieldmark.metrics.similarity import measure_spread, pair_cosines


@pytest.mark.parametrize("x", [[[0.0, 1.0]] * 2, [0.5], [0.0, 1.0, 2.0]])
def test_points_that_are_no_grid_do_not_fit(x):
    with pytest.raises(ValueError, match="do not fit"):
        area_under(np.ones((2, np.shape(x)[-1] if len(x) < 3 else 2)), x)


def test_points_must_increase():
    with pytest.raises(ValueError, match=r"^x does not increase$"):
        area_under([1.0, 1.0], [1.0, 1.0])


@settings(max_examples=30)
@given(st.integers(1, 500))
def test_wilson_is_exact_at_both_ends(count):
    assert wilson_interval(0, count).low == 0
    assert wilson_interval(count, count).high == 1
    assert 0 < wilson_interval(1, count + 1).low < wilson_interval(count, count + 1).high < 1
    assert wilson_interval(0.5, count).low > 0


def test_two_values_deviate_and_one_does_not():
    assert mean_and_deviation([0.5, 0.7]).deviation == pytest.approx(math.sqrt(0.02))
    assert math.isnan(mean_and_deviation([0.5]).deviation)
    assert summarise_scores([0.5, 0.7], [0.1]).deviation == pytest.approx(math.sqrt(0.02))
    assert math.isnan(summarise_scores([0.5, 0.7], [0.1]).parts_deviation)
    assert summarise_scores([0.5], [0.1, 0.3]).parts_deviation == pytest.approx(math.sqrt(0.02))


@pytest.mark.parametrize(
    ("value", "below"), [(0.0, 1 / 8), (1.0, 1 / 8), (2.0, 3 / 8), (9.0, 7 / 8)]
)
def test_a_value_beyond_all_samples_counts_as_half_a_sample_from_the_end(value, below):
    samples, normal = [1.0, 2.0, 3.0, 4.0], NormalDist()
    z, shift = normal.inv_cdf(0.75), 2 * normal.inv_cdf(below)
    expected = np.quantile(samples, [normal.cdf(shift - z), normal.cdf(shift + z)])
    assert correct_bias(samples, value, confidence=0.5) == pytest.approx(expected)


def test_bias_of_nothing_known_is_undefined():
    assert all(map(math.isnan, correct_bias([1.0, 2.0], math.nan)))
    assert all(map(math.isnan, correct_bias([math.nan], 0.5)))
    assert correct_bias([], 0.5) is UNDEFINED


def test_sources_of_three_parts_and_a_null_of_each():
    found = {k: v.tolist() for k, v in split_null([[0.2, 0.3, 0.5], [0.6, 0.0, 0.4]]).items()}
    assert found == {
        "background": [0.5, 0.4],
        "fine-grained": [0.0, 0.0],
        "foreground": [0.2, 0.6],
        "other object": [0.3, 0.0],
    }
    split = split_null([[0.2, 0.3, 0.1, 0.4]], similar=[True])
    assert split["fine-grained"].tolist() == [0.2]
    assert split["other object"] == pytest.approx([0.4])
    assert split_sources([0, 1], parts=3)["foreground"].tolist() == [True, False]


def test_no_images_have_no_shares():
    for found in (
        summarise_sources([], [], parts=2, null=np.zeros((0, 2))),
        summarise_sources([0, 1], [0, 0], parts=2, null=[[0.5, 0.5]] * 2),
    ):
        for share in found:
            assert (share.hits, share.of) == (0, 0)
            assert all(map(math.isnan, (share.share, share.corrected, *share.interval)))
            assert all(map(math.isnan, share.corrected_interval))
    assert math.isnan(summarise_sources([], [], parts=2)[0].of_images)
    assert math.isnan(summarise_sources([], [], parts=2)[0].corrected_of_images)


def test_a_share_that_does_not_vary_is_bounded_by_the_number_of_objects():
    found = summarise_sources(
        [1] * 6, [1] * 6, parts=2, null=[[0.2, 0.8]] * 6, objects=list("aabbcc")
    )
    low, high = wilson_interval(3, 3)
    assert found[0].interval == (low, high)
    assert found[0].corrected_interval == pytest.approx(((low - 0.8) / 0.2, 1.0))
    unresolved = summarise_sources(
        [-2, -2, 1], [1, 1, 1], parts=2, null=np.array([[0, 0], [0, 0], [0.5, 0.5]])
    )
    assert (unresolved[0].of, unresolved[5].hits) == (3, 2)
    assert unresolved[0].corrected_of_images == pytest.approx((1 / 3 - 1 / 6) / (1 / 6) * (1 / 3))
    assert math.isnan(summarise_sources([1, 0], [1, 1], parts=2)[0].null)


def test_shares_have_the_documented_seed():
    verdicts = [0, 1, 1, 0, 1, 0, 0, 1, 1]
    given: dict[str, Any] = {"parts": 2, "null": [[0.5, 0.5]] * 9}
    assert (
        summarise_sources(verdicts, [1] * 9, **given)[:3]
        == summarise_sources(verdicts, [1] * 9, **given, seed=0)[:3]
    )


def test_masks_at_the_edge_of_what_they_may_be():
    for mask in (1.5, 2.0, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"^a mask is not in \[0, 1\]$"):
            energy_in_mask([[[1.0, 2.0]]], [[[mask, 0.0]]])
    assert measure_localisation([[[1.0, 2.0]]], [[[1.0, 0.0]]]).area.tolist() == [0.5]
    assert energy_in_mask([[[0.25, 0.25]]], [[[1.0, 0.5]]]).tolist() == [0.75]
    assert energy_in_mask(np.zeros((2, 0, 3)), np.zeros((2, 0, 3))).shape == (2,)
    assert np.isnan(energy_in_mask([[[0.0, -1.0]]], [[[1.0, 0.0]]])).all()


def test_ties_for_the_last_places_are_worked_by_hand():
    # Two of three tied cells get in, one of the three is the object's, and one cell is sure.
    found = iou_at_area([[[3.0, 2.0, 2.0, 2.0, 0.0]]], [[[1, 1, 0, 0, 1]]])
    assert found[0] == pytest.approx((2 / 3) * (2 / 4) + (1 / 3) * (1 / 5))
    assert iou_at_area([[[1.0, 1.0, 1.0]]], [[[1, 1, 0]]])[0] == pytest.approx(
        (1 / 3) * 1 + (2 / 3) * (1 / 3)
    )


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_the_highest_cells_of_a_large_map_are_those_of_a_sort(seed):
    random = np.random.default_rng(seed)
    values, mask = random.permutation(80) - 40.0, random.permutation(80) < 7
    shared = mask[np.argsort(-values)[:7]].sum()
    found = iou_at_area(values.reshape(1, 8, 10), mask.reshape(1, 8, 10))
    assert found[0] == pytest.approx(shared / (14 - shared))


def test_spread_of_one_class_is_undefined_and_counts_no_pair():
    mean, deviation, pairs = measure_spread(np.ones((1, 1)))
    assert math.isnan(mean)
    assert math.isnan(deviation)
    assert pairs == 0


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1))
def test_cosines_never_leave_their_range(seed):
    rows = np.random.default_rng(seed).normal(size=(4, 3))
    cosines = pair_cosines(np.concatenate([rows, rows * 3, -rows]))
    assert cosines.min() >= -1
    assert cosines.max() <= 1


def test_sensitivity_names_its_classes_and_backgrounds():
    rows = np.array([[0.0, 1], [0, 3], [4, 1], [4, 3], [0, 0]])
    found = measure_sensitivity(rows, [3, 3, 3, 3, 8], [5, 5, 6, 6, 5])
    first, second = found.by_class
    assert (first.label, first.backgrounds, first.counts) == (3, (5, 6), (2, 2))
    assert (second.label, second.backgrounds, second.counts) == (8, (5, 6), (1, 0))
    assert math.isnan(second.per_dimension)
    assert math.isnan(second.total)


def test_residual_variance_keeps_its_sizes_and_refuses_what_does_not_fit():
    sequences = np.array([[[1.0, 0.0], [3.0, 0.0], [2.0, 2.0]]])
    found = measure_residual_variance(sequences, [0.0, 0.0], sizes=[3, 1, 4])
    assert found.sizes == (3, 1, 4)
    assert found.values[:2] == pytest.approx((4 + 4 / 9, 1.0))
    assert math.isnan(found.values[2])
    assert measure_residual_variance(sequences, [0.0, 0.0], sizes=[]).values == ()
    with pytest.raises(ValueError, match="must be"):
        measure_residual_variance(sequences, [0.0], sizes=[1])
    with pytest.raises(ValueError, match="must be"):
        measure_residual_variance(sequences[0], [], sizes=[1])
    assert measure_residuals([[1.0]], [[0]], sizes=[]).shape == (1, 0)


def test_decay_skips_sizes_and_needs_two_sequences():
    values = measure_residuals([[2.0], [-2.0], [0.0]], [[0, 0, 1], [1, 2, 2]], sizes=[5, 1, 3, 2])
    np.testing.assert_allclose(values[:, 1:], [[4, 4 / 9, 4], [4, 4 / 9, 1]])
    assert np.isnan(values[:, 0]).all()
    rows = np.array([[1.0, 0.7, 0.2], [2.0, 0.8, 0.5]])
    two = fit_decay(rows, [1, 2, 4])
    assert two.low <= two.slope <= two.high
    assert two == fit_decay(rows, [1, 2, 4], seed=0)
    slopes = sorted(fit_decay([row], [1, 2, 4]).slope for row in rows)
    assert (two.low, two.high) == pytest.approx(tuple(slopes))
    assert math.isnan(fit_decay([[1.0, 0.0], [2.0, 0.0]], [1, 2]).slope)
    assert not math.isnan(fit_decay([[0.0, 0.0], [2.0, 1.0]], [1, 2]).low)
    cancelled = average_first([[[1.0], [-1.0]]], sizes=[2])
    assert cancelled.dtype == np.float64


def test_classes_of_regions_and_images_at_the_edges():
    given: dict[str, Any] = {"owners": [0, 1], "image_labels": [-1, 1], "classes": 2}
    found = summarise_regions([0, 1], [0, 1], **given)
    assert sorted(found.meanings.values()) == [(0, -1), (1, 1)]
    assert (
        found.meanings == summarise_regions([0, 1], [0, 1], **given, by="label and image").meanings
    )
    with pytest.raises(ValueError, match=r"the class of an image is not in \[-1, 2\)"):
        summarise_regions([0, 1], [0, 1], owners=[0, 1], image_labels=[-2, 1], classes=2)
    with pytest.raises(ValueError, match=r"a label is not in \[-1, 2\)"):
        summarise_images([0, 1], [-2, 1], spurious=[0, 1], classes=2)
    assert summarise_images([0, 1], [-1, 1], spurious=[0, 1], classes=2).unlabelled == 1


def test_a_variable_of_words_is_refused_with_how_to_mend_it():
    with pytest.raises(UsageError) as caught:
        cramers_v(["a", "b"], [0, 1])
    assert "give one list of integer codes" in str(caught.value)
    assert cramers_v(np.array([True, False]), np.array([0, 1], np.uint8)) == pytest.approx(1.0)
    assert cramers_v([0, 0, 1, 2, 2], [1, 1, 0, 2, 2]) <= 1.0


def test_groups_of_one_image_count():
    counts = count_groups([True, False], [7, 9], known=[8])
    assert counts.ids.dtype == counts.hits.dtype == counts.totals.dtype == np.int64
    summary = summarise_groups([True, False], [7, 9], known=[8], train_counts={7: 1, 9: 1})
    assert (summary.worst, summary.worst_group, summary.groups_mean) == (0.0, 9, 0.5)
    assert summary.adjusted == 0.5


def test_answers_of_other_objects_are_not_compared_and_a_tie_takes_the_right_answer():
    one, two = (
        tabulate_objects([1, 0, 1, 0], other=[0, 0, 1, 1], objects=[name] * 4, labels=[1] * 4)
        for name in "ab"
    )
    # Class 1 ties with 0 for the usual answer and wins, though 0 is the lower number.
    assert tabulate_objects(
        [1, 0, 1, 1], other=[0, 0, 1, 1], objects=["a"] * 4, labels=[1] * 4
    ).flips.tolist() == [0.0]
    with pytest.raises(ValueError, match=r"^the answers are not of the same objects$"):
        compare_background_gaps(one, two)
