"""Names in, encoders or one clear line out; nothing here reaches a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import safetensors.torch
import torch

from fieldmark.core.errors import (
    FetchError,
    FieldmarkError,
    InputError,
    UnknownNameError,
    UsageError,
)
from fieldmark.core.records import start_run
from fieldmark.models import hub
from fieldmark.models.load import load_encoder
from tests.models import tiny


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return an empty Hugging Face cache on a machine without network."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return folder


def put_in_cache(cache: Path, repo: str, files: Path) -> None:
    """Lay files out as the hub client keeps them."""
    home = cache / f"models--{repo.replace('/', '--')}"
    shutil.copytree(files, home / "snapshots" / "abc")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")


@pytest.mark.parametrize(
    "uri",
    [
        "open_clip:ViT-B-16/laion2b_s34b_b88k",
        "open_clip:ViT-B-16,laion2b_s34b_b88k",
        "ViT-B-16/laion2b_s34b_b88k",
        "ViT-B/16/laion2b_s34b_b88k",
    ],
)
def test_weights_that_cannot_be_had_are_named_with_three_ways_to_supply_them(cache, uri):
    with pytest.raises(FetchError) as caught:
        load_encoder(uri)
    message = str(caught.value)
    assert message.startswith(
        "laion/CLIP-ViT-B-16-laion2B-s34B-b88K/open_clip_model.safetensors: cannot be fetched"
    )
    assert "HF_HOME" in message
    assert "local-dir:" in message
    assert "packaged:" in message
    assert "\n" not in message


@pytest.mark.parametrize("uri", ["hf-hub:org/repo", "open_clip:hf-hub:org/repo", "hf:org/repo"])
def test_a_repository_that_cannot_be_reached_names_its_first_file(cache, uri):
    with pytest.raises(FetchError, match=r"^org/repo/(open_clip_)?config.json: cannot be fetched"):
        load_encoder(uri)


def test_no_name_look_up_means_no_half_minute_of_retries(tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError("no such host")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("socket.getaddrinfo", fail)
    monkeypatch.setattr("urllib.request.getproxies", dict)
    start = time.monotonic()
    with pytest.raises(FetchError, match="the hub cannot be reached"):
        hub.fetch_hub_file("org/repo", ("a.safetensors",))
    assert time.monotonic() - start < 1


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ViT-B-61/openai", "unknown open_clip model 'ViT-B-61'; did you mean ViT-B-16"),
        ("ViT-B-16/laion2b", "unknown weights of ViT-B-16 'laion2b'; .*laion2b_s34b_b88k"),
        ("ViT-B-16", "unknown weights of ViT-B-16 ''; known: .*openai"),
        ("google/siglip2-base-patch16-224", "did you mean hf:google/siglip2-base-patch16-224"),
        ("clip:ViT-B-16", "unknown kind of model name 'clip'; .*known: hf-hub:..., hf:..., local"),
        ("packaged:dinov3-huge", "dinov3-huge.*dinov2-small"),
    ],
)
def test_unknown_names_list_the_known_ones(uri, message):
    with pytest.raises(UnknownNameError, match=message):
        load_encoder(uri)


@pytest.mark.parametrize("file", ["open_clip_pytorch_model.bin", "model.pt"])
def test_local_pickles_are_refused_unread(open_clip_folder, tmp_path, file):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    folder = shutil.copytree(open_clip_folder("clip"), tmp_path / "model")
    (folder / "open_clip_model.safetensors").unlink()
    torch.save({"a": Bomb()}, folder / file)
    with pytest.raises(InputError, match=f"holds its weights as {file}, a pickle"):
        load_encoder(f"local-dir:{folder}")
    assert not (tmp_path / "exploded").exists()


def test_a_safetensors_file_wins_over_a_pickle_beside_it(open_clip_folder, tmp_path):
    """open_clip itself would prefer this pickle to this safetensors file."""
    folder = shutil.copytree(open_clip_folder("clip"), tmp_path / "model")
    (folder / "open_clip_model.safetensors").rename(folder / "model.safetensors")
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"not read")
    expected = load_encoder(f"local-dir:{open_clip_folder('clip')}").spec.fingerprint
    assert load_encoder(str(folder)).spec.fingerprint == expected


def test_a_pickle_from_the_hub_is_read_as_weights_only(cache, open_clip_folder, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "exploded"),)

    folder = shutil.copytree(open_clip_folder("clip"), tmp_path / "model")
    weights = folder / "open_clip_model.safetensors"
    state = safetensors.torch.load_file(weights)
    weights.unlink()
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    put_in_cache(cache, "org/good", folder)
    expected = load_encoder(f"local-dir:{open_clip_folder('clip')}")
    assert load_encoder("hf-hub:org/good").spec.fingerprint == expected.spec.fingerprint
    torch.save(Bomb(), folder / "open_clip_pytorch_model.bin")
    put_in_cache(cache, "org/bad", folder)
    with pytest.raises(InputError, match="these weights cannot be loaded"):
        load_encoder("hf-hub:org/bad")
    assert not (tmp_path / "exploded").exists()


def test_a_hub_model_in_the_cache_needs_no_network(cache, open_clip_folder, tmp_path):
    files = open_clip_folder("siglip")
    put_in_cache(cache, "org/repo", files)
    put_in_cache(cache, "org/tiny", files)
    encoder = load_encoder("hf-hub:org/repo")
    expected = load_encoder(f"local-dir:{files}")
    assert encoder.spec.uri == "hf-hub:org/repo"
    assert encoder.spec.fingerprint == expected.spec.fingerprint
    assert torch.equal(encoder.encode_text(tiny.TEXTS), expected.encode_text(tiny.TEXTS))


def test_a_tag_brings_its_own_activation_and_preprocessing(
    cache, open_clip_folder, tmp_path, monkeypatch
):
    """Facts 4.10: open_clip warns of the wrong activation and computes with it."""
    files = open_clip_folder("clip")
    config = json.loads((files / "open_clip_config.json").read_text())["model_cfg"]
    plain = {**config, "quick_gelu": False}
    published = {**tiny.SIGLIP_PREPROCESS, "hf_hub": "org/weights/", "quick_gelu": True}
    monkeypatch.setattr(open_clip, "get_model_config", lambda _: json.loads(json.dumps(plain)))
    monkeypatch.setattr(open_clip, "get_pretrained_cfg", lambda *_: published)
    put_in_cache(cache, "org/weights", files)
    encoder = load_encoder("open_clip:Tiny/trained")
    assert encoder.spec.uri == "open_clip:Tiny/trained"
    assert encoder.spec.mean == (0.5, 0.5, 0.5)
    assert encoder.spec.resize == "squash"
    quick = load_encoder(f"local-dir:{files}")
    pixels = torch.randn(2, 3, 32, 32)
    assert torch.equal(encoder.encode_image(pixels), quick.encode_image(pixels))
    encoder.save(tmp_path / "saved")
    again = load_encoder(str(tmp_path / "saved"))
    assert torch.equal(again.encode_image(pixels), quick.encode_image(pixels))
    published["quick_gelu"] = False
    wrong = load_encoder("open_clip:Tiny/trained")
    assert tiny.largest([wrong.encode_image(pixels) - quick.encode_image(pixels)]) > 1e-5


def test_a_run_directory_gives_the_encoder_in_it(open_clip_folder, tmp_path):
    encoder = load_encoder(f"local-dir:{open_clip_folder('clip')}")
    encoder.save(tmp_path / "encoder")
    with pytest.raises(InputError, match="holds neither a run with an encoder nor a model"):
        load_encoder(str(tmp_path))
    (tmp_path / "run.json").write_text('{"schema": 1}')
    assert load_encoder(str(tmp_path)).spec.fingerprint == encoder.spec.fingerprint


def test_a_folder_of_transformers_is_recognised(transformers_folder):
    encoder = load_encoder(str(transformers_folder("siglip")))
    assert encoder.spec.uri.startswith("hf:")


def test_a_packaged_encoder_is_prepared_on_use(open_clip_folder, monkeypatch):
    from fieldmark.models import packaged

    monkeypatch.setattr(packaged, "prepare", lambda name: open_clip_folder("bert-text"))
    assert load_encoder("packaged:anything").spec.uri == "packaged:anything"


def test_precision_and_device(open_clip_folder):
    uri = f"local-dir:{open_clip_folder('clip')}"
    weight = next(load_encoder(uri, precision="bf16", device="cpu").image_tower.parameters())
    assert (weight.dtype, weight.device.type) == (torch.bfloat16, "cpu")
    with pytest.raises(UnknownNameError, match="unknown precision 'fp8'"):
        load_encoder(uri, precision="fp8")
    with pytest.raises(UsageError, match="unknown device"):
        load_encoder(uri, device="gpu9")


def damage(folder: Path, how: str) -> None:
    weights, config = folder / "open_clip_model.safetensors", folder / "open_clip_config.json"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif how == "other":
        safetensors.torch.save_file({"a": torch.zeros(1)}, weights)
    elif how == "none":
        weights.unlink()
    elif how == "two":
        for name in "ab":
            shutil.copy(weights, folder / f"{name}.safetensors")
        weights.unlink()
    elif how == "config":
        config.write_text("{")
    elif how == "towerless":
        config.write_text('{"model_cfg": {"embed_dim": 3, "vision_cfg": {}}}')
    elif how == "unconfigured":
        config.unlink()
    else:
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer_config.json").unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("truncated", "these weights cannot be loaded"),
        ("other", "these weights cannot be loaded"),
        ("none", "holds no weights; put open_clip_model.safetensors there"),
        ("two", "holds 2 safetensors files and none is called open_clip_model.safetensors"),
        ("config", "is no open_clip configuration"),
        ("towerless", "is no open_clip configuration .*text_cfg"),
        ("unconfigured", "holds no open_clip_config.json"),
        ("tokenizerless", "its tokenizer cannot be read"),
    ],
)
def test_a_damaged_folder_is_one_line(open_clip_folder, tmp_path, how, message):
    folder = shutil.copytree(open_clip_folder("siglip"), tmp_path / "model")
    damage(folder, how)
    with pytest.raises(FieldmarkError, match=message) as caught:
        load_encoder(f"local-dir:{folder}")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_is_not_there_is_one_line():
    with pytest.raises(InputError, match="/no/where: is no folder"):
        load_encoder("local-dir:/no/where")


def test_importing_it_loads_no_model_library():
    code = (
        "import sys, fieldmark.models.load\n"
        "assert not {'open_clip', 'transformers', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_flipped_bit_in_saved_weights_is_refused(open_clip_folder, tmp_path):
    load_encoder(f"local-dir:{open_clip_folder('clip')}").save(tmp_path / "encoder")
    path = tmp_path / "encoder" / "open_clip_model.safetensors"
    load_encoder(f"local-dir:{path.parent}")
    data = bytearray(path.read_bytes())
    data[-1] ^= 64
    path.write_bytes(data)
    with pytest.raises(
        InputError, match=r"safetensors: these weights .*cut off or damaged\); make"
    ):
        load_encoder(f"local-dir:{path.parent}")


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_the_encoder_of_a_run_must_be_the_one_that_it_wrote(transformers_folder, tmp_path, family):
    """transformers writes no checksum; the run's record has the fingerprint."""
    encoder = load_encoder(f"hf:{transformers_folder(family)}")
    run = start_run(tmp_path / "run", "bap", arguments={})
    encoder.save(run.out / "encoder")
    run.weights = {"after": encoder.spec.fingerprint}
    run.finish()
    assert load_encoder(str(run.out)).spec.fingerprint == encoder.spec.fingerprint
    path = run.out / "encoder" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 64
    path.write_bytes(data)
    with pytest.raises(InputError, match="these weights are not those that the run wrote"):
        load_encoder(str(run.out))
