"""Shares of error sources: sums, nulls, corrections and clustered intervals."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.metrics.error_shares import (
    BACKGROUND,
    FINE_GRAINED,
    FOREGROUND,
    NOT_RESOLVED,
    OTHER_OBJECT,
    SOURCES,
    split_sources,
    summarise_sources,
)

VERDICTS = st.lists(st.tuples(st.integers(-2, 2), st.booleans(), st.booleans()), max_size=30)


def by_source(verdicts, chosen, **options):
    options = {"parts": 2, "resamples": 200, **options}
    return {one.source: one for one in summarise_sources(verdicts, chosen, **options)}


@settings(max_examples=40, deadline=None)
@given(VERDICTS)
def test_every_image_has_one_source_and_shares_sum_to_1(rows):
    verdicts = np.array([row[0] for row in rows], np.int64)
    chosen, similar = (np.array([row[i] for row in rows], bool) for i in (1, 2))
    split = split_sources(verdicts, parts=3, similar=similar)
    assert (np.stack(list(split.values())).sum(axis=0) == 1).all()
    found = summarise_sources(verdicts, chosen, parts=3, similar=similar, resamples=20)
    assert tuple(one.source for one in found) == SOURCES
    assert sum(one.hits for one in found) == chosen.sum()
    if chosen.any():
        assert sum(one.share for one in found) == pytest.approx(1)
        assert sum(one.of_images for one in found) == pytest.approx(chosen.mean())
    else:
        assert all(math.isnan(one.share) and one.of == 0 for one in found)


def test_a_hand_worked_set():
    # Four errors and a hit: two by the background, one by a look-alike, one not resolvable.
    found = by_source(
        [1, 1, 0, -2, 1],
        [1, 1, 1, 1, 0],
        null=[[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [0, 0], [0, 1]],
        similar=[False, False, True, True, False],
    )
    assert found[BACKGROUND].share == pytest.approx(2 / 4)
    assert found[BACKGROUND].null == pytest.approx(1.5 / 4)
    # Of the three that can be resolved: (2/3 - 1/2) / (1 - 1/2).
    assert found[BACKGROUND].corrected == pytest.approx(1 / 3)
    assert found[BACKGROUND].of_images == pytest.approx(2 / 5)
    assert found[BACKGROUND].corrected_of_images == pytest.approx(1 / 3 * 3 / 5)
    assert found[FINE_GRAINED].hits == 1
    assert found[FINE_GRAINED].null == pytest.approx(0.5 / 4)
    assert found[FOREGROUND].null == pytest.approx(1 / 4)
    assert found[NOT_RESOLVED].share == pytest.approx(1 / 4)


def test_another_object_is_neither():
    found = by_source([1, 2, 0], [1, 1, 1], parts=3, null=[[0.2, 0.3, 0.5]] * 3)
    assert found[OTHER_OBJECT].hits == 1
    assert found[OTHER_OBJECT].null == pytest.approx(0.3)


def test_without_a_null_there_is_no_corrected_share():
    found = by_source([1, 0], [1, 1])[BACKGROUND]
    assert math.isnan(found.null)
    assert math.isnan(found.corrected)
    assert math.isnan(found.corrected_interval.low)


def test_a_null_that_says_the_same_leaves_nothing():
    found = by_source([1, 0] * 50, [1] * 100, null=[[0.5, 0.5]] * 100)[BACKGROUND]
    assert found.corrected == pytest.approx(0)
    assert found.corrected_interval.low < 0 < found.corrected_interval.high


def test_images_of_one_object_count_once():
    verdicts, chosen = [1] * 20 + [0] * 20, [1] * 40
    alone = by_source(verdicts, chosen)[BACKGROUND].interval
    objects = [f"object {i // 10}" for i in range(40)]
    shared = by_source(verdicts, chosen, objects=objects)[BACKGROUND].interval
    assert shared.high - shared.low > 1.5 * (alone.high - alone.low)


def test_a_share_without_spread_has_an_interval_that_counts_objects():
    found = by_source([1] * 40, [1] * 40, objects=["a", "b"] * 20)[BACKGROUND]
    assert found.interval.low < 0.5
    assert found.interval.high == 1


@settings(max_examples=60, deadline=None)
@given(VERDICTS, st.floats(0, 0.9))
def test_an_interval_holds_its_value(rows, chance):
    """Also where not all images are resolvable, and where nothing varies among those that are."""
    verdicts = np.array([row[0] for row in rows], np.int64)
    chosen = np.array([row[1] for row in rows], bool)
    resolvable = verdicts != -2
    null = np.stack([resolvable * (1 - chance), resolvable * chance], axis=1)
    for one in by_source(verdicts, chosen, null=null).values():
        low, high = one.corrected_interval
        if not math.isnan(one.corrected):
            assert low - 1e-9 <= one.corrected <= high + 1e-9


def test_the_seed_decides_the_interval():
    first, second = (by_source([1, 0, 0] * 9, [1] * 27, seed=seed) for seed in (0, 0))
    assert first == second or str(first) == str(second)


def test_lengths_that_differ_are_refused():
    with pytest.raises(ValueError, match="3 verdicts, 2 choices"):
        summarise_sources([1, 0, 0], [1, 1], parts=2)
