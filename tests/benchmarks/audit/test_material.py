"""What an audit looks at: splits, halves, even draws, masks, and the tables that it writes."""

from __future__ import annotations

import collections

import numpy as np
import pytest
from PIL import Image

from fieldmark.benchmarks.audit.draws import draw_evenly, name_objects, split_halves
from fieldmark.benchmarks.audit.material import choose_split, gather_material
from fieldmark.benchmarks.audit.request import AuditRequest
from fieldmark.core.errors import TableError
from fieldmark.data.foregrounds import read_foregrounds
from fieldmark.data.tables import read_table


def write(folder, rows, *, columns="path,label"):
    for row in rows:
        name = folder / row.split(",")[0]
        if not name.exists():
            name.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), "red").save(name)
    (folder / "table.csv").write_text("\n".join([columns, *rows]) + "\n")
    return read_table(folder / "table.csv")


def gather(folder, table, **changes):
    request = AuditRequest(model="m", data="d", out=folder / "out", **changes)
    return gather_material(request, table, out=request.out, report=lambda *_: None)


def test_test_goes_before_other_tests_and_val(tmp_path):
    names = ["val", "test_seen", "test", "train"]
    rows = [f"{i}.png,cat,{name}" for i, name in enumerate(names)]
    table = write(tmp_path, rows, columns="path,label,split")
    assert choose_split(table, None) == "test"
    assert choose_split(table.take([0, 1, 3]), None) == "test_seen"
    assert choose_split(table.take([0, 3]), None) == "val"
    assert choose_split(table, "val") == "val"


def test_a_table_with_nothing_to_judge_is_refused(tmp_path):
    table = write(tmp_path, ["0.png,cat,train"], columns="path,label,split")
    with pytest.raises(TableError, match="name one with --split"):
        choose_split(table, None)
    with pytest.raises(TableError, match="no split 'tset'"):
        choose_split(table, "tset")


def test_groups_take_turns_and_objects_within_them(tmp_path):
    rows = [f"a{i}.png,cat,owl" for i in range(6)] + ["b.png,cat,hen", "c.png,dog,rex"]
    table = write(tmp_path, rows, columns="path,label,object")
    drawn = [table.objects[row] for row in draw_evenly(table, 3, seed=0)]
    assert sorted(drawn) == ["hen", "owl", "rex"]
    assert draw_evenly(table, 99, seed=0) == list(range(8))
    assert set(draw_evenly(table, 4, seed=0)) < set(draw_evenly(table, 6, seed=0))


def test_objects_stay_on_one_side_of_the_halves(tmp_path):
    rows = [f"{i}.png,{'cat' if i < 12 else 'dog'},o{i // 2}" for i in range(24)]
    table = write(tmp_path, rows, columns="path,label,object")
    halves = split_halves(table, seed=3)
    sides = collections.defaultdict(set)
    for name, side in zip(table.objects, halves, strict=True):
        sides[name].add(side)
    assert all(len(side) == 1 for side in sides.values())
    counts = collections.Counter(zip(table.labels.tolist(), halves, strict=True))
    assert set(counts.values()) == {6}


def test_without_enough_objects_there_is_no_probe_and_it_says_so(tmp_path):
    rows = [f"{i}.png,{'cat' if i < 5 else 'dog'}" for i in range(7)]
    material = gather(tmp_path, write(tmp_path, rows), mask_source="none")
    assert material.probed is None
    left = {one.part: one for one in material.left_out}
    assert left["probe"].reason == "1 of 2 classes have fewer than 4 objects"
    assert left["probe"].mend.endswith("dog")
    assert set(left) == {"probe", "sources", "swaps"}


def test_training_images_lend_scenes_and_objects_as_bap_takes_them(tmp_path):
    mask = Image.new("L", (8, 8))
    mask.paste(255, (2, 2, 6, 6))
    (tmp_path / "masks").mkdir()
    mask.save(tmp_path / "masks" / "m.png")
    rows = [
        f"{split}-{i}.png,{'cat' if i % 2 else 'dog'},{split},masks/m.png,o{split}{i}"
        for split in ("train", "test")
        for i in range(4)
    ]
    table = write(tmp_path, rows, columns="path,label,split,mask,object")
    material = gather(tmp_path, table)
    assert (material.split, material.mask_source) == ("test", "given")
    assert {name.split("-")[0] for name in material.scenes.ids} == {"train"}
    assert {name.split("-")[0] for name in material.sample.ids} == {"test"}
    written = tmp_path / "out" / "material" / "foregrounds.csv"
    objects = read_foregrounds(written, root=material.root)
    assert len(objects) == 4
    assert objects.read(0).size == (4, 4)
    again = read_table(tmp_path / "out" / "material" / "sample.csv", root=material.root)
    assert again.ids == material.sample.ids
    assert np.array_equal(again.labels, material.sample.labels)


def test_images_without_a_mask_leave_the_sample(tmp_path):
    Image.new("L", (8, 8), 255).save(tmp_path / "m.png")
    rows = ["a.png,cat,m.png", "b.png,cat,", "c.png,dog,m.png"]
    material = gather(tmp_path, write(tmp_path, rows, columns="path,label,mask"))
    assert material.sample.ids == ("a.png", "c.png")
    assert len(material.judged) == 3


def test_the_sample_is_drawn_from_images_with_a_mask(tmp_path):
    Image.new("L", (8, 8), 255).save(tmp_path / "m.png")
    rows = [f"{i}.png,cat,{'m.png' if i % 10 == 0 else ''}" for i in range(40)]
    material = gather(tmp_path, write(tmp_path, rows, columns="path,label,mask"), limit=4)
    assert material.sample.ids == ("0.png", "10.png", "20.png", "30.png")


def test_training_images_without_masks_leave_scenes_to_the_judged(tmp_path):
    Image.new("L", (8, 8), 255).save(tmp_path / "m.png")
    rows = [f"a{i}.png,cat,train," for i in range(3)] + [f"b{i}.png,cat,test,m.png" for i in "01"]
    material = gather(tmp_path, write(tmp_path, rows, columns="path,label,split,mask"))
    assert material.sample.ids == material.scenes.ids == ("b0.png", "b1.png")
    assert [one.part for one in material.left_out] == ["training scenes"]


def test_swaps_judge_no_object_that_the_probe_was_fitted_on(tmp_path):
    Image.new("L", (8, 8), 255).save(tmp_path / "m.png")
    rows = [f"{i}.png,{'cat' if i < 12 else 'dog'},m.png,o{i // 2}" for i in range(24)]
    material = gather(tmp_path, write(tmp_path, rows, columns="path,label,mask,object"))
    fitted = set(material.probed.select("train").ids)
    judged = {material.sample.ids[row] for row in material.unseen}
    assert len(judged) == 12
    assert judged.isdisjoint(fitted)
    assert set(material.scenes.ids) == fitted


def test_objects_without_an_id_are_not_one_object(tmp_path):
    rows = [f"{i}.png,{'cat' if i % 2 else 'dog'},{'o' if i < 2 else ''}" for i in range(16)]
    table = write(tmp_path, rows, columns="path,label,object")
    material = gather(tmp_path, table, mask_source="none")
    assert material.probed is not None
    assert len(set(name_objects(table))) == 15


def test_masks_that_cannot_be_used_leave_the_sample_and_are_named(tmp_path):
    Image.new("L", (8, 8), 255).save(tmp_path / "m.png")
    Image.new("L", (9, 8), 255).save(tmp_path / "wide.png")
    (tmp_path / "torn.png").write_bytes(b"no image")
    rows = ["a.png,cat,m.png", "b.png,cat,wide.png", "c.png,dog,torn.png"]
    table = write(tmp_path, rows, columns="path,label,mask")
    material = gather(tmp_path, table)
    assert material.sample.ids == ("a.png",)
    left = {one.part: one.reason for one in material.left_out}["some masks"]
    assert left.startswith("2 of 3 masks cannot be used; the first: ")
    assert left.endswith("wide.png: the mask is 9 x 8, the image 8 x 8")
    alone = gather(tmp_path, table.take([1, 2]))
    assert alone.masks is None
    assert "no mask can be used" in {one.part: one.reason for one in alone.left_out}["sources"]


def test_nothing_is_fetched_for_masks_that_nobody_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("fieldmark.benchmarks.audit.material.cache_dir", lambda: tmp_path / "cache")
    material = gather(tmp_path, write(tmp_path, ["a.png,cat", "b.png,dog"]))
    assert material.mask_source == "none"
    assert material.masks is None
    assert {one.reason for one in material.left_out if one.part == "swaps"} == {
        "no image has a mask"
    }


def test_unreadable_images_are_left_out_and_named(tmp_path):
    table = write(tmp_path, ["a.png,cat", "b.png,dog"])
    (tmp_path / "b.png").write_bytes(b"no image")
    material = gather(tmp_path, table, skip_unreadable=True, mask_source="none")
    assert list(material.unreadable) == ["b.png"]
    assert len(material.judged) == 1


def test_one_split_alone_is_halved_for_the_probe(tmp_path):
    rows = [f"{i}.png,{'cat' if i % 2 else 'dog'},test" for i in range(16)]
    table = write(tmp_path, rows, columns="path,label,split")
    material = gather(tmp_path, table, mask_source="none")
    assert material.train is None
    assert (material.split, material.probe_split) == ("test", "test")
    assert collections.Counter(material.probed.splits) == {"train": 8, "test": 8}
    assert len(material.judged) == 16
