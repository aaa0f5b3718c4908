"""Data sets: splits by object and scene, realised correlation, exact masks, same bytes again."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fieldmark.core.atomic import hash_file
from fieldmark.core.errors import (
    FetchError,
    LeakageError,
    RunExistsError,
    UnknownNameError,
    UsageError,
)
from fieldmark.data.backgrounds import read_backgrounds
from fieldmark.data.datasets import DATASETS, build_dataset, check_dataset
from fieldmark.data.datasets.composites import Cutout, Recipe, Scene, build_composites
from fieldmark.data.datasets.stamps import (
    MOST_CROPS,
    TASKS,
    build_stamps,
    check_files,
    read_list,
    tile_region,
)
from fieldmark.data.foregrounds import read_foregrounds
from fieldmark.data.leakage import check_leakage
from fieldmark.data.tables import read_table

SMALL = {"size": 24, "n_objects": 5, "n_scenes": 4, "per_class": 20, "per_group": 4}


def build(folder: Path, **options) -> Path:
    return build_dataset("synthetic", folder, options={**SMALL, **options})


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    return build(tmp_path_factory.mktemp("data") / "synthetic")


def members(table, split: str, column: str) -> set[str]:
    return set(getattr(table.select(split), column))


def test_splits_share_neither_objects_nor_scenes(built):
    table = read_table(built)
    seen = members(table, "train", "objects")
    for split in ("val", "train_balanced", "test_seen"):
        assert members(table, split, "objects") <= seen
    assert not members(table, "test_unseen", "objects") & seen
    scenes = members(table, "train", "scenes") | members(table, "train_balanced", "scenes")
    for split in ("test_seen", "test_unseen"):
        assert not members(table, split, "scenes") & scenes


def test_tests_and_the_oracles_training_are_balanced(built):
    table = read_table(built)
    for split, count in (("test_seen", 4), ("test_unseen", 4), ("train_balanced", 10)):
        assert Counter(table.select(split).group_ids().tolist()) == dict.fromkeys(range(4), count)


@pytest.mark.parametrize("correlation", [0.5, 0.75, 0.95, 1.0])
def test_the_correlation_is_realised_exactly(tmp_path, correlation):
    table = read_table(build(tmp_path / "a", correlation=correlation)).select("train")
    assert table.attributes is not None
    expected = [{"fish": "land", "beetle": "water"}[table.classes[label]] for label in table.labels]
    usual = np.array([table.attribute_names[a] for a in table.attributes]) == expected
    assert usual.mean() == pytest.approx(correlation)
    assert Counter(table.labels.tolist()) == {0: 20, 1: 20}


def test_the_pools_hold_training_material_alone(built):
    table = read_table(built)
    foregrounds = read_foregrounds(built / "foregrounds")
    backgrounds = read_backgrounds(built / "backgrounds")
    assert set(foregrounds.ids) == members(table, "train", "objects")
    assert "neutral" in backgrounds.categories
    for split in ("test_seen", "test_unseen"):
        check_leakage(backgrounds, table.select(split), what="background")
    check_leakage(foregrounds, table.select("test_unseen"), what="foreground")
    with pytest.raises(LeakageError, match="foregrounds occur in it"):
        check_leakage(foregrounds, table.select("test_seen"), what="foreground")
    with pytest.raises(LeakageError, match="backgrounds occur in it"):
        check_leakage(backgrounds, table.select("train"), what="background")


def test_masks_are_the_objects(tmp_path):
    """On black scenes exactly the pixels under the mask are not black."""
    white = Image.new("RGBA", (30, 20))
    white.paste((255, 255, 255, 255), (3, 3, 27, 17))
    black = Image.new("RGB", (40, 40))
    out = build_composites(
        tmp_path / "a",
        Recipe(name="t", task="t", classes=("a", "b"), attributes=("x", "y"), size=32,
               per_class=4, per_group=2),
        cutouts=[Cutout(id=f"{k}{i}", label=k, read=white.copy) for k in "ab" for i in range(3)],
        scenes=[Scene(id=f"{k}{i}", kind=k, crops=(black.copy,)) for k in "xy" for i in range(3)],
        card={},
    )  # fmt: skip
    table = read_table(out)
    assert table.masks is not None
    for path, mask in zip(table.paths, table.masks, strict=True):
        assert mask is not None
        with Image.open(path) as image, Image.open(mask) as given:
            assert (np.asarray(image)[..., 0] == np.asarray(given)).all()
            assert np.asarray(given).max() == 255


def test_the_same_arguments_give_the_same_bytes(built, tmp_path):
    again, other = build(tmp_path / "again"), build(tmp_path / "other", seed=1)
    files = sorted(p.relative_to(built) for p in built.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(again) for p in again.rglob("*") if p.is_file())
    assert all(hash_file(built / f) == hash_file(again / f) for f in files)
    assert hash_file(built / "metadata.csv") != hash_file(other / "metadata.csv")


def test_another_correlation_keeps_the_tests(built, tmp_path):
    """Else figures at different correlations could not be compared."""
    other = build(tmp_path / "a", correlation=0.75)
    for name in ("test_seen", "test_unseen"):
        for path in sorted((built / "images" / name).iterdir()):
            assert hash_file(path) == hash_file(other / "images" / name / path.name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"correlation": 0.3}, "correlation 0.3"),
        ({"per_group": 0}, "at least 1"),
        ({"tasks": "x"}, "no option 'tasks'; known: correlation, seed"),
    ],
)
def test_impossible_options_leave_nothing_behind(tmp_path, options, message):
    with pytest.raises(UsageError, match=message):
        build(tmp_path / "a", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_full_folder_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunExistsError, match="holds other files"):
        build(tmp_path)


def test_check_names_what_is_missing(built, tmp_path):
    assert check_dataset(built, name="synthetic") == []
    assert "says that this is 'synthetic'" in check_dataset(built, name="stamps")[0]
    assert len(check_dataset(tmp_path)) == 4
    (tmp_path / "card.json").write_text(json.dumps({"name": "synthetic"}))
    assert not any("card.json" in line for line in check_dataset(tmp_path))


def test_the_list_of_stamps_is_sound():
    files = read_list()
    assert len({(f.package, f.file) for f in files}) == len(files)
    labels = Counter(f.label for f in files if f.role == "cutout")
    for task in TASKS.values():
        for group in task.classes.values():
            assert sum(labels[label] for label in group) >= 10
    scenes = Counter(f.label for f in files if f.role == "scene")
    assert min(scenes["land"], scenes["water"]) >= 12
    for file in files:
        assert bool(file.region) == (file.label in ("land", "water"))
    assert tuple(DATASETS["stamps"].choices["task"]) == tuple(TASKS)


@given(
    sides=st.tuples(st.integers(40, 900), st.integers(40, 900)),
    corner=st.tuples(st.integers(0, 60), st.integers(0, 60)),
    rows=st.integers(1, 3),
)
@settings(deadline=None, max_examples=60)
def test_crops_are_squares_inside_their_region_and_do_not_overlap(sides, corner, rows):
    box = (*corner, 100, 100)
    tiles = tile_region(sides, box=box, rows=rows)
    assert 1 <= len(tiles) <= MOST_CROPS
    for left, top, right, bottom in tiles:
        assert right - left == bottom - top > 0
        assert corner[0] * sides[0] // 100 <= left < right <= sides[0]
        assert corner[1] * sides[1] // 100 <= top < bottom <= sides[1]
    for one, other in itertools.combinations(tiles, 2):
        apart = one[0] >= other[2] or other[0] >= one[2] or one[1] >= other[3] or other[1] >= one[3]
        assert apart


def test_a_package_without_a_listed_file_is_named(tmp_path):
    files = [f for f in read_list() if f.package == "mate-backgrounds"]
    with pytest.raises(FetchError, match=r"files are not in their packages: mate-backgrounds"):
        check_files(files, {"mate-backgrounds": tmp_path})


def test_an_unknown_task_lists_the_known_ones(tmp_path):
    with pytest.raises(UnknownNameError, match="known: birds-mammals"):
        build_stamps(tmp_path / "a", task="fish")


@pytest.mark.network
def test_stamps_are_built_from_packages(tmp_path):
    out = build_stamps(tmp_path / "a", task="waterbirds", size=64, per_class=8, per_group=4)
    assert check_dataset(out, name="stamps") == []
    table = read_table(out)
    natural = table.select("test_natural")
    assert len(natural) == 12
    assert natural.attributes is None
    card = json.loads((out / "card.json").read_text())
    assert {"tuxpaint-stamps-default", "gcompris-qt-data"} <= {
        s["package"] for s in card["sources"]
    }
    assert all(len(source["sha256"]) == 64 for source in card["sources"])
    for index in range(0, len(table), 7):
        assert min(table.read(index).size) >= 64
