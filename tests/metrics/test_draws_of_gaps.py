"""The draws behind gaps and shares of sources, worked one by one from the same seed."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from fieldmark.core.seeds import generator
from fieldmark.metrics.aligned_gap import measure_aligned_gap
from fieldmark.metrics.averaging import RESAMPLES, fit_decay
from fieldmark.metrics.background_gap import (
    compare_background_gaps,
    estimate_mean,
    flip_signs,
    measure_background_gap,
    tabulate_objects,
)
from fieldmark.metrics.cluster_gaps import permute_gaps, tabulate_gaps
from fieldmark.metrics.error_shares import summarise_sources
from fieldmark.metrics.intervals import (
    correct_bias,
    wilson_interval,
)


def test_chance_of_gaps_is_that_of_labels_shuffled_one_by_one():
    random = np.random.default_rng(1)
    presence, labels = random.random((14, 3)) < 0.5, np.repeat([0, 1, 2], [4, 5, 5])
    correct = np.concatenate([np.ones(4, bool), random.random(10) < 0.5])
    presence[4:9, 2] = [True, False, False, False, False]
    presence[9:, 2] = True
    drawn_by = generator(0, "gaps")
    chances: dict[bool, list[Any]] = {True: [], False: []}
    for block in (128, 2):
        orders = {
            label: drawn_by.permuted(np.tile(np.arange(5), (block, 1)), axis=1) for label in (1, 2)
        }
        for row in range(block):
            placed = correct.copy()
            for label in (1, 2):
                members = np.flatnonzero(labels == label)
                placed[members] = correct[members][orders[label][row]]
            table = tabulate_gaps(presence, labels, correct=placed, width=3)
            for weighted, gaps in chances.items():
                gaps.append(
                    [
                        sum(
                            abs(h / n - g / m) * (2 * min(n, m) / (n + m) if weighted else 1)
                            for h, n, g, m in zip(
                                *(part[c].tolist() for part in table), strict=True
                            )
                            if n and m
                        )
                        for c in range(3)
                    ]
                )
    for weighted, gaps in chances.items():
        found = permute_gaps(
            presence, labels, correct=correct, width=3, permutations=130, weighted=weighted
        )
        np.testing.assert_allclose(found.expected, np.mean(gaps, axis=0), rtol=1e-6)
        assert found.count == 130
    default = permute_gaps(presence, labels, correct=correct, width=3, permutations=130)
    np.testing.assert_allclose(default.expected, np.mean(chances[True], axis=0), rtol=1e-6)


def test_shares_of_sources_are_drawn_by_object():
    given = np.random.default_rng(8)
    verdicts, chosen = given.integers(-2, 3, 40), given.random(40) < 0.8
    null = np.array([[0.3, 0.2, 0.5]] * 40) * (verdicts != -2)[:, None]
    objects = given.integers(9, size=40).tolist()
    found = summarise_sources(verdicts, chosen, parts=3, null=null, objects=objects, resamples=120)
    names = list(dict.fromkeys(one for one, own in zip(objects, chosen, strict=True) if own))
    random, drawn = generator(0, "error sources"), []
    for block in (100, 20):
        drawn.extend(random.multinomial(9, [1 / 9] * 9, size=block).tolist())

    def measure(rows):
        share = np.mean([verdicts[i] == 2 for i in rows])
        chance, ceiling = (np.mean([one[i] for i in rows]) for one in (null[:, 2], verdicts != -2))
        return share, (share - chance) / (ceiling - chance)

    samples = []
    for times in drawn:
        rows = [i for i in range(40) if chosen[i] for _ in range(times[names.index(objects[i])])]
        samples.append(measure(rows))
    shares, corrected = zip(*samples, strict=True)
    whole = measure(np.flatnonzero(chosen))
    assert found[0].of == chosen.sum()
    assert (found[0].share, found[0].corrected) == pytest.approx(whole)
    assert found[0].interval == pytest.approx(correct_bias(shares, whole[0]))
    assert found[0].corrected_interval == pytest.approx(correct_bias(corrected, whole[1]))
    resolved = (chosen & (verdicts != -2)).sum() / 40
    assert found[0].corrected_of_images == pytest.approx(whole[1] * resolved)


def test_the_chance_of_many_objects_is_that_of_signs_flipped_one_by_one():
    values = np.random.default_rng(5).normal(0.2, 1, 15)
    random, extreme = generator(3, "sign flips"), 0
    for row in random.integers(2, size=(200, 15), dtype=np.int8).tolist():
        flipped = sum(-v if bit else v for v, bit in zip(values.tolist(), row, strict=True))
        extreme += flipped >= values.sum() - 1e-9
    assert 0 < extreme < 200
    assert flip_signs(values, seed=3, draws=200) == pytest.approx((1 + extreme) / 201)
    assert flip_signs(values) == flip_signs(values, seed=0)


def test_the_chance_of_few_objects_is_that_of_every_flip():
    values = [0.5, -0.25, 0.25, -0.5, 1.0]
    sums = [
        sum(sign * value for sign, value in zip(signs, values, strict=True))
        for signs in itertools.product((1, -1), repeat=5)
    ]
    assert flip_signs(values) == np.mean([total >= sum(values) for total in sums])


def test_slopes_are_those_of_sequences_drawn_one_by_one():
    residuals, sizes = np.random.default_rng(2).random((6, 3)) + 0.1, [1, 3, 9]
    drawn = generator(0, "decay").multinomial(6, [1 / 6] * 6, size=RESAMPLES)
    means = [np.repeat(residuals, times, axis=0).mean(axis=0) for times in drawn]
    slopes = np.polyfit(np.log(sizes), np.log(means).T, 1)[0]
    found = fit_decay(residuals, sizes)
    assert (found.low, found.high) == pytest.approx(np.quantile(slopes, [0.025, 0.975]))


def test_background_gaps_have_draws_of_their_own_for_each_figure():
    random = np.random.default_rng(3)
    answers = [
        tabulate_objects(
            random.integers(2, size=60),
            other=np.tile([0, 0, 1, 1], 15),
            objects=np.repeat(np.arange(15), 4),
            labels=np.repeat([0, 1, 1], 20),
        )
        for _ in range(2)
    ]
    one, two = answers
    found = measure_background_gap(one, seed=4, resamples=50)
    own = {
        "same": (one.same, True),
        "other": (one.other, True),
        "flips": (one.flips, True),
    }
    for name, figure in zip(own, (found.same, found.other, found.flip_rate), strict=True):
        values, share = own[name]
        assert figure == estimate_mean(
            values, one.labels, share=share, seed=4, name=name, resamples=50
        )
    gaps = {"gap": (found.gap, one.gaps)}
    for kind, figure in found.by_class.items():
        gaps[f"gap {kind}"] = figure, np.where(one.labels == kind, one.gaps, math.nan)
    for name, (figure, values) in gaps.items():
        raw = estimate_mean(values, one.labels, share=False, seed=4, name=name, resamples=50)
        assert (figure.value, figure.bias, figure.count) == (raw.value, raw.bias, raw.count)
        # What few objects cannot tell only widens it.
        assert figure.interval.low <= raw.interval.low <= raw.interval.high <= figure.interval.high
    assert found.p_value == flip_signs(one.gaps, seed=4)
    change = compare_background_gaps(one, two, seed=4, resamples=50)
    assert change.gap == estimate_mean(
        two.gaps - one.gaps, one.labels, share=False, seed=4, name="gap change", resamples=50
    )
    assert change.flip_rate == estimate_mean(
        two.flips - one.flips, one.labels, share=False, seed=4, name="flips change", resamples=50
    )
    assert measure_background_gap(one) == measure_background_gap(one, seed=0)
    assert compare_background_gaps(one, two) == compare_background_gaps(one, two, seed=0)


def test_a_mean_over_objects_is_that_of_objects_drawn_class_by_class():
    values = np.random.default_rng(1).random(7)
    random = generator(0, "background gap", "mean")
    first, second = (random.integers(m, size=(50, m - 1)) for m in (3, 4))
    drawn = (values[:3][first].mean(axis=1) * 3 + values[3:][second].mean(axis=1) * 4) / 7
    found = estimate_mean(values, [0] * 3 + [1] * 4, share=True, resamples=50)
    assert found.interval == pytest.approx(correct_bias(drawn, values.mean()))
    assert found.bias == pytest.approx(np.median(drawn) - values.mean())
    assert math.isnan(estimate_mean([math.nan], [0], share=True).bias)


def test_figures_that_do_not_vary_reach_as_far_as_objects_tell_by_their_kind():
    # Each object is right on one of two scenes of either kind; its usual answer is the right one.
    half = tabulate_objects(
        [0, 1] * 8, other=[0, 0, 1, 1] * 4, objects=np.repeat(np.arange(4), 4), labels=[0] * 16
    )
    assert half.objects == ("0", "1", "2", "3")
    found = measure_background_gap(half, resamples=20)
    shares = [found.same, found.other, found.flip_rate]
    assert [one.interval for one in shares] == [wilson_interval(2, 4)] * 3
    reach = wilson_interval(0, 4).high
    assert found.gap.interval == found.by_class[0].interval
    assert found.gap.interval == pytest.approx((-reach, reach))
    change = compare_background_gaps(half, half, resamples=20)
    assert change.gap.interval == change.flip_rate.interval == (-reach, reach)


def test_chance_of_an_aligned_gap_is_that_of_objects_dealt_one_by_one():
    random = np.random.default_rng(6)
    labels, objects = np.repeat([0, 1], 12), np.repeat(np.arange(8), 3)
    # Objects of one class are on both sides, those of the other on one.
    aligned = np.concatenate([np.tile([1, 0, 1], 4), np.repeat([1, 0, 1, 0], 3)])
    correct = random.random(24) < 0.4 + 0.3 * aligned
    found = measure_aligned_gap(correct, labels, aligned, objects=objects, seed=2, resamples=80)

    def measure(rows, sides):
        gaps = []
        for kind in (0, 1):
            of = [
                [correct[i] for i in rows if labels[i] == kind and sides[i] == side]
                for side in (1, 0)
            ]
            if all(of):
                gaps.append(np.mean(of[0]) - np.mean(of[1]))
        return np.mean(gaps) if gaps else math.nan

    draws = generator(2, "aligned gap")
    chosen = np.hstack([draws.integers(4, size=(80, 3)) + shift for shift in (0, 4)])
    drawn = [measure((row[:, None] * 3 + range(3)).ravel(), aligned) for row in chosen]
    gap = measure(range(24), aligned)
    assert found.gap == pytest.approx(gap)
    assert found.interval == pytest.approx(tuple(correct_bias(drawn, gap)))
    # Within each object of the first class two of three answers fall to the usual side.
    dealer = generator(2, "aligned gap", "sides")
    answers = correct.reshape(8, 3)
    right = answers[:4].sum(axis=1)
    hits = dealer.hypergeometric(right, 3 - right, 2, size=(80, 4)).sum(axis=1)
    first = hits / 8 - (right.sum() - hits) / 4
    dealt = dealer.permuted(np.tile([True, False, True, False], (80, 1)), axis=1)
    second = [answers[4:][row].mean() - answers[4:][~row].mean() for row in dealt]
    mixed = (first + second) / 2
    assert 1 / 81 < found.p_value < 1
    assert found.p_value == pytest.approx((1 + (mixed >= gap - 1e-9).sum()) / 81)
    default, seeded = (
        measure_aligned_gap(correct, labels, aligned, **k) for k in ({}, {"seed": 0})
    )
    assert default == seeded


@pytest.mark.parametrize("correct", [[1, 0, 1, 0], [0, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 1]])
def test_the_chance_of_an_aligned_gap_is_near_that_of_every_way_to_deal(correct):
    ways = list(itertools.combinations(range(4), 2))
    gaps = [np.mean(np.take(correct, way)) * 2 - np.mean(correct) * 2 for way in ways]
    found = measure_aligned_gap(correct, [0] * 4, [1, 1, 0, 0])
    assert found.gap == pytest.approx(gaps[0])
    assert found.p_value == pytest.approx(np.mean(np.array(gaps) >= gaps[0] - 1e-9), abs=0.025)


def test_without_two_sides_there_is_no_aligned_gap():
    nothing = measure_aligned_gap([1, 0], [0, 0], [1, 1])
    assert all(map(math.isnan, (nothing.aligned, nothing.conflicting, nothing.p_value)))
