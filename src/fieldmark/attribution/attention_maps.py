"""Maps of what a tower attends to, whatever the text: raw attention and rollout.

Formulas: facts/attribution.md section 3. Where a tower pools by attention, the row of its pooling
head stands for the CLS row; where it averages, the mean over the rows of all patches does. Shape
letters as in maps.py, and L blocks, N tokens, Q queries.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from fieldmark.attribution.maps import Maps, Subject
from fieldmark.attribution.methods import find_method, require_support
from fieldmark.models.adapter import take_apart, unit
from fieldmark.models.blocks import Pooler, run_block
from fieldmark.models.encoder import Tokens
from fieldmark.models.towers import Tower


class _Row(NamedTuple):
    """What the embedding attends to, last: weights (B,N) over all tokens, and embeddings (B,D)."""

    weight: Tensor
    embedded: Tensor


def explain_by_attention(subject: Subject) -> Maps:
    """Map the last attention that forms the embedding, the mean over its heads.

    That is the CLS row of the last block, the mean over the rows of all patches where the tower
    averages, or the row of the pooling head, of a ResNet too. Where a head has several queries,
    those that the embedding is made of count. It does not depend on the text; the T maps of an
    image are one.

    Returns:
        Maps in [0, 1], the share of the attention that each patch gets; what CLS and registers get
        is left out. One forward.

    Raises:
        UnsupportedEncoderError: the tower has no attention that forms its embedding, or cannot be
            taken apart.

    Example:
        >>> from fieldmark.attribution.config import AttributionConfig
        >>> from fieldmark.testing import FakeEncoder
        >>> images, texts = torch.zeros(1, 3, 8, 8), torch.eye(6)[:1]
        >>> subject = Subject(
        ...     encoder=FakeEncoder(), images=images, texts=texts, config=AttributionConfig(),
        ...     ids=("a",),
        ... )
        >>> explain_by_attention(subject)
        Traceback (most recent call last):
        fieldmark.core.errors.UnsupportedEncoderError: ... raw-attention needs a tower that can...
    """
    require_support(subject.encoder, find_method("raw-attention"))
    tower = take_apart(subject.encoder)
    with torch.no_grad():
        tokens = subject.encoder.tokens(subject.images)
        if tower.pooler is not None:
            tokens = subject.encoder.run(tokens)
            row = _read_pooler(tower.pooler, tokens)
        else:
            values, weight = tokens.values, tokens.values
            for block in tower.blocks:
                values, attention = run_block(block, values)
                weight = attention.weight
            embedded = subject.encoder.pool(tokens._replace(values=values))
            row = _Row(_average_rows(weight.mean(1), tower=tower, prefix=tokens.prefix), embedded)
    return _spread(row, subject=subject, grid=tokens.grid)


def explain_by_rollout(subject: Subject) -> Maps:
    """Map attention rolled out through all blocks, residuals counted as half of each.

    Every block's attention, the mean over its heads, is averaged with the identity, and the
    products are taken from the first block to the last. The CLS row of the product is the map, the
    mean over the rows of all patches, or the row of the pooling head times the product. It does not
    depend on the text; the T maps of an image are one. Some published baselines multiply in the
    last block alone (facts section 0); this is all of them.

    Returns:
        Maps in [0, 1], the share that each patch gets; what CLS and registers get is left out.
        One forward.

    Raises:
        UnsupportedEncoderError: the tower has no blocks, or cannot be taken apart.

    Example:
        >>> from fieldmark.attribution.config import AttributionConfig
        >>> from fieldmark.testing import FakeEncoder
        >>> images, texts = torch.zeros(1, 3, 8, 8), torch.eye(6)[:1]
        >>> subject = Subject(
        ...     encoder=FakeEncoder(), images=images, texts=texts, config=AttributionConfig(),
        ...     ids=("a",),
        ... )
        >>> explain_by_rollout(subject)
        Traceback (most recent call last):
        fieldmark.core.errors.UnsupportedEncoderError: ... rollout needs a tower that can...
    """
    require_support(subject.encoder, find_method("rollout"))
    tower = take_apart(subject.encoder)
    with torch.no_grad():
        tokens = subject.encoder.tokens(subject.images)
        values, count = tokens.values, tokens.values.shape[1]
        rolled = torch.eye(count, device=values.device).expand(len(values), -1, -1)
        for block in tower.blocks:
            values, attention = run_block(block, values)
            rolled = roll_out(rolled, weight=attention.weight)
        final = tokens._replace(values=values)
        if tower.pooler is not None:
            pooled = _read_pooler(tower.pooler, final)
            keys = pooled.weight.shape[1]
            weight = (pooled.weight[:, None] @ rolled[:, count - keys :].float())[:, 0]
            row = _Row(weight, pooled.embedded)
        else:
            weight = _average_rows(rolled, tower=tower, prefix=tokens.prefix)
            row = _Row(weight, subject.encoder.pool(final))
    return _spread(row, subject=subject, grid=tokens.grid)


def roll_out(rolled: Tensor, *, weight: Tensor) -> Tensor:
    """Multiply one more block onto a rollout: ((mean over heads + identity) / 2) @ rolled.

    Args:
        rolled: (B,N,N) of the blocks before, the identity in front of the first.
        weight: (B,heads,N,N) attention of the block, rows that sum to 1.

    Returns:
        (B,N,N) in float32 or wider, rows that sum to 1.

    Example:
        >>> weight = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]]]])
        >>> roll_out(torch.eye(2)[None], weight=weight).tolist()
        [[[0.5, 0.5], [0.5, 0.5]]]
    """
    mean = weight.to(torch.promote_types(weight.dtype, torch.float32)).mean(1)
    return (mean @ rolled.to(mean.dtype) + rolled) / 2


def find_used_queries(pooler: Pooler, output: Tensor) -> Tensor:
    """Tell which queries of a pooling head the embedding is made of: bool (Q,).

    open_clip's head may have hundreds of queries of which the first alone is used, or all but the
    first. A query is used if the embedding is not a number once the query's output is none.

    Args:
        pooler: the head.
        output: (B,Q,C), of `pooler.attend`; the first row is looked at.
    """
    queries = output.shape[1]
    if queries == 1:
        return torch.ones(1, dtype=torch.bool, device=output.device)
    probes = output[:1].repeat(queries, 1, 1)
    each = torch.arange(queries, device=output.device)
    probes[each, each] = torch.nan
    return pooler.finish(probes).isnan().any(-1)


def _read_pooler(pooler: Pooler, tokens: Tokens) -> _Row:
    attention = pooler.attend(tokens.values)
    used = find_used_queries(pooler, attention.output)
    weight = attention.weight.mean(1)[:, used].float().mean(1)
    return _Row(weight, unit(pooler.finish(attention.output)))


def _average_rows(weight_BNN: Tensor, *, tower: Tower, prefix: int) -> Tensor:
    """Return the row of CLS, or the mean over the rows of all patches: (B,N)."""
    rows = slice(0, 1) if tower.pooling == "cls" else slice(prefix, None)
    return weight_BNN[:, rows].float().mean(1)


def _spread(row: _Row, *, subject: Subject, grid: tuple[int, int]) -> Maps:
    """Cut the prefix off, put patches on the grid and repeat the map for each text."""
    rows, columns = grid
    maps = row.weight[:, -rows * columns :].view(-1, 1, rows, columns)
    return Maps(
        values=maps.expand(-1, len(subject.texts), -1, -1),
        similarity=row.embedded @ subject.texts.to(row.embedded.device).T,
        forwards=1.0,
    )
