from __future__ import annotations

import hashlib
import json
import urllib.error
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.models import get_model, get_model_weights

from fieldmark.core.errors import (
    ChecksumError,
    FetchError,
    InputError,
    UnknownNameError,
    UnsupportedEncoderError,
    UsageError,
)
from fieldmark.data.tables import ImageTable
from fieldmark.discovery.region_sources import (
    REGION_SOURCES,
    load_detector,
    make_regions,
    parse_region_source,
)
from fieldmark.discovery.regions import cut_quadrants, cut_scales
from fieldmark.testing import FakeEncoder

SPEC = FakeEncoder().spec
SMALL = "ssdlite320_mobilenet_v3_large"


class Pictures:
    """Two white pictures of 16 x 16 that have no path."""

    def __len__(self):
        return 2

    def read(self, index, /):
        return Image.new("RGB", (16, 16), "white")

    def hashes(self):
        return ("a", "b")


@pytest.fixture
def table(tmp_path):
    """Return the table of two white images of 16 x 16."""
    paths = tuple(tmp_path / f"{name}.png" for name in "ab")
    for path in paths:
        Image.new("RGB", (16, 16), "white").save(path)
    return ImageTable(
        name="white",
        root=tmp_path,
        ids=("a", "b"),
        paths=paths,
        labels=np.array([0, 1]),
        classes=("x", "y"),
    )


def _make(text, images=None, **options):
    return make_regions(parse_region_source(text), images or Pictures(), spec=SPEC, **options)


def test_grids_are_those_of_their_functions():
    assert _make("quadrants").boxes.tolist() == cut_quadrants(2, side=8).boxes.tolist()
    assert _make("scales:1,3").boxes.tolist() == cut_scales(2, side=8, scales=(1, 3)).boxes.tolist()
    assert _make("grid:1x2").boxes[:2].tolist() == [[0, 0, 4, 8], [4, 0, 8, 8]]
    assert _make("grid:2x1").boxes[:2].tolist() == [[0, 0, 8, 4], [0, 4, 8, 8]]


def test_boxes_of_a_table_and_of_coco_are_matched_to_the_images(table, tmp_path):
    (tmp_path / "boxes.csv").write_text("image,x0,y0,x1,y1,name\nb,0,0,8,16,left\n")
    regions = _make(f"boxes:{tmp_path / 'boxes.csv'}", table)
    assert regions.images.tolist() == [1]
    assert regions.boxes.tolist() == [[0, 0, 4, 8]]
    assert regions.names == ("left",)
    coco = {
        "images": [{"id": 1, "file_name": "a.png", "width": 16, "height": 16}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 7, "bbox": [8, 8, 8, 8]}],
        "categories": [{"id": 7, "name": "corner"}],
    }
    (tmp_path / "instances.json").write_text(json.dumps(coco))
    regions = _make(f"coco:{tmp_path / 'instances.json'}", table)
    assert (regions.images.tolist(), regions.names) == ([0], ("corner",))
    assert regions.boxes.tolist() == [[4, 4, 8, 8]]
    # Other images by column, such as crops of the same files, keep the table's ids and paths.
    assert len(_make(f"boxes:{tmp_path / 'boxes.csv'}", Pictures(), table=table)) == 1


def test_boxes_without_ids_to_match_by_are_refused(table, tmp_path):
    (tmp_path / "boxes.csv").write_text("image,x0,y0,x1,y1\nb,0,0,8,16\n")
    with pytest.raises(UsageError, match="matched to images by id or path"):
        _make(f"boxes:{tmp_path / 'boxes.csv'}")
    with pytest.raises(UsageError, match="a table of 1 images does not fit 2 images"):
        _make(f"boxes:{tmp_path / 'boxes.csv'}", table=table.take([0]))


def test_a_users_function_proposes_and_its_file_is_named_by_content(tmp_path):
    path = tmp_path / "halves.py"
    path.write_text(
        "def left(image):\n    return [[0, 0, image.width / 2, image.height]]\n"
        "def none(image):\n    return []\n"
    )
    source = parse_region_source(f"function:{path}:left")
    regions = make_regions(source, Pictures(), spec=SPEC)
    assert regions.boxes.tolist() == [[0, 0, 4, 8]] * 2
    assert source.to_text() == f"function:{path}:left"
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:12] in regions.source
    with pytest.raises(InputError, match=r"no region in 2 images"):
        _make(f"function:{path}:none")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("1 / 0", r"cannot be run \(ZeroDivisionError: division by zero\); run it with python"),
        ("def other(image): return []", r"holds no function 'find'; it holds other"),
        ("find = 3", r"holds no function 'find'; define it at the top level"),
        ("def find(image): return image.nothing", r"find: fails on an image \(AttributeError"),
        ("def find(image): return [[0, 0, 3]]", r"did not give boxes of four numbers"),
        ("def find(image): return [[0, 0, 99, 3]]", r"is empty or not inside 16 x 16"),
        ("def find(image): return [[5, 5, 5, 9]]", r"is empty or not inside 16 x 16"),
    ],
)
def test_a_users_function_that_fails_is_one_clear_line(tmp_path, code, message):
    path = tmp_path / "mine.py"
    path.write_text(code)
    with pytest.raises(InputError, match=message) as raised:
        _make(f"function:{path}:find")
    assert "\n" not in str(raised.value)


@pytest.fixture
def weights(tmp_path):
    """Return a file of random weights of the smallest detector."""
    torch.manual_seed(0)
    detector = get_model(SMALL, weights=None, weights_backbone=None)
    torch.save(detector.state_dict(), tmp_path / "random.pth")
    return tmp_path / "random.pth"


def test_a_detector_with_weights_of_a_file_is_that_detector(weights):
    loaded = load_detector(SMALL, weights=weights)
    assert not loaded.training
    own = get_model(SMALL, weights=None, weights_backbone=None)
    own.load_state_dict(torch.load(weights, weights_only=True))
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, expected = loaded([image])[0], own.eval()([image])[0]
    assert len(expected["boxes"]) > 0
    assert found["boxes"].equal(expected["boxes"])
    text = f"detector:{SMALL}:{weights}"
    assert parse_region_source(text).to_text() == text


def test_weights_that_are_none_or_of_another_model_are_one_clear_line(tmp_path, weights):
    (tmp_path / "none.pth").write_text("no weights")
    with pytest.raises(InputError, match=r"none.pth: is not a file of weights"):
        load_detector(SMALL, weights=tmp_path / "none.pth")
    torch.save({"layer": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=f"other.pth: does not hold the weights of {SMALL}"):
        load_detector(SMALL, weights=tmp_path / "other.pth")


def test_official_weights_come_from_torchvision_without_pickled_code_faked(
    monkeypatch, tmp_path, weights
):
    """The download is faked: what torchvision would fetch are the random weights of a file."""
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))
    asked: dict[str, Any] = {}

    def fetch(url, **options):
        asked.update(options, url=url)
        return torch.load(weights, weights_only=True)

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    load_detector(SMALL)
    assert asked["weights_only"] is True
    assert asked["check_hash"] is True
    assert asked["model_dir"] == str(tmp_path / "cache" / "detectors")
    assert asked["url"] == get_model_weights(SMALL).DEFAULT.url


def test_weights_that_were_damaged_in_the_cache_are_refused_unread(monkeypatch, tmp_path):
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path))
    name = get_model_weights(SMALL).DEFAULT.url.rpartition("/")[2]
    (tmp_path / "detectors").mkdir()
    (tmp_path / "detectors" / name).write_bytes(b"damaged")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(ChecksumError, match=r"\.pth: is damaged; delete it to have it fetched"):
        load_detector(SMALL)


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (urllib.error.URLError("no route to host"), FetchError, "no route to host"),
        (PermissionError(13, "Permission denied"), FetchError, "Permission denied"),
        (RuntimeError("invalid hash value"), ChecksumError, "are not what they should be"),
    ],
)
def test_official_weights_that_cannot_be_had_are_one_clear_line_faked(
    monkeypatch, error, kind, message
):
    def fetch(url, **options):
        raise error

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fetch)
    with pytest.raises(kind, match=message) as raised:
        load_detector(SMALL)
    assert "detectors" in str(raised.value)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("squares", UnknownNameError, r"unknown source of regions 'squares'.*known: boxes:FILE"),
        ("", UnknownNameError, r"unknown source of regions ''"),
        ("Quadrants", UnknownNameError, r"did you mean quadrants\?"),
        ("quadrants:2", UsageError, r"quadrants take no '2'"),
        ("grid", UsageError, r"a grid of '' is not rows x columns; write grid:3x4"),
        ("grid:3", UsageError, r"a grid of '3'"),
        ("grid:0x3", UsageError, r"a grid of '0x3'"),
        ("grid:-1x3", UsageError, r"a grid of '-1x3'"),
        ("scales:", UsageError, r"scales of '' are not whole numbers"),
        ("scales:1,,2", UsageError, r"scales of '1,,2'"),
        ("scales:2,2", UsageError, r"name one twice"),
        ("boxes:", UsageError, r"boxes:FILE: names no file"),
        ("boxes:/nowhere.csv", InputError, r"/nowhere.csv: no such file"),
        ("coco:/nowhere.json", InputError, r"/nowhere.json: no such file"),
        ("coco:a\0b", UsageError, r"coco:FILE: names no file"),
        ("detector:", UnknownNameError, r"unknown detector of torchvision ''"),
        ("detector:fasterrcnn", UnknownNameError, r"did you mean fasterrcnn_resnet50_fpn"),
        (f"detector:{SMALL}:/nowhere", InputError, r"/nowhere: no such file"),
        ("function:mine.py", UsageError, r"names no function in a file"),
        ("function:/nowhere.py:find", InputError, r"/nowhere.py: no such file"),
    ],
)
def test_words_that_are_off_are_one_clear_line(text, error, message):
    with pytest.raises(error, match=message) as raised:
        parse_region_source(text)
    assert "\n" not in str(raised.value)


@given(
    st.one_of(
        st.just("quadrants"),
        st.tuples(st.integers(1, 99), st.integers(1, 99)).map(lambda g: f"grid:{g[0]}x{g[1]}"),
        st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True).map(
            lambda sizes: "scales:" + ",".join(map(str, sizes))
        ),
    )
)
def test_a_source_is_written_as_it_is_read(text):
    source = parse_region_source(text)
    assert source.to_text() == text
    assert parse_region_source(source.to_text()) == source


def test_every_word_of_the_list_is_known():
    from fieldmark.discovery.region_sources import _READERS

    assert [form.partition(":")[0] for form in REGION_SOURCES] == list(_READERS)


def test_more_boxes_than_pixels_and_an_encoder_without_one_frame_are_refused():
    with pytest.raises(InputError, match="8 x 8 pixels have no 9 x 1 regions"):
        _make("grid:9x1")
    from dataclasses import replace

    with pytest.raises(UnsupportedEncoderError, match="regions have no one frame"):
        make_regions(
            parse_region_source("quadrants"), Pictures(), spec=replace(SPEC, resize="naflex")
        )
