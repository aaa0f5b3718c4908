"""transformers' own outputs are the reference, of the same folder, opened by itself."""

from __future__ import annotations

import copy
import json
import shutil
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoModel, AutoProcessor

from fieldmark.core.errors import FieldmarkError, InputError, UnknownNameError
from fieldmark.models.adapter import replace_image_tower
from fieldmark.models.encoder import Encoder
from fieldmark.models.load import load_encoder
from tests.models import tiny

FAMILIES = ("clip", "siglip", "siglip2")
ODD_SIZES = [(97, 61), (33, 290), (64, 64), (301, 500)]


@pytest.fixture
def opened(transformers_folder):
    """Return a function from a family to our encoder, the library's model and its processor."""

    def get(family: str) -> tuple[Any, Any, Any]:
        folder = transformers_folder(family)
        encoder = load_encoder(f"hf:{folder}", device="cpu")
        return (
            encoder,
            AutoModel.from_pretrained(folder).eval(),
            AutoProcessor.from_pretrained(folder),
        )

    return get


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_image_embeddings_equal_the_librarys_own_for_images_of_any_size(opened, family):
    encoder, model, processor = opened(family)
    embedded = []
    for size in ODD_SIZES:
        image = tiny.photograph(*size)
        inputs = processor.image_processor(image, return_tensors="pt")
        expected = functional.normalize(model.get_image_features(**inputs).pooler_output, dim=-1)
        pixels = encoder.preprocess(image)
        assert pixels.dtype == torch.uint8
        embedded.append(encoder.encode_image(pixels[None]))
        assert tiny.largest([embedded[-1] - expected]) < 1e-5
        tokens = encoder.tokens(pixels[None])
        assert tokens.values.shape[1] == tokens.prefix + tokens.grid[0] * tokens.grid[1]
        assert tiny.largest([encoder.pool(encoder.run(tokens)) - expected]) < 1e-5
    assert tiny.largest([embedded[0] - embedded[3]]) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_text_embeddings_equal_the_librarys_own_padded_to_full_length(opened, family):
    encoder, model, processor = opened(family)
    tokens = processor.tokenizer(
        [text.lower() for text in tiny.TEXTS],
        padding="max_length",
        max_length=16,
        return_tensors="pt",
    )
    named = {"attention_mask": tokens["attention_mask"]} if family == "clip" else {}
    output = model.get_text_features(input_ids=tokens["input_ids"], **named)
    expected = functional.normalize(output.pooler_output, dim=-1)
    assert tiny.largest([encoder.encode_text(tiny.TEXTS) - expected]) < 1e-5
    alone = encoder.encode_text(tiny.TEXTS[:1])
    assert tiny.largest([alone - expected[:1]]) < 1e-5, "no text depends on its batch"


def test_an_image_that_is_no_square_keeps_its_aspect_in_naflex(opened):
    encoder = opened("siglip2")[0]
    assert encoder.spec.resize == "naflex"
    assert encoder.spec.image_size == 32
    assert encoder.preprocess(tiny.photograph(64, 64)).shape == (3, 32, 32)
    assert encoder.preprocess(tiny.photograph(301, 500)).shape == (3, 40, 24)


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_dropping_tokens_equals_masking_keys(opened, family):
    encoder, model, processor = opened(family)
    pixels = encoder.preprocess(tiny.photograph(64, 64))[None]
    tokens = encoder.tokens(pixels)
    keep = torch.ones(tokens.values.shape[1], dtype=torch.bool)
    keep[[tokens.prefix + index for index in (0, 5, 6, 15)]] = False
    dropped = encoder.pool(encoder.run(tokens._replace(values=tokens.values[:, keep])))
    if family == "siglip2":
        inputs = processor.image_processor(tiny.photograph(64, 64), return_tensors="pt")
        inputs["pixel_attention_mask"] = keep[None].int()
        masked = model.get_image_features(**inputs).pooler_output
    else:
        bias = torch.zeros(1, 1, len(keep), len(keep)).masked_fill(~keep, -torch.inf)
        vision = model.vision_model
        values = vision.encoder(inputs_embeds=tokens.values, attention_mask=bias).last_hidden_state
        values = vision.post_layernorm(values)
        if family == "clip":
            masked = model.visual_projection(values[:, 0])
        else:
            masked = vision.head(values[:, keep])
    assert tiny.largest([dropped - functional.normalize(masked, dim=-1)]) < 1e-5
    assert tiny.largest([dropped - encoder.encode_image(pixels)]) > 1e-3


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_last_attention_is_what_the_module_computes(opened, family):
    encoder = opened(family)[0]
    pixels = encoder.preprocess(tiny.photograph(64, 64))[None]
    attention = encoder.last_attention(encoder.tokens(pixels))
    vision = encoder.model.vision_model
    module = vision.encoder.layers[-1].self_attn if family == "clip" else vision.head.attention
    found: list[Any] = []
    handle = module.register_forward_hook(lambda *given: found.append(given[2][0]))
    encoder.encode_image(pixels)
    handle.remove()
    assert attention.output.shape == (1, 1, 48)
    assert tiny.largest([attention.output - found[0][:, :1]]) < 1e-5
    assert torch.allclose(attention.weight.sum(-1), torch.ones(()), atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trained_copy_of_the_tower_goes_back_into_an_encoder(opened, family):
    encoder = opened(family)[0]
    assert isinstance(encoder, Encoder)
    pixels = encoder.preprocess(tiny.photograph(64, 64))[None]
    before = encoder.encode_image(pixels)
    tower = copy.deepcopy(encoder.image_tower)
    normalised = (pixels.float() / 255 - torch.tensor(encoder.spec.mean).view(1, 3, 1, 1)) / (
        torch.tensor(encoder.spec.std).view(1, 3, 1, 1)
    )
    functional.normalize(tower(normalised), dim=-1)[:, 0].sum().backward()
    torch.optim.SGD(tower.parameters(), lr=0.1).step()
    assert torch.equal(encoder.encode_image(pixels), before)
    trained = replace_image_tower(encoder, tower.state_dict())
    expected = functional.normalize(tower(normalised), dim=-1)
    assert tiny.largest([trained.encode_image(pixels) - expected]) < 1e-5
    assert tiny.largest([expected - before]) > 1e-4
    assert trained.spec.fingerprint != encoder.spec.fingerprint


@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_a_copy_in_bfloat16_is_close(opened, family):
    encoder = opened(family)[0]
    pixels = encoder.preprocess(tiny.photograph(64, 64))[None]
    cast = encoder.place(dtype=torch.bfloat16)
    embedded = cast.encode_image(pixels)
    assert embedded.dtype == torch.float32
    assert float((embedded * encoder.encode_image(pixels)).sum()) > 0.999
    assert cast.encode_text(tiny.TEXTS).dtype == torch.float32


def test_weights_are_float32_whatever_type_they_were_stored_in(transformers_folder, tmp_path):
    folder = shutil.copytree(transformers_folder("siglip"), tmp_path / "model")
    AutoModel.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    encoder = load_encoder(f"hf:{folder}", device="cpu")
    assert next(encoder.image_tower.parameters()).dtype == torch.float32


def rewrite(folder: Any, name: str, change: dict[str, Any]) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        (
            "type",
            UnknownNameError,
            "unknown transformers model type 'vit'; .*known: clip, siglip, s",
        ),
        ("pickle", InputError, "holds no model.safetensors but a pickle .pytorch_model.bin"),
        ("config", InputError, "holds no config.json"),
        ("processor", InputError, "processor or tokenizer cannot be read"),
        ("truncated", InputError, "these weights cannot be loaded"),
        ("size", InputError, "its processor makes .48, 48. and its model takes 32"),
    ],
)
def test_a_folder_that_cannot_be_used_is_one_line(
    transformers_folder, tmp_path, how, error, message
):
    folder = shutil.copytree(transformers_folder("siglip"), tmp_path / "model")
    weights = folder / "model.safetensors"
    if how == "type":
        rewrite(folder, "config.json", {"model_type": "vit"})
    elif how == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    elif how == "config":
        (folder / "config.json").unlink()
    elif how == "processor":
        (folder / "processor_config.json").unlink()
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:999])
    else:
        nested = json.loads((folder / "processor_config.json").read_text())["image_processor"]
        nested["size"] = {"height": 48, "width": 48}
        rewrite(folder, "processor_config.json", {"image_processor": nested})
    with pytest.raises(error, match=message) as caught:
        load_encoder(f"hf:{folder}")
    assert isinstance(caught.value, FieldmarkError)
    assert "\n" not in str(caught.value)
