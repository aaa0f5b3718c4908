from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.attribution.attention_maps import (
    explain_by_attention,
    explain_by_rollout,
    find_used_queries,
    roll_out,
)
from fieldmark.core.errors import UnsupportedEncoderError
from fieldmark.models.adapter import DualEncoder, take_apart
from tests.attribution.plain_towers import (
    TRANSFORMERS,
    load_tiny,
    make_planted_subject,
    make_subject,
    open_visual,
    run_all_plainly,
)
from tests.models import tiny

BOTH = (explain_by_attention, explain_by_rollout)


def test_attention_is_the_class_row_of_the_last_block_written_plainly():
    encoder = load_tiny("clip", double=True)
    subject = make_subject(encoder)
    maps = explain_by_attention(subject)
    assert maps.values.shape == (2, 3, 4, 4)
    with torch.no_grad():
        for row, image in enumerate(subject.images):
            heads = run_all_plainly(encoder, image)[-1].weight
            expected = sum(float(head[0, 6]) for head in heads) / len(heads)
            assert float(maps.values[row, 0, 1, 1]) == pytest.approx(expected, rel=1e-5)
            mean = torch.stack([head[0, 1:] for head in heads]).mean(0)
            torch.testing.assert_close(maps.values[row, 2].flatten(), mean.float())


def test_rollout_multiplies_all_blocks_written_plainly():
    encoder = load_tiny("clip", double=True)
    subject = make_subject(encoder)
    maps = explain_by_rollout(subject)
    with torch.no_grad():
        for row, image in enumerate(subject.images):
            product = torch.eye(17, dtype=torch.float64)
            for block in run_all_plainly(encoder, image):
                mean = torch.stack(block.weight).mean(0) + torch.eye(17)
                product = (mean / mean.sum(1, keepdim=True)) @ product
            torch.testing.assert_close(maps.values[row, 0].flatten(), product[0, 1:].float())


@pytest.mark.parametrize("family", ["siglip", "siglip-registers", "hf-siglip", "clip-attention"])
def test_rollout_of_a_pooling_head_is_its_row_times_the_product(family):
    encoder = load_tiny(family)
    subject = make_subject(encoder, count=1)
    maps = explain_by_rollout(subject)
    with torch.no_grad():
        tokens = encoder.tokens(subject.images)
        product = torch.eye(tokens.values.shape[1])
        values = tokens.values
        for block in take_apart(encoder).blocks:
            attention = block.attend(block.normalise(values))
            values = block.add(values, attention.output)
            product = (attention.weight[0].mean(0) + torch.eye(len(product))) / 2 @ product
        row = encoder.last_attention(tokens).weight[0, :, 0].mean(0)
    skipped = len(product) - len(row)
    expected = (row @ product[skipped:])[tokens.prefix :]
    torch.testing.assert_close(maps.values[0, 0].flatten(), expected)


def test_even_attention_gives_the_maps_worked_by_hand():
    subject = make_planted_subject()
    # Five tokens: the row of CLS is 1/5; two rounds of half even, half identity leave 3/4 x 1/5.
    assert explain_by_attention(subject).values[0, 0].tolist() == [[pytest.approx(0.2)] * 2] * 2
    assert explain_by_rollout(subject).values[0, 2].tolist() == [[pytest.approx(0.15)] * 2] * 2


@given(seed=st.integers(0, 2**31), blocks=st.integers(1, 6), heads=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_rows_of_a_rollout_sum_to_one(seed, blocks, heads):
    generator = torch.Generator().manual_seed(seed)
    rolled = torch.eye(6).expand(2, -1, -1)
    for _ in range(blocks):
        weight = (5 * torch.randn(2, heads, 6, 6, generator=generator)).softmax(-1)
        rolled = roll_out(rolled, weight=weight)
    torch.testing.assert_close(rolled.sum(-1), torch.ones(2, 6))
    assert (rolled >= 0).all()


def test_a_patch_that_class_attends_to_wins():
    encoder = load_tiny("clip")
    assert isinstance(encoder, DualEncoder)
    changed = encoder.place()
    layer = open_visual(changed).transformer.resblocks[-1]
    subject = make_subject(changed, count=1)
    with torch.no_grad():
        values = run_all_plainly(changed, subject.images[0])[-1].entered
        normalised = layer.ln_1(values)
        wanted = normalised[7] - normalised.mean(0)
        # Key and query of every head are made to agree on the patch in the 2nd row, 3rd column.
        width = layer.attn.embed_dim
        layer.attn.in_proj_bias[:width] = 10.0
        layer.attn.in_proj_weight[:width] = 0.0
        layer.attn.in_proj_weight[width : 2 * width] = wanted.expand(width, -1)
    assert int(explain_by_attention(subject).values[0, 0].argmax()) == 6
    assert int(explain_by_rollout(subject).values[0, 0].argmax()) == 6


@pytest.mark.parametrize("family", [*TRANSFORMERS, "resnet"])
def test_every_family_gives_shares_of_attention(family):
    encoder = load_tiny(family)
    subject = make_subject(encoder)
    with torch.no_grad():
        expected = encoder.encode_image(subject.images) @ subject.texts.T
    for explain in BOTH[: 1 if family == "resnet" else 2]:
        maps = explain(subject)
        assert maps.values.shape == (2, 3, *encoder.spec.grid)
        assert (maps.values >= 0).all()
        assert (maps.values[:, 0].sum((1, 2)) <= 1 + 1e-5).all()
        assert maps.values[:, 0].equal(maps.values[:, 2])
        assert maps.similarity is not None
        torch.testing.assert_close(maps.similarity, expected, atol=2e-5, rtol=1e-4)
        assert (maps.forwards, maps.backwards) == (1, 0)
        alone = explain(make_subject(encoder, images=subject.images[1:]))
        torch.testing.assert_close(alone.values[0], maps.values[1], atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("family", ["hf-siglip", "hf-siglip2"])
def test_where_there_are_only_patches_they_have_all_attention(family):
    for explain in BOTH:
        total = explain(make_subject(load_tiny(family))).values[:, 0].sum((1, 2))
        torch.testing.assert_close(total, torch.ones(2))


def test_images_that_are_no_square_keep_their_grid():
    images = tiny.images(48)[:, :, :24]
    for explain in BOTH:
        maps = explain(make_subject(load_tiny("hf-siglip2"), images=images))
        assert maps.values.shape == (2, 3, 3, 6)


@pytest.mark.parametrize(("pool", "used"), [("tok", [0]), ("avg", [1, 2])])
def test_only_queries_that_form_the_embedding_count(pool, used):
    encoder = load_tiny("clip-attention").place()
    open_visual(encoder).pool_type = pool
    tower = take_apart(encoder)
    assert tower.pooler is not None
    with torch.no_grad():
        tokens = encoder.tokens(tiny.images(encoder.spec.image_size))
        attention = tower.pooler.attend(encoder.run(tokens).values)
    found = find_used_queries(tower.pooler, attention.output)
    assert found.nonzero().flatten().tolist() == used
    maps = explain_by_attention(make_subject(encoder))
    expected = attention.weight[:, :, used, 1:].mean((1, 2))
    torch.testing.assert_close(maps.values[:, 0].flatten(1), expected)


@pytest.mark.parametrize("family", tiny.CONVS)
def test_towers_without_blocks_are_refused_by_name(family):
    subject = make_subject(load_tiny(family))
    with pytest.raises(UnsupportedEncoderError, match="rollout needs the blocks of a transformer"):
        explain_by_rollout(subject)
    if family != "resnet":
        with pytest.raises(UnsupportedEncoderError, match="raw-attention needs an attention"):
            explain_by_attention(subject)


def test_callers_may_be_in_inference_mode():
    subject = make_subject(load_tiny("dinov2"))
    for explain in BOTH:
        expected = explain(subject).values
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
