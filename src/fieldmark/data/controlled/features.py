"""Spurious features: a shape, a patch of texture, a written word, the cut-out of an object.

RaVL plants a red rectangle (appendix B); the others are there because a method that finds red
rectangles need not find anything else. Each is drawn at a size of its own and never twice the
same: sides, colours, phases and, for words, the place of the letters vary a little.

Cut-outs come from Tux Paint's stamps, out of a Debian package that is fetched at run time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fieldmark.core.fetch import fetch_debian
from fieldmark.core.registry import look_up
from fieldmark.data.images import read_cutout
from fieldmark.data.masks import find_box

Random = np.random.Generator
Colour = tuple[int, int, int]
# From a side in pixels and a generator to an RGBA image no larger than that.
Draw = Callable[[int, Random], Image.Image]

PACKAGE = "tuxpaint-stamps-default"
_STAMPS = "usr/share/tuxpaint/stamps"
# Drawn large and made smaller, which is how an edge that is not straight comes out smooth.
_OVERSAMPLING = 4
_LARGEST_CUTOUT = 128


def draw_feature(name: str, *, side: int, random: Random) -> Image.Image:
    """Draw a feature.

    Args:
        name: a key of `FEATURES`.
        side: longest side in pixels, 2 or more; what is drawn is from 0.8 of it on.
        random: draws how it varies.

    Returns:
        RGBA, opaque where the feature is.

    Raises:
        UnknownNameError: there is no such feature.
        FetchError: the package of a cut-out cannot be had.

    Example:
        >>> image = draw_feature("red-rectangle", side=20, random=np.random.default_rng(0))
        >>> image.mode, max(image.size) <= 20
        ('RGBA', True)
    """
    draw = look_up(FEATURES, name, kind="feature")
    return draw(max(2, round(side * random.uniform(0.8, 1.0))), random)


def _vary(colour: Colour, random: Random) -> Colour:
    red, green, blue = (int(np.clip(c + random.integers(-25, 26), 0, 255)) for c in colour)
    return red, green, blue


def _draw_rectangle(side: int, random: Random, *, colour: Colour) -> Image.Image:
    other = max(2, round(side * random.uniform(0.6, 1.0)))
    size = (side, other) if random.random() < 0.5 else (other, side)
    return Image.new("RGBA", size, (*_vary(colour, random), 255))


def _draw_polygon(
    side: int, random: Random, *, colour: Colour, corners: tuple[tuple[float, float], ...]
) -> Image.Image:
    large = side * _OVERSAMPLING
    image = Image.new("RGBA", (large, large), (*colour, 0))
    angle = random.uniform(-0.2, 0.2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = (np.array(corners) @ turn * 0.5 + 0.5) * (large - 1)
    fill = (*_vary(colour, random), 255)
    ImageDraw.Draw(image).polygon([(float(x), float(y)) for x, y in points], fill=fill)
    return image.resize((side, side), Image.Resampling.BOX)


def _draw_ring(side: int, random: Random, *, colour: Colour) -> Image.Image:
    large = side * _OVERSAMPLING
    image = Image.new("RGBA", (large, large), (*colour, 0))
    box = (0, 0, large - 1, large - 1)
    ImageDraw.Draw(image).ellipse(box, outline=(*_vary(colour, random), 255), width=large // 4)
    return image.resize((side, side), Image.Resampling.BOX)


def _draw_texture(
    side: int, random: Random, *, colours: tuple[Colour, Colour], checked: bool
) -> Image.Image:
    width = side / 5
    y, x = np.mgrid[:side, :side] + random.uniform(0, 2 * width)
    wave = np.floor((x + y) / width) if not checked else np.floor(x / width) + np.floor(y / width)
    chosen = wave.astype(np.int64) % 2
    pixels = np.array([_vary(colour, random) for colour in colours], np.uint8)[chosen]
    image = Image.fromarray(pixels).convert("RGBA")
    return image.crop((0, 0, side, max(2, round(side * random.uniform(0.7, 1.0)))))


def _draw_word(side: int, random: Random, *, word: str, colour: Colour) -> Image.Image:
    font = ImageFont.load_default(size=48)
    left, top, right, bottom = (int(edge) for edge in font.getbbox(word))
    size = (right - left + 12, bottom - top + 12)
    image = Image.new("RGBA", size, (*_vary((245, 245, 235), random), 255))
    place = (6 - left + int(random.integers(-3, 4)), 6 - top + int(random.integers(-3, 4)))
    ImageDraw.Draw(image).text(place, word, font=font, fill=(*_vary(colour, random), 255))
    return fit(image, side)


def _draw_cutout(side: int, random: Random, *, path: str) -> Image.Image:
    image = fit(_read_cutout(path), side)
    if random.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return image


@functools.lru_cache(maxsize=64)
def _read_cutout(path: str) -> Image.Image:
    return read_stamp(path)


def read_stamp(path: str) -> Image.Image:
    """Read a cut-out of Tux Paint, cropped to its object and at most 128 pixels long.

    Args:
        path: under the folder of the stamps.

    Raises:
        FetchError: the package cannot be had.
        ImageError: it has no such file.
    """
    cutout = read_cutout(fetch_debian(PACKAGE) / _STAMPS / path)
    cutout = cutout.crop(find_box(np.asarray(cutout.getchannel("A"))))
    return fit(cutout, _LARGEST_CUTOUT)


def fit(image: Image.Image, side: int) -> Image.Image:
    """Resize so that the longer side is `side` pixels.

    Example:
        >>> fit(Image.new("RGBA", (40, 20)), 10).size
        (10, 5)
    """
    ratio = side / max(image.size)
    size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
    # With transparency multiplied in, what lies under it does not bleed into the edge.
    return image.convert("RGBa").resize(size, Image.Resampling.LANCZOS).convert("RGBA")


def _star() -> tuple[tuple[float, float], ...]:
    angles = np.arange(10) * np.pi / 5 - np.pi / 2
    radii = np.where(np.arange(10) % 2, 0.42, 1.0)
    return tuple(zip((radii * np.cos(angles)).tolist(), (radii * np.sin(angles)).tolist(),
                     strict=True))  # fmt: skip


_TRIANGLE = ((0.0, -1.0), (0.95, 0.8), (-0.95, 0.8))
_CUTOUTS: Mapping[str, str] = {
    "basketball": "sports/basketball.png",
    "soccer-ball": "sports/soccer.png",
    "stop-sign": "town/roadsigns/stop.png",
    "traffic-cone": "town/roadsigns/traffic_cone.png",
    "rubber-duck": "household/rubberduck.png",
    "post-box": "town/uk_post_box.png",
    "balloon": "vehicles/flight/balloon360.png",
    "pumpkin": "seasonal/halloween/jackolantern_mean.png",
    "planet": "space/planets/3_earth.png",
    "fire-engine": "vehicles/emergency/firetruck.png",
}
FEATURES: Mapping[str, Draw] = {
    "red-rectangle": functools.partial(_draw_rectangle, colour=(220, 30, 30)),
    "blue-rectangle": functools.partial(_draw_rectangle, colour=(40, 70, 220)),
    "green-triangle": functools.partial(_draw_polygon, colour=(40, 190, 60), corners=_TRIANGLE),
    "yellow-star": functools.partial(_draw_polygon, colour=(240, 210, 40), corners=_star()),
    "purple-ring": functools.partial(_draw_ring, colour=(160, 60, 200)),
    "stripes": functools.partial(
        _draw_texture, colours=((235, 140, 30), (60, 40, 20)), checked=False
    ),
    "checkerboard": functools.partial(
        _draw_texture, colours=((240, 240, 240), (30, 30, 30)), checked=True
    ),
    "word-sale": functools.partial(_draw_word, word="SALE", colour=(200, 20, 40)),
    "word-zoo": functools.partial(_draw_word, word="ZOO", colour=(20, 60, 20)),
    **{name: functools.partial(_draw_cutout, path=path) for name, path in _CUTOUTS.items()},
}
KINDS: Mapping[str, tuple[str, ...]] = {
    "rectangle": ("red-rectangle", "blue-rectangle"),
    "other shape": ("green-triangle", "yellow-star", "purple-ring"),
    "texture patch": ("stripes", "checkerboard"),
    "written word": ("word-sale", "word-zoo"),
    "object cut-out": tuple(_CUTOUTS),
}


def find_kind(name: str) -> str:
    """Return the kind of a feature, or `annotated object` for one that is not drawn (COCO).

    Example:
        >>> find_kind("stripes"), find_kind("umbrella")
        ('texture patch', 'annotated object')
    """
    return next((kind for kind, names in KINDS.items() if name in names), "annotated object")


def to_pixels(image: Image.Image) -> NDArray[np.uint8]:
    """Return an RGBA image as (h,w,4)."""
    return np.asarray(image.convert("RGBA"))
