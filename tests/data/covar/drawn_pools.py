"""Drawn objects and scenes: cut-outs, photographs with soft masks, noisy scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fieldmark.data.backgrounds import Backgrounds, read_backgrounds
from fieldmark.data.covar import CovarSettings
from fieldmark.data.foregrounds import Foregrounds, read_foregrounds

SMALL = CovarSettings(side=32, backgrounds_per_object=2, scales=(2.0, 4.0))


def paint(seed: int, size: tuple[int, int]) -> Image.Image:
    """Return a photograph of noise, the hardest thing to reproduce."""
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(noise)


def draw_ellipse(size: tuple[int, int], *, margin: float = 0.0) -> Image.Image:
    """Return an ellipse with a soft edge, 255 inside."""
    y, x = np.mgrid[: size[1], : size[0]]
    radii = [side / 2 - margin for side in size]
    distance = np.hypot((x + 0.5 - size[0] / 2) / radii[0], (y + 0.5 - size[1] / 2) / radii[1])
    soft = np.clip((1 - distance) * min(radii) / 1.5 + 0.5, 0, 1)
    return Image.fromarray(np.round(255 * soft).astype(np.uint8))


def draw_cutout(seed: int, size: tuple[int, int]) -> Image.Image:
    """Return a noisy ellipse with alpha."""
    cutout = paint(seed, size)
    cutout.putalpha(draw_ellipse(size))
    return cutout


def write_cutouts(folder: Path, *, names: tuple[str, ...]) -> Foregrounds:
    """Write cut-outs CLASS/NAME.png, each drawn after its name, and read them as a pool."""
    for name in names:
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_cutout(sum(map(ord, name)), (40, 28)).save(path)
    return read_foregrounds(folder)


def write_scenes(folder: Path, *, names: tuple[str, ...]) -> Backgrounds:
    """Write scenes KIND/NAME.png, each drawn after its name, and read them as a pool."""
    for name in names:
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        paint(sum(map(ord, name)), (90, 70)).save(path)
    return read_backgrounds(folder)
