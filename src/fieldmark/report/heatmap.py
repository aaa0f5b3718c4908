"""Maps laid over images: perceptually even colours, outlines, and what a colour means.

Colours are made in OKLab (Ottosson, "A perceptual color space for image processing", 2020), in
which equal steps of lightness look equal. The map for what speaks for a text runs from dark violet
to light yellow; in the signed view the same hues stand for it and blue for what speaks against it.

Shape letters: H and W pixels, K clusters.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray

Colours = NDArray[np.uint8]
Floats = NDArray[np.float64]

STEPS = 256
# Lightness, hue in degrees and chroma at both ends of the map.
_DARK, _LIGHT = (0.22, -70.0), (0.93, 100.0)
_CHROMA = 0.17
_AGAINST_HUE, _FOR_HUE = 255.0, 45.0
_OUTLINE, _CASING = (0, 255, 255), (0, 0, 0)
# After Okabe and Ito (2008): told apart by colour-blind people, too.
CLUSTER_COLOURS = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
    (255, 255, 255),
    (150, 110, 60),
    (160, 160, 160),
)


def convert_oklab(oklab: Floats) -> Floats:
    """Convert OKLab (...,3) to linear sRGB (...,3), which may lie outside [0, 1]."""
    lightness, a, b = np.moveaxis(oklab, -1, 0)
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return np.stack(
        [
            4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
        ],
        axis=-1,
    )


def _to_rgb(lightness: Floats, hue: Floats, *, chroma: Floats) -> Colours:
    """Return the colours (n,3); chroma shrinks where the screen cannot show it."""
    angle = np.deg2rad(hue)
    kept = chroma.copy()
    for _ in range(60):
        oklab = np.stack([lightness, kept * np.cos(angle), kept * np.sin(angle)], axis=-1)
        linear = convert_oklab(oklab)
        outside = ((linear < -1e-6) | (linear > 1 + 1e-6)).any(axis=-1)
        if not outside.any():
            break
        kept = np.where(outside, kept * 0.93, kept)
    linear = linear.clip(0, 1)
    gamma = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    colours: Colours = (gamma * 255).round().astype(np.uint8)
    return colours


@functools.cache
def make_even_colours() -> Colours:
    """Return the map for values from 0 to 1: uint8 (256,3), its lightness rises evenly.

    Example:
        >>> first, last = make_even_colours()[[0, -1]].mean(axis=1)
        >>> bool(first < 60 and last > 160)
        True
    """
    share = np.linspace(0, 1, STEPS)
    lightness = _DARK[0] + share * (_LIGHT[0] - _DARK[0])
    hue = _DARK[1] + share * (_LIGHT[1] - _DARK[1])
    return _to_rgb(lightness, hue, chroma=np.full(STEPS, _CHROMA))


@functools.cache
def make_signed_colours() -> Colours:
    """Return the map for values from -1 to 1: uint8 (256,3), blue, light grey, orange.

    Both arms lose lightness evenly and alike from the middle on.
    """
    value = np.linspace(-1, 1, STEPS)
    lightness = 0.95 - 0.42 * np.abs(value)
    hue = np.where(value < 0, _AGAINST_HUE, _FOR_HUE)
    return _to_rgb(lightness, hue, chroma=_CHROMA * 1.1 * np.abs(value))


def overlay_map(pixels: Colours, values: NDArray[np.floating], *, signed: bool = False) -> Colours:
    """Lay a map over the grey of an image.

    Args:
        pixels: uint8 (H,W,3).
        values: (H,W), in [0, 1], or in [-1, 1] in the signed view.
        signed: whether 0 is in the middle of the colours.

    Returns:
        uint8 (H,W,3). The image shows through alike everywhere, so that a colour always means the
        same.

    Example:
        >>> pixels = np.full((1, 2, 3), 128, np.uint8)
        >>> dark, light = overlay_map(pixels, np.array([[0.0, 1.0]]))[0].astype(int).sum(axis=1)
        >>> bool(dark < light)
        True
    """
    colours = make_signed_colours() if signed else make_even_colours()
    share = (np.nan_to_num(values) + 1) / 2 if signed else np.nan_to_num(values)
    laid = colours[(share.clip(0, 1) * (STEPS - 1)).round().astype(int)].astype(np.float64)
    grey = pixels.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    # Around its mean, so that a dark photograph does not darken the map.
    relief = (grey - grey.mean())[..., None] * 0.5
    return np.asarray((laid + relief).clip(0, 255).round(), np.uint8)


def scale_signed(values: NDArray[np.floating]) -> Floats:
    """Divide maps (...,h,w) by their largest absolute value: [-1, 1], 0 stays 0.

    Example:
        >>> scale_signed(np.array([[[-2.0, 1.0]]])).tolist()
        [[[-1.0, 0.5]]]
    """
    top = np.abs(values).max(axis=(-2, -1), keepdims=True).astype(np.float64)
    shape = np.zeros(values.shape, np.float64)
    return np.asarray(np.divide(values, top, out=shape, where=top > 0))


def find_edges(labels: NDArray[np.integer] | NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Tell which pixels (H,W) lie at a border between labels, one pixel on either side.

    Example:
        >>> find_edges(np.array([[0, 0, 1, 1]])).tolist()
        [[False, True, True, False]]
    """
    edges = np.zeros(labels.shape, bool)
    across = labels[:, 1:] != labels[:, :-1]
    down = labels[1:] != labels[:-1]
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    return edges


def outline_mask(pixels: Colours, mask: NDArray[np.bool_]) -> Colours:
    """Draw the outline of a mask (H,W) into a copy of an image, bright in a dark casing."""
    edges = find_edges(mask)
    drawn = pixels.copy()
    drawn[_thicken(edges)] = _CASING
    drawn[edges] = _OUTLINE
    return drawn


def outline_clusters(pixels: Colours, clusters: NDArray[np.integer]) -> Colours:
    """Tint each cluster (H,W) in its colour and draw the borders between them.

    Args:
        pixels: uint8 (H,W,3).
        clusters: the cluster of each pixel; the colours start anew after the tenth.
    """
    palette = np.array(CLUSTER_COLOURS, np.float64)
    tint = palette[np.asarray(clusters) % len(palette)]
    drawn = (0.55 * pixels.astype(np.float64) + 0.45 * tint).round().astype(np.uint8)
    drawn[find_edges(clusters)] = _CASING
    return np.asarray(drawn, np.uint8)


def _thicken(edges: NDArray[np.bool_]) -> NDArray[np.bool_]:
    thick = edges.copy()
    thick[:, 1:] |= edges[:, :-1]
    thick[:, :-1] |= edges[:, 1:]
    thick[1:] |= edges[:-1]
    thick[:-1] |= edges[1:]
    return thick


def draw_legend(*, signed: bool, width: int = 256, height: int = 14) -> Colours:
    """Return the strip of colours that a page shows beside its maps: uint8 (height,width,3)."""
    colours = make_signed_colours() if signed else make_even_colours()
    row = colours[np.linspace(0, STEPS - 1, width).round().astype(int)]
    return np.asarray(np.repeat(row[None], height, axis=0))
