"""Colours of maps are even, say which sign a value has, and outlines lie on borders."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fieldmark.report.heatmap import (
    draw_legend,
    find_edges,
    make_even_colours,
    make_signed_colours,
    outline_clusters,
    outline_mask,
    overlay_map,
    scale_signed,
)

# sRGB to CIE XYZ (IEC 61966-2-1), then CIELAB: another space than the one the colours are made in.
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
WHITE = np.array([0.9505, 1.0, 1.089])


def measure_lab(colours):
    share = colours / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    relative = linear @ TO_XYZ.T / WHITE
    root = np.where(
        relative > (6 / 29) ** 3, np.cbrt(relative), relative / (3 * (6 / 29) ** 2) + 4 / 29
    )
    x, y, z = root.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


def test_lightness_rises_evenly():
    lightness = measure_lab(make_even_colours())[:, 0]
    steps = np.diff(lightness[::15])
    assert lightness[0] < 20
    assert lightness[-1] > 85
    assert steps.min() > 0.6 * steps.mean()
    assert steps.max() < 1.5 * steps.mean()


def test_signs_differ_in_hue_and_are_alike_in_lightness():
    lab = measure_lab(make_signed_colours())
    against, speaks = lab[: len(lab) // 2], lab[len(lab) // 2 :][::-1]
    assert against[0, 2] < -30  # blue
    assert speaks[0, 2] > 30  # orange
    assert np.abs(against[:, 0] - speaks[:, 0]).max() < 6
    assert np.abs(lab[[127, 128], 1:]).max() < 2  # grey in the middle


def test_the_image_shows_through_but_does_not_shift_the_colours():
    values = np.linspace(0, 1, 16).reshape(4, 4)
    bright = overlay_map(np.full((4, 4, 3), 250, np.uint8), values)
    dark = overlay_map(np.full((4, 4, 3), 5, np.uint8), values)
    assert np.array_equal(bright, dark)
    rng = np.random.default_rng(0)
    textured = overlay_map(rng.integers(0, 255, (4, 4, 3), dtype=np.uint8), values)
    assert not np.array_equal(textured, bright)


def test_the_signed_view_tells_for_from_against():
    pixels = np.full((1, 3, 3), 128, np.uint8)
    against, none, speaks = overlay_map(pixels, np.array([[-1.0, 0.0, 1.0]]), signed=True)[0]
    assert int(against[2]) > int(against[0])
    assert int(speaks[0]) > int(speaks[2])
    assert np.ptp(none.astype(int)) < 6


@settings(max_examples=30, deadline=None)
@given(arrays.arrays(np.float64, (2, 3, 3), elements=st.integers(-1000, 1000)))
def test_scaling_keeps_signs_and_zero(values):
    scaled = scale_signed(values)
    assert np.abs(scaled).max() <= 1
    assert np.array_equal(np.sign(scaled), np.sign(values))


def test_edges_are_the_pixels_beside_another_label():
    labels = np.zeros((4, 4), int)
    labels[1:3, 1:3] = 1
    edges = find_edges(labels)
    assert not edges[[0, 0, 3, 3], [0, 3, 0, 3]].any()
    assert edges[1:3, 1:3].all()
    assert edges.sum() == 12
    assert not find_edges(np.ones((3, 3), bool)).any()


def test_outlines_change_borders_alone():
    pixels = np.full((8, 8, 3), 200, np.uint8)
    mask = np.zeros((8, 8), bool)
    mask[2:6, 2:6] = True
    drawn = outline_mask(pixels, mask)
    assert np.array_equal(drawn[0, 0], pixels[0, 0])
    assert drawn[2, 2].tolist() == [0, 255, 255]
    tinted = outline_clusters(pixels, mask.astype(int))
    assert not np.array_equal(tinted[0, 0], tinted[3, 3])
    assert pixels.min() == 200


@pytest.mark.parametrize("signed", [False, True])
def test_a_legend_runs_through_all_colours(signed):
    legend = draw_legend(signed=signed, width=256, height=2)
    colours = make_signed_colours() if signed else make_even_colours()
    assert legend.shape == (2, 256, 3)
    assert np.array_equal(legend[1], colours)
