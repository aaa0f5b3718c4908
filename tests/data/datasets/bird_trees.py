"""Small trees in the published layouts of CUB, Places365, Waterbirds and DTD, drawn on the spot."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from fieldmark.data.datasets.places365 import PRETRAINING, WATERBIRDS_LAND, WATERBIRDS_WATER

SPECIES = (
    "001.Black_footed_Albatross",
    "021.Eastern_Towhee",
    "053.Western_Grebe",
    "070.Green_Violetear",
    "088.Western_Meadowlark",
    "102.Western_Wood_Pewee",
)
SCENES = (*WATERBIRDS_LAND, *WATERBIRDS_WATER)
LEVELS = np.arange(0, 256, 51, dtype=np.uint8)


def draw_noise(path: Path, *, size=(24, 18), mode="RGB", seed=0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    pixels = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    Image.fromarray(pixels).save(path)


def draw_mask(path: Path, *, size=(24, 18), seed=0) -> None:
    """Draw a solid middle within a ring of soft levels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((size[1], size[0]), np.uint8)
    ring = np.random.default_rng(seed).choice(LEVELS, (size[1] - 4, size[0] - 8))
    mask[2:-2, 4:-4] = ring
    mask[5:-5, 8:-8] = 255
    Image.fromarray(mask).save(path)


def draw_cub(root: Path, *, per_species=4, masks_beside=False, species=SPECIES) -> Path:
    """Draw CUB_200_2011: even images are trained on, the first of a species is grey."""
    folder = root / "CUB_200_2011"
    masks = (root if masks_beside else folder) / "segmentations"
    images: list[str] = []
    splits: list[str] = []
    for name in species:
        for number in range(per_species):
            row = len(images) + 1
            stem = f"{name}/{name[4:]}_{number:04d}"
            mode = "L" if number == 0 else "RGB"
            draw_noise(folder / "images" / f"{stem}.jpg", mode=mode, seed=row)
            draw_mask(masks / f"{stem}.png", seed=row)
            images.append(f"{row} {stem}.jpg")
            splits.append(f"{row} {int(number % 2 == 0)}")
    (folder / "images.txt").write_text("\n".join(images) + "\n")
    (folder / "train_test_split.txt").write_text("\n".join(splits) + "\n")
    return folder


def draw_places(root: Path, *, layout="tar", categories=SCENES, per_category=3) -> Path:
    """Draw training images in one of the layouts: torchvision, tar, easy-, easy_ or easy/."""
    for category in categories:
        for number in range(per_category):
            draw_scene(place_scene(root, category, layout=layout) / f"{number + 1:08d}.jpg")
    return root


def draw_scene(path: Path) -> None:
    draw_noise(path, size=(20, 26), seed=zlib.crc32(str(path).encode()))


def place_scene(root: Path, category: str, *, layout: str) -> Path:
    if layout.startswith("easy"):
        return root / "places365_standard" / "train" / category.replace("/", layout[-1])
    large = {"tar": "data_large", "torchvision": "data_256_standard"}[layout]
    return root / large / category[0] / category


def draw_pool(root: Path, *, per_category=1) -> Path:
    """Draw the categories that are pre-trained on and those of Waterbirds."""
    return draw_places(root, categories=(*PRETRAINING, *SCENES), per_category=per_category)


def draw_flat_validation(root: Path, categories=("ocean", "forest/broadleaf")) -> Path:
    lines = []
    for number, _ in enumerate(categories * 2):
        name = f"Places365_val_{number + 1:08d}.jpg"
        draw_noise(root / "val_256" / name, seed=number)
        lines.append(f"{name} {number % len(categories)}")
    names = [f"/{name[0]}/{name} {number}" for number, name in enumerate(categories)]
    (root / "categories_places365.txt").write_text("\n".join(names) + "\n")
    (root / "places365_val.txt").write_text("\n".join(lines) + "\n")
    return root


HEADER = "img_id,img_filename,y,split,place,place_filename"
# File, y, split, place: each group in each split, and the three wrong species as published.
ROWS = (
    ("001.Black_footed_Albatross/Black_footed_Albatross_0000.jpg", 1, 0, 1),
    ("001.Black_footed_Albatross/Black_footed_Albatross_0002.jpg", 1, 0, 0),
    ("070.Green_Violetear/Green_Violetear_0000.jpg", 0, 0, 0),
    ("070.Green_Violetear/Green_Violetear_0002.jpg", 0, 0, 1),
    ("021.Eastern_Towhee/Eastern_Towhee_0000.jpg", 1, 0, 1),
    ("102.Western_Wood_Pewee/Western_Wood_Pewee_0000.jpg", 1, 0, 0),
    ("053.Western_Grebe/Western_Grebe_0000.jpg", 1, 1, 1),
    ("053.Western_Grebe/Western_Grebe_0002.jpg", 1, 1, 0),
    ("088.Western_Meadowlark/Western_Meadowlark_0000.jpg", 1, 1, 1),
    ("070.Green_Violetear/Green_Violetear_0001.jpg", 0, 2, 0),
    ("070.Green_Violetear/Green_Violetear_0003.jpg", 0, 2, 1),
    ("053.Western_Grebe/Western_Grebe_0001.jpg", 1, 2, 0),
    ("053.Western_Grebe/Western_Grebe_0003.jpg", 1, 2, 1),
)


def draw_waterbirds(folder: Path, *, rows=ROWS, draw=True) -> Path:
    """Draw the published folder; scenes are named as in the tar of Places365."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [HEADER]
    for number, (name, label, split, place) in enumerate(rows, 1):
        if draw:
            draw_noise(folder / name, seed=1000 + number)
        kind = "ocean" if place == 1 else "forest/broadleaf"
        scene = f"/{kind[0]}/{kind}/{number:08d}.jpg"
        lines.append(f"{number},{name},{label},{split},{place},{scene}")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder


def draw_dtd(folder: Path, *, kinds=("banded", "polka-dotted"), per_kind=3) -> Path:
    """Draw `images/` and the lists of the first partition, a third in each."""
    lists: dict[str, list[str]] = {"train1": [], "val1": [], "test1": []}
    for kind in kinds:
        for number in range(per_kind):
            name = f"{kind}/{kind}_{number:04d}.jpg"
            draw_noise(folder / "images" / name, seed=number)
            lists[list(lists)[number % 3]].append(name)
    (folder / "labels").mkdir()
    for name, lines in lists.items():
        (folder / "labels" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    return folder
