from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fieldmark.core.errors import NotApplicableError, UsageError
from fieldmark.data.controlled import canvases
from fieldmark.data.controlled.canvases import CORNERS, PLACES, draw_images
from fieldmark.data.controlled.features import FEATURES, draw_feature, find_kind
from fieldmark.data.controlled.images import Setting
from fieldmark.data.controlled.objects import DIGITS, DOMAINS, Objects, open_objects
from fieldmark.metrics.association import cramers_v
from tests.data.controlled.fake_packages import fake_packages

SETTING = Setting(
    domain="digits",
    feature="red-rectangle",
    classes=("three", "one", "seven"),
    target="one",
    correlation=0.9,
)
STAMPS = replace(SETTING, domain="stamps", classes=("bird", "tool", "plant"), target="tool")
FEATURE, DISTRACTOR, BLANK = 3, 4, 5
DRAWN = pytest.mark.parametrize("setting", [SETTING, STAMPS], ids=["digits", "fake-stamps"])


@pytest.fixture(scope="module", autouse=True)
def fake_stamps(tmp_path_factory):
    with fake_packages(tmp_path_factory.mktemp("cache")):
        yield


def draw(setting, *, tied=True, count=48, side=32, fold="training"):
    objects = open_objects(setting.domain)
    return draw_images(setting, objects, fold=fold, count=count, side=side, tied=tied)


def read_all(images):
    return images.pixels.read(np.arange(len(images))).numpy()


def cut(pixels, box):
    x0, y0, x1, y1 = box.astype(int).tolist()
    return pixels[:, y0:y1, x0:x1]


def locate(corner, *, side=32):
    half = side // 2
    x, y = half * (corner.endswith("right")), half * (corner.startswith("bottom"))
    return [x, y, x + half, y + half]


@DRAWN
@pytest.mark.parametrize("tied", [True, False])
def test_the_same_arguments_give_the_same_bytes(setting, tied):
    one, two = draw(setting, tied=tied), draw(setting, tied=tied)
    np.testing.assert_array_equal(read_all(one), read_all(two))
    for name in ("labels", "captions", "feature", "owners", "boxes", "shows", "names"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    other = draw(replace(setting, draw=1), tied=tied)
    assert (read_all(one) != read_all(other)).any()


@DRAWN
def test_a_region_shows_the_feature_and_nothing_outside_it_does(setting, monkeypatch):
    def draw_invisible(name, *, side, random):
        image = draw_feature(name, side=side, random=random)
        return Image.new("RGBA", image.size) if name == setting.feature else image

    images = draw(setting, tied=False)
    monkeypatch.setattr(canvases, "draw_feature", draw_invisible)
    without = draw(setting, tied=False)
    np.testing.assert_array_equal(images.boxes, without.boxes)
    changed = (read_all(images) != read_all(without)).any(1)
    shown = np.zeros_like(changed)
    for box, owner in zip(
        images.boxes[images.shows == FEATURE], images.owners[images.shows == FEATURE], strict=True
    ):
        assert cut(changed[owner][None], box).any()
        cut(shown[owner][None], box)[:] = True
    assert not (changed & ~shown).any()
    np.testing.assert_array_equal(changed.any((1, 2)), images.feature)


def test_only_blank_quadrants_are_black():
    images = draw(SETTING)
    pixels = read_all(images)
    for box, owner, what in zip(images.boxes, images.owners, images.shows, strict=True):
        assert cut(pixels[owner], box).any() == (what != BLANK)


@DRAWN
def test_the_object_is_drawn_in_its_region(setting, monkeypatch):
    # Every object is an opaque magenta square, which no feature is and no scene.
    thing = Image.new("RGBA", (10, 10), (255, 0, 255, 255))
    objects = replace(open_objects(setting.domain), read=lambda number: thing)
    images = draw_images(setting, objects, fold="training", count=24, side=32, tied=True)
    pixels = read_all(images)
    for box, owner, what in zip(images.boxes, images.owners, images.shows, strict=True):
        part = cut(pixels[owner], box)
        magenta = (part == np.array([255, 0, 255]).reshape(3, 1, 1)).all(0)
        # Nine tenths of a quadrant of 16 are 14 pixels.
        assert magenta.sum() == (14 * 14 if what == images.labels[owner] else 0)


@DRAWN
@pytest.mark.parametrize("place", CORNERS)
def test_a_fixed_place_holds_the_feature_and_no_object(setting, place):
    images = draw(replace(setting, place=place), tied=False)
    x0, y0, x1, y1 = locate(place)
    inside = (images.boxes >= [x0, y0, x0, y0]).all(1) & (images.boxes <= [x1, y1, x1, y1]).all(1)
    assert inside[images.shows == FEATURE].all()
    assert (images.shows == FEATURE).sum() == 24
    assert set(images.shows[inside].tolist()) <= {FEATURE, BLANK}


def test_any_place_is_every_place():
    images = draw(SETTING, tied=False)
    found = images.boxes[images.shows == FEATURE]
    assert len(np.unique(found, axis=0)) == 4


@pytest.mark.parametrize("correlation", [0.5, 0.9, 1.0])
@DRAWN
def test_a_fine_tuning_set_is_tied_and_an_evaluation_set_is_not(setting, correlation):
    setting = replace(setting, correlation=correlation)
    tied = draw(setting, count=200, side=8)
    value = cramers_v(tied.labels, tied.feature)
    assert correlation - 0.03 < value <= correlation + 1e-9
    on_target = tied.feature[tied.labels == 1].mean()
    assert on_target > 0.5 > tied.feature[tied.labels != 1].mean()
    counts = np.bincount(tied.labels)
    assert counts.sum() == 200
    assert counts.min() >= 200 / 3 * 0.8
    loose = draw(setting, count=198, side=8, tied=False)
    assert cramers_v(loose.labels, loose.feature) < 1e-9 + 1 / 66
    assert np.bincount(loose.labels).tolist() == [66, 66, 66]
    assert loose.feature.sum() == 99


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_whatever_is_drawn_regions_are_true_to_it(data):
    domain = data.draw(st.sampled_from(["digits", "stamps"]))
    width = data.draw(st.integers(2, 5))
    classes = tuple(data.draw(st.permutations(DOMAINS[domain].classes))[:width])
    setting = Setting(
        domain=domain,
        feature=data.draw(st.sampled_from(sorted(FEATURES))),
        place=data.draw(st.sampled_from(PLACES)),
        size=data.draw(st.floats(0.05, 1)),
        classes=classes,
        target=data.draw(st.sampled_from(classes)),
        correlation=data.draw(st.floats(0.6, 1)),
        draw=data.draw(st.integers(0, 1000)),
    )
    side = data.draw(st.sampled_from([8, 16, 32]))
    tied = data.draw(st.booleans())
    fold = "training" if tied else "evaluation"
    count = data.draw(st.integers(4 * width, 40))
    images = draw(setting, tied=tied, count=count, side=side, fold=fold)
    assert read_all(images).shape == (count, 3, side, side)
    assert len(images) == len(images.captions) == len(images.feature) == count
    assert images.names == (*classes, setting.feature, "distractor", "blank")
    assert (np.diff(images.owners) >= 0).all()
    assert ((images.boxes >= 0) & (images.boxes <= side)).all()
    assert (images.boxes[:, :2] < images.boxes[:, 2:]).all()
    shown = np.zeros((count, width + 3), int)
    np.add.at(shown, (images.owners, images.shows), 1)
    np.testing.assert_array_equal(shown[:, :width], np.eye(width, dtype=int)[images.labels])
    np.testing.assert_array_equal(shown[:, width], images.feature)
    assert shown[:, width + 1].max() <= 1
    blank = 3 - images.feature - shown[:, width + 1]
    np.testing.assert_array_equal(shown[:, width + 2], blank if domain == "digits" else 0 * blank)
    for label, caption in zip(images.labels, images.captions, strict=True):
        assert classes[label] in caption


def test_distractors_are_of_another_kind_and_go_with_no_class(monkeypatch):
    drawn = []

    def watch(name, *, side, random):
        drawn.append(name)
        return draw_feature(name, side=side, random=random)

    monkeypatch.setattr(canvases, "draw_feature", watch)
    images = draw(SETTING, count=400, side=8)
    others = [name for name in drawn if name != SETTING.feature]
    assert len(set(others)) == 3
    assert "rectangle" not in {find_kind(name) for name in others}
    has = np.zeros(400, bool)
    has[images.owners[images.shows == DISTRACTOR]] = True
    assert has.sum() == len(others)
    assert has.mean() == pytest.approx(0.5, abs=0.1)
    assert cramers_v(images.labels, has) < 0.15


def make_objects(*, labels, training):
    """Return black objects that note which of them are read."""
    taken = []

    def read(number):
        taken.append(number)
        return Image.new("RGBA", (4, 4), "white")

    return taken, Objects(
        name="digits",
        classes=DIGITS,
        labels=np.array(labels),
        training=np.array(training),
        read=read,
    )


@pytest.mark.parametrize("fold", ["training", "evaluation"])
def test_objects_are_of_the_fold_and_none_comes_twice_where_there_are_enough(fold):
    labels = np.repeat([1, 3, 7], 40)
    taken, objects = make_objects(labels=labels, training=np.arange(120) % 2 == 0)
    setting = replace(SETTING, classes=("one", "three"), target="one")
    images = draw_images(setting, objects, fold=fold, count=40, side=8, tied=False)
    assert len(set(taken)) == 40
    assert {number % 2 for number in taken} == {0 if fold == "training" else 1}
    names = [DIGITS[labels[number]] for number in taken]
    assert names == [setting.classes[label] for label in images.labels]
    taken.clear()
    draw_images(setting, objects, fold=fold, count=100, side=8, tied=False)
    # Fifty of a class out of twenty: each of them twice or three times.
    _, counts = np.unique(taken, return_counts=True)
    assert len(counts) == 40
    assert set(counts.tolist()) == {2, 3}


def test_a_class_without_an_object_in_the_fold_is_said():
    _, objects = make_objects(labels=[1, 1, 3, 3], training=[True, False, True, True])
    setting = replace(SETTING, classes=("one", "three"), target="one")
    with pytest.raises(NotApplicableError, match="digits has no 'three' in its fold for eval"):
        draw_images(setting, objects, fold="evaluation", count=8, side=8, tied=False)


@pytest.mark.parametrize(
    ("values", "amounts", "problem"),
    [
        ({"classes": ("one", "eleven")}, {}, r"has a class, .*; classes: zero, one, .*; features"),
        ({"feature": "red-square"}, {}, "has a class, feature or place that digits has not"),
        ({"place": "middle"}, {}, "places: any, top-left, top-right, bottom-left, bottom-right"),
        ({"classes": ("one", "two", "two")}, {}, "names one class twice"),
        ({}, {"count": 11}, "11 images are too few for 3 classes; ask for 12 or more"),
        ({}, {"side": 33}, "images of 33 pixels have no quadrants to draw in"),
        ({}, {"side": 6}, "images of 6 pixels have no quadrants"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(values, amounts, problem):
    with pytest.raises(UsageError, match=problem) as caught:
        draw(replace(SETTING, **values), **amounts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"target": "two"}, "'two' is none of the classes three, one, seven; give two classes"),
        ({"classes": ("one",)}, "'one' is none of the classes one; give two classes or more"),
        ({"correlation": 0.0}, r"a correlation of 0 or a size of 0.7 is not in \(0, 1\]"),
        ({"correlation": 1.1}, r"is not in \(0, 1\]"),
        ({"correlation": float("nan")}, r"is not in \(0, 1\]"),
        ({"size": 0.0}, r"is not in \(0, 1\]"),
        ({"size": 1.5}, r"is not in \(0, 1\]"),
    ],
)
def test_a_setting_out_of_its_range_is_one_line(values, problem):
    with pytest.raises(UsageError, match=problem):
        replace(SETTING, **values)


def test_scenes_of_fake_photographs_are_of_one_fold_each():
    training, evaluation = (canvases._open_scenes(16, fold) for fold in ("training", "evaluation"))
    seen = {scene.tobytes() for scene in training}
    assert len(seen) == len(training) > len(evaluation) > 5
    assert not seen & {scene.tobytes() for scene in evaluation}
