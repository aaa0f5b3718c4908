"""Image towers of open_clip and timm taken apart into tokens, blocks and pooling.

Each class here wraps one kind of tower and reimplements nothing that it can call: tokens are what
the library itself hands to its first block, caught there by a hook, so position embeddings,
registers and first norms are right whatever the version. Shape letters as in encoder.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from fieldmark.core.errors import UnsupportedEncoderError
from fieldmark.models.blocks import (
    Block,
    ClipPooler,
    Pooler,
    TimmPooler,
    run_block,
    wrap_clip_blocks,
    wrap_timm_blocks,
)
from fieldmark.models.encoder import Attention, Pooling, Tokens


class Tower(Protocol):
    """One kind of image tower, taken apart. Embeddings are not of unit norm here."""

    @property
    def pooling(self) -> Pooling:
        """How tokens become an embedding."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens of a square input."""
        ...

    def tokens(self, pixels_BCHW: Tensor) -> Tokens:
        """Embed patches of normalised pixels."""
        ...

    def run(self, tokens: Tokens) -> Tokens:
        """Run all blocks."""
        ...

    def pool(self, tokens: Tokens) -> Tensor:
        """Pool into (B,D)."""
        ...

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks of `run` in pieces; none in a conv tower.

        Raises:
            UnsupportedEncoderError: a block is of an unknown kind.
        """
        ...

    @property
    def pooler(self) -> Pooler | None:
        """The attention of `pool`, None where it takes CLS or a mean."""
        ...


def read_last_attention(tower: Tower, tokens: Tokens) -> Attention:
    """Return the attention that forms the embedding: the pooler's, or the last block's.

    Of the last block, CLS asks, or where the tower averages all patches do.

    Raises:
        UnsupportedEncoderError: the tower has neither.
    """
    if tower.pooler is not None:
        return tower.pooler.attend(tower.run(tokens).values)
    blocks, values = tower.blocks, tokens.values
    if not blocks:
        raise UnsupportedEncoderError(
            "its tower has no attention that forms its embedding",
            mend="use a method that needs none (Grad-CAM, occlusion, RISE, token removal), "
            "or a ViT",
        )
    for block in blocks[:-1]:
        values, _ = run_block(block, values)
    queries = slice(0, 1) if tower.pooling == "cls" else slice(tokens.prefix, None)
    return blocks[-1].attend(blocks[-1].normalise(values), queries)


class _Caught(Exception):
    """Carries the input of the first block out of a forward pass that need not go on."""


def catch_input(call: nn.Module, pixels_BCHW: Tensor, *, at: nn.Module) -> Tensor:
    """Run `call` until it reaches its submodule `at` and return what that one is given.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Flatten(), nn.ReLU())
        >>> catch_input(net, -torch.ones(1, 1, 1, 2), at=net[1]).tolist()
        [[-1.0, -1.0]]
    """
    found: list[Tensor] = []

    def take(_: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        found.append(inputs[0] if inputs else named["hidden_states"])
        raise _Caught

    handle = at.register_forward_pre_hook(take, with_kwargs=True)
    try:
        call(pixels_BCHW)
    except _Caught:
        pass
    finally:
        handle.remove()
    return found[0]


@dataclass(frozen=True)
class ClipViT:
    """open_clip's `VisionTransformer`, pooled by its CLS token, by the mean or by attention."""

    visual: Any

    @property
    def pooling(self) -> Pooling:
        """`map` where it has an attentional pooler, else by its pool type."""
        if self.visual.attn_pool is not None:
            return "map"
        return "mean" if self.visual.pool_type == "avg" else "cls"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns = self.visual.grid_size
        return rows, columns

    def tokens(self, pixels_BCHW: Tensor) -> Tokens:
        """Return CLS and patches as they enter the first block."""
        first = self.visual.transformer.resblocks[0]
        return Tokens(catch_input(self.visual, pixels_BCHW, at=first), 1, self.grid)

    def run(self, tokens: Tokens) -> Tokens:
        """Run the blocks."""
        return tokens._replace(values=self.visual.transformer(tokens.values))

    def pool(self, tokens: Tokens) -> Tensor:
        """Normalise, pool and project."""
        values, visual = tokens.values, self.visual
        if visual.attn_pool is not None:
            return ClipPooler(visual).finish(visual.attn_pool(values))
        norm_first = not visual.final_ln_after_pool
        values = visual.ln_post(values) if norm_first else values
        pooled = values[:, 1:].mean(1) if visual.pool_type == "avg" else values[:, 0]
        pooled = pooled if norm_first else visual.ln_post(pooled)
        result: Tensor = pooled if visual.proj is None else pooled @ visual.proj
        return result

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Its residual attention blocks."""
        return wrap_clip_blocks(self.visual.transformer.resblocks)

    @property
    def pooler(self) -> Pooler | None:
        """Its attentional pooler, where it has one."""
        return None if self.visual.attn_pool is None else ClipPooler(self.visual)


@dataclass(frozen=True)
class TimmViT:
    """timm's `VisionTransformer` in open_clip's `TimmModel`: SigLIP, SigLIP 2, DINOv2."""

    visual: Any

    @property
    def pooling(self) -> Pooling:
        """`map` for SigLIP's head, `cls` for a token, `mean` for an average."""
        if self.visual.trunk.attn_pool is not None:
            return "map"
        return "cls" if self.visual.trunk.global_pool == "token" else "mean"

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        rows, columns = self.visual.trunk.patch_embed.grid_size
        return rows, columns

    def tokens(self, pixels_BCHW: Tensor) -> Tokens:
        """Return prefix and patches as they enter the first block."""
        trunk = self.visual.trunk
        values = catch_input(trunk, pixels_BCHW, at=trunk.blocks[0])
        return Tokens(values, trunk.num_prefix_tokens, self.grid)

    def run(self, tokens: Tokens) -> Tokens:
        """Run the blocks."""
        return tokens._replace(values=self.visual.trunk.blocks(tokens.values))

    def pool(self, tokens: Tokens) -> Tensor:
        """Normalise, pool and project."""
        trunk = self.visual.trunk
        pooled: Tensor = self.visual.head(trunk.forward_head(trunk.norm(tokens.values)))
        return pooled

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Its blocks."""
        return wrap_timm_blocks(self.visual.trunk.blocks)

    @property
    def pooler(self) -> Pooler | None:
        """SigLIP's head, where it has one."""
        return None if self.visual.trunk.attn_pool is None else TimmPooler(self.visual)
