"""`synthetic`: objects and scenes drawn by the machine, with exact masks, in any number and size.

Two classes, told apart by shape alone: "fish" (an ellipse with a tail) and "beetle" (a round body
with legs). Colour, proportions and texture vary within a class and mean nothing. Scenes of "land"
(green and brown, hills, grain) and "water" (blue, waves), and neutral ones that serve training
alone. For tests, and for machines that cannot have `stamps`. No photograph, no download.
"""

from __future__ import annotations

import colorsys
import functools
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from fieldmark.core.seeds import generator
from fieldmark.data.datasets.built import check_built, open_built
from fieldmark.data.datasets.composites import Cutout, Recipe, Scene, build_composites
from fieldmark.data.datasets.info import DatasetInfo
from fieldmark.data.tasks import Task

CLASSES = ("fish", "beetle")
ATTRIBUTES = ("land", "water")
NEUTRAL = "neutral"
LICENCE = "CC0-1.0: drawn by fieldmark, free of rights"
# Objects are drawn larger than needed and made smaller, which smooths their edges.
OVERSAMPLING = 3


def build_synthetic(
    out: Path,
    *,
    correlation: float = 1.0,
    seed: int = 0,
    size: int = 224,
    n_objects: int = 40,
    n_scenes: int = 12,
    per_class: int = 200,
    per_group: int = 100,
) -> Path:
    """Draw the data set into `out`; the same arguments give the same bytes.

    Args:
        out: the folder; must not exist or be empty.
        correlation: share of training composites of a class on its usual scenes, in [0.5, 1].
        seed: of everything that is drawn.
        size: side of the composites in pixels.
        n_objects: objects of a class.
        n_scenes: scenes of a kind.
        per_class: training composites of a class.
        per_group: composites of a group in each test split.

    Raises:
        UsageError: an argument that cannot be.
        RunExistsError: `out` holds files.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     built = build_synthetic(Path(folder) / "s", size=16, n_objects=3, n_scenes=2,
        ...                             per_class=4, per_group=1)
        ...     sorted(path.name for path in built.iterdir())
        ['backgrounds', 'card.json', 'foregrounds', 'images', 'masks', 'metadata.csv']
    """
    recipe = Recipe(
        name="synthetic",
        task="fish-beetles",
        classes=CLASSES,
        attributes=ATTRIBUTES,
        correlation=correlation,
        seed=seed,
        size=size,
        per_class=per_class,
        per_group=per_group,
    )
    cutouts = [
        Cutout(
            id=f"{label}/{number:03d}",
            label=label,
            read=functools.partial(draw_object, label, number=number, size=size, seed=seed),
        )
        for label in CLASSES
        for number in range(n_objects)
    ]
    scenes = [
        Scene(
            id=f"{kind}/{number:03d}",
            kind=kind,
            crops=(functools.partial(draw_scene, kind, number=number, size=size, seed=seed),),
        )
        for kind in (*ATTRIBUTES, NEUTRAL)
        for number in range(n_scenes)
    ]
    card = {
        "licences": [LICENCE],
        "citation": "fieldmark, synthetic fish and beetles on land and water",
        "sources": [],
    }
    return build_composites(out, recipe, cutouts=cutouts, scenes=scenes, card=card)


def draw_object(label: str, *, number: int, size: int, seed: int) -> Image.Image:
    """Draw one object of a class: RGBA, `size` pixels square, transparent around it."""
    rng = generator(seed, "synthetic object", label, number)
    side = size * OVERSAMPLING
    mask = Image.new("L", (side, side))
    draw = ImageDraw.Draw(mask)
    {"fish": _draw_fish, "beetle": _draw_beetle}[label](draw, side, rng)
    turn = float(rng.uniform(-25, 25))
    mask = mask.rotate(turn).resize((size, size), Image.Resampling.LANCZOS)
    image = _texture(size, hue=float(rng.uniform(0, 1)), rng=rng)
    image.putalpha(mask.point(lambda value: 255 * (value > 127)))
    return image


def _draw_fish(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    height, tail = rng.uniform(0.16, 0.26), rng.uniform(0.12, 0.22)
    middle, left, right = side / 2, 0.08 * side, 0.72 * side
    draw.ellipse((left, middle - height * side, right, middle + height * side), fill=255)
    end = 0.94 * side
    draw.polygon(
        [(0.62 * side, middle), (end, middle - tail * side), (end, middle + tail * side)], fill=255
    )


def _draw_beetle(draw: ImageDraw.ImageDraw, side: int, rng: np.random.Generator) -> None:
    radius, reach = rng.uniform(0.2, 0.26), rng.uniform(0.38, 0.45)
    middle = side / 2
    start = rng.uniform(0, math.pi)
    for leg in range(6):
        angle = start + leg * math.pi / 3
        far = (middle + reach * side * math.cos(angle), middle + reach * side * math.sin(angle))
        draw.line(((middle, middle), far), fill=255, width=max(2, round(0.05 * side)))
    box = (middle - radius * side,) * 2 + (middle + radius * side,) * 2
    draw.ellipse(box, fill=255)


def _texture(size: int, *, hue: float, rng: np.random.Generator) -> Image.Image:
    base = np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.5, 0.9), rng.uniform(0.5, 0.95)))
    across = np.linspace(0, rng.uniform(4, 20), size)
    stripes = 0.85 + 0.15 * np.sin(across)[None, :, None]
    pixels = base * stripes + rng.normal(0, 0.03, (size, size, 1))
    return _to_image(pixels)


def draw_scene(kind: str, *, number: int, size: int, seed: int) -> Image.Image:
    """Draw one scene of a kind: RGB, `size` pixels square."""
    rng = generator(seed, "synthetic scene", kind, number)
    up = np.linspace(0, 1, size)[:, None, None]
    across = np.linspace(0, 2 * np.pi, size)[None, :, None]
    hues = {"land": (0.18, 0.36), "water": (0.52, 0.64), NEUTRAL: (0.0, 1.0)}
    hue = rng.uniform(*hues[kind])
    strength = {"land": 0.6, "water": 0.75, NEUTRAL: 0.15}[kind]
    low = np.array(colorsys.hsv_to_rgb(hue, strength, rng.uniform(0.25, 0.5)))
    high = np.array(colorsys.hsv_to_rgb(hue, strength / 2, rng.uniform(0.7, 0.95)))
    pixels = high + (low - high) * up
    if kind == "water":
        waves = np.sin(across * rng.integers(2, 6) + up * rng.uniform(40, 90))
        pixels = pixels + 0.07 * waves * up
    if kind == "land":
        ridge = 0.45 + 0.12 * np.sin(across * rng.integers(1, 4) + rng.uniform(0, 6))
        earth = np.array(colorsys.hsv_to_rgb(rng.uniform(0.06, 0.12), 0.55, rng.uniform(0.3, 0.5)))
        pixels = np.where(up > ridge, 0.5 * pixels + 0.5 * earth, pixels)
    grain = rng.normal(0, 0.05 if kind == "land" else 0.02, (size, size, 1))
    return _to_image(pixels + grain).filter(ImageFilter.GaussianBlur(0.4))


def _to_image(pixels: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Image.Image:
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).round().astype(np.uint8))


def open_synthetic(root: Path) -> Task:
    """Read a built folder.

    Raises:
        TableError: a file is missing or off.
    """
    return open_built(root)


def check_synthetic(root: Path) -> list[str]:
    """Return what is missing or off in a built folder, in a line each."""
    return check_built(root, name="synthetic")


INFO = DatasetInfo(
    name="synthetic",
    summary="drawn fish and beetles on drawn land and water, exact masks, any size",
    licence="CC0-1.0",
    citation="fieldmark",
    open=open_synthetic,
    build=build_synthetic,
    check=check_synthetic,
    options={
        "correlation": 1.0,
        "seed": 0,
        "size": 224,
        "n_objects": 40,
        "n_scenes": 12,
        "per_class": 200,
        "per_group": 100,
    },
)
