"""Clusters of an image's patches: which embeddings are clustered, and k-means over many images.

The paper clusters "patch embeddings" without saying which. Here they are those behind the last
block, after the final norm and in front of the projection, made unit vectors (facts/attribution.md
section 4, point 2). Shape letters: B images, N patches, C channels, K clusters, S starts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldmark.core.errors import UnsupportedEncoderError, UsageError
from fieldmark.core.seeds import generator
from fieldmark.models.adapter import take_apart
from fieldmark.models.conv_towers import ModifiedResNet, split_position
from fieldmark.models.encoder import Encoder, Tokens
from fieldmark.models.hf_towers import ClipTower, SiglipTower
from fieldmark.models.towers import ClipViT, TimmViT, Tower

# Patches whose unit vectors are closer than this (squared) count as one.
SAME = 1e-6
ITERATIONS = 300


class CleanForward(NamedTuple):
    """One forward pass of whole images.

    Attributes:
        tokens: in front of the first block.
        features: (B,N,C) float32 of unit norm, of each patch.
        whole: (B,D) float32 embeddings of unit norm.
    """

    tokens: Tokens
    features: Tensor
    whole: Tensor


def embed_patches(
    encoder: Encoder, image_BCHW: Tensor, *, layer: int | None = None
) -> CleanForward:
    """Run whole images once, for their patches and for their embeddings.

    Args:
        encoder: any encoder that gives tokens.
        image_BCHW: uint8 or normalised float (B,3,H,W).
        layer: block behind which patches are read, 0 the first; the last by default. The tower's
            final norm is applied behind any. A conv tower has its last map alone.

    Raises:
        UnsupportedEncoderError: the tower gives no tokens, or a layer of a tower without blocks.
        UsageError: there is no such layer.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> embed_patches(FakeEncoder(), torch.ones(2, 3, 8, 8)).features.shape
        torch.Size([2, 16, 4])
    """
    tower = _find_tower(encoder)
    tokens = encoder.tokens(image_BCHW)
    with _catching(tower, layer) as caught:
        after = encoder.run(tokens)
    values = caught[0] if caught else after.values
    if isinstance(tower, ModifiedResNet):
        values = split_position(tokens)[0]
    values = _find_final_norm(tower)(values)[:, tokens.prefix :]
    features = functional.normalize(values.float(), dim=-1)
    return CleanForward(tokens, features, encoder.pool(after))


def _find_tower(encoder: Encoder) -> Tower | None:
    try:
        return take_apart(encoder)
    except UnsupportedEncoderError:
        return None


def _find_final_norm(tower: Tower | None) -> nn.Module:
    norm: Any = None
    if isinstance(tower, ClipViT):
        pooler = tower.visual.attn_pool
        norm = tower.visual.ln_post if pooler is None else pooler.ln_k
    elif isinstance(tower, TimmViT):
        norm = tower.visual.trunk.norm
    elif isinstance(tower, ClipTower | SiglipTower):
        norm = tower.vision_model.post_layernorm
    return norm if isinstance(norm, nn.Module) else nn.Identity()


@contextmanager
def _catching(tower: Tower | None, layer: int | None) -> Iterator[list[Tensor]]:
    """Yield a list that the output of a block is put into when the tower is run."""
    caught: list[Tensor] = []
    if layer is None:
        yield caught
        return
    blocks = tower.blocks if tower is not None else ()
    if not blocks:
        raise UnsupportedEncoderError(
            "its tower has no blocks to choose a layer of", mend="leave cluster_layer out"
        )
    if layer >= len(blocks):
        raise UsageError(f"there is no layer {layer}", mend=f"choose 0 to {len(blocks) - 1}")

    def keep(_: nn.Module, __: Any, output: Any) -> None:
        caught.append(output[0] if isinstance(output, tuple) else output)

    block: Any = blocks[layer]
    handle = block.layer.register_forward_hook(keep)
    try:
        yield caught
    finally:
        handle.remove()


def cluster_patches(
    features_BNC: Tensor, *, clusters: int, starts: int, seed: int, ids: Sequence[str]
) -> Tensor:
    """Cluster the patches of each image by k-means, the best of several k-means++ starts.

    An image gets the same clusters whatever else is in its batch. Clusters are numbered by their
    first patch. An image with fewer distinct patches than K has that many clusters.

    Args:
        features_BNC: (B,N,C), one vector a patch.
        clusters: K.
        starts: of which the one with the lowest inertia is kept.
        seed: of all starts.
        ids: B names of the images.

    Returns:
        int64 (B,N) in 0 .. K - 1.

    Example:
        >>> points = torch.tensor([[[0.0], [9.0], [9.1], [0.1]]])
        >>> cluster_patches(points, clusters=2, starts=1, seed=0, ids=["a"]).tolist()
        [[0, 1, 1, 0]]
    """
    draws = np.stack(
        [generator(seed, "patch clusters", name).random((starts, clusters)) for name in ids]
    )
    centres = draw_centres(features_BNC, torch.from_numpy(draws))
    labels, inertia = run_lloyd(features_BNC, centres)
    best = inertia.argmin(1)
    return number_by_first(labels[torch.arange(len(labels), device=labels.device), best])


def draw_centres(points_BNC: Tensor, draws_BSK: Tensor) -> Tensor:
    """Draw starting centres by k-means++ (Arthur and Vassilvitskii 2007) for many problems at once.

    Args:
        points_BNC: (B,N,C).
        draws_BSK: uniform numbers in [0, 1), one for each centre of each start.

    Returns:
        (B,S,K,C); NaN behind the last distinct point.

    Example:
        >>> points = torch.tensor([[[0.0], [0.0], [5.0]]])
        >>> draw_centres(points, torch.full((1, 1, 3), 0.1)).flatten().tolist()
        [0.0, 5.0, nan]
    """
    draws = draws_BSK.to(points_BNC.device).clamp(max=1 - 1e-9)
    images, starts, clusters = draws.shape
    count = points_BNC.shape[1]
    owner = torch.arange(images, device=draws.device)[:, None]
    squares = points_BNC.square().sum(-1)[:, None]
    potential = draws.new_full((images, starts, count), torch.inf)
    centres = []
    for step in range(clusters):
        weight = torch.ones_like(potential) if step == 0 else potential
        total = weight.cumsum(-1)
        aim = draws[..., step : step + 1] * total[..., -1:]
        chosen = torch.searchsorted(total, aim, right=True)[..., 0].clamp(max=count - 1)
        centre = points_BNC[owner, chosen]
        nearer = squares - 2 * centre @ points_BNC.mT + centre.square().sum(-1, keepdim=True)
        nearer = torch.where(nearer < SAME, 0, nearer).double()
        centres.append(torch.where(total[..., -1:] > 0, centre, torch.nan))
        potential = torch.minimum(potential, nearer)
    return torch.stack(centres, dim=2)


def run_lloyd(points_BNC: Tensor, centres_BSKC: Tensor) -> tuple[Tensor, Tensor]:
    """Run Lloyd's algorithm until no label changes, for many images and starts at once.

    A cluster that loses all its points takes the point that lies farthest from its centre.

    Args:
        points_BNC: (B,N,C).
        centres_BSKC: starting centres; those that are NaN stay empty.

    Returns:
        Labels int64 (B,S,N) and inertias (B,S), the sums of squared distances.

    Example:
        >>> points = torch.tensor([[[0.0], [1.0], [8.0], [9.0]]])
        >>> labels, inertia = run_lloyd(points, torch.tensor([[[[0.0], [1.0]]]]))
        >>> labels.tolist(), inertia.tolist()
        ([[[0, 0, 1, 1]]], [[1.0]])
    """
    images, starts, clusters, _ = centres_BSKC.shape
    labels = points_BNC.new_full((images, starts, points_BNC.shape[1]), -1, dtype=torch.long)
    inertia = points_BNC.new_zeros(images, starts)
    squares = points_BNC.square().sum(-1)
    todo = torch.arange(images, device=points_BNC.device)
    points, centres = points_BNC, centres_BSKC
    for _ in range(ITERATIONS):
        flat = centres.flatten(1, 2)
        gaps = flat.square().sum(-1)[:, None] - 2 * points @ flat.mT
        nearest = gaps.where(~gaps.isnan(), torch.inf).unflatten(2, (starts, clusters)).min(-1)
        fresh = nearest.indices.mT
        away = (nearest.values + squares[todo][..., None]).clamp(min=0).mT
        moved = (fresh != labels[todo]).flatten(1).any(1)
        labels[todo], inertia[todo] = fresh, away.sum(-1)
        if not bool(moved.any()):
            break
        todo, points = todo[moved], points[moved]
        centres = _move_centres(points, centres[moved], fresh[moved], away[moved])
    return labels, inertia


def _move_centres(
    points_BNC: Tensor, centres_BSKC: Tensor, labels_BSN: Tensor, away_BSN: Tensor
) -> Tensor:
    """Return the mean of each cluster; one without points gets the farthest point of all."""
    images, starts, clusters, _ = centres_BSKC.shape
    exists = ~centres_BSKC[..., 0].isnan()

    def assign(labels: Tensor) -> Tensor:
        member = points_BNC.new_zeros(images, starts, clusters, labels.shape[-1])
        return member.scatter_(2, labels[:, :, None], 1.0)

    member = assign(labels_BSN)
    empty = exists & (member.sum(-1) == 0)
    if bool(empty.any()):
        labels_BSN, away_BSN = labels_BSN.clone(), away_BSN.clone()
        for image, start, cluster in empty.nonzero().tolist():
            farthest = away_BSN[image, start].argmax()
            labels_BSN[image, start, farthest] = cluster
            away_BSN[image, start, farthest] = -1
        member = assign(labels_BSN)
    sums = (member.flatten(1, 2) @ points_BNC).unflatten(1, (starts, clusters))
    # A cluster whose only point was taken stays where it was.
    size = member.sum(-1, keepdim=True)
    means = torch.where(size > 0, sums / size.clamp(min=1), centres_BSKC)
    return torch.where(exists[..., None], means, torch.nan)


def number_by_first(labels_BN: Tensor) -> Tensor:
    """Number the clusters of each image by where they first occur.

    Example:
        >>> number_by_first(torch.tensor([[3, 0, 3, 1]])).tolist()
        [[0, 1, 0, 2]]
    """
    count = labels_BN.shape[1]
    clusters = torch.arange(int(labels_BN.max()) + 1, device=labels_BN.device)
    is_in = labels_BN[:, None] == clusters[:, None]
    where = torch.arange(count, device=labels_BN.device)
    first = torch.where(is_in, where, count).amin(-1)
    return first.argsort(dim=1, stable=True).argsort(dim=1).gather(1, labels_BN)


def count_clusters(labels_BN: Tensor) -> Tensor:
    """Return how many clusters each image has: (B,).

    Example:
        >>> count_clusters(torch.tensor([[0, 1, 0, 2], [0, 0, 0, 0]])).tolist()
        [3, 1]
    """
    return labels_BN.flatten(1).amax(1) + 1


def compare_clusters(first_BN: Tensor, second_BN: Tensor) -> Tensor:
    """Return the adjusted Rand index (Hubert and Arabie 1985) of two clusterings of each image.

    Returns:
        float64 (B,): 1 for equal partitions, 0 on average for independent ones.

    Example:
        >>> one = torch.tensor([[0, 0, 1, 1]])
        >>> compare_clusters(one, 1 - one).tolist(), compare_clusters(one, one * 0).tolist()
        ([1.0], [0.0])
    """
    sides = [functional.one_hot(labels).double() for labels in (first_BN, second_BN)]
    both = sides[0].mT @ sides[1]
    pairs = [_count_pairs(x).flatten(1).sum(1) for x in (both, both.sum(2), both.sum(1))]
    expected = pairs[1] * pairs[2] / _count_pairs(both.sum((1, 2))).clamp(min=1)
    spread = (pairs[1] + pairs[2]) / 2 - expected
    # Both trivial: all in one cluster or each by itself.
    return torch.where(spread > 0, (pairs[0] - expected) / spread.where(spread > 0, 1), 1.0)


def _count_pairs(sizes: Tensor) -> Tensor:
    return sizes * (sizes - 1) / 2


def measure_stability(
    features_BNC: Tensor, *, clusters: int, starts: int, seeds: Sequence[int], ids: Sequence[str]
) -> Tensor:
    """Return how alike an image's clusters are over seeds: the mean adjusted Rand index of pairs.

    Args:
        features_BNC: (B,N,C), as `embed_patches` gives them.
        clusters: K.
        starts: of each clustering.
        seeds: two at least.
        ids: B names of the images.

    Returns:
        float64 (B,), 1 where all seeds agree.

    Raises:
        UsageError: there are fewer than two seeds.

    Example:
        >>> points = torch.tensor([[[0.0], [9.0], [9.1], [0.1]]])
        >>> settings = {"clusters": 2, "starts": 2, "ids": ["a"]}
        >>> measure_stability(points, seeds=(0, 1, 2), **settings).tolist()
        [1.0]
    """
    if len(seeds) < 2:
        raise UsageError("stability needs two seeds at least")
    found = [
        cluster_patches(features_BNC, clusters=clusters, starts=starts, seed=seed, ids=ids)
        for seed in seeds
    ]
    indices = [compare_clusters(a, b) for a, b in itertools.combinations(found, 2)]
    return torch.stack(indices).mean(0)
