"""Queries, keys and values of one attention, out of whatever module a library keeps them in.

Libraries compute attention with fused kernels that never form the weights, so the last attention is
worked out here from the projections of the module itself. Shape letters as in encoder.py.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from fieldmark.core.errors import UnsupportedEncoderError
from fieldmark.models.encoder import Attention


def split_heads(values: Tensor, *, heads: int) -> Tensor:
    """Reshape (B,N,heads*d) to (B,heads,N,d).

    Example:
        >>> import torch
        >>> split_heads(torch.zeros(2, 5, 6), heads=3).shape
        torch.Size([2, 3, 5, 2])
    """
    split: Tensor = values.unflatten(-1, (heads, -1)).transpose(1, 2)
    return split


def attend(
    query: Tensor, key: Tensor, value: Tensor, *, project: nn.Module, scale: float | None = None
) -> Attention:
    """Compute softmax attention with its weights kept.

    Args:
        query: (B,heads,Q,d).
        key: (B,heads,N,d).
        value: (B,heads,N,d).
        project: the output projection of the module.
        scale: factor of the scores, 1/sqrt(d) by default.

    Example:
        >>> import torch
        >>> even = attend(*[torch.ones(1, 1, n, 2) for n in (1, 4, 4)], project=nn.Identity())
        >>> even.weight.tolist(), even.output.tolist()
        ([[[[0.25, 0.25, 0.25, 0.25]]]], [[[1.0, 1.0]]])
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    weight = (query @ key.transpose(-1, -2) * scale).softmax(dim=-1)
    mixed = (weight @ value).transpose(1, 2).flatten(2)
    return Attention(query, key, value, weight, project(mixed))


def read_torch(module: Any, query: Tensor, memory: Tensor) -> Attention:
    """Read `torch.nn.MultiheadAttention`, batch first: (B,Q,C) attends to (B,N,C')."""
    bias = module.in_proj_bias
    biases = bias.chunk(3) if bias is not None else (None, None, None)
    if module.in_proj_weight is not None:
        weights = tuple(module.in_proj_weight.chunk(3))
    else:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    sources = (query, memory, memory)
    parts = [
        split_heads(functional.linear(x, weight, b), heads=module.num_heads)
        for x, weight, b in zip(sources, weights, biases, strict=True)
    ]
    return attend(*parts, project=module.out_proj)


def read_timm(module: Any, values: Tensor, *, queries: slice) -> Attention:
    """Read timm's self-attention: (B,N,C), of which the rows `queries` ask.

    Raises:
        UnsupportedEncoderError: a variant that gates or normalises what it attended to.
    """
    if getattr(module, "gate", None) is not None or not isinstance(module.norm, nn.Identity):
        raise UnsupportedEncoderError(
            "its attention is gated or normalised after mixing", mend="use a plain ViT"
        )
    query, key, value = (
        split_heads(x, heads=module.num_heads) for x in module.qkv(values).chunk(3, -1)
    )
    query = module.q_norm(query[:, :, queries])
    return attend(query, module.k_norm(key), value, project=module.proj, scale=module.scale)


def read_timm_pool(module: Any, values: Tensor) -> Attention:
    """Read timm's attention pooling (`AttentionPoolLatent`): a learned query over (B,N,C)."""
    if module.pos_embed is not None:
        values = values + module.pos_embed.to(values.dtype)
    latent = module.latent.expand(len(values), -1, -1)
    key, value = (split_heads(x, heads=module.num_heads) for x in module.kv(values).chunk(2, -1))
    query = module.q_norm(split_heads(module.q(latent), heads=module.num_heads))
    return attend(query, module.k_norm(key), value, project=module.proj, scale=module.scale)


def read_projections(
    query: Tensor,
    memory: Tensor,
    *,
    q: nn.Module,
    k: nn.Module,
    v: nn.Module,
    out: nn.Module,
    heads: int,
) -> Attention:
    """Read an attention that keeps four linear layers: (B,Q,C) attends to (B,N,C)."""
    parts = [split_heads(f(x), heads=heads) for f, x in ((q, query), (k, memory), (v, memory))]
    return attend(*parts, project=out)
