"""Tiny real data, a tiny real CLIP with random weights, and the words of each long verb."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from fieldmark.data.datasets import build_dataset
from tests.data.covar.drawn_pools import write_cutouts, write_scenes
from tests.models import tiny

SMALL = {"size": 32, "n_objects": 4, "n_scenes": 4, "per_class": 12, "per_group": 3}
BAP: tuple[str, ...] = (
    "epochs=3",
    "contexts=2",
    "anchor_contexts=4",
    "batch_size=8",
    "precision=fp32",
)
BAP += ("checkpoint_seconds=0",)
BENCH: tuple[str, ...] = ("--seeds", "1", "--methods", "zero-shot,linear-probe,lp-ft")
FINE_TUNING: tuple[str, ...] = ("lp-ft.epochs=2", "lp-ft.batch_size=8", "lp-ft.warmup=1")
FINE_TUNING += ("lp-ft.checkpoint_seconds=0",)
FOUND: tuple[str, ...] = (
    "--regions",
    "quadrants",
    "--clusters",
    "3",
    "--threshold",
    "0",
    "--gallery",
    "1",
)
FOUND += ("--permutations", "99")
FAITHFULNESS: tuple[str, ...] = (
    "--methods",
    "cci,rollout,occlusion",
    "--limit",
    "8",
    "--batch-size",
    "4",
)
FAITHFULNESS += ("--set", "points=4")
TRAINING: tuple[str, ...] = (
    "epochs=3",
    "batch_size=8",
    "learning_rate=1e-3",
    "validation_share=0.2",
)
TRAINING += ("checkpoint_seconds=0",)


@dataclass(frozen=True)
class Verb:
    """A command that is killed.

    Attributes:
        name: as it stands in the table.
        words: all but --out.
        needs: the verb whose run stands under the name {needs} in the words; "" if none.
    """

    name: str
    words: tuple[str, ...]
    needs: str = ""


@dataclass(frozen=True)
class Material:
    """Where the inputs lie.

    Attributes:
        root: the folder of all.
        verbs: the commands by name.
    """

    root: Path
    verbs: dict[str, Verb] = field(default_factory=dict)


def write_material(root: Path) -> Material:
    """Write data and model under a folder and return the commands that use them."""
    build_dataset("synthetic", root / "synthetic", options=SMALL)
    tiny.write_open_clip(root / "clip", "clip")
    write_table(root / "images")
    write_cutouts(root / "objects", names=("bird/a", "bird/b", "fish/c", "fish/d"))
    write_scenes(root / "scenes", names=("lake/one", "wood/two", "wood/three"))
    (root / "words.txt").write_text("square\nnoise\n")
    verbs = {verb.name: verb for verb in list_verbs(root)}
    return Material(root, verbs)


def read_trained(material: Material) -> Verb:
    """Return the command that evaluates the encoder that `bap` left."""
    words = material.verbs["evaluate"].words
    at = words.index("--model") + 1
    return Verb("evaluate", (*words[:at], "{bap}", *words[at + 1 :]), needs="bap")


def write_table(folder: Path) -> None:
    """Write noisy images in three splits with masks, half of each class with a white square."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    mask = Image.new("L", (48, 40))
    mask.paste(255, (16, 10, 40, 34))
    mask.save(folder / "mask.png")
    rows = [["path", "label", "split", "mask"]]
    for split in ("train", "val", "test"):
        for number in range(16):
            pixels = random.integers(0, 255, (40, 48, 3), np.uint8)
            pixels[:20, :20] = 255 if number % 4 < 2 else 0
            name = f"{split}-{number}.png"
            Image.fromarray(pixels).save(folder / name)
            rows.append([name, ("cat", "dog")[number % 2], split, "mask.png"])
    with (folder / "table.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)


def list_verbs(root: Path) -> list[Verb]:
    """Return the long verbs, each with words that make it take a second or two."""
    model = ("--model", f"local-dir:{root / 'clip'}")
    synthetic = (*model, "--data", str(root / "synthetic"))
    table = (*model, "--data", str(root / "images" / "table.csv"))
    seeds = ("--head", "linear-probe", "--seeds", "2")
    return [
        Verb("embed", ("embed", *synthetic)),
        Verb("bap", ("bap", *model, *_name_pools(root / "synthetic"), *_set(BAP))),
        Verb("evaluate", ("evaluate", *synthetic, *seeds)),
        Verb("bench", ("bench", "synthetic", *synthetic, *BENCH, *_set(FINE_TUNING))),
        Verb("discover", ("discover", *table, "--vocabulary", str(root / "words.txt"), *FOUND)),
        Verb(
            "mitigate",
            ("mitigate", *table, "--discovery", "{discover}", "--gallery", "1", *_set(TRAINING)),
            needs="discover",
        ),
        Verb("explain", ("explain", *table, "--limit", "4", "--method", "cci,occlusion,rollout")),
        Verb("faithfulness", ("faithfulness", *table, *FAITHFULNESS)),
        Verb("diagnose", ("diagnose", *table, "--similar", "none", "--draws", "20")),
        *_list_covar(root, model),
        Verb("audit", ("audit", *table, "--limit", "8", "--objects", "4", "--pictures", "1")),
    ]


def _list_covar(root: Path, model: tuple[str, ...]) -> list[Verb]:
    drawn = ("--foregrounds", str(root / "objects"), "--backgrounds", str(root / "scenes"))
    few = ("--draws", "20", "--limit", "4", "--errors", "2")
    return [
        Verb(
            "covar build",
            ("covar", "build", *drawn, "--side", "64", "--backgrounds-per-object", "3"),
        ),
        Verb(
            "covar evaluate",
            ("covar", "evaluate", *model, "--data", "{covar build}", *few),
            needs="covar build",
        ),
    ]


def _name_pools(root: Path) -> tuple[str, ...]:
    pools = ("--foregrounds", str(root / "foregrounds"))
    return (*pools, "--backgrounds", str(root / "backgrounds"))


def _set(settings: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(word for setting in settings for word in ("--set", setting))
