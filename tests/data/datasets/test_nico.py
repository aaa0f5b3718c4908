from collections import Counter

import numpy as np
import pytest
from PIL import Image

from fieldmark.core.errors import TableError, UnknownNameError, UsageError
from fieldmark.data.datasets.nico import (
    INFO,
    PAIRS,
    check_nico,
    choose_contexts,
    choose_pair,
    find_base,
    open_nico,
)
from tests.data.datasets.coco_trees import CocoTree, box_polygon, write_places

GROUPS = {"grass/car": 10, "water/truck": 5, "water/car": 3, "grass/truck": 4}
ROOTS = (
    "public_dg_0416/train",
    "track_1/public_dg_0416/train",
    "nicopp/public_dg_0416/train",
    "nico_plus_plus/track_1/public_dg_0416/train",
    "NICO_DG",
    "",
)


def write_nico(base, groups):
    for group, count in groups.items():
        folder = base / group
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(count):
            path = folder / f"{group.partition('/')[0]}_{number:06d}.jpg"
            Image.new("RGB", (8, 6), (number, 0, 0)).save(path)
    return base


def count(task):
    table = task.table
    names = table.group_names()
    return Counter(
        (split, names[group]) for split, group in zip(table.splits, table.group_ids(), strict=True)
    )


@pytest.mark.parametrize("below", ROOTS)
def test_every_root_gives_the_same_task(tmp_path, below):
    write_nico(tmp_path / below, GROUPS | {"grass/fishing rod": 2, "rock/car": 2})
    task = open_nico(tmp_path, val_share=0)
    assert count(task) == {
        ("train", "y:car_background:grass"): 8,
        ("train", "y:truck_background:water"): 4,
        ("test", "y:car_background:grass"): 2,
        ("test", "y:truck_background:water"): 1,
        ("test", "y:car_background:water"): 3,
        ("test", "y:truck_background:grass"): 4,
    }
    assert task.table.ids[0] == "grass/car/grass_000000.jpg"
    assert task.table.read(0).size == (8, 6)
    assert check_nico(tmp_path) == []


def test_what_the_task_says(tmp_path):
    write_nico(tmp_path, GROUPS)
    task = open_nico(tmp_path)
    assert task.name == task.table.name == "nico++/car-truck"
    assert task.table.classes == task.class_words == ("car", "truck")
    assert task.reject == (("grass background", "water background"),)
    assert task.accept == (("car", "truck"),)
    assert task.correlation == 1.0
    assert task.tests == ("test",)
    assert task.foregrounds is None
    assert task.backgrounds is None
    assert INFO.open is open_nico
    assert [note.partition(":")[0] for note in task.notes] == [
        "no objects to pre-train on",
        "no scenes to pre-train on",
    ]
    assert task.card["counts"]["test"]["y:car_background:water"] == 3


def test_val_is_a_part_of_train_and_as_correlated(tmp_path):
    write_nico(tmp_path, GROUPS)
    groups = count(open_nico(tmp_path, val_share=0.25))
    assert groups["val", "y:car_background:grass"] == 2
    assert groups["train", "y:car_background:grass"] == 6
    assert groups["val", "y:truck_background:water"] == 1
    assert not any(
        name in ("y:car_background:water", "y:truck_background:grass")
        for split, name in groups
        if split != "test"
    )


def test_the_seed_governs_the_split_and_val_takes_nothing_from_the_test(tmp_path):
    write_nico(tmp_path, GROUPS)

    def tested(**options):
        return open_nico(tmp_path, **options).table.select("test").ids

    assert tested(seed=1) == tested(seed=1, val_share=0.5)
    assert len({tested(seed=seed) for seed in range(6)}) > 1


def test_contexts_can_be_set_and_swapped(tmp_path):
    write_nico(tmp_path, GROUPS)
    task = open_nico(tmp_path, contexts="water,grass", val_share=0)
    assert count(task)["train", "y:truck_background:grass"] == 3
    assert task.table.attribute_names == ("water", "grass")
    assert choose_contexts(["rock", "dim"]) == ("rock", "dim")
    for contexts in ("grass", ("grass", "grass"), "a,b,c"):
        with pytest.raises(UsageError, match="name two of autumn"):
            choose_contexts(contexts)
    with pytest.raises(TableError, match="has no context 'moon'; choose among grass, water"):
        open_nico(tmp_path, contexts="grass,moon")


def test_pairs_by_all_their_names():
    assert [choose_pair(name) for name in PAIRS] == list(PAIRS.values())
    assert choose_pair("bike-motorbike") == ("bicycle", "motorcycle")
    for name in ("car-boat", "car", "car/car", "a/b/c"):
        with pytest.raises(UnknownNameError, match="ship-sailboat"):
            choose_pair(name)


@pytest.mark.parametrize("spelling", ["hot air balloon", "hot_air_balloon"])
def test_classes_with_spaces(tmp_path, spelling):
    groups = {f"{c}/{name}": 5 for c in ("grass", "water") for name in (spelling, "umbrella")}
    write_nico(tmp_path, groups)
    task = open_nico(tmp_path, pair="hot air balloon/umbrella", val_share=0)
    assert task.class_words == ("hot air balloon", "umbrella")
    assert count(task)["train", "y:hot air balloon_background:grass"] == 4
    assert task.table.ids[0] == f"grass/{spelling}/grass_000000.jpg"


def test_an_empty_group_of_the_test_is_named(tmp_path):
    write_nico(tmp_path, {"grass/car": 5, "water/truck": 5, "water/car": 0})
    line = "split test has no image of y:car_background:water, y:truck_background:grass"
    assert line in open_nico(tmp_path).notes
    assert check_nico(tmp_path) == [line]


def test_a_missing_class_or_training_group_is_an_error(tmp_path):
    write_nico(tmp_path, {"grass/car": 5, "water/car": 5, "grass/truck": 5})
    with pytest.raises(TableError, match="no image of truck in water, which it is to be trained"):
        open_nico(tmp_path)
    with pytest.raises(TableError, match="no class 'bus' in grass or water; choose among car, tr"):
        open_nico(tmp_path, pair="car-bus")
    assert "no class 'ship'" in check_nico(tmp_path, pair="ship-sailboat")[0]


def test_no_nico_and_track_2(tmp_path):
    with pytest.raises(TableError, match="has no folder of contexts"):
        find_base(tmp_path)
    (tmp_path / "public_ood_0412_nodomainlabel" / "train" / "car").mkdir(parents=True)
    assert "holds track 2" in check_nico(tmp_path)[0]


def test_files_of_the_official_lists_that_are_missing(tmp_path):
    base = write_nico(tmp_path / "NICO_DG", GROUPS)
    lists = tmp_path / "NICO_DG_official"
    lists.mkdir()
    lines = [f"/data/NICO/grass/car/grass_{number:06d}.jpg 7" for number in range(22)]
    (lists / "grass_train.txt").write_text("\n".join([*lines, "grass/fishing rod/absent.jpg 1"]))
    (lists / "water_test.txt").write_text("water/truck/water_000000.jpg 9\n\n")
    (line,) = check_nico(tmp_path)
    assert line.startswith(f"{base}: 12 files are missing: grass/car/grass_000010.jpg, ")
    assert line.endswith("and 2 more")
    (lists / "water_test.txt").write_text("truck 9\n")
    assert "water_test.txt, row 1: 'truck 9' is no path and label" in check_nico(tmp_path)[0]


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "secret.jpg")
    base = write_nico(tmp_path / "nico", GROUPS)
    (base / "grass" / "car" / "grass_000099.jpg").symlink_to(tmp_path / "secret.jpg")
    with pytest.raises(TableError, match="leads outside"):
        open_nico(base)


def test_pools_to_pretrain_on(tmp_path):
    write_nico(tmp_path / "nico", GROUPS)
    tree = CocoTree(tmp_path / "coco")
    image = tree.add_image(np.zeros((30, 30, 3), np.uint8))
    tree.add_object(image, "boat", box_polygon(0, 0, 30, 30), box=(0, 0, 30, 30))
    tree.write()
    write_places(tmp_path / "places", {"alley": 2, "sky": 1})
    textures = tmp_path / "dtd" / "images" / "banded"
    textures.mkdir(parents=True)
    Image.new("RGB", (5, 5), "red").save(textures / "banded_0001.jpg")
    options = {name: tmp_path / name for name in ("coco", "places", "dtd")}
    task = open_nico(tmp_path / "nico", **options)
    assert task.notes == ()
    assert task.foregrounds is not None
    assert len(task.foregrounds) == 1
    assert task.backgrounds is not None
    assert task.backgrounds.categories == ("alley", "sky", "banded")
    assert task.backgrounds.category_ids.tolist() == [0, 0, 1, 2]
    assert task.backgrounds.ids[0] == "places365/a/alley/0000.png"
    assert task.backgrounds.root == tmp_path.resolve()
    assert np.asarray(task.backgrounds.read(3))[2, 2, 0] > 200
