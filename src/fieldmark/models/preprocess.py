"""Resize and crop one image exactly as open_clip does.

Pixels are resampled by Pillow on 8-bit values and cropped afterwards, which is what open_clip's
inference transform does; `normalise` in encoder.py does the rest on whole batches.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fieldmark.models.encoder import EncoderSpec, Interpolation

FILTERS: dict[Interpolation, Image.Resampling] = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "lanczos": Image.Resampling.LANCZOS,
    "nearest": Image.Resampling.NEAREST,
}


def preprocess_image(image: Image.Image, *, spec: EncoderSpec) -> Tensor:
    """Resize and crop one image to the square that `spec` asks for: uint8 (3,S,S).

    Args:
        image: any mode; converted to RGB after it was resized, like open_clip does.
        spec: gives `image_size`, `interpolation` and `resize`, which must not be `naflex`.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> pixels = preprocess_image(Image.new("RGB", (31, 17), "red"), spec=FakeEncoder().spec)
        >>> pixels.shape, pixels[:, 0, 0].tolist()
        (torch.Size([3, 8, 8]), [255, 0, 0])
    """
    side = spec.image_size
    width, height = image.size
    target = {
        "squash": (side, side),
        "shortest": _fit_shortest(width, height, side),
        "longest": _fit_longest(width, height, side),
    }[spec.resize]
    if image.size != target:
        image = image.resize(target, FILTERS[spec.interpolation])
    return pixels_of(_crop_or_pad(image, side).convert("RGB"))


def pixels_of(image: Image.Image) -> Tensor:
    """Return the pixels of an RGB image: uint8 (3,H,W).

    Example:
        >>> pixels_of(Image.new("RGB", (2, 1), "blue")).tolist()
        [[[0, 0]], [[0, 0]], [[255, 255]]]
    """
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _fit_shortest(width: int, height: int, side: int) -> tuple[int, int]:
    if width <= height:
        return side, int(side * height / width)
    return int(side * width / height), side


def _fit_longest(width: int, height: int, side: int) -> tuple[int, int]:
    ratio = max(height / side, width / side)
    return round(width / ratio), round(height / ratio)


def _crop_or_pad(image: Image.Image, side: int) -> Image.Image:
    width, height = image.size
    left, top = round((width - side) / 2), round((height - side) / 2)
    if width < side or height < side:
        # Padding takes the smaller half of an odd remainder at the top and left, cropping rounds.
        left = -((side - width) // 2) if width < side else left
        top = -((side - height) // 2) if height < side else top
    if (left, top, width, height) == (0, 0, side, side):
        return image
    return image.crop((left, top, left + side, top + side))
