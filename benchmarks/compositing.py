"""Composites a second and core: the fast path against the paper's two ways, on the same pairs.

Run: `OMP_NUM_THREADS=1 python benchmarks/compositing.py`

Rivals, plain Pillow without a line of fieldmark, in the same process on the same pairs:
  reference  opens, crops, resizes and pastes for each composite
  paper      the same with an LRU cache of decoded and resized backgrounds that holds all of them
             (BAP appendix M.3.6) and is warm before the clock starts
The fast path's one-off preparation is timed apart, and so is the number of composites after which
it has paid for itself. Photographs are drawn: 40 objects of about 500 px as JPEG with a PNG mask
and 40 JPEG scenes of 800 x 600, unless folders of real ones are given.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from fieldmark.core.seeds import generator
from fieldmark.data.backgrounds import Backgrounds, read_backgrounds
from fieldmark.data.compositing import Compositor, composite_reference
from fieldmark.data.foregrounds import Foregrounds, read_foregrounds

SIDE = 224
BATCH = 32
SOLID = [255 * (value > 100) for value in range(256)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--foregrounds", type=Path)
    parser.add_argument("--backgrounds", type=Path)
    parser.add_argument("--composites", type=int, default=320)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw_inputs(folder)
        report = measure(
            read_foregrounds(options.foregrounds or folder / "foregrounds.csv"),
            read_backgrounds(options.backgrounds or folder / "backgrounds"),
            cache=folder / "cache",
            count=options.composites,
            rounds=options.rounds,
        )
    print(json.dumps(report, indent=2))


def measure(
    foregrounds: Foregrounds, backgrounds: Backgrounds, *, cache: Path, count: int, rounds: int
) -> dict[str, float]:
    start = time.perf_counter()
    compositor = Compositor(foregrounds, backgrounds, side=SIDE, cache=cache)
    preparation = time.perf_counter() - start
    random = generator(0, "benchmark")
    pairs = np.stack(
        [
            random.integers(compositor.n_objects, size=count),
            random.integers(compositor.n_backgrounds, size=count),
            random.integers(compositor.n_scales, size=count),
        ],
        axis=1,
    )
    cached = functools.lru_cache(maxsize=20_000)(open_scene)
    ways: dict[str, Callable[[], object]] = {
        "reference": lambda: compose_plainly(compositor, pairs, open_scene=open_scene),
        "paper": lambda: compose_plainly(compositor, pairs, open_scene=cached),
        "fast": lambda: compose_fast(compositor, pairs),
    }
    for path in backgrounds.paths:
        cached(path)
    ways["fast"]()
    # Rounds alternate, so that a busy machine slows all three alike; the best round counts.
    seconds = {name: float("inf") for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    rate = {name: count / spent for name, spent in seconds.items()}
    return {
        **{f"{name}_images_per_second": round(value, 1) for name, value in rate.items()},
        "times_reference": round(rate["fast"] / rate["reference"], 1),
        "times_paper": round(rate["fast"] / rate["paper"], 1),
        "preparation_seconds": round(preparation, 2),
        "preparation_pays_after_composites": round(
            preparation / (1 / rate["paper"] - 1 / rate["fast"])
        ),
        **compare(compositor, pairs),
    }


def compose_plainly(
    compositor: Compositor,
    pairs: NDArray[np.int64],
    *,
    open_scene: Callable[[Path], Image.Image],
) -> None:
    foregrounds, backgrounds = compositor.foregrounds, compositor.backgrounds
    for number, scene, scale in pairs.tolist():
        paste_plainly(
            foregrounds.paths[number],
            foregrounds.outlines[number].mask,
            open_scene(backgrounds.paths[scene]),
            longer=round(compositor.scale_values[scale] * SIDE),
        )


def open_scene(path: Path) -> Image.Image:
    return ImageOps.fit(Image.open(path).convert("RGB"), (SIDE, SIDE), Image.Resampling.LANCZOS)


def paste_plainly(
    image_path: Path, mask_path: Path | None, scene: Image.Image, *, longer: int
) -> Image.Image:
    image: Image.Image = Image.open(image_path)
    if mask_path is None:
        image = image.convert("RGBA")
        mask = image.getchannel("A")
    else:
        mask = Image.open(mask_path).convert("L")
    box = mask.point(SOLID).getbbox()
    image, mask = image.convert("RGB").crop(box), mask.crop(box)
    ratio = longer / max(image.size)
    size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
    image = image.resize(size, Image.Resampling.LANCZOS)
    mask = mask.resize(size, Image.Resampling.LANCZOS).point(SOLID)
    composite = scene.copy()
    place = ((SIDE - size[0]) // 2, (SIDE - size[1]) // 2)
    composite.paste(image, place, mask.filter(ImageFilter.GaussianBlur(1)))
    return composite


def compose_fast(compositor: Compositor, pairs: NDArray[np.int64]) -> None:
    for start in range(0, len(pairs), BATCH):
        compositor.composite(*pairs[start : start + BATCH].T)


def compare(compositor: Compositor, pairs: NDArray[np.int64]) -> dict[str, float]:
    fast = compositor.composite(*pairs.T)
    slow = [
        composite_reference(
            compositor.foregrounds.read(number),
            compositor.backgrounds.read(scene),
            side=SIDE,
            scale=compositor.scale_values[scale],
        )
        for number, scene, scale in pairs.tolist()
    ]
    reference = np.stack([np.asarray(image, np.int16) for image in slow])
    difference = np.abs(fast.image.numpy().transpose(0, 2, 3, 1) - reference)
    return {
        "mean_absolute_difference_of_255": float(difference.mean()),
        "largest_difference_in_object_of_255": int(difference[fast.mask.numpy() > 0].max()),
    }


def draw_inputs(folder: Path) -> None:
    random = generator(0, "photographs")
    rows = ["path,label,mask"]
    for index in range(40):
        draw_scene(random, size=(500, 400)).save(folder / f"object-{index}.jpg", quality=90)
        mask = Image.new("L", (500, 400))
        points = draw_blob(random, centre=(250, 200), radius=170)
        ImageDraw.Draw(mask).polygon(points, fill=255)
        mask.filter(ImageFilter.GaussianBlur(1)).save(folder / f"mask-{index}.png")
        rows.append(f"object-{index}.jpg,class-{index % 2},mask-{index}.png")
    (folder / "foregrounds.csv").write_text("\n".join(rows))
    for index in range(40):
        scenes = folder / "backgrounds" / f"kind-{index % 4}"
        scenes.mkdir(parents=True, exist_ok=True)
        draw_scene(random, size=(800, 600)).save(scenes / f"{index}.jpg", quality=90)


def draw_scene(random: np.random.Generator, *, size: tuple[int, int]) -> Image.Image:
    """Draw coloured noise at several sizes, about as hard to decode as a photograph."""
    total = np.zeros((size[1], size[0], 3))
    for grain in (4, 16, 64, 256):
        noise = random.integers(0, 256, (size[1] // grain + 2, size[0] // grain + 2, 3), np.uint8)
        layer = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
        total += np.asarray(layer) * (grain / 340)
    return Image.fromarray(np.clip(total, 0, 255).astype(np.uint8))


def draw_blob(
    random: np.random.Generator, *, centre: tuple[int, int], radius: int
) -> list[tuple[float, float]]:
    angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    waves = sum(random.normal(0, 0.1) * np.sin(k * angles + random.random()) for k in range(2, 6))
    lengths = radius * (1 + np.asarray(waves))
    x, y = centre[0] + lengths * np.cos(angles) * 1.2, centre[1] + lengths * np.sin(angles) * 0.8
    return list(zip(x.tolist(), y.tolist(), strict=True))


if __name__ == "__main__":
    main()
