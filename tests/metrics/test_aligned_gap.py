"""The gap between usual and other backgrounds: hand-worked tables and its level by chance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.metrics.aligned_gap import find_usual, measure_aligned_gap


def test_classes_count_alike_however_many_images_they_have():
    # Class 0: 3 of 4 against 0 of 1; class 1: 1 of 1 against 1 of 2.
    correct = [1, 1, 1, 0, 0, 1, 1, 0]
    labels = [0, 0, 0, 0, 0, 1, 1, 1]
    aligned = [1, 1, 1, 1, 0, 1, 0, 0]
    found = measure_aligned_gap(correct, labels, aligned)
    assert found.aligned == pytest.approx((3 / 4 + 1) / 2)
    assert found.conflicting == pytest.approx((0 + 1 / 2) / 2)
    assert found.gap == pytest.approx(0.625)
    assert (found.count, found.classes) == (8, 2)


def test_a_class_with_one_side_only_and_unknown_rows_are_left_out():
    found = measure_aligned_gap([1, 0, 1, 1, 0], [0, 0, 0, 1, 1], [1, 0, -1, 1, 1])
    assert (found.count, found.classes, found.gap) == (2, 1, 1.0)


@pytest.mark.parametrize("aligned", [[1, 1], [0, 0], [-1, -1]])
def test_without_two_sides_it_is_undefined_and_counts_nothing(aligned):
    found = measure_aligned_gap([1, 0], [0, 0], aligned)
    assert math.isnan(found.gap)
    assert math.isnan(found.p_value)
    assert all(map(math.isnan, found.interval))
    assert (found.count, found.classes) == (0, 0)


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="2, 1 and 2 values differ"):
        measure_aligned_gap([1, 0], [0], [1, 0])


def test_images_of_one_object_widen_the_interval():
    random = np.random.default_rng(0)
    luck = np.repeat(random.random(20) < 0.5, 20)
    labels, aligned = np.zeros(400, int), np.tile([0, 1], 200)
    alone = measure_aligned_gap(luck, labels, np.repeat(np.arange(20) % 2, 20))
    told = measure_aligned_gap(
        luck, labels, np.repeat(np.arange(20) % 2, 20), objects=np.repeat(np.arange(20), 20)
    )
    assert told.gap == alone.gap
    assert np.ptp(told.interval) > 2 * np.ptp(alone.interval)
    # Where every object has both sides, its luck is the same on both.
    paired = measure_aligned_gap(luck, labels, aligned, objects=np.repeat(np.arange(20), 20))
    assert paired.gap == 0.0
    assert paired.p_value == 1.0


def test_chance_is_found_as_often_as_it_says():
    random = np.random.default_rng(1)
    hits = 0
    for seed in range(200):
        correct = random.random(120) < 0.7
        found = measure_aligned_gap(
            correct, np.repeat([0, 1], 60), random.integers(0, 2, 120), seed=seed, resamples=400
        )
        hits += found.p_value <= 0.05
    assert 2 <= hits <= 20


@pytest.mark.parametrize("right", [0, 1])
def test_one_image_on_another_background_tells_next_to_nothing(right):
    # By hand: the wrong one of 21 images is as likely each of them, so p is 1 / 21.
    found = measure_aligned_gap([1] * 20 + [right], [0] * 21, [1] * 20 + [0])
    assert found.p_value == pytest.approx(1.0 if right else 1 / 21, abs=0.015)
    assert found.interval.low <= 0.2
    assert found.interval.high >= 0.75


def test_chance_is_found_no_more_often_where_few_backgrounds_are_unusual():
    random = np.random.default_rng(3)
    aligned = np.tile([0] + [1] * 19, 2)
    found = [
        measure_aligned_gap(random.random(40) < 0.7, np.repeat([0, 1], 20), aligned, resamples=200)
        for _ in range(100)
    ]
    assert sum(one.p_value <= 0.05 for one in found) <= 10


def test_objects_on_one_side_change_places_as_a_whole():
    # By hand: 3 of 6 objects are dealt the usual side, and 1 of the 20 ways is as observed.
    correct, aligned = np.repeat([1, 0], 30), np.repeat([1, 0], 30)
    objects = np.arange(60) // 10
    found = measure_aligned_gap(correct, [0] * 60, aligned, objects=objects)
    assert found.p_value == pytest.approx(1 / 20, abs=0.015)


def test_classes_that_lose_a_side_do_not_lose_the_draw():
    labels, aligned = np.repeat(np.arange(40), 6), np.tile([1, 1, 1, 1, 0, 0], 40)
    random = np.random.default_rng(4)
    found = measure_aligned_gap(random.random(240) < 0.8, labels, aligned, resamples=200)
    assert found.interval.low < found.gap < found.interval.high
    assert np.ptp(found.interval) < 0.5


def test_a_planted_gap_is_inside_its_interval_and_beyond_chance():
    random = np.random.default_rng(2)
    aligned = random.integers(0, 2, 800)
    correct = random.random(800) < np.where(aligned == 1, 0.9, 0.5)
    found = measure_aligned_gap(correct, np.zeros(800, int), aligned)
    assert found.interval.low < 0.4 < found.interval.high
    assert found.p_value < 0.001


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2), st.integers(-1, 1)), max_size=30))
def test_figures_stay_in_their_ranges(rows):
    correct, labels, aligned = (np.array([row[i] for row in rows], int) for i in range(3))
    found = measure_aligned_gap(correct, labels, aligned, resamples=20)
    if math.isnan(found.gap):
        assert found.count == 0
    else:
        assert 0 <= found.conflicting <= 1
        assert 0 <= found.aligned <= 1
        assert found.gap == pytest.approx(found.aligned - found.conflicting)
        assert 0 < found.p_value <= 1


def test_the_usual_background_needs_a_majority_and_names():
    labels = [0] * 10 + [1] * 10 + [2] * 4
    attributes = [3] * 9 + [1] + [1] * 10 + [1, 1, 3, 3]
    assert find_usual(labels, attributes) == {0: 3, 1: 1}
    assert find_usual([*labels, 2, 5], [*attributes, -1, -1]) == {0: 3, 1: 1}


def test_what_is_most_frequent_by_chance_is_not_usual():
    random = np.random.default_rng(0)
    found = [find_usual(random.integers(0, 2, 120), random.integers(0, 2, 120)) for _ in range(100)]
    assert sum(map(bool, found)) <= 5
    # By hand: 20 of 30 against 10 of 30 gives chi-squared (5 - 1/2)^2 * 4 / 15 = 5.4, p 0.02.
    labels = [0] * 30 + [1] * 30
    attributes = [0] * 20 + [1] * 10 + [0] * 10 + [1] * 20
    assert find_usual(labels, attributes) == {}
    assert find_usual(labels, attributes, level=0.03) == {0: 0, 1: 1}


@pytest.mark.parametrize(
    ("labels", "attributes"), [([], []), ([0, 0], [0, 1]), ([0, 1], [0, 0]), ([0, 1], [-1, -1])]
)
def test_one_class_or_one_background_has_nothing_usual(labels, attributes):
    assert find_usual(labels, attributes) == {}
