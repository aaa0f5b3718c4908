"""Small trees in the published layouts of CounterAnimal, MetaShift, CelebA and ImageNet-S."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

ATTRIBUTE_HEADER = ("5_o_Clock_Shadow", "Blond_Hair", "Male", "Young")


def write_image(path: Path, *, size: tuple[int, int] = (12, 8), colour: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour % 256, colour * 7 % 256, 120)).save(path)
    return path


def write_counteranimal(
    root: Path,
    folders: Mapping[str, int] | None = None,
    *,
    size: tuple[int, int] = (130, 110),
) -> Path:
    """Draw `LAION-final` with folder name -> how many photographs, and the strays it comes with."""
    base = root / "LAION-final"
    swapped = {
        "81 ptarmigan/common-snow": 10,
        "81 ptarmigan/counter-grass": 4,
        "83 prairie chicken/common-grass": 5,
        "83 prairie chicken/counter-snow": 3,
    }
    for folder, count in (folders or swapped).items():
        for number in range(count):
            write_image(base / folder / f"{number:03d}.jpg", size=size, colour=13 * number)
    (base / "README.txt").write_text("stray")
    (base / "counter_animal_ds.pkl").write_bytes(b"never opened")
    return root


def write_imagenet_names(path: Path) -> Path:
    names = {81: "ptarmigan", 83: "prairie chicken, prairie grouse", 134: "crane", 517: "crane"}
    lines = [f"{i}\t{names.get(i, f'thing {i}, Res {i}')}" for i in range(1000)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_unmixed(root: Path) -> Path:
    """Draw MetaShift's unmixed folder: 8 cats in, 6 dogs out, 2 cats out and 3 dogs in to test."""
    base = root / "MetaShift-Cat-Dog-indoor-outdoor"
    counts = {
        "train/cat/cat(indoor)": 8,
        "train/dog/dog(outdoor)": 6,
        "test/cat/cat(outdoor)": 2,
        "test/dog/dog(indoor)": 3,
    }
    for offset, (folder, count) in enumerate(counts.items()):
        for number in range(count):
            write_image(base / folder / f"{100 * offset + number}.jpg")
    (base / "imageID_to_group.pkl").write_bytes(b"never opened")
    return base


def write_mixed(root: Path) -> Path:
    """Draw MetaShift's mixed folder of the same images: contexts are told by file names alone."""
    base = root / "MetaShift-subpopulation-shift"
    names = {
        "train/cat": (0, 1, 2, 200),
        "train/dog": (100, 101, 300),
        "val_out_of_domain/cat": (3, 201),
        "val_out_of_domain/dog": (102, 301),
    }
    for folder, numbers in names.items():
        for number in numbers:
            write_image(base / folder / f"{number}.jpg")
    (base / "imageID_to_group.pkl").write_bytes(b"never opened")
    return base


# Name, blond, male, partition: every group in every split.
FACES = tuple(
    (f"{1 + 4 * split + 2 * blond + male:06d}.jpg", blond, male, split)
    for split in range(3)
    for blond in (0, 1)
    for male in (0, 1)
)


def write_faces(folder: Path) -> Path:
    for name, *_ in FACES:
        write_image(folder / name)
    return folder


def write_celeba_csv(root: Path) -> Path:
    lines = [f"image_id,{','.join(ATTRIBUTE_HEADER)}"]
    lines += [f"{n},-1,{2 * blond - 1},{2 * male - 1},1" for n, blond, male, _ in FACES]
    (root / "list_attr_celeba.csv").write_text("\n".join(lines) + "\n")
    lines = ["image_id,partition", *(f"{name},{split}" for name, _, _, split in FACES)]
    (root / "list_eval_partition.csv").write_text("\n".join(lines) + "\n")
    return root


def write_celeba_text(root: Path, *, anno: str = "", evaluation: str = "") -> Path:
    for part in (anno, evaluation):
        (root / part).mkdir(parents=True, exist_ok=True)
    lines = [str(len(FACES)), " ".join(ATTRIBUTE_HEADER) + " "]
    lines += [f"{n} -1 {2 * b - 1:>2}  {2 * m - 1:>2}  1" for n, b, m, _ in FACES]
    (root / anno / "list_attr_celeba.txt").write_text("\n".join(lines) + "\n")
    lines = [f"{name} {split}" for name, _, _, split in FACES]
    (root / evaluation / "list_eval_partition.txt").write_text("\n".join(lines) + "\n")
    return root


def write_celeba_metadata(root: Path, *, name: str, header: Sequence[str], prefix: str) -> Path:
    lines = [",".join(("id", *header))]
    for number, (face, blond, male, split) in enumerate(FACES):
        fields = {"split": split, "y": blond, "place": male, "a": male}
        words = [str(fields.get(column, prefix + face)) for column in header]
        lines.append(",".join((str(number), *words)))
    (root / name).write_text("\n".join(lines) + "\n")
    return root


def name_wnid(rank: int) -> str:
    """Return the WordNet id of a class; ids sort unlike the order they are written in."""
    return f"n{1000000 + 37 * rank:08d}"


def write_imagenet_s(root: Path, *, variant: int = 50, split: str = "validation") -> Path:
    """Draw ImageNet-S with all class folders, images in those of ranks 1, 7 and `variant`."""
    base = root / f"ImageNetS{variant}"
    for rank in range(variant, 0, -1):
        (base / split / name_wnid(rank)).mkdir(parents=True)
        (base / f"{split}-segmentation" / name_wnid(rank)).mkdir(parents=True)
    for rank in (1, 7, variant):
        write_masked(base, split, rank=rank, stem=f"ILSVRC2012_val_{rank:08d}", class_id=rank)
    return base


def write_masked(base: Path, split: str, *, rank: int, stem: str, class_id: int) -> None:
    """Draw an image whose mask has its class in columns 2 to 5, ignored ones beside, other above.

    Rows 1 to 6 of 8 are the object's.
    """
    image = np.full((8, 12, 3), 60, np.uint8)
    image[1:7, 2:6] = (200, 30, 40)
    ids = np.zeros((8, 12), np.int64)
    ids[1:7, 2:6] = class_id
    ids[1:7, 6:8] = 1000
    mask = np.stack([ids % 256, ids // 256, np.zeros_like(ids)], -1).astype(np.uint8)
    Image.fromarray(image).save(base / split / name_wnid(rank) / f"{stem}.JPEG", quality=95)
    Image.fromarray(mask).save(base / f"{split}-segmentation" / name_wnid(rank) / f"{stem}.png")
