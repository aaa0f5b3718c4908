"""CounterAnimal: prefixes alone, smart crop by hand, correlated training and swapped tests."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fieldmark.core.errors import RunExistsError, TableError, UnknownNameError, UsageError
from fieldmark.data.datasets.counteranimal import (
    PAIRS,
    build_counteranimal,
    check_counteranimal,
    open_counteranimal,
    smart_crop,
)
from fieldmark.data.tables import read_table
from tests.data.datasets.animal_trees import write_counteranimal, write_imagenet_names

PAIR = "ptarmigan-prairie-chicken"


@given(width=st.integers(1, 400), height=st.integers(1, 400))
def test_a_crop_takes_fifty_pixels_off_both_ends_of_the_longer_side(width, height):
    image = Image.new("RGB", (width, height), "white")
    # One black line at each end of what must be left.
    pixels = np.array(image)
    if width > height and width > 100:
        pixels[:, [50, width - 51]] = 0
        expected = (width - 100, height)
    elif height > width and height > 100:
        pixels[[50, height - 51], :] = 0
        expected = (width, height - 100)
    else:
        expected = (width, height)
    cropped = smart_crop(Image.fromarray(pixels))
    assert cropped.size == expected
    left = np.asarray(cropped)
    if expected != (width, height):
        line = left if width > height else left.swapaxes(0, 1)
        assert (line[:, [0, -1]] == 0).all()
        assert (line[:, 1:-1] == 255).all()


def test_training_is_correlated_and_the_test_has_what_is_kept_back_and_the_swaps(tmp_path):
    task = open_counteranimal(write_counteranimal(tmp_path), pair=PAIR)
    table = task.table
    assert task.name == "counteranimal/ptarmigan-prairie-chicken"
    assert table.classes == ("ptarmigan", "prairie chicken") == task.class_words
    assert table.attribute_names == ("snow", "grass")
    groups = {split: Counter(table.select(split).group_ids().tolist()) for split in ("train",)}
    # 10 ptarmigans on snow and 5 prairie chickens on grass, a fifth of each kept back.
    assert groups["train"] == {0: 8, 3: 4}
    assert Counter(table.select("test").group_ids().tolist()) == {0: 2, 1: 4, 2: 3, 3: 1}
    for name, group in zip(table.ids, table.group_ids().tolist(), strict=True):
        folder = name.split("/")[1]
        assert folder == {0: "common-snow", 1: "counter-grass", 2: "counter-snow"}.get(
            group, "common-grass"
        )
    assert task.reject == (("snow background", "grass background"),)
    assert task.accept == (("ptarmigan", "prairie chicken"),)
    assert task.correlation == 1.0
    assert task.foregrounds is None
    assert any("photographs are whole" in note for note in task.notes)


def test_the_seed_governs_what_is_kept_back_and_nothing_else(tmp_path):
    root = write_counteranimal(tmp_path)
    splits = [open_counteranimal(root, pair=PAIR, seed=seed).table for seed in range(10)]
    kept = [tuple(t.select("test").ids) for t in splits]
    assert len(set(kept)) > 3
    assert all(len(ids) == len(kept[0]) for ids in kept)
    assert open_counteranimal(root, pair=PAIR, seed=3).table.splits == splits[3].splits
    with_val = open_counteranimal(root, pair=PAIR, val_share=0.25).table
    assert Counter(with_val.splits) == {"train": 9, "val": 3, "test": 10}
    assert set(with_val.select("val").group_ids().tolist()) == {0, 3}


@pytest.mark.parametrize(
    "names",
    [
        # Backgrounds that are not the other class's, class names for suffixes, no suffix at all.
        ("10 brambling/common-grass", "10 brambling/counter-sky",
         "16 bulbul/common-sky", "16 bulbul/counter-tree"),
        ("10 brambling/common-brambling", "10 brambling/counter-brambling",
         "16 bulbul/Common-bulbul", "16 bulbul/counter_bulbul"),
        ("10 brambling/common", "10 brambling/counter", "16 bulbul/common", "16 bulbul/counter"),
    ],
)  # fmt: skip
def test_only_the_prefix_says_which_context_it_is(tmp_path, names):
    root = write_counteranimal(tmp_path, dict(zip(names, (5, 2, 5, 3), strict=True)))
    task = open_counteranimal(root / "LAION-final", pair="brambling-bulbul")
    assert Counter(task.table.group_ids().tolist()) == {0: 5, 1: 2, 2: 3, 3: 5}
    assert task.table.attribute_names == ("of brambling", "of bulbul")
    assert task.reject == ()
    assert "not swapped pairwise" in task.notes[0]


def test_all_classes_are_a_zero_shot_test(tmp_path):
    folders = {
        "81 ptarmigan/common-snow": 2,
        "81 ptarmigan/counter-grass": 1,
        "134 crane/common-water": 1,
        "134 crane/counter-grass": 2,
    }
    root = write_counteranimal(tmp_path, folders)
    task = open_counteranimal(root, pair="all")
    assert task.table.classes == ("ptarmigan", "crane")
    assert task.table.attribute_names == ("common", "counter")
    assert set(task.table.splits or ()) == {"test"}
    assert Counter(task.table.group_ids().tolist()) == {0: 2, 1: 1, 2: 1, 3: 2}
    with pytest.raises(TableError, match=r"imagenet_names\.txt: is missing"):
        open_counteranimal(root, pair="all", candidates="imagenet")
    write_imagenet_names(root / "imagenet_names.txt")
    wide = open_counteranimal(root, pair="all", candidates="imagenet")
    assert len(wide.table.classes) == len(set(wide.table.classes)) == 1000
    assert wide.class_words[134] == wide.class_words[517] == "crane"
    assert {wide.class_words[label] for label in wide.table.labels} == {"ptarmigan", "crane"}
    (root / "imagenet_names.txt").write_text("0\ttench\n1 goldfish\n")
    with pytest.raises(TableError, match=r"row 2: '1 goldfish' is not an index, a tab and names"):
        open_counteranimal(root, pair="all", candidates="imagenet")


def test_a_build_crops_and_keeps_splits_and_ids(tmp_path):
    root = write_counteranimal(tmp_path / "published")
    out = build_counteranimal(tmp_path / "out", root=root, pair=PAIR, seed=4)
    published = open_counteranimal(root, pair=PAIR, seed=4)
    built = open_counteranimal(out)
    assert built.table.ids == published.table.ids
    assert built.table.splits == published.table.splits
    assert built.notes == ()
    for index in range(len(built.table)):
        assert built.table.read(index).size == (30, 110)
        whole = np.asarray(published.table.read(index))
        assert (np.asarray(built.table.read(index)) == whole[:, 50:-50]).all()
    other = open_counteranimal(root, pair=PAIR, seed=5)
    assert open_counteranimal(out, seed=5).table.splits == other.table.splits
    plain = read_table(out)
    assert Counter(plain.splits) == Counter(published.table.splits)
    card = json.loads((out / "card.json").read_text())
    assert (card["pair"], card["seed"], card["crop"]) == (PAIR, 4, "smart")
    assert card["counts"]["train"]["y:ptarmigan_background:snow"] == 8
    with pytest.raises(RunExistsError):
        build_counteranimal(out, root=root, pair=PAIR)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(TableError, match="has no class folders such as"):
        open_counteranimal(tmp_path)
    root = write_counteranimal(tmp_path, {"81 ptarmigan/common-snow": 2})
    message = r"class 81, counter-\*; class 83, common-\*; class 83, counter-\*"
    with pytest.raises(TableError, match=message):
        open_counteranimal(root, pair=PAIR)
    assert "no photographs" in check_counteranimal(root, pair=PAIR)[0]
    with pytest.raises(UnknownNameError, match="known: all, brambling-bulbul"):
        open_counteranimal(root, pair="brambling")
    with pytest.raises(UsageError, match="candidates 'few'"):
        open_counteranimal(root, pair="all", candidates="few")


def test_check_names_unreadable_photographs_and_links_that_lead_out(tmp_path):
    root = write_counteranimal(tmp_path / "a")
    assert check_counteranimal(root) == []
    (root / "LAION-final/81 ptarmigan/common-snow/000.jpg").write_bytes(b"no image")
    assert "000.jpg" in check_counteranimal(root)[0]
    outside = tmp_path / "outside.jpg"
    Image.new("RGB", (5, 5)).save(outside)
    (root / "LAION-final/81 ptarmigan/common-snow/link.jpg").symlink_to(outside)
    assert "leads outside" in check_counteranimal(root)[0]


def test_the_pairs_of_the_paper_are_there():
    assert set(PAIRS) == {"brambling-bulbul", PAIR}
