"""Readers of JSON and YAML, and whole files to damage."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from fieldmark.cli.settings import read_settings
from fieldmark.core.json_text import parse_json
from fieldmark.core.records import read_rows, read_run
from fieldmark.data.coco import draw_segmentation
from fieldmark.data.controlled.coco_split import read_split
from fieldmark.data.covar.manifest import check_covar, open_covar, read_journal, read_pending
from fieldmark.data.datasets.built import check_built, find_name, open_built
from fieldmark.data.datasets.coco import read_licences
from fieldmark.data.foregrounds import read_foregrounds
from fieldmark.data.tables import read_table
from fieldmark.discovery.region_files import read_coco_regions
from fieldmark.methods.bap.config import BapConfig
from fieldmark.methods.checkpoints import read_losses
from fieldmark.report.parts import read_parts
from fieldmark.testing import FakeEncoder
from tests.fuzz.mutate import Damage, damage_json, damage_json_lines, damage_text
from tests.fuzz.run import Reader
from tests.fuzz.tables import COVAR, prepare_images

POLYGON = [[1.0, 1.0, 6.0, 1.0, 6.0, 5.0, 1.0, 5.0]]
COCO: dict[str, Any] = {
    "images": [
        {"id": 1, "file_name": "a.png", "width": 9, "height": 8, "license": 1},
        {"id": 2, "file_name": "b.png", "width": 9, "height": 8, "license": None},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 3, "bbox": [1, 1, 5, 4], "iscrowd": 0,
         "segmentation": POLYGON},
        {"id": 2, "image_id": 2, "category_id": 4, "bbox": [0, 0, 9, 8], "iscrowd": 0,
         "segmentation": {"size": [8, 9], "counts": [8, 16, 48]}},
        {"id": 3, "image_id": 2, "category_id": 4, "bbox": [0, 0, 9, 8], "iscrowd": 0,
         "segmentation": {"size": [8, 9], "counts": "8`0`1"}},
        {"id": 4, "image_id": 2, "category_id": 4, "bbox": [0, 0, 9, 8], "iscrowd": 1,
         "segmentation": {"size": [8, 9], "counts": [72]}},
    ],
    "categories": [{"id": 3, "name": "bird"}, {"id": 4, "name": "cat"}],
    "licenses": [{"id": 1, "name": "CC BY", "url": "https://example.org"}],
}  # fmt: skip
CAPTIONS = {
    "annotations": [
        {"id": 7, "image_id": 1, "caption": "A bird on  a lake."},
        {"id": 8, "image_id": 2, "caption": "Two cats."},
    ]
}
CARD = {
    "name": "mine", "classes": ["bird", "cat"], "class_words": ["a bird", "a cat"],
    "attributes": ["land", "water"], "templates": "default", "reject": [["land", "water"]],
    "accept": [["bird", "cat"]], "correlation": 0.9, "notes": ["a note"], "licences": ["CC0"],
}  # fmt: skip
INFO = {
    "kind": "covar",
    "subsets": ["rotation"],
    "classes": ["bird", "cat"],
    "counts": {"rotation": 1},
}
RUN = {
    "schema": 1, "verb": "embed", "key": "0" * 64, "arguments": {"model": "m"}, "seeds": [0],
    "data": {}, "weights": {}, "notes": {}, "versions": {"python": "3.11"}, "commit": None,
    "dirty": None, "started": "2026-01-01T00:00:00Z", "seconds": 1.5,
}  # fmt: skip
ROW = {
    "suite": "demo", "dataset": "stamps", "split": "test", "encoder": "m", "method": "bap",
    "head": "zero-shot", "setting": "", "correlation": 1.0, "metric": "acc_wg", "group": None,
    "seed": 0, "value": 0.5, "ci_low": None, "ci_high": 0.7, "count": 12,
}  # fmt: skip
LOSS = {"method": "bap", "step": 10, "epoch": 0, "loss": 0.31, "learning_rate": 2e-6, "seed": 0}
STEP = {"step": 0, "epoch": 0, "loss": 0.5, "learning_rate": 0.1}
JOURNALLED = ["1", "a.png", "bird", "x", "m.png", "o", "s", "rotation", "0", "1", "0", "{}"]
WORDS = (b"contexts=16", b"learning_rate=1e-6", b"scale=[0.5, 0.7]")
SEGMENTATIONS: tuple[Any, ...] = (
    POLYGON, [*POLYGON, [0, 0, 3, 0, 3, 3]], {"size": [8, 9], "counts": [8, 16, 48]},
    {"size": [8, 9], "counts": "8`0`1"}, {"size": [8, 9], "counts": [72]},
)  # fmt: skip
POINT = {"x": 0.1, "y": 2.0, "label": "bird", "attribute": "land", "split": "test"}
PICTURE = {"image": "thumbs/3.png", "label": "bird", "attribute": "land", "similarity": 0.8}
PARTS: dict[str, Any] = {
    "composites.json": {"a.png": "a bird"},
    "map.json": [{"encoder": "before", "points": [POINT, POINT]}],
    "neighbours.json": [{"query": PICTURE, "before": [PICTURE], "after": []}],
    "summary.json": {"title": "t", "lead": "l", "sentences": ["s"], "rare_groups": ["g"]},
    "card.json": CARD,
}
SETTINGS = (
    b"contexts: 16\nepochs: 2\nscale: [0.5, 0.7]\n# remark\nlearning_rate: 1e-6\n",
    b'{"contexts": 16, "epochs": 3}\n',
    b"contexts: &a [1, 2]\nepochs: *a\n",
)
MetaInput = Callable[[Path], object]


def _prepare_coco(folder: Path) -> None:
    prepare_images(folder)
    (folder / "annotations").mkdir()
    (folder / "val2017").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("RGB", (9, 8)).save(folder / "val2017" / name)
    annotations = folder / "annotations"
    (annotations / "instances_val2017.json").write_text(json.dumps(COCO))
    (annotations / "captions_val2017.json").write_text(json.dumps(CAPTIONS))


def _prepare_built(folder: Path) -> None:
    prepare_images(folder)
    text = "path,label,place,split\na.png,bird,land,train\nb.png,cat,water,test\n"
    (folder / "metadata.csv").write_text(text)


def _prepare_covar(folder: Path) -> None:
    prepare_images(folder)
    (folder / "covar.csv").write_bytes(COVAR[0])


def _read_coco(source: Path) -> None:
    objects = read_foregrounds(source)
    for index in range(min(len(objects), 4)):
        objects.read(index)


def _read_coco_regions(source: Path) -> None:
    images = read_table(source.parent / "images.csv")
    read_coco_regions(source, images, spec=FakeEncoder().spec)


def _read_segmentation(source: Path) -> None:
    try:
        segmentation = parse_json(source.read_text(encoding="utf-8"))
    except ValueError:
        return
    mask = draw_segmentation(segmentation, size=(8, 9))
    assert mask.shape == (8, 9)
    assert set(mask.ravel().tolist()) <= {0, 255}


def _read_card(source: Path) -> None:
    find_name(source.parent)
    check_built(source.parent)
    open_built(source.parent)


def _read_info(source: Path) -> None:
    check_covar(source.parent)
    open_covar(source.parent)


def _read_settings(source: Path) -> None:
    read_settings(BapConfig(), file=source, given=[])


def _read_words(source: Path) -> None:
    text = source.read_bytes().decode("utf-8", "surrogateescape")
    read_settings(BapConfig(), file=None, given=[text])


def _write_and_read(content: bytes, folder: Path, *, name: str, read: MetaInput) -> None:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(content)
    read(folder / name)


def make_reader(
    title: str,
    file: str,
    seeds: Sequence[Any],
    read: MetaInput,
    *,
    prepare: MetaInput = prepare_images,
    damage: Damage = damage_json,
    share: float = 1.0,
) -> Reader:
    """Return the reader of one file, whose name is below the folder that `prepare` fills."""
    held = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in seeds]
    return Reader(
        name=title,
        seeds=held,
        read=functools.partial(_write_and_read, name=file, read=read),
        damage=damage,
        prepare=prepare,
        share=share,
    )


def _read_parent(source: Path, *, read: MetaInput) -> None:
    read(source.parent)


def _list_coco() -> list[Reader]:
    read = {
        "COCO objects": ("c.json", [COCO], _read_coco),
        "COCO regions": ("c.json", [COCO], _read_coco_regions),
        "COCO licences": ("c.json", [COCO], lambda p: read_licences(p, files=["a.png"])),
    }
    readers = [make_reader(name, *words, share=2) for name, words in read.items()]
    for name, seed in (("instances", COCO), ("captions", CAPTIONS)):
        readers.append(
            make_reader(
                f"COCO {name} of a split",
                f"annotations/{name}_val2017.json",
                [seed],
                lambda path: read_split(path.parent.parent, split="val2017"),
                prepare=_prepare_coco,
            )
        )
    return readers


def list_readers() -> list[Reader]:
    """Return the readers of JSON and YAML."""
    readers = [
        *_list_coco(),
        make_reader("segmentation", "s.json", SEGMENTATIONS, _read_segmentation, share=3),
        make_reader("card.json", "card.json", [CARD], _read_card, prepare=_prepare_built),
        make_reader("info.json", "info.json", [INFO], _read_info, prepare=_prepare_covar),
        make_reader("build.json", "build.json", [INFO], lambda path: read_pending(path.parent)),
        make_reader("run.json", "run.json", [RUN], lambda p: read_run(p.parent)),
        make_reader("settings YAML", "s.yaml", SETTINGS, _read_settings, damage=damage_text),
        make_reader("--set words", "words", WORDS, _read_words, damage=damage_text, share=2),
    ]
    for title, file, lines, read in (
        ("rows.jsonl", "rows.jsonl", [JOURNALLED], read_journal),
        ("results.jsonl", "results.jsonl", [ROW, ROW], read_rows),
        ("training loss.jsonl", "loss.jsonl", [STEP, {**STEP, "step": 1}], read_losses),
        ("page loss.jsonl", "loss.jsonl", [LOSS, LOSS], read_parts),
    ):
        seed = "".join(json.dumps(line) + "\n" for line in lines).encode()
        run = functools.partial(_read_parent, read=read)
        readers.append(make_reader(title, file, [seed], run, damage=damage_json_lines))
    for name, seed in PARTS.items():
        readers.append(
            make_reader(f"page {name}", name, [seed], lambda path: read_parts(path.parent))
        )
    return readers
