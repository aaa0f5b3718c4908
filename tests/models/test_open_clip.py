"""open_clip's own outputs are the reference: of the same folder, opened by open_clip itself."""

from __future__ import annotations

import copy
import json
import shutil
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from fieldmark.core.errors import InputError, UnsupportedEncoderError
from fieldmark.models import open_clip as adapter
from fieldmark.models.adapter import fingerprint, replace_image_tower
from fieldmark.models.encoder import Encoder, normalise
from fieldmark.models.load import load_encoder
from tests.models import tiny

ODD_SIZES = [(97, 61), (33, 290), (160, 160), (301, 500), (31, 17), (225, 224)]


@pytest.fixture
def opened(open_clip_folder):
    """Return a function from a family to our encoder, open_clip's model, transform, tokenizer."""

    def get(family: str) -> tuple[Any, Any, Any, Any]:
        name = f"local-dir:{open_clip_folder(family)}"
        model, _, transform = open_clip.create_model_and_transforms(name)
        tokenizer = open_clip.get_tokenizer(name)
        return load_encoder(name, device="cpu"), model.eval(), transform, tokenizer

    return get


def pixels(encoder: Encoder) -> Tensor:
    """Return two random images, normalised by hand."""
    spec = encoder.spec
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (spec.mean, spec.std))
    return (tiny.images(spec.image_size).float() / 255 - mean) / std


@pytest.mark.parametrize("family", [*tiny.FAMILIES, "bert-text"])
@torch.no_grad()
def test_embeddings_equal_open_clips_own(opened, family):
    encoder, model, _, tokenizer = opened(family)
    image = functional.normalize(model.encode_image(pixels(encoder)), dim=-1)
    text = functional.normalize(model.encode_text(tokenizer(tiny.TEXTS)), dim=-1)
    assert tiny.largest([image[0] - image[1]]) > 1e-3, "two images must differ for this to say much"
    assert tiny.largest([text[0] - text[1]]) > 1e-3
    ours = encoder.encode_image(tiny.images(encoder.spec.image_size))
    assert tiny.largest([ours - image]) < 1e-5
    assert tiny.largest([encoder.encode_image(pixels(encoder)) - image]) < 1e-5
    assert tiny.largest([encoder.encode_text(tiny.TEXTS) - text]) < 1e-5
    assert ours.dtype == torch.float32
    assert torch.allclose(ours.norm(dim=-1), torch.ones(2))


@pytest.mark.parametrize("family", ["clip", "siglip", "efficientnet"])
@pytest.mark.parametrize("size", ODD_SIZES)
def test_preprocessing_equals_open_clips_transform(opened, family, size):
    encoder, _, transform, _ = opened(family)
    image = tiny.photograph(*size)
    ours = encoder.preprocess(image)
    assert ours.dtype == torch.uint8
    ready = normalise(ours[None], spec=encoder.spec, dtype=torch.float32)[0]
    assert tiny.largest([ready - transform(image)]) < 1e-5


@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.no_grad()
def test_tokens_run_and_pool_give_the_embedding(opened, family):
    encoder = opened(family)[0]
    image = tiny.images(encoder.spec.image_size)
    tokens = encoder.tokens(image)
    rows, columns = tokens.grid
    assert tokens.grid == encoder.spec.grid
    assert tokens.values.shape[1] == tokens.prefix + rows * columns
    assert tiny.largest([encoder.pool(encoder.run(tokens)) - encoder.encode_image(image)]) < 1e-5


def without(tokens: Any, dropped: list[int]) -> tuple[Any, Tensor]:
    """Remove patches, and return what is left and a mask of the tokens that stay."""
    keep = torch.ones(tokens.values.shape[1], dtype=torch.bool)
    keep[[tokens.prefix + index for index in dropped]] = False
    return tokens._replace(values=tokens.values[:, keep]), keep


def as_bias(keep: Tensor) -> Tensor:
    """Return an additive mask (N,N) in which nothing attends to what does not stay."""
    return torch.zeros(len(keep), len(keep)).masked_fill(~keep, -torch.inf)


@torch.no_grad()
def test_dropping_tokens_equals_masking_keys_in_a_cls_tower(opened):
    encoder, model, _, _ = opened("clip")
    tokens = encoder.tokens(tiny.images(32))
    left, keep = without(tokens, [0, 5, 6, 15])
    visual = model.visual
    values = visual.transformer(tokens.values, attn_mask=as_bias(keep))
    masked = functional.normalize(visual.ln_post(values[:, 0]) @ visual.proj, dim=-1)
    dropped = encoder.pool(encoder.run(left))
    assert tiny.largest([dropped - masked]) < 1e-5
    assert tiny.largest([dropped - encoder.pool(encoder.run(tokens))]) > 1e-3


@pytest.mark.parametrize("family", ["siglip", "siglip-registers"])
@torch.no_grad()
def test_dropping_tokens_equals_masking_keys_in_a_map_tower(opened, family):
    encoder, model, _, _ = opened(family)
    tokens = encoder.tokens(tiny.images(160))
    left, keep = without(tokens, [0, 1, 42, 99])
    trunk, values = model.visual.trunk, tokens.values
    for block in trunk.blocks:
        values = block(values, attn_mask=as_bias(keep))
    skip = 0 if trunk.pool_include_prefix else trunk.num_prefix_tokens
    bias = as_bias(keep)[:1, skip:]
    pooled = trunk.attn_pool(trunk.norm(values)[:, skip:], attn_mask=bias)
    masked = functional.normalize(model.visual.head(trunk.fc_norm(pooled)), dim=-1)
    assert tiny.largest([encoder.pool(encoder.run(left)) - masked]) < 1e-5


@torch.no_grad()
def test_removed_cells_of_convnext_are_zero_before_every_depthwise_convolution(opened):
    encoder, model, _, _ = opened("convnext")
    image = tiny.images(160)
    left, keep = without(encoder.tokens(image), [0, 7, 12, 24])
    trunk, mask = model.visual.trunk, keep.view(1, 1, 5, 5).float()
    values = trunk.stem(pixels(encoder))
    for stage in trunk.stages:
        values = stage.downsample(values)
        here = functional.interpolate(mask, size=values.shape[-2:], mode="nearest")
        for block in stage.blocks:
            mixed = block.conv_dw(values * here).permute(0, 2, 3, 1)
            mixed = block.mlp(block.norm(mixed)).permute(0, 3, 1, 2)
            values = values + mixed * block.gamma.view(1, -1, 1, 1)
    mean = (values * mask).sum((2, 3), keepdim=True) / mask.sum()
    expected = functional.normalize(model.visual.head(trunk.forward_head(mean)), dim=-1)
    dropped = encoder.pool(encoder.run(left))
    assert tiny.largest([dropped - expected]) < 1e-5
    assert tiny.largest([dropped - encoder.encode_image(image)]) > 1e-3


@torch.no_grad()
def test_removed_cells_of_efficientnet_leave_the_average(opened):
    encoder, model, _, _ = opened("efficientnet")
    left, keep = without(encoder.tokens(tiny.images(160)), [3, 4, 5])
    features = model.visual.trunk.forward_features(pixels(encoder)).flatten(2)[..., keep]
    expected = functional.normalize(model.visual.head(features.mean(-1)), dim=-1)
    assert tiny.largest([encoder.pool(encoder.run(left)) - expected]) < 1e-5


@torch.no_grad()
def test_removed_cells_of_resnet_leave_query_and_keys(opened):
    encoder, model, _, _ = opened("resnet")
    left, _ = without(encoder.tokens(tiny.images(64)), [2])
    pool = copy.deepcopy(model.visual.attnpool)
    pool.positional_embedding.data = pool.positional_embedding.data[[0, 1, 2, 4]]
    caught: list[Tensor] = []
    handle = model.visual.attnpool.register_forward_pre_hook(lambda _, x: caught.append(x[0]))
    model.encode_image(pixels(encoder))
    handle.remove()
    cells = caught[0].flatten(2)[..., [0, 1, 3]].unsqueeze(-1)
    expected = functional.normalize(pool(cells), dim=-1)
    assert tiny.largest([encoder.pool(encoder.run(left)) - expected]) < 1e-5


def output_of(module: torch.nn.Module, call: Any) -> Tensor:
    """Return what a module puts out during a call."""
    found: list[Any] = []
    handle = module.register_forward_hook(lambda *given: found.append(given[2]))
    call()
    handle.remove()
    output: Tensor = found[0][0] if isinstance(found[0], tuple) else found[0]
    return output


@pytest.mark.parametrize(
    ("family", "module", "rows"),
    [
        ("clip", "transformer.resblocks.1.attn", slice(0, 1)),
        ("clip-mean", "transformer.resblocks.1.attn", slice(1, None)),
        ("clip-attention", "attn_pool.attn", slice(None)),
        ("dinov2", "trunk.blocks.5.attn", slice(0, 1)),
        ("vit-mean", "trunk.blocks.7.attn", slice(1, None)),
        ("siglip", "trunk.attn_pool.proj", slice(None)),
        ("siglip-registers", "trunk.attn_pool.proj", slice(None)),
        ("resnet", "attnpool", None),
    ],
)
@torch.no_grad()
def test_last_attention_is_what_the_module_computes(opened, family, module, rows):
    encoder, model, _, _ = opened(family)
    attention = encoder.last_attention(encoder.tokens(tiny.images(encoder.spec.image_size)))
    visual = model.visual
    computed = output_of(visual.get_submodule(module), lambda: visual(pixels(encoder)))
    computed = computed[:, None] if rows is None else computed[:, rows]
    assert attention.output.shape == computed.shape
    assert tiny.largest([attention.output - computed]) < 1e-5
    assert torch.allclose(attention.weight.sum(-1), torch.ones(()), atol=1e-5)
    scores = attention.query @ attention.key.mT / attention.query.shape[-1] ** 0.5
    assert torch.allclose(scores.softmax(-1), attention.weight, atol=1e-6)


@pytest.mark.parametrize("family", ["convnext", "efficientnet"])
def test_a_conv_tower_has_no_attention_and_says_what_would_work(opened, family):
    encoder = opened(family)[0]
    with pytest.raises(UnsupportedEncoderError, match="Grad-CAM"):
        encoder.last_attention(encoder.tokens(tiny.images(160)))


@pytest.mark.parametrize("family", ["clip", "siglip", "convnext", "resnet"])
def test_embeddings_are_differentiable_in_pixels_and_weights(opened, family):
    encoder = opened(family)[0]
    image = pixels(encoder).requires_grad_()
    encoder.encode_image(image)[:, 0].sum().backward()
    assert image.grad is not None
    assert 0 < float(image.grad.abs().sum()) < torch.inf
    grads = [weight.grad for weight in encoder.image_tower.parameters()]
    assert any(grad is not None and float(grad.abs().sum()) > 0 for grad in grads)


@pytest.mark.parametrize("family", tiny.FAMILIES)
@torch.inference_mode()
def test_a_copy_in_bfloat16_is_independent_and_close(opened, family):
    encoder = opened(family)[0]
    image = tiny.images(encoder.spec.image_size)
    before = encoder.encode_image(image)
    cast = encoder.place(dtype=torch.bfloat16)
    embedded = cast.encode_image(image)
    assert embedded.dtype == torch.float32
    assert float((embedded * before).sum(-1).min()) > 0.999
    assert cast.encode_text(tiny.TEXTS).dtype == torch.float32
    assert cast.spec.fingerprint != encoder.spec.fingerprint
    assert torch.equal(encoder.encode_image(image), before)
    assert encoder.place(device="cpu").spec == encoder.spec


def test_a_cast_keeps_the_statistics_of_batch_norms(opened):
    encoder = opened("resnet")[0]
    cast = encoder.place(dtype=torch.bfloat16).image_tower.state_dict()
    for name, value in encoder.image_tower.state_dict().items():
        exact = "bn" in name or "downsample.1" in name
        assert torch.equal(cast[name], value if exact else value.to(torch.bfloat16)), name
    assert encoder.place(dtype=torch.float64).image_tower.bn1.weight.dtype == torch.float64


@pytest.mark.parametrize("family", ["clip", "siglip", "resnet"])
def test_a_trained_copy_of_the_tower_goes_back_into_an_encoder(opened, family):
    encoder = opened(family)[0]
    image = tiny.images(encoder.spec.image_size)
    before = encoder.encode_image(image)
    tower = copy.deepcopy(encoder.image_tower)
    optimizer = torch.optim.SGD(tower.parameters(), lr=0.1)
    functional.normalize(tower(pixels(encoder)), dim=-1)[:, 0].sum().backward()
    optimizer.step()
    assert torch.equal(encoder.encode_image(image), before), "the encoder itself must stay"
    trained = replace_image_tower(encoder, tower.state_dict())
    expected = functional.normalize(tower(pixels(encoder)), dim=-1)
    assert tiny.largest([trained.encode_image(image) - expected]) < 1e-5
    assert tiny.largest([trained.encode_image(image) - before]) > 1e-4
    assert torch.equal(trained.encode_text(tiny.TEXTS), encoder.encode_text(tiny.TEXTS))
    assert trained.spec.fingerprint != encoder.spec.fingerprint


def test_the_fingerprint_is_over_both_towers(opened):
    encoder = opened("clip")[0]
    model = copy.deepcopy(encoder.model)
    assert fingerprint(model) == encoder.spec.fingerprint
    with torch.no_grad():
        model.token_embedding.weight[7, 7] += 1e-3
    assert fingerprint(model) != encoder.spec.fingerprint


def test_it_fits_the_contract(opened):
    encoder = opened("siglip")[0]
    assert isinstance(encoder, Encoder)
    assert encoder.spec.resize == "squash"
    assert encoder.spec.pooling == "map"
    assert encoder.spec.logit_bias == -10.0
    assert encoder.spec.logit_scale == pytest.approx(9.974, abs=1e-3)


def test_preprocessing_is_never_guessed(open_clip_folder, tmp_path):
    """Facts 4.9: open_clip fills in CLIP's mean for a SigLIP folder that states none."""
    folder = shutil.copytree(open_clip_folder("siglip"), tmp_path / "model")
    path = folder / "open_clip_config.json"
    config = json.loads(path.read_text())
    del config["preprocess_cfg"]
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match="preprocess_cfg lacks mean, std, interpolation, resize"):
        load_encoder(f"local-dir:{folder}")
    config["preprocess_cfg"] = {"mean": [0.5] * 3, "std": [0.5] * 3}
    path.write_text(json.dumps(config))
    with pytest.raises(InputError, match="lacks interpolation, resize_mode"):
        load_encoder(f"local-dir:{folder}")


def test_a_generative_model_is_refused(tmp_path):
    cfg = {**tiny.model_cfg("clip"), "multimodal_cfg": {}}
    with pytest.raises(UnsupportedEncoderError, match="CoCa"):
        adapter.build_model(cfg, weights=tmp_path / "none.safetensors")


def test_a_trunk_without_a_map_embeds_but_has_no_tokens():
    cfg = tiny.model_cfg("clip")
    cfg["vision_cfg"] = tiny._timm("test_vit_relpos", pool="avg")
    model = open_clip.CLIP(**cfg)
    encoder = adapter.wrap_model(
        model, cfg, tiny.CLIP_PREPROCESS, tokenizer=open_clip.SimpleTokenizer(), uri="test:x"
    )
    image = tiny.images(160)
    with torch.no_grad():
        assert encoder.encode_image(image).shape == (2, 64)
        with pytest.raises(UnsupportedEncoderError, match="its embeddings work"):
            encoder.tokens(image)
