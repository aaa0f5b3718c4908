from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.dense_maps import (
    explain_by_maskclip,
    explain_by_surgery,
    mix_values,
    operate_on_features,
)
from fieldmark.core.errors import NotApplicableError, UnsupportedEncoderError
from fieldmark.models.adapter import take_apart
from tests.attribution.plain_towers import (
    TRANSFORMERS,
    embed_plainly,
    finish_plainly,
    load_tiny,
    make_planted_subject,
    make_subject,
    open_visual,
    run_all_plainly,
    split_plainly,
)
from tests.models import tiny

BOTH = (explain_by_maskclip, explain_by_surgery)


def test_maskclip_is_the_last_block_without_mixing_written_plainly():
    encoder = load_tiny("clip", double=True)
    subject = make_subject(encoder)
    maps, visual = explain_by_maskclip(subject), open_visual(encoder)
    layer = visual.transformer.resblocks[-1]
    with torch.no_grad():
        for row, image in enumerate(subject.images):
            block = run_all_plainly(encoder, image)[-1]
            for patch in range(1, 17):
                own = torch.cat([value[patch] for value in block.value])
                embedded = embed_plainly(visual, finish_plainly(layer, block.entered[patch], own))
                for column, text in enumerate(subject.texts):
                    found = maps.values[row, column].flatten()[patch - 1]
                    assert float(found) == pytest.approx(float(embedded.float() @ text), abs=1e-6)


def test_maskclip_weighs_by_the_key_of_class_when_told():
    encoder = load_tiny("clip", double=True)
    subject = make_subject(encoder)
    weighed = dataclasses.replace(subject, config=AttributionConfig(key_weight=True))
    plain, found = explain_by_maskclip(subject).values, explain_by_maskclip(weighed).values
    layer = open_visual(encoder).transformer.resblocks[-1]
    with torch.no_grad():
        block = run_all_plainly(encoder, subject.images[0])[-1]
        keys = torch.cat(split_plainly(layer, layer.ln_1(block.entered))[1], dim=1)
        for patch in (1, 7, 16):
            cosine = keys[0] @ keys[patch] / keys[0].norm() / keys[patch].norm()
            expected = plain[0, 1].flatten()[patch - 1] * cosine
            assert float(found[0, 1].flatten()[patch - 1]) == pytest.approx(float(expected))


@pytest.mark.parametrize("operated", [1, 2, 6])
def test_surgery_is_two_paths_and_feature_surgery_written_plainly(operated):
    encoder = load_tiny("clip", double=True)
    config = AttributionConfig(surgery_blocks=operated)
    subject, visual = make_subject(encoder, config=config), open_visual(encoder)
    maps, layers = explain_by_surgery(subject), visual.transformer.resblocks
    first = max(0, len(layers) - operated)
    with torch.no_grad():
        for row, image in enumerate(subject.images):
            blocks = run_all_plainly(encoder, image)
            second = blocks[first].entered
            for layer, block in list(zip(layers, blocks, strict=True))[first:]:
                mixed = [
                    torch.softmax(v @ v.T / math.sqrt(v.shape[1]), dim=1) @ v for v in block.value
                ]
                out = layer.attn.out_proj
                second = second + torch.cat(mixed, dim=1) @ out.weight.T + out.bias
            whole = embed_plainly(visual, blocks[-1].left[0])
            texts = subject.texts.double()
            likely = torch.softmax(torch.stack([2 * whole @ text for text in texts]), 0)
            for patch in (0, 5, 15):
                own = embed_plainly(visual, second[1 + patch])
                weighed = [
                    float(p / likely.mean() * (own @ t)) for p, t in zip(likely, texts, strict=True)
                ]
                for column in range(3):
                    found = float(maps.values[row, column].flatten()[patch])
                    expected = weighed[column] - sum(weighed) / 3
                    assert found == pytest.approx(expected, abs=1e-6)
    assert maps.forwards == pytest.approx(1 + min(operated, 2) / 6)


def test_surgery_of_a_single_text_takes_the_empty_text_off():
    encoder = load_tiny("clip")
    subject = make_subject(encoder, texts=1)
    alone = explain_by_surgery(subject).values
    assert subject.empty_text is not None
    swapped = dataclasses.replace(
        subject, texts=subject.empty_text[None], empty_text=subject.texts[0]
    )
    torch.testing.assert_close(explain_by_surgery(swapped).values, -alone)
    same = dataclasses.replace(subject, empty_text=subject.texts[0])
    assert explain_by_surgery(same).values.abs().max() == 0
    with pytest.raises(NotApplicableError, match="empty text, which is not given"):
        explain_by_surgery(dataclasses.replace(subject, empty_text=None))


def test_surgery_depends_on_the_other_texts():
    subject = make_subject(load_tiny("clip"))
    fewer = dataclasses.replace(subject, texts=subject.texts[:2])
    many, few = explain_by_surgery(subject).values[:, 0], explain_by_surgery(fewer).values[:, 0]
    assert (many - few).abs().max() > 1e-3


def test_layer_scale_counts_in_the_second_path():
    """With a scale of nothing the second path stays what entered the first block operated on."""
    changed = load_tiny("dinov2").place()
    tower = take_apart(changed)
    blocks = open_visual(changed).trunk.blocks
    for block in blocks:
        block.ls1 = torch.nn.Linear(64, 64, bias=False)
        torch.nn.init.zeros_(block.ls1.weight)
    subject = make_subject(
        changed, count=1, config=AttributionConfig(surgery_blocks=len(tower.blocks))
    )
    with torch.no_grad():
        tokens = changed.tokens(subject.images)
        values = tokens.values[0, tokens.prefix :]
        own = torch.stack(
            [changed.pool(tokens._replace(values=value.expand(1, 2, -1)))[0] for value in values]
        )
        whole = changed.encode_image(subject.images)
    expected = operate_on_features(whole, patches=own[None], texts=subject.texts)
    found = explain_by_surgery(subject).values.flatten(2).mT
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_values_mix_by_their_likeness():
    value = torch.randn(1, 2, 4, 3, generator=torch.Generator().manual_seed(0))
    expected = functional.scaled_dot_product_attention(value, value, value)
    torch.testing.assert_close(mix_values(value), expected.transpose(1, 2).flatten(2))


@given(seed=st.integers(0, 2**31), texts=st.integers(1, 6))
@settings(max_examples=25, deadline=None)
def test_feature_surgery_sums_to_zero_and_keeps_the_order_of_texts(seed, texts):
    generator = torch.Generator().manual_seed(seed)
    whole, patches, labels = (
        functional.normalize(torch.randn(*shape, 8, generator=generator), dim=-1)
        for shape in ((2,), (2, 5), (texts,))
    )
    found = operate_on_features(whole, patches=patches, texts=labels)
    torch.testing.assert_close(found.sum(-1), torch.zeros(2, 5), atol=1e-5, rtol=0)
    turned = operate_on_features(whole, patches=patches, texts=labels.flip(0))
    torch.testing.assert_close(turned.flip(-1), found)


def test_planted_red_patch_wins_as_worked_by_hand():
    red, _, blue = explain_by_maskclip(make_planted_subject()).values[0]
    # Behind the first block: red (6, 0, 3)/5, blue (1, 0, 8)/5; the last one doubles them.
    assert float(red[1, 0]) == pytest.approx(6 / math.hypot(6, 3))
    assert float(red[0, 1]) == pytest.approx(1 / math.hypot(1, 8))
    assert float(blue[1, 0]) == pytest.approx(3 / math.hypot(6, 3))
    red, green, blue = explain_by_surgery(make_planted_subject()).values[0]
    assert int(red.argmax()) == 2
    assert float(red.flatten()[[0, 1, 3]].std()) == pytest.approx(0, abs=1e-6)
    assert int(blue.argmin()) == 2
    assert (green <= 0).all()


@pytest.mark.parametrize("family", [*TRANSFORMERS, "resnet"])
def test_every_family_gives_finite_maps_that_do_not_depend_on_the_batch(family):
    encoder = load_tiny(family)
    subject = make_subject(encoder)
    with torch.no_grad():
        expected = encoder.encode_image(subject.images) @ subject.texts.T
    for explain in BOTH[: 1 if family == "resnet" else 2]:
        maps = explain(subject)
        assert maps.values.shape == (2, 3, *encoder.spec.grid)
        assert maps.values.isfinite().all()
        assert maps.values.flatten(2).std(-1).min() > 0
        assert maps.similarity is not None
        torch.testing.assert_close(maps.similarity, expected, atol=2e-5, rtol=1e-4)
        alone = explain(make_subject(encoder, images=subject.images[1:]))
        torch.testing.assert_close(alone.values[0], maps.values[1], atol=2e-5, rtol=1e-3)


@pytest.mark.parametrize("family", ["siglip", "siglip-registers", "hf-siglip", "resnet"])
def test_maskclip_of_a_pooling_head_is_the_head_over_one_patch(family):
    """An attention with a single key gives that key's value, so the head alone is the check."""
    encoder = load_tiny(family)
    subject, tower = make_subject(encoder, count=1), take_apart(encoder)
    maps = explain_by_maskclip(subject).values[0].flatten(1)
    assert tower.pooler is not None
    with torch.no_grad():
        tokens = encoder.run(encoder.tokens(subject.images))
        for patch in (0, maps.shape[1] - 1):
            one = tokens.values[:, tokens.prefix + patch][:, None]
            # The pool of a ResNet asks with the first token, which is then the patch as well.
            prefix = tokens.values[:, : tokens.prefix - tower.pooler.prefix]
            output = tower.pooler.attend(torch.cat([prefix, one], dim=1)).output
            expected = functional.normalize(tower.pooler.finish(output)[0], dim=0)
            torch.testing.assert_close(maps[:, patch], subject.texts @ expected)


@pytest.mark.parametrize("family", tiny.CONVS)
def test_towers_without_blocks_are_refused_by_name(family):
    subject = make_subject(load_tiny(family))
    with pytest.raises(UnsupportedEncoderError, match="clip-surgery needs the blocks"):
        explain_by_surgery(subject)
    if family != "resnet":
        with pytest.raises(UnsupportedEncoderError, match="maskclip needs an attention"):
            explain_by_maskclip(subject)


@pytest.mark.parametrize("family", ["siglip", "vit-mean", "hf-siglip2"])
def test_keys_are_not_weighed_without_a_class_token(family):
    subject = make_subject(load_tiny(family), config=AttributionConfig(key_weight=True))
    with pytest.raises(UnsupportedEncoderError, match="key of a CLS token"):
        explain_by_maskclip(subject)


def test_callers_may_be_in_inference_mode_and_grids_need_not_be_square():
    images = tiny.images(48)[:, :, :24]
    subject = make_subject(load_tiny("hf-siglip2"), images=images)
    for explain in BOTH:
        expected = explain(subject).values
        assert expected.shape == (2, 3, 3, 6)
        with torch.inference_mode():
            assert explain(subject).values.allclose(expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("family", ["clip", "hf-siglip", "clip-mean"])
def test_half_and_double_precision_give_much_the_same_maps(family, dtype):
    subject = make_subject(load_tiny(family), count=1)
    cast = dataclasses.replace(subject, encoder=subject.encoder.place(dtype=dtype))
    for explain in BOTH:
        found, expected = explain(cast), explain(subject).values
        assert found.values.dtype == torch.float32
        least = 0.95 if dtype == torch.bfloat16 else 0.9999
        assert (
            torch.corrcoef(torch.stack([found.values.flatten(), expected.flatten()]))[0, 1] > least
        )
