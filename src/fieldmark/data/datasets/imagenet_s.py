"""ImageNet-S: ImageNet photographs with masks of their classes (Gao et al., 2022), as foregrounds.

Masks are RGB images whose class id is R + 256 G: 0 is anything else, 1000 is to be ignored, and
the others are ranks, from 1, in the sorted list of the variant's WordNet ids. An object is where
the mask has the id of its own folder; ignored pixels are no part of it.

The variant with 919 classes merges five WordNet ids into others of theirs (`MERGED`), whose images
lie in the folder of the class that they were merged into. Masks of `test` were never published.

Opening decodes every mask, some 10 ms each, and keeps its runs. `build` writes the masks of the
objects alone, so that a pool that is used often opens at once.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from fieldmark.core.atomic import write_json
from fieldmark.core.errors import TableError, UsageError
from fieldmark.data.coco import decode_runs, encode_runs
from fieldmark.data.columns import Columns, encode_names, relative_names, resolve_paths
from fieldmark.data.datasets.built import building, write_rows
from fieldmark.data.datasets.info import DatasetInfo
from fieldmark.data.foregrounds import Foregrounds, Outline, read_foregrounds
from fieldmark.data.images import list_images, read_image
from fieldmark.data.layout import describe_missing, list_missing, read_lines
from fieldmark.data.masks import Degradation, Mask

VARIANTS = ("50", "300", "919")
SPLITS = ("train-semi", "validation")
OTHER, IGNORED = 0, 1000
# WordNet ids that 919 has no folder of -> where their images are.
MERGED: Mapping[str, str] = {
    "n04356056": "n04355933",
    "n04493381": "n02808440",
    "n03642806": "n03832673",
    "n04008634": "n03773504",
    "n03887697": "n15075141",
}
LICENCE = (
    "images under the terms of ImageNet (non-commercial research and education); the authors' "
    "page names no licence of the masks"
)
CITATION = (
    "Gao, Li, Yang, Cheng, Han, Torr: Large-scale Unsupervised Semantic Segmentation, TPAMI 2022, "
    "arXiv:2106.03149; images: Russakovsky et al., IJCV 2015"
)
LAYOUT = """ImageNetS919/validation/<wnid>/*.JPEG (or ImageNetS300, ImageNetS50)
ImageNetS919/validation-segmentation/<wnid>/*.png
ImageNetS919/train-semi/<wnid>/*.JPEG
ImageNetS919/train-semi-segmentation/<wnid>/*.png
ImageNetS_categories_im919.txt (needed where not all class folders are there)"""


def open_imagenet_s(
    root: Path,
    *,
    variant: str | int = "919",
    split: str = "validation",
    classes: str | Sequence[str] | None = None,
    degrade: Degradation = "none",
) -> Foregrounds:
    """Read the objects of some classes; an image whose mask has no pixel of its class is left out.

    Args:
        root: folder that holds `ImageNetS919`, that folder itself, or a built folder.
        variant: 50, 300 or 919.
        split: `validation` or `train-semi`.
        classes: WordNet ids to keep, several divided by commas; all by default.
        degrade: how masks are spoilt (BAP I.2).

    Raises:
        UsageError: a variant or a split that there is not.
        TableError: folders or masks are missing (the first ten and their count), an unknown class,
            or no object left.
        ImageError: a mask that cannot be read.
    """
    chosen = _parse_classes(classes)
    if (root / "foregrounds" / "foregrounds.csv").is_file():
        pool = read_foregrounds(root / "foregrounds", degrade=degrade)
        return _keep(pool, chosen, where=root) if chosen else pool
    base = _find_base(root, variant=str(variant), split=split)
    ids = rank_classes(_list_classes(base, root, variant=str(variant)))
    images = _list_pairs(base, ids, split=split, classes=chosen)
    missing = list_missing(mask for _, mask in images)
    if missing:
        raise TableError(
            describe_missing(missing, root=base), where=base, mend="run datapreparation_anno.sh"
        )
    with ThreadPoolExecutor() as threads:
        outlines = list(threads.map(lambda pair: _trace(pair[1], ids[pair[0].parent.name]), images))
    kept = [index for index, outline in enumerate(outlines) if outline is not None]
    if not kept:
        raise TableError("has no object that fits", where=base / split, mend="name other classes")
    names = relative_names((images[index][0] for index in kept), root=base)
    labels = encode_names([images[index][0].parent.name for index in kept])
    return Foregrounds(
        name=f"imagenet-s-{variant}",
        root=base,
        ids=tuple(names),
        paths=resolve_paths(Columns(base, {}, names), names, root=base),
        outlines=tuple(outline for outline in outlines if outline is not None),
        labels=labels.codes,
        classes=labels.names,
        degrade=degrade,
    )


def rank_classes(wnids: Sequence[str]) -> dict[str, int]:
    """Return the id that masks have for each WordNet id: its rank, from 1, among them all.

    Example:
        >>> rank_classes(["n01443537", "n01440764"])
        {'n01440764': 1, 'n01443537': 2}
    """
    return {wnid: rank for rank, wnid in enumerate(sorted(wnids), start=1)}


def read_class_ids(pixels: Mask) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return the class id of each pixel of a mask: R + 256 G.

    Args:
        pixels: uint8 (H,W,3).

    Example:
        >>> read_class_ids(np.array([[[232, 3, 0], [7, 0, 0]]], np.uint8)).tolist()
        [[1000, 7]]
    """
    wide = pixels.astype(np.int64)
    return wide[..., 0] + 256 * wide[..., 1]


def _trace(path: Path, class_id: int) -> Outline | None:
    ids = read_class_ids(np.asarray(read_image(path)))
    mask = np.where(ids == class_id, np.uint8(255), np.uint8(0))
    if not mask.any():
        return None
    return Outline(segmentation={"counts": encode_runs(mask), "size": list(mask.shape)})


def _parse_classes(classes: str | Sequence[str] | None) -> tuple[str, ...]:
    names = classes.split(",") if isinstance(classes, str) else classes or ()
    return tuple(MERGED.get(name.strip(), name.strip()) for name in names)


def _keep(pool: Foregrounds, classes: Sequence[str], *, where: Path) -> Foregrounds:
    unknown = [name for name in classes if name not in pool.classes]
    if unknown:
        raise TableError(f"has no class {unknown[0]}", where=where, mend="build it with that class")
    codes = [pool.classes.index(name) for name in classes]
    return pool.take(np.flatnonzero(np.isin(pool.labels, codes)))


def _find_base(root: Path, *, variant: str, split: str) -> Path:
    for name, value, known in (("variant", variant, VARIANTS), ("split", split, SPLITS)):
        if value not in known:
            raise UsageError(f"{name} {value!r} is none of {', '.join(known)}")
    wanted = f"ImageNetS{variant}"
    for folder in (root, root / wanted, root / "imagenet-s" / wanted, root / "ImageNetS" / wanted):
        named = folder.resolve().name
        if (folder / split).is_dir() and (named == wanted or not named.startswith("ImageNetS")):
            return folder.resolve()
    raise TableError(
        f"has no {wanted}/{split}", where=root, mend="check --root, or name another variant"
    )


def _list_classes(base: Path, root: Path, *, variant: str) -> list[str]:
    """Return all WordNet ids of a variant, from its list or, if all are there, its folders."""
    name = f"ImageNetS_categories_im{variant}.txt"
    for path in (base / name, base.parent / name, root / name):
        if path.is_file():
            lines = read_lines(path, mend="fetch it again")
            return _require_count(" ".join(lines).split(), variant=variant, where=path)
    parts = ("train-semi", "validation", "train", "test")
    folders = {p.name for part in parts for p in (base / part).glob("n*") if p.is_dir()}
    return _require_count(sorted(folders), variant=variant, where=base)


def _require_count(wnids: list[str], *, variant: str, where: Path) -> list[str]:
    if len(set(wnids)) != int(variant):
        raise TableError(
            f"has {len(set(wnids))} classes of {variant}, and the ids in the masks are ranks "
            "among them all",
            where=where,
            mend=f"put ImageNetS_categories_im{variant}.txt beside it",
        )
    return wnids


def _list_pairs(
    base: Path, ids: Mapping[str, int], *, split: str, classes: Sequence[str]
) -> list[tuple[Path, Path]]:
    """List images and their masks, of the classes that are asked for or of all there are."""
    folders = {path.name for path in (base / split).iterdir() if path.is_dir()}
    present = [wnid for wnid in ids if wnid in folders]
    unknown = [wnid for wnid in classes if wnid not in present]
    if unknown:
        raise TableError(
            f"has no class {unknown[0]}", where=base / split, mend="name classes that it has"
        )
    return [
        (image, base / f"{split}-segmentation" / wnid / f"{image.stem}.png")
        for wnid in (classes or present)
        for image in list_images(base / split / wnid)
    ]


def build_imagenet_s(
    out: Path,
    *,
    root: Path,
    variant: str | int = "919",
    split: str = "validation",
    classes: str | Sequence[str] | None = None,
) -> Path:
    """Write photographs and the masks of their objects alone into `out/foregrounds`.

    Args:
        out: the folder; must not exist or be empty.
        root: the published folder.
        variant: 50, 300 or 919.
        split: `validation` or `train-semi`.
        classes: WordNet ids to keep; all by default.

    Raises:
        RunExistsError: `out` holds files.
        UsageError: a variant or a split that there is not.
        TableError: what is missing.
    """
    pool = open_imagenet_s(root, variant=variant, split=split, classes=classes)
    with building(out) as part:
        folder = part / "foregrounds"
        rows = []
        for name, path, outline, label in zip(
            pool.ids, pool.paths, pool.outlines, pool.labels, strict=True
        ):
            image, mask = f"images/{name}", f"masks/{name}.png"
            for place in (image, mask):
                (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / image)
            assert isinstance(outline.segmentation, dict)
            height, width = outline.segmentation["size"]
            runs = decode_runs(outline.segmentation["counts"], size=(height, width))
            Image.fromarray(runs).save(folder / mask)
            rows.append((name, image, pool.classes[label], mask))
        write_rows(folder / "foregrounds.csv", ("id", "path", "label", "mask"), rows)
        card = {"name": "imagenet-s", "variant": str(variant), "split": split, "objects": len(pool)}
        write_json(part / "card.json", {**card, "licences": [LICENCE], "citation": CITATION})
    return out


def check_imagenet_s(
    root: Path, *, variant: str | int = "919", split: str = "validation"
) -> list[str]:
    """Return what is missing or off, in a line each: folders, classes, masks, images without one.

    Args:
        root: the published or a built folder.
        variant: 50, 300 or 919.
        split: `validation` or `train-semi`.
    """
    try:
        pool = open_imagenet_s(root, variant=variant, split=split)
    except TableError as error:
        return [str(error)]
    if (root / "foregrounds" / "foregrounds.csv").is_file():
        return []
    base = _find_base(root, variant=str(variant), split=split)
    whole = relative_names(list_images(base / split), root=base)
    return [f"{base / name}: its mask has no object" for name in sorted({*whole} - {*pool.ids})]


INFO = DatasetInfo(
    name="imagenet-s",
    summary="ImageNet photographs with masks, 50, 300 or 919 classes",
    kind="foregrounds",
    licence=LICENCE,
    citation=CITATION,
    layout=LAYOUT,
    open=open_imagenet_s,
    build=build_imagenet_s,
    check=check_imagenet_s,
    options={"variant": "919", "split": "validation", "classes": None, "degrade": "none"},
    choices={
        "variant": VARIANTS,
        "split": SPLITS,
        "degrade": ("none", "dilated", "eroded", "box"),
    },
)
