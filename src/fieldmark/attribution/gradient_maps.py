"""Maps out of gradients of features, values and pixels: Grad-CAM, Grad-ECLIP, integrated gradients.

Formulas are those of facts/attribution.md section 3, worked out on the true model: its own number
of heads, its own pooling. The embedding is formed by the last block for a CLS token or a mean of
patches, and by the pooling head for attention-pooled towers. Shape letters: B images, T texts,
Q queries, N tokens, C channels, h and w rows and columns of the grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fieldmark.attribution.gradients import (
    POOLER_SHARE,
    count_patches,
    differentiate,
    explain_in_batches,
    make_leaf,
    read_tokens,
    record_gradients,
    release,
    require_blocks,
    run_blocks,
    score,
    shape_maps,
)
from fieldmark.attribution.maps import Maps, Subject, find_grid
from fieldmark.core.errors import UnsupportedEncoderError
from fieldmark.models.adapter import take_apart, unit
from fieldmark.models.blocks import EVERY, Pooler, join_heads
from fieldmark.models.encoder import Attention, Encoder, Tokens, normalise
from fieldmark.models.towers import Tower


def explain_by_grad_cam(subject: Subject) -> Maps:
    """Weigh each channel by its mean gradient over the patches, sum, and cut off below 0.

    The features are what the embedding is formed from: of a CLS tower the output of the norm in
    front of the last attention (behind that attention a patch's gradient is exactly 0), of a tower
    that averages or pools by attention the output of the last block, of a conv tower the cells of
    its last stage (Selvaraju et al. 2017; facts/attribution.md section 3, with patches alone in
    the mean).

    Args:
        subject: images and texts; the encoder must be one that can be taken apart.

    Returns:
        Maps at or above 0; 1 forward, and 1/L of a backward a text for a tower of L blocks with
        CLS. Heads of towers that average count as nothing.

    Raises:
        UnsupportedEncoderError: the encoder cannot be taken apart.
    """
    return explain_in_batches(subject, _weigh_features)


def _weigh_features(part: Subject) -> Maps:
    encoder, tower = part.encoder, take_apart(part.encoder)
    tokens = read_tokens(part)
    if tower.pooling == "cls":
        features, finish, cost = _open_last_block(encoder, tower, tokens)
    else:
        features, finish, cost = _open_pooling(encoder, tower, tokens)
    scores = score(finish(features), part.texts)
    rows = [
        weigh_channels(
            features.detach()[:, -count_patches(tokens) :], gradient[:, -count_patches(tokens) :]
        )
        for _, (gradient,) in differentiate(scores, [features])
    ]
    backwards = cost * scores.shape[1]
    return shape_maps(rows, similarity=scores, grid=tokens.grid, backwards=backwards)


_Opened = tuple[Tensor, Callable[[Tensor], Tensor], float]


def _open_last_block(encoder: Encoder, tower: Tower, tokens: Tokens) -> _Opened:
    """Return what the last attention reads, how it becomes an embedding, and the share of that."""
    *early, last = require_blocks(tower, encoder)
    values = run_blocks(early, tokens.values)
    with torch.no_grad():
        features = last.normalise(values)

    def finish(normalised: Tensor) -> Tensor:
        attention = last.attend(normalised, slice(0, 1))
        return encoder.pool(tokens._replace(values=last.add(values[:, :1], attention.output)))

    return make_leaf(features), finish, 1 / len(tower.blocks)


def _open_pooling(encoder: Encoder, tower: Tower, tokens: Tokens) -> _Opened:
    if tower.pooling == "conv" and tower.pooler is not None:
        # Its cells are the tokens; their row and column, appended, have no gradient and no weight.
        leaf = make_leaf(tokens.values)
        return leaf, lambda cells: encoder.pool(encoder.run(tokens._replace(values=cells))), 0.0
    with torch.no_grad():
        behind = encoder.run(tokens)
    cost = 0.0 if tower.pooler is None else POOLER_SHARE / len(tower.blocks)
    leaf = make_leaf(behind.values)
    return leaf, lambda values: encoder.pool(behind._replace(values=values)), cost


def weigh_channels(features: Tensor, gradients: Tensor) -> Tensor:
    """Return Grad-CAM of patches: features and gradients (B,N,C) to (B,N), at or above 0.

    Example:
        >>> features = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> weigh_channels(features, torch.tensor([[[2.0, -1.0], [4.0, -1.0]]])).tolist()
        [[3.0, 0.0]]
    """
    weights = gradients.mean(1, keepdim=True)
    return (features.float() * weights).sum(-1).clamp(min=0)


def explain_by_grad_eclip(subject: Subject) -> Maps:
    """Multiply values of the last attention by the gradient of its output, cut off below 0.

    The output is the one in front of the output projection; a patch weighs by lambda, the cosine of
    its key and the query between the least and the greatest over the patches, heads side by side,
    or all alike where `config.loosened` is off (Zhao et al. 2025; facts/attribution.md section 3).
    Score and gradients are those of the true model with its own heads. Where patches are averaged,
    each asks with a query of its own and the maps of all are summed, before the cut.

    With `config.single_head` it is the variant of the authors' code: the last attention runs with
    one head over the full width. That is another network, whose scores are not the encoder's, and
    the map explains that one; similarities are the encoder's own all the same.

    Args:
        subject: images and texts; `config.loosened` and `config.single_head` count.

    Returns:
        Maps at or above 0; 1 forward, and at most 1/L of a backward a text for L blocks.

    Raises:
        UnsupportedEncoderError: no attention forms the tower's embedding.
    """
    return explain_in_batches(subject, _weigh_values)


@dataclass(frozen=True)
class _LastAttention:
    """The attention that forms the embedding, and the way from its mixed values to that."""

    attention: Attention
    finish: Callable[[Tensor], Tensor]
    cost: float


def _weigh_values(part: Subject) -> Maps:
    encoder, tower = part.encoder, take_apart(part.encoder)
    tokens, count = read_tokens(part), part.texts.shape[0]
    last = _open_attention(encoder, tower, tokens)
    query, key, value = (join_heads(each).detach() for each in last.attention[:3])
    with torch.no_grad():
        mixed = join_heads(last.attention.weight @ last.attention.value)
        similarity = score(last.finish(mixed), part.texts)
        if part.config.single_head:
            mixed = (query @ key.mT * query.shape[-1] ** -0.5).softmax(-1) @ value
    leaf, patches = make_leaf(mixed), slice(-count_patches(tokens), None)
    scores = score(last.finish(leaf), part.texts)
    query, key, value = query.float(), key[:, patches].float(), value[:, patches].float()
    weights = loosen_attention(query, key) if part.config.loosened else torch.ones(1)
    rows = [
        (gradient @ value.mT * weights.to(gradient.device)).sum(1).clamp(min=0)
        for _, (gradient,) in differentiate(scores, [leaf])
    ]
    return shape_maps(rows, similarity=similarity, grid=tokens.grid, backwards=last.cost * count)


def _open_attention(encoder: Encoder, tower: Tower, tokens: Tokens) -> _LastAttention:
    pooler, blocks = tower.pooler, tower.blocks
    if pooler is not None:
        with torch.no_grad():
            attention = pooler.attend(encoder.run(tokens).values)
        cost = POOLER_SHARE / len(blocks) if blocks else 0.0
        return _LastAttention(attention, _finish_pooler(pooler), cost)
    if not blocks:
        raise UnsupportedEncoderError(
            "no attention forms the embedding of its tower",
            where=encoder.spec.uri,
            mend="use grad-cam, integrated-gradients, occlusion, rise or cci, or a ViT",
        )
    *early, last = blocks
    queries = slice(0, 1) if tower.pooling == "cls" else EVERY
    values = run_blocks(early, tokens.values)
    with torch.no_grad():
        attention = last.attend(last.normalise(values), queries)

    def finish(mixed: Tensor) -> Tensor:
        added = last.add(values[:, queries], last.project(mixed))
        return encoder.pool(tokens._replace(values=added))

    return _LastAttention(attention, finish, 1 / len(blocks))


def _finish_pooler(pooler: Pooler) -> Callable[[Tensor], Tensor]:
    return lambda mixed: unit(pooler.finish(pooler.project(mixed)))


def loosen_attention(query: Tensor, key: Tensor) -> Tensor:
    """Return Grad-ECLIP's lambda: cosines of (B,Q,C) and (B,N,C), each row from 0 to 1: (B,Q,N).

    A row whose cosines are all equal tells no patch from another and is 1.

    Example:
        >>> loosen_attention(torch.tensor([[[1.0, 0.0]]]), torch.eye(2)[None]).tolist()
        [[[1.0, 0.0]]]
    """
    cosine = functional.normalize(query, dim=-1) @ functional.normalize(key, dim=-1).mT
    least, most = cosine.amin(-1, keepdim=True), cosine.amax(-1, keepdim=True)
    span = most - least
    return torch.where(span > 0, (cosine - least) / span.where(span > 0, 1.0), 1.0)


def explain_by_integrated_gradients(subject: Subject) -> Maps:
    """Multiply each pixel by the mean gradient on the way to it from a blank image.

    The blank image is the checkpoint's mean colour, the way a straight line of
    `config.gradient_steps` points, each in the middle of its stretch, so that pixels sum up to the
    score less that of the blank image with an error of 1 over the square of the steps (Sundararajan
    et al. 2017; facts/attribution.md section 3 has the ends of the stretches). Channels are summed,
    pixels averaged in each patch.

    Args:
        subject: images and texts; the encoder may be any that is differentiable. At most
            `config.batch_size` points of all lines are in memory at once.

    Returns:
        Signed maps without similarities; as many forwards as steps, and as many backwards a text.

    Example:
        >>> from fieldmark.attribution.config import AttributionConfig
        >>> from fieldmark.testing import FakeEncoder
        >>> images = torch.zeros(1, 3, 8, 8)
        >>> images[:, 0, 2:6, 2:6] = 1
        >>> images[:, 2, :2] = 1
        >>> maps = explain_by_integrated_gradients(
        ...     Subject(
        ...         encoder=FakeEncoder(),
        ...         images=images,
        ...         texts=FakeEncoder().encode_text(["red"]),
        ...         config=AttributionConfig(),
        ...         ids=("one",),
        ...     )
        ... )
        >>> maps.values[0, 0].sign().tolist()  # red speaks for it, blue against it
        [[-1.0, -1.0, -1.0, -1.0], [0.0, 1.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    """
    encoder, config = subject.encoder, subject.config
    steps, grid = config.gradient_steps, find_grid(encoder, subject.images)
    count = len(subject.texts)
    with record_gradients():
        pixels = normalise(release(subject.images), spec=encoder.spec, dtype=torch.float32)
        values = pixels.new_zeros(len(subject), count, *grid)
        for points in torch.arange(len(subject) * steps, device=pixels.device).split(
            config.batch_size
        ):
            owners = points // steps
            share = ((points % steps + 0.5) / steps).view(-1, 1, 1, 1)
            whole = pixels[owners]
            leaf = make_leaf(whole * share)
            scores = score(encoder.encode_image(leaf), subject.texts)
            for text, (_, (gradient,)) in enumerate(differentiate(scores, [leaf])):
                summed = (gradient * whole).sum(1, keepdim=True)
                pooled = functional.adaptive_avg_pool2d(summed, grid)[:, 0] / steps
                values[:, text].index_add_(0, owners, pooled)
    return Maps(values=values, forwards=float(steps), backwards=float(steps * count))
