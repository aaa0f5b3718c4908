"""Gradient methods against plain loops over what the libraries' own forward passes compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from fieldmark.attribution.attention_gradients import explain_by_game, explain_by_legrad
from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.gradient_maps import (
    explain_by_grad_cam,
    explain_by_grad_eclip,
    explain_by_integrated_gradients,
)
from fieldmark.attribution.maps import Subject
from fieldmark.core.errors import UnsupportedEncoderError
from fieldmark.models.adapter import take_apart
from fieldmark.testing import FakeEncoder
from tests.attribution.plain_towers import TRANSFORMERS
from tests.attribution.readable_attention import (
    assert_same,
    count_prefix,
    draw_subject,
    embed_pixels,
    load_double,
    readable_attention,
)
from tests.models import tiny

METHODS = {
    "grad-cam": explain_by_grad_cam,
    "game": explain_by_game,
    "grad-eclip": explain_by_grad_eclip,
    "legrad": explain_by_legrad,
    "integrated-gradients": explain_by_integrated_gradients,
}
# Every way of pooling and every library; "clip" and "hf-siglip" run all methods in other tests.
FAMILIES = (
    "clip-mean",
    "clip-attention",
    "siglip-registers",
    "dinov2",
    "hf-clip",
    "hf-siglip2",
    *tiny.CONVS,
)


# ---- Grad-CAM


def hooked_features(encoder, family: str):
    """Return the module whose output Grad-CAM reads, by hand for each family."""
    model = encoder.model
    return {
        "clip": lambda: model.visual.transformer.resblocks[-1].ln_1,
        "clip-mean": lambda: model.visual.transformer.resblocks[-1],
        "clip-attention": lambda: model.visual.transformer.resblocks[-1],
        "dinov2": lambda: model.visual.trunk.blocks[-1].norm1,
        "siglip": lambda: model.visual.trunk.blocks[-1],
        "siglip-registers": lambda: model.visual.trunk.blocks[-1],
        "vit-mean": lambda: model.visual.trunk.blocks[-1],
        "convnext": lambda: model.visual.trunk.norm_pre,
        "efficientnet": lambda: model.visual.trunk.bn2,
        "resnet": lambda: model.visual.layer4,
        "hf-clip": lambda: model.vision_model.encoder.layers[-1].layer_norm1,
        "hf-siglip": lambda: model.vision_model.encoder.layers[-1],
        "hf-siglip2": lambda: model.vision_model.encoder.layers[-1],
    }[family]()


def to_patches(output, *, prefix: int):
    return output.flatten(2).mT if output.ndim == 4 else output[:, prefix:]


@pytest.mark.parametrize("family", [*TRANSFORMERS, *tiny.CONVS])
def test_grad_cam_weighs_the_features_that_a_hook_sees(family):
    encoder = load_double(family)
    subject = draw_subject(encoder)
    seen: list[Any] = []
    handle = hooked_features(encoder, family).register_forward_hook(
        lambda *call: seen.append(call[-1][0] if isinstance(call[-1], tuple) else call[-1])
    )
    embedded = embed_pixels(encoder, subject.images)
    handle.remove()
    maps = explain_by_grad_cam(subject)
    prefix = count_prefix(encoder, subject)
    for text in range(2):
        total = (embedded @ subject.texts[text].double()).sum()
        (gradient,) = torch.autograd.grad(total, seen[0], retain_graph=True)
        patches, slopes = to_patches(seen[0], prefix=prefix), to_patches(gradient, prefix=prefix)
        for row in range(2):
            expected = (patches[row] * slopes[row].mean(0)).sum(-1).clamp(min=0)
            assert_same(maps.values[row, text], expected)
    assert float(maps.values.amax()) > 0


def test_grad_cam_has_the_slopes_of_finite_differences():
    encoder, step = load_double("clip-mean"), 1e-4
    subject = draw_subject(encoder, count=1, texts=1)
    last = encoder.model.visual.transformer.resblocks[-1]
    seen: list[Any] = []

    def move(_, __, output):
        # Row 2c has channel c of all patches a step up, row 2c + 1 a step down.
        seen.append(output[0, 1:].clone())
        steps = torch.eye(output.shape[-1], dtype=output.dtype).repeat_interleave(2, 0) * step
        steps[1::2] *= -1
        output = output.clone()
        output[:, 1:] += steps[:, None]
        return output

    handle = last.register_forward_hook(move)
    with torch.no_grad():
        scores = (
            embed_pixels(encoder, subject.images.expand(128, -1, -1, -1))
            @ subject.texts[0].double()
        )
    handle.remove()
    weights = (scores[::2] - scores[1::2]) / (2 * step) / len(seen[0])
    expected = (seen[0] * weights).sum(-1).clamp(min=0)
    assert_same(explain_by_grad_cam(subject).values, expected)


# ---- Grad-ECLIP


@pytest.mark.parametrize(
    ("family", "loosened", "single_head"),
    [
        *((family, True, False) for family in (*tiny.VITS, "hf-clip", "resnet")),
        *((family, False, False) for family in ("clip", "siglip")),
        *((family, True, True) for family in ("clip", "clip-attention", "siglip", "resnet")),
    ],
)
def test_grad_eclip_multiplies_values_of_the_librarys_last_attention(
    family, loosened, single_head, monkeypatch
):
    encoder = load_double(family)
    subject = draw_subject(encoder, loosened=loosened, single_head=single_head)
    tower = take_apart(encoder)
    last = len(tower.blocks) - (tower.pooler is None)
    call = last if single_head else None
    with readable_attention(monkeypatch, one_head_in_call=call) as reads:
        embedded = embed_pixels(encoder, subject.images)
    maps, read = explain_by_grad_eclip(subject), reads[last]
    q, k, v = (x.transpose(1, 2).flatten(2).detach() for x in (read.q, read.k, read.v))
    count = maps.values.shape[2] * maps.values.shape[3]
    for text in range(2):
        total = (embedded @ subject.texts[text].double()).sum()
        (slope,) = torch.autograd.grad(total, read.o, retain_graph=True)
        slope = slope.transpose(1, 2).flatten(2)
        for row in range(2):
            expected = torch.zeros(count, dtype=torch.float64)
            for query in range(slope.shape[1]):
                if not slope[row, query].any():
                    continue
                asked = q[row, query].expand_as(k[row, -count:])
                likeness = functional.cosine_similarity(asked, k[row, -count:], dim=1)
                spread = (likeness - likeness.min()) / (likeness.max() - likeness.min())
                part = v[row, -count:] @ slope[row, query]
                expected += part * spread if loosened else part
            assert_same(maps.values[row, text], expected.clamp(min=0))
    assert float(maps.values.amax()) > 0


def test_grad_eclip_with_one_head_still_gives_the_encoders_own_similarity():
    encoder = load_double("clip")
    subject = draw_subject(encoder, single_head=True)
    expected = encoder.encode_image(subject.images).detach() @ subject.texts.T
    torch.testing.assert_close(explain_by_grad_eclip(subject).similarity, expected)
    assert not torch.allclose(
        explain_by_grad_eclip(subject).values,
        explain_by_grad_eclip(draw_subject(encoder)).values,
        rtol=1e-2,
    )


# ---- integrated gradients


def test_integrated_gradients_add_up_to_the_score_less_the_blank_images():
    encoder = load_double("clip")
    images = draw_subject(encoder).images
    blank = torch.zeros(1, 3, 32, 32)
    lacks = []
    for steps in (8, 128):
        subject = draw_subject(encoder, gradient_steps=steps)
        with torch.no_grad():
            gain = encoder.encode_image(images) - encoder.encode_image(blank)
        # 64 pixels in a patch, of which a map gives the mean.
        found = explain_by_integrated_gradients(subject).values.sum((2, 3)) * 64
        lacks.append(float((found - gain @ subject.texts.T).abs().max()))
    # The middle of a stretch: sixteen times as many leave a 256th of the error in the end.
    assert lacks[1] < 1e-3 * float((gain @ subject.texts.T).abs().max())
    assert lacks[1] < lacks[0] / 100


@pytest.mark.parametrize("steps", [1, 4])
def test_integrated_gradients_of_two_colours_are_those_worked_out_by_hand(steps):
    encoder = FakeEncoder()
    images = torch.zeros(1, 3, 8, 8)
    images[:, 0, 2:6, 2:6] = 1.0
    images[:, 2, :2] = 1.0
    subject = Subject(
        encoder=encoder,
        images=images,
        texts=torch.tensor([[1.0, 0, 0, 0, 0, 0]]),
        config=AttributionConfig(gradient_steps=steps),
        ids=("one",),
    )
    # The embedding before its norm is (1, 0, 0, 0, 0, 1/3): 4 of the 12 patches of the ground are
    # blue. s = 1 / sqrt(1 + 1/9), ds/dred = s (1 - s^2) = s/10, ds/dblue = -s^2 s/3 = -0.3 s. A
    # patch of the object has 1/4 of red, one of the ground 1/12 of blue, each of its pixels 1/4 of
    # that. A point at share c of the way has 1/c times the gradient.
    s = (9 / 10) ** 0.5
    slope = np.mean([1 / ((m + 0.5) / steps) for m in range(steps)])
    expected = np.zeros((4, 4))
    expected[1:3, 1:3] = slope * s * 0.1 / 16
    expected[0] = -slope * s * 0.3 / 48
    found = explain_by_integrated_gradients(subject)
    np.testing.assert_allclose(found.values[0, 0].numpy(), expected, rtol=1e-5, atol=1e-9)
    assert (found.forwards, found.backwards, found.similarity) == (steps, steps, None)


def test_integrated_gradients_hold_no_more_points_than_told():
    encoder, most = FakeEncoder(), []
    encode = encoder.encode_image
    encoder.encode_image = lambda pixels: most.append(len(pixels)) or encode(pixels)  # type: ignore
    subject = draw_subject(encoder, count=3, batch_size=5, gradient_steps=4)
    explain_by_integrated_gradients(subject)
    assert most == [5, 5, 2]


# ---- what all of them keep to


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_works_or_says_why_not(family, name):
    encoder = load_double(family)
    subject = draw_subject(encoder, gradient_steps=2)
    is_conv = family in tiny.CONVS
    if is_conv and (
        name in ("game", "legrad") or (name, family != "resnet") == ("grad-eclip", True)
    ):
        with pytest.raises(UnsupportedEncoderError, match="its tower"):
            METHODS[name](subject)
        return
    maps = METHODS[name](subject)
    assert maps.values.shape == (2, 2, *encoder.spec.grid)
    assert maps.values.dtype == torch.float32
    assert bool(maps.values.isfinite().all())
    assert not maps.values.requires_grad
    if maps.similarity is not None:
        expected = encoder.encode_image(subject.images).detach() @ subject.texts.T
        torch.testing.assert_close(maps.similarity, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", ["clip", "hf-siglip"])
def test_a_map_does_not_depend_on_the_other_images_and_texts(family, name):
    encoder = load_double(family)
    settings: dict[str, Any] = {"gradient_steps": 2, "game_start": 0}
    whole = draw_subject(encoder, count=3, texts=3, **settings)
    maps = METHODS[name](whole)
    alone = Subject(
        encoder=encoder,
        images=whole.images[1:2],
        texts=whole.texts[2:],
        config=AttributionConfig(batch_size=1, **settings),
        ids=("1",),
    )
    one = METHODS[name](alone)
    torch.testing.assert_close(maps.values[1:2, 2:], one.values, rtol=1e-4, atol=1e-8)
    small = draw_subject(encoder, count=3, texts=3, batch_size=2, **settings)
    torch.testing.assert_close(METHODS[name](small).values, maps.values, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    ("family", "name"), [*(("clip", name) for name in METHODS), ("resnet", "grad-eclip")]
)
def test_methods_work_without_gradients_around_them_and_leave_weights_alone(family, name, guard):
    encoder = load_double(family).place()
    before = {key: value.clone() for key, value in encoder.model.state_dict().items()}
    expected = METHODS[name](draw_subject(encoder, gradient_steps=2)).values
    with guard():
        inside = METHODS[name](draw_subject(encoder, gradient_steps=2)).values
    torch.testing.assert_close(inside, expected)
    assert all(weight.grad is None for weight in encoder.model.parameters())
    assert all(value.equal(before[key]) for key, value in encoder.model.state_dict().items())
    for weight in encoder.model.parameters():
        weight.requires_grad_(False)
    torch.testing.assert_close(
        METHODS[name](draw_subject(encoder, gradient_steps=2)).values, expected
    )


def test_cost_is_counted_in_full_passes():
    clip, siglip = load_double("clip"), load_double("siglip")
    depth = len(take_apart(siglip).blocks)
    costs = {
        (name, family): METHODS[name](draw_subject(encoder, texts=3))
        for name in ("grad-cam", "game", "grad-eclip", "legrad")
        for family, encoder in (("clip", clip), ("siglip", siglip))
    }
    backwards = {key: maps.backwards for key, maps in costs.items()}
    assert {backwards[name, "clip"] for name in METHODS if (name, "clip") in costs} == {3 / 2}
    assert backwards["grad-cam", "siglip"] == pytest.approx(3 / 6 / depth)
    assert explain_by_game(draw_subject(clip, game_start=0)).backwards == 2
    assert {maps.forwards for key, maps in costs.items() if key[1] == "clip"} == {1}


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"integrated-gradients"}))
def test_an_encoder_without_pieces_says_so(name):
    with pytest.raises(UnsupportedEncoderError, match="cannot be taken apart"):
        METHODS[name](draw_subject(FakeEncoder()))
