"""Background swaps with fake encoders on drawn pictures of 8 x 8 pixels, the masks exact."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fieldmark.benchmarks.audit.swap_objects import choose_objects
from fieldmark.benchmarks.audit.swaps import SwapSettings, measure_swaps
from fieldmark.core.errors import NotApplicableError, UsageError
from fieldmark.data.backgrounds import read_backgrounds
from fieldmark.data.covar import CovarSettings
from fieldmark.data.images import read_image
from fieldmark.data.tables import read_table
from fieldmark.models.embed import embed_images
from fieldmark.testing import FakeEncoder

SCRIPT = Path(__file__).parents[3] / "benchmarks" / "audit_known_answers.py"
SMALL = SwapSettings(objects=10, scenes=2, covar_changes=False, pictures=2, precision="fp32")


@pytest.fixture(scope="module")
def known():
    spec = importlib.util.spec_from_file_location("audit_known_answers", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(known, tmp_path_factory):
    folder = tmp_path_factory.mktemp("swaps")
    return known.draw_data(folder / "data", seed=0, tied=True, train=24, test=16)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def answer_by_ground(values):
    """Say blue, class 0, where the ground (the last three numbers) is rather magenta than green."""
    return (values[:, 4] > values[:, 3]).astype(np.int64)


def answer_by_object(values):
    """Say blue, class 0, where the object (the first three numbers) is rather blue than red."""
    return (values[:, 0] > values[:, 2]).astype(np.int64)


def swap(folder, *, heads=None, encoders=None, out=None, split="test", settings=SMALL, **changed):
    table = read_table(folder / "metadata.csv")
    train, test = table.select("train"), table.select(split)
    heads = heads or {"object": answer_by_object, "ground": answer_by_ground}
    encoders = encoders or [FakeEncoder()]
    out = out or folder.parent / "out"
    given = {
        "masks": test.masks,
        "names": test.classes,
        "scenes_from": train,
        "scene_masks": train.masks,
        "backgrounds": None,
        "settings": settings,
        "work": out / "work",
        "out": out,
        "report": lambda phase, done, total: None,
        **changed,
    }
    return measure_swaps(encoders, [heads] * len(encoders), given.pop("table", test), **given)


def find_result(found, head, *, encoder=0):
    [result] = [r for r in found["results"] if (r["head"], r["encoder"]) == (head, encoder)]
    return result


def test_the_gap_rises_with_the_planted_strength_and_is_not_found_without(known):
    gaps = []
    for strength in (0.0, 0.5, 2.0):
        found = known.run_once(
            known.audit_swaps, strength=strength, tied=True, seed=0, train=40, test=16
        )
        assert [one.head for one in found] == ["zero-shot", "linear-probe"]
        gaps.append(found)
    for none, some, much in zip(*gaps, strict=True):
        assert none.gap == 0
        assert none.p_value == 1
        assert some.gap < much.gap
        assert some.low > 0
    untied = known.run_once(known.audit_swaps, strength=1.0, tied=False, seed=1, train=40, test=16)
    assert not known.has_finding(untied)
    assert known.has_finding(gaps[1])


def test_who_answers_by_the_ground_has_a_gap_and_who_answers_by_the_object_none(data, tmp_path):
    found = swap(data, out=tmp_path)
    assert (found["objects"], found["composites"]) == (10, 40)
    by_ground, by_object = find_result(found, "ground"), find_result(found, "object")
    assert by_ground["gap"]["value"] > 0.3
    assert by_ground["gap_p_value"] < 0.05
    assert by_ground["same"]["value"] > by_ground["other"]["value"]
    assert by_object["gap"] | {"low": 0, "high": 0} == {
        "value": 0,
        "low": 0,
        "high": 0,
        "count": 10,
    }
    assert by_object["flip_rate"]["value"] == 0
    assert by_object["gap_p_value"] == 1
    assert [one["name"] for one in by_ground["by_class"]] == ["blue", "red"]
    json.dumps(found, allow_nan=False)


def test_an_object_keeps_its_place_and_a_scene_its_border(data, tmp_path):
    swap(data, out=tmp_path)
    table = read_table(data / "metadata.csv")
    objects = {np.asarray(table.read(row))[2:6, 2:6].tobytes() for row in range(len(table))}
    borders = {_border(table.read(row)).tobytes() for row in range(len(table))}
    rendered = [read_image(path) for path in (tmp_path / "work" / "composites").glob("*.png")]
    cut = [np.asarray(image)[2:6, 2:6].tobytes() in objects for image in rendered]
    ring = [_border(image).tobytes() in borders for image in rendered]
    # 40 composites and the originals of the 2 objects shown have both; 10 objects on grey have a
    # border of grey, and up to 10 scenes alone have no object.
    assert sum(a and b for a, b in zip(cut, ring, strict=True)) == 42
    assert sum(a and not b for a, b in zip(cut, ring, strict=True)) == 10
    assert 1 <= sum(b and not a for a, b in zip(cut, ring, strict=True)) <= 10


def _border(image):
    pixels = np.asarray(image).copy()
    pixels[1:7, 1:7] = 0
    return pixels


def test_figures_are_those_of_the_composites_asked_anew(data, tmp_path):
    said, encoder = [], FakeEncoder(background=0.7)

    def listen(values):
        said.append(values)
        return answer_by_ground(values)

    found = swap(data, out=tmp_path, heads={"ground": listen}, encoders=[encoder])
    values = said[0]
    swapped = values[:40]
    # Objects come in order, and of each its own class's scenes come first.
    other = np.tile([False, False, True, True], 10)
    right = answer_by_ground(swapped) == _list_labels(data, count=10).repeat(4)
    result = find_result(found, "ground")
    assert result["same"]["value"] == pytest.approx(right[~other].mean())
    assert result["other"]["value"] == pytest.approx(right[other].mean())
    wholes, alone, scenes = swapped[2::4], values[40::2], values[41::2]
    total = alone / np.linalg.norm(alone, axis=1)[:, None] + scenes
    cosines = (wholes * total).sum(axis=1) / np.linalg.norm(total, axis=1)
    assert found["additivity"][0]["figure"]["value"] == pytest.approx(cosines.mean(), abs=1e-6)
    assert found["additivity"][0]["figure"]["count"] == 10
    assert found["sensitivity"][0]["defined"] == 2
    assert found["sensitivity"][0]["count"] == 40


def _list_labels(folder, *, count):
    table = read_table(folder / "metadata.csv").select("test")
    chosen = choose_objects(
        table, table.masks or (), count=count, settings=CovarSettings(side=8), seed=0
    )
    assert len(set(chosen.foregrounds.ids)) == count
    return table.labels[list(chosen.rows)]


def test_objects_are_spread_evenly_over_groups(data):
    table = read_table(data / "metadata.csv").select("test")
    chosen = choose_objects(
        table, table.masks or (), count=8, settings=CovarSettings(side=8), seed=0
    )
    groups, counts = np.unique(table.group_ids()[list(chosen.rows)], return_counts=True)
    assert set(counts.tolist()) == {2}
    assert len(groups) == 4


def test_two_encoders_see_the_same_composites_and_are_compared_by_object(data, tmp_path):
    # The second does not see the ground, so whoever answers by it says the same of everything.
    found = swap(data, out=tmp_path, encoders=[FakeEncoder(), FakeEncoder(background=0.0)])
    before, after = (find_result(found, "ground", encoder=number) for number in (0, 1))
    [change] = [one for one in found["differences"] if one["head"] == "ground"]
    assert after["gap"]["value"] == 0
    assert change["gap"]["value"] == pytest.approx(-before["gap"]["value"])
    assert change["gap"]["high"] < 0
    assert len(found["sensitivity"]) == len(found["additivity"]) == 2
    assert found["sensitivity"][0]["total"] > found["sensitivity"][1]["total"]


def test_pictures_show_an_object_right_at_home_and_wrong_abroad(data, tmp_path):
    found = swap(data, out=tmp_path)
    assert len(found["pictures"]) == 2
    for shown in found["pictures"]:
        assert [tile["kind"] for tile in shown["tiles"]] == ["original", "same", "other"]
        right = [
            [said["right"] for said in tile["said"] if said["head"] == "ground"]
            for tile in shown["tiles"]
        ]
        assert right[1:] == [[True], [False]]
        for tile in shown["tiles"]:
            assert shown["label"] in tile["alt"]
            assert read_image(tmp_path / tile["src"]).size == (8, 8)


def test_a_run_killed_between_goes_on_to_the_same_figures(data, tmp_path):
    whole = swap(data, out=tmp_path / "whole")
    seen = []

    def kill(phase, done, total):
        seen.append(phase)
        if len(seen) == 17:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        swap(data, out=tmp_path / "cut", report=kill)
    folder = tmp_path / "cut" / "work" / "composites"
    held = sorted(folder.glob("[!.]*.png"))
    assert 0 < len(held) < 40
    # What a power cut leaves: the file is there, its end is not.
    held[0].write_bytes(held[0].read_bytes()[:-20])
    times = {path: path.stat().st_mtime_ns for path in held[1:]}
    assert swap(data, out=tmp_path / "cut") == whole
    assert {path: path.stat().st_mtime_ns for path in held[1:]} == times
    assert len(list(folder.glob("*.png"))) == len(
        list((tmp_path / "whole" / "work" / "composites").glob("*.png"))
    )


def test_changes_are_measured_against_originals_and_torn_ones_built_again(data, tmp_path):
    settings = SwapSettings(
        objects=6, scenes=2, change_objects=4, change_scenes=2, pictures=0, precision="fp32"
    )
    found = swap(data, out=tmp_path, settings=settings)
    drops = {one["head"]: one for one in found["drops"]}
    by_object = drops["object"]
    changes = {one["change"]: one for one in by_object["changes"]}
    assert list(changes)[:3] == ["background", "scale_1.5", "scale_2"]
    assert len(changes) == 10
    table = read_table(data / "metadata.csv").select("test")
    chosen = choose_objects(
        table, table.masks or (), count=6, settings=CovarSettings(side=8), seed=0
    )
    own = table.take(chosen.rows[:4])
    said = answer_by_object(embed_images(FakeEncoder(), own).values)
    expected = float((said == own.labels).mean())
    assert by_object["reference"]["accuracy"]["value"] == pytest.approx(expected)
    for one in by_object["changes"]:
        assert one["drop"]["value"] == pytest.approx(expected - one["accuracy"]["value"])
    # Nothing but the ground changes, and this head does not look at it.
    assert changes["background"]["drop"]["value"] == 0
    assert changes["background"]["drop_background"] is None
    assert changes["h_flip"]["drop_background"]["value"] == 0
    assert changes["h_flip"]["accuracy"]["count"] == 8
    [folder] = (tmp_path / "work").glob("covar-*")
    victim = next((folder / "images" / "crop").glob("*/*.png"))
    victim.write_bytes(victim.read_bytes()[:-9])
    assert swap(data, out=tmp_path, settings=settings) == found


def test_a_pool_of_backgrounds_bears_the_changes(data, tmp_path):
    (tmp_path / "pool" / "plain").mkdir(parents=True)
    Image.new("RGB", (16, 16), "lime").save(tmp_path / "pool" / "plain" / "a.png")
    settings = SwapSettings(objects=4, scenes=1, change_objects=2, pictures=0, precision="fp32")
    pool = read_backgrounds(tmp_path / "pool")
    found = swap(data, out=tmp_path, settings=settings, backgrounds=pool)
    assert "the changes are measured on scenes of pool" in found["notes"]
    [folder] = (tmp_path / "work").glob("covar-*")
    assert set(read_table(folder / "covar.csv").scenes or ()) - set(found["notes"]) >= {
        "plain/a.png"
    }
    # One ground for all: who answers by it is right on one of the two classes.
    [ground] = [one for one in found["drops"] if one["head"] == "ground"]
    assert ground["changes"][0]["accuracy"]["value"] == 0.5


def test_images_without_a_usable_mask_are_left_out_and_counted(data, tmp_path):
    table = read_table(data / "metadata.csv").select("test")
    masks = list(table.masks or ())
    for number, (side, value) in enumerate(((8, 0), (8, 255), (6, 255))):
        Image.new("L", (side, side), value).save(tmp_path / f"{number}.png")
    small = np.zeros((6, 6), np.uint8)
    small[2:4, 2:4] = 255
    Image.fromarray(small).save(tmp_path / "2.png")
    (tmp_path / "3.png").write_bytes(b"no image")
    masks[:5] = [*(tmp_path / f"{number}.png" for number in range(4)), None]
    settings = SwapSettings(objects=80, scenes=1, covar_changes=False, pictures=0)
    found = swap(data, out=tmp_path, masks=masks, settings=settings)
    assert found["objects"] == len(table) - 5
    notes = "\n".join(found["notes"])
    for reason in ("an empty mask", "more than 90%", "another size", "cannot be read", "no mask"):
        assert f"1 images gave no object: they {'have ' if 'mask' in reason[3:] else ''}" in notes
        assert reason in notes


def test_one_class_alone_has_no_gap_but_an_accuracy(data, tmp_path):
    table = read_table(data / "metadata.csv")
    train, test = table.select("train"), table.select("test")
    reds = test.take(np.flatnonzero(test.labels == 1))
    lone = train.take(np.flatnonzero(train.labels == 1))
    found = swap(data, out=tmp_path, table=reds, masks=reds.masks, scenes_from=lone,
                 scene_masks=lone.masks)  # fmt: skip
    result = find_result(found, "ground")
    assert result["gap"] == {"value": None, "low": None, "high": None, "count": 0}
    assert result["gap_p_value"] is None
    assert result["other"]["value"] is None
    assert 0 <= result["same"]["value"] <= 1
    assert found["pictures"] == []
    assert any("lack scenes" in note for note in found["notes"])
    json.dumps(found, allow_nan=False)


def test_a_class_without_objects_is_named_and_lends_its_scenes(data, tmp_path):
    table = read_table(data / "metadata.csv").select("test")
    reds = table.take(np.flatnonzero(table.labels == 1))
    found = swap(data, out=tmp_path, table=reds, masks=reds.masks)
    assert find_result(found, "ground")["gap"]["value"] > 0.2
    assert [one["name"] for one in find_result(found, "ground")["by_class"]] == ["red"]
    assert any("no object is of blue" in note for note in found["notes"])


def test_without_any_mask_nothing_is_swapped(data, tmp_path):
    table = read_table(data / "metadata.csv").select("test")
    with pytest.raises(NotApplicableError, match=r"no image gives an object .*16 have no mask"):
        swap(data, out=tmp_path, masks=(None,) * len(table))
    with pytest.raises(NotApplicableError, match="no image gives a scene"):
        swap(data, out=tmp_path, scene_masks=(None,) * 24)


def test_a_table_lends_its_own_photographs_where_there_are_no_others(data, tmp_path):
    shutil.copytree(data, tmp_path / "data")
    found = swap(tmp_path / "data", out=tmp_path, scenes_from=None, scene_masks=None)
    assert find_result(found, "ground")["gap"]["count"] == 10


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(UsageError, match="at least 1 object"):
        SwapSettings(scenes=0)


def test_answers_of_a_head_are_tabulated_over_composites_alone(data, tmp_path):
    found = swap(data, out=tmp_path, heads={"one": lambda values: np.ones(len(values), int)})
    result = find_result(found, "one")
    assert result["same"]["value"] == result["other"]["value"] == 0.5
    assert result["flip_rate"]["value"] == 0
