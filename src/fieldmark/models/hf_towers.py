"""Image towers of transformers' models, to train and taken apart into tokens and pooling.

Each is a module and a `Tower` in one; it shares its weights with the model that it is made from.
Shape letters as in encoder.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from fieldmark.models.blocks import Block, Pooler, TransformersBlock, TransformersPooler
from fieldmark.models.encoder import Pooling, Tokens
from fieldmark.models.towers import catch_input


class ClipTower(nn.Module):
    """The image tower of `CLIPModel`, with its projection; whole and in pieces."""

    pooling: Pooling = "cls"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.visual_projection = model.visual_projection
        self.training = model.training

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Embed normalised pixels: (B,D)."""
        pooled = self.vision_model(pixel_values=pixels_BCHW).pooler_output
        projected: Tensor = self.visual_projection(pooled)
        return projected

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return _square_grid(self.vision_model.config)

    def tokens(self, pixels_BCHW: Tensor) -> Tokens:
        """Return CLS and patches as they enter the first layer."""
        first = self.vision_model.encoder.layers[0]
        return Tokens(catch_input(self, pixels_BCHW, at=first), 1, self.grid)

    def run(self, tokens: Tokens) -> Tokens:
        """Run the layers."""
        return _run(self.vision_model, tokens)

    def pool(self, tokens: Tokens) -> Tensor:
        """Normalise and project CLS."""
        first = self.vision_model.post_layernorm(tokens.values[:, 0])
        pooled: Tensor = self.visual_projection(first)
        return pooled

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Its layers."""
        return tuple(TransformersBlock(layer) for layer in self.vision_model.encoder.layers)

    @property
    def pooler(self) -> Pooler | None:
        """None: it takes CLS."""
        return None


class SiglipTower(nn.Module):
    """The image tower of `SiglipModel`; its head attends from a learned query to all patches."""

    pooling: Pooling = "map"

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.training = model.training

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Embed normalised pixels: (B,D)."""
        pooled: Tensor = self.vision_model(pixels_BCHW).pooler_output
        return pooled

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return _square_grid(self.vision_model.config)

    def tokens(self, pixels_BCHW: Tensor) -> Tokens:
        """Return the patches as they enter the first layer."""
        first = self.vision_model.encoder.layers[0]
        return Tokens(catch_input(self, pixels_BCHW, at=first), 0, self.grid)

    def run(self, tokens: Tokens) -> Tokens:
        """Run the layers."""
        return _run(self.vision_model, tokens)

    def pool(self, tokens: Tokens) -> Tensor:
        """Normalise and pool by the head."""
        pooled: Tensor = self.vision_model.head(self.vision_model.post_layernorm(tokens.values))
        return pooled

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Its layers."""
        return tuple(TransformersBlock(layer) for layer in self.vision_model.encoder.layers)

    @property
    def pooler(self) -> Pooler | None:
        """Its head."""
        return TransformersPooler(self.vision_model)


class NaflexTower(SiglipTower):
    """The image tower of `Siglip2Model`: images of any aspect, whole patches on both sides.

    An image here is never padded: the library pads to a fixed number of patches and masks the
    padding, which gives the same embedding.
    """

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Embed normalised pixels (B,3,H,W): (B,D)."""
        side = self.vision_model.config.patch_size
        patches = cut_patches(pixels_BCHW, side=side)
        shape = [pixels_BCHW.shape[2] // side, pixels_BCHW.shape[3] // side]
        pooled: Tensor = self.vision_model(
            pixel_values=patches,
            pixel_attention_mask=patches.new_ones(patches.shape[:2], dtype=torch.int32),
            spatial_shapes=torch.tensor([shape] * len(patches)),
        ).pooler_output
        return pooled

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches of the largest square."""
        side = math.isqrt(self.vision_model.config.num_patches)
        return side, side

    def tokens(self, pixels_BCHW: Tensor) -> Tokens:
        """Return the patches as they enter the first layer; the grid is the images' own."""
        side = self.vision_model.config.patch_size
        grid = pixels_BCHW.shape[2] // side, pixels_BCHW.shape[3] // side
        return super().tokens(pixels_BCHW)._replace(grid=grid)


def cut_patches(pixels_BCHW: Tensor, *, side: int) -> Tensor:
    """Cut (B,C,H,W) into rows of patches (B,N,side*side*C), channels last in each.

    Example:
        >>> cut_patches(torch.arange(4.0).view(1, 1, 2, 2), side=1).flatten().tolist()
        [0.0, 1.0, 2.0, 3.0]
    """
    blocks: Tensor = pixels_BCHW.unflatten(2, (-1, side)).unflatten(4, (-1, side))
    return blocks.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def join_patches(patches_NP: Tensor, *, rows: int, columns: int) -> Tensor:
    """Undo `cut_patches` for one RGB image: (N,side*side*3) to (3,H,W).

    Example:
        >>> image = torch.arange(24.0).view(3, 2, 4)
        >>> join_patches(cut_patches(image[None], side=2)[0], rows=1, columns=2).equal(image)
        True
    """
    side = math.isqrt(patches_NP.shape[1] // 3)
    blocks = patches_NP.view(rows, columns, side, side, 3)
    return blocks.permute(4, 0, 2, 1, 3).reshape(3, rows * side, columns * side)


def _square_grid(config: Any) -> tuple[int, int]:
    side = config.image_size // config.patch_size
    return side, side


def _run(vision_model: Any, tokens: Tokens) -> Tokens:
    output = vision_model.encoder(inputs_embeds=tokens.values)
    return tokens._replace(values=output.last_hidden_state)
