"""The BG-gap on tables worked by hand, its chance against all flips, its interval's coverage."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.metrics.background_gap import (
    ObjectAnswers,
    compare_background_gaps,
    estimate_mean,
    flip_signs,
    measure_background_gap,
    tabulate_objects,
)

# Object, class, scene of another class?, answer. By hand: a is right on 2 of 2 and 1 of 2, b on 1
# of 2 and 0 of 2, c on 1 of 1 and has no other scene, d has other scenes only.
TABLE = [
    ("a", 0, 0, 0),
    ("a", 0, 0, 0),
    ("a", 0, 1, 0),
    ("a", 0, 1, 1),
    ("b", 1, 0, 1),
    ("b", 1, 0, 2),
    ("b", 1, 1, 2),
    ("b", 1, 1, 0),
    ("c", 2, 0, 2),
    ("d", 2, 1, 2),
]


def tabulate(rows):
    objects, labels, other, said = zip(*rows, strict=True)
    return tabulate_objects(said, other=other, objects=objects, labels=labels)


def test_shares_by_object_are_those_worked_by_hand():
    found = tabulate(TABLE)
    assert found.objects == ("a", "b", "c", "d")
    assert found.labels.tolist() == [0, 1, 2, 2]
    np.testing.assert_array_equal(found.same, [1, 0.5, 1, np.nan])
    np.testing.assert_array_equal(found.other, [0.5, 0, np.nan, 1])
    np.testing.assert_array_equal(found.gaps, [0.5, 0.5, np.nan, np.nan])
    # b says 1 and 2 once each at home, so the right one is its usual answer: both others differ.
    np.testing.assert_array_equal(found.flips, [0.5, 1, np.nan, np.nan])


def test_a_tie_without_the_right_answer_goes_to_the_lowest_number():
    rows = [("a", 0, 0, 2), ("a", 0, 0, 1), ("a", 0, 1, 1), ("a", 0, 1, 2)]
    assert tabulate(rows).flips.tolist() == [0.5]
    rows = [("a", 0, 0, 2), ("a", 0, 0, 1), ("a", 0, 1, 2), ("a", 0, 1, 2)]
    assert tabulate(rows).flips.tolist() == [1.0]


def test_figures_are_means_over_objects_and_count_them():
    found = measure_background_gap(tabulate(TABLE))
    assert found.same.value == pytest.approx(2.5 / 3)
    assert found.same.count == 3
    assert (found.other.value, found.other.count) == (0.5, 3)
    assert (found.gap.value, found.gap.count) == (0.5, 2)
    assert (found.flip_rate.value, found.flip_rate.count) == (0.75, 2)
    assert found.p_value == 0.25  # one of the four flips of (0.5, 0.5) sums up to 1
    assert found.by_class[0].value == 0.5
    assert math.isnan(found.by_class[2].value)
    assert found.by_class[2].count == 0


def test_one_class_alone_has_no_gap():
    rows = [(item, 0, 0, answer) for item in "abc" for answer in (0, 0, 1)]
    found = measure_background_gap(tabulate(rows))
    assert found.same.value == pytest.approx(2 / 3)
    assert math.isnan(found.gap.value)
    assert math.isnan(found.gap.interval.low)
    assert math.isnan(found.p_value)
    assert found.gap.count == found.other.count == 0


def test_nothing_at_all_is_undefined():
    found = measure_background_gap(tabulate_objects([], other=[], objects=[], labels=[]))
    assert math.isnan(found.same.value)
    assert found.by_class == {}


def test_an_object_of_two_classes_counts_as_two():
    found = tabulate([("a", 0, 0, 0), ("a", 1, 0, 0)])
    assert found.objects == ("a", "a")
    assert found.same.tolist() == [1, 0]


def test_arrays_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="differ in number"):
        tabulate_objects([0], other=[0, 1], objects=["a", "b"], labels=[0, 0])


def test_no_difference_at_all_bears_an_interval_by_the_number_of_objects():
    rows = [(str(item), 0, other, 0) for item in range(74) for other in (0, 1)]
    found = measure_background_gap(tabulate(rows))
    assert found.gap.value == 0
    assert found.gap.interval.high == -found.gap.interval.low
    assert 0.045 < found.gap.interval.high < 0.05
    assert found.p_value == 1
    assert found.same.interval.high == 1
    assert found.same.interval.low == pytest.approx(1 - found.gap.interval.high)


@given(st.lists(st.sampled_from([-1.0, -0.5, -1 / 3, 0.0, 1 / 3, 0.5, 1.0]), max_size=9))
@settings(max_examples=60, deadline=None)
def test_the_chance_is_that_of_all_flips(differences):
    if not differences:
        assert math.isnan(flip_signs(differences))
        return
    sums = [
        math.fsum(sign * value for sign, value in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    expected = np.mean([total >= math.fsum(differences) - 1e-9 for total in sums])
    assert flip_signs(differences) == pytest.approx(expected)
    assert flip_signs([*differences, math.nan, 0.0]) == pytest.approx(expected)


def test_many_objects_are_drawn_and_agree_with_the_binomial():
    # 20 differences of the same size: the chance of 15 or more heads of 20, which is 0.0207.
    differences = np.array([1.0] * 15 + [-1.0] * 5)
    exact = sum(math.comb(20, k) for k in range(15, 21)) / 2**20
    assert flip_signs(differences) == pytest.approx(exact, abs=0.005)
    assert flip_signs(-differences) == pytest.approx(
        sum(math.comb(20, k) for k in range(5, 21)) / 2**20, abs=0.005
    )
    assert flip_signs(np.ones(40)) == 1 / 10_001


def test_chance_is_even_where_nothing_is_planted():
    random = np.random.default_rng(0)
    found = [flip_signs(random.choice([-1 / 3, 0, 1 / 3], size=30), draws=400) for _ in range(300)]
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.09


def test_the_interval_of_a_mean_holds_the_truth_about_as_often_as_it_says():
    random, held = np.random.default_rng(0), 0
    labels = np.arange(40) % 2
    for run in range(300):
        values = random.choice([0.0, 0.5, 1.0], p=[0.6, 0.2, 0.2], size=40)
        low, high = estimate_mean(
            values, labels, share=False, seed=run, name="x", resamples=400
        ).interval
        held += low <= 0.3 <= high
    assert 0.90 <= held / 300 <= 0.98


def test_the_interval_is_that_of_another_bootstrap():
    # By hand: from m objects of a class m - 1 are drawn, and the classes weigh by their objects.
    values = [np.array([1.0, 0.5, 0.0, 0.5, 1.0]), np.array([0.0, 0.0, 0.5] * 4)]
    random, drawn = np.random.default_rng(7), []
    for _ in range(8_000):
        means = [random.choice(part, len(part) - 1).mean() * len(part) for part in values]
        drawn.append(sum(means) / 17)
    value = sum(part.sum() for part in values) / 17
    samples = np.array(drawn)
    below = NormalDist().inv_cdf(
        (samples < value - 1e-9).mean() + (abs(samples - value) < 1e-9).mean() / 2
    )
    ends = [NormalDist().cdf(2 * below + 1.96 * side) for side in (-1, 1)]
    found = estimate_mean(np.concatenate(values), [0] * 5 + [1] * 12, share=True, resamples=8_000)
    assert found.value == pytest.approx(value)
    assert tuple(found.interval) == pytest.approx(tuple(np.quantile(samples, ends)), abs=0.015)
    assert found.bias == pytest.approx(np.median(samples) - value, abs=0.01)
    assert found.count == 17


def test_seed_and_name_choose_the_draws():
    values, labels = np.random.default_rng(0).random(30), np.zeros(30)

    def estimate(seed, name):
        return estimate_mean(values, labels, share=True, seed=seed, name=name).interval

    assert estimate(0, "a") == estimate(0, "a")
    assert estimate(0, "a") != estimate(1, "a")
    assert estimate(0, "a") != estimate(0, "b")
    mixed = random_signs(30)
    assert flip_signs(mixed, seed=0) == flip_signs(mixed, seed=0)
    assert flip_signs(mixed, seed=0) != flip_signs(mixed, seed=1)


def random_signs(count):
    return np.random.default_rng(0).choice([-1.0, 1.0], count)


def test_up_to_thirteen_objects_all_flips_are_tried():
    assert flip_signs(np.ones(13)) == 2.0**-13
    drawn = flip_signs(np.ones(14)) * 10_001
    assert drawn == pytest.approx(round(drawn))
    assert 1 <= round(drawn) <= 6


def test_differences_do_not_leave_their_range():
    low, high = estimate_mean([1.0, 1.0], [0, 0], share=False).interval
    assert high == 1
    assert low == pytest.approx(1 - 0.6576, abs=1e-4)  # Wilson's of 0 of 2 goes up to 0.6576
    low, high = estimate_mean([-1.0, -1.0], [0, 0], share=False).interval
    assert low == -1
    assert high == pytest.approx(0.6576 - 1, abs=1e-4)


def test_objects_of_lonely_classes_are_drawn_among_all():
    values, alone = np.array([1.0, 0.0, 0.0, 1.0]), np.arange(4)
    low, high = estimate_mean(values, alone, share=True).interval
    assert low < 0.3
    assert high > 0.7
    assert estimate_mean(values, np.zeros(4), share=True).interval == (low, high)


def test_two_encoders_are_compared_object_by_object():
    rows = [(str(item), item % 2, other) for item in range(30) for other in (0, 1)]
    leans = tabulate([(*row, 1 - row[1] if row[2] else row[1]) for row in rows])
    holds = tabulate([(*row, row[1]) for row in rows])
    found = compare_background_gaps(leans, holds)
    assert found.gap.value == -1
    assert found.flip_rate.value == -1
    assert -1 <= found.gap.interval.low <= found.gap.interval.high < -0.8
    assert compare_background_gaps(holds, holds).gap.value == 0
    with pytest.raises(ValueError, match="same objects"):
        compare_background_gaps(leans, tabulate(TABLE))


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcd"),
            st.integers(0, 1),
            st.booleans(),
            st.integers(0, 2),
        ),
        max_size=24,
    ),
    st.randoms(use_true_random=False),
)
@settings(max_examples=40, deadline=None)
def test_the_order_of_composites_does_not_matter(rows, shuffler):
    one = tabulate(rows) if rows else tabulate_objects([], other=[], objects=[], labels=[])
    mixed = list(rows)
    shuffler.shuffle(mixed)
    again = tabulate(mixed) if mixed else one
    assert one.objects == again.objects
    for name in ("same", "other", "flips"):
        np.testing.assert_array_equal(getattr(one, name), getattr(again, name))
        values = getattr(one, name)
        assert ((values >= 0) & (values <= 1) | np.isnan(values)).all()


def answer(gaps):
    """Objects of one class that do better by `gaps` on scenes of their own class."""
    gains = np.asarray(gaps, float)
    same = np.where(gains >= 0, 1.0, 1.0 + gains)
    return ObjectAnswers(
        objects=tuple(f"{number:03}" for number in range(len(gains))),
        labels=np.zeros(len(gains), np.int64),
        same=same,
        other=same - gains,
        flips=np.zeros(len(gains)),
    )


@pytest.mark.parametrize("gain", [1 / 3, -1 / 3])
def test_one_object_that_differs_does_not_make_few_objects_sure(gain):
    # None that differs among 29 bears Wilson's 11.7 % to either side; one tells hardly more.
    none, one = (measure_background_gap(answer([0.0] * 28 + [k])).gap for k in (0.0, gain))
    assert none.interval.high == pytest.approx(0.117, abs=0.001)
    assert np.ptp(one.interval) == pytest.approx(np.ptp(none.interval), rel=0.1)
    assert one.interval.low < 0 < 0.1 < one.interval.high


def test_an_end_stays_where_the_flips_tell_the_gap_from_zero():
    # By hand: of the 64 flips of 6 objects one comes to as much, so p is 1 / 64.
    answers = answer([0.0] * 10 + [1 / 3] * 6)
    found = measure_background_gap(answers)
    drawn = estimate_mean(answers.gaps, answers.labels, share=False, name="gap").interval
    assert found.p_value == 1 / 64
    assert 0 < found.gap.interval.low == drawn.low
    assert found.gap.interval.high > drawn.high


def test_rare_objects_that_lean_are_not_missed_by_the_interval():
    random, sizes = np.random.default_rng(0), np.array([1 / 3, 2 / 3, 1])
    missed = 0
    for _ in range(150):
        gaps = np.where(random.random(80) < 0.06, random.choice(sizes, 80), 0.0)
        found = measure_background_gap(answer(gaps), resamples=100).gap
        missed += found.interval.high < 0.06 * sizes.mean()
    assert missed <= 6  # 2.5 of 100, and the draws alone miss 12 of 100


def test_many_objects_bear_the_interval_of_the_draws():
    random = np.random.default_rng(1)
    answers = answer(random.choice([-1 / 3, 0, 1 / 3, 2 / 3], 500, p=[0.2, 0.4, 0.3, 0.1]))
    wide = measure_background_gap(answers).gap.interval
    drawn = estimate_mean(answers.gaps, answers.labels, share=False, name="gap").interval
    assert wide.low <= drawn.low < drawn.high <= wide.high
    assert np.ptp(wide) < 1.2 * np.ptp(drawn)
