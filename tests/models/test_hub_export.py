"""Mended models leave for the hub and reopen in their own libraries, by those libraries' calls."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import huggingface_hub
import open_clip
import pytest
import torch
from torch.nn import functional
from transformers import AutoModel, AutoProcessor

from fieldmark.core.errors import FetchError, RunExistsError, UsageError
from fieldmark.models.adapter import replace_image_tower
from fieldmark.models.encoder import Encoder, normalise
from fieldmark.models.hub_export import push_folder
from fieldmark.models.hub_layout import write_hub_folder
from fieldmark.models.load import load_encoder
from tests.models import tiny
from tests.models.hub_stand_in import TOKEN, StandIn, run_stand_in

# huggingface_hub hands its client a file in a way that the client calls outdated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

REPO = "lab/mended"
CARD = "---\nlicense: mit\n---\n\n# mended\n"


def mend(encoder: Encoder) -> Encoder:
    """Take one step of AdamW on the image tower, away from what it was."""
    tower = copy.deepcopy(encoder.image_tower)
    pixels = prepare(encoder)
    optimizer = torch.optim.AdamW(tower.parameters(), lr=1e-2)
    functional.normalize(tower(pixels), dim=-1)[:, 0].sum().backward()
    optimizer.step()
    mended = replace_image_tower(encoder, tower.state_dict())
    with torch.no_grad():
        moved = tiny.largest([mended.encode_image(pixels) - encoder.encode_image(pixels)])
    assert moved > 1e-3
    return mended


def prepare(encoder: Encoder) -> torch.Tensor:
    return normalise(tiny.images(encoder.spec.image_size), spec=encoder.spec, dtype=torch.float32)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Run the stand-in and point huggingface_hub at it, with a cache of its own."""
    with run_stand_in() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("HF_HUB_DISABLE_IMPLICIT_TOKEN", "0")
        # Both are read when huggingface_hub is first imported, which was long ago.
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        yield running


@pytest.mark.parametrize("family", ["clip", "siglip", "convnext"])
@torch.no_grad()
def test_a_mended_model_reopens_in_open_clip_with_equal_embeddings(
    open_clip_folder, tmp_path, family
):
    with torch.enable_grad():
        mended = mend(load_encoder(f"local-dir:{open_clip_folder(family)}", device="cpu"))
    folder = write_hub_folder(mended, tmp_path / "out", repo=REPO, card=CARD)
    name = f"local-dir:{folder}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    pixels = prepare(mended)
    image = functional.normalize(model.encode_image(pixels), dim=-1)
    assert tiny.largest([image - mended.encode_image(pixels)]) < 1e-6
    text = functional.normalize(model.encode_text(tokenizer(tiny.TEXTS)), dim=-1)
    assert tiny.largest([text - mended.encode_text(tiny.TEXTS)]) < 1e-6
    photograph = tiny.photograph(97, 61)
    ours = normalise(mended.preprocess(photograph)[None], spec=mended.spec, dtype=torch.float32)
    assert tiny.largest([ours[0] - transform(photograph)]) < 1e-5
    assert (folder / "README.md").read_text() == CARD


@pytest.mark.parametrize("family", ["clip", "siglip", "siglip2"])
@torch.no_grad()
def test_a_mended_model_reopens_in_transformers_with_equal_embeddings(
    transformers_folder, tmp_path, family
):
    encoder = load_encoder(f"hf:{transformers_folder(family)}", device="cpu")
    with torch.enable_grad():
        mended = mend(encoder)
    folder = write_hub_folder(mended, tmp_path / "out", repo=REPO, card=CARD)
    model, processor = (
        AutoModel.from_pretrained(folder).eval(),
        AutoProcessor.from_pretrained(folder),
    )
    photograph = tiny.photograph(97, 61)
    inputs = processor.image_processor(photograph, return_tensors="pt")
    image = functional.normalize(model.get_image_features(**inputs).pooler_output, dim=-1)
    assert tiny.largest([image - mended.encode_image(mended.preprocess(photograph)[None])]) < 1e-6
    texts = [text.lower() for text in tiny.TEXTS]
    tokens = processor.tokenizer(texts, padding="max_length", max_length=16, return_tensors="pt")
    named = dict(tokens) if family == "clip" else {"input_ids": tokens["input_ids"]}
    text = functional.normalize(model.get_text_features(**named).pooler_output, dim=-1)
    assert tiny.largest([text - mended.encode_text(tiny.TEXTS)]) < 1e-6


def test_nothing_in_the_folder_points_at_this_machine(open_clip_folder, tmp_path):
    encoder = load_encoder(f"local-dir:{open_clip_folder('bert-text')}", device="cpu")
    folder = write_hub_folder(encoder, tmp_path / "out", repo=REPO, card=CARD)
    text_cfg = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    assert text_cfg["hf_model_name"] == text_cfg["hf_tokenizer_name"] == REPO
    for path in folder.glob("*.json"):
        told = path.read_text()
        assert str(tmp_path) not in told, path.name
        assert str(open_clip_folder("bert-text").parent) not in told, path.name
        assert "local" not in told, path.name
    assert load_encoder(str(folder), device="cpu").spec.fingerprint == encoder.spec.fingerprint


def test_a_folder_of_something_else_is_left_alone(open_clip_folder, tmp_path):
    encoder = load_encoder(f"local-dir:{open_clip_folder('clip')}", device="cpu")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(RunExistsError, match="no model"):
        write_hub_folder(encoder, tmp_path / "out", repo=REPO, card=CARD)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("repo", ["mended", "a/b/c", "lab/", "/x", "lab/a b", "lab/../x", ""])
def test_what_is_no_repository_is_refused(repo, tmp_path):
    with pytest.raises(UsageError, match="--repo"):
        push_folder(tmp_path, repo=repo)


@torch.no_grad()
def test_an_upload_to_the_stand_in_comes_back_and_opens_in_open_clip(
    hub, open_clip_folder, tmp_path
):
    encoder = load_encoder(f"local-dir:{open_clip_folder('siglip')}", device="cpu")
    with torch.enable_grad():
        mended = mend(encoder)
    folder = write_hub_folder(mended, tmp_path / "out", repo=REPO, card=CARD)
    assert push_folder(folder, repo=REPO, private=True) == f"{hub.address}/{REPO}"
    assert hub.private == {REPO: True}
    sent = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert hub.files[REPO] == sent
    weights = sent["open_clip_model.safetensors"]
    assert list(hub.lfs.values()) == [weights], "the weights go as a large file, and only they"
    assert push_folder(folder, repo=REPO).endswith(REPO), "a second push is one more commit"
    name = f"local-dir:{download(hub, tmp_path / 'cache')}"
    model, _, _ = open_clip.create_model_and_transforms(name)
    pixels, tokens = prepare(mended), open_clip.get_tokenizer(name)(tiny.TEXTS)
    image = model.eval().encode_image(pixels, normalize=True)
    assert tiny.largest([image - mended.encode_image(pixels)]) < 1e-6
    text = model.encode_text(tokens, normalize=True)
    assert tiny.largest([text - mended.encode_text(tiny.TEXTS)]) < 1e-6


def download(hub: StandIn, cache: Path) -> Path:
    return Path(
        huggingface_hub.snapshot_download(REPO, endpoint=hub.address, token=TOKEN, cache_dir=cache)
    )


@torch.no_grad()
def test_open_clip_alone_opens_an_upload_by_its_name_from_the_stand_in(
    hub, open_clip_folder, tmp_path
):
    encoder = load_encoder(f"local-dir:{open_clip_folder('bert-text')}", device="cpu")
    with torch.enable_grad():
        mended = mend(encoder)
    push_folder(write_hub_folder(mended, tmp_path / "out", repo=REPO, card=CARD), repo=REPO)
    told = open_from_hub(hub, tmp_path, side=32)
    assert tiny.largest([torch.tensor(told["image"]) - mended.encode_image(prepare(mended))]) < 1e-6
    assert tiny.largest([torch.tensor(told["text"]) - mended.encode_text(tiny.TEXTS)]) < 1e-6


def open_from_hub(hub: StandIn, tmp_path: Path, *, side: int) -> dict[str, Any]:
    """Open the model with open_clip alone in a process of its own that knows only the address."""
    torch.save(tiny.images(side), tmp_path / "pixels.pt")
    program = f"""
import json, sys, torch, open_clip
name = "hf-hub:{REPO}"
model, _, transform = open_clip.create_model_and_transforms(name)
tokens = open_clip.get_tokenizer(name)({tiny.TEXTS!r})
pixels = torch.load("{tmp_path}/pixels.pt", weights_only=True).float() / 255
mean, std = (torch.tensor(v).view(3, 1, 1) for v in (model.visual.preprocess_cfg["mean"],
                                                     model.visual.preprocess_cfg["std"]))
with torch.no_grad():
    image = model.eval().encode_image((pixels - mean) / std, normalize=True)
    text = model.encode_text(tokens, normalize=True)
assert "fieldmark" not in sys.modules
print(json.dumps({{"image": image.tolist(), "text": text.tolist()}}))
"""
    told = {"HF_ENDPOINT": hub.address, "HF_TOKEN": TOKEN, "HF_HOME": str(tmp_path / "hf")}
    environment = {**os.environ, **told, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    values: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return values


def test_what_came_back_from_the_stand_in_is_what_was_sent(hub, transformers_folder, tmp_path):
    encoder = load_encoder(f"hf:{transformers_folder('siglip')}", device="cpu")
    folder = write_hub_folder(encoder, tmp_path / "out", repo=REPO, card=CARD)
    push_folder(folder, repo=REPO)
    back = download(hub, tmp_path / "cache")
    assert {path.name: path.read_bytes() for path in back.iterdir()} == {
        path.name: path.read_bytes() for path in folder.iterdir()
    }
    reopened = load_encoder(f"hf:{back}", device="cpu")
    assert reopened.spec.fingerprint == encoder.spec.fingerprint
    card = huggingface_hub.hf_hub_download(
        REPO, "README.md", endpoint=hub.address, token=TOKEN, cache_dir=tmp_path / "cache"
    )
    assert Path(card).read_text() == CARD


def write_little(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def test_a_wrong_token_is_one_line_and_sends_nothing(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(
        FetchError, match=r"lab/mended: cannot be uploaded to .*401.*hf upload"
    ) as e:
        push_folder(write_little(tmp_path / "m"), repo=REPO)
    assert "\n" not in str(e.value)
    assert "Invalid username or password" in str(e.value), "what the hub says"
    assert str(e.value).count("Unauthorized") == 1
    assert hub.files == {}


def test_a_public_repository_gets_nothing_that_was_to_be_private(hub, tmp_path):
    folder = write_little(tmp_path / "m")
    push_folder(folder, repo=REPO)
    before = dict(hub.files[REPO])
    (folder / "config.json").write_text('{"secret": 1}')
    with pytest.raises(FetchError, match=r"lab/mended: is there and public, .* nothing was sent"):
        push_folder(folder, repo=REPO, private=True)
    assert hub.files[REPO] == before


def test_without_a_token_nothing_is_asked(hub, tmp_path, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(FetchError, match="there is no token: set HF_TOKEN"):
        push_folder(write_little(tmp_path / "m"), repo=REPO)
    assert hub.asked == []


@pytest.mark.parametrize("how", ["flag", "name"])
def test_offline_is_one_line_at_once(hub, tmp_path, monkeypatch, how):
    if how == "flag":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    else:
        monkeypatch.setenv("HF_ENDPOINT", "https://hub.invalid")
        monkeypatch.setattr(urllib.request, "getproxies", dict)
    with pytest.raises(FetchError, match="the hub cannot be reached, or HF_HUB_OFFLINE is set"):
        push_folder(write_little(tmp_path / "m"), repo=REPO)
    assert hub.asked == []


def test_a_hub_that_is_gone_is_one_line(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FetchError, match="cannot be uploaded to"):
        push_folder(write_little(tmp_path / "m"), repo=REPO)
