from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import ndimage

from fieldmark.core.errors import MaskError, UsageError
from fieldmark.data.masks import (
    Degradation,
    crop_to_mask,
    degrade_mask,
    dilate_mask,
    erode_mask,
    find_box,
    refine_mask,
    soften_mask,
    threshold_mask,
)

MASKS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=12))


def disc(radius):
    rows, columns = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    return rows**2 + columns**2 <= radius**2


@settings(deadline=None, max_examples=30)
@given(mask=MASKS)
def test_threshold_is_idempotent_and_strict(mask):
    solid = threshold_mask(mask)
    assert np.array_equal(threshold_mask(solid), solid)
    assert np.array_equal(solid, np.where(mask > 100, 255, 0))


@settings(deadline=None, max_examples=30)
@given(mask=MASKS)
def test_refined_mask_stays_within_three_pixels_of_the_object(mask):
    refined, inside = refine_mask(mask), mask > 100
    if not inside.any():
        assert refined.max() == 0
        return
    assert refined.max() > 0
    # Pillow's Gaussian of radius 1 is a few box blurs: it reaches 3 pixels along each axis.
    reach = ndimage.binary_dilation(inside, np.ones((7, 7), bool))
    assert not refined[~reach].any()


def test_softening_is_close_to_a_true_gaussian():
    mask = np.zeros((41, 41), np.uint8)
    mask[10:30, 12:28] = 255
    exact = ndimage.gaussian_filter(mask.astype(float), 1, mode="nearest")
    assert np.abs(soften_mask(mask) - exact).max() < 8


@settings(deadline=None, max_examples=30)
@given(mask=MASKS)
def test_box_is_tight(mask):
    inside = mask > 100
    if not inside.any():
        with pytest.raises(MaskError):
            find_box(mask)
        return
    part = crop_to_mask(mask) > 100
    assert part.sum() == inside.sum()
    assert all(edge.any() for edge in (part[0], part[-1], part[:, 0], part[:, -1]))
    assert find_box(crop_to_mask(mask)) == (0, 0, part.shape[1], part.shape[0])


@pytest.mark.parametrize("radius", [1, 3, 6])
def test_dilation_and_erosion_are_those_by_a_disc(radius):
    mask = np.zeros((60, 50), np.uint8)
    mask[20:40, 15:36] = 255
    mask[25, 40] = 101
    inside = mask > 100
    assert np.array_equal(
        dilate_mask(mask, radius) > 0, ndimage.binary_dilation(inside, disc(radius))
    )
    assert np.array_equal(
        erode_mask(mask, radius) > 0, ndimage.binary_erosion(inside, disc(radius))
    )


def test_erosion_spares_the_border_of_the_image():
    mask = np.zeros((50, 50), np.uint8)
    mask[:, :30] = 255
    assert np.array_equal(np.flatnonzero(erode_mask(mask, 10)[0]), np.arange(20))
    assert (erode_mask(np.full((9, 9), 255, np.uint8), 21) == 255).all()


def test_degradations_have_the_sizes_of_the_paper():
    mask = np.zeros((200, 500), np.uint8)
    mask[60:140, 70:130] = 255
    assert find_box(degrade_mask(mask, "dilated")) == (55, 45, 145, 155)
    assert find_box(degrade_mask(mask, "eroded")) == (91, 81, 109, 119)
    notched = mask.copy()
    notched[60:100, 70:100] = 0
    assert np.array_equal(degrade_mask(notched, "box"), mask)
    assert degrade_mask(mask, "none") is mask


def test_degradations_of_a_small_image_are_the_same_share_of_it():
    mask = np.zeros((100, 80), np.uint8)
    mask[30:70, 20:60] = 255
    assert find_box(degrade_mask(mask, "dilated")) == (17, 27, 63, 73)
    assert find_box(degrade_mask(mask, "eroded")) == (24, 34, 56, 66)


def test_what_cannot_be_used_is_named():
    zero = np.zeros((5, 5), np.uint8)
    with pytest.raises(MaskError, match="the mask is all zero; draw it again"):
        degrade_mask(zero, "none")
    with pytest.raises(MaskError, match="its largest is 1; store masks as 0 to 255"):
        find_box(zero + 1)
    with pytest.raises(MaskError, match="the mask is empty"):
        find_box(np.empty((0, 4), np.uint8))
    thin = np.zeros((500, 60), np.uint8)
    thin[20:30] = 255
    with pytest.raises(MaskError, match="erosion by 21 px leaves nothing"):
        degrade_mask(thin, "eroded")
    with pytest.raises(UsageError, match="unknown degradation 'blurred'"):
        degrade_mask(zero + 255, cast(Degradation, "blurred"))
