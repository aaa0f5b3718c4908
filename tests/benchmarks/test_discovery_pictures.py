from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from fieldmark.benchmarks.discovery_pictures import crop_region, frame_region, locate_box
from fieldmark.discovery.regions import map_boxes
from fieldmark.testing import FakeEncoder


@given(
    size=st.tuples(st.integers(8, 300), st.integers(8, 300)),
    resize=st.sampled_from(["shortest", "squash", "longest"]),
    corners=st.tuples(*[st.floats(0.3, 0.45)] * 2, *[st.floats(0.55, 0.7)] * 2),
)
def test_a_box_that_is_mapped_and_located_is_where_it_was(size, resize, corners):
    spec = replace(FakeEncoder().spec, resize=resize, image_size=64)
    box = np.array(corners) * np.array(size * 2)
    mapped, _ = map_boxes([box], size=size, spec=spec, least=0)
    edge = (mapped[0] <= 0) | (mapped[0] >= 64)
    found = np.array(locate_box(mapped[0].tolist(), size=size, spec=spec))
    np.testing.assert_allclose(found[~edge], box[~edge], rtol=1e-4, atol=1e-3)


def test_pictures_of_thin_and_tiny_images_keep_their_shape():
    assert frame_region(Image.new("RGB", (1000, 2)), (0, 0, 500, 2)).size == (224, 1)
    assert frame_region(Image.new("RGB", (28, 28)), None).size == (224, 224)
    assert crop_region(Image.new("RGB", (8, 8)), (7.9, 7.9, 8, 8)).size == (144, 144)
    framed = frame_region(Image.new("RGB", (224, 224)), (50, 50, 150, 150))
    assert framed.getpixel((51, 100)) == (200, 30, 30)
    assert framed.getpixel((54, 100)) == (255, 255, 255)
    assert framed.getpixel((100, 100)) == (0, 0, 0)
