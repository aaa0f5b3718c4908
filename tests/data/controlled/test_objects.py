from __future__ import annotations

import re

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from fieldmark.core.errors import FetchError, InputError, UnknownNameError
from fieldmark.data.controlled import objects as module
from fieldmark.data.controlled.objects import DIGITS, DOMAINS, STAMPS, open_objects
from tests.data.controlled.fake_packages import FOLDERS, fake_packages
from tests.data.controlled.idx_files import write_pair


@pytest.fixture(scope="module")
def fake_stamps(tmp_path_factory):
    with fake_packages(tmp_path_factory.mktemp("cache")):
        yield open_objects("stamps")


def check_folds(objects):
    """Check that every object is in one fold, and every class in both."""
    listed = []
    for label in range(len(objects.classes)):
        folds = [objects.list_fold(fold, label=label) for fold in ("training", "evaluation")]
        assert all(map(len, folds))
        for numbers in folds:
            assert (objects.labels[numbers] == label).all()
        listed += folds
    np.testing.assert_array_equal(np.sort(np.concatenate(listed)), np.arange(len(objects.labels)))


def test_digits_are_those_of_scikit_learn():
    objects, digits = open_objects("digits"), load_digits()
    check_folds(objects)
    np.testing.assert_array_equal(objects.labels, digits.target)
    assert objects.classes == DIGITS
    assert not objects.scenes
    assert (~objects.training).mean() == pytest.approx(0.4, abs=0.04)
    for number in (0, 777, 1796):
        image = objects.read(number)
        assert (image.mode, image.size) == ("RGBA", (28, 28))
        small = np.asarray(image.convert("L").resize((8, 8), Image.Resampling.BOX)).ravel()
        assert np.corrcoef(small, digits.images[number].ravel())[0, 1] > 0.95


def test_mnists_own_files_are_taken_with_their_own_folds(tmp_path):
    random = np.random.default_rng(0)
    given = {}
    for part, count in (("train", 30), ("t10k", 20)):
        images = random.integers(0, 256, (count, 28, 28), np.uint8)
        write_pair(tmp_path, np.arange(count) % 10, images=images, part=part)
        given[part] = images
    objects = open_objects("digits", root=tmp_path)
    check_folds(objects)
    np.testing.assert_array_equal(np.flatnonzero(objects.training), np.arange(30))
    assert objects.labels.tolist() == [*(np.arange(30) % 10), *(np.arange(20) % 10)]
    for number, expected in ((0, given["train"][0]), (30, given["t10k"][0])):
        pixels = np.asarray(objects.read(number))
        np.testing.assert_array_equal(pixels[..., 1], expected)
        assert (pixels[..., 3] == 255).all()


def test_fashion_is_read_from_the_users_folder(tmp_path):
    for part in ("train", "t10k"):
        write_pair(tmp_path, np.arange(20) % 10, part=part)
    objects = open_objects("fashion", root=tmp_path)
    check_folds(objects)
    assert objects.classes[objects.labels[5]] == "sandal"


def test_a_damaged_file_is_one_line(tmp_path):
    for part in ("train", "t10k"):
        write_pair(tmp_path, np.arange(20) % 10, part=part)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"no labels")
    with pytest.raises(InputError, match="train-labels-idx1-ubyte") as caught:
        open_objects("digits", root=tmp_path)
    assert "\n" not in str(caught.value)


def test_an_unknown_domain_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match="unknown domain 'birds'; known: digits, fashion"):
        open_objects("birds")


def test_fake_stamps_are_split_within_each_class(fake_stamps):
    check_folds(fake_stamps)
    assert fake_stamps.classes == tuple(STAMPS)
    assert fake_stamps.scenes
    # No mirror, no cartoon and no fire engine, which is a feature: what is listed and no more.
    counts = np.bincount(fake_stamps.labels)
    assert counts.tolist() == list(FOLDERS.values())
    held_out = np.bincount(fake_stamps.labels[~fake_stamps.training])
    # By hand: 0.4 of 10, 12 and 5, rounded half to even.
    assert held_out.tolist() == [4, 5, 2, 2, 2, 2, 2, 2]
    assert fake_stamps.read(0).mode == "RGBA"


def test_folds_of_fake_stamps_do_not_depend_on_the_run(fake_stamps):
    module._open_stamps.cache_clear()
    again = open_objects("stamps")
    assert again is not fake_stamps
    np.testing.assert_array_equal(again.training, fake_stamps.training)


def test_an_empty_package_is_said(tmp_path, monkeypatch):
    (tmp_path / "debian/tuxpaint-stamps-default").mkdir(parents=True)
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path))
    module._open_stamps.cache_clear()
    with pytest.raises(FetchError, match="has no cut-outs; delete it and fetch it again"):
        open_objects("stamps")


@pytest.mark.parametrize("domain", DOMAINS)
def test_captions_and_prompts_have_one_place_for_the_class(domain):
    known = DOMAINS[domain]
    assert len(set(known.captions)) == len(known.captions) == 4
    for text in (*known.captions, *known.prompts):
        assert text.count("{}") == 1
        assert re.sub(r"[{}]", "", text).isascii()
    assert len(set(known.classes)) == len(known.classes)
