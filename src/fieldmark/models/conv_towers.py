"""Conv towers of open_clip and timm taken apart into cells, stages and pooling.

A conv tower has no tokens. ConvNeXt is cut into the cells of its last stage's grid: its stem and
its downsampling do not overlap, so only the depthwise convolutions mix cells, and removing cells
means zeroing them in front of every one of those and averaging over the cells that are left
(facts/attribution.md section 4, point 7). Other conv trunks are cut behind their last stage, and
removing cells only changes what is averaged. Shape letters as in encoder.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fieldmark.core.errors import UnsupportedEncoderError
from fieldmark.models.blocks import Block, Pooler, ResNetPooler
from fieldmark.models.encoder import Pooling, Tokens
from fieldmark.models.towers import catch_input


@dataclass(frozen=True)
class ConvNeXt:
    """timm's `ConvNeXt`, cut behind its stem into the cells of its last stage's grid."""

    visual: Any

    @property
    def pooling(self) -> Pooling:
        """A conv tower."""
        return "conv"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the last stage."""
        stride = self.visual.trunk.feature_info[-1]["reduction"]
        rows, columns = self.visual.image_size
        return rows // stride, columns // stride

    def tokens(self, pixels_BCHW: Tensor) -> Tokens:
        """Return the stem's output, one token for each cell, its row and column appended."""
        rows, columns = self.grid
        stem = self.visual.trunk.stem(pixels_BCHW)
        cells = stem.unflatten(2, (rows, -1)).unflatten(4, (columns, -1))
        cells = cells.permute(0, 2, 4, 1, 3, 5).flatten(1, 2).flatten(2)
        return Tokens(append_position(cells, grid=self.grid), 0, self.grid)

    def run(self, tokens: Tokens) -> Tokens:
        """Run the stages; cells that are gone count as zero wherever cells mix."""
        trunk, (rows, columns) = self.visual.trunk, tokens.grid
        cells, index = split_position(tokens)
        whole = cells.new_zeros(len(cells), rows * columns, cells.shape[-1])
        whole = whole.scatter(1, index[..., None].expand_as(cells), cells)
        kept = cells.new_zeros(len(cells), rows * columns).scatter(1, index, 1.0)
        side = trunk.feature_info[-1]["reduction"] // trunk.feature_info[0]["reduction"]
        image = whole.unflatten(2, (-1, side, side)).unflatten(1, (rows, columns))
        image = image.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
        with _masked_convolutions(trunk, kept.view(-1, 1, rows, columns)):
            image = trunk.norm_pre(trunk.stages(image)).flatten(2).transpose(1, 2)
        left = image.gather(1, index[..., None].expand(-1, -1, image.shape[-1]))
        return tokens._replace(values=left)

    def pool(self, tokens: Tokens) -> Tensor:
        """Average the cells that are left, then normalise and project."""
        return _pool_cells(self.visual, tokens)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """None: it has no attention."""
        return ()

    @property
    def pooler(self) -> Pooler | None:
        """None: it averages."""
        return None


@contextlib.contextmanager
def _masked_convolutions(trunk: Any, kept_B1HW: Tensor) -> Iterator[None]:
    def zero(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        mask = nn.functional.interpolate(kept_B1HW, size=inputs[0].shape[-2:], mode="nearest")
        return (inputs[0] * mask,)

    handles = []
    if not bool(kept_B1HW.all()):
        handles = [
            block.conv_dw.register_forward_pre_hook(zero)
            for stage in trunk.stages
            for block in stage.blocks
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def append_position(values: Tensor, *, grid: tuple[int, int]) -> Tensor:
    """Append row and column of each cell of a whole grid: (B,H*W,C) to (B,H*W,C+2).

    Example:
        >>> append_position(torch.zeros(1, 4, 1), grid=(2, 2))[0, :, 1:].tolist()
        [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]
    """
    rows, columns = (torch.arange(n, dtype=values.dtype, device=values.device) for n in grid)
    where = torch.cartesian_prod(rows, columns).view(1, -1, 2).expand(len(values), -1, -1)
    return torch.cat([values, where], dim=-1)


def split_position(tokens: Tokens) -> tuple[Tensor, Tensor]:
    """Undo `append_position`: the cells (B,N,C) and their index in the grid (B,N)."""
    where = tokens.values[..., -2:].detach().round().long()
    return tokens.values[..., :-2], where[..., 0] * tokens.grid[1] + where[..., 1]


def _pool_cells(visual: Any, tokens: Tokens) -> Tensor:
    # The head averages over both sides of a map, so a map of N x 1 cells pools like any other.
    cells = tokens.values.transpose(1, 2).unsqueeze(-1)
    rows, columns = tokens.grid
    if cells.shape[2] == rows * columns:
        cells = cells.view(*cells.shape[:2], rows, columns)
    pooled: Tensor = visual.head(visual.trunk.forward_head(cells))
    return pooled


@dataclass(frozen=True)
class TimmTrunk:
    """Any other trunk in open_clip's `TimmModel`; cut behind its last stage if that is a map."""

    visual: Any

    @property
    def pooling(self) -> Pooling:
        """A conv tower."""
        return "conv"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the last stage."""
        info = getattr(self.visual.trunk, "feature_info", None)
        stride = info[-1]["reduction"] if info else 32
        rows, columns = self.visual.image_size
        return -(-rows // stride), -(-columns // stride)

    def tokens(self, pixels_BCHW: Tensor) -> Tokens:
        """Return the cells of the last map."""
        trunk = self.visual.trunk
        features = trunk.forward_features(pixels_BCHW)
        if features.ndim != 4 or features.shape[1] != trunk.num_features:
            raise UnsupportedEncoderError(
                f"tokens cannot be taken out of a {type(trunk).__name__}",
                mend="its embeddings work; for tokens use a ViT, ConvNeXt or ResNet tower",
            )
        rows, columns = features.shape[2:]
        return Tokens(features.flatten(2).transpose(1, 2), 0, (rows, columns))

    def run(self, tokens: Tokens) -> Tokens:
        """Return the tokens: every stage has run."""
        return tokens

    def pool(self, tokens: Tokens) -> Tensor:
        """Average the cells that are left, then project."""
        return _pool_cells(self.visual, tokens)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """None that this can read."""
        return ()

    @property
    def pooler(self) -> Pooler | None:
        """None that this can read."""
        return None


@dataclass(frozen=True)
class ModifiedResNet:
    """open_clip's `ModifiedResNet`; its tokens are the cells of layer 4."""

    visual: Any

    @property
    def pooling(self) -> Pooling:
        """A conv tower, though its pooling is an attention (`pooler`)."""
        return "conv"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of layer 4."""
        side = self.visual.image_size
        side = side[0] if isinstance(side, tuple | list) else side
        return side // 32, side // 32

    def tokens(self, pixels_BCHW: Tensor) -> Tokens:
        """Return the cells of layer 4 with their row and column."""
        image = catch_input(self.visual, pixels_BCHW, at=self.visual.attnpool)
        return Tokens(append_position(image.flatten(2).mT, grid=self.grid), 0, self.grid)

    def run(self, tokens: Tokens) -> Tokens:
        """Put the mean of the cells in front and add the pool's position embedding."""
        cells, index = split_position(tokens)
        position = self.visual.attnpool.positional_embedding.to(cells.dtype)
        first = cells.mean(1, keepdim=True) + position[0]
        return tokens._replace(values=torch.cat([first, cells + position[1:][index]], 1), prefix=1)

    def pool(self, tokens: Tokens) -> Tensor:
        """Attend from the mean to all cells."""
        return self.pooler.finish(self.pooler.attend(tokens.values).output)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """None: its stages are convolutions."""
        return ()

    @property
    def pooler(self) -> Pooler:
        """Its attention pool."""
        return ResNetPooler(self.visual.attnpool)

    def embed_boxes(self, pixels_BCHW: Tensor, boxes: list[Tensor]) -> Tensor:
        """Align boxes on the map of layer 3, then run layer 4 and the attention pool: (R,D).

        The aligned map has twice the sides that the pool's position table has (14 for RN50), as in
        ViLLA and RegionCLIP (facts/peers_and_layouts.md 3.1): one sample a bin for the whole image,
        so that the box of the whole image gives the image's own embedding.
        """
        features = catch_input(self.visual, pixels_BCHW, at=self.visual.layer4)
        return self._finish(self._align(features, boxes, width=pixels_BCHW.shape[-1]))

    def embed_image_and_boxes(
        self, pixels_BCHW: Tensor, boxes: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Embed images (B,D) and their boxes (R,D); the stages to layer 3 run once for both."""
        features = catch_input(self.visual, pixels_BCHW, at=self.visual.layer4)
        images = self._finish(features)
        if not any(len(rows) for rows in boxes):
            # A batch norm in training refuses a batch of none.
            return images, images[:0]
        return images, self._finish(self._align(features, boxes, width=pixels_BCHW.shape[-1]))

    def _align(self, features: Tensor, boxes: list[Tensor], *, width: int) -> Tensor:
        from torchvision.ops import roi_align

        # It knows no half types on a CPU, and corners lose their fractions in 8 bits.
        rows = [box.to(device=features.device, dtype=torch.float32) for box in boxes]
        aligned: Tensor = roi_align(
            features.float(),
            rows,
            2 * self.grid[0],
            spatial_scale=features.shape[-1] / width,
            sampling_ratio=0,
            aligned=True,
        )
        return aligned.to(features.dtype)

    def _finish(self, features: Tensor) -> Tensor:
        embedded: Tensor = self.visual.attnpool(self.visual.layer4(features))
        return embedded
