"""Masks worked by hand, and decisions that move or stay."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.core.errors import MaskError, UsageError
from fieldmark.data.mask_quality import (
    QualityLimits,
    check_mask,
    measure_overlap,
    measure_solidity,
    measure_stability,
)


def draw(*boxes, side=20):
    mask = np.zeros((side, side), np.uint8)
    for top, left, bottom, right in boxes:
        mask[top:bottom, left:right] = 255
    return mask


def test_a_whole_square_is_good():
    found = check_mask(draw((5, 5, 15, 15)))
    assert (found.area, found.fragments, found.main, found.holes) == (0.25, 1, 1.0, 0)
    assert (found.hole_area, found.solidity, found.border) == (0, 1, 0)
    assert math.isnan(found.overlap)
    assert not found.touches_border
    assert (found.verdict, found.reason) == ("good", "nothing is off")


def test_fragments_that_touch_at_a_corner_are_one():
    assert check_mask(draw((2, 2, 5, 5), (5, 5, 8, 8))).fragments == 1
    apart = check_mask(draw((2, 2, 5, 5), (6, 6, 9, 9)))
    assert apart.fragments == 2
    assert apart.main == 0.5
    assert apart.verdict == "suspect"
    assert "largest fragment is only 50%" in apart.reason


def test_a_ring_has_a_hole_and_an_open_ring_has_none():
    ring = draw((4, 4, 16, 16))
    ring[7:13, 7:13] = 0
    found = check_mask(ring)
    assert found.holes == 1
    assert found.hole_area == 36 / 144
    assert "holes are 25% of it" in found.reason
    ring[7:9, 4:7] = 0
    assert check_mask(ring).holes == 0


def test_the_border_is_counted():
    # 5 + 5 - 1 of the 76 pixels of the border.
    found = check_mask(draw((0, 0, 5, 5)))
    assert found.touches_border
    assert found.border == pytest.approx(9 / 76)


@pytest.mark.parametrize(
    ("mask", "verdict", "words"),
    [
        (draw(), "unusable", "no pixel is object"),
        (draw((0, 0, 20, 20)), "unusable", "no background"),
        (draw((3, 3, 4, 4)), "suspect", "0.2% of the image"),
        (draw((0, 0, 1, 20), (0, 0, 20, 1)), "suspect", "of its hull"),
    ],
)
def test_what_is_off_is_said_in_a_line(mask, verdict, words):
    found = check_mask(mask)
    assert found.verdict == verdict
    assert words in found.reason
    assert "\n" not in found.reason


def test_an_empty_mask_has_no_shape():
    found = check_mask(draw(), other=draw())
    values = (found.main, found.hole_area, found.solidity, found.overlap)
    assert all(math.isnan(value) for value in values)
    assert found.fragments == 0
    assert found.area == 0


def test_a_second_mask_and_limits_decide():
    mask, other = draw((5, 5, 15, 15)), draw((5, 10, 15, 20))
    found = check_mask(mask, other=other)
    assert found.overlap == pytest.approx(1 / 3)
    assert "only 0.33" in found.reason
    loose = QualityLimits(least_overlap=0.3)
    assert check_mask(mask, other=other, limits=loose).verdict == "good"


@given(
    seed=st.integers(0, 500), height=st.integers(1, 12), width=st.integers(1, 12),
    share=st.floats(0, 1),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_any_mask_has_values_in_their_ranges(seed, height, width, share):
    rng = np.random.default_rng(seed)
    mask = np.where(rng.random((height, width)) < share, 255, 0).astype(np.uint8)
    found = check_mask(mask, other=mask)
    size = int((mask > 0).sum())
    assert found.area == size / mask.size
    assert 0 <= found.border <= 1
    if size:
        assert 0 < found.main <= 1
        assert 0 <= found.hole_area < 1
        assert found.overlap == 1
        assert 0 < found.solidity <= 1
        assert (found.holes == 0) == (found.hole_area == 0)


def test_the_hull_of_a_right_triangle_by_hand():
    # Stairs of n steps fill n(n+1)/2 of a hull of n(n+1)/2 + (2n - 1)/2 - (n - 1)/2.
    steps = 6
    inside = np.tril(np.ones((steps, steps), bool))
    assert measure_solidity(inside) == pytest.approx(21 / (36 - 0.5 * 25))


def test_masks_of_different_sizes_and_shapes_are_refused():
    with pytest.raises(MaskError, match=r"\(20, 20\) and \(9, 9\)"):
        measure_overlap(draw(), draw(side=9))
    with pytest.raises(MaskError, match=r"not \(2, 2, 3\)"):
        check_mask(np.zeros((2, 2, 3), np.uint8))


def test_decisions_that_hang_on_the_centre_are_stable_and_those_on_the_edge_are_not():
    masks = [draw((4, 4, 16, 16)) for _ in range(4)]

    def holds_centre(masks):
        return np.array([mask[10, 10] > 0 for mask in masks])

    def reaches(masks):
        return np.array([mask[10, 2] > 0 for mask in masks])

    assert measure_stability(masks, holds_centre, radii=[1, 2, 3]).is_stable
    found = measure_stability(masks, reaches, radii=[1, 2])
    assert found.radii == (-2, -1, 1, 2)
    assert found.moved.tolist() == [0, 0, 0, 1]
    assert found.flipped.tolist() == [0, 0, 0, 1]
    assert found.largest_move == 1
    assert not found.is_stable


def test_an_object_worn_away_is_undefined_and_not_a_change():
    masks = [draw((4, 4, 16, 16)), draw((4, 4, 6, 6))]

    def decide(masks):
        return np.array([1.0 if mask.any() else np.nan for mask in masks])

    found = measure_stability(masks, decide, radii=[2])
    assert found.counts.tolist() == [1, 2]
    assert found.moved.tolist() == [0, 0]
    gone = measure_stability(masks, decide, radii=[9])
    assert gone.counts[0] == 0
    assert np.isnan(gone.rates[0])
    assert not gone.is_stable


def test_flips_that_cancel_are_seen():
    masks = [draw((4, 4, 16, 16)), draw((5, 5, 15, 15))]

    def decide(masks):
        left_grew = masks[0][10, 3] > 0
        return np.array([left_grew, not left_grew])

    found = measure_stability(masks, decide, radii=[1])
    assert found.flipped.tolist() == [0, 1]
    assert found.moved.tolist() == [0, 0]


@pytest.mark.parametrize(("masks", "radii"), [([], [1]), ([draw()], []), ([draw()], [0])])
def test_stability_of_nothing_is_refused(masks, radii):
    with pytest.raises(UsageError, match="radii of 1 pixel"):
        measure_stability(masks, lambda masks: np.zeros(len(masks)), radii=radii)


@pytest.mark.parametrize("decisions", [np.zeros(2), np.array([0.5])])
def test_decisions_that_are_none_are_refused(decisions):
    with pytest.raises(MaskError, match="one decision for each mask"):
        measure_stability([draw()], lambda masks: decisions)
