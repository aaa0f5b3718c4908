from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Normal, kl_divergence

from fieldmark.attribution.bottleneck import (
    choose_block,
    explain_by_bottleneck,
    measure_information,
)
from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.maps import Subject
from fieldmark.core.errors import NotApplicableError, UnsupportedEncoderError
from fieldmark.core.seeds import derive_seed
from fieldmark.models.adapter import DualEncoder, take_apart
from tests.attribution.plain_towers import (
    TRANSFORMERS,
    ColourBlock,
    ColourTower,
    embed_plainly,
    load_tiny,
    make_planted_subject,
    make_subject,
    open_visual,
    run_all_plainly,
    run_plainly,
)
from tests.models import tiny

QUICK = AttributionConfig(bottleneck_steps=2, bottleneck_samples=3)


def learn_plainly(subject: Subject, *, image: int, text: int) -> torch.Tensor:
    """Learn one bottleneck in float64: a loop over samples, and Adam written out."""
    config, visual = subject.config, open_visual(subject.encoder)
    with torch.no_grad():
        entered = run_all_plainly(subject.encoder, subject.images[image])[0].left
    seed = derive_seed(config.seed, "m2ib", subject.ids[image], text)
    source = torch.Generator().manual_seed(seed)
    alpha = torch.full_like(entered, 5.0)
    first, second = torch.zeros_like(alpha), torch.zeros_like(alpha)
    for step in range(1, config.bottleneck_steps + 1):
        leaf = alpha.clone().requires_grad_()
        share = 1 / (1 + torch.exp(-leaf))
        fits = []
        for _ in range(config.bottleneck_samples):
            noise = torch.randn(entered.shape, generator=source).double()
            values = share * entered + (1 - share) * noise
            for layer in visual.transformer.resblocks[1:]:
                values = run_plainly(layer, values).left
            fits.append(embed_plainly(visual, values[0]) @ subject.texts[text].double())
        divergence = kl_divergence(Normal(share * entered, 1 - share), Normal(0.0, 1.0))
        loss = config.bottleneck_beta * divergence.mean() - torch.stack(fits).mean()
        (gradient,) = torch.autograd.grad(loss, leaf)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        scale = (second / (1 - 0.999**step)).sqrt() + 1e-8
        alpha = alpha - first / (1 - 0.9**step) / scale
    share = torch.sigmoid(alpha)
    left = kl_divergence(Normal(share * entered, 1 - share), Normal(0.0, 1.0))
    return left.sum(1)[1:]


def test_bottleneck_is_what_is_learned_plainly():
    config = AttributionConfig(bottleneck_steps=4, bottleneck_samples=3)
    subject = make_subject(load_tiny("clip", double=True), config=config)
    maps = explain_by_bottleneck(subject)
    assert maps.values.shape == (2, 3, 4, 4)
    for image, text in ((0, 0), (1, 2)):
        expected = learn_plainly(subject, image=image, text=text).float()
        # Embeddings are float32, and Adam enlarges the rounding of the smallest gradients.
        found = maps.values[image, text].flatten()
        torch.testing.assert_close(found, expected, rtol=2e-3, atol=0)
    # Block 0 of 2 is squeezed: half of the tower runs for each of 4 x 3 samples and 3 texts.
    assert maps.forwards == 1 + 4 * 3 * 3 / 2
    assert maps.backwards == 4 * 3 * 3 / 2


@given(
    value=st.floats(-20, 20),
    alpha=st.floats(-10, 10),
)
@settings(max_examples=50, deadline=None)
def test_information_is_the_divergence_of_two_gaussians(value, alpha):
    x, a = torch.tensor([value, alpha], dtype=torch.float64)
    share = torch.sigmoid(a)
    expected = kl_divergence(Normal(share * x, 1 - share), Normal(0.0, 1.0))
    found = measure_information(x, alpha=a)
    assert float(found) == pytest.approx(float(expected), rel=1e-6, abs=1e-9)
    assert float(found) >= -1e-12


def test_information_stays_finite_where_all_passes():
    found = measure_information(torch.ones(2), alpha=torch.tensor([200.0, -200.0]))
    assert found.tolist() == [200.0, 0.0]


def test_planted_red_patch_keeps_the_most_information():
    red, _, blue = explain_by_bottleneck(make_planted_subject()).values[0].flatten(1)
    assert int(red.argmax()) == 2
    assert int(blue.argmin()) == 2


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_every_family_gives_finite_maps_that_do_not_depend_on_the_batch(family):
    encoder = load_tiny(family)
    subject = make_subject(encoder, texts=2, config=QUICK)
    with torch.no_grad():
        expected = encoder.encode_image(subject.images) @ subject.texts.T
    maps = explain_by_bottleneck(subject)
    assert maps.values.shape == (2, 2, *encoder.spec.grid)
    assert maps.values.isfinite().all()
    assert maps.values.min() > 0
    assert (maps.values[:, 0] - maps.values[:, 1]).abs().max() > 0
    assert maps.similarity is not None
    torch.testing.assert_close(maps.similarity, expected, atol=2e-5, rtol=1e-4)
    alone = dataclasses.replace(subject, images=subject.images[1:], ids=subject.ids[1:])
    torch.testing.assert_close(
        explain_by_bottleneck(alone).values[0], maps.values[1], rtol=1e-2, atol=0
    )


@pytest.mark.parametrize("batch_size", [1, 7, 18])
def test_how_a_batch_is_split_does_not_matter_and_bounds_what_runs(batch_size, monkeypatch):
    encoder = load_tiny("clip", double=True)
    whole = make_subject(encoder, config=QUICK)
    split = dataclasses.replace(whole, config=QUICK.model_copy(update={"batch_size": batch_size}))
    seen: list[int] = []
    pool = DualEncoder.pool

    def watch(self, tokens):
        seen.append(len(tokens.values))
        return pool(self, tokens)

    monkeypatch.setattr(DualEncoder, "pool", watch)
    found = explain_by_bottleneck(split).values
    assert max(seen[1:]) <= batch_size  # the first is the batch that the caller gave
    torch.testing.assert_close(found, explain_by_bottleneck(whole).values, rtol=1e-2, atol=0)


def test_chance_goes_by_seed_and_name():
    subject = make_subject(load_tiny("clip"), count=1, config=QUICK)
    maps = explain_by_bottleneck(subject).values
    assert explain_by_bottleneck(subject).values.equal(maps)
    named = dataclasses.replace(subject, ids=("another",))
    assert not explain_by_bottleneck(named).values.equal(maps)
    seeded = dataclasses.replace(subject, config=QUICK.model_copy(update={"seed": 1}))
    assert not explain_by_bottleneck(seeded).values.equal(maps)


def test_weights_get_no_gradient_and_callers_may_be_in_inference_mode():
    encoder = load_tiny("siglip")
    assert isinstance(encoder, DualEncoder)
    subject = make_subject(encoder, config=QUICK)
    expected = explain_by_bottleneck(subject).values
    assert all(weight.grad is None for weight in encoder.model.parameters())
    with torch.inference_mode():
        made = make_subject(encoder, config=QUICK, images=tiny.images(160).float().clone() / 255)
        assert explain_by_bottleneck(subject).values.equal(expected)
        assert explain_by_bottleneck(made).values.isfinite().all()


def test_images_that_are_no_square_keep_their_grid():
    images = tiny.images(48)[:, :, :24]
    subject = make_subject(load_tiny("hf-siglip2"), images=images, config=QUICK)
    assert explain_by_bottleneck(subject).values.shape == (2, 3, 3, 6)


def test_the_block_is_three_quarters_up_and_class_must_read_behind_it():
    twelve = ColourTower(blocks=(ColourBlock(),) * 12)
    assert choose_block(twelve, block=None, uri="a") == 9
    assert choose_block(twelve, block=10, uri="a") == 10
    with pytest.raises(NotApplicableError, match=r"block 11 of 12 .* 0 to 10, below the last"):
        choose_block(twelve, block=11, uri="a")
    siglip = take_apart(load_tiny("hf-siglip"))
    assert choose_block(siglip, block=1, uri="a") == 1
    with pytest.raises(NotApplicableError, match=r"set `bottleneck_block` to 0 to 1$"):
        choose_block(siglip, block=2, uri="a")
    with pytest.raises(NotApplicableError, match="this tower has one block"):
        choose_block(ColourTower(blocks=(ColourBlock(),)), block=None, uri="a")


@pytest.mark.parametrize("family", tiny.CONVS)
def test_towers_without_blocks_are_refused_by_name(family):
    with pytest.raises(UnsupportedEncoderError, match="m2ib needs the blocks of a transformer"):
        explain_by_bottleneck(make_subject(load_tiny(family)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("family", ["clip", "hf-siglip", "clip-mean"])
def test_half_and_double_precision_give_much_the_same_maps(family, dtype):
    subject = make_subject(load_tiny(family), count=1, config=QUICK)
    cast = dataclasses.replace(subject, encoder=subject.encoder.place(dtype=dtype))
    for explain in (explain_by_bottleneck,):
        found, expected = explain(cast), explain(subject).values
        assert found.values.dtype == torch.float32
        least = 0.95 if dtype == torch.bfloat16 else 0.9999
        assert (
            torch.corrcoef(torch.stack([found.values.flatten(), expected.flatten()]))[0, 1] > least
        )
