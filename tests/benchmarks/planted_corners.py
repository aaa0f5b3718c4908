"""Images with a red corner that FakeEncoder takes for a class, to be discovered.

The prompts of the classes are "blue" and "red", so FakeEncoder names an image by whether its middle
is more red or more blue. It is tinted by the class, but so faintly that noise turns it over now and
then, and that clusters, which go by how green each quarter is, hardly see it. A red corner, in half
of the images of each class, reaches into the middle and settles it.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

CLASS_NAMES = ("blue", "red")
LABELS = ("berry", "rose")
TINT = 0.02


def draw_corners(folder, *, planted=True, noise=0.02, count=64, side=16, seed=0):
    """Write `count` images, half of either class, and `table.csv`; return its path.

    Args:
        folder: for the images.
        planted: whether half of the images of each class have a red corner, top left.
        noise: deviation of the tint; 0 for a model without errors where nothing is planted.
        count: how many images.
        side: in pixels, a multiple of 8.
        seed: of tints and shades.
    """
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    rows, half = ["path,label"], side // 2
    for number in range(count):
        label, marked = number % 2, planted and number // 2 % 2 == 0
        tint = (TINT if label else -TINT) + random.normal(0, noise)
        pixels = np.empty((side, side, 3))
        for top in (0, half):
            for left in (0, half):
                shade = (0.4 + tint, random.uniform(0.1, 0.9), 0.4 - tint)
                pixels[top : top + half, left : left + half] = shade
        if marked:
            pixels[:half, :half] = (random.uniform(0.85, 1), 0.02, 0.02)
        image = Image.fromarray((255 * pixels.clip(0, 1)).astype(np.uint8))
        image.save(folder / f"{number}.png")
        rows.append(f"{number}.png,{LABELS[label]}")
    (folder / "table.csv").write_text("\n".join(rows) + "\n")
    return folder / "table.csv"


def has_corner(box, image_id):
    """Say whether a box in FakeEncoder's 8 x 8 pixels shows the red corner of a planted image."""
    number = int(image_id.removesuffix(".png"))
    return number // 2 % 2 == 0 and list(box) == [0, 0, 4, 4]
