"""What `--data` names: tables, built folders, data sets by name with a root."""

from __future__ import annotations

import json

import pytest

from fieldmark.benchmarks.sources import open_table, open_task
from fieldmark.core.errors import TableError, UnknownNameError, UsageError
from fieldmark.data.datasets import build_dataset
from tests.data.datasets.animal_trees import write_counteranimal, write_imagenet_s

SMALL = {"size": 16, "n_objects": 4, "n_scenes": 3, "per_class": 8, "per_group": 2}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "my-folder"
    return build_dataset("synthetic", folder, options=SMALL)


def test_a_built_folder_and_its_name_give_the_same_images(built):
    by_name = open_table("synthetic", root=built)
    by_folder = open_table(str(built))
    assert by_name.ids == by_folder.ids
    assert by_name.group_ids().tolist() == by_folder.group_ids().tolist()
    assert (by_name.name, by_folder.name) == ("synthetic", "my-folder")
    assert open_task(str(built)).name == open_task("synthetic", root=built).name == "synthetic"


def test_options_reach_the_data_set(tmp_path):
    root = write_counteranimal(tmp_path)
    task = open_task("counteranimal", root=root, options={"seed": 2, "pair": "all"})
    assert task.name == "counteranimal/all"
    assert open_table("counteranimal", root=root).classes == ("ptarmigan", "prairie chicken")


def test_a_name_with_a_root_goes_before_a_folder_of_that_name(built, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "synthetic").mkdir()
    assert open_task("synthetic", root=built).name == "synthetic"
    with pytest.raises(TableError, match="synthetic: has no image"):
        open_task("synthetic")


def test_a_folder_of_an_unknown_data_set_is_read_by_its_card(built, tmp_path):
    card = json.loads((built / "card.json").read_text())
    try:
        (built / "card.json").write_text(json.dumps({**card, "name": "mine"}))
        assert open_task(str(built)).name == "mine"
        with pytest.raises(UsageError, match="it has no option 'seed'"):
            open_task(str(built), options={"seed": 1})
    finally:
        (built / "card.json").write_text(json.dumps(card))


def test_a_table_with_tests_is_a_task(built, tmp_path):
    lines = (built / "metadata.csv").read_text()
    (tmp_path / "mine.csv").write_text(lines)
    task = open_task(str(tmp_path / "mine.csv"), root=built)
    assert (task.name, task.tests) == ("mine", ("test_unseen", "test_seen"))
    assert task.accept == (("beetle", "fish"),)
    assert task.foregrounds is None
    assert task.notes == ()
    (tmp_path / "mine.csv").write_text(lines.replace(",test_", ",held_out_"))
    with pytest.raises(TableError, match="has no test split"):
        open_task(str(tmp_path / "mine.csv"), root=built)


def test_what_cannot_be_opened_says_how(tmp_path):
    with pytest.raises(UsageError, match="'synthetic' needs --root; `fieldmark data build synth"):
        open_task("synthetic")
    with pytest.raises(UsageError, match="needs --root; `fieldmark data info celeba` shows"):
        open_task("celeba")
    with pytest.raises(UnknownNameError, match="did you mean celeba"):
        open_task("celebs", root=tmp_path)
    write_imagenet_s(tmp_path)
    with pytest.raises(UsageError, match="imagenet-s holds foregrounds to pre-train on, no task"):
        open_task("imagenet-s", root=tmp_path, options={"variant": 50})
