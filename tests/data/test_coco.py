import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fieldmark.core.errors import MaskError, TableError
from fieldmark.data.coco import (
    decode_runs,
    draw_segmentation,
    encode_runs,
    parse_runs,
    read_instances,
)

MASKS = arrays(np.bool_, array_shapes(min_dims=2, max_dims=2, max_side=40))


@settings(deadline=None, max_examples=50)
@given(mask=MASKS)
def test_runs_there_and_back(mask):
    mask = np.where(mask, 255, 0).astype(np.uint8)
    assert np.array_equal(decode_runs(encode_runs(mask), size=mask.shape), mask)


@settings(deadline=None, max_examples=50)
@given(mask=MASKS)
def test_compressed_strings_agree_with_pycocotools(mask):
    coco = pytest.importorskip("pycocotools.mask")
    text = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
    assert parse_runs(text) == encode_runs(mask.astype(np.uint8))
    segmentation = {"counts": text, "size": list(mask.shape)}
    assert np.array_equal(draw_segmentation(segmentation, size=mask.shape) > 0, mask)


@settings(deadline=None, max_examples=20)
@given(
    angles=st.lists(st.floats(0, 6.28), min_size=4, max_size=12, unique=True),
    radius=st.floats(20, 45),
)
def test_polygons_agree_with_pycocotools(angles, radius):
    coco = pytest.importorskip("pycocotools.mask")
    angles = np.sort([*angles, 0, 2, 4])
    polygon = np.stack([50 + radius * np.cos(angles), 60 + radius * np.sin(angles)], 1).ravel()
    runs = coco.merge(coco.frPyObjects([polygon.tolist()], 120, 100))
    # pycocotools' own decode warns under numpy 2; the test above holds ours to its strings.
    theirs = decode_runs(parse_runs(runs["counts"].decode()), size=(120, 100)) > 0
    ours = draw_segmentation([polygon.tolist()], size=(120, 100)) > 0
    # Pillow draws the outline too: at most half a pixel along the edge.
    perimeter = 2 * np.pi * radius
    assert (ours ^ theirs).sum() < perimeter


def test_polygons_of_one_object_are_united():
    squares: list[list[float]] = [[0, 0, 4, 0, 4, 4, 0, 4], [6, 6, 10, 6, 10, 10, 6, 10], [1, 1]]
    mask = draw_segmentation(squares, size=(10, 10))
    assert mask[1:4, 1:4].all()
    assert mask[7:9, 7:9].all()
    assert not mask[0:4, 6:].any()


@pytest.mark.parametrize("text", ["\x00", "o", "1o"])
def test_damaged_strings_are_refused(text):
    with pytest.raises(MaskError, match="run-length string"):
        parse_runs(text)


def test_runs_that_do_not_add_up_are_refused():
    for counts in ([3], [5, -1], [2, 2, 2]):
        with pytest.raises(MaskError, match="do not add up to 2 x 2 pixels; export the mask again"):
            decode_runs(counts, size=(2, 2))
    with pytest.raises(MaskError, match="the mask is 3 x 2, the image 2 x 2"):
        draw_segmentation({"counts": [6], "size": [2, 3]}, size=(2, 2))


def write_instances(path, **changes):
    content = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 20, "width": 30}],
        "categories": [{"id": 3, "name": "car"}, {"id": 18, "name": "dog"}],
        "annotations": [
            {
                "id": 1,
                "category_id": 18,
                "bbox": [0, 0, 12, 9],
                "segmentation": [[0, 0, 12, 9, 0, 9]],
            },
            {"id": 2, "category_id": 3, "bbox": [0, 0, 4, 9], "segmentation": [[0, 0, 4, 9, 0, 9]]},
            {"id": 3, "category_id": 3, "bbox": [0, 0, 20, 19], "segmentation": {}, "iscrowd": 1},
        ],
    }
    for row in content["annotations"]:
        row["image_id"] = 7
    path.write_text(json.dumps({**content, **changes}))
    return path


def test_instances_leave_out_crowds_and_small_boxes(tmp_path):
    source = write_instances(tmp_path / "instances.json")
    instances = read_instances(source)
    assert instances.ids == ("1", "2")
    assert [instances.classes[label] for label in instances.labels] == ["dog", "car"]
    assert instances.files == ("a.jpg", "a.jpg")
    assert read_instances(source, min_box=5).ids == ("1",)
    assert read_instances(source, classes=["car"]).ids == ("2",)


def test_instances_that_cannot_be_used_are_named(tmp_path):
    source = write_instances(tmp_path / "instances.json")
    with pytest.raises(TableError, match="has no category 'cat'; choose among car, dog"):
        read_instances(source, classes=["cat"])
    with pytest.raises(TableError, match="has no object that fits; lower the least box"):
        read_instances(source, min_box=50)
    for body in ("{", "[]", '{"images": 3}'):
        (tmp_path / "bad.json").write_text(body)
        with pytest.raises(TableError, match=r"bad\.json: is not a COCO instances file"):
            read_instances(tmp_path / "bad.json")
    with pytest.raises(TableError, match=r"gone\.json: no such file"):
        read_instances(tmp_path / "gone.json")
