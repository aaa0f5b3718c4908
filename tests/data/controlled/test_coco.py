from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from fieldmark.core.errors import NotApplicableError, TableError, UsageError
from fieldmark.data.controlled.coco import choose_images, draw_coco_images, find_eligible
from fieldmark.data.controlled.coco_settings import draw_settings, list_attributes
from fieldmark.data.controlled.images import Setting
from fieldmark.metrics.association import cramers_v
from fieldmark.models.preprocess import preprocess_image
from tests.data.controlled.captioned_trees import SPEC, CaptionedTree, open_view, write_vehicles

SETTING = Setting(
    domain="coco",
    feature="person",
    size=1.0,
    classes=("bus", "car", "boat"),
    target="car",
    correlation=0.8,
)
PAIR = replace(SETTING, classes=("bus", "car"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    write_vehicles(folder, count=80)
    write_vehicles(folder, split="val2017", count=15)
    return folder


@pytest.fixture(scope="module")
def training(root):
    return open_view(root)


@pytest.fixture(scope="module")
def evaluation(root):
    return open_view(root, split="val2017")


def test_a_fine_tuning_set_is_tied_and_its_captions_name_the_class(training, tmp_path):
    images = draw_coco_images(SETTING, training, tied=True, cache=tmp_path)
    value = cramers_v(images.labels, images.feature)
    assert 0.78 < value <= 0.8
    counts = np.bincount(images.labels)
    # There are 80 images of a car with a person, and by hand a V of 0.8 among three classes of one
    # size is a rate of swaps of 0.0915: so 88 images of a class.
    assert counts.tolist() == [88, 88, 88]
    assert images.feature[images.labels == 1].mean() == pytest.approx(1 - 0.0915, abs=1 / 88)
    assert images.feature[images.labels != 1].mean() == pytest.approx(0.0915, abs=1 / 88)
    for label, caption in zip(images.labels, images.captions, strict=True):
        said = re.findall(r"bus|car|boat", caption)
        assert said == [images.names[label]]
    # Both captions that name the class are drawn.
    assert {caption.startswith("Two") for caption in images.captions} == {True, False}


def test_an_evaluation_set_is_balanced(evaluation, tmp_path):
    images = draw_coco_images(SETTING, evaluation, tied=False, cache=tmp_path)
    assert cramers_v(images.labels, images.feature) == 0
    assert np.bincount(images.labels).tolist() == [30, 30, 30]
    fewer = draw_coco_images(SETTING, evaluation, tied=False, cache=tmp_path, per_class=20)
    assert np.bincount(fewer.labels).tolist() == [20, 20, 20]


@pytest.mark.parametrize("tied", [True, False])
def test_regions_show_what_the_annotations_say(root, tied, tmp_path):
    view = open_view(root, split="train2017")
    images = draw_coco_images(SETTING, view, tied=tied, cache=tmp_path)
    assert images.names[:4] == ("bus", "car", "boat", "person")
    assert sorted(images.names) == sorted(view.split.names)
    assert (np.diff(images.owners) >= 0).all()
    shown = [set[int]() for _ in images.labels]
    for owner, what in zip(images.owners.tolist(), images.shows.tolist(), strict=True):
        shown[owner].add(what)
    for label, feature, found in zip(images.labels, images.feature, shown, strict=True):
        assert label in found
        assert (3 in found) == feature
        assert not found & ({0, 1, 2} - {label})
    # Objects stand 4 of 32 pixels wide in a row, the class first; 32 x 16 is squashed to 8 x 8.
    first = images.boxes[np.searchsorted(images.owners, np.arange(len(images)))]
    np.testing.assert_array_equal(first, np.tile([0, 1, 1, 5], (len(images), 1)))
    assert "bicycle" in {images.names[what] for what in images.shows}


def test_pixels_are_those_of_the_image_as_the_encoder_takes_it_in(root, training, tmp_path):
    images = draw_coco_images(PAIR, training, tied=True, cache=tmp_path)
    chosen, eligible = choose_images(PAIR, training, tied=True)
    assert len(images.pixels) == len(images) == len(chosen)
    rows = eligible.rows[chosen][[5, 3]]
    read = images.pixels.read(np.array([5, 3]))
    assert read.shape == (2, 3, SPEC.image_size, SPEC.image_size)
    for pixels, row in zip(read, rows, strict=True):
        with Image.open(training.split.folder / training.split.files[row]) as image:
            expected = preprocess_image(image, spec=replace(SPEC, resize="squash"))
        np.testing.assert_array_equal(pixels, expected)
    stored = sorted(tmp_path.glob("*.u8"))
    again = draw_coco_images(PAIR, training, tied=True, cache=tmp_path)
    assert sorted(tmp_path.glob("*.u8")) == stored
    assert again.captions == images.captions


def test_draws_differ(training):
    rows = []
    for draw in (0, 0, 1):
        chosen, eligible = choose_images(
            replace(PAIR, draw=draw), training, tied=True, per_class=60
        )
        rows.append(eligible.rows[chosen].tolist())
    assert rows[0] == rows[1] != rows[2]


def test_what_is_not_clear_is_left_out(tmp_path):
    tree = CaptionedTree(tmp_path)
    tree.add_scene(["car", "person"], ["A car."])
    tree.add_scene(["car"], ["A bus.", "A thing."])
    tree.add_scene(["car"], ["A car and a bus.", "Cars."])
    tree.add_scene(["car", "bus"], ["A car."])
    tree.add_scene(["car", "person"], ["A car."], crowds=["person"])
    tree.add_scene(["car", "bus"], ["A car."], crowds=["bus"])
    tree.add_scene(["bicycle"], ["A car."])
    tree.add_scene(["bus", "boat"], ["A bus, no boat."])
    tree.add_scene(["car"], [])
    tree.write()
    view = open_view(tmp_path)
    tied = find_eligible(PAIR, view, tied=True)
    assert tied.rows.tolist() == [0, 2, 7]
    assert tied.labels.tolist() == [1, 1, 0]
    assert tied.feature.tolist() == [True, False, False]
    spoken = [view.split.captions[place] for place in np.flatnonzero(tied.captions)]
    assert spoken == ["A car.", "Cars.", "A bus, no boat."]
    assert find_eligible(PAIR, view, tied=False).rows.tolist() == [0, 1, 2, 7]


def test_too_few_images_are_said_with_their_counts(evaluation, tmp_path):
    with pytest.raises(NotApplicableError, match=r"bus 15 with and 15 without, car 15 with"):
        draw_coco_images(PAIR, evaluation, tied=True, cache=tmp_path)
    write_vehicles(tmp_path, count=4)
    with pytest.raises(
        NotApplicableError, match=r"needs 10 images a class with and without person"
    ):
        draw_coco_images(PAIR, open_view(tmp_path), tied=False, cache=tmp_path)
    setting = replace(PAIR, classes=("car", "train"))
    with pytest.raises(NotApplicableError, match="train 0 with and 0 without"):
        draw_coco_images(setting, evaluation, tied=False, cache=tmp_path)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"feature": "cat"}, "has no category 'cat'"),
        ({"classes": ("car", "cat")}, "has no category 'cat'"),
        ({"feature": "bus"}, "names one category twice"),
        ({"classes": ("car", "car")}, "names one category twice"),
    ],
)
def test_a_setting_that_cannot_be_is_said(training, values, problem):
    with pytest.raises(UsageError, match=problem):
        choose_images(replace(PAIR, **values), training, tied=True)


def test_an_image_that_is_missing_or_another_is_said(tmp_path):
    write_vehicles(tmp_path, count=10)
    view = open_view(tmp_path)
    chosen, eligible = choose_images(PAIR, view, tied=False)
    path = view.split.folder / view.split.files[eligible.rows[chosen][0]]
    Image.new("RGB", (5, 6)).save(path)
    with pytest.raises(TableError, match="the image is 5 x 6, its annotation says 32 x 16"):
        draw_coco_images(PAIR, view, tied=False, cache=tmp_path / "cache")
    path.unlink()
    with pytest.raises(TableError, match="1 file is missing"):
        draw_coco_images(PAIR, view, tied=False, cache=tmp_path / "cache")


def test_attributes_are_what_captions_name_and_images_show(training):
    # "people" stands in captions of images without a person, too; nobody names a bicycle.
    assert list_attributes(training) == ("person", "car", "bus", "boat")


def test_settings_are_drawn_from_what_there_is(training, evaluation):
    drawn = draw_settings(training, evaluation, count=12, seed=0)
    assert len({setting.name for setting in drawn}) == 12
    assert {setting.feature for setting in drawn} == {"person"}
    assert {len(setting.classes) for setting in drawn} == {2, 3}
    assert {setting.target for setting in drawn} == {"bus", "car", "boat"}
    assert draw_settings(training, evaluation, count=5, seed=0) == drawn[:5]
    assert draw_settings(training, evaluation, count=5, seed=1) != drawn[:5]
    for setting in drawn[:3]:
        chosen, eligible = choose_images(setting, training, tied=True)
        value = cramers_v(eligible.labels[chosen], eligible.feature[chosen])
        assert setting.correlation - 0.03 < value <= setting.correlation + 1e-9


def test_too_few_settings_are_said(training, evaluation):
    # A target of 3, a label set of 2 or 3, one correlation: 6 names.
    with pytest.raises(NotApplicableError, match="bear 6 of the 7 settings"):
        draw_settings(training, evaluation, count=7, seed=0, correlations=[0.8])
    with pytest.raises(NotApplicableError, match="bear 0 of the 1 settings"):
        draw_settings(evaluation, evaluation, count=1, seed=0)
