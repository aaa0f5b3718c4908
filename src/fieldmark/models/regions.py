"""Embed boxes of an image.

A ResNet CLIP aligns boxes on its feature map in front of its last stage and pools each by its
attention pool, as RegionCLIP and ViLLA do (facts/peers_and_layouts.md 3.1). For other towers
nothing is published that stays true to the embedding, so a box is cut out, enlarged to the model's
input and embedded as an image: exact, at the price of one forward pass a box.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldmark.core.errors import InputError
from fieldmark.models.towers import Tower

BATCH = 64


@runtime_checkable
class AlignsBoxes(Protocol):
    """A tower that embeds boxes out of its feature map."""

    def embed_boxes(self, pixels_BCHW: Tensor, boxes: list[Tensor]) -> Tensor:
        """Embed all boxes of all images: (R,D)."""
        ...

    def embed_image_and_boxes(
        self, pixels_BCHW: Tensor, boxes: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Embed images (B,D) and all their boxes (R,D), what they share once."""
        ...


def encode_boxes(
    image_tower: nn.Module, tower: Tower, pixels_BCHW: Tensor, boxes: list[Tensor]
) -> list[Tensor]:
    """Embed boxes of each image.

    Args:
        image_tower: from pixels to raw embeddings.
        tower: the same in pieces.
        pixels_BCHW: (B,3,S,S), normalised.
        boxes: for each image (R_i,4), x0 y0 x1 y1 in pixels of the input.

    Returns:
        For each image float32 (R_i,D) of unit norm.

    Raises:
        InputError: a box without area or outside of its image.
    """
    check_all_boxes(pixels_BCHW, boxes)
    counts = [len(rows) for rows in boxes]
    if isinstance(tower, AlignsBoxes):
        embedded = tower.embed_boxes(pixels_BCHW, boxes)
    else:
        embedded = _embed_crops(image_tower, pixels_BCHW, boxes)
    return list(functional.normalize(embedded.float(), dim=-1).split(counts))


def encode_image_and_boxes(
    image_tower: nn.Module, tower: Tower | None, pixels_BCHW: Tensor, boxes: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Embed images and boxes of them, differentiably, for training.

    A tower that aligns boxes runs the stages that images and boxes share once. Other towers embed
    the images, then the crops, so batch norms see the images by themselves.

    Args:
        image_tower: from pixels to raw embeddings.
        tower: the same in pieces, over the same weights; None where there are none, and boxes are
            cropped.
        pixels_BCHW: (B,3,S,S), normalised.
        boxes: for each image (R_i,4), x0 y0 x1 y1 in pixels of the input; R_i may be 0.

    Returns:
        The raw embeddings of the images (B,D), as `image_tower` gives them, and for each image
        float32 (R_i,D) of unit norm.

    Raises:
        InputError: a box without area or outside of its image.

    Example:
        >>> tower = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> pixels = torch.zeros(1, 3, 4, 4)
        >>> pixels[:, 0], pixels[:, 1, :2] = 1, 1
        >>> images, regions = encode_image_and_boxes(
        ...     tower, None, pixels, [torch.tensor([[0, 2, 4, 4]])]
        ... )
        >>> images.tolist(), regions[0].round(decimals=3).tolist()
        ([[1.0, 0.5, 0.0]], [[1.0, 0.0, 0.0]])
    """
    check_all_boxes(pixels_BCHW, boxes)
    counts = [len(rows) for rows in boxes]
    if tower is not None and isinstance(tower, AlignsBoxes):
        images, embedded = tower.embed_image_and_boxes(pixels_BCHW, boxes)
    else:
        images = image_tower(pixels_BCHW)
        # A batch norm in training refuses a batch of none.
        has_boxes = any(counts)
        embedded = _embed_crops(image_tower, pixels_BCHW, boxes) if has_boxes else images[:0]
    return images, list(functional.normalize(embedded.float(), dim=-1).split(counts))


def check_all_boxes(pixels_BCHW: Tensor, boxes: list[Tensor]) -> None:
    """Raise unless there are boxes (R_i,4) for each image, and all lie in it.

    Raises:
        InputError: the image and the box are named.
    """
    height, width = pixels_BCHW.shape[-2:]
    if len(boxes) != len(pixels_BCHW):
        raise InputError(
            f"boxes of {len(boxes)} images do not fit {len(pixels_BCHW)} images",
            mend="give a tensor (R,4) for each image, (0,4) where there is none",
        )
    for index, rows in enumerate(boxes):
        check_boxes(rows, height=height, width=width, where=f"image {index}")


def _embed_crops(image_tower: nn.Module, pixels_BCHW: Tensor, boxes: list[Tensor]) -> Tensor:
    # One pass over nothing gives the width of an embedding to a list of no boxes.
    return torch.cat([image_tower(part) for part in cut_boxes(pixels_BCHW, boxes).split(BATCH)])


def check_boxes(boxes: Tensor, *, height: int, width: int, where: object) -> None:
    """Raise unless every box (R,4) has an area and lies in the image.

    Example:
        >>> check_boxes(torch.tensor([[0, 0, 9, 9]]), height=8, width=8, where="image 0")
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: image 0: box 0 (0, 0, 9, 9) is empty or not...
    """
    x0, y0, x1, y1 = boxes.float().reshape(-1, 4).unbind(-1)
    good = (x0 >= 0) & (x0 < x1) & (x1 <= width) & (y0 >= 0) & (y0 < y1) & (y1 <= height)
    for index in (~good).nonzero().flatten().tolist()[:1]:
        corners = ", ".join(f"{value:g}" for value in boxes[index].tolist())
        raise InputError(
            f"box {index} ({corners}) is empty or not inside {width} x {height}",
            where=where,
            mend="give x0 < x1 and y0 < y1 in pixels of the model's input",
        )


def cut_boxes(pixels_BCHW: Tensor, boxes: list[Tensor]) -> Tensor:
    """Cut boxes out, rounded outwards to whole pixels, and resize each to the input: (R,3,S,S).

    Example:
        >>> pixels = torch.arange(16.0).reshape(1, 1, 4, 4).expand(1, 3, 4, 4)
        >>> cut_boxes(pixels, [torch.tensor([[0, 0, 4, 4]])]).equal(pixels)
        True
    """
    side = pixels_BCHW.shape[-2:]
    crops = [pixels_BCHW[:0]]
    for image, rows in zip(pixels_BCHW, boxes, strict=True):
        whole = torch.cat([rows[:, :2].floor(), rows[:, 2:].ceil()], dim=1).long()
        for x0, y0, x1, y1 in whole.tolist():
            crop = image[None, :, y0:y1, x0:x1]
            if crop.shape[-2:] != side:
                crop = functional.interpolate(crop.float(), side, mode="bicubic", antialias=True)
            crops.append(crop.to(pixels_BCHW.dtype))
    return torch.cat(crops)
