"""Data sets by name, options told and refused, and folders that were built."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

from fieldmark.core.errors import FieldmarkError, RunExistsError, TableError, UsageError
from fieldmark.data.datasets import (
    DATASETS,
    build_dataset,
    check_dataset,
    find_dataset,
    find_recipe,
    open_dataset,
)
from fieldmark.data.datasets.built import (
    building,
    check_built,
    describe_empty_groups,
    open_built,
    pair_up,
    write_rows,
)
from fieldmark.data.tables import read_table
from fieldmark.data.tasks import Task
from tests.data.datasets.animal_trees import write_counteranimal, write_image

SMALL = {"size": 16, "n_objects": 4, "n_scenes": 3, "per_class": 8, "per_group": 2}
OURS = ("stamps", "synthetic", "counteranimal", "metashift", "celeba", "imagenet-s")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "synthetic"
    return build_dataset("synthetic", folder, options=SMALL)


@pytest.mark.parametrize("name", OURS)
def test_every_data_set_says_what_it_is(name):
    info = find_dataset(name)
    assert info.name == name
    assert min(map(len, (info.summary, info.licence, info.citation))) > 5
    assert set(info.choices) <= set(info.options)
    for key, choices in info.choices.items():
        assert str(info.options[key]) in choices
    assert info.build or info.layout
    assert len(find_recipe(name)) == 12


def test_listing_them_loads_neither_torch_nor_models():
    code = (
        "import sys; from fieldmark.data.datasets import DATASETS; "
        f"[DATASETS[name] for name in {OURS}]; "
        "assert not {'torch', 'open_clip', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_broken_data_set_is_named_and_hides_no_other(monkeypatch):
    empty = types.ModuleType("fieldmark.data.datasets.celeba")
    monkeypatch.setitem(sys.modules, empty.__name__, empty)
    with pytest.raises(FieldmarkError, match="'celeba' cannot be loaded"):
        find_dataset("celeba")
    assert "celeba" in DATASETS
    assert find_dataset("metashift").name == "metashift"


def test_options_are_checked_before_anything_is_read(tmp_path):
    root = write_counteranimal(tmp_path)
    with pytest.raises(UsageError, match="has no option 'pairs'; known: pair, seed, val_share"):
        open_dataset("counteranimal", root, options={"pairs": "all"})
    with pytest.raises(UsageError, match="pair 'geese' is none of brambling-bulbul"):
        open_dataset("counteranimal", root, options={"pair": "geese"})
    with pytest.raises(UsageError, match="known: pair"):
        check_dataset(root, name="counteranimal", options={"seed": 1})
    with pytest.raises(UsageError, match="counteranimal needs --root"):
        build_dataset("counteranimal", tmp_path / "out", options={})
    with pytest.raises(UsageError, match="is not built out of one folder"):
        build_dataset("synthetic", tmp_path / "out", options=SMALL, root=root)
    with pytest.raises(UsageError, match="metashift is used as it is published"):
        build_dataset("metashift", tmp_path / "out", options={}, root=root)
    assert not (tmp_path / "out").exists()


def test_a_builder_from_elsewhere_gets_paths_as_paths(tmp_path):
    told: dict[str, object] = {}

    def build(out: Path, *, root: Path, places: Path, seed: int = 0) -> Path:
        told.update(root=root, places=places, seed=seed)
        return out

    options = {"places": "scenes", "seed": 3}
    build_dataset("counteranimal", tmp_path, options=options, root=tmp_path, build=build)
    assert told == {"root": tmp_path, "places": Path("scenes"), "seed": 3}
    with pytest.raises(UsageError, match="needs --set places="):
        build_dataset("counteranimal", tmp_path, options={}, root=tmp_path, build=build)


def test_a_built_folder_is_a_task(built):
    task = open_dataset("synthetic", built)
    assert isinstance(task, Task)
    assert task.foregrounds is not None
    assert task.backgrounds is not None
    assert task.name == "synthetic" == task.table.name
    assert task.tests == ("test_unseen", "test_seen")
    assert task.class_words == task.table.classes == task.foregrounds.classes
    assert task.reject == (("land background", "water background"),)
    assert task.accept == (("beetle", "fish"),)
    assert task.correlation == 1.0
    assert task.card["task"] == "fish-beetles"
    assert task.notes == ()
    assert set(task.backgrounds.categories) == {"land", "neutral", "water"}


def test_a_card_may_name_words_texts_and_notes(built, tmp_path):
    folder = shutil.copytree(built, tmp_path / "copy")
    shutil.rmtree(folder / "foregrounds")
    card = json.loads((built / "card.json").read_text())
    words = {"classes": ["fish", "beetle"], "class_words": ["a swimmer", "a crawler"]}
    more = {"templates": "people", "reject": [["dry", "wet"]], "notes": ["a disclaimer"]}
    (folder / "card.json").write_text(json.dumps({**card, **words, **more}))
    task = open_built(folder)
    # The table's classes are sorted: beetle, fish.
    assert task.class_words == ("a crawler", "a swimmer")
    assert task.accept == (("a crawler", "a swimmer"),)
    assert (task.templates, task.reject, task.notes) == (
        "people", (("dry", "wet"),), ("a disclaimer",)
    )  # fmt: skip
    assert task.foregrounds is None


def write_folder(folder: Path, *, groups: str) -> Path:
    rows = []
    for number, word in enumerate(groups.split()):
        label, attribute, split = word.split("/")
        write_image(folder / f"{number}.png")
        rows.append((f"{number}.png", label, attribute, split))
    write_rows(folder / "metadata.csv", ("path", "label", "attribute", "split"), rows)
    (folder / "card.json").write_text('{"name": "own"}')
    return folder


def test_a_built_folder_says_itself_what_to_check(built, tmp_path):
    assert check_dataset(built) == []
    root = write_counteranimal(tmp_path / "published")
    out = build_dataset("counteranimal", tmp_path / "out", options={}, root=root)
    assert check_dataset(out) == []
    next((out / "81 ptarmigan").rglob("*.png")).write_bytes(b"no image")
    assert len(check_dataset(out)) == 1


def test_groups_that_are_empty_in_a_test_are_named(tmp_path):
    words = "a/x/train a/y/train b/x/train b/y/train a/x/test b/y/test a//test_natural"
    folder = write_folder(tmp_path, groups=words)
    task = open_built(folder)
    line = "split test has no image of y:a_background:y, y:b_background:x"
    assert task.notes == (line,)
    assert task.tests == ("test", "test_natural")
    assert check_built(folder, pools=()) == [f"{folder / 'metadata.csv'}: {line}"]
    assert describe_empty_groups(read_table(folder), ("train",)) == ()


def test_a_folder_without_tests_or_with_a_broken_card_is_named(tmp_path):
    folder = write_folder(tmp_path / "a", groups="a/x/train b/y/train")
    with pytest.raises(TableError, match="has no test split"):
        open_built(folder)
    for text, message in (("{", "is not JSON"), ("[]", "is not a JSON object")):
        (folder / "card.json").write_text(text)
        with pytest.raises(TableError, match=message):
            open_built(folder)
        assert any(message in line for line in check_built(folder, pools=()))
    (folder / "card.json").unlink()
    with pytest.raises(TableError, match=r"card\.json: is missing"):
        open_built(folder)


def test_missing_images_of_a_built_folder_are_counted(tmp_path):
    groups = " ".join(["a/x/train b/y/train a/x/test b/x/test a/y/test b/y/test"] * 2)
    folder = write_folder(tmp_path, groups=groups)
    assert check_built(folder, pools=()) == []
    for path in folder.glob("*.png"):
        path.unlink()
    (line,) = check_built(folder, pools=())
    assert "12 files are missing: 0.png, 1.png, " in line
    assert line.endswith("9.png and 2 more")


def test_a_build_that_fails_leaves_nothing(tmp_path):
    def fail() -> None:
        with building(tmp_path / "out") as part:
            (part / "half.txt").touch()
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert list(tmp_path.iterdir()) == []
    with building(tmp_path / "out") as part:
        (part / "whole.txt").touch()
    assert (tmp_path / "out" / "whole.txt").exists()
    with pytest.raises(RunExistsError), building(tmp_path / "out"):
        pass


def test_pairs_are_all_pairs():
    assert pair_up("abc") == (("a", "b"), ("a", "c"), ("b", "c"))


def test_the_howto_names_every_data_set():
    text = (Path(__file__).parents[3] / "docs/howto/datasets.md").read_text(encoding="utf-8")
    for name in DATASETS:
        assert f"### {name}\n" in text or f"| {name} |" in text
