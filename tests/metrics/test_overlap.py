"""Rules of error sources against hand-worked tables and sets of patches."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fieldmark.metrics.overlap import (
    UNDECIDED,
    UNRESOLVABLE,
    correct_for_chance,
    count_regions,
    find_source,
    is_resolvable,
    measure_density,
    measure_iou,
)

MAPS = arrays(np.float64, 12, elements=st.floats(-1, 1).map(lambda x: round(x, 2)))
MASKS = arrays(np.bool_, 12)


def iou_of_sets(values, part):
    top = max(values)
    chosen = {i for i, v in enumerate(values) if v > 0 and v >= top / 2}
    inside = set(np.flatnonzero(part))
    return len(chosen & inside) / len(chosen | inside) if chosen | inside else 0.0


@settings(max_examples=60, deadline=None)
@given(MAPS, MASKS)
def test_iou_is_that_of_sets_of_patches(values, mask):
    found = measure_iou(values, np.stack([mask, ~mask]))
    assert found == pytest.approx([iou_of_sets(values, mask), iou_of_sets(values, ~mask)])


@settings(max_examples=40, deadline=None)
@given(MASKS, arrays(np.int64, 12, elements=st.integers(0, 3)), st.data())
def test_regions_give_what_patches_give(mask, clusters, data):
    values = data.draw(arrays(np.float64, 4, elements=st.floats(0.01, 1)))
    owned = np.unique(clusters)
    parts = np.stack([mask, ~mask])
    counts = count_regions(clusters, parts, regions=4)[:, owned]
    patches = values[clusters]
    np.testing.assert_allclose(measure_iou(values[owned], counts), measure_iou(patches, parts))
    by_region, by_patch = measure_density(values[owned], counts), measure_density(patches, parts)
    np.testing.assert_allclose(by_region, by_patch)


def test_a_hot_corner_of_the_background_by_each_rule():
    # 2 x 4 patches: the object is the left column, the map is 1 on it and 0.9 on two others.
    values = [1, 0.9, 0.9, 0, 1, 0, 0, 0]
    parts = np.array([[1, 0, 0, 0, 1, 0, 0, 0], [0, 1, 1, 1, 0, 1, 1, 1]])
    assert measure_iou(values, parts) == pytest.approx([2 / 4, 2 / 8])
    assert measure_density(values, parts) == pytest.approx([1.0, 0.3])


def test_the_larger_area_wins_by_iou_but_not_by_density():
    flat, parts = np.ones(8), np.array([[1] + [0] * 7, [0] + [1] * 7])
    assert find_source(measure_iou(flat, parts)) == 1
    assert find_source(measure_density(flat, parts)) == UNDECIDED


def test_a_map_without_support_decides_nothing():
    parts = np.array([[1, 0], [0, 1]])
    assert find_source(measure_iou([-1.0, -2.0], parts)) == UNDECIDED
    assert find_source(measure_density([-1.0, -2.0], parts)) == UNDECIDED


def test_empty_and_full_masks_are_not_resolvable():
    parts = np.array([[[0, 0], [1, 1]], [[1, 1], [0, 0]], [[1, 0], [0, 1]]])
    assert is_resolvable(parts).tolist() == [False, False, True]
    scores = measure_density([[1.0, 0.0]] * 3, parts)
    assert np.isnan(scores[0, 0])
    assert np.isnan(scores[1, 1])
    found = find_source(scores, resolvable=is_resolvable(parts))
    assert found.tolist() == [UNRESOLVABLE, UNRESOLVABLE, 0]


def test_a_third_part_can_win_and_one_that_is_absent_cannot():
    assert find_source([0.1, 0.5, 0.2]) == 1
    assert find_source([0.1, np.nan, 0.2]) == 2
    assert find_source([np.nan, np.nan, np.nan]) == UNDECIDED


def test_chance_takes_what_it_takes():
    assert correct_for_chance(0.9, 0.8, ceiling=0.9) == pytest.approx(1.0)
    assert np.isnan(correct_for_chance(0.9, 0.9, ceiling=0.9))
    assert correct_for_chance(0.2, 0.6) == pytest.approx(-1.0)
