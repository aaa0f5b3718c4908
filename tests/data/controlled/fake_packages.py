"""A cache with fakes of the packages that cut-outs and photographs come from: drawn, a few KB."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

from fieldmark.data.controlled import canvases, features, objects
from fieldmark.data.datasets.stamps import read_list

STAMPS = "debian/tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
# One folder a class, and how many cut-outs it has.
FOLDERS = {
    "animals/birds": 10,
    "animals/mammals": 12,
    "plants": 5,
    "household/tools": 5,
    "food/fruit": 5,
    "food/vegetables": 5,
    "vehicles/ship": 5,
    "clothes": 5,
}
# What a mirror or a drawing by hand is called.
SPARE = ("animals/birds/00_mirror.png", "animals/mammals/cartoon_dog.png")


def draw_cutout(colour, *, size=(40, 30), margin=5):
    """Return an ellipse with a transparent margin."""
    image = Image.new("RGBA", size, (0, 0, 0, 0))
    box = (margin, margin, size[0] - margin - 1, size[1] - margin - 1)
    ImageDraw.Draw(image).ellipse(box, fill=(*colour, 255))
    return image


def write_fake_packages(cache):
    """Write cut-outs and scenes where `fetch_debian` looks for what it fetched before."""
    random = np.random.default_rng(0)
    names = [f"{folder}/{n:02}.png" for folder, m in FOLDERS.items() for n in range(m)]
    for name in (*names, *SPARE, *features._CUTOUTS.values()):
        path = cache / STAMPS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_cutout(tuple(random.integers(60, 256, 3).tolist())).save(path)
    for file in read_list():
        if file.role == "scene" and "!" not in file.file:
            path = cache / "debian" / file.package / file.file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 80, (24, 32, 3), np.uint8)).save(path)


@contextlib.contextmanager
def fake_packages(folder):
    """Make `folder` the cache, with fake packages, and forget what was read of it afterwards."""
    kept = (features._read_cutout, objects._open_stamps, canvases._open_scenes)
    write_fake_packages(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIELDMARK_CACHE", str(folder))
        for one in kept:
            one.cache_clear()
        yield folder
    for one in kept:
        one.cache_clear()
