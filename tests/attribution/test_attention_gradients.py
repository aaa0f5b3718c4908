"""GAME and LeGrad against plain loops over what the libraries' own forward passes compute."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from fieldmark.attribution.attention_gradients import explain_by_game, explain_by_legrad
from fieldmark.core.errors import InputError
from fieldmark.models.adapter import take_apart
from tests.attribution.plain_towers import TRANSFORMERS
from tests.attribution.readable_attention import (
    assert_same,
    count_prefix,
    draw_subject,
    embed_pixels,
    load_double,
    readable_attention,
)

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


@pytest.mark.parametrize(
    ("family", "start"),
    [
        *((family, 0) for family in TRANSFORMERS),
        *((family, None) for family in ("clip", "clip-mean", "clip-attention", "hf-siglip")),
    ],
)
def test_game_multiplies_what_the_library_attends_to(family, start, monkeypatch):
    encoder = load_double(family)
    subject = draw_subject(encoder, game_start=start)
    with readable_attention(monkeypatch) as reads:
        embedded = embed_pixels(encoder, subject.images)
    tower, prefix = take_apart(encoder), count_prefix(encoder, subject)
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


# ---- LeGrad


def test_legrad_sums_positive_gradients_of_each_blocks_own_score(monkeypatch):
    encoder = load_double("clip")
    subject = draw_subject(encoder, legrad_blocks=2)
    visual, behind = encoder.model.visual, []
    handles = [
        block.register_forward_hook(lambda *call: behind.append(call[-1]))
        for block in visual.transformer.resblocks
    ]
    with readable_attention(monkeypatch) as reads:
        embed_pixels(encoder, subject.images)
    for handle in handles:
        handle.remove()
    maps = explain_by_legrad(subject)
    for text in range(2):
        expected = torch.zeros(2, 16, dtype=torch.float64)
        for tokens, read in zip(behind, reads, strict=True):
            pooled = functional.normalize(visual.ln_post(tokens.mean(1)) @ visual.proj, dim=-1)
            total = (pooled @ subject.texts[text].double()).sum()
            (slope,) = torch.autograd.grad(total, read.a, retain_graph=True)
            expected += slope.clamp(min=0).mean(dim=(1, 2))[:, 1:]
        for row in range(2):
            assert_same(maps.values[row, text], expected[row])


def test_legrad_of_a_pooling_head_is_its_attentions_and_drops_what_an_empty_text_finds(monkeypatch):
    encoder = load_double("siglip")
    plain = explain_by_legrad(draw_subject(encoder, legrad_blocks=1))
    subject = draw_subject(encoder, legrad_blocks=1, with_empty=True)
    with readable_attention(monkeypatch) as reads:
        embedded = embed_pixels(encoder, subject.images)
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


@pytest.mark.parametrize(
    ("explain", "setting"), [(explain_by_game, "game_start"), (explain_by_legrad, "legrad_blocks")]
)
def test_a_block_that_the_tower_lacks_is_named(explain, setting):
    with pytest.raises(InputError, match=f"{setting} is 12, but this tower allows"):
        explain(draw_subject(load_double("clip"), **{setting: 12}))
