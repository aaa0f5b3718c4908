"""What is saved opens in its own library, in a process that never hears of fieldmark."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from fieldmark.core.errors import FieldmarkError, RunExistsError
from fieldmark.models import checkpoint
from fieldmark.models.adapter import replace_image_tower
from fieldmark.models.load import load_encoder
from tests.models import tiny

OPEN_CLIP = ("clip", "clip-mean", "siglip", "dinov2", "convnext", "resnet", "bert-text")
TRANSFORMERS = ("clip", "siglip", "siglip2")

# Opens every folder that is named on its command line and writes embeddings beside it.
READER = """
import json, sys
import numpy, torch
from PIL import Image

texts = json.loads(sys.argv[1])
for folder in sys.argv[2:]:
    image = Image.open(folder + "/photograph.png")
    with torch.no_grad():
        if "open_clip" in folder:
            import open_clip
            name = "local-dir:" + folder
            model, _, transform = open_clip.create_model_and_transforms(name)
            model.eval()
            z = model.encode_image(transform(image)[None], normalize=True)
            t = model.encode_text(open_clip.get_tokenizer(name)(texts), normalize=True)
        else:
            from transformers import AutoModel, AutoProcessor
            model = AutoModel.from_pretrained(folder)
            processor = AutoProcessor.from_pretrained(folder)
            z = model.get_image_features(**processor.image_processor(image, return_tensors="pt"))
            tokens = processor.tokenizer(
                [text.lower() for text in texts], padding="max_length", max_length=16,
                return_tensors="pt",
            )
            if model.config.model_type != "clip":
                tokens.pop("attention_mask", None)
            tokens.pop("token_type_ids", None)
            t = model.get_text_features(**tokens)
            z, t = z.pooler_output, t.pooler_output
            z, t = z / z.norm(dim=-1, keepdim=True), t / t.norm(dim=-1, keepdim=True)
    numpy.savez(folder + "/read.npz", image=z.numpy(), text=t.numpy())
assert not any(name.split(".")[0] == "fieldmark" for name in sys.modules)
"""


@pytest.fixture(scope="module")
def read(open_clip_folder, transformers_folder, tmp_path_factory):
    """Change each tiny model, save it, and let one foreign process read all of them."""
    root = tmp_path_factory.mktemp("saved")
    image = tiny.photograph(171, 93)
    expected = {}
    folders = []
    sources = [(f"open_clip/{name}", f"local-dir:{open_clip_folder(name)}") for name in OPEN_CLIP]
    sources += [(f"hf/{name}", f"hf:{transformers_folder(name)}") for name in TRANSFORMERS]
    for name, uri in sources:
        encoder = load_encoder(uri, device="cpu")
        state = encoder.image_tower.state_dict()
        changed = {
            key: value * 1.03 if value.is_floating_point() else value
            for key, value in state.items()
        }
        encoder = replace_image_tower(encoder, changed)
        folder = root / name
        encoder.save(folder)
        image.save(folder / "photograph.png")
        with torch.no_grad():
            pixels = encoder.preprocess(image)[None]
            expected[name] = (
                encoder,
                encoder.encode_image(pixels),
                encoder.encode_text(tiny.TEXTS),
            )
        folders.append(str(folder))
    command = [sys.executable, "-c", READER, json.dumps(tiny.TEXTS), *folders]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, cwd=root, env=environment, capture_output=True)
    return root, expected


@pytest.mark.parametrize(
    "name", [*(f"open_clip/{n}" for n in OPEN_CLIP), *(f"hf/{n}" for n in TRANSFORMERS)]
)
def test_its_own_library_reads_the_same_embeddings(read, name):
    root, expected = read
    encoder, image, text = expected[name]
    found = np.load(root / name / "read.npz")
    assert np.abs(found["image"] - image.numpy()).max() < 1e-5
    assert np.abs(found["text"] - text.numpy()).max() < 1e-5
    again = load_encoder(str(root / name), device="cpu")
    assert again.spec.fingerprint == encoder.spec.fingerprint
    same = ("dim", "image_size", "mean", "std", "interpolation", "resize", "grid", "pooling")
    for field in (*same, "logit_scale", "logit_bias"):
        assert getattr(again.spec, field) == getattr(encoder.spec, field), field
    assert tiny.largest([again.encode_text(tiny.TEXTS) - text]) < 1e-6


def test_a_moved_folder_with_a_text_tower_of_transformers_still_loads(read, tmp_path):
    root, expected = read
    moved = shutil.copytree(root / "open_clip/bert-text", tmp_path / "elsewhere")
    config = json.loads((moved / "open_clip_config.json").read_text())
    assert config["model_cfg"]["text_cfg"]["hf_model_name"] == str(root / "open_clip/bert-text")
    config["model_cfg"]["text_cfg"]["hf_model_name"] = "/gone"
    (moved / "open_clip_config.json").write_text(json.dumps(config))
    text = load_encoder(str(moved)).encode_text(tiny.TEXTS)
    assert tiny.largest([text - expected["open_clip/bert-text"][2]]) < 1e-6


def test_the_activation_and_the_source_are_saved_with_the_weights(read):
    root, expected = read
    config = json.loads((root / "open_clip/clip/open_clip_config.json").read_text())
    assert config["model_cfg"]["quick_gelu"] is True
    assert config["fieldmark"]["fingerprint"] == expected["open_clip/clip"][0].spec.fingerprint
    config = json.loads((root / "open_clip/siglip/open_clip_config.json").read_text())
    assert config["preprocess_cfg"]["resize_mode"] == "squash"
    assert config["preprocess_cfg"]["mean"] == [0.5, 0.5, 0.5]


@pytest.fixture
def encoder(open_clip_folder):
    """Return the smallest encoder."""
    return load_encoder(f"local-dir:{open_clip_folder('clip')}")


def test_a_full_disk_leaves_nothing_behind(encoder, tmp_path, monkeypatch):
    def fill(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(safetensors.torch, "save_file", fill)
    with pytest.raises(FieldmarkError, match=r"cannot be written .*No space left on device"):
        encoder.save(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", [0, 1])
def test_an_earlier_model_stays_until_the_new_one_is_whole(encoder, tmp_path, monkeypatch, failing):
    rename, calls = Path.rename, iter(range(9))

    def refuse_once(self: Path, target: Path) -> Path:
        if next(calls) == failing:
            raise OSError(errno.EACCES, os.strerror(errno.EACCES))
        return rename(self, target)

    folder = tmp_path / "model"
    encoder.save(folder)
    (folder / "extra.txt").write_text("of the first")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", refuse_once)
        with pytest.raises(FieldmarkError, match="Permission denied"):
            encoder.save(folder)
    assert (folder / "extra.txt").exists()
    assert load_encoder(str(folder)).spec.fingerprint == encoder.spec.fingerprint
    encoder.save(folder)
    assert not (folder / "extra.txt").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_folder_with_other_things_is_left_alone(encoder, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunExistsError, match="holds something that is no model"):
        encoder.save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_saved_folder_has_ordinary_permissions(encoder, tmp_path):
    encoder.save(tmp_path / "model")
    umask = os.umask(0)
    os.umask(umask)
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o777 & ~umask


def test_weights_that_share_memory_are_written_under_each_name(tmp_path: Path):
    layer = nn.Linear(3, 3)
    pair = nn.ModuleDict({"first": layer, "second": layer})
    checkpoint.write_weights(pair, tmp_path / "a.safetensors")
    state = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert torch.equal(state["first.weight"], state["second.weight"])
    assert torch.equal(state["first.weight"], layer.weight)
