"""Gradient methods against plain loops over what the libraries' own forward passes compute.

The reference replaces torch's attention kernel by one whose weights can be read, runs the library's
own image tower over float64 pixels and reads queries, keys, values and weights there. It shares no
code with the methods.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

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
from fieldmark.core.errors import InputError, UnsupportedEncoderError
from fieldmark.models.adapter import take_apart
from fieldmark.models.encoder import normalise
from fieldmark.models.load import load_encoder
from fieldmark.testing import FakeEncoder
from tests.models import tiny
from tests.models.conftest import open_clip_folder, transformers_folder  # noqa: F401

TRANSFORMERS = ("hf-clip", "hf-siglip", "hf-siglip2")
ATTENTION = (*tiny.VITS, *TRANSFORMERS)
METHODS = {
    "grad-cam": explain_by_grad_cam,
    "game": explain_by_game,
    "grad-eclip": explain_by_grad_eclip,
    "legrad": explain_by_legrad,
    "integrated-gradients": explain_by_integrated_gradients,
}
# As torch has it, whatever a test puts in its place.
NORMALIZE = functional.normalize


class Read(NamedTuple):
    """Of one attention: queries, keys, values (B,heads,N,d), weights (B,heads,Q,N), mixed."""

    q: Any
    k: Any
    v: Any
    a: Any
    o: Any


@pytest.fixture(scope="module")
def opened(open_clip_folder, transformers_folder):  # noqa: F811
    """Return a function from a family to its encoder in float64."""
    known: dict[str, Any] = {}

    def get(family: str) -> Any:
        if family not in known:
            if family in TRANSFORMERS:
                name = f"hf:{transformers_folder(family.removeprefix('hf-'))}"
            else:
                name = f"local-dir:{open_clip_folder(family)}"
            known[family] = load_encoder(name, device="cpu").place(dtype=torch.float64)
        return known[family]

    return get


def make_subject(encoder, *, count=2, texts=2, seed=0, with_empty=False, **settings) -> Subject:
    generator = torch.Generator().manual_seed(seed)
    embedded = torch.randn(texts + 1, encoder.spec.dim, generator=generator)
    embedded = NORMALIZE(embedded, dim=-1)
    return Subject(
        encoder=encoder,
        images=tiny.images(encoder.spec.image_size, count=count, seed=seed),
        texts=embedded[:texts],
        config=AttributionConfig(**settings),
        ids=tuple(map(str, range(count))),
        empty_text=embedded[texts] if with_empty else None,
    )


@contextlib.contextmanager
def readable_attention(monkeypatch, *, one_head_in_call: int | None = None):
    """Put in torch's place an attention that can be read; MHA with weights goes through softmax."""
    found: list[Read] = []
    softmax = functional.softmax

    def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
        assert attn_mask is None
        assert not dropout_p
        assert not is_causal
        shape = query.shape
        if len(found) == one_head_in_call:
            query, key, value = (x.transpose(1, 2).flatten(2)[:, None] for x in (query, key, value))
            scale = None
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        weight = softmax(torch.einsum("bhqc,bhnc->bhqn", query, key) * scale, -1)
        mixed = torch.einsum("bhqn,bhnc->bhqc", weight, value)
        if len(found) == one_head_in_call:
            mixed = mixed[:, 0].unflatten(-1, (shape[1], shape[3])).transpose(1, 2)
        found.append(Read(query, key, value, weight, mixed))
        return mixed

    def soften(values, dim=None, **options):
        weight = softmax(values, dim=dim, **options)
        # nn.MultiheadAttention has images and heads in one dimension: one query of three heads.
        found.append(Read(None, None, None, weight, None))
        return weight

    with monkeypatch.context() as patch:
        patch.setattr(functional, "scaled_dot_product_attention", attend)
        patch.setattr(functional, "softmax", soften)
        yield found


def embed(encoder, images):
    """Embed pixels by the library's own tower, in float64, recorded."""
    pixels = normalise(images, spec=encoder.spec, dtype=torch.float64).requires_grad_()
    return NORMALIZE(encoder.image_tower(pixels), dim=-1)


def assert_same(values, expected, *, rtol=1e-4):
    """Compare maps (h,w) with rows of patches; what is far below a map's top is rounding."""
    values, expected = np.asarray(values).ravel(), np.asarray(expected.detach()).ravel()
    np.testing.assert_allclose(values, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


def prefix_of(encoder, subject) -> int:
    return int(encoder.tokens(subject.images[:1]).prefix)


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


@pytest.mark.parametrize("family", [*ATTENTION, *tiny.CONVS])
def test_grad_cam_weighs_the_features_that_a_hook_sees(opened, family):
    encoder = opened(family)
    subject = make_subject(encoder)
    seen: list[Any] = []
    handle = hooked_features(encoder, family).register_forward_hook(
        lambda *call: seen.append(call[-1][0] if isinstance(call[-1], tuple) else call[-1])
    )
    embedded = embed(encoder, subject.images)
    handle.remove()
    maps = explain_by_grad_cam(subject)
    prefix = prefix_of(encoder, subject)
    for text in range(2):
        total = (embedded @ subject.texts[text].double()).sum()
        (gradient,) = torch.autograd.grad(total, seen[0], retain_graph=True)
        patches, slopes = to_patches(seen[0], prefix=prefix), to_patches(gradient, prefix=prefix)
        for row in range(2):
            expected = (patches[row] * slopes[row].mean(0)).sum(-1).clamp(min=0)
            assert_same(maps.values[row, text], expected)
    assert float(maps.values.amax()) > 0


def test_grad_cam_has_the_slopes_of_finite_differences(opened):
    encoder, step = opened("clip-mean"), 1e-4
    subject = make_subject(encoder, count=1, texts=1)
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
        scores = embed(encoder, subject.images.expand(128, -1, -1, -1)) @ subject.texts[0].double()
    handle.remove()
    weights = (scores[::2] - scores[1::2]) / (2 * step) / len(seen[0])
    expected = (seen[0] * weights).sum(-1).clamp(min=0)
    assert_same(explain_by_grad_cam(subject).values, expected)


# ---- GAME


def plain_game(reads, gradients, *, row: int, first: int, pooled: int | None, prefix: int, mean):
    """Multiply by loops over blocks and heads; `pooled` is how many first tokens a head skips."""
    products = []
    for read, gradient in zip(reads, gradients, strict=True):
        weight, slope = read.a.detach().numpy(), gradient.numpy()
        if weight.ndim == 3:
            heads = len(weight) // 2
            weight, slope = (x.reshape(2, heads, *x.shape[1:]) for x in (weight, slope))
        total = np.zeros(weight.shape[2:])
        for head in range(weight.shape[1]):
            total += np.maximum(weight[row, head] * slope[row, head], 0) / weight.shape[1]
        products.append(total)
    blocks = products if pooled is None else products[:-1]
    count = blocks[0].shape[1]
    relevance = np.eye(count)
    for product in blocks[first:]:
        relevance = relevance + product @ relevance
    if pooled is not None:
        return torch.tensor((products[-1] @ relevance[pooled:]).sum(0)[prefix:])
    relevance -= np.eye(count)
    rows = relevance[prefix:].mean(0) if mean else relevance[0]
    return torch.tensor(rows[prefix:])


@pytest.mark.parametrize("start", [None, 0])
@pytest.mark.parametrize("family", ATTENTION)
def test_game_multiplies_what_the_library_attends_to(opened, family, start, monkeypatch):
    encoder = opened(family)
    subject = make_subject(encoder, game_start=start)
    with readable_attention(monkeypatch) as reads:
        embedded = embed(encoder, subject.images)
    tower, prefix = take_apart(encoder), prefix_of(encoder, subject)
    depth, pooler = len(tower.blocks), tower.pooler
    assert len(reads) == depth + (pooler is not None)
    first = (depth if pooler else depth - 1) if start is None else start
    maps = explain_by_game(subject)
    for text in range(2):
        total = (embedded @ subject.texts[text].double()).sum()
        gradients = torch.autograd.grad(total, [read.a for read in reads], retain_graph=True)
        for row in range(2):
            expected = plain_game(
                reads,
                gradients,
                row=row,
                first=first,
                pooled=None if pooler is None else prefix - pooler.prefix,
                prefix=prefix,
                mean=tower.pooling == "mean",
            )
            assert_same(maps.values[row, text], expected)
    assert float(maps.values.amin((2, 3)).min()) >= 0
    assert float(maps.values.amax((2, 3)).min()) > 0


# ---- Grad-ECLIP


@pytest.mark.parametrize(("loosened", "single_head"), [(True, False), (False, False), (True, True)])
@pytest.mark.parametrize("family", [*tiny.VITS, "hf-clip", "resnet"])
def test_grad_eclip_multiplies_values_of_the_librarys_last_attention(
    opened, family, loosened, single_head, monkeypatch
):
    encoder = opened(family)
    subject = make_subject(encoder, loosened=loosened, single_head=single_head)
    tower = take_apart(encoder)
    last = len(tower.blocks) - (tower.pooler is None)
    call = last if single_head else None
    with readable_attention(monkeypatch, one_head_in_call=call) as reads:
        embedded = embed(encoder, subject.images)
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


def test_grad_eclip_with_one_head_still_gives_the_encoders_own_similarity(opened):
    encoder = opened("clip")
    subject = make_subject(encoder, single_head=True)
    expected = encoder.encode_image(subject.images).detach() @ subject.texts.T
    torch.testing.assert_close(explain_by_grad_eclip(subject).similarity, expected)
    assert not torch.allclose(
        explain_by_grad_eclip(subject).values,
        explain_by_grad_eclip(make_subject(encoder)).values,
        rtol=1e-2,
    )


# ---- LeGrad


def test_legrad_sums_positive_gradients_of_each_blocks_own_score(opened, monkeypatch):
    encoder = opened("clip")
    subject = make_subject(encoder, legrad_blocks=2)
    visual, behind = encoder.model.visual, []
    handles = [
        block.register_forward_hook(lambda *call: behind.append(call[-1]))
        for block in visual.transformer.resblocks
    ]
    with readable_attention(monkeypatch) as reads:
        embed(encoder, subject.images)
    for handle in handles:
        handle.remove()
    maps = explain_by_legrad(subject)
    for text in range(2):
        expected = torch.zeros(2, 16, dtype=torch.float64)
        for tokens, read in zip(behind, reads, strict=True):
            pooled = NORMALIZE(visual.ln_post(tokens.mean(1)) @ visual.proj, dim=-1)
            total = (pooled @ subject.texts[text].double()).sum()
            (slope,) = torch.autograd.grad(total, read.a, retain_graph=True)
            expected += slope.clamp(min=0).mean(dim=(1, 2))[:, 1:]
        for row in range(2):
            assert_same(maps.values[row, text], expected[row])


def test_legrad_of_a_pooling_head_is_its_attentions_and_drops_what_an_empty_text_finds(
    opened, monkeypatch
):
    encoder = opened("siglip")
    plain = explain_by_legrad(make_subject(encoder, legrad_blocks=1))
    subject = make_subject(encoder, legrad_blocks=1, with_empty=True)
    with readable_attention(monkeypatch) as reads:
        embedded = embed(encoder, subject.images)
    expected = []
    assert subject.empty_text is not None
    for text in (*subject.texts.double(), subject.empty_text.double()):
        total = (embedded @ text).sum()
        (slope,) = torch.autograd.grad(total, reads[-1].a, retain_graph=True)
        expected.append(slope.clamp(min=0).mean(dim=(1, 2)))
    corrected = explain_by_legrad(subject)
    for row in range(2):
        empty = expected[2][row]
        gone = (empty - empty.min()) / (empty.max() - empty.min()) > 0.8
        assert bool(gone.any())
        for text in range(2):
            assert_same(plain.values[row, text], expected[text][row])
            assert_same(corrected.values[row, text], expected[text][row].masked_fill(gone, 0))
    assert corrected.backwards == pytest.approx(plain.backwards * 1.5)


# ---- integrated gradients


def test_integrated_gradients_add_up_to_the_score_less_the_blank_images(opened):
    encoder = opened("clip")
    images = make_subject(encoder).images
    blank = torch.zeros(1, 3, 32, 32)
    lacks = []
    for steps in (8, 128):
        subject = make_subject(encoder, gradient_steps=steps)
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
    subject = make_subject(encoder, count=3, batch_size=5, gradient_steps=4)
    explain_by_integrated_gradients(subject)
    assert most == [5, 5, 2]


# ---- what all of them keep to


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("family", [*ATTENTION, *tiny.CONVS])
def test_every_family_works_or_says_why_not(opened, family, name):
    encoder = opened(family)
    subject = make_subject(encoder, gradient_steps=2)
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
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_a_map_does_not_depend_on_the_other_images_and_texts(opened, family, name):
    encoder = opened(family)
    settings: dict[str, Any] = {"gradient_steps": 2, "game_start": 0}
    whole = make_subject(encoder, count=3, texts=3, **settings)
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
    small = make_subject(encoder, count=3, texts=3, batch_size=2, **settings)
    torch.testing.assert_close(METHODS[name](small).values, maps.values, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("guard", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize(
    ("family", "name"), [*(("clip", name) for name in METHODS), ("resnet", "grad-eclip")]
)
def test_methods_work_without_gradients_around_them_and_leave_weights_alone(
    opened, family, name, guard
):
    encoder = opened(family).place()
    before = {key: value.clone() for key, value in encoder.model.state_dict().items()}
    expected = METHODS[name](make_subject(encoder, gradient_steps=2)).values
    with guard():
        inside = METHODS[name](make_subject(encoder, gradient_steps=2)).values
    torch.testing.assert_close(inside, expected)
    assert all(weight.grad is None for weight in encoder.model.parameters())
    assert all(value.equal(before[key]) for key, value in encoder.model.state_dict().items())
    for weight in encoder.model.parameters():
        weight.requires_grad_(False)
    torch.testing.assert_close(
        METHODS[name](make_subject(encoder, gradient_steps=2)).values, expected
    )


def test_cost_is_counted_in_full_passes(opened):
    clip, siglip = opened("clip"), opened("siglip")
    depth = len(take_apart(siglip).blocks)
    costs = {
        (name, family): METHODS[name](make_subject(encoder, texts=3))
        for name in ("grad-cam", "game", "grad-eclip", "legrad")
        for family, encoder in (("clip", clip), ("siglip", siglip))
    }
    backwards = {key: maps.backwards for key, maps in costs.items()}
    assert {backwards[name, "clip"] for name in METHODS if (name, "clip") in costs} == {3 / 2}
    assert backwards["grad-cam", "siglip"] == pytest.approx(3 / 6 / depth)
    assert explain_by_game(make_subject(clip, game_start=0)).backwards == 2
    assert {maps.forwards for key, maps in costs.items() if key[1] == "clip"} == {1}


@pytest.mark.parametrize(
    ("explain", "setting"), [(explain_by_game, "game_start"), (explain_by_legrad, "legrad_blocks")]
)
def test_a_block_that_the_tower_lacks_is_named(opened, explain, setting):
    with pytest.raises(InputError, match=f"{setting} is 12, but this tower allows"):
        explain(make_subject(opened("clip"), **{setting: 12}))


@pytest.mark.parametrize("name", sorted(set(METHODS) - {"integrated-gradients"}))
def test_an_encoder_without_pieces_says_so(name):
    with pytest.raises(UnsupportedEncoderError, match="cannot be taken apart"):
        METHODS[name](make_subject(FakeEncoder()))
