"""Layers and variants: against whole-canvas floats, Pillow's own rotation, and exact properties."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fieldmark.core.errors import UnknownNameError, UsageError
from fieldmark.data.covar import CovarSettings
from fieldmark.data.covar.layers import (
    Layer,
    find_square,
    fit_square,
    premultiply,
    shape_edge,
    shrink_layer,
    turn_layer,
    turn_scene,
)
from fieldmark.data.covar.variants import (
    Actor,
    Variant,
    draw_variant,
    open_stage,
    render_variant,
)
from tests.data.covar.drawn_pools import SMALL, draw_ellipse, paint

SIDE, FINE = 32, 2
CANVAS = SIDE * FINE


def make_actor(seed=0, *, size=(30, 22), left=17, top=21):
    return Actor(layer=Layer(premultiply(paint(seed, size), draw_ellipse(size)), left, top))


def make_stage(seed=1):
    return open_stage(paint(seed, (120, 90)), settings=SMALL)


def render(subset, actor=None, stage=None, *, config=SMALL, **drawn):
    variant = Variant(subset, drawn)
    return render_variant(variant, actor or make_actor(), stage or make_stage(), settings=config)


def pixels(image):
    return np.asarray(image).astype(int)


def composite_floats(layer, canvas):
    """Composite on the whole canvas and average blocks, all in floats: image and mask."""
    spread = Image.new("RGBa", (CANVAS, CANVAS))
    spread.paste(layer.sprite, (layer.left, layer.top))
    sprite = np.asarray(spread) / 255.0
    margin = (canvas.width - CANVAS) // 2
    under = np.asarray(canvas.crop((margin, margin, margin + CANVAS, margin + CANVAS))) / 255.0
    over = sprite[..., :3] + under * (1 - sprite[..., 3:])
    both = np.concatenate([over, sprite[..., 3:]], axis=2)
    return 255 * both.reshape(SIDE, FINE, SIDE, FINE, 4).mean((1, 3))


@settings(max_examples=40, deadline=None)
@given(st.integers(-40, 70), st.integers(-40, 70), st.integers(1, 50), st.integers(1, 50))
def test_compositing_equals_floats_on_the_whole_canvas(left, top, width, height):
    actor = make_actor(3, size=(width, height), left=left, top=top)
    stage = make_stage()
    rendered = render("background", actor, stage)
    wanted = composite_floats(actor.layer, stage.canvas)
    # Each of the two products is rounded, then their mean.
    assert np.abs(pixels(rendered.image) - wanted[..., :3]).max() <= 1.5
    assert np.abs(pixels(rendered.mask) - wanted[..., 3]).max() <= 0.5 + 1e-9


def test_the_scene_shows_where_the_mask_is_zero():
    stage, bare = make_stage(), Actor(layer=Layer(Image.new("RGBa", (4, 4)), 8, 8))
    rendered, scene = render("background", stage=stage), render("background", bare, stage)
    outside = pixels(rendered.mask) == 0
    assert outside.any()
    assert not outside.all()
    assert (pixels(rendered.image)[outside] == pixels(scene.image)[outside]).all()
    assert math.isnan(scene.visible)


@pytest.mark.parametrize(
    ("subset", "turn"), [("h_flip", ImageOps.mirror), ("v_flip", ImageOps.flip)]
)
def test_flips_are_exact_mirrors(subset, turn):
    plain, flipped = render("background"), render(subset)
    assert turn(plain.image).tobytes() == flipped.image.tobytes()
    assert turn(plain.mask).tobytes() == flipped.mask.tobytes()


def shift_array(array, right, down):
    """Return the part of an image that is still there after a shift, before and after."""
    height, width = array.shape[:2]
    rows = slice(max(0, -down), min(height, height - down))
    columns = slice(max(0, -right), min(width, width - right))
    moved_rows = slice(rows.start + down, rows.stop + down)
    moved_columns = slice(columns.start + right, columns.stop + right)
    return (rows, columns), (moved_rows, moved_columns)


@settings(max_examples=30, deadline=None)
@given(st.integers(-6, 6), st.integers(-6, 6))
def test_translation_by_whole_pixels_is_exact(right, down):
    plain = render("background")
    scene = render("translate", right=right, down=down, moves="scene")
    before, after = shift_array(np.asarray(plain.mask), right, down)
    assert (pixels(plain.image)[before] == pixels(scene.image)[after]).all()
    assert (pixels(plain.mask)[before] == pixels(scene.mask)[after]).all()
    alone = render("translate", right=right, down=down, moves="foreground")
    assert alone.mask.tobytes() == scene.mask.tobytes()
    bare = pixels(alone.mask) + pixels(plain.mask) == 0
    assert (pixels(alone.image)[bare] == pixels(plain.image)[bare]).all()
    solid = (pixels(alone.mask) == 255).nonzero()
    assert (pixels(alone.image)[solid] == pixels(scene.image)[solid]).all()


@settings(max_examples=30, deadline=None)
@given(st.floats(1.01, 8), st.integers(24, 56), st.integers(24, 56))
def test_mask_area_falls_with_the_square_of_the_scale(factor, width, height):
    actor = make_actor(size=(width, height), left=4, top=4)
    whole = pixels(render("background", actor).mask).sum()
    shrunk = pixels(render("scale_x", actor, factor=factor).mask).sum()
    # Sides are rounded to whole pixels of the canvas, alphas to 8 bits.
    bound = (1 + factor / (2 * width)) * (1 + factor / (2 * height)) - 1 + 0.03
    assert abs(shrunk * factor**2 / whole - 1) <= bound


def test_a_centred_object_stays_centred_and_another_comes_nearer():
    def middle(layer):
        return layer.left + layer.sprite.width / 2, layer.top + layer.sprite.height / 2

    centred = make_actor(size=(30, 20), left=17, top=22).layer
    aside = make_actor(size=(16, 16), left=4, top=40).layer
    for factor in (1.5, 2, 4, 8):
        x, y = middle(shrink_layer(centred, factor, side=CANVAS))
        assert abs(x - 32) <= 0.5
        assert abs(y - 32) <= 0.5
        x, y = middle(shrink_layer(aside, factor, side=CANVAS))
        assert abs(x - (32 - 20 / factor)) <= 0.5
        assert abs(y - (32 + 16 / factor)) <= 0.5


def test_the_background_is_the_same_at_every_scale():
    stage, actor = make_stage(), make_actor()
    outside = pixels(render("background", actor, stage).mask) == 0
    images = [pixels(render("scale_x", actor, stage, factor=f).image) for f in (1.5, 3, 8)]
    assert all((image[outside] == images[0][outside]).all() for image in images)


@pytest.mark.parametrize("angle", [-45.0, -7.5, 12.0, 30.0, 90.0])
def test_turning_a_layer_is_pillows_rotation_of_the_canvas(angle):
    layer = make_actor(size=(24, 14), left=12, top=30).layer
    canvas = Image.new("RGBa", (CANVAS, CANVAS))
    canvas.paste(layer.sprite, (layer.left, layer.top))
    size, how = (CANVAS, CANVAS), Image.Resampling.BILINEAR
    wanted = [band.rotate(angle, how) for band in canvas.split()]
    turned = turn_layer(layer, angle, side=CANVAS)
    spread = Image.new("RGBa", size)
    spread.paste(turned.sprite, (turned.left, turned.top))
    for band, reference in zip(spread.split(), wanted, strict=True):
        assert np.abs(pixels(band) - pixels(reference)).max() <= 1


def test_turning_a_scene_is_pillows_rotation_and_leaves_no_bare_corner():
    stage = make_stage()
    margin = (stage.canvas.width - CANVAS) // 2
    for angle in (-45.0, 20.0, 45.0):
        turned = turn_scene(stage.canvas, angle, side=CANVAS)
        whole = stage.canvas.rotate(angle, Image.Resampling.BILINEAR)
        wanted = pixels(whole)[margin + 1 : -margin - 1, margin + 1 : -margin - 1]
        assert np.abs(pixels(turned)[1:-1, 1:-1] - wanted).max() <= 1
    white = turn_scene(Image.new("RGB", stage.canvas.size, "white"), 45, side=CANVAS)
    assert pixels(white).min() == 255


def test_rotation_keeps_the_area_and_scene_and_foreground_share_the_mask():
    area = pixels(render("background").mask).sum()
    for angle in (-45.0, 10.0, 33.0):
        scene = render("rotation", angle=angle, moves="scene")
        alone = render("rotation", angle=angle, moves="foreground")
        assert scene.mask.tobytes() == alone.mask.tobytes()
        assert scene.image.tobytes() != alone.image.tobytes()
        assert abs(pixels(scene.mask).sum() / area - 1) < 0.02


def test_a_crop_enlarges_the_object_by_the_share_of_the_area():
    actor = make_actor(size=(30, 22), left=17, top=21)
    area = pixels(render("background", actor).mask).sum()
    edge = SIDE * (1 - math.sqrt(0.64)) / 2
    cropped = render("crop", actor, share=0.64, box=[edge, edge, SIDE - edge, SIDE - edge])
    assert cropped.image.size == (SIDE, SIDE)
    assert abs(pixels(cropped.mask).sum() * 0.64 / area - 1) < 0.02
    assert cropped.visible == 1


@pytest.mark.parametrize(("left", "share"), [(17, 1.0), (-15, 0.5), (CANVAS + 3, 0.0)])
def test_what_the_border_cuts_off_is_measured(left, share):
    actor = Actor(
        layer=Layer(premultiply(paint(0, (30, 20)), Image.new("L", (30, 20), 255)), left, 9)
    )
    rendered = render("background", actor)
    assert rendered.visible == share
    assert pixels(rendered.mask).mean() == pytest.approx(255 * share * 600 / CANVAS**2, abs=0.1)


@settings(max_examples=20, deadline=None)
@given(st.integers(33, 150), st.integers(33, 150), st.integers(0, 9))
def test_fit_square_stays_inside_and_repeats_pixels(width, height, seed):
    image = paint(seed, (width, height))
    square = find_square(image.size, around=(seed * width / 9, seed * height / 9))
    assert 0 <= square.left <= width - square.side
    assert 0 <= square.top <= height - square.side
    region = image.crop(
        (square.left, square.top, square.left + square.side, square.top + square.side)
    )
    doubled = fit_square(image, square, side=2 * square.side)
    assert doubled.reduce(2).tobytes() == region.tobytes()


def test_edges():
    soft = draw_ellipse((40, 40), margin=8)
    hard, feathered = (shape_edge(soft, edge, pixel=2) for edge in ("hard", "feathered"))
    assert set(np.unique(pixels(hard))) == {0, 255}
    assert ((pixels(hard) == 255) == (pixels(soft) > 100)).all()
    worn = pixels(hard).sum() - pixels(feathered).sum()
    # A square of 5 wears at least 2 canvas pixels of the circle's radius of 12 away.
    assert worn > 255 * math.pi * (12**2 - 10**2) * 0.9
    assert len(np.unique(pixels(feathered))) > 20
    assert shape_edge(soft, "natural", pixel=2) is soft


def test_parameters_stay_within_their_bounds_and_hang_on_names_alone():
    config = CovarSettings(side=224, patch=14)
    drawn = [draw_variant("translate", settings=config, item=str(i), scene="s") for i in range(200)]
    shifts = np.array([[v.parameters["right"], v.parameters["down"]] for v in drawn])
    assert (shifts % 14 == 0).all()
    assert np.abs(shifts).max() == 42
    assert (shifts != 0).any(1).all()
    angles = [
        draw_variant("rotation", settings=config, item=str(i), scene="s").parameters["angle"]
        for i in range(200)
    ]
    assert min(angles) < -35
    assert max(angles) > 35
    assert max(map(abs, angles)) <= 45
    shares = [
        draw_variant("crop", settings=config, item=str(i), scene="s").parameters["share"]
        for i in range(200)
    ]
    assert min(shares) >= 0.6
    assert max(shares) <= 0.9
    assert max(shares) - min(shares) > 0.2
    other = dataclasses.replace(config, seed=1)
    assert drawn[0] == draw_variant("translate", settings=config, item="0", scene="s")
    assert drawn[0] != draw_variant("translate", settings=other, item="0", scene="s")
    free = draw_variant("translate", settings=CovarSettings(), item="0", scene="s").parameters
    assert free["phase"]["16"] == [free["right"] % 16, free["down"] % 16]


@pytest.mark.parametrize(
    "change",
    [
        {"side": 4},
        {"supersample": 5},
        {"scales": (0.5,)},
        {"scales": (2.0, 2.0)},
        {"shift": 0.3},
        {"patch": 100},
        {"patch": 0},
        {"crop": (0.9, 0.6)},
        {"angle": 0.0},
        {"object_side": 1.5},
        {"backgrounds_per_object": 0},
        {"objects_per_class": 0},
        {"subsets": ("crop", "crop")},
    ],
)
def test_settings_that_cannot_be(change):
    with pytest.raises(UsageError):
        CovarSettings(**change)


def test_unknown_subsets_are_named_with_the_known_ones():
    with pytest.raises(UnknownNameError, match="scale_8"):
        CovarSettings(subsets=("scale_3",))
    with pytest.raises(UsageError, match="function:FILE"):
        CovarSettings(subsets=("viewpoint_1",)).find_subsets()
