"""Blocks and pooling heads of image transformers in pieces, for methods that look inside.

A block is `add(values, attend(normalise(values)).output)`: norm, attention, its residual and the
MLP. A pooling head is `finish(attend(values).output)`. The attention is worked out from the
module's own projections, with its weights, so gradients flow through them and a method may put
other weights in their place. Shape letters as in encoder.py, and Q queries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from fieldmark.core.errors import UnsupportedEncoderError
from fieldmark.models.attention import read_projections, read_timm, read_timm_pool, read_torch
from fieldmark.models.encoder import Attention

EVERY = slice(None)


class Block(Protocol):
    """One block of a transformer."""

    def normalise(self, values: Tensor) -> Tensor:
        """Apply the norm in front of the attention: (B,N,C)."""
        ...

    def attend(self, normalised: Tensor, queries: slice = EVERY) -> Attention:
        """Attend from the rows `queries` of what `normalise` gave to all of it."""
        ...

    def project(self, mixed: Tensor) -> Tensor:
        """Apply the output projection to values with their heads side by side: (B,Q,C)."""
        ...

    def add(self, values: Tensor, output: Tensor) -> Tensor:
        """Add the attention's output (B,N,C) to the block's input, then the MLP's."""
        ...


class Pooler(Protocol):
    """An attention that pools the tokens behind the last block into an embedding."""

    @property
    def prefix(self) -> int:
        """How many of the keys of `attend` belong to no patch."""
        ...

    def attend(self, values: Tensor) -> Attention:
        """Attend from the learned queries to the tokens behind the last block (B,N,C)."""
        ...

    def project(self, mixed: Tensor) -> Tensor:
        """Apply the output projection to values with their heads side by side: (B,Q,C)."""
        ...

    def finish(self, output: Tensor) -> Tensor:
        """Turn the attention's output (B,Q,C) into embeddings (B,D), not of unit norm."""
        ...


def run_block(block: Block, values: Tensor) -> tuple[Tensor, Attention]:
    """Run a block in its pieces: (B,N,C) and its attention, through which gradients flow."""
    attention = block.attend(block.normalise(values))
    return block.add(values, attention.output), attention


def join_heads(split: Tensor) -> Tensor:
    """Put heads side by side: (B,heads,N,d) to (B,N,heads*d).

    Example:
        >>> import torch
        >>> join_heads(torch.arange(4.0).view(1, 2, 1, 2)).tolist()
        [[[0.0, 1.0, 2.0, 3.0]]]
    """
    return split.transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class ClipBlock:
    """A block of open_clip's `Transformer`."""

    layer: Any

    def normalise(self, values: Tensor) -> Tensor:
        """Apply the norm in front of the attention."""
        normalised: Tensor = self.layer.ln_1(values)
        return normalised

    def attend(self, normalised: Tensor, queries: slice = EVERY) -> Attention:
        """Attend from the rows `queries`."""
        return read_torch(self.layer.attn, normalised[:, queries], normalised)

    def project(self, mixed: Tensor) -> Tensor:
        """Apply the output projection."""
        projected: Tensor = self.layer.attn.out_proj(mixed)
        return projected

    def add(self, values: Tensor, output: Tensor) -> Tensor:
        """Add the attention's output, then the MLP's."""
        values = values + self.layer.ls_1(output)
        added: Tensor = values + self.layer.ls_2(self.layer.mlp(self.layer.ln_2(values)))
        return added


@dataclass(frozen=True)
class TimmBlock:
    """A block of timm's `VisionTransformer`."""

    layer: Any

    def normalise(self, values: Tensor) -> Tensor:
        """Apply the norm in front of the attention."""
        normalised: Tensor = self.layer.norm1(values)
        return normalised

    def attend(self, normalised: Tensor, queries: slice = EVERY) -> Attention:
        """Attend from the rows `queries`."""
        return read_timm(self.layer.attn, normalised, queries=queries)

    def project(self, mixed: Tensor) -> Tensor:
        """Apply the output projection."""
        projected: Tensor = self.layer.attn.proj(mixed)
        return projected

    def add(self, values: Tensor, output: Tensor) -> Tensor:
        """Add the attention's output, then the MLP's."""
        layer = self.layer
        values = values + layer.drop_path1(layer.ls1(output))
        added: Tensor = values + layer.drop_path2(layer.ls2(layer.mlp(layer.norm2(values))))
        return added


@dataclass(frozen=True)
class TransformersBlock:
    """A layer of the image towers of transformers: CLIP, SigLIP, SigLIP 2."""

    layer: Any

    def normalise(self, values: Tensor) -> Tensor:
        """Apply the norm in front of the attention."""
        normalised: Tensor = self.layer.layer_norm1(values)
        return normalised

    def attend(self, normalised: Tensor, queries: slice = EVERY) -> Attention:
        """Attend from the rows `queries`."""
        attention = self.layer.self_attn
        return read_projections(
            normalised[:, queries],
            normalised,
            q=attention.q_proj,
            k=attention.k_proj,
            v=attention.v_proj,
            out=attention.out_proj,
            heads=attention.num_heads,
        )

    def project(self, mixed: Tensor) -> Tensor:
        """Apply the output projection."""
        projected: Tensor = self.layer.self_attn.out_proj(mixed)
        return projected

    def add(self, values: Tensor, output: Tensor) -> Tensor:
        """Add the attention's output, then the MLP's."""
        values = values + output
        added: Tensor = values + self.layer.mlp(self.layer.layer_norm2(values))
        return added


@dataclass(frozen=True)
class ClipPooler:
    """The attentional pooler of open_clip's `VisionTransformer`."""

    visual: Any

    @property
    def prefix(self) -> int:
        """CLS is among the keys."""
        return 1

    def attend(self, values: Tensor) -> Attention:
        """Attend from the learned queries to all tokens."""
        pooler = self.visual.attn_pool
        query = pooler.ln_q(pooler.query)[None].expand(len(values), -1, -1)
        return read_torch(pooler.attn, query, pooler.ln_k(values))

    def project(self, mixed: Tensor) -> Tensor:
        """Apply the output projection."""
        projected: Tensor = self.visual.attn_pool.attn.out_proj(mixed)
        return projected

    def finish(self, output: Tensor) -> Tensor:
        """Normalise, take the first query (or the mean of the others) and project."""
        visual, values = self.visual, self.visual.ln_post(output)
        pooled = values[:, 1:].mean(1) if visual.pool_type == "avg" else values[:, 0]
        finished: Tensor = pooled if visual.proj is None else pooled @ visual.proj
        return finished


@dataclass(frozen=True)
class TimmPooler:
    """The attention pooling of timm's `VisionTransformer` in open_clip's `TimmModel`."""

    visual: Any

    @property
    def prefix(self) -> int:
        """Register tokens, where the head attends to them."""
        trunk = self.visual.trunk
        return int(trunk.num_prefix_tokens) if trunk.pool_include_prefix else 0

    def attend(self, values: Tensor) -> Attention:
        """Attend from the learned query to the normalised tokens."""
        trunk = self.visual.trunk
        skip = trunk.num_prefix_tokens - self.prefix
        return read_timm_pool(trunk.attn_pool, trunk.norm(values)[:, skip:])

    def project(self, mixed: Tensor) -> Tensor:
        """Apply the output projection."""
        projected: Tensor = self.visual.trunk.attn_pool.proj(mixed)
        return projected

    def finish(self, output: Tensor) -> Tensor:
        """Add the head's MLP, pool its queries and project."""
        trunk, pooler = self.visual.trunk, self.visual.trunk.attn_pool
        if pooler.mlp is not None:
            output = output + pooler.mlp(pooler.norm(output))
        pooled = output.mean(1) if pooler.pool == "avg" else output[:, 0]
        finished: Tensor = self.visual.head(trunk.head(trunk.head_drop(trunk.fc_norm(pooled))))
        return finished


@dataclass(frozen=True)
class TransformersPooler:
    """The attention pooling head of transformers' SigLIP and SigLIP 2."""

    vision_model: Any

    @property
    def prefix(self) -> int:
        """There is no token but patches."""
        return 0

    def attend(self, values: Tensor) -> Attention:
        """Attend from the learned query to the normalised tokens."""
        head, values = self.vision_model.head, self.vision_model.post_layernorm(values)
        return read_torch(head.attention, head.probe.expand(len(values), -1, -1), values)

    def project(self, mixed: Tensor) -> Tensor:
        """Apply the output projection."""
        projected: Tensor = self.vision_model.head.attention.out_proj(mixed)
        return projected

    def finish(self, output: Tensor) -> Tensor:
        """Add the head's MLP."""
        head = self.vision_model.head
        finished: Tensor = (output + head.mlp(head.layernorm(output)))[:, 0]
        return finished


@dataclass(frozen=True)
class ResNetPooler:
    """The attention pool of open_clip's `ModifiedResNet`; it attends from the mean of the cells."""

    pool: Any

    @property
    def prefix(self) -> int:
        """The mean is among the keys."""
        return 1

    def attend(self, values: Tensor) -> Attention:
        """Attend from the mean, the first token, to itself and all cells."""
        return read_projections(
            values[:, :1],
            values,
            q=self.pool.q_proj,
            k=self.pool.k_proj,
            v=self.pool.v_proj,
            out=self.pool.c_proj,
            heads=self.pool.num_heads,
        )

    def project(self, mixed: Tensor) -> Tensor:
        """Apply the output projection."""
        projected: Tensor = self.pool.c_proj(mixed)
        return projected

    def finish(self, output: Tensor) -> Tensor:
        """Take the only query."""
        return output[:, 0]


def wrap_clip_blocks(layers: Sequence[nn.Module]) -> tuple[ClipBlock, ...]:
    """Wrap open_clip's blocks.

    Raises:
        UnsupportedEncoderError: a block has an attention of another kind.
    """
    for layer in layers:
        if not isinstance(getattr(layer, "attn", None), nn.MultiheadAttention):
            raise UnsupportedEncoderError(
                "its blocks use a custom attention", mend="use a plain ViT, or cci, occlusion, rise"
            )
    return tuple(ClipBlock(layer) for layer in layers)


def wrap_timm_blocks(layers: Sequence[nn.Module]) -> tuple[TimmBlock, ...]:
    """Wrap timm's blocks.

    Raises:
        UnsupportedEncoderError: a block is not put together as a plain one.
    """
    needed = ("norm1", "attn", "ls1", "drop_path1", "norm2", "mlp", "ls2", "drop_path2")
    for layer in layers:
        if not all(hasattr(layer, name) for name in needed):
            raise UnsupportedEncoderError(
                f"its blocks are of the kind {type(layer).__name__}",
                mend="use a plain ViT, or cci, occlusion, rise",
            )
    return tuple(TimmBlock(layer) for layer in layers)
