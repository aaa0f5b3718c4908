"""Objects and scenes of plain colours, small enough for FakeEncoder's 8 x 8 pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from fieldmark.data.backgrounds import read_backgrounds
from fieldmark.data.compositing import Compositor
from fieldmark.data.foregrounds import read_foregrounds
from fieldmark.methods.bap.config import BapConfig

CONFIG = BapConfig(
    contexts=3,
    anchor_contexts=4,
    epochs=3,
    batch_size=4,
    learning_rate=1e-2,
    precision="fp32",
    scale_steps=2,
    checkpoint_seconds=0,
)


def draw_material(folder: Path, *, objects: int = 6, scenes: int = 5) -> tuple[Path, Path]:
    """Write red and blue squares, and scenes of random colours; return both folders.

    What is there stays as it is: two processes that train together read the same files.
    """
    rng = np.random.default_rng(0)
    for i in range(objects):
        name = ("blue", "red")[i % 2]
        colour = (255, 20 * i, 0, 255) if name == "red" else (0, 20 * i, 255, 255)
        path = folder / "objects" / name / f"{i}.png"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        cutout = Image.new("RGBA", (14, 14))
        cutout.paste(colour, (1, 1, 13, 13))
        cutout.save(path)
    for i in range(scenes):
        path = folder / "scenes" / ("land", "water")[i % 2] / f"{i}.png"
        ground = tuple(map(int, rng.integers(256, size=3)))
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), ground).save(path)
    return folder / "objects", folder / "scenes"


def open_compositor(folder: Path, *, objects: int = 6) -> Compositor:
    """Return a compositor of `draw_material` at 8 x 8 pixels."""
    foregrounds, scenes = draw_material(folder, objects=objects)
    return Compositor(
        read_foregrounds(foregrounds),
        read_backgrounds(scenes),
        side=8,
        scales=(0.5, 0.6),
        scale_steps=2,
        cache=folder / "cache",
    )
