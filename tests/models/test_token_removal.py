from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from fieldmark.core.errors import InputError, UnsupportedEncoderError
from fieldmark.models import token_removal
from fieldmark.models.adapter import take_apart
from fieldmark.models.blocks import ClipPooler
from fieldmark.models.cell_removal import encode_kept_cells, require_separable
from fieldmark.models.conv_towers import TimmTrunk
from fieldmark.models.encoder import normalise
from fieldmark.models.hf_towers import cut_patches
from fieldmark.models.load import load_encoder
from fieldmark.models.token_removal import PackedWeights, encode_kept, pack_weights
from fieldmark.testing import FakeEncoder
from tests.models import tiny

TRANSFORMERS = ("hf-clip", "hf-siglip", "hf-siglip2")
SEPARABLE = ("convnext", "resnet")


@pytest.fixture
def loaded(open_clip_folder, transformers_folder):
    """Return a function from a family to its encoder."""

    def load(family):
        if family.startswith("hf-"):
            return load_encoder(f"hf:{transformers_folder(family[3:])}", device="cpu")
        return load_encoder(f"local-dir:{open_clip_folder(family)}", device="cpu")

    return load


def _masks(encoder, *, images=2, variants=4, seed=0):
    """Draw which patches are kept: all of them, none but one, and random ones."""
    rows, columns = encoder.spec.grid
    random = torch.Generator().manual_seed(seed)
    kept = torch.rand(images, variants, rows * columns, generator=random) < 0.6
    kept[:, 0], kept[:, 1] = True, False
    kept[:, 1, 2] = True
    kept[:, 2:, 0], kept[:, 2:, 1] = True, False
    return kept


def _run_masked(family, tower, values, blocked):
    """Run all tokens through the library's own blocks, keys of removed ones at -inf: (1,D)."""
    every = blocked.expand(1, 1, len(blocked), -1)
    if family.startswith("hf-"):
        for layer in tower.vision_model.encoder.layers:
            values = layer(values, attention_mask=every)
        return values
    if family.startswith("clip"):
        for block in tower.visual.transformer.resblocks:
            values = block(values, attn_mask=every[0, 0])
        return values
    for block in tower.visual.trunk.blocks:
        values = block(values, attn_mask=every)
    return values


def _pool_masked(family, tower, values, blocked, prefix):
    """Pool all tokens by the library's own head, its keys masked."""
    if family == "clip-attention":
        pooler = tower.visual.attn_pool
        query, key = pooler.ln_q(pooler.query)[None], pooler.ln_k(values)
        mixed = pooler.attn(query, key, key, key_padding_mask=blocked[None])[0]
        return ClipPooler(tower.visual).finish(mixed)
    if family.startswith("siglip"):
        trunk = tower.visual.trunk
        skip = 0 if trunk.pool_include_prefix else prefix
        mask = blocked[skip:].view(1, 1, 1, -1)
        pooled = trunk.attn_pool(trunk.norm(values)[:, skip:], attn_mask=mask)
        return tower.visual.head(trunk.head(trunk.fc_norm(pooled)))
    if family == "hf-siglip":
        head, key = tower.vision_model.head, tower.vision_model.post_layernorm(values)
        mixed = head.attention(head.probe, key, key, key_padding_mask=blocked[None])[0]
        return (mixed + head.mlp(head.layernorm(mixed)))[:, 0]
    # CLS takes no key, and a mean is over what is left.
    return None


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("family", [*tiny.VITS, "hf-clip", "hf-siglip"])
def test_token_removal_equals_masking_the_keys_everywhere(loaded, family, packed, monkeypatch):
    # Tiny towers have too few tokens for either by themselves.
    monkeypatch.setattr(token_removal, "WORTH_PACKING", 1 if packed else 10**9)
    monkeypatch.setattr(token_removal, "CPU_TOKENS", 30 if packed else 4096)
    encoder = loaded(family)
    tower, image = take_apart(encoder), tiny.images(encoder.spec.image_size)
    kept = _masks(encoder)
    found = encode_kept(encoder, image, kept)
    with torch.inference_mode():
        tokens = encoder.tokens(image)
        for place in range(len(image)):
            for row, mask in enumerate(kept[place]):
                stays = torch.cat([torch.ones(tokens.prefix, dtype=torch.bool), mask])
                blocked = torch.zeros(len(stays)).masked_fill(~stays, -torch.inf)
                values = _run_masked(family, tower, tokens.values[place : place + 1], blocked)
                pooled = _pool_masked(family, tower, values, blocked, tokens.prefix)
                if pooled is None:
                    pooled = tower.pool(tokens._replace(values=values[:, stays]))
                expected = functional.normalize(pooled, dim=-1)[0]
                assert tiny.largest([found[place, row] - expected]) < 1e-5


def test_removal_equals_the_pixel_attention_mask_of_naflex(loaded):
    encoder = loaded("hf-siglip2")
    image, kept = tiny.images(32), _masks(encoder)
    found = encode_kept(encoder, image, kept)
    tower: Any = take_apart(encoder)
    model = tower.vision_model
    pixels = normalise(image, spec=encoder.spec, dtype=torch.float32)
    with torch.inference_mode():
        for row in range(kept.shape[1]):
            pooled = model(
                pixel_values=cut_patches(pixels, side=8),
                pixel_attention_mask=kept[:, row].int(),
                spatial_shapes=torch.tensor([[4, 4]] * 2),
            ).pooler_output
            expected = functional.normalize(pooled, dim=-1)
            assert tiny.largest([found[:, row] - expected]) < 1e-5


@pytest.mark.parametrize("family", [*tiny.VITS, *tiny.CONVS, *TRANSFORMERS])
def test_keeping_all_patches_is_encoding_the_image(loaded, family):
    encoder = loaded(family)
    image = tiny.images(encoder.spec.image_size)
    rows, columns = encoder.spec.grid
    kept = torch.ones(2, 3, rows * columns, dtype=torch.bool)
    with torch.inference_mode():
        expected = encoder.encode_image(image)
    found = encode_kept(encoder, image, kept, batch_size=2)
    assert tiny.largest([found - expected[:, None]]) < 1e-5


@pytest.mark.parametrize("family", ["clip", "siglip", "siglip-registers", "hf-clip", *SEPARABLE])
def test_removing_all_patches_gives_the_floor(loaded, family):
    encoder = loaded(family)
    image = tiny.images(encoder.spec.image_size)
    rows, columns = encoder.spec.grid
    kept = torch.zeros(2, 1, rows * columns, dtype=torch.bool)
    found = encode_kept(encoder, image, kept)[:, 0]
    prefix = 0 if family in SEPARABLE else encoder.tokens(image).prefix
    if family == "siglip-registers" or prefix:
        assert tiny.largest([found[0] - found[1], found.norm(dim=-1) - 1]) < 1e-5
    else:
        assert bool(found.isnan().all())


@pytest.mark.parametrize("family", ["clip", "siglip", "hf-siglip2", *SEPARABLE])
def test_a_variant_does_not_depend_on_its_batch(loaded, family):
    encoder = loaded(family)
    image, kept = tiny.images(encoder.spec.image_size), _masks(encoder)
    together = encode_kept(encoder, image, kept)
    for place in range(2):
        for row in range(kept.shape[1]):
            part = slice(row, row + 1)
            alone = encode_kept(
                encoder, image[place : place + 1], kept[place : place + 1, part], batch_size=1
            )
            assert tiny.largest([together[place, row] - alone[0, 0]]) < 1e-5


@pytest.mark.parametrize("family", SEPARABLE)
def test_what_removed_cells_showed_does_not_matter(loaded, family):
    encoder = loaded(family)
    side = encoder.spec.image_size
    rows, columns = encoder.spec.grid
    kept = torch.zeros(1, 1, rows, columns, dtype=torch.bool)
    kept[..., : columns // 2] = True
    image, other = tiny.images(side, count=1), tiny.images(side, count=1, seed=1)
    other[..., : side // 2] = image[..., : side // 2]
    found = [encode_kept(encoder, each, kept.flatten(2)) for each in (image, other)]
    assert tiny.largest([found[0] - found[1]]) < 1e-5
    whole = encoder.encode_image(image)
    assert tiny.largest([whole - found[0][:, 0]]) > 1e-3


def test_convnext_in_batches_of_unequal_counts_equals_its_own_run(loaded):
    encoder = loaded("convnext")
    image, kept = tiny.images(encoder.spec.image_size), _masks(encoder)
    found = encode_kept(encoder, image, kept)
    with torch.inference_mode():
        tokens = encoder.tokens(image)
        for place, row in ((0, 1), (0, 2), (1, 3)):
            left = tokens.values[place : place + 1, kept[place, row]]
            expected = encoder.pool(encoder.run(tokens._replace(values=left)))[0]
            assert tiny.largest([found[place, row] - expected]) < 1e-5


def test_a_trunk_with_squeeze_and_excitation_is_refused(loaded):
    encoder = loaded("efficientnet")
    image = tiny.images(encoder.spec.image_size)
    with pytest.raises(UnsupportedEncoderError, match="remove=pixels"):
        encode_kept(encoder, image, _masks(encoder))


class _SummingTrunk(nn.Module):
    """One 3 x 3 convolution of ones without bias on the first channel, then the mean."""

    num_features = 1
    feature_info = ({"reduction": 1},)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        nn.init.ones_(self.conv.weight)

    def forward_features(self, image):
        return self.conv(image[:, :1])

    def forward_head(self, features):
        return features.mean((2, 3))


def test_cells_of_a_hand_worked_convolution():
    visual = SimpleNamespace(trunk=_SummingTrunk(), head=nn.Identity(), image_size=(2, 3))
    image = torch.tensor([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]]).expand(1, 3, 2, 3)
    kept = torch.tensor([[[1, 1, 1, 1, 1, 1], [1, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0]]]).bool()
    with torch.inference_mode():
        found = encode_kept_cells(TimmTrunk(visual), image, kept)
    # All: (27 + 63 + 54) * 2 / 6. Cells 1 and 16 see each other: 17. Cell 4 is alone.
    assert found[0, :, 0].tolist() == [48, 17, 4]


class _CentringTrunk(_SummingTrunk):
    """Takes the mean over all cells off, as a global norm does."""

    def forward_features(self, image):
        features = self.conv(image[:, :1])
        return features - features.mean((2, 3), keepdim=True)


def test_a_trunk_with_a_global_norm_is_refused():
    visual = SimpleNamespace(trunk=_CentringTrunk(), head=nn.Identity(), image_size=(4, 4))
    with torch.inference_mode(), pytest.raises(UnsupportedEncoderError, match="_CentringTrunk"):
        require_separable(TimmTrunk(visual), torch.rand(1, 3, 4, 4))


def test_masks_that_do_not_fit_are_refused(loaded):
    with pytest.raises(InputError, match="3 images were given for 1"):
        encode_kept(FakeEncoder(), torch.ones(1, 3, 8, 8), torch.ones(3, 1, 16).bool())
    with pytest.raises(InputError, match="a mask of 9 patches does not fit a grid of 4 x 4"):
        encode_kept(FakeEncoder(), torch.ones(1, 3, 8, 8), torch.ones(1, 1, 9).bool())
    encoder = loaded("convnext")
    image = tiny.images(encoder.spec.image_size, count=1)
    with pytest.raises(InputError, match="a mask of 9 cells"):
        encode_kept(encoder, image, torch.ones(1, 1, 9).bool())


def test_embeddings_carry_no_gradient_and_may_be_used_under_autograd():
    encoder = FakeEncoder()
    found = encode_kept(encoder, torch.rand(1, 3, 8, 8), torch.ones(1, 2, 16).bool())
    weight = torch.ones(6, requires_grad=True)
    (found @ weight).sum().backward()
    assert not found.requires_grad
    assert weight.grad is not None


def test_packed_weights_are_those_of_the_layer_that_runs():
    values = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(), PackedWeights() as packing:
        for scale in range(4):
            # Each weight is freed behind its turn, so the next may come to lie in its place.
            found = functional.linear(values, torch.eye(8) * scale)
            assert torch.allclose(found, values * scale, atol=1e-6)
        layer = nn.Linear(8, 3)
        first, second = layer(values), layer(values)
        assert torch.equal(first, second)
        assert len(packing._packed) == 5
    assert torch.allclose(first, values @ layer.weight.T + layer.bias, atol=1e-6)


def test_weights_are_packed_for_many_float32_tokens_alone():
    values = torch.zeros(1, 4, 2)
    assert isinstance(pack_weights(values, count=10**6), PackedWeights)
    assert not isinstance(pack_weights(values, count=10), PackedWeights)
    assert not isinstance(pack_weights(values.bfloat16(), count=10**6), PackedWeights)


def test_the_last_block_runs_for_cls_alone(loaded):
    encoder, widths = loaded("clip"), []
    tower: Any = take_apart(encoder)
    last = tower.visual.transformer.resblocks[-1]
    handle = last.mlp.register_forward_hook(lambda _, inputs, __: widths.append(inputs[0].shape[1]))
    encode_kept(encoder, tiny.images(encoder.spec.image_size), _masks(encoder))
    handle.remove()
    assert set(widths) == {1}
