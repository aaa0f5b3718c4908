"""ImageNet-S: class ids in RGB masks, ranks of sorted WordNet ids, ignored pixels."""

from __future__ import annotations

import functools

import numpy as np
import pytest

from fieldmark.core.errors import TableError, UsageError
from fieldmark.data.datasets.imagenet_s import (
    MERGED,
    build_imagenet_s,
    check_imagenet_s,
    open_imagenet_s,
    rank_classes,
    read_class_ids,
)
from tests.data.datasets.animal_trees import name_wnid, write_imagenet_s, write_masked


def test_an_object_is_where_its_class_is_and_nothing_is_ignored(tmp_path):
    base = write_imagenet_s(tmp_path, variant=300)
    for root in (tmp_path, base):
        pool = open_imagenet_s(root, variant=300)
        assert pool.classes == (name_wnid(1), name_wnid(7), name_wnid(300))
        for index in range(3):
            # 300 is 44 + 256: only G tells it from 44. Columns 2 to 5, rows 1 to 6.
            cutout = pool.read(index)
            assert cutout.size == (4, 6)
            assert cutout.getchannel("A").getextrema() == (255, 255)
            assert np.abs(np.asarray(cutout)[2:4, 1:3, 0].astype(int) - 200).max() < 40


def test_class_ids_are_red_plus_256_green():
    pixels = np.zeros((1, 3, 3), np.uint8)
    pixels[0] = [(0, 0, 9), (151, 3, 0), (232, 3, 0)]
    assert read_class_ids(pixels).tolist() == [[0, 919, 1000]]


def test_ranks_go_by_sorted_ids():
    wnids = [name_wnid(rank) for rank in (3, 1, 2)]
    assert [rank_classes(wnids)[name_wnid(rank)] for rank in (1, 2, 3)] == [1, 2, 3]


def test_classes_can_be_chosen_and_merged_ones_stand_for_each_other(tmp_path, monkeypatch):
    write_imagenet_s(tmp_path)
    pool = open_imagenet_s(tmp_path, variant="50", classes=f"{name_wnid(7)}, {name_wnid(50)}")
    assert pool.classes == (name_wnid(7), name_wnid(50))
    with pytest.raises(TableError, match="has no class n000"):
        open_imagenet_s(tmp_path, variant=50, classes="n000")
    with pytest.raises(TableError, match="has no object that fits"):
        open_imagenet_s(tmp_path, variant=50, classes=name_wnid(2))
    assert len(MERGED) == 5
    assert not set(MERGED) & set(MERGED.values())
    monkeypatch.setattr("fieldmark.data.datasets.imagenet_s.MERGED", {"n09999999": name_wnid(7)})
    merged = open_imagenet_s(tmp_path, variant=50, classes="n09999999")
    assert merged.classes == (name_wnid(7),)


def test_a_part_of_the_folders_needs_the_list_of_classes(tmp_path):
    base = write_imagenet_s(tmp_path)
    (base / "validation" / name_wnid(2)).rmdir()
    with pytest.raises(
        TableError, match="has 49 classes of 50, and the ids in the masks are ranks"
    ):
        open_imagenet_s(tmp_path, variant=50)
    names = "\n".join(name_wnid(rank) for rank in range(1, 51))
    (tmp_path / "ImageNetS_categories_im50.txt").write_text(names)
    assert len(open_imagenet_s(tmp_path, variant=50)) == 3


def test_images_without_an_object_are_left_out_and_named(tmp_path):
    base = write_imagenet_s(tmp_path, split="train-semi")
    check = functools.partial(check_imagenet_s, tmp_path, variant=50, split="train-semi")
    assert check() == []
    write_masked(base, "train-semi", rank=7, stem="other", class_id=8)
    assert len(open_imagenet_s(tmp_path, variant=50, split="train-semi")) == 3
    assert "other.JPEG: its mask has no object" in check()[0]


def test_missing_masks_are_listed_with_their_count(tmp_path):
    base = write_imagenet_s(tmp_path)
    for mask in (base / "validation-segmentation").rglob("*.png"):
        mask.unlink()
    expected = "3 files are missing: validation-segmentation/"
    with pytest.raises(TableError, match=expected):
        open_imagenet_s(tmp_path, variant=50)
    assert expected in check_imagenet_s(tmp_path, variant=50)[0]
    with pytest.raises(UsageError, match="variant '500' is none of 50, 300, 919"):
        open_imagenet_s(tmp_path, variant="500")
    with pytest.raises(UsageError, match="split 'test' is none of train-semi, validation"):
        open_imagenet_s(tmp_path, split="test")
    with pytest.raises(TableError, match="has no ImageNetS919/validation"):
        open_imagenet_s(tmp_path)


def test_a_build_has_the_same_objects(tmp_path):
    write_imagenet_s(tmp_path / "published")
    direct = open_imagenet_s(tmp_path / "published", variant=50)
    out = build_imagenet_s(tmp_path / "out", root=tmp_path / "published", variant=50)
    built = open_imagenet_s(out)
    assert built.ids == direct.ids
    assert built.classes == direct.classes
    for index in range(len(built)):
        assert np.array_equal(np.asarray(built.read(index)), np.asarray(direct.read(index)))
    assert len(open_imagenet_s(out, classes=name_wnid(7))) == 1
    with pytest.raises(TableError, match="has no class n1"):
        open_imagenet_s(out, classes="n1")
    assert check_imagenet_s(out) == []
