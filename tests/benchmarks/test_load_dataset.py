"""`fieldmark.load_dataset`: every data set by name, tables, folders, other libraries."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import fieldmark
from fieldmark import load_dataset
from fieldmark.benchmarks.sources import open_table, open_task
from fieldmark.core.errors import TableError, UnknownNameError, UsageError
from fieldmark.data.datasets import DATASETS, build_dataset
from tests.data.datasets.animal_trees import (
    write_celeba_csv,
    write_counteranimal,
    write_faces,
    write_imagenet_s,
    write_unmixed,
)
from tests.data.datasets.bird_trees import draw_cub, draw_dtd, draw_places, draw_waterbirds
from tests.data.datasets.test_coco import draw_vehicles
from tests.data.external.pictures import draw, pack, same, write_tar

SMALL = {"size": 16, "n_objects": 4, "n_scenes": 3, "per_class": 8, "per_group": 2}
IMPORT = "import sys, fieldmark; print([m for m in sys.modules if m.split('.')[0] in {heavy}])"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def write_built(root, name):
    """A built folder stands for those data sets that only building gives."""
    build_dataset("synthetic", root, options=SMALL)
    card = json.loads((root / "card.json").read_text())
    (root / "card.json").write_text(json.dumps({**card, "name": name}))


def write_celeba(root):
    write_faces(root / "img_align_celeba")
    write_celeba_csv(root)


def write_nico(root):
    for name in ("car", "truck"):
        for context in ("autumn", "water", "grass", "rock", "dim", "outdoor"):
            (root / context / name).mkdir(parents=True)
            Image.new("RGB", (8, 6)).save(root / context / name / f"{context}_000000.jpg")


TREES = {
    "stamps": lambda root: write_built(root, "stamps"),
    "gcompris": lambda root: write_built(root, "gcompris"),
    "synthetic": lambda root: write_built(root, "synthetic"),
    "coco-gender": lambda root: write_built(root, "coco-gender"),
    "waterbirds": draw_waterbirds,
    "counteranimal": write_counteranimal,
    "nico++": write_nico,
    "metashift": write_unmixed,
    "celeba": write_celeba,
    "cub": draw_cub,
    "coco": draw_vehicles,
    "imagenet-s": write_imagenet_s,
    "places365": draw_places,
    "dtd": draw_dtd,
}


@pytest.mark.parametrize("name", sorted(DATASETS))
def test_every_data_set_of_the_list(tmp_path, name):
    TREES[name](tmp_path / "data")
    options = {"variant": 50} if name == "imagenet-s" else None
    dataset = load_dataset(name, root=tmp_path / "data", options=options)
    assert len(dataset) > 0
    image, y, metadata = dataset[0]
    assert isinstance(image, Image.Image)
    assert image.mode == ("RGBA" if DATASETS[name].kind == "foregrounds" else "RGB")
    assert 0 <= int(y) < dataset.n_classes == len(dataset.classes)
    assert metadata.shape == (len(dataset.metadata_fields),)
    assert dataset.metadata_fields[-1] == "y"
    assert torch.equal(dataset.metadata_array[:, -1], dataset.y_array)
    if DATASETS[name].kind == "task":
        assert dataset.metadata_fields == ["background", "y"]
        assert len(dataset.get_subset("train")) > 0


def test_what_is_built_is_built_once_in_the_cache(cache):
    train = load_dataset("synthetic", split="train", download=True, options=SMALL)
    assert len(train) == 16
    [folder] = (cache / "datasets").iterdir()
    stamp = (folder / "metadata.csv").stat().st_mtime_ns
    load_dataset("synthetic", download=True, options=SMALL)
    assert (folder / "metadata.csv").stat().st_mtime_ns == stamp


def test_a_root_that_is_there_is_not_built_over(tmp_path):
    load_dataset("synthetic", root=tmp_path / "s", download=True, options=SMALL)
    stamp = (tmp_path / "s" / "metadata.csv").stat().st_mtime_ns
    again = load_dataset("synthetic", root=str(tmp_path / "s"), download=True, options=SMALL)
    assert (tmp_path / "s" / "metadata.csv").stat().st_mtime_ns == stamp
    assert len(again) == len(open_table("synthetic", root=tmp_path / "s"))


@pytest.mark.parametrize(
    ("words", "kind", "message"),
    [
        (("synthetic",), UsageError, "needs root=; or download=True to have it built once"),
        (("waterbirds",), UsageError, "needs root=; `fieldmark data info waterbirds`"),
        (("syntetic",), UnknownNameError, "did you mean synthetic"),
    ],
)
def test_what_cannot_be_loaded_says_how(words, kind, message):
    with pytest.raises(kind, match=message):
        load_dataset(*words)


def test_nothing_published_is_downloaded(tmp_path):
    with pytest.raises(UsageError, match="fieldmark downloads no published data, celeba neither"):
        load_dataset("celeba", root=tmp_path, download=True)


def test_tables_folders_and_other_libraries(tmp_path):
    (tmp_path / "f" / "test" / "x").mkdir(parents=True)
    draw(0).save(tmp_path / "f" / "test" / "x" / "a.png")
    folder = load_dataset(tmp_path / "f", split="test", transform=np.asarray)
    assert np.array_equal(folder[0][0], np.asarray(draw(0)))
    write_tar(tmp_path / "test" / "0.tar", [("a.png", pack(draw(1))), ("a.cls", b"wren")])
    shards = load_dataset("wds:test/*.tar", root=tmp_path)
    assert (shards.classes, shards.split_array.tolist()) == (["wren"], [2])
    assert same(shards[0][0], draw(1))
    task = open_task("wds:test/*.tar", root=tmp_path)
    assert (task.tests, task.class_words) == (("test",), ("wren",))
    with pytest.raises(UsageError, match="it has no option 'seed'"):
        open_task("wds:test/*.tar", root=tmp_path, options={"seed": 1})
    with pytest.raises(UsageError, match="it has no option 'seed'"):
        load_dataset(tmp_path / "f", options={"seed": 1})
    with pytest.raises(TableError, match="has no split 'train'"):
        load_dataset(tmp_path / "f", split="train")


def test_the_public_names_are_these():
    assert dir(fieldmark) == sorted(fieldmark.__all__)
    assert set(fieldmark.__all__) == {
        "__version__", "from_hf_dataset", "from_torchvision", "from_webdataset",
        "load_dataset", "load_encoder", "read_table",
    }  # fmt: skip
    assert all(callable(getattr(fieldmark, name)) for name in dir(fieldmark) if name[0] != "_")
    with pytest.raises(AttributeError, match="has no attribute 'load_datasets'"):
        fieldmark.load_datasets  # noqa: B018


def test_the_package_loads_nothing_heavy():
    heavy = {"torch", "numpy", "PIL", "datasets", "torchvision", "webdataset"}
    code = IMPORT.replace("{heavy}", repr(heavy))
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
