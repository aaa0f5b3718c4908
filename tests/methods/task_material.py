"""A task of red and blue squares on land and water, small enough for FakeEncoder's 8 x 8 pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fieldmark.data.tables import ImageTable, read_table
from fieldmark.methods.fine_tuning_config import FineTuningConfig
from fieldmark.methods.recipe import Adapted, Material, Recipe
from fieldmark.models.encoder import Encoder
from fieldmark.testing import FakeEncoder

SETTINGS: dict[str, Any] = {
    "epochs": 3,
    "batch_size": 5,
    "learning_rate": 2e-2,
    "head_learning_rate": 2e-2,
    "probe_epochs": 20,
    "probe_learning_rate": 2e-2,
    "precision": "fp32",
}
CONFIG = FineTuningConfig(**SETTINGS)
GROUND = {"land": (40, 120, 40), "water": (30, 60, 120)}


class Killed(Exception):
    """Stands for a killed process."""


def draw_table(folder: Path, *, count: int = 24, side: int = 8) -> ImageTable:
    """Write `count` training images, 5 in 6 on the ground of their class, and 8 for validation."""
    rng = np.random.default_rng(0)
    rows = ["path,label,place,split"]
    for i in range(count + 8):
        split = "train" if i < count else "val"
        label = ("blue", "red")[i % 2]
        usual = (i // 2) % 6 if split == "train" else (i // 2) % 2
        place = ("water", "land")[(i % 2) ^ (usual == 0)]
        noise = rng.integers(0, 40, size=3)
        image = Image.new("RGB", (side, side), tuple(map(int, noise + GROUND[place])))
        image.paste((200 - i, i, 60) if label == "red" else (60, i, 200 - i), box(side))
        # Not symmetric, so that a flip shows.
        image.putpixel((0, 0), (255, 255, i))
        image.save(folder / f"{i}.png")
        rows.append(f"{i}.png,{label},{place},{split}")
    (folder / "task.csv").write_text("\n".join(rows) + "\n")
    return read_table(folder / "task.csv")


def box(side: int) -> tuple[int, int, int, int]:
    """Return where the object is."""
    return side // 4, side // 4, side - side // 4, side - side // 4


def make_material(folder: Path, *, name: str = "run", **changes: Any) -> Material:
    """Return material on the table of a folder, drawn if it is not there."""
    if not (folder / "task.csv").exists():
        draw_table(folder)
    table = read_table(folder / "task.csv")
    values: dict[str, Any] = {
        "encoder": FakeEncoder(),
        "train": table.select("train"),
        "val": table.select("val"),
        "config": CONFIG,
        "seed": 0,
        "folder": folder / name,
        "cache": folder / "cache",
    }
    values |= changes
    if "report" in changes:
        # A run that is to be killed keeps every step.
        values["config"] = values["config"].model_copy(update={"checkpoint_seconds": 0})
    return Material(**values)


def kill_at(phase: str, step: int) -> Callable[[str, int, int, str], None]:
    """Return a report that ends the run at a step of a phase."""

    def report(at: str, done: int, total: int, note: str) -> None:
        if at == phase and done == step:
            raise Killed

    return report


def run_after_base(recipe: Recipe, folder: Path, *, config: Any, **changes: Any) -> Adapted:
    """Run a recipe with the outcome of lp-ft under it, where it starts from that."""
    from fieldmark.methods.recipes import RECIPES

    encoder: Encoder = changes.get("encoder", FakeEncoder())
    base = {}
    for name in recipe.starts_from:
        below = make_material(folder, name=f"base-{name}", encoder=encoder)
        base[name] = RECIPES[name].adapt(below)
    return recipe.adapt(make_material(folder, base=base, config=config, **changes))
