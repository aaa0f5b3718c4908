from __future__ import annotations

from typing import cast, get_args

import numpy as np
import pytest
import torch
from PIL import Image

from fieldmark.core.errors import InputError, UnknownNameError, UnsupportedEncoderError
from fieldmark.discovery.region_embeddings import Way, embed_regions
from fieldmark.discovery.regions import collect_regions, cut_grid, cut_quadrants
from fieldmark.models.load import load_encoder
from fieldmark.models.token_regions import encode_box_tokens, pool_box_tokens
from fieldmark.testing import FakeEncoder
from tests.models import tiny


class Photographs:
    """Smooth random pictures."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def read(self, index, /):
        return tiny.photograph(40, 32, seed=index)

    def hashes(self):
        return tuple(str(index) for index in range(self.count))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return the folders of a tiny CLIP ViT and of a tiny CLIP ResNet."""
    root = tmp_path_factory.mktemp("encoders")
    return {name: tiny.write_open_clip(root / name, name) for name in ("clip", "resnet")}


def _load(folders, name):
    return load_encoder(f"local-dir:{folders[name]}", device="cpu")


@torch.no_grad()
def test_each_way_is_its_function_and_has_its_own_place_on_disk(folders, tmp_path):
    encoder = _load(folders, "clip")
    images = Photographs(3)
    regions = cut_quadrants(3, side=32).take([0, 1, 2, 5, 8, 9, 10, 11])
    pixels = torch.stack([encoder.preprocess(images.read(i)) for i in range(3)])
    boxes = [torch.from_numpy(regions.boxes[regions.images == i]) for i in range(3)]
    expected: dict[Way | None, list[torch.Tensor]] = {
        None: encoder.encode_regions(pixels, boxes),
        "tokens": encode_box_tokens(encoder, pixels, boxes),
        "pool": pool_box_tokens(encoder, pixels, boxes),
    }
    for way, rows in expected.items():
        for size in (64, 3, 1):
            found = embed_regions(
                encoder, images, regions=regions, way=way, batch_size=size, precision="fp32"
            )
            assert found.way == (way or "crop")
            np.testing.assert_allclose(found.values, torch.cat(rows).numpy(), atol=1e-5)
    for way in expected:
        result = [
            embed_regions(
                encoder, images, regions=regions, way=way, cache=tmp_path, precision="fp32"
            )
            for _ in range(2)
        ]
        assert [(one.reused, one.computed) for one in result] == [(0, 8), (8, 0)]
        assert result[0].values.tolist() == result[1].values.tolist()


@pytest.mark.parametrize(("size", "passes"), [(1, 5), (4, 5), (6, 5), (9, 3), (20, 1)])
def test_pooling_runs_each_image_once_whatever_the_batch(folders, size, passes):
    encoder = _load(folders, "clip")
    seen = []
    block = encoder.image_tower.transformer.resblocks[0]
    block.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    found = embed_regions(
        encoder,
        Photographs(5),
        regions=cut_quadrants(5, side=32),
        way="pool",
        batch_size=size,
        precision="fp32",
    )
    assert len(found.values) == 20
    assert (sum(seen), len(seen)) == (5, passes)


def test_each_image_is_read_once_where_its_regions_span_batches(folders):
    encoder = _load(folders, "clip")
    reads = []

    class Counted(Photographs):
        def read(self, index, /):
            reads.append(index)
            return super().read(index)

    regions = cut_grid(3, side=32, rows=3, columns=3)
    for way in get_args(Way)[1:]:
        reads.clear()
        embed_regions(encoder, Counted(3), regions=regions, way=way, batch_size=4)
        assert sorted(reads) == [0, 1, 2]


def test_a_way_that_a_tower_does_not_bear_says_what_would_work(folders):
    encoder = _load(folders, "resnet")
    regions = cut_quadrants(1, side=64)
    with pytest.raises(UnsupportedEncoderError, match=r"mix all cells .*; crop the regions or"):
        embed_regions(encoder, Photographs(1), regions=regions, way="tokens")
    pooled = embed_regions(encoder, Photographs(1), regions=regions, way="pool", precision="fp32")
    assert pooled.values.shape == (4, 64)
    with pytest.raises(InputError, match="no feature map to align boxes on; crop instead"):
        embed_regions(
            _load(folders, "clip"),
            Photographs(1),
            regions=cut_quadrants(1, side=32),
            way="align",
        )
    with pytest.raises(UnknownNameError, match=r"unknown way to embed regions 'token'; did you"):
        embed_regions(encoder, Photographs(1), regions=regions, way=cast("Way", "token"))


def test_a_region_without_a_finite_embedding_names_its_image():
    """A weight that is not finite stands for what half precision does to large activations."""
    encoder = FakeEncoder()
    with torch.no_grad():
        encoder.image_tower.mix.weight[0, 0] = torch.inf

    class Pictures(Photographs):
        def read(self, index, /):
            return Image.new("RGB", (8, 8), "black" if index == 1 else "red")

    regions = collect_regions([1, 1], [[0, 0, 4, 4], [4, 0, 8, 4]], count=2, side=8, source="x")
    with pytest.raises(InputError, match="a region of image 1 has an embedding that is not finite"):
        embed_regions(encoder, Pictures(2), regions=regions)
