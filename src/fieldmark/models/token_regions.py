"""Embed boxes of an image by its tokens: all other tokens removed, or only pooled apart.

For a ViT nothing is published (facts/peers_and_layouts.md 3.1), so both ways are our own.
`encode_box_tokens` runs the blocks on the prefix and the box's patches alone: nothing from outside
of the box gets in, and each patch keeps its place. `pool_box_tokens` runs the image once and pools
the patches of each box after the last block: cheap, but blocks have mixed the whole image into
every patch, and a CLS tower was not trained to have its patches pooled.

A patch belongs to a box if its centre lies in it, so that boxes which tile an image share its
patches out. Shape letters as in encoder.py, and n tokens of a box.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from fieldmark.core.errors import UnsupportedEncoderError
from fieldmark.models.adapter import DualEncoder
from fieldmark.models.conv_towers import ModifiedResNet, TimmTrunk
from fieldmark.models.encoder import Encoder, Tokens
from fieldmark.models.regions import check_all_boxes
from fieldmark.models.towers import TimmViT, Tower

# As many tokens are run at once as this many whole images have.
BATCH = 64


def encode_box_tokens(encoder: Encoder, image_BCHW: Tensor, boxes: list[Tensor]) -> list[Tensor]:
    """Embed boxes with all tokens outside of them removed before the first block, differentiably.

    Args:
        encoder: a ViT, or a ConvNeXt, where cells count as zero wherever they would mix.
        image_BCHW: uint8 or normalised float (B,3,H,W).
        boxes: for each image (R_i,4), x0 y0 x1 y1 in pixels of the input. A side shorter than a
            patch takes the nearest patch.

    Returns:
        For each image float32 (R_i,D) of unit norm. The box of the whole image gives the image's
        own embedding.

    Raises:
        InputError: a box without area or outside of its image.
        UnsupportedEncoderError: the tower mixes its cells before any can be removed.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> image = torch.zeros(1, 3, 8, 8)
        >>> image[:, 0], image[:, 2, :, 4:] = 1, 1
        >>> [left] = encode_box_tokens(FakeEncoder(), image, [torch.tensor([[0, 0, 4, 8]])])
        >>> left.round(decimals=3).tolist()
        [[0.707..., 0.0, 0.0, 0.707..., 0.0, 0.0]]
    """
    check_all_boxes(image_BCHW, boxes)
    tower = _find_tower(encoder)
    if isinstance(tower, ModifiedResNet | TimmTrunk):
        raise UnsupportedEncoderError(
            "its convolutions mix all cells before any can be removed",
            where=encoder.spec.uri,
            mend="crop the regions or pool their cells, or use a ViT or ConvNeXt tower",
        )
    tokens = encoder.tokens(image_BCHW)
    return _embed_cells(
        tokens,
        boxes,
        size=_size_of(image_BCHW),
        embed=lambda part: encoder.pool(encoder.run(part)),
        width=encoder.spec.dim,
    )


def pool_box_tokens(encoder: Encoder, image_BCHW: Tensor, boxes: list[Tensor]) -> list[Tensor]:
    """Embed boxes out of one forward pass an image, by pooling their patches, differentiably.

    Patches are pooled after the last block as the tower itself pools: by its attention (`map`) or
    their mean, over the box's patches alone. A CLS tower has no pooling of patches; there their
    mean goes through its last norm and projection in place of CLS, which the tower was not trained
    for. A ResNet of CLIP attends over the box's cells from their mean.

    Args:
        encoder: any tower that gives tokens.
        image_BCHW: as for `encode_box_tokens`.
        boxes: as for `encode_box_tokens`.

    Returns:
        For each image float32 (R_i,D) of unit norm.

    Raises:
        InputError: a box without area or outside of its image.
        UnsupportedEncoderError: the tower gives no tokens.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> image = torch.zeros(1, 3, 8, 8)
        >>> image[:, 0], image[:, 2, :, 4:] = 1, 1
        >>> [left] = pool_box_tokens(FakeEncoder(), image, [torch.tensor([[0, 0, 4, 8]])])
        >>> left.round(decimals=3).tolist()
        [[0.707..., 0.0, 0.0, 0.707..., 0.0, 0.0]]
    """
    check_all_boxes(image_BCHW, boxes)
    tower = _find_tower(encoder)
    tokens = encoder.tokens(image_BCHW)
    size, width = _size_of(image_BCHW), encoder.spec.dim
    if isinstance(tower, ModifiedResNet):
        # What follows the cells of layer 4 is all pooling.
        return _embed_cells(
            tokens,
            boxes,
            size=size,
            embed=lambda part: encoder.pool(encoder.run(part)),
            width=width,
        )
    after = encoder.run(tokens)
    if encoder.spec.pooling == "cls":
        patches = after._replace(values=after.values[:, after.prefix :], prefix=0)

        def embed(part: Tokens) -> Tensor:
            mean = part.values.mean(dim=1, keepdim=True)
            return encoder.pool(part._replace(values=mean, prefix=1))

        return _embed_cells(patches, boxes, size=size, embed=embed, width=width)
    if not _skips_prefix(tower, after):
        after = after._replace(values=after.values[:, after.prefix :], prefix=0)
    return _embed_cells(after, boxes, size=size, embed=encoder.pool, width=width)


def choose_cells(boxes: Tensor, *, grid: tuple[int, int], size: tuple[int, int]) -> list[Tensor]:
    """Return the cells of each box, ascending, as indices into the rows of a grid.

    Args:
        boxes: (R,4), x0 y0 x1 y1 in pixels.
        grid: rows and columns of cells.
        size: height and width in pixels of what the grid covers.

    Returns:
        R tensors (n,) int64 of the cells whose centre lies in the box, left and upper edge
        included. Where no centre of a row (or column) does, the nearest row (column) counts.

    Example:
        >>> boxes = torch.tensor([[0, 0, 4, 8], [5, 1, 6, 8]])
        >>> [cells.tolist() for cells in choose_cells(boxes, grid=(2, 2), size=(8, 8))]
        [[0, 2], [1, 3]]
    """
    x0, y0, x1, y1 = boxes.double().cpu().reshape(-1, 4).unbind(-1)
    rows = _choose_on_axis(y0, y1, count=grid[0], length=size[0])
    columns = _choose_on_axis(x0, x1, count=grid[1], length=size[1])
    inside = rows[:, :, None] & columns[:, None, :]
    return [mask.flatten().nonzero().flatten() for mask in inside]


def _choose_on_axis(low: Tensor, high: Tensor, *, count: int, length: int) -> Tensor:
    """Tell of each box (R,) which of `count` cells in a row it holds: (R,count)."""
    step = length / count
    centres = (torch.arange(count, dtype=torch.float64) + 0.5) * step
    chosen = (low[:, None] <= centres) & (centres < high[:, None])
    nearest = ((low + high) / 2 / step).floor().clamp(max=count - 1).long()
    alone = functional.one_hot(nearest, count).bool()
    return torch.where(chosen.any(dim=1, keepdim=True), chosen, alone)


def _embed_cells(
    tokens: Tokens,
    boxes: list[Tensor],
    *,
    size: tuple[int, int],
    embed: Callable[[Tokens], Tensor],
    width: int,
) -> list[Tensor]:
    """Embed the prefix and the cells of each box; boxes of as many cells go together."""
    counts = [len(rows) for rows in boxes]
    owners = torch.arange(len(boxes)).repeat_interleave(torch.tensor(counts, dtype=torch.long))
    cells = choose_cells(
        torch.cat([rows.cpu().double() for rows in boxes]), grid=tokens.grid, size=size
    )
    lengths = torch.tensor([len(chosen) for chosen in cells], dtype=torch.long)
    places, parts = [torch.zeros(0, dtype=torch.long)], []
    for length in lengths.unique().tolist():
        same = (lengths == length).nonzero().flatten()
        whole = tokens.values.shape[1]
        for group in same.split(max(1, BATCH * whole // (tokens.prefix + length))):
            chosen = torch.stack([cells[place] for place in group.tolist()])
            parts.append(embed(_take(tokens, owners=owners[group], cells=chosen)))
            places.append(group)
    if not parts:
        return [tokens.values.new_zeros(0, width, dtype=torch.float32) for _ in boxes]
    order = torch.cat(places).argsort()
    return list(torch.cat(parts)[order.to(parts[0].device)].split(counts))


def _take(tokens: Tokens, *, owners: Tensor, cells: Tensor) -> Tokens:
    """Return for each of G boxes the prefix of its image and its cells (G,n): (G,prefix+n,C)."""
    prefix = torch.arange(tokens.prefix).expand(len(cells), -1)
    index = torch.cat([prefix, cells + tokens.prefix], dim=1).to(tokens.values.device)
    return tokens._replace(values=tokens.values[owners.to(index.device)[:, None], index])


def _find_tower(encoder: Encoder) -> Tower | None:
    return encoder.library.take_apart(encoder.model) if isinstance(encoder, DualEncoder) else None


def _skips_prefix(tower: Tower | None, tokens: Tokens) -> bool:
    """Tell whether the pooling itself leaves the prefix out, and so must be given one."""
    if isinstance(tower, TimmViT):
        return not tower.visual.trunk.pool_include_prefix
    return tokens.prefix > 0 and tower is not None and tower.pooling == "mean"


def _size_of(image_BCHW: Tensor) -> tuple[int, int]:
    height, width = image_BCHW.shape[-2:]
    return height, width
