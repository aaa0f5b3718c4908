"""The variants of one object on one scene: what is drawn for each, and how it is rendered."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from PIL.Image import Transpose

from fieldmark.core.seeds import generator
from fieldmark.data.covar.layers import (
    FILTER,
    Layer,
    Pixels,
    Rendered,
    find_square,
    fit_square,
    lay_over,
    shift_layer,
    shrink_layer,
    turn_layer,
    turn_scene,
)
from fieldmark.data.covar.settings import (
    PATCHES,
    VIEWPOINTS,
    CovarSettings,
    read_scale,
)


@dataclass(frozen=True, eq=False, kw_only=True)
class Stage:
    """A scene on its canvas.

    Attributes:
        canvas: RGB, of at least Q pixels on a side.
        supersample: how many times finer it is than the image.
    """

    canvas: Image.Image
    supersample: int

    @functools.cached_property
    def pixels(self) -> Pixels:
        """The canvas, uint8 (H,W,3)."""
        return np.asarray(self.canvas)

    @functools.cached_property
    def reduced(self) -> Image.Image:
        """The canvas at the size of the images."""
        return self.canvas.reduce(self.supersample)


@dataclass(frozen=True, eq=False, kw_only=True)
class Actor:
    """An object, ready to be laid on stages.

    Attributes:
        layer: the object at its place.
        views: other views of it, for the viewpoint subsets.
        own: its own photograph, Q by Q, where it has one.
    """

    layer: Layer
    views: tuple[Layer, ...] = ()
    own: Stage | None = None
    # A scaled object is laid on every scene, so it is resampled once.
    _shrunk: dict[float, Layer] = field(default_factory=dict, repr=False)

    def shrink(self, factor: float, *, side: int) -> Layer:
        """Return the object shrunk by a factor, made once."""
        if factor not in self._shrunk:
            self._shrunk[factor] = shrink_layer(self.layer, factor, side=side)
        return self._shrunk[factor]


class Variant(NamedTuple):
    """One image to render: which subset, and what was drawn for it."""

    subset: str
    parameters: Mapping[str, Any]

    def to_json(self) -> str:
        """Return the parameters as JSON on one line."""
        return json.dumps(self.parameters, sort_keys=True)


def open_stage(image: Image.Image, *, settings: CovarSettings) -> Stage:
    """Fit a scene to its canvas, sqrt(2) times larger than the image, by its largest middle square.

    Example:
        >>> open_stage(Image.new("RGB", (40, 30)), settings=CovarSettings(side=16)).canvas.size
        (48, 48)
    """
    canvas = fit_square(image, find_square(image.size), side=settings.scene_side)
    return Stage(canvas=canvas, supersample=settings.supersample)


def draw_variant(subset: str, *, settings: CovarSettings, item: str, scene: str) -> Variant:
    """Draw the parameters of a variant: by name, so that nothing else in the pools changes them.

    Args:
        subset: its name.
        settings: how far it may go, and the seed.
        item: id of the object.
        scene: id of the scene.

    Returns:
        The variant; lengths are in pixels of the image, angles in degrees counter-clockwise.

    Example:
        >>> settings = CovarSettings(scales=(4.0,))
        >>> draw_variant("scale_4", settings=settings, item="a", scene="b").parameters
        {'factor': 4.0}
    """
    chance = generator(settings.seed, "covar", subset, item, scene)
    drawn: dict[str, Any] = {}
    if subset.startswith("scale_"):
        drawn = {"factor": read_scale(subset)}
    elif subset == "translate":
        drawn = _draw_shift(chance, settings=settings)
    elif subset == "rotation":
        angle = round(float(chance.uniform(-settings.angle, settings.angle)), 4)
        drawn = {"angle": angle, "moves": settings.rotates}
    elif subset == "crop":
        share = float(chance.uniform(*settings.crop))
        length = settings.side * math.sqrt(share)
        start = (settings.side - length) / 2
        box = [round(edge, 3) for edge in (start, start, start + length, start + length)]
        drawn = {"share": round(share, 6), "box": box}
    elif subset in VIEWPOINTS:
        drawn = {"view": VIEWPOINTS.index(subset) + 1}
    return Variant(subset, drawn)


def _draw_shift(chance: np.random.Generator, *, settings: CovarSettings) -> dict[str, Any]:
    step = settings.patch or 1
    most = int(settings.shift * settings.side / step)
    right, down = 0, 0
    while right == down == 0:
        right, down = (int(number) * step for number in chance.integers(-most, most + 1, 2))
    patches = (settings.patch,) if settings.patch else PATCHES
    return {
        "right": right,
        "down": down,
        "moves": settings.translates,
        # Where the grid of patches of a tower lies on the moved content.
        "phase": {str(patch): [right % patch, down % patch] for patch in patches},
    }


def render_variant(
    variant: Variant, actor: Actor, stage: Stage, *, settings: CovarSettings
) -> Rendered:
    """Render one image and its mask.

    Args:
        variant: from `draw_variant`.
        actor: the object.
        stage: the scene; for an original its own photograph or a grey card.
        settings: sizes.
    """
    drawn, layer, side = variant.parameters, actor.layer, settings.canvas_side
    shift = (0, 0)
    if variant.subset.startswith("scale_"):
        layer = actor.shrink(drawn["factor"], side=side)
    elif variant.subset == "translate":
        right, down = (drawn[key] * settings.supersample for key in ("right", "down"))
        layer = shift_layer(layer, right=right, down=down)
        shift = (-right, -down) if drawn["moves"] == "scene" else shift
    elif variant.subset == "rotation":
        layer = turn_layer(layer, drawn["angle"], side=side)
        if drawn["moves"] == "scene":
            turned = turn_scene(stage.canvas, drawn["angle"], side=side)
            stage = Stage(canvas=turned, supersample=settings.supersample)
    elif variant.subset == "crop":
        return _render_crop(drawn["box"], layer, stage, settings=settings)
    elif variant.subset in VIEWPOINTS:
        layer = actor.views[drawn["view"] - 1]
    rendered = _render(layer, stage, shift=shift, settings=settings)
    turns = {"h_flip": Transpose.FLIP_LEFT_RIGHT, "v_flip": Transpose.FLIP_TOP_BOTTOM}
    if variant.subset not in turns:
        return rendered
    turn = turns[variant.subset]
    return Rendered(rendered.image.transpose(turn), rendered.mask.transpose(turn), rendered.visible)


class _Part(NamedTuple):
    """What of the canvas an object touches, on whole pixels of the image, and what it becomes."""

    left: int
    top: int
    colours: Pixels
    alpha: Pixels


def _find_start(stage: Stage, *, shift: tuple[int, int], side: int) -> tuple[int, int]:
    """Return the column and row of a stage where the canvas starts."""
    margin = (stage.canvas.width - side) // 2
    return margin + shift[0], margin + shift[1]


def _composite(
    layer: Layer, stage: Stage, *, start: tuple[int, int], side: int, grain: int
) -> _Part | None:
    left, top = (max(0, first // grain * grain) for first in (layer.left, layer.top))
    width, height = layer.sprite.size
    right = min(side, -(-(layer.left + width) // grain) * grain)
    bottom = min(side, -(-(layer.top + height) // grain) * grain)
    if right <= left or bottom <= top:
        return None
    box = (left - layer.left, top - layer.top, right - layer.left, bottom - layer.top)
    sprite = np.asarray(layer.sprite.crop(box))
    rows = slice(start[1] + top, start[1] + bottom)
    under = stage.pixels[rows, start[0] + left : start[0] + right]
    return _Part(left, top, lay_over(sprite, under), sprite[..., 3])


def _measure_visible(layer: Layer, inside: float) -> float:
    total = float(np.asarray(layer.sprite.getchannel(3)).sum(dtype=np.int64))
    return min(1.0, inside / total) if total else math.nan


def _render(
    layer: Layer, stage: Stage, *, shift: tuple[int, int], settings: CovarSettings
) -> Rendered:
    grain, side = settings.supersample, settings.canvas_side
    start = _find_start(stage, shift=shift, side=side)
    x, y = start[0] // grain, start[1] // grain
    image = stage.reduced.crop((x, y, x + settings.side, y + settings.side))
    mask = Image.new("L", image.size)
    part = _composite(layer, stage, start=start, side=side, grain=grain)
    if part is None:
        return Rendered(image, mask, _measure_visible(layer, 0))
    place = (part.left // grain, part.top // grain)
    image.paste(Image.fromarray(part.colours).reduce(grain), place)
    mask.paste(Image.fromarray(part.alpha).reduce(grain), place)
    return Rendered(image, mask, _measure_visible(layer, float(part.alpha.sum(dtype=np.int64))))


def _render_crop(
    box: tuple[float, ...], layer: Layer, stage: Stage, *, settings: CovarSettings
) -> Rendered:
    """Crop the canvas and resize it once, colours and alpha with the same filter."""
    side, size = settings.canvas_side, (settings.side, settings.side)
    start = _find_start(stage, shift=(0, 0), side=side)
    canvas = stage.canvas.crop((start[0], start[1], start[0] + side, start[1] + side))
    alpha = Image.new("L", canvas.size)
    part = _composite(layer, stage, start=start, side=side, grain=1)
    if part is not None:
        canvas.paste(Image.fromarray(part.colours), (part.left, part.top))
        alpha.paste(Image.fromarray(part.alpha), (part.left, part.top))
    left, top, right, bottom = (edge * settings.supersample for edge in box)
    inside = alpha.crop((math.ceil(left), math.ceil(top), math.floor(right), math.floor(bottom)))
    kept = float(np.asarray(inside).sum(dtype=np.int64))
    region = (left, top, right, bottom)
    return Rendered(
        canvas.resize(size, FILTER, box=region),
        alpha.resize(size, FILTER, box=region),
        _measure_visible(layer, kept),
    )
