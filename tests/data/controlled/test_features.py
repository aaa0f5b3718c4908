from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fieldmark.core.errors import ImageError, UnknownNameError
from fieldmark.data.controlled.features import (
    FEATURES,
    KINDS,
    draw_feature,
    find_kind,
    fit,
    read_stamp,
    to_pixels,
)
from tests.data.controlled.fake_packages import fake_packages


@pytest.fixture(scope="module", autouse=True)
def fake_stamps(tmp_path_factory):
    with fake_packages(tmp_path_factory.mktemp("cache")) as cache:
        yield cache


def draw(name, *, side=32, seed=0):
    return draw_feature(name, side=side, random=np.random.default_rng(seed))


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(sorted(FEATURES)),
    side=st.integers(2, 80),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_feature_fits_its_side_and_is_seen(name, side, seed):
    image = draw(name, side=side, seed=seed)
    assert image.mode == "RGBA"
    assert max(2, round(0.8 * side)) <= max(image.size) <= side
    assert min(image.size) >= 1
    alpha = to_pixels(image)[..., 3]
    assert alpha.shape == image.size[::-1]
    assert alpha.max() > (250 if side >= 16 else 0)


@pytest.mark.parametrize("name", FEATURES)
def test_a_draw_can_be_repeated_and_no_two_are_alike(name):
    drawn = [to_pixels(draw(name, seed=seed)) for seed in range(8)]
    np.testing.assert_array_equal(drawn[3], to_pixels(draw(name, seed=3)))
    assert len({(image.shape, image.tobytes()) for image in drawn}) > 4


@pytest.mark.parametrize(
    ("name", "colour"),
    [
        ("red-rectangle", (220, 30, 30)),
        ("blue-rectangle", (40, 70, 220)),
        ("green-triangle", (40, 190, 60)),
        ("yellow-star", (240, 210, 40)),
        ("purple-ring", (160, 60, 200)),
    ],
)
def test_a_shape_has_its_colour(name, colour):
    for seed in range(5):
        pixels = to_pixels(draw(name, side=60, seed=seed))
        opaque = pixels[pixels[..., 3] == 255][:, :3].astype(int)
        assert np.abs(opaque - colour).max() <= 25


def test_shapes_are_not_one_shape():
    rectangle, triangle, star, ring = (
        to_pixels(draw(name, side=60))[..., 3].mean() / 255
        for name in ("red-rectangle", "green-triangle", "yellow-star", "purple-ring")
    )
    assert rectangle == 1
    # By hand: the triangle's area over its square's is 1.9 * 1.8 / 2 / 4; the turn moves little.
    assert triangle == pytest.approx(0.4275, abs=0.04)
    assert 0.2 < star < triangle
    # A ring of a quarter's width: pi / 4 of the square, less a disk of half the radius.
    assert ring == pytest.approx(np.pi / 4 * (1 - 1 / 4), abs=0.03)
    middle = to_pixels(draw("purple-ring", side=60))
    assert middle[middle.shape[0] // 2, middle.shape[1] // 2, 3] == 0


@pytest.mark.parametrize("name", ["stripes", "checkerboard"])
def test_a_texture_has_two_colours_in_like_parts(name):
    pixels = to_pixels(draw(name, side=60))
    colours, counts = np.unique(pixels.reshape(-1, 4), axis=0, return_counts=True)
    assert len(colours) == 2
    assert counts.min() > 0.35 * counts.sum()


def test_kinds_hold_every_feature_once():
    assert sorted(name for names in KINDS.values() for name in names) == sorted(FEATURES)
    assert len(KINDS) >= 5
    assert {find_kind(name) for name in FEATURES} == set(KINDS)


def test_an_unknown_feature_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"unknown feature 'red-square'.*red-rectangle"):
        draw("red-square")


def test_what_lies_under_transparency_does_not_bleed():
    image = Image.new("RGBA", (40, 20), (0, 255, 0, 0))
    image.paste((255, 0, 0, 255), (0, 0, 21, 20))
    small = to_pixels(fit(image, 8))
    assert small.shape == (4, 8, 4)
    seen = small[small[..., 3] > 20]
    assert len(seen) >= 16
    assert seen[:, 1].max() == 0


@pytest.mark.parametrize("side", [3, 64, 200])
def test_fitting_keeps_the_shape(side):
    assert fit(Image.new("RGBA", (30, 10)), side).size == (side, max(1, round(side / 3)))
    assert fit(Image.new("RGBA", (1, 500)), side).size == (1, side)


def test_a_fake_stamp_is_cropped_to_its_object():
    # Drawn 40 x 30 with a margin of 5, so 30 x 20, then enlarged to 128.
    assert read_stamp("plants/00.png").size == (128, 85)


def test_a_stamp_that_is_not_there_is_said():
    with pytest.raises(ImageError, match=r"no-such\.png"):
        read_stamp("plants/no-such.png")
