from __future__ import annotations

import json

import numpy as np
import pytest

from fieldmark.core.errors import FieldmarkError, TableError
from fieldmark.data.controlled.coco_split import read_split
from fieldmark.discovery.regions import map_boxes
from tests.data.controlled.captioned_trees import SPEC, CaptionedTree, open_view
from tests.data.datasets.coco_trees import CATEGORIES

PERSON, CAR = CATEGORIES.index("person"), CATEGORIES.index("car")


def _write(root, *scenes):
    tree = CaptionedTree(root)
    for scene in scenes:
        tree.add_scene(*scene)
    return tree.write()


def test_columns_are_what_the_files_say(tmp_path):
    tree = CaptionedTree(tmp_path)
    first = tree.add_scene([("car", (1, 2, 3, 4))], ["A  car.\n", "Red."])
    second = tree.add_scene(["person"], ["Somebody."], crowds=("person",), size=(20, 30))
    # An annotation file is in no order of images.
    tree.add_object(first, "boat", [], box=(0, 0, 5.5, 2))
    tree.captions.reverse()
    tree.write()
    split = read_split(tmp_path)
    assert len(split) == second == 2
    assert split.sizes.tolist() == [[32, 16], [20, 30]]
    assert split.captions == ("Red.", "A car.", "Somebody.")
    assert split.speakers.tolist() == [0, 0, 1]
    assert split.owners.tolist() == [0, 0, 1]
    assert [split.names[code] for code in split.categories] == ["car", "boat", "person"]
    assert split.boxes[:2].tolist() == [[1, 2, 4, 6], [0, 0, 5.5, 2]]
    assert split.crowds.tolist() == [False, False, True]
    assert (split.folder / split.files[1]).is_file()


@pytest.mark.parametrize("resize", ["squash", "shortest", "longest"])
def test_boxes_are_those_that_discovery_maps(tmp_path, resize):
    random = np.random.default_rng(0)
    tree = CaptionedTree(tmp_path)
    sizes = [(32, 16), (16, 32), (20, 20), (33, 17)]
    drawn = []
    for width, height in sizes:
        corners = random.integers(0, 10, (6, 2))
        boxes = [(int(x), int(y), 5, 6) for x, y in corners]
        tree.add_scene([("car", box) for box in boxes], ["A car."], size=(width, height))
        drawn.append([(x, y, x + w, y + h) for x, y, w, h in boxes])
    tree.write()
    view = open_view(tmp_path, resize=resize)
    spec = SPEC.__class__(**{**SPEC.__dict__, "resize": resize})
    expected = [
        map_boxes(np.array(boxes), size=size, spec=spec)[0]
        for boxes, size in zip(drawn, sizes, strict=True)
    ]
    np.testing.assert_allclose(view.boxes, np.concatenate(expected), atol=1e-6)


def test_a_crowd_or_what_is_cut_off_is_shown_but_is_no_region(tmp_path):
    # The shortest side of 32 x 16 fits 8 pixels, so columns 8 to 24 stay.
    places = {"in": (10, 2, 4, 4), "half": (6, 2, 4, 4), "less": (5, 2, 4, 4), "out": (0, 2, 8, 4)}
    scenes = [([("car", box)], ["A car."]) for box in places.values()]
    tree = CaptionedTree(tmp_path)
    for scene in scenes:
        tree.add_scene(*scene)
    tree.add_scene(
        [("car", (10, 2, 4, 4)), ("person", (10, 2, 8, 8))], ["A car."], crowds=["person"]
    )
    tree.add_scene([("car", (10, 2, 1, 4)), ("person", (10, 2, 0, 8))], ["A car."])
    tree.write()
    view = open_view(tmp_path, resize="shortest")
    assert view.shown[:, CAR].tolist() == [True, True, True, False, True, True]
    assert view.clear[:, CAR].tolist() == [True, True, False, False, True, False]
    assert view.shown[4:, PERSON].tolist() == [True, False]
    assert not view.clear[:, PERSON].any()
    assert view.marked.tolist() == [True, True, False, False, True, False, False, False]


def test_captions_name_categories_by_whole_words(tmp_path):
    texts = ["People by a CAR.", "A card.", "Two buses", "A person's boat"]
    _write(tmp_path, (["car"], texts))
    view = open_view(tmp_path)
    named = [
        [name for name, told in zip(CATEGORIES, row, strict=True) if told] for row in view.named
    ]
    assert named == [["person", "car"], [], ["bus"], ["person", "boat"]]


def _spoil(path, part, **values):
    content = json.loads(path.read_text())
    content[part][0].update(values)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("part", "values", "problem"),
    [
        ("annotations", {"image_id": 99}, "annotation 1 has the image_id 99"),
        ("annotations", {"category_id": None}, "annotation 1 has the category_id None"),
        ("annotations", {"bbox": [0, 0, -1, 5]}, r"annotation 1 has the box \[0, 0, -1, 5\]"),
        ("annotations", {"bbox": [0, 0, float("nan"), 5]}, "annotation 1 has the box"),
        ("annotations", {"bbox": [0, 0, 5]}, "is no annotation file of COCO"),
        ("annotations", {"image_id": [1]}, "is no annotation file of COCO"),
        ("images", {"width": 0}, "000000000001.png has a side below 1 pixel"),
        ("images", {"height": "tall"}, "is no annotation file of COCO"),
    ],
)
def test_a_damaged_annotation_is_one_line(tmp_path, part, values, problem):
    path = _write(tmp_path, (["car"], ["A car."]), (["car"], ["A car."]))
    _spoil(path, part, **values)
    with pytest.raises(TableError, match=problem) as caught:
        read_split(tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_captions_are_one_line(tmp_path):
    path = _write(tmp_path, (["car"], ["A car."])).with_name("captions_train2017.json")
    _spoil(path, "annotations", caption=None)
    with pytest.raises(TableError, match="is no annotation file of COCO"):
        read_split(tmp_path)
    _spoil(path, "annotations", caption="A car.", image_id=5)
    with pytest.raises(TableError, match="annotation 1 has the image_id 5"):
        read_split(tmp_path)
    path.write_text("{}")
    with pytest.raises(TableError, match="is no JSON file with annotations"):
        read_split(tmp_path)
    path.unlink()
    with pytest.raises(TableError, match=r"captions_train2017\.json: no such file"):
        read_split(tmp_path)


def test_a_split_without_objects_or_captions_is_empty_not_wrong(tmp_path):
    _write(tmp_path, ([], []))
    view = open_view(tmp_path)
    assert view.boxes.shape == (0, 4)
    assert view.clear.shape == (1, len(CATEGORIES))
    assert not view.clear.any()


def test_a_missing_split_is_said(tmp_path):
    _write(tmp_path, (["car"], ["A car."]))
    with pytest.raises(FieldmarkError, match=r"instances_val2017\.json"):
        read_split(tmp_path, split="val2017")
