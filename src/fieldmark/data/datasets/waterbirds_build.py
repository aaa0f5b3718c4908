"""Build Waterbirds anew from CUB and Places365, at any correlation (Sagawa et al., 2020, C.1).

The protocol is that of group DRO: CUB's own test images, a fifth of its training images drawn for
validation; a share `correlation` of each class on its own background in training, and half of it in
validation and test; a scene of its own for every image; the bird where it was in its photograph,
laid over the scene by its soft mask. Draws differ from theirs, whose seed nobody has. Images are
JPEG of Pillow's default quality, as theirs are.
"""

from __future__ import annotations

import csv
import functools
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fieldmark.core.atomic import write_json
from fieldmark.core.errors import InputError, MaskError, RunExistsError, UsageError
from fieldmark.core.seeds import generator
from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.datasets.composites import COLUMNS
from fieldmark.data.datasets.cub import CLASSES, open_cub, read_is_train
from fieldmark.data.datasets.places365 import (
    WATERBIRDS_LAND,
    WATERBIRDS_WATER,
    open_places365,
)
from fieldmark.data.foregrounds import Foregrounds
from fieldmark.data.images import read_grey, read_image

PLACES = ("land", "water")
VAL_SHARE = 0.2
LICENCE = (
    "derived from CUB-200-2011 and Places365: non-commercial research and education only, as both "
    "say of their images"
)
CITATION = (
    "Sagawa, Koh, Hashimoto, Liang: Distributionally Robust Neural Networks for Group Shifts, "
    "ICLR 2020; made of CUB-200-2011 (Wah et al., 2011) and Places (Zhou et al., 2018)"
)


class Plan(NamedTuple):
    """Who is where.

    Attributes:
        splits: (n,) "train", "val" or "test".
        places: (n,) 0 for land, 1 for water.
    """

    splits: NDArray[np.str_]
    places: NDArray[np.int64]


def draw_plan(
    labels: NDArray[np.int64],
    is_train: NDArray[np.bool_],
    *,
    correlation: float,
    val_correlation: float = 0.5,
    seed: int,
) -> Plan:
    """Draw splits and backgrounds as group DRO does.

    Args:
        labels: (n,) 0 for landbird, 1 for waterbird.
        is_train: (n,) whether CUB trains on the image.
        correlation: share of the training images of a class on the background of it, in [0, 1].
        val_correlation: the same of validation; 0.5 is the published design.
        seed: of the draw.

    Returns:
        The plan; counts are rounded to the nearest, half to even.

    Example:
        >>> labels, is_train = np.repeat([0, 1], 50), np.tile([True, False], 50)
        >>> plan = draw_plan(labels, is_train, correlation=1.0, seed=0)
        >>> (plan.splits == "train").sum(), (plan.splits == "val").sum()
        (np.int64(40), np.int64(10))
        >>> (plan.places == labels)[plan.splits == "train"].all()
        np.True_
    """
    rng = generator(seed, "waterbirds", "plan")
    trained = np.flatnonzero(is_train)
    splits = np.where(is_train, "train", "test")
    splits[rng.permutation(trained)[: round(VAL_SHARE * len(trained))]] = "val"
    shares = {"train": correlation, "val": val_correlation, "test": 0.5}
    places = np.zeros(len(labels), np.int64)
    for split, share in shares.items():
        for label in (0, 1):
            rows = np.flatnonzero((splits == split) & (labels == label))
            on_water = round((share if label else 1 - share) * len(rows))
            places[rng.permutation(rows)[:on_water]] = 1
    return Plan(splits, places)


def fit_scene(scene: Image.Image, *, width: int, height: int) -> Image.Image:
    """Crop a scene around its middle to a shape and resize it with Lanczos, as group DRO does.

    A scene that is too small either way is first enlarged until it covers the shape.

    Example:
        >>> fit_scene(Image.new("RGB", (40, 30)), width=50, height=20).size
        (50, 20)
    """
    if scene.width < width or scene.height < height:
        across = (width, int(width / scene.width * scene.height))
        down = (max(width, int(height / scene.height * scene.width)), height)
        scene = scene.resize(across if across[1] >= height else down, Image.Resampling.LANCZOS)
    left = top = 0
    if scene.width / scene.height > width / height:
        left = (scene.width - int(width / height * scene.height)) // 2
    else:
        top = (scene.height - int(scene.width / (width / height))) // 2
    box = (left, top, scene.width - left, scene.height - top)
    return scene.crop(box).resize((width, height), Image.Resampling.LANCZOS)


def blend_bird(
    bird: NDArray[np.uint8], scene: NDArray[np.uint8], mask: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Lay a bird over a scene by its soft mask, with the very integers of group DRO's script.

    That rounds `bird * m / 255` and `scene * (1 - m / 255)` to the nearest, each by itself, and
    adds them. 255 is odd, so that no half is ever met and `(value * m + 127) // 255` is the same.

    Args:
        bird: (H,W,3).
        scene: (H,W,3).
        mask: (H,W), 255 where the bird covers the scene whole.

    Returns:
        (H,W,3), a new array.

    Example:
        >>> pixel = np.full((1, 1, 3), 100, np.uint8)
        >>> blend_bird(pixel, pixel // 2, np.array([[51]], np.uint8))[0, 0].tolist()
        [60, 60, 60]
    """
    image = scene.copy()
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not rows.size:
        return image
    inside = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    weight = mask[inside][..., None].astype(np.uint16)
    part = (bird[inside] * weight + 127) // 255
    part += (scene[inside] * (255 - weight) + 127) // 255
    image[inside] = part
    return image


def build_waterbirds(
    out: Path,
    *,
    cub: Path | None = None,
    places: Path | None = None,
    correlation: float = 0.95,
    val_correlation: float = 0.5,
    labels: str = "official",
    scenes: str = "disjoint",
    per_category: int = 100,
    seed: int = 0,
) -> Path:
    """Build Waterbirds from CUB-200-2011 and Places365 into a folder that `open_built` reads.

    Its foregrounds are the training birds with their masks, its backgrounds scenes that no image
    of it shows.

    Args:
        out: the folder; must not exist or be empty.
        cub: folder of CUB-200-2011 with its segmentations.
        places: folder of Places365, whose training images are used.
        correlation: share of the training images of a class on its background, in [0.5, 1].
        val_correlation: the same of validation.
        labels: "official" or "fixed", see `cub.is_waterbird`.
        scenes: "disjoint" or "paper": which 50 categories to pre-train on.
        per_category: most scenes of a category to pre-train on, 0 for all.
        seed: of splits, backgrounds and scenes.

    Raises:
        UsageError: a folder is not named, or an argument that cannot be.
        RunExistsError: `out` holds files.
        TableError: files are missing: the first ten and their count.
        InputError: there are fewer scenes than images that need one.
    """
    folders = _check(out, cub, places, correlation=correlation, val_correlation=val_correlation)
    if labels not in ("official", "fixed"):
        raise UsageError(f"labels {labels!r} is none of official, fixed")
    birds = open_cub(folders[0], labels=labels)
    plan = draw_plan(
        birds.labels,
        read_is_train(folders[0]),
        correlation=correlation,
        val_correlation=val_correlation,
        seed=seed,
    )
    used = draw_scenes(folders[1], plan.places, seed=seed)
    names = {"disjoint": "pretraining", "paper": "pretraining-paper"}
    if scenes not in names:
        raise UsageError(f"scenes {scenes!r} is none of {', '.join(names)}")
    pool = open_places365(
        folders[1], categories=names[scenes], per_category=per_category, seed=seed
    )
    pool = pool.take([i for i, name in enumerate(pool.ids) if name not in set(used.ids)])
    told = {
        "correlation": correlation,
        "val_correlation": val_correlation,
        "labels": labels,
        "seed": seed,
        "sources": [str(birds.root), str(pool.root)],
    }
    return _write(out, birds, plan, used=used, pool=pool, told=told)


def _check(
    out: Path, cub: Path | None, places: Path | None, *, correlation: float, val_correlation: float
) -> tuple[Path, Path]:
    if cub is None or places is None:
        raise UsageError(
            "Waterbirds is made of CUB-200-2011 and Places365",
            mend="name their folders: --set cub=FOLDER --set places=FOLDER",
        )
    for name, value in (("correlation", correlation), ("val_correlation", val_correlation)):
        if not 0.5 <= value <= 1:
            raise UsageError(f"{name} {value} is not between 0.5 and 1")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunExistsError("holds other files", where=out, mend="choose an empty --out")
    return cub, places


def draw_scenes(root: Path, places: NDArray[np.int64], *, seed: int) -> Backgrounds:
    """Draw a scene of its own for every image.

    Args:
        root: folder of Places365.
        places: (n,) 0 for land, 1 for water.
        seed: of the draw.

    Returns:
        n scenes, in the order of `places`.

    Raises:
        InputError: there are too few.
    """
    pool = open_places365(root, categories=(*WATERBIRDS_LAND, *WATERBIRDS_WATER))
    chosen = np.zeros(len(places), np.int64)
    for place, kinds in enumerate((WATERBIRDS_LAND, WATERBIRDS_WATER)):
        codes = [pool.categories.index(kind) for kind in kinds]
        known = np.flatnonzero(np.isin(pool.category_ids, codes))
        rows = np.flatnonzero(places == place)
        if len(known) < len(rows):
            raise InputError(
                f"has {len(known)} {PLACES[place]} scenes ({', '.join(kinds)}) for "
                f"{len(rows)} images",
                where=pool.root,
                mend="unpack all training images of these categories",
            )
        rng = generator(seed, "waterbirds", "scenes", PLACES[place])
        chosen[rows] = rng.permutation(known)[: len(rows)]
    return pool.take(chosen)


def _write(
    out: Path,
    birds: Foregrounds,
    plan: Plan,
    *,
    used: Backgrounds,
    pool: Backgrounds,
    told: Mapping[str, Any],
) -> Path:
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".part-", dir=out.parent))
    try:
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            write = functools.partial(_write_image, part, birds, plan, used)
            rows = list(threads.map(write, range(len(birds))))
        _write_table(part / "metadata.csv", COLUMNS, rows)
        trained = np.flatnonzero(plan.splits == "train").tolist()
        _copy_birds(part / "foregrounds", birds, trained)
        _copy_scenes(part / "backgrounds", pool)
        write_json(part / "card.json", _describe(rows, told))
        part.chmod(0o755)
        if out.exists():
            out.rmdir()
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _write_image(
    folder: Path, birds: Foregrounds, plan: Plan, used: Backgrounds, index: int
) -> dict[str, str]:
    source = birds.outlines[index].mask
    assert source is not None
    bird, mask = _read_plain(birds.paths[index]), np.asarray(read_grey(source))
    if mask.shape != (bird.height, bird.width):
        raise MaskError(
            f"the mask is {mask.shape[1]} x {mask.shape[0]}, the image {bird.width} x "
            f"{bird.height}",
            where=source,
            mend="unpack segmentations.tgz again",
        )
    scene = _read_plain(used.paths[index], least=bird.size)
    scene = fit_scene(scene, width=bird.width, height=bird.height)
    image = Image.fromarray(blend_bird(np.asarray(bird), np.asarray(scene), mask))
    name, split = birds.ids[index], str(plan.splits[index])
    path, mask_path = f"images/{split}/{name}", f"masks/{split}/{Path(name).with_suffix('.png')}"
    for below in (path, mask_path):
        (folder / below).parent.mkdir(parents=True, exist_ok=True)
    image.save(folder / path, "JPEG")
    shutil.copyfile(source, folder / mask_path)
    return {
        "id": name,
        "path": path,
        "label": CLASSES[birds.labels[index]],
        "attribute": PLACES[plan.places[index]],
        "split": split,
        "mask": mask_path,
        "object": name,
        "scene": used.ids[index],
    }


def _read_plain(path: Path, *, least: tuple[int, int] | None = None) -> Image.Image:
    """Read as group DRO does, without regard to EXIF: masks are of the stored pixels.

    With `least`, a JPEG that is at least twice as large as needed to cover it is decoded at half,
    a quarter or an eighth of its size.
    """
    try:
        with Image.open(path) as image:
            if least is not None:
                share = max(least[0] / image.width, least[1] / image.height)
                image.draft("RGB", (round(image.width * share), round(image.height * share)))
            return image.convert("RGB")
    except Exception:  # Pillow raises what its formats happen to raise
        # What is wrong with the file is told there.
        return read_image(path)


def _copy_birds(folder: Path, birds: Foregrounds, chosen: Sequence[int]) -> None:
    rows = []
    for index in chosen:
        name, source = birds.ids[index], birds.outlines[index].mask
        assert source is not None
        mask = f"masks/{Path(name).with_suffix('.png')}"
        for file, below in ((birds.paths[index], f"images/{name}"), (source, mask)):
            (folder / below).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / below)
        label = CLASSES[birds.labels[index]]
        rows.append({"path": f"images/{name}", "label": label, "id": name, "mask": mask})
    _write_table(folder / "foregrounds.csv", ("path", "label", "id", "mask"), rows)


def _copy_scenes(folder: Path, pool: Backgrounds) -> None:
    rows = []
    for name, path, code in zip(pool.ids, pool.paths, pool.category_ids, strict=True):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / name)
        rows.append({"path": name, "category": pool.categories[code], "id": name})
    _write_table(folder / "backgrounds.csv", ("path", "category", "id"), rows)


def _write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _describe(rows: Sequence[Mapping[str, str]], told: Mapping[str, Any]) -> dict[str, Any]:
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        split = counts.setdefault(row["split"], {})
        group = f"{row['label']} on {row['attribute']}"
        split[group] = split.get(group, 0) + 1
    return {
        "name": "waterbirds",
        "task": "waterbirds",
        "classes": list(CLASSES),
        "attributes": list(PLACES),
        "counts": counts,
        "licences": [LICENCE],
        "citation": CITATION,
        **told,
    }
