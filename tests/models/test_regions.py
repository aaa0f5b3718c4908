from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fieldmark.core.errors import InputError
from fieldmark.models.load import load_encoder
from fieldmark.models.regions import cut_boxes, encode_boxes, encode_image_and_boxes
from tests.models import tiny


@pytest.fixture
def loaded(open_clip_folder):
    """Return a function from a family to its encoder."""
    return lambda family: load_encoder(f"local-dir:{open_clip_folder(family)}", device="cpu")


@pytest.mark.parametrize("family", ["clip", "siglip", "convnext", "resnet"])
@torch.no_grad()
def test_the_box_of_the_whole_image_gives_the_images_own_embedding(loaded, family):
    encoder = loaded(family)
    side = encoder.spec.image_size
    image = tiny.images(side, count=3)
    whole = torch.tensor([[0.0, 0.0, side, side]])
    half = torch.tensor([[0.0, 0.0, side / 2, side / 2]])
    regions = encoder.encode_regions(image, [torch.cat([half, whole]), whole[:0], whole])
    assert [tuple(rows.shape) for rows in regions] == [(2, 64), (0, 64), (1, 64)]
    embedded = encoder.encode_image(image)
    assert tiny.largest([regions[0][1] - embedded[0], regions[2][0] - embedded[2]]) < 1e-5
    assert tiny.largest([regions[0][0] - embedded[0]]) > 1e-3


@torch.no_grad()
def test_a_region_of_a_vit_is_its_crop_enlarged_and_embedded(loaded):
    encoder = loaded("clip")
    image = tiny.images(32, count=1)
    [region] = encoder.encode_regions(image, [torch.tensor([[4, 6, 20, 30]])])
    spec = encoder.spec
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
    crop = ((image.float() / 255 - mean) / std)[:, :, 6:30, 4:20]
    crop = functional.interpolate(crop, (32, 32), mode="bicubic", antialias=True)
    assert tiny.largest([region - encoder.encode_image(crop)]) < 1e-5


@torch.no_grad()
def test_a_region_of_a_resnet_is_aligned_on_layer_three(loaded):
    """Align by hand: bilinear samples at the centres of 4 x 4 bins of one sample each."""
    encoder = loaded("resnet")
    visual = encoder.image_tower
    pixels = torch.randn(1, 3, 64, 64)
    features = visual.stem(pixels)
    for layer in (visual.layer1, visual.layer2, visual.layer3):
        features = layer(features)
    x0, y0, x1, y1 = 16.0, 0.0, 48.0, 64.0
    grid = np.arange(4) + 0.5
    xs, ys = (x0 + grid * (x1 - x0) / 4) / 64 * 2 - 1, (y0 + grid * (y1 - y0) / 4) / 64 * 2 - 1
    where = torch.tensor(np.stack(np.meshgrid(xs, ys), -1), dtype=torch.float32)[None]
    aligned = functional.grid_sample(features, where, align_corners=False, padding_mode="border")
    expected = functional.normalize(visual.attnpool(visual.layer4(aligned)), dim=-1)
    [region] = encoder.encode_regions(pixels, [torch.tensor([[x0, y0, x1, y1]])])
    assert tiny.largest([region - expected]) < 1e-5


@pytest.mark.parametrize(
    "box", [[5, 5, 5, 9], [9, 5, 5, 9], [-1, 0, 5, 5], [0, 0, 33, 5], [0, 0, float("nan"), 5]]
)
def test_a_box_without_area_or_outside_is_named(loaded, box):
    encoder = loaded("clip")
    boxes = [torch.tensor([[0, 0, 9, 9]]), torch.tensor([[0, 0, 9, 9], box])]
    with pytest.raises(InputError, match=r"image 1: box 1 .* is empty or not inside 32 x 32"):
        encoder.encode_regions(tiny.images(32), boxes)


@settings(deadline=None, max_examples=25)
@given(corners=st.tuples(*[st.integers(0, 7)] * 4))
def test_cutting_takes_every_pixel_of_the_box_and_no_other(corners):
    (x0, x1), (y0, y1) = sorted(corners[:2]), sorted(corners[2:])
    x1, y1 = x1 + 1, y1 + 1
    image = torch.zeros(1, 3, 8, 8)
    image[:, :, y0:y1, x0:x1] = 1
    cut = cut_boxes(image, [torch.tensor([[x0, y0, x1, y1]])])
    assert torch.allclose(cut, torch.ones(1, 3, 8, 8), atol=1e-5)


def _parts(encoder) -> tuple[Any, Any]:
    return encoder.image_tower, encoder.library.take_apart(encoder.model)


@pytest.mark.parametrize("family", ["clip", "siglip", "convnext", "resnet"])
@torch.no_grad()
def test_images_and_boxes_together_are_what_they_are_apart(loaded, family):
    encoder = loaded(family)
    side = encoder.spec.image_size
    pixels = torch.randn(2, 3, side, side)
    boxes = [torch.tensor([[0, 0, side / 2, side], [4, 4, side, 20]]), torch.zeros(0, 4)]
    images, regions = encode_image_and_boxes(*_parts(encoder), pixels, boxes)
    apart = encode_boxes(*_parts(encoder), pixels, boxes)
    assert [tuple(rows.shape) for rows in regions] == [(2, 64), (0, 64)]
    assert tiny.largest([images - encoder.image_tower(pixels), regions[0] - apart[0]]) < 1e-5
    assert float(images.norm(dim=1).sub(1).abs().max()) > 1e-3
    no_boxes = [torch.zeros(0, 4)] * 2
    alone, none = encode_image_and_boxes(*_parts(encoder), pixels, no_boxes)
    assert tiny.largest([alone - images]) < 1e-5
    assert [tuple(rows.shape) for rows in none] == [(0, 64)] * 2


@torch.no_grad()
def test_a_resnet_runs_its_first_stages_once_for_images_and_boxes(loaded):
    encoder = loaded("resnet")
    runs: list[str] = []
    for name in ("layer1", "layer3", "layer4"):
        layer = getattr(encoder.image_tower, name)
        layer.register_forward_hook(lambda *_, name=name: runs.append(name))
    pixels, boxes = torch.randn(2, 3, 64, 64), [torch.tensor([[0, 0, 32, 32]])] * 2
    encode_image_and_boxes(*_parts(encoder), pixels, boxes)
    assert runs == ["layer1", "layer3", "layer4", "layer4"]


def _crop_by_hand(tower, pixels, box):
    x0, y0, x1, y1 = box
    crop = functional.interpolate(
        pixels[:, :, y0:y1, x0:x1], pixels.shape[-2:], mode="bicubic", antialias=True
    )
    return tower(crop)


def _align_by_hand(tower, pixels, box):
    """Take bilinear samples of layer 3 at the centres of 4 x 4 bins, one sample each."""
    features = tower.stem(pixels)
    for layer in (tower.layer1, tower.layer2, tower.layer3):
        features = layer(features)
    x0, y0, x1, y1 = box
    side, grid = pixels.shape[-1], torch.arange(4) + 0.5
    xs = (x0 + grid * (x1 - x0) / 4) / side * 2 - 1
    ys = (y0 + grid * (y1 - y0) / 4) / side * 2 - 1
    where = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1)[None]
    aligned = functional.grid_sample(features, where, align_corners=False, padding_mode="border")
    return tower.attnpool(tower.layer4(aligned))


def _gradients(tower, images, regions):
    tower.zero_grad()
    goal = torch.linspace(-1, 1, 64)
    functional.normalize(torch.cat([images, regions]), dim=-1).matmul(goal).sum().backward()
    return {name: weight.grad.clone() for name, weight in tower.named_parameters()}


@pytest.mark.parametrize(
    ("family", "by_hand", "box"),
    [("clip", _crop_by_hand, (4, 6, 20, 30)), ("resnet", _align_by_hand, (16, 0, 48, 64))],
)
def test_every_weight_gets_the_gradient_of_the_region_worked_out_by_hand(
    loaded, family, by_hand, box
):
    encoder = loaded(family)
    tower, parts = _parts(encoder)
    side = encoder.spec.image_size
    pixels = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    boxes = [torch.tensor([box])]
    expected = _gradients(tower, tower(pixels), by_hand(tower, pixels, box))
    images, together = encode_image_and_boxes(tower, parts, pixels, boxes)
    found = _gradients(tower, images, together[0])
    apart = _gradients(tower, tower(pixels), encode_boxes(tower, parts, pixels, boxes)[0])
    size = max(float(value.norm()) for value in expected.values())
    for name, value in expected.items():
        assert tiny.largest([value - found[name], value - apart[name]]) < 1e-4 * size, name
    alone = _gradients(tower, tower(pixels), torch.ones(1, 64))
    assert tiny.largest(expected[name] - alone[name] for name in expected) > 1e-2 * size


def test_training_goes_on_where_a_batch_has_no_box(loaded):
    encoder = loaded("resnet")
    encoder.model.train()
    images, regions = encode_image_and_boxes(
        *_parts(encoder), torch.randn(2, 3, 64, 64), [torch.zeros(0, 4)] * 2
    )
    (images.sum() + torch.cat(regions).sum()).backward()
    assert [tuple(rows.shape) for rows in regions] == [(0, 64)] * 2


def test_boxes_of_another_number_of_images_are_refused(loaded):
    with pytest.raises(InputError, match="boxes of 1 images do not fit 2 images"):
        encode_boxes(*_parts(loaded("clip")), torch.zeros(2, 3, 32, 32), [torch.zeros(0, 4)])
