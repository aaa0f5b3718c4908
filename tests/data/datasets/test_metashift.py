"""MetaShift: contexts from folder names alone, in both folders that the authors' script writes."""

from __future__ import annotations

import pickle
from collections import Counter

import numpy as np
import pytest

from fieldmark.core.errors import TableError, UsageError
from fieldmark.data.datasets.metashift import check_metashift, open_metashift
from tests.data.datasets.animal_trees import write_image, write_mixed, write_unmixed


@pytest.fixture(autouse=True)
def no_pickle(monkeypatch):
    def refuse(*_arguments, **_options):
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)


def test_folder_names_tell_class_and_context(tmp_path):
    base = write_unmixed(tmp_path)
    for root in (tmp_path, base):
        task = open_metashift(root)
        table = task.table
        assert (table.classes, table.attribute_names) == (("cat", "dog"), ("indoor", "outdoor"))
        assert Counter(table.select("train").group_ids().tolist()) == {0: 8, 3: 6}
        assert Counter(table.select("test").group_ids().tolist()) == {1: 2, 2: 3}
        assert task.correlation == 1.0
        expected = "split test has no image of y:cat_background:indoor, y:dog_background:outdoor"
        assert task.notes == (expected,)
        # A group of ours is 3 less SubpopBench's, which has dog 0, cat 1 and outdoor 0, indoor 1.
        theirs = 2 * (1 - table.labels) + (1 - np.asarray(table.attributes))
        assert (table.group_ids() == 3 - theirs).all()
    assert check_metashift(tmp_path) == []


def test_random_splits_have_subpopbenchs_shares(tmp_path):
    write_unmixed(tmp_path)
    table = open_metashift(tmp_path, splits="random", seed=1).table
    assert Counter(table.splits) == {"test": int(19 * 0.25), "val": int(19 * 0.1), "train": 14}
    assert open_metashift(tmp_path, splits="random", seed=2).table.splits != table.splits


def test_mixed_contexts_come_from_the_unmixed_folder_beside(tmp_path):
    mixed = write_mixed(tmp_path)
    alone = open_metashift(mixed, layout="mixed")
    assert alone.table.attributes is None
    assert "the context of 11 of 11 images is not known" in alone.notes[0]
    assert alone.correlation != alone.correlation
    write_unmixed(tmp_path)
    for root in (tmp_path, mixed):
        task = open_metashift(root, layout="mixed")
        assert Counter(task.table.select("train").group_ids().tolist()) == {0: 3, 1: 1, 2: 1, 3: 2}
        assert Counter(task.table.select("test").group_ids().tolist()) == dict.fromkeys(range(4), 1)
        assert task.correlation == pytest.approx(5 / 7)
        assert task.notes == ()


def test_an_image_in_both_contexts_has_none(tmp_path):
    write_mixed(tmp_path)
    unmixed = write_unmixed(tmp_path)
    write_image(unmixed / "test/cat/cat(outdoor)/0.jpg")
    task = open_metashift(tmp_path, layout="mixed")
    assert (task.table.group_ids() == -1).sum() == 1
    assert "the context of 1 of 11" in task.notes[0]
    assert "the context of 1 of 11" in check_metashift(tmp_path, layout="mixed")[0]


def test_what_is_missing_or_odd_is_named(tmp_path):
    with pytest.raises(TableError, match="has no folders train and test"):
        open_metashift(tmp_path)
    assert "has no folders" in check_metashift(tmp_path)[0]
    base = write_unmixed(tmp_path)
    with pytest.raises(TableError, match="val_out_of_domain"):
        open_metashift(tmp_path, layout="mixed")
    with pytest.raises(UsageError, match="layout 'both' is none of unmixed, mixed"):
        open_metashift(tmp_path, layout="both")
    write_image(base / "train/cat/loose.jpg")
    with pytest.raises(TableError, match=r"train/cat/loose\.jpg is in no folder such as"):
        open_metashift(tmp_path)
    (base / "train/cat/loose.jpg").unlink()
    for path in (base / "test/dog").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(TableError, match="has no image in test/dog"):
        open_metashift(tmp_path)
