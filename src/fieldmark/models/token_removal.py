"""Embed images with some of their patches removed, many variants of each image at once.

A patch is removed behind the position embedding and in front of the first block, which equals
masking it as a key for every query in every layer and head, and in the pooling head
(facts/attribution.md section 7), at a lower price. In a conv tower its cell is removed instead
(`cell_removal`). Shape letters as in encoder.py, M variants of each image, N patches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from fieldmark.core.errors import InputError, UnsupportedEncoderError
from fieldmark.models.adapter import take_apart, unit
from fieldmark.models.blocks import Block, run_block
from fieldmark.models.cell_removal import encode_kept_cells
from fieldmark.models.conv_towers import ConvNeXt, ModifiedResNet, TimmTrunk
from fieldmark.models.encoder import Encoder, Tokens, normalise

# Most tokens in one forward on a CPU, where more only spill out of its caches.
CPU_TOKENS = 4096
# From this many tokens on packing gains several times what it costs.
WORTH_PACKING = 4096


def encode_kept(
    encoder: Encoder,
    image_BCHW: Tensor,
    kept_BMN: Tensor,
    *,
    batch_size: int = 64,
    tokens: Tokens | None = None,
) -> Tensor:
    """Embed each image from the patches that each of its variants keeps.

    Patches are embedded once an image. Variants that keep as many go together, so that nothing is
    padded.

    Args:
        encoder: any encoder that gives tokens.
        image_BCHW: uint8 or normalised float (B,3,H,W).
        kept_BMN: bool (B,M,N), rows of the grid one after the other. A variant may keep none: what
            is left is the prefix alone (a tower without a prefix then gives NaN).
        batch_size: at most as many tokens are run at once as this many whole images have.
        tokens: `encoder.tokens(image_BCHW)`, where it is at hand.

    Returns:
        float32 (B,M,D) of unit norm, on the CPU and without gradients.

    Raises:
        UnsupportedEncoderError: the tower gives no tokens, or it is a conv tower that pools inside.
        InputError: the mask fits neither images nor patches.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> image = torch.zeros(1, 3, 8, 8)
        >>> image[:, 0], image[:, 2, :, 4:] = 1, 1
        >>> kept = torch.ones(1, 1, 4, 4, dtype=torch.bool)
        >>> kept[..., 2:] = False
        >>> encode_kept(FakeEncoder(), image, kept.flatten(2)).round(decimals=3).tolist()
        [[[0.707..., 0.0, 0.0, 0.707..., 0.0, 0.0]]]
    """
    images, variants, patches = kept_BMN.shape
    result = torch.full((images, variants, encoder.spec.dim), torch.nan)
    if images != len(image_BCHW):
        raise InputError(f"masks of {images} images were given for {len(image_BCHW)}")
    with torch.inference_mode():
        tower = take_apart(encoder) if encoder.spec.pooling == "conv" else None
        if isinstance(tower, ConvNeXt | TimmTrunk | ModifiedResNet):
            weight = next(encoder.image_tower.parameters())
            pixels = normalise(image_BCHW.to(weight.device), spec=encoder.spec, dtype=weight.dtype)
            cells = encode_kept_cells(tower, pixels, kept_BMN, batch_size=batch_size)
            return result.copy_(unit(cells))
        tokens = encoder.tokens(image_BCHW) if tokens is None else tokens
        if patches != tokens.values.shape[1] - tokens.prefix:
            raise InputError(
                f"a mask of {patches} patches does not fit a grid of "
                f"{tokens.grid[0]} x {tokens.grid[1]}"
            )
        _fill(result.view(images * variants, -1), encoder, tokens, kept_BMN, batch_size=batch_size)
    return result


def _fill(
    result: Tensor, encoder: Encoder, tokens: Tokens, kept_BMN: Tensor, *, batch_size: int
) -> None:
    """Write the embeddings of all variants, one row each, those of one length together."""
    flat, variants = kept_BMN.flatten(0, 1).cpu(), kept_BMN.shape[1]
    lengths, values = flat.sum(1), tokens.values
    bound = batch_size * values.shape[1]
    bound = min(bound, CPU_TOKENS) if values.device.type == "cpu" else bound
    blocks = _find_cls_blocks(encoder)
    with pack_weights(values, count=int(lengths.sum())):
        for length in lengths.unique().tolist():
            if not length + tokens.prefix:
                continue
            same = (lengths == length).nonzero().flatten()
            for rows in same.split(max(1, bound // (length + tokens.prefix))):
                part = _take(tokens, owners=rows // variants, kept=flat[rows])
                after = _run_to_cls(blocks, part) if blocks else encoder.run(part)
                result[rows] = encoder.pool(after).cpu()


def _find_cls_blocks(encoder: Encoder) -> tuple[Block, ...]:
    """Return the blocks of a tower that is pooled by CLS and can be taken apart, else none."""
    if encoder.spec.pooling != "cls":
        return ()
    try:
        return take_apart(encoder).blocks
    except UnsupportedEncoderError:
        return ()


def _run_to_cls(blocks: Sequence[Block], tokens: Tokens) -> Tokens:
    """Run blocks, the last for CLS alone, since pooling reads no other output of it: (B,1,C)."""
    values = tokens.values
    for block in blocks[:-1]:
        values, _ = run_block(block, values)
    last = blocks[-1]
    attention = last.attend(last.normalise(values), slice(0, 1))
    return tokens._replace(values=last.add(values[:, :1], attention.output))


class PackedWeights(TorchFunctionMode):
    """While it is entered, float32 linear layers on a CPU run in oneDNN with weights packed once.

    PyTorch itself calls MKL, which was measured a fifth slower on an AMD EPYC. For inference only,
    and weights must not change meanwhile. It holds a second copy of them.

    Example:
        >>> layer, values = torch.nn.Linear(3, 2), torch.ones(4, 3)
        >>> with torch.inference_mode():
        ...     plain = layer(values)
        ...     with PackedWeights():
        ...         torch.allclose(layer(values), plain, atol=1e-6)
        True
    """

    def __init__(self) -> None:
        super().__init__()
        # Weights are held too, lest another tensor comes to lie where a packed one lay.
        self._packed: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a linear layer on packed weights and anything else as it is."""
        named = kwargs or {}
        if func is not functional.linear or named or args[0].dtype != torch.float32:
            return func(*args, **named)
        values, weight, bias = (*args, None)[:3]
        key = (weight.data_ptr(), *weight.shape, *weight.stride())
        if key not in self._packed:
            packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), 1024)
            self._packed[key] = weight, packed
        packed = self._packed[key][1]
        return torch.ops.mkldnn._linear_pointwise(values, packed, bias, "none", [], "")


def pack_weights(values: Tensor, *, count: int) -> AbstractContextManager[object]:
    """Return `PackedWeights` where it pays for `count` tokens like `values`, else nothing.

    Example:
        >>> isinstance(pack_weights(torch.zeros(1), count=1), PackedWeights)
        False
    """
    operators = ("_reorder_linear_weight", "_linear_pointwise")
    able = torch.backends.mkldnn.is_available() and all(
        hasattr(torch.ops.mkldnn, name) for name in operators
    )
    plain = values.device.type == "cpu" and values.dtype == torch.float32
    return PackedWeights() if able and plain and count >= WORTH_PACKING else nullcontext()


def _take(tokens: Tokens, *, owners: Tensor, kept: Tensor) -> Tokens:
    """Return of each of G images the prefix and the kept patches: kept (G,N), all of one count."""
    patches = kept.nonzero()[:, 1].view(len(kept), -1) + tokens.prefix
    prefix = torch.arange(tokens.prefix).expand(len(kept), -1)
    index = torch.cat([prefix, patches], dim=1).to(tokens.values.device)
    return tokens._replace(values=tokens.values[owners.to(index.device)[:, None], index])
