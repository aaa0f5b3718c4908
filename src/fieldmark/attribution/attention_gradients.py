"""Maps out of gradients of attention: GAME and LeGrad.

Formulas are those of facts/attribution.md section 3. Shape letters: B images, T texts, Q queries,
N tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fieldmark.attribution.gradients import (
    POOLER_SHARE,
    count_patches,
    differentiate,
    explain_in_batches,
    find_first,
    make_leaf,
    read_tokens,
    release,
    require_blocks,
    run_blocks,
    score,
    shape_maps,
)
from fieldmark.attribution.maps import Maps, Subject
from fieldmark.models.adapter import take_apart, unit
from fieldmark.models.blocks import Block, Pooler, join_heads, run_block
from fieldmark.models.encoder import Tokens
from fieldmark.models.towers import Tower

# LeGrad's correction for attention-pooled towers (facts/attribution.md section 3).
EMPTY_THRESHOLD = 0.8


def explain_by_game(subject: Subject) -> Maps:
    """Multiply attention by its gradient, positive parts, through blocks from `game_start` on.

    Each block adds A R to what is known (R), A being the mean over heads of [gradient x weight]+
    (Chefer et al. 2021, equations 5 and 6 for self-attention; facts/attribution.md section 3). Of a
    CLS tower the map is the row of CLS, of a tower that averages the mean row of its patches, of an
    attention-pooled tower the pooling head's A times R, so that by default, where the last
    attention alone counts, it is the pooling head's. The identity that R starts from is not shown.

    Args:
        subject: images and texts; `config.game_start` is the first block, None the last attention
            alone.

    Returns:
        Maps at or above 0; 1 forward, and the share of the blocks that count of a backward a text.

    Raises:
        InputError: the tower has no block `game_start`.
        UnsupportedEncoderError: the tower has no blocks.
    """
    return explain_in_batches(subject, _multiply_attention)


def _multiply_attention(part: Subject) -> Maps:
    encoder, tower = part.encoder, take_apart(part.encoder)
    blocks, pooler = require_blocks(tower, encoder), tower.pooler
    depth = len(blocks)
    last = depth - 1 if pooler is None else depth
    first = find_first(part.config.game_start, default=last, most=depth - 1, setting="game_start")
    tokens = read_tokens(part)
    values = make_leaf(run_blocks(blocks[:first], tokens.values))
    weights = []
    for block in blocks[first:]:
        values, attention = run_block(block, values)
        weights.append(attention.weight)
    if pooler is None:
        embedded = encoder.pool(tokens._replace(values=values))
    else:
        pooled = pooler.attend(values)
        weights.append(pooled.weight)
        embedded = unit(pooler.finish(pooled.output))
    scores = score(embedded, part.texts)
    rows = [
        _read_relevance(
            [clip_attention(w.detach(), g) for w, g in zip(weights, gradients, strict=True)],
            tower=tower,
            tokens=tokens,
        )
        for _, gradients in differentiate(scores, weights)
    ]
    shares = (depth - first + (POOLER_SHARE if pooler is not None else 0)) / depth
    backwards = shares * scores.shape[1]
    return shape_maps(rows, similarity=scores, grid=tokens.grid, backwards=backwards)


def clip_attention(weight: Tensor, gradient: Tensor) -> Tensor:
    """Return the mean over heads of [gradient x weight]+: (B,heads,Q,N) to (B,Q,N).

    Example:
        >>> weight = torch.tensor([[[[0.5, 0.5]], [[1.0, 0.0]]]])
        >>> clip_attention(weight, torch.tensor([[[[2.0, -2.0]], [[1.0, 1.0]]]])).tolist()
        [[[1.0, 0.0]]]
    """
    return (weight.float() * gradient).clamp(min=0).mean(1)


def multiply_relevance(products: Sequence[Tensor]) -> Tensor:
    """Return R - I of GAME: R is the identity, then R + A R for each A (B,N,N), at least one.

    The identity is kept apart because it is a million times larger than what is added to it.

    Example:
        >>> first, second = torch.tensor([[[0.0, 2.0], [0.0, 0.0]], [[0.0, 0.0], [3.0, 0.0]]])
        >>> multiply_relevance([first[None], second[None]]).tolist()
        [[[0.0, 2.0], [3.0, 6.0]]]
    """
    relevance = torch.zeros_like(products[0])
    for product in products:
        relevance = relevance + product + product @ relevance
    return relevance


def _read_relevance(products: Sequence[Tensor], *, tower: Tower, tokens: Tokens) -> Tensor:
    prefix, pooler = tokens.prefix, tower.pooler
    if pooler is None:
        relevance = multiply_relevance(products)
        row = relevance[:, 0] if tower.pooling == "cls" else relevance[:, prefix:].mean(1)
        return row[:, prefix:]
    *blocks, head = products
    row = head[..., pooler.prefix :].sum(1)
    if blocks:
        seen = multiply_relevance(blocks)[:, prefix - pooler.prefix :, prefix:]
        row = row + (head @ seen).sum(1)
    return row


def explain_by_legrad(subject: Subject) -> Maps:
    """Sum the positive gradients of the attention maps of the later blocks.

    Each block has a score of its own: the mean of all tokens behind it, through the tower's last
    norm and projection, against the text. Its gradient with respect to the block's attention, cut
    off below 0, is averaged over heads and queries (Bousselham et al. 2024; facts/attribution.md
    section 3). Attention-pooled towers put what is behind each block through the pooling head, and
    the gradient is with respect to the head's attention; there, cells that an empty text finds as
    well (over 0.8 of its map, between least and greatest) are set to 0 if `empty_text` is given.

    Args:
        subject: images and texts; `config.legrad_blocks` counts.

    Returns:
        Maps at or above 0; 1 forward (a little over it with a pooling head), and the share of the
        blocks that count of a backward a text.

    Raises:
        InputError: the tower has fewer blocks than `legrad_blocks`.
        UnsupportedEncoderError: the tower has no blocks.
    """
    return explain_in_batches(subject, _sum_gradients)


def _sum_gradients(part: Subject) -> Maps:
    encoder, tower = part.encoder, take_apart(part.encoder)
    blocks, tokens = require_blocks(tower, encoder), read_tokens(part)
    depth, pooler = len(blocks), tower.pooler
    count = find_first(
        part.config.legrad_blocks, default=depth - depth // 2, most=depth, setting="legrad_blocks"
    )
    texts = release(part.texts)
    corrects = pooler is not None and part.empty_text is not None
    if corrects and part.empty_text is not None:
        texts = torch.cat([texts, release(part.empty_text)[None].to(texts)])
    values = run_blocks(blocks[: depth - count], tokens.values)
    total = torch.zeros(())
    for block in blocks[depth - count :]:
        if pooler is None:
            values, gradients = _grade_block(block, values, part=part, tokens=tokens)
        else:
            values = run_blocks([block], values)
            gradients = _grade_pooler(pooler, values, texts=texts)
        total = total.to(gradients.device) + gradients[..., -count_patches(tokens) :]
    with torch.no_grad():
        similarity = score(encoder.pool(tokens._replace(values=values)), part.texts)
    maps = _drop_empty(total) if corrects else total
    share = count / depth * (1.0 if pooler is None else POOLER_SHARE)
    extra = 0.0 if pooler is None else (count - 1) / depth * POOLER_SHARE
    return shape_maps(
        list(maps.unbind(1)),
        similarity=similarity,
        grid=tokens.grid,
        forwards=1.0 + extra,
        backwards=share * len(texts),
    )


def _grade_block(
    block: Block, values: Tensor, *, part: Subject, tokens: Tokens
) -> tuple[Tensor, Tensor]:
    """Return what is behind a block (B,N,C) and the positive gradients of its attention (B,T,N)."""
    with torch.no_grad():
        attention = block.attend(block.normalise(values))
    weight = make_leaf(attention.weight)
    behind = block.add(values, block.project(join_heads(weight @ attention.value)))
    # One mean in the place of CLS and of a patch: whichever the tower takes, it takes the mean.
    mean = behind.mean(1, keepdim=True).expand(-1, tokens.prefix + 1, -1)
    scores = score(part.encoder.pool(tokens._replace(values=mean)), part.texts)
    return behind.detach(), _clip_gradients(scores, weight)


def _grade_pooler(pooler: Pooler, values: Tensor, *, texts: Tensor) -> Tensor:
    with torch.no_grad():
        attention = pooler.attend(values)
    weight = make_leaf(attention.weight)
    mixed = join_heads(weight @ attention.value)
    return _clip_gradients(score(unit(pooler.finish(pooler.project(mixed))), texts), weight)


def _clip_gradients(scores: Tensor, weight: Tensor) -> Tensor:
    """Return the positive gradients, averaged over heads and queries: (B,T,N)."""
    means = [each.clamp(min=0).mean((1, 2)) for _, (each,) in differentiate(scores, [weight])]
    return torch.stack(means, dim=1)


def _drop_empty(total: Tensor) -> Tensor:
    """Set to 0 what the last text, the empty one, finds: (B,T+1,N) to (B,T,N)."""
    maps, empty = total[:, :-1], total[:, -1:]
    least, most = empty.amin(-1, keepdim=True), empty.amax(-1, keepdim=True)
    return maps.where(empty - least <= EMPTY_THRESHOLD * (most - least), 0.0)
