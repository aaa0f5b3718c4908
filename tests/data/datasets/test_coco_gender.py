import csv
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from fieldmark.core.errors import InputError, RunExistsError, TableError, UsageError
from fieldmark.data.backgrounds import read_backgrounds
from fieldmark.data.datasets import places365
from fieldmark.data.datasets.built import open_built
from fieldmark.data.datasets.coco_gender import (
    INFO,
    build_coco_gender,
    open_places,
    place_people,
    split_scenes,
)
from fieldmark.data.datasets.composites import COLUMNS
from tests.data.datasets.coco_trees import write_people, write_places

MEN, WOMEN, BLANK = (250, 0, 0), (0, 250, 0), (9, 9, 9)
SCENES = {
    "excavation": 5,
    "construction_site": 5,
    "kitchen": 10,
    "forest/broadleaf": 3,
    "alley": 1,
}


def label_by_colour_in_place_of_a_model(people):
    """Men are red, women green, others cannot be told; margins differ from person to person."""
    margins = []
    for index in range(len(people)):
        image = people.read(index)
        assert image.getpixel((0, 0)) != (0, 0, 255), "the scene shows"
        red, green, _ = image.getpixel((people.size // 2,) * 2)
        size = 0.25 + 0.02 * index
        margins.append(size if red > 200 else -size if green > 200 else np.nan)
    return np.array(margins)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sources")
    write_people(folder / "coco", [MEN, WOMEN] * 11 + [BLANK])
    write_places(folder, SCENES)
    return folder


def build(out, sources, **options):
    settings = {
        "root": sources / "coco",
        "places": read_backgrounds(sources / "places365_standard" / "train"),
        "margins": label_by_colour_in_place_of_a_model,
        "per_class": 10,
        "test_per_class": 4,
        "calibration": 1,
        "size": 32,
        "per_category": 2,
    }
    return build_coco_gender(out, **{**settings, **options})


@pytest.fixture(scope="module")
def built(tmp_path_factory, sources):
    return build(tmp_path_factory.mktemp("built") / "gender", sources, correlation=0.75, seed=3)


def read_rows(folder):
    with (folder / "metadata.csv").open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_groups_and_splits(built):
    rows = read_rows(built)
    assert tuple(rows[0]) == COLUMNS
    groups = Counter((row["split"], row["label"], row["attribute"]) for row in rows)
    # round(0.75 * 6) is 4 by rounding to even.
    expected = {("train", "man", "construction"): 4, ("train", "man", "kitchen"): 2}
    expected |= {("train", "woman", "kitchen"): 4, ("train", "woman", "construction"): 2}
    for label in ("man", "woman"):
        for kind in ("construction", "kitchen"):
            expected |= {("test", label, kind): 1, ("calibration", label, kind): 1}
    assert groups == expected
    assert len({row["object"] for row in rows}) == 20


def test_scenes_of_the_test_are_unseen(built):
    rows = read_rows(built)
    trained = {row["scene"] for row in rows if row["split"] == "train"}
    tested = {row["scene"] for row in rows if row["split"] != "train"}
    assert not trained & tested
    kinds = {row["scene"].rpartition("/")[0]: row["attribute"] for row in rows}
    assert kinds["kitchen"] == "kitchen"
    assert kinds["excavation"] == kinds["construction_site"] == "construction"


def test_composites_are_75_percent_in_the_middle(built):
    for row in read_rows(built):
        image = np.asarray(Image.open(built / row["path"]))
        mask = np.asarray(Image.open(built / row["mask"]))
        assert image.shape == (32, 32, 3)
        assert mask.shape == (32, 32)
        assert (mask[4:28, 4:28] > 0).all()
        assert not mask[:4].any()
        assert not mask[:, 28:].any()
        assert tuple(image[16, 16]) == (MEN if row["label"] == "man" else WOMEN)
        assert image[0, 0, 2] == 50


def test_as_a_task(built):
    assert INFO.open is open_built
    task = open_built(built)
    assert task.table.classes == ("man", "woman")
    assert task.table.attribute_names == ("construction", "kitchen")
    assert task.tests == ("test",)
    assert task.class_words == ("male person", "female person")
    assert task.templates == "people"
    assert task.reject == (("construction site background", "kitchen background"),)
    assert task.accept == (("male person", "female person"),)
    assert task.correlation == 0.75
    assert any("calibration" in note for note in task.notes)
    assert task.foregrounds is not None
    assert len(task.foregrounds) == 12
    trained = {row["object"] for row in read_rows(built) if row["split"] == "train"}
    assert set(task.foregrounds.ids) == trained
    assert task.backgrounds is not None
    assert set(task.backgrounds.categories) == {"forest-broadleaf", "alley"}
    assert len(task.backgrounds) == 3
    assert task.foregrounds.read(0).size == (64, 64)


def test_card(built):
    card = json.loads((built / "card.json").read_text())
    assert card["name"] == "coco-gender"
    assert "rather than true, self-identified demographic data" in card["disclaimer"]
    assert any("CC-BY-4.0" in line for line in card["licences"])
    counts = [line for line in card["licences"] if line.startswith("COCO people")]
    assert len(counts) == 2
    assert any("Attribution-NonCommercial" in line for line in counts)
    assert card["margins"]["people"] == 23
    assert card["margins"]["without a margin"] == 1
    assert sum(card["margins"]["by bin"]["man"]) == 11
    assert card["counts"]["test"] == {
        f"{label} on {kind}": 1
        for label in ("man", "woman")
        for kind in ("construction", "kitchen")
    }


def test_the_same_seed_and_the_kept_margins_give_the_same_files(built, sources, tmp_path):
    again = build(tmp_path / "a", sources, correlation=0.75, seed=3, margins=built / "margins.csv")
    assert read_rows(again) == read_rows(built)
    first = read_rows(built)[0]["path"]
    assert (again / first).read_bytes() == (built / first).read_bytes()
    other = build(tmp_path / "b", sources, correlation=1.0, seed=4)
    rows = read_rows(other)
    assert rows != read_rows(built)
    usual = {"man": "construction", "woman": "kitchen"}
    assert all(r["attribute"] == usual[r["label"]] for r in rows if r["split"] == "train")


def test_check(built, sources, tmp_path):
    assert INFO.check(built) == []
    copy = build(tmp_path / "gender", sources)
    for row in read_rows(copy):
        (copy / row["path"]).unlink()
    assert "20 files are missing: " in INFO.check(copy)[0]
    assert INFO.check(tmp_path)[0].endswith("metadata.csv is missing")


def test_what_cannot_be_built(sources, tmp_path):
    with pytest.raises(InputError, match=r"class man: only 11 of 11 margins lie .* 12 are wanted"):
        build(tmp_path / "a", sources, per_class=12)
    with pytest.raises(UsageError, match=r"correlation 0\.4"):
        build(tmp_path / "a", sources, correlation=0.4)
    with pytest.raises(UsageError, match="test_per_class 3 of 10; use an even part"):
        build(tmp_path / "a", sources, test_per_class=3)
    with pytest.raises(UsageError, match="calibration 2 of the 2 test people"):
        build(tmp_path / "a", sources, calibration=2)
    assert not list(tmp_path.iterdir())
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    with pytest.raises(RunExistsError):
        build(tmp_path / "full", sources)


def test_scenes_that_are_missing_are_named(sources, tmp_path):
    pool = read_backgrounds(sources / "places365_standard" / "train")
    with pytest.raises(InputError, match="0 scenes of kitchen and kitchenette"):
        split_scenes(pool.select("excavation", "alley"), seed=0)
    with pytest.raises(InputError, match="no neutral scene"):
        build(tmp_path / "a", sources, places=pool.select("excavation", "kitchen"))
    with pytest.raises(TableError, match="categories have no image"):
        open_places(sources)


def test_places_are_opened_with_the_pretraining_categories(tmp_path):
    named = ("excavation", "construction_site", "kitchen", *places365.PRETRAINING)
    write_places(tmp_path, dict.fromkeys((*named, "zen_garden"), 1), side=4)
    found = open_places(tmp_path)
    assert set(found.categories) == set(named)
    assert not set(places365.GENDER_MAN + places365.GENDER_WOMAN) & set(places365.PRETRAINING)


def test_eighty_twenty_of_the_scenes_of_each_kind(sources):
    pool = read_backgrounds(sources / "places365_standard" / "train")
    near, far = split_scenes(pool, seed=0)
    assert {kind: rows.size for kind, rows in near.items()} == {"construction": 8, "kitchen": 8}
    assert {kind: rows.size for kind, rows in far.items()} == {"construction": 2, "kitchen": 2}
    assert not set(near["kitchen"].tolist()) & set(far["kitchen"].tolist())


def test_the_papers_numbers():
    people = {"man": np.arange(4000), "woman": np.arange(4000, 8000)}
    near = {"construction": np.arange(8000), "kitchen": np.arange(8000, 16000)}
    far = {"construction": np.arange(16000, 18000), "kitchen": np.arange(18000, 20000)}
    placed = place_people(
        people, near, far, test_per_class=1000, calibration=100, correlation=0.95, seed=0
    )
    groups = Counter((one.split, one.label, one.kind) for one in placed)
    assert groups["train", "man", "construction"] == groups["train", "woman", "kitchen"] == 2850
    assert groups["train", "man", "kitchen"] == groups["train", "woman", "construction"] == 150
    assert {groups["test", a, b] for a in people for b in near} == {400}
    assert {groups["calibration", a, b] for a in people for b in near} == {100}
    assert len({one.person for one in placed}) == 8000
    # With scenes enough none is used twice.
    assert len({one.scene for one in placed}) == 8000
