"""Build a biased data set from cut-outs and scenes: the part that `stamps` and `synthetic` share.

A built folder holds

    metadata.csv               an ImageTable: id, path, label, attribute, split, mask, object, scene
    images/SPLIT/*.png         composites, masks/SPLIT/*.png their refined masks
    foregrounds/               foregrounds.csv and the cut-outs of the training objects
    backgrounds/               backgrounds.csv and crops of the training scenes
    card.json                  what it is, how it was made, from what, under which licences

Objects are split into seen and unseen, scenes into training and test, never composites:

    train            seen objects, training scenes, attribute tied to the class by `correlation`
    val              seen objects, training scenes; every group equally often as in Waterbirds,
                     but at correlation 1.0 tied as in training: no minority image anywhere
    train_balanced   seen objects, training scenes, every group equally often (for the oracle)
    test_seen        seen objects, test scenes, every group equally often
    test_unseen      unseen objects, test scenes, every group equally often
"""

from __future__ import annotations

import csv
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from PIL import Image

from fieldmark.core.atomic import write_json
from fieldmark.core.errors import InputError, RunExistsError, UsageError
from fieldmark.core.seeds import generator
from fieldmark.data.backgrounds import fit_background
from fieldmark.data.sprites import draw_sprite

T = TypeVar("T")
Reader = Callable[[], Image.Image]
COLUMNS = ("id", "path", "label", "attribute", "split", "mask", "object", "scene")
# Shares that are not to be seen in training.
UNSEEN, TEST_SCENES = 0.3, 0.4


@dataclass(frozen=True, kw_only=True)
class Cutout:
    """One object: its id, its class, and how to draw it (RGBA)."""

    id: str
    label: str
    read: Reader


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One photograph or drawing of a scene: its id, its kind, and how to draw each of its crops.

    A scene whose kind is not one of the attributes serves as background in training alone.
    """

    id: str
    kind: str
    crops: tuple[Reader, ...]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to build.

    Attributes:
        name: of the data set.
        task: which classes.
        classes: their names.
        attributes: names of the spurious attribute, one for each class: the usual one of it.
        correlation: share of training composites of a class on its usual attribute, in [0.5, 1].
        seed: of splits and composites.
        size: side of the composites in pixels.
        per_class: training composites of a class.
        per_group: composites of a group in each test split.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    attributes: tuple[str, ...]
    correlation: float = 1.0
    seed: int = 0
    size: int = 224
    per_class: int = 200
    per_group: int = 100


@dataclass(frozen=True)
class _Pair:
    cutout: Cutout
    scene: Scene
    split: str
    number: int


def build_composites(
    out: Path,
    recipe: Recipe,
    *,
    cutouts: Sequence[Cutout],
    scenes: Sequence[Scene],
    card: Mapping[str, Any],
    extra: Callable[[Path], list[dict[str, str]]] | None = None,
) -> Path:
    """Build a data set in a temporary folder and put it in the place of `out`.

    Args:
        out: the folder; must not exist or be empty.
        recipe: what to build.
        cutouts: all objects of all classes.
        scenes: all scenes.
        card: licences, citation and sources, for card.json.
        extra: writes further images below the folder and returns their rows of metadata.csv.

    Raises:
        UsageError: a correlation, a size or a count that cannot be.
        RunExistsError: `out` holds files.
        InputError: a class or an attribute has too little to be split.
    """
    _check(out, recipe)
    seen, unseen = _split_cutouts(recipe, cutouts)
    near, far = _split_scenes(recipe, scenes)
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=out.parent))
    try:
        pairs = list(_draw_pairs(recipe, seen=seen, unseen=unseen, near=near, far=far))
        rows = _write_composites(part, recipe, pairs)
        rows += extra(part) if extra else []
        _write_table(part / "metadata.csv", COLUMNS, rows)
        _write_foregrounds(part / "foregrounds", [c for group in seen.values() for c in group])
        _write_backgrounds(part / "backgrounds", near, scenes, recipe=recipe)
        write_json(part / "card.json", _describe(recipe, card, rows=rows))
        part.chmod(0o755)
        if out.exists():
            out.rmdir()
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _check(out: Path, recipe: Recipe) -> None:
    if not 0.5 <= recipe.correlation <= 1:
        raise UsageError(f"correlation {recipe.correlation} is not between 0.5 and 1")
    if min(recipe.size, recipe.per_class, recipe.per_group) < 1:
        raise UsageError("size, per_class and per_group must be at least 1")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunExistsError("holds other files", where=out, mend="choose an empty --out")


def _split_cutouts(
    recipe: Recipe, cutouts: Sequence[Cutout]
) -> tuple[dict[str, list[Cutout]], dict[str, list[Cutout]]]:
    rng = generator(recipe.seed, recipe.name, recipe.task, "objects")
    seen, unseen = {}, {}
    for label in recipe.classes:
        group = sorted((c for c in cutouts if c.label == label), key=lambda c: c.id)
        if len(group) < 2:
            raise InputError(f"class {label!r} has {len(group)} cut-outs, a split needs 2")
        order = [group[i] for i in rng.permutation(len(group))]
        count = min(max(1, round(UNSEEN * len(group))), len(group) - 1)
        unseen[label], seen[label] = order[:count], order[count:]
    return seen, unseen


def _split_scenes(
    recipe: Recipe, scenes: Sequence[Scene]
) -> tuple[dict[str, list[Scene]], dict[str, list[Scene]]]:
    rng = generator(recipe.seed, recipe.name, "scenes")
    near, far = {}, {}
    for kind in recipe.attributes:
        group = sorted((s for s in scenes if s.kind == kind), key=lambda s: s.id)
        if len(group) < 2:
            raise InputError(f"there are {len(group)} scenes of {kind!r}, a split needs 2")
        order = [group[i] for i in rng.permutation(len(group))]
        count = min(max(1, round(TEST_SCENES * len(group))), len(group) - 1)
        far[kind], near[kind] = order[:count], order[count:]
    return near, far


def _draw_pairs(
    recipe: Recipe,
    *,
    seen: Mapping[str, list[Cutout]],
    unseen: Mapping[str, list[Cutout]],
    near: Mapping[str, list[Scene]],
    far: Mapping[str, list[Scene]],
) -> Iterator[_Pair]:
    """Draw who stands where: objects and scenes of a group in turn, so that none is rare."""
    groups = len(recipe.classes) * len(recipe.attributes)
    usual = dict(zip(recipe.classes, recipe.attributes, strict=True))
    balanced = {label: dict.fromkeys(recipe.attributes, 1.0) for label in recipe.classes}
    tied = {
        label: {
            kind: recipe.correlation
            if kind == usual[label]
            else (1 - recipe.correlation) / (len(recipe.attributes) - 1)
            for kind in recipe.attributes
        }
        for label in recipe.classes
    }
    many = recipe.per_class
    few = max(1, many // 4 if recipe.correlation == 1 else math.ceil(many / 8))
    even = math.ceil(many * len(recipe.classes) / groups)
    plans = (
        ("train", seen, near, _scale(tied, many)),
        ("val", seen, near, _scale(tied if recipe.correlation == 1 else balanced, few)),
        ("train_balanced", seen, near, _scale(balanced, even)),
        ("test_seen", seen, far, _scale(balanced, recipe.per_group)),
        ("test_unseen", unseen, far, _scale(balanced, recipe.per_group)),
    )
    for split, things, places, counts in plans:
        for label in recipe.classes:
            for kind in recipe.attributes:
                rng = generator(recipe.seed, recipe.name, recipe.task, split, label, kind)
                wanted = round(counts[label][kind])
                cutouts = _take_turns(things[label], wanted, rng)
                scenes = _take_turns(places[kind], wanted, rng)
                for number, (cutout, scene) in enumerate(zip(cutouts, scenes, strict=True)):
                    yield _Pair(cutout, scene, split, number)


def _scale(shares: Mapping[str, Mapping[str, float]], count: int) -> dict[str, dict[str, float]]:
    return {k: {a: w * count for a, w in v.items()} for k, v in shares.items()}


def _take_turns(items: Sequence[T], count: int, rng: np.random.Generator) -> list[T]:
    rounds = [rng.permutation(len(items)) for _ in range(math.ceil(count / len(items)))]
    order = np.concatenate([*rounds, np.zeros(0, np.int64)])[:count].astype(np.int64)
    return [items[i] for i in order.tolist()]


def _write_composites(folder: Path, recipe: Recipe, pairs: Sequence[_Pair]) -> list[dict[str, str]]:
    # Imported late, here and below: it loads torch, which a list of data sets does not need.
    from fieldmark.data.compositing import SCALES

    cutouts = {pair.cutout.id: pair.cutout for pair in pairs}
    drawn = {name: cutout.read() for name, cutout in cutouts.items()}
    crops = {
        scene.id: _fit_crops(scene, size=recipe.size)
        for scene in {p.scene.id: p.scene for p in pairs}.values()
    }
    rows = []
    for pair in pairs:
        label, kind = pair.cutout.label, pair.scene.kind
        name = f"{pair.split}/{label}-on-{kind}-{pair.number:04d}".replace(" ", "_")
        rng = generator(recipe.seed, recipe.name, recipe.task, "composite", name)
        choices = crops[pair.scene.id]
        scene = choices[int(rng.integers(len(choices)))]
        scale = float(rng.uniform(*SCALES))
        image, mask = _paste(drawn[pair.cutout.id], scene, side=recipe.size, scale=scale)
        for kept, place in ((image, "images"), (mask, "masks")):
            path = folder / place / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            kept.save(path, compress_level=1)
        rows.append(
            {
                "id": name,
                "path": f"images/{name}.png",
                "label": label,
                "attribute": kind,
                "split": pair.split,
                "mask": f"masks/{name}.png",
                "object": pair.cutout.id,
                "scene": pair.scene.id,
            }
        )
    return rows


def _paste(
    cutout: Image.Image, scene: Image.Image, *, side: int, scale: float
) -> tuple[Image.Image, Image.Image]:
    from fieldmark.data.compositing import find_place

    sprite = draw_sprite(cutout, side=side, scale=scale)
    rows, columns = find_place(*sprite.size, side=side)
    place = (columns.start, rows.start)
    image, mask = scene.copy(), Image.new("L", (side, side))
    image.paste(sprite, place, sprite)
    mask.paste(sprite.getchannel("A"), place)
    return image, mask


def _fit_crops(scene: Scene, *, size: int) -> list[Image.Image]:
    return [fit_background(read(), side=size) for read in scene.crops]


def _write_foregrounds(folder: Path, cutouts: Sequence[Cutout]) -> None:
    rows = []
    for number, cutout in enumerate(cutouts):
        path = folder / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cutout.read().save(path, compress_level=1)
        rows.append({"path": path.name, "label": cutout.label, "id": cutout.id})
    _write_table(folder / "foregrounds.csv", ("path", "label", "id"), rows)


def _write_backgrounds(
    folder: Path, near: Mapping[str, list[Scene]], scenes: Sequence[Scene], *, recipe: Recipe
) -> None:
    """Write crops of the training scenes, and of scenes of other kinds, which no test has."""
    others = [scene for scene in scenes if scene.kind not in recipe.attributes]
    rows: list[dict[str, str]] = []
    for scene in [*(s for group in near.values() for s in group), *others]:
        for number, crop in enumerate(_fit_crops(scene, size=recipe.size)):
            path = folder / f"{len(rows):04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            crop.save(path, compress_level=1)
            # The first crop is named as its photograph is in metadata.csv: that is how the leakage
            # guard finds a photograph on both sides.
            identity = scene.id if number == 0 else f"{scene.id}#{number}"
            rows.append({"path": path.name, "category": scene.kind, "id": identity})
    _write_table(folder / "backgrounds.csv", ("path", "category", "id"), rows)


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _describe(
    recipe: Recipe, card: Mapping[str, Any], *, rows: Sequence[Mapping[str, str]]
) -> dict[str, Any]:
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        group = f"{row['label']} on {row['attribute']}" if row["attribute"] else row["label"]
        split = counts.setdefault(row["split"], {})
        split[group] = split.get(group, 0) + 1
    made = {key: getattr(recipe, key) for key in ("name", "task", "correlation", "seed", "size")}
    names = {"classes": list(recipe.classes), "attributes": list(recipe.attributes)}
    return {**made, **names, "counts": counts, **card}
