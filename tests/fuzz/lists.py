"""Readers of the lists that published data sets come with, and of WordNet's database.

Each data set stands there whole, with images of a few pixels, and one of its lists is damaged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

from fieldmark.benchmarks.covar.candidates import choose_candidates
from fieldmark.data import wordnet
from fieldmark.data.datasets.celeba import check_celeba, open_celeba
from fieldmark.data.datasets.counteranimal import open_counteranimal
from fieldmark.data.datasets.cub import check_cub, open_cub
from fieldmark.data.datasets.dtd import open_dtd
from fieldmark.data.datasets.imagenet_s import check_imagenet_s, open_imagenet_s
from fieldmark.data.datasets.nico import check_nico
from fieldmark.data.datasets.places365 import check_places365, open_places365
from fieldmark.data.datasets.waterbirds import check_waterbirds, open_waterbirds
from tests.fuzz.mutate import damage_text
from tests.fuzz.objects import make_reader
from tests.fuzz.run import Reader

BIRDS = ("001.Black_footed_Albatross/a.jpg", "002.Cardinal/b.jpg")
CELEBA = "img_align_celeba"
IDS = [f"n{number:08d}" for number in range(50)]
WORDNET = {
    "data.noun": (
        b"  1 This is the licence\n"
        b"00000001 03 n 01 entity 0 000 | that which is\n"
        b"00000002 03 n 02 animal 0 beast 0 001 @ 00000001 n 0000 | it lives\n"
        b"00000003 05 n 01 cat 0 002 @ 00000002 n 0000 @i 00000001 n 0000 | it purrs\n"
    ),
    "index.noun": (
        b"  1 This is the licence\n"
        b"entity n 1 0 1 1 00000001\nanimal n 1 1 @ 1 1 00000002\nbeast n 1 1 @ 1 0 00000002\n"
        b"cat n 2 1 @ 2 1 00000003 00000002\n"
    ),
    "noun.exc": b"oxen ox\nbeastes beast animal\n",
}


def put(path: Path, content: bytes | None = None) -> None:
    """Write a file below folders that are made; an image of a few pixels by default."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if content is None:
        Image.new("RGB", (9, 8), (1, 0, 0)).save(path)
    else:
        path.write_bytes(content)


def _prepare(folder: Path, *, images: Sequence[str], lists: dict[str, bytes]) -> None:
    for name in images:
        put(folder / name)
    for name, content in lists.items():
        put(folder / name, content)


def _read_folder(path: Path, *, up: int, ways: Sequence[Callable[[Path], object]]) -> None:
    for read in ways:
        read(path.parents[up])


def _list_data_set(
    title: str,
    *ways: Callable[[Path], object],
    images: Sequence[str],
    lists: dict[str, bytes],
    share: float = 0.7,
) -> list[Reader]:
    """Return a reader for each list; `ways` are given the folder of the data set."""
    prepare = functools.partial(_prepare, images=images, lists=lists)
    return [
        make_reader(
            f"{title} {Path(name).name}",
            name,
            [content],
            functools.partial(_read_folder, up=name.count("/"), ways=ways),
            prepare=prepare,
            damage=damage_text,
            share=share,
        )
        for name, content in lists.items()
    ]


def _list_birds() -> list[Reader]:
    masks = [f"CUB_200_2011/segmentations/{bird[:-4]}.png" for bird in BIRDS]
    lists = {
        "CUB_200_2011/images.txt": "".join(f"{n} {b}\n" for n, b in enumerate(BIRDS, 1)).encode(),
        "CUB_200_2011/train_test_split.txt": b"1 1\n2 0\n",
    }
    images = [*(f"CUB_200_2011/images/{bird}" for bird in BIRDS), *masks]
    table = (
        "img_id,img_filename,y,split,place,place_filename\n"
        f"1,{BIRDS[0]},1,0,0,/f/forest/1.jpg\n2,{BIRDS[1]},0,2,1,/o/ocean/2.jpg\n"
    )
    return [
        *_list_data_set("CUB", open_cub, check_cub, images=images, lists=lists),
        *_list_data_set(
            "Waterbirds",
            open_waterbirds,
            check_waterbirds,
            images=BIRDS,
            lists={"metadata.csv": table.encode()},
        ),
    ]


def _list_celeba() -> list[Reader]:
    images = [f"{CELEBA}/000001.jpg", f"{CELEBA}/000002.jpg"]
    texts = {
        "list_attr_celeba.txt": b"2\nBlond_Hair Male\n000001.jpg -1  1\n000002.jpg  1 -1\n",
        "list_eval_partition.txt": b"000001.jpg 0\n000002.jpg 2\n",
    }
    tables = {
        "list_attr_celeba.csv": b"image_id,Blond_Hair,Male\n000001.jpg,-1,1\n000002.jpg,1,-1\n",
        "list_eval_partition.csv": b"image_id,partition\n000001.jpg,0\n000002.jpg,2\n",
    }
    return [
        reader
        for lists in (texts, tables)
        for reader in _list_data_set(
            "CelebA", open_celeba, check_celeba, images=images, lists=lists
        )
    ]


def _list_scenes() -> list[Reader]:
    places = {
        "categories_places365.txt": b"/a/airfield 0\n/w/waterfall/block 1\n",
        "places365_val.txt": b"Places365_val_00000001.jpg 1\nPlaces365_val_00000002.jpg 0\n",
    }
    split = functools.partial(open_places365, split="val", categories="all")
    return [
        *_list_data_set(
            "DTD",
            functools.partial(open_dtd, split="train"),
            images=["dtd/images/banded/a.jpg", "dtd/images/dotted/b.jpg"],
            lists={"dtd/labels/train1.txt": b"banded/a.jpg\ndotted/b.jpg\n"},
        ),
        *_list_data_set(
            "Places365",
            split,
            functools.partial(check_places365, split="val"),
            images=[f"val_256/Places365_val_0000000{number}.jpg" for number in (1, 2)],
            lists=places,
        ),
    ]


def _list_animals() -> list[Reader]:
    groups = ("grass/car", "grass/truck", "water/car", "water/truck")
    nico = [f"NICO_DG/{group}/{name}.jpg" for group in groups for name in "abcde"]
    sizes = functools.partial(open_imagenet_s, variant="50")
    return [
        *_list_data_set(
            "CounterAnimal",
            functools.partial(open_counteranimal, pair="all", candidates="imagenet"),
            images=["81 ptarmigan/common-snow/a.jpg", "83 grouse/counter-grass/b.jpg"],
            lists={"imagenet_names.txt": b"81\tptarmigan, snow hen\n83\tgrouse\n84\tpeacock\n"},
        ),
        *_list_data_set(
            "ImageNet-S",
            sizes,
            functools.partial(check_imagenet_s, variant="50"),
            images=[
                f"ImageNetS50/validation/{IDS[0]}/a.JPEG",
                f"ImageNetS50/validation-segmentation/{IDS[0]}/a.png",
            ],
            lists={"ImageNetS_categories_im50.txt": "\n".join(IDS).encode()},
            share=0.4,
        ),
        *_list_data_set(
            "NICO++",
            functools.partial(check_nico, contexts="grass,water"),
            images=nico,
            lists={
                "NICO_DG_official/grass_train.txt": b"/data/grass/car/a.jpg 0\n"
                b"NICO_DG/grass/truck/b.jpg 1\n"
            },
            share=0.4,
        ),
    ]


def _read_wordnet(folder: Path) -> None:
    wordnet.read_wordnet.cache_clear()
    held = wordnet.read_wordnet(folder)
    wordnet.compare_names(held, ["cats", "oxen", "animal", "n00000003"])
    for synset in list(held.parents)[:5]:
        wordnet.trace_hypernyms(held, synset)


def _read_candidates(path: Path) -> None:
    choose_candidates(str(path), ["cat", "dog"])


def list_readers() -> list[Reader]:
    """Return the readers of lists."""
    names = [b"cat\ndog\n\nice bear\n", b"cat\r\ndog\r\n"]
    return [
        *_list_birds(),
        *_list_celeba(),
        *_list_scenes(),
        *_list_animals(),
        *_list_data_set("WordNet", _read_wordnet, images=[], lists=WORDNET),
        make_reader("COVAR candidates", "names.txt", names, _read_candidates, damage=damage_text),
    ]
