from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fieldmark.core.errors import InputError, TableError, UnsupportedEncoderError
from fieldmark.data.tables import ImageTable
from fieldmark.discovery.region_embeddings import embed_regions, find_way
from fieldmark.discovery.region_files import read_coco_regions, read_region_table
from fieldmark.discovery.regions import (
    collect_regions,
    cut_grid,
    cut_quadrants,
    cut_scales,
    map_boxes,
    propose_regions,
)
from fieldmark.models.load import load_encoder
from fieldmark.models.preprocess import preprocess_image
from fieldmark.testing import FakeEncoder
from tests.models import tiny

SPEC = FakeEncoder().spec
COLOURS = ("red", "lime", "blue", "white")


@pytest.fixture
def table(tmp_path):
    """Return three images of 16 x 16 whose quadrants are red, lime, blue and white, turned."""
    paths = []
    for index in range(3):
        image = Image.new("RGB", (16, 16))
        for place in range(4):
            corner = (place % 2 * 8, place // 2 * 8)
            colour = COLOURS[(place + index) % 4]
            image.paste(colour, (*corner, corner[0] + 8, corner[1] + 8))
        paths.append(tmp_path / f"{index}.png")
        image.save(paths[-1])
    return ImageTable(
        name="quadrants",
        root=tmp_path,
        ids=("a", "b", "c"),
        paths=tuple(paths),
        labels=np.array([0, 0, 1]),
        classes=("x", "y"),
    )


def colours_of(vectors):
    """Name the colour that each embedding of a plain region has."""
    pure = {"red": (1, 0, 0), "lime": (0, 1, 0), "blue": (0, 0, 1), "white": (1, 1, 1)}
    names = list(pure)
    rows = np.array([pure[name] * 2 for name in names], float)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    near = vectors @ rows.T
    # Resizing mixes a little of the neighbour in along the edge.
    assert near.max(axis=1).min() > 0.99
    return [names[row] for row in near.argmax(axis=1)]


@settings(deadline=None, max_examples=40)
@given(side=st.integers(3, 33), rows=st.integers(1, 3), columns=st.integers(1, 3))
def test_a_grid_covers_each_pixel_once(side, rows, columns):
    regions = cut_grid(2, side=side, rows=rows, columns=columns)
    assert regions.images.tolist() == [0] * rows * columns + [1] * rows * columns
    seen = np.zeros((side, side), int)
    for x0, y0, x1, y1 in regions.boxes[: rows * columns].astype(int):
        seen[y0:y1, x0:x1] += 1
    assert (seen == 1).all()


def test_quadrants_go_row_by_row_and_scales_end_with_the_finest():
    quadrants = cut_quadrants(1, side=8)
    assert quadrants.boxes.tolist() == [[0, 0, 4, 4], [4, 0, 8, 4], [0, 4, 4, 8], [4, 4, 8, 8]]
    assert quadrants.source == "quadrants"
    scales = cut_scales(2, side=8, scales=(1, 2))
    assert scales.boxes[0].tolist() == [0, 0, 8, 8]
    np.testing.assert_array_equal(scales.boxes[1:5], quadrants.boxes)
    assert np.bincount(scales.images).tolist() == [5, 5]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cut_grid(1, side=8, rows=9, columns=1), "8 x 8 pixels have no 9 x 1 regions"),
        (lambda: cut_quadrants(0, side=8), "quadrants|grid 2 x 2: no region in 0 images"),
        (lambda: cut_scales(1, side=8, scales=()), "no region in 1 images"),
        (lambda: by_hand([[0, 0, 0, 4]]), r"box 0 of image 0 \(0, 0, 0, 4\) is empty or not"),
        (lambda: by_hand([[0, 0, 9, 4]]), "not inside 8 x 8"),
        (lambda: by_hand([[0, 0, np.nan, 4]]), "not inside 8 x 8"),
        (lambda: by_hand([[0, 0, 4, 4]] * 2), "2 boxes, 1 images and 2 names differ"),
    ],
)
def test_regions_that_cannot_be_are_one_clear_line(make, message):
    with pytest.raises(InputError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def by_hand(boxes):
    return collect_regions([0], boxes, count=1, side=8, source="by hand")


@settings(deadline=None, max_examples=60)
@given(
    width=st.integers(8, 90),
    height=st.integers(8, 90),
    resize=st.sampled_from(["shortest", "squash", "longest"]),
    data=st.data(),
)
def test_a_mapped_box_is_where_preprocessing_puts_its_pixels(width, height, resize, data):
    spec = replace(SPEC, image_size=32, resize=resize, interpolation="nearest")
    x0, y0 = data.draw(st.integers(0, width - 2)), data.draw(st.integers(0, height - 2))
    x1, y1 = data.draw(st.integers(x0 + 1, width)), data.draw(st.integers(y0 + 1, height))
    image = Image.new("RGB", (width, height))
    image.paste("white", (x0, y0, x1, y1))
    seen = preprocess_image(image, spec=spec)[0].numpy() > 0
    [box], [kept] = map_boxes([[x0, y0, x1, y1]], size=(width, height), spec=spec, least=2)
    if not kept:
        # Of a box that is hardly a pixel wide nothing much may be seen.
        assert min(seen.any(axis=0).sum(), seen.any(axis=1).sum()) <= 3
        return
    ys, xs = np.nonzero(seen)
    bounds = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    np.testing.assert_allclose(box, bounds, atol=1)


def test_a_table_of_boxes_is_read_by_id_path_or_file_name(table, tmp_path):
    source = tmp_path / "boxes.csv"
    source.write_text(
        "image,x0,y0,x1,y1,name\nb,0,0,8,8,lime\n0.png,8,8,16,16,white\nother.png,0,0,1,1,none\n"
        "a,0,0,8,8,red\n"
    )
    regions = read_region_table(source, table, spec=SPEC)
    assert regions.images.tolist() == [0, 0, 1]
    assert regions.names == ("white", "red", "lime")
    assert regions.boxes[0].tolist() == [4, 4, 8, 8]
    assert colours_of(embed_regions(FakeEncoder(), table, regions=regions).values) == [
        *regions.names
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,0,0,0,8", r"boxes.csv, row 3: box \(0, 0, 0, 8\) is empty or not inside 16 x 16"),
        ("a,0,0,18,8", "row 3: .* not inside 16 x 16"),
        ("a,0,zero,8,8", "row 3: has a corner that is no number"),
        ("a,0,nan,8,8", "row 3: .* not inside 16 x 16"),
    ],
)
def test_a_bad_row_of_boxes_is_named(table, tmp_path, row, message):
    source = tmp_path / "boxes.csv"
    source.write_text(f"image,x0,y0,x1,y1\nb,0,0,8,8\n{row}\n")
    with pytest.raises(TableError, match=message):
        read_region_table(source, table, spec=SPEC)


def test_a_table_without_the_images_says_that_there_is_no_region(table, tmp_path):
    source = tmp_path / "boxes.csv"
    source.write_text("image,x0,y0,x1,y1\nother,0,0,8,8\n")
    with pytest.raises(InputError, match="no region in 3 images"):
        read_region_table(source, table, spec=SPEC)
    source.write_text("image,x0,y0,x1\na,0,0,8\n")
    with pytest.raises(TableError, match="has no column 'y1'"):
        read_region_table(source, table, spec=SPEC)


def coco(boxes):
    return {
        "images": [{"id": 7, "file_name": "sub/1.png", "width": 16, "height": 16}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 5, "name": "dog"}],
        "annotations": [{"image_id": 7, **box} for box in boxes],
    }


def test_coco_boxes_carry_their_category_and_crowds_are_left_out(table, tmp_path):
    source = tmp_path / "instances.json"
    boxes = [
        {"category_id": 3, "bbox": [8, 0, 8, 8], "iscrowd": 0},
        {"category_id": 5, "bbox": [0, 8, 8, 8]},
        {"category_id": 5, "bbox": [0, 0, 16, 16], "iscrowd": 1},
        {"category_id": 5, "bbox": [4, 4, 0, 9]},
    ]
    source.write_text(json.dumps(coco(boxes)))
    regions = read_coco_regions(source, table, spec=SPEC)
    assert (regions.names, regions.images.tolist(), regions.lost) == (("cat", "dog"), [1, 1], 1)
    assert regions.boxes.tolist() == [[4, 0, 8, 4], [0, 4, 4, 8]]
    assert read_coco_regions(source, table, spec=SPEC, classes=["dog"]).names == ("dog",)
    with pytest.raises(TableError, match="has no category 'cow'; choose among cat, dog"):
        read_coco_regions(source, table, spec=SPEC, classes=["cow"])


@pytest.mark.parametrize("content", ["{", "[]", '{"images": [{}]}', json.dumps({"images": 1})])
def test_a_file_that_is_not_coco_is_one_clear_line(table, tmp_path, content):
    source = tmp_path / "instances.json"
    source.write_text(content)
    with pytest.raises(TableError, match="is not a COCO instances file"):
        read_coco_regions(source, table, spec=SPEC)
    with pytest.raises(TableError, match="no such file"):
        read_coco_regions(tmp_path / "none.json", table, spec=SPEC)


def test_what_the_crop_cuts_off_is_counted(table):
    class Wide:
        """One image of 16 x 8, of which the encoder sees the middle half."""

        def __len__(self):
            return 1

        def read(self, index, /):
            return Image.new("RGB", (16, 8))

        def hashes(self):
            return ("wide",)

    spec = replace(SPEC, resize="shortest")
    boxes = [[0, 0, 4, 8], [2, 0, 10, 8]]
    regions = propose_regions(Wide(), lambda image: boxes, spec=spec, source="two")
    assert (regions.boxes.tolist(), regions.lost) == ([[0, 0, 6, 8]], 1)
    with pytest.raises(InputError, match=r"no region in 1 images \(1 lie outside of what"):
        propose_regions(Wide(), lambda image: boxes[:1], spec=spec, source="one")
    with pytest.raises(UnsupportedEncoderError, match="no one frame"):
        propose_regions(Wide(), lambda image: boxes, spec=replace(spec, resize="naflex"), source="")


@pytest.mark.parametrize(
    ("proposal", "message"),
    [
        ([[0, 0, 4]], "mine, image 0: did not give boxes of four numbers"),
        ("boxes", "did not give boxes of four numbers"),
        (None, "did not give boxes of four numbers"),
        ([[0, 0, 40, 4]], "not inside 16 x 16"),
        ([], "mine: no region in 3 images"),
    ],
)
def test_a_function_that_gives_no_boxes_is_named(table, proposal, message):
    with pytest.raises(InputError, match=message):
        propose_regions(table, lambda image: proposal, spec=SPEC, source="mine")


def test_regions_are_embedded_in_order_whatever_the_batch_and_kept_on_disk(table, tmp_path):
    regions = cut_quadrants(3, side=8)
    expected = [COLOURS[(place + image) % 4] for image in range(3) for place in range(4)]
    done = []
    for size in (1, 3, 5, 64):
        result = embed_regions(
            FakeEncoder(),
            table,
            regions=regions,
            batch_size=size,
            cache=tmp_path / f"cache-{size}",
            progress=lambda now, whole: done.append((now, whole)),
        )
        assert colours_of(result.values) == expected
        assert (result.reused, result.computed, result.way) == (0, 12, "crop")
        assert done[-1] == (12, 12)
    again = embed_regions(FakeEncoder(), table, regions=regions, cache=tmp_path / "cache-5")
    assert (again.reused, again.computed) == (12, 0)
    np.testing.assert_array_equal(again.values, result.values)
    other = embed_regions(
        FakeEncoder(), table, regions=regions.take([0, 5]), cache=tmp_path / "cache-5"
    )
    assert (other.reused, other.computed) == (2, 0)


def test_a_run_that_stops_keeps_what_it_had(table, tmp_path):
    regions = cut_quadrants(3, side=8)
    table.paths[2].write_bytes(b"broken")
    with pytest.raises(InputError, match=r"2\.png: is not an image"):
        embed_regions(FakeEncoder(), table, regions=regions, batch_size=4, cache=tmp_path / "cache")
    Image.new("RGB", (16, 16), "red").save(table.paths[2])
    result = embed_regions(FakeEncoder(), table, regions=regions, cache=tmp_path / "cache")
    assert (result.reused, result.computed) == (8, 4)


def test_only_the_images_of_one_batch_are_held(table, monkeypatch):
    held = []
    encoder = FakeEncoder()
    whole = FakeEncoder.encode_regions

    def count(self, image_BCHW, boxes):
        held.append(len(image_BCHW))
        return whole(self, image_BCHW, boxes)

    monkeypatch.setattr(FakeEncoder, "encode_regions", count)
    embed_regions(encoder, table, regions=cut_quadrants(3, side=8), batch_size=4)
    assert held == [1, 1, 1]


def test_regions_of_other_images_or_another_encoder_are_refused(table):
    with pytest.raises(InputError, match="regions of 2 images do not fit 3 images"):
        embed_regions(FakeEncoder(), table, regions=cut_quadrants(2, side=8))
    with pytest.raises(InputError, match="do not fit the encoder's input of 8 x 8"):
        embed_regions(FakeEncoder(), table, regions=cut_quadrants(3, side=9))
    with pytest.raises(InputError, match="no feature map to align boxes on; crop instead"):
        embed_regions(FakeEncoder(), table, regions=cut_quadrants(3, side=8), way="align")


@torch.no_grad()
def test_a_resnet_aligns_unless_it_is_told_to_crop(table, tmp_path):
    folder = tiny.write_open_clip(tmp_path / "resnet", "resnet")
    encoder = load_encoder(f"local-dir:{folder}", device="cpu")
    assert find_way(encoder) == "align"
    side = encoder.spec.image_size
    regions = cut_quadrants(3, side=side).take([0, 3, 7])
    result = embed_regions(encoder, table, regions=regions, precision="fp32")
    pixels = torch.stack([encoder.preprocess(table.read(i)) for i in (0, 1)])
    boxes = [torch.from_numpy(regions.boxes[rows]) for rows in ([0, 1], [2])]
    expected = torch.cat(encoder.encode_regions(pixels, boxes)).numpy()
    np.testing.assert_allclose(result.values, expected, atol=1e-5)
    cropped = embed_regions(encoder, table, regions=regions, precision="fp32", way="crop")
    assert (result.way, cropped.way) == ("align", "crop")
    quarter = side // 2
    crop = encoder.preprocess(table.read(0))[None, :, :quarter, :quarter]
    # The quadrant is of one colour, so its enlargement is that colour everywhere.
    plain = encoder.encode_image(crop[:, :, 4:5, 4:5].expand(1, 3, side, side))
    assert abs(cropped.values[0] @ plain.numpy()[0] - 1) < 0.05
