"""Embed images with some of their patches removed, many variants of each image at once.

A patch is removed behind the position embedding and in front of the first block, which equals
masking it as a key for every query in every layer and head, and in the pooling head
(facts/attribution.md section 7), at a lower price. In a conv tower its cell is removed instead
(`cell_removal`). Shape letters as in encoder.py, M variants of each image, N patches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fieldmark.core.errors import InputError
from fieldmark.models.adapter import take_apart, unit
from fieldmark.models.cell_removal import encode_kept_cells
from fieldmark.models.conv_towers import ConvNeXt, ModifiedResNet, TimmTrunk
from fieldmark.models.encoder import Encoder, Tokens, normalise


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
        batch_size: as many tokens are run at once as this many whole images have.
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
    lengths = flat.sum(1)
    for length in lengths.unique().tolist():
        if not length + tokens.prefix:
            continue
        same = (lengths == length).nonzero().flatten()
        most = max(1, batch_size * tokens.values.shape[1] // (length + tokens.prefix))
        for rows in same.split(most):
            part = _take(tokens, owners=rows // variants, kept=flat[rows])
            result[rows] = encoder.pool(encoder.run(part)).cpu()


def _take(tokens: Tokens, *, owners: Tensor, kept: Tensor) -> Tokens:
    """Return of each of G images the prefix and the kept patches: kept (G,N), all of one count."""
    patches = kept.nonzero()[:, 1].view(len(kept), -1) + tokens.prefix
    prefix = torch.arange(tokens.prefix).expand(len(kept), -1)
    index = torch.cat([prefix, patches], dim=1).to(tokens.values.device)
    return tokens._replace(values=tokens.values[owners.to(index.device)[:, None], index])
