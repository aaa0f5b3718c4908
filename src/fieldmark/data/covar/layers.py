"""Layered scenes: an object with premultiplied colours over a scene, composited once.

Objects and scenes live on a canvas of Q by Q pixels, `supersample` times finer than the image. An
object is resampled there together with its alpha, composited once, and the canvas reduced once, so
the reduced alpha is the very share of each pixel that the object has (facts, section 6). Only the
part beneath the object is composited; the rest is the scene reduced beforehand, which is the same
to the bit since what is composited starts and ends on whole pixels of the image.

No filter here overshoots, so that premultiplied colours never exceed their alpha.

Shape letters: H and W pixels of the canvas, Q its side, S the side of an image.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from fieldmark.data.covar.settings import Edge
from fieldmark.data.masks import THRESHOLD

Pixels = NDArray[np.uint8]
FILTER = Image.Resampling.HAMMING
# In pixels of the image.
WORN, FEATHER = 1.0, 1.5


class Layer(NamedTuple):
    """An object on the canvas.

    Attributes:
        sprite: RGBa, colours premultiplied with alpha.
        left: column of its first pixel, may be negative.
        top: row of its first pixel.
    """

    sprite: Image.Image
    left: int
    top: int


class Square(NamedTuple):
    """The square of an image that is used: its first column, first row and side in pixels."""

    left: int
    top: int
    side: int


class Rendered(NamedTuple):
    """An image, its mask, and how much of the object lies inside it.

    Attributes:
        image: RGB, S by S.
        mask: greyscale, S by S: the object's share of each pixel, 255 for all of it.
        visible: share of the object's alpha that is inside the image, NaN where it has none.
    """

    image: Image.Image
    mask: Image.Image
    visible: float


def find_square(size: tuple[int, int], *, around: tuple[float, float] | None = None) -> Square:
    """Return the largest square of an image, as near to a point as it goes.

    Args:
        size: width and height in pixels.
        around: column and row of the point; the middle by default.

    Example:
        >>> find_square((30, 20), around=(28.0, 3.0))
        Square(left=10, top=0, side=20)
    """
    side = min(size)
    x, y = around or (size[0] / 2, size[1] / 2)
    left, top = (
        min(max(0, round(point - side / 2)), length - side)
        for point, length in zip((x, y), size, strict=True)
    )
    return Square(left, top, side)


def fit_square(image: Image.Image, square: Square, *, side: int) -> Image.Image:
    """Crop a square and resize it; where `side` is a multiple of it, its pixels are repeated.

    Repeated pixels come back unchanged when the canvas is reduced, so a photograph that has the
    size of the images already stays what it is.

    Example:
        >>> fit_square(Image.new("RGB", (30, 20)), Square(0, 0, 20), side=8).size
        (8, 8)
    """
    box = (square.left, square.top, square.left + square.side, square.top + square.side)
    repeats = side % square.side == 0
    return image.resize((side, side), Image.Resampling.BOX if repeats else FILTER, box=box)


def premultiply(colours: Image.Image, alpha: Image.Image) -> Image.Image:
    """Multiply RGB colours with an alpha of the same size, rounding to the nearest.

    Example:
        >>> premultiply(Image.new("RGB", (1, 1), (255, 100, 3)), Image.new("L", (1, 1), 51)).mode
        'RGBa'
    """
    alpha_HW = np.asarray(alpha)
    product = _scale(np.asarray(colours), alpha_HW[..., None])
    stacked = np.concatenate([product, alpha_HW[..., None]], axis=2)
    return Image.frombytes("RGBa", alpha.size, stacked.tobytes())


def shape_edge(alpha: Image.Image, edge: Edge, *, pixel: int) -> Image.Image:
    """Make the edge of an alpha hard or feathered, or leave it as it is.

    Args:
        alpha: greyscale, on the canvas.
        edge: natural; hard, 255 above 100 and 0 elsewhere; or feathered, worn away by 1 pixel of
            the image and blurred by 1.5.
        pixel: how many pixels of the canvas one of the image has on a side.

    Example:
        >>> shape_edge(Image.new("L", (2, 2), 101), "hard", pixel=2).getpixel((0, 0))
        255
    """
    if edge == "natural":
        return alpha
    hard = alpha.point([255 * (value > THRESHOLD) for value in range(256)])
    if edge == "hard":
        return hard
    # A filter of an odd width 2r + 1 wears r pixels away.
    worn = hard.filter(ImageFilter.MinFilter(2 * round(WORN * pixel) + 1))
    return worn.filter(ImageFilter.GaussianBlur(FEATHER * pixel))


def trim_layer(layer: Layer) -> Layer:
    """Cut transparent rows and columns off; a layer without any object becomes one pixel.

    Example:
        >>> trim_layer(Layer(Image.new("RGBa", (9, 9)), 4, 5)).sprite.size
        (1, 1)
    """
    left, top, right, bottom = layer.sprite.getchannel(3).getbbox() or (0, 0, 1, 1)
    sprite = layer.sprite.crop((left, top, right, bottom))
    return Layer(sprite, layer.left + left, layer.top + top)


def shrink_layer(layer: Layer, factor: float, *, side: int) -> Layer:
    """Shrink an object towards the middle of a canvas of `side` pixels.

    As where the image is laid into the middle of a larger one (A.6): a centred object stays
    centred, another comes nearer to the middle. Its sides are rounded to whole canvas pixels.

    Example:
        >>> shrink_layer(Layer(Image.new("RGBa", (8, 4)), 4, 6), 2, side=16)[1:]
        (6, 7)
    """
    middle = side / 2
    width, height = (max(1, round(length / factor)) for length in layer.sprite.size)
    x = middle + (layer.left + layer.sprite.width / 2 - middle) / factor
    y = middle + (layer.top + layer.sprite.height / 2 - middle) / factor
    sprite = layer.sprite.resize((width, height), FILTER)
    return Layer(sprite, round(x - width / 2), round(y - height / 2))


def shift_layer(layer: Layer, *, right: int, down: int) -> Layer:
    """Move an object by whole pixels of the canvas."""
    return Layer(layer.sprite, layer.left + right, layer.top + down)


def turn_layer(layer: Layer, angle: float, *, side: int) -> Layer:
    """Turn an object around the middle of a canvas of `side` pixels.

    Args:
        layer: the object.
        angle: in degrees, counter-clockwise.
        side: Q.

    Example:
        >>> bar = premultiply(Image.new("RGB", (8, 2), "red"), Image.new("L", (8, 2), 255))
        >>> turned = turn_layer(Layer(bar, 4, 7), 90, side=16)
        >>> turned.sprite.size, turned.left, turned.top
        ((2, 8), 7, 4)
    """
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    middle = side / 2
    x, y = layer.left - middle, layer.top - middle
    width, height = layer.sprite.size
    corners = [(x + dx, y + dy) for dx in (0, width) for dy in (0, height)]
    columns = [middle + cosine * x + sine * y for x, y in corners]
    rows = [middle - sine * x + cosine * y for x, y in corners]
    # A pixel more on each side holds what the filter spreads.
    left, top = math.floor(min(columns) - 1e-6) - 1, math.floor(min(rows) - 1e-6) - 1
    size = (math.ceil(max(columns) + 1e-6) + 1 - left, math.ceil(max(rows) + 1e-6) + 1 - top)
    framed = Image.new("RGBa", (width + 4, height + 4))
    framed.paste(layer.sprite, (2, 2))
    moved = _turn_matrix(angle, out=(left, top), source=(layer.left - 2, layer.top - 2), side=side)
    sprite = framed.transform(size, Image.Transform.AFFINE, moved, Image.Resampling.BILINEAR)
    return trim_layer(Layer(sprite, left, top))


def turn_scene(scene: Image.Image, angle: float, *, side: int) -> Image.Image:
    """Turn a scene around its middle and return the Q by Q pixels around that.

    Args:
        scene: RGB, at least sqrt(2) Q on a side, so that no corner is bare.
        angle: in degrees, counter-clockwise.
        side: Q.

    Example:
        >>> turn_scene(Image.new("RGB", (24, 24), "red"), 45, side=16).getpixel((0, 0))
        (255, 0, 0)
    """
    margin = (scene.width - side) // 2
    moved = _turn_matrix(angle, out=(0, 0), source=(-margin, -margin), side=side)
    return scene.transform((side, side), Image.Transform.AFFINE, moved, Image.Resampling.BILINEAR)


def _turn_matrix(
    angle: float, *, out: tuple[int, int], source: tuple[int, int], side: int
) -> tuple[float, float, float, float, float, float]:
    """Return Pillow's matrix from a point of the output to one of the source, both with offsets."""
    cosine, sine = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    middle = side / 2
    x, y = out[0] - middle, out[1] - middle
    return (
        cosine,
        -sine,
        cosine * x - sine * y + middle - source[0],
        sine,
        cosine,
        sine * x + cosine * y + middle - source[1],
    )


def _scale(values: Pixels, alpha: Pixels) -> Pixels:
    """Return values * alpha / 255, rounded to the nearest."""
    total = values.astype(np.uint16) * alpha
    total += 128
    total += total >> 8
    total >>= 8
    return total.astype(np.uint8)


def lay_over(sprite_HW4: Pixels, scene_HW3: Pixels) -> Pixels:
    """Composite premultiplied colours over a scene of the same size.

    Args:
        sprite_HW4: uint8 (H,W,4).
        scene_HW3: uint8 (H,W,3).

    Returns:
        uint8 (H,W,3).

    Example:
        >>> sprite = np.array([[[40, 20, 0, 51]]], np.uint8)
        >>> lay_over(sprite, np.full((1, 1, 3), 50, np.uint8)).tolist()
        [[[80, 60, 40]]]
    """
    under = _scale(scene_HW3, 255 - sprite_HW4[..., 3:])
    # Both parts are rounded, so together they may be one too many.
    return under + np.minimum(sprite_HW4[..., :3], 255 - under)
