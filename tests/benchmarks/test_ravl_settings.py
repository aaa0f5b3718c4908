"""Controlled settings read from rows typed by hand, and means over them."""

from __future__ import annotations

import math
import statistics
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from fieldmark.benchmarks.store import Measured
from fieldmark.benchmarks.suites.ravl_settings import (
    Setting,
    average_scores,
    gather_settings,
    keep_valid,
)
from fieldmark.core.errors import InputError
from fieldmark.core.records import ResultRow
from tests.benchmarks.ravl_rows import FOUND, NAN, measure, row


def find_setting(*rows: ResultRow) -> Setting:
    (found,) = gather_settings([(FOUND[0][0], Measured(rows=rows))])
    return found


def test_a_setting_is_as_strong_as_its_weakest_seed():
    rows = [
        row("d", "d stripes", "fine-tuned", metric, value, seed=seed)
        for metric, values in (("epsilon1", (30, 40, 22)), ("epsilon2", (25, 31, 50)))
        for seed, value in enumerate(values)
    ]
    assert find_setting(*rows).strength == 22
    given_strength = row("d", "d stripes", "fine-tuned", "strength", 21.0)
    assert find_setting(*rows, given_strength).strength == 21
    lost = row("d", "d stripes", "fine-tuned", "epsilon1", NAN, seed=3)
    assert math.isnan(find_setting(*rows, lost).strength)
    assert math.isnan(find_setting(row("d", "d stripes", "ravl", "precision@10", 1.0)).strength)


def test_validity_includes_its_threshold():
    found = gather_settings(FOUND)
    assert [len(keep_valid(found, tau=tau)) for tau in (9.5, 10, 15, 20, 45, 46)] == [
        4,
        3,
        3,
        2,
        1,
        0,
    ]


def test_nothing_found_counts_as_zero_and_not_run_as_undefined():
    found = gather_settings(FOUND)[1]
    assert found.score("ravl") == pytest.approx(0.3)
    assert found.count_empty("ravl") == (1, 2)
    assert math.isnan(found.score("george"))
    assert found.count_empty("george") == (0, 0)


def test_kinds_come_from_the_second_word():
    assert [one.kind for one in gather_settings(FOUND)[:2]] == ["texture patch", "rectangle"]
    assert find_setting(row("c", "coco dog", "ravl", "precision@10", 1.0)).kind == (
        "annotated object"
    )


def test_two_encoders_are_two_settings_and_one_encoder_contradicts_itself():
    one, other = (
        measure("d stripes", strength=50, precision={"ravl": [value]}, model=model)
        for value, model in ((1.0, "a"), (0.5, "b"))
    )
    assert [(s.model, s.score("ravl")) for s in gather_settings([one, other])] == [
        ("a", 1.0),
        ("b", 0.5),
    ]
    again = (one[0], other[1])
    with pytest.raises(InputError, match=r"precision@10 of ravl in d 'd stripes' has two values"):
        gather_settings([one, again])


def test_intervals_agree_with_scipy():
    scores = np.random.default_rng(0).beta(2, 1, size=60)
    ours = average_scores(scores)
    theirs = bootstrap(
        (scores,), np.mean, method="percentile", n_resamples=4_000, random_state=1
    ).confidence_interval
    assert ours.value == pytest.approx(scores.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.006)


def test_equal_scores_get_wilsons_interval_and_equal_differences_none():
    same = average_scores([1.0] * 9)
    assert same.value == same.high == 1
    assert same.low == pytest.approx(9 / (9 + 1.959964**2))
    gap = average_scores([0.2] * 9, bounded=False)
    assert gap.value == pytest.approx(0.2)
    assert math.isnan(gap.low)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1) | st.just(NAN), max_size=12))
def test_means_leave_out_what_is_undefined_and_stay_in_range(scores):
    defined = [score for score in scores if not math.isnan(score)]
    mean = average_scores(scores)
    assert mean.settings == len(defined)
    if not defined:
        assert math.isnan(mean.value)
        return
    assert mean.value == pytest.approx(statistics.fmean(defined))
    if len(defined) < 2:
        assert math.isnan(mean.low)
        assert math.isnan(mean.high)
        return
    ends = (0.0, mean.low, mean.high, 1.0)
    assert all(before <= after + 1e-9 for before, after in pairwise(ends))
