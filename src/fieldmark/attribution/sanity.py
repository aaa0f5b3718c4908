"""Sanity checks: does a map depend on the model, on the text and on what its clusters mean?

- `weights`: the image tower's weights are shuffled, from the top down or all at once; a map that
  explains the model must change (Adebayo and others 2018; facts/attribution.md section 9).
- `text`: maps for the image's own text and for others; a map that ignores the text has a rank
  correlation of 1.
- `random-clusters`: the largest drop of CCI's clusters less that of random regions of the same
  sizes; clusters that mean something are above 0.
- `cluster-ids`: a map made anew from the same clusters in another order; must not change.

Shape letters: B images, T texts, h and w rows and columns of the grid, K clusters, D dimensions,
M variants, N patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fieldmark.attribution.attribute import attribute
from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.maps import Attributions
from fieldmark.core.errors import InputError
from fieldmark.core.seeds import generator
from fieldmark.metrics.curves import Mean, estimate_means
from fieldmark.metrics.localisation import correlate_ranks
from fieldmark.models.adapter import replace_image_tower
from fieldmark.models.encoder import Encoder
from fieldmark.models.token_removal import encode_kept

CheckName = Literal["weights", "text", "random-clusters", "cluster-ids"]
Floats = NDArray[np.float64]
Clusters = NDArray[np.int64]
QUANTITIES: dict[CheckName, str] = {
    "weights": "rank correlation with the map of a tower with shuffled weights; should be near 0",
    "text": "rank correlation with the maps for other texts; 1 if the text is ignored",
    "random-clusters": "largest drop less that of random regions of the same sizes; should be "
    "above 0",
    "cluster-ids": "largest change of the map when clusters change order; should be 0",
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One sanity check of one method.

    Attributes:
        name: which check.
        method: name of the method.
        quantity: what the figure is and should be.
        mean: over images, with its bootstrap interval by object and the counts of both.
        undefined: images left out, such as those with a constant map.
        share: of the weight tensors shuffled, in (0, 1]; None for other checks.
    """

    name: CheckName
    method: str
    quantity: str
    mean: Mean
    undefined: int
    share: float | None = None


def check_sanity(
    encoder: Encoder,
    images: Tensor,
    texts: Sequence[str] | Tensor,
    *,
    method: str,
    truth: Sequence[int] | None = None,
    config: AttributionConfig | None = None,
    ids: Sequence[str] | None = None,
    objects: Sequence[str] | None = None,
    shares: Sequence[float] = (0.25, 0.5, 1.0),
    draws: int = 8,
) -> tuple[Check, ...]:
    """Run every sanity check that a method bears.

    Args:
        encoder: any encoder; it is not changed.
        images: (B,3,H,W), uint8 or normalised float.
        texts: T texts or their embeddings. With one alone the text check counts no image.
        method: a name out of `METHODS`.
        truth: (B,) which text is each image's own; by default the most similar one.
        config: settings of the method.
        ids: (B,) names that chance is drawn by.
        objects: (B,) the object on each image, for the intervals; None when each stands for itself.
        shares: of the weight tensors to shuffle, from the top; 1.0 shuffles all.
        draws: random clusterings an image.

    Returns:
        `weights` once for each share and `text`; of CCI by token removal `random-clusters`; and
        `cluster-ids` where all its settings leave its map as published.

    Raises:
        InputError: `truth`, `ids` or `objects` do not fit the images or the texts.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> images = torch.arange(576, dtype=torch.uint8).view(3, 3, 8, 8)
        >>> checks = check_sanity(FakeEncoder(), images, ["red", "blue"], method="centre")
        >>> [(check.name, check.share, round(check.mean.value, 6)) for check in checks]
        [('weights', 0.25, 1.0), ('weights', 0.5, 1.0), ('weights', 1.0, 1.0), ('text', None, 1.0)]
    """
    config, names = config or AttributionConfig(), _name(images, ids)
    for words, given in (("ids", ids), ("objects", objects), ("truth", truth)):
        if given is not None and len(given) != len(images):
            raise InputError(f"{len(given)} {words} for {len(images)} images", mend="give as many")
    found = attribute(encoder, images, texts, method=method, config=config, ids=names)
    own = _choose_texts(found, truth)
    values: list[tuple[CheckName, float | None, Floats]] = []
    for share in shares:
        other = shuffle_weights(encoder, images[:1], share=share, seed=config.seed)
        again = attribute(other, images, texts, method=method, config=config, ids=names)
        values.append(("weights", share, compare_maps(found, again, texts=own)))
    values.append(("text", None, compare_texts(found, texts=own)))
    # Pixels can be replaced where tokens cannot be removed, so only these are told of.
    if found.clusters is not None and config.remove == "tokens":
        embedded = texts if isinstance(texts, Tensor) else encoder.encode_text(list(texts))
        values += _check_clusters(
            encoder, images, embedded, found=found, own=own, config=config, names=names, draws=draws
        )
    units = objects if objects is not None else range(len(images))
    means = estimate_means([row for _, _, row in values], units, seed=config.seed)
    return tuple(
        Check(
            name=name,
            method=method,
            quantity=QUANTITIES[name],
            mean=mean,
            undefined=len(images) - mean.count,
            share=share,
        )
        for (name, share, _), mean in zip(values, means, strict=True)
    )


def shuffle_weights(encoder: Encoder, image_BCHW: Tensor, *, share: float, seed: int) -> Encoder:
    """Return a copy of an encoder with the weights of its image tower shuffled from the top down.

    Each weight tensor keeps its values and loses their places, so that activations keep about
    their size, which drawing anew need not. The top is what a backward pass reaches first.

    Args:
        encoder: any encoder that embeds differentiably; it is not changed.
        image_BCHW: any image, to see in which order the weights are used.
        share: of the weight tensors, in (0, 1].
        seed: of the shuffles; a larger share adds to those of a smaller one.

    Raises:
        ValueError: the share is not in (0, 1].

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> shuffled = shuffle_weights(FakeEncoder(), torch.ones(1, 3, 8, 8), share=1, seed=0)
        >>> weight = shuffled.image_tower.mix.weight
        >>> int((weight == 1).sum()), bool((weight == torch.eye(6)).all())
        (6, False)
    """
    if not 0 < share <= 1:
        raise ValueError(f"the share of weights to shuffle is {share}, not in (0, 1]")
    names = order_weights(encoder, image_BCHW)
    state = dict(encoder.image_tower.state_dict())
    for name in names[: max(1, round(share * len(names)))]:
        value = state[name]
        order = generator(seed, "shuffled weights", name).permutation(value.numel())
        flat = value.detach().flatten()
        state[name] = flat[torch.from_numpy(order).to(flat.device)].view(value.shape)
    return replace_image_tower(encoder, state)


def order_weights(encoder: Encoder, image_BCHW: Tensor) -> list[str]:
    """Return the names of the image tower's weights, what is next to the embedding first.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> order_weights(FakeEncoder(), torch.ones(1, 3, 8, 8))
        ['mix.weight']
    """
    copied, reached = encoder.place(), []
    handles = []
    for name, weight in copied.image_tower.named_parameters():
        weight.requires_grad_(True)
        handles.append(
            weight.register_post_accumulate_grad_hook(lambda _, name=name: reached.append(name))
        )
    with torch.enable_grad():
        copied.encode_image(image_BCHW).sum().backward()
    for handle in handles:
        handle.remove()
    return reached


def compare_maps(first: Attributions, second: Attributions, *, texts: ArrayLike) -> Floats:
    """Return the rank correlation of two maps of each image for its own text (B,).

    Args:
        first: of B images.
        second: of the same images and texts.
        texts: (B,) the text of each image.
    """
    rows, own = np.arange(len(first.values)), np.asarray(texts)
    return correlate_ranks(first.values[rows, own], second.values[rows, own])


def compare_texts(found: Attributions, *, texts: ArrayLike) -> Floats:
    """Return the mean rank correlation of each image's own map with those for the others (B,).

    Args:
        found: maps of B images for T texts.
        texts: (B,) the own text of each image.

    Returns:
        NaN where there is no other text, or no other map has a rank correlation.
    """
    own, count = np.asarray(texts), found.values.shape[1]
    mine = found.values[np.arange(len(own)), own]
    each = np.stack([correlate_ranks(mine, found.values[:, text]) for text in range(count)], 1)
    each[np.arange(len(own)), own] = np.nan
    known = ~np.isnan(each)
    total, defined = np.where(known, each, 0).sum(axis=1), known.sum(axis=1)
    return np.asarray(np.divide(total, defined, out=np.full(len(own), np.nan), where=defined > 0))


def draw_clusters(clusters: Clusters, *, random: np.random.Generator) -> Clusters:
    """Cut a grid into random regions of the sizes that a clustering has.

    Every cluster gets a random centre, and centres take cells in the order of their distances
    until they have as many as they should: Voronoi cells with room for so many.

    Args:
        clusters: (h,w) ids.
        random: where chance comes from.

    Example:
        >>> given = np.array([[0, 0, 0], [1, 1, 2]])
        >>> drawn = draw_clusters(given, random=np.random.default_rng(0))
        >>> np.bincount(drawn.ravel()).tolist()
        [3, 2, 1]
    """
    ids, left = np.unique(clusters, return_counts=True)
    cells = np.argwhere(np.ones(clusters.shape, np.bool_))
    centres = random.random((len(ids), 2)) * clusters.shape - 0.5
    distance = ((cells[None] - centres[:, None]) ** 2).sum(axis=-1)
    drawn = np.full(len(cells), -1, np.int64)
    for place in np.argsort(distance, axis=None, kind="stable").tolist():
        centre, cell = divmod(place, len(cells))
        if left[centre] and drawn[cell] < 0:
            drawn[cell] = ids[centre]
            left[centre] -= 1
    return drawn.reshape(clusters.shape)


def measure_cluster_drops(
    encoder: Encoder,
    images: Tensor,
    texts_TD: Tensor,
    *,
    clusters: Clusters,
    batch_size: int = 64,
) -> tuple[Floats, Floats]:
    """Return by how much each image's similarity falls without each of its clusters.

    Args:
        encoder: any encoder that gives tokens.
        images: (B,3,H,W).
        texts_TD: of unit norm.
        clusters: (B,M,h,w) ids of M clusterings of each image, 0 to K - 1.
        batch_size: as in `encode_kept`.

    Returns:
        Drops (B,M,T,K), NaN where a clustering lacks an id or nothing is left of the image; and
        maps (B,M,T,h,w) that give each patch the drop of its cluster.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> image = torch.zeros(1, 3, 8, 8)
        >>> image[:, 0, :, :4], image[:, 2, :, 4:] = 1, 1
        >>> halves = np.array([[0, 0, 1, 1]] * 4)[None, None]
        >>> drops, maps = measure_cluster_drops(
        ...     FakeEncoder(), image, torch.eye(6)[:1], clusters=halves)
        >>> drops.round(3).tolist(), maps.shape
        ([[[[0.5, -0.207]]]], (1, 1, 1, 4, 4))
    """
    known = np.arange(int(clusters.max(initial=0)) + 1)
    inside = clusters[:, :, None] == known[:, None, None]  # (B,M,K,h,w)
    kept = torch.from_numpy(~inside).flatten(3).flatten(1, 2)
    texts = texts_TD.detach().cpu().float()
    with torch.inference_mode():
        whole = (encoder.encode_image(images).cpu() @ texts.T).numpy()
        part = encode_kept(encoder, images, kept, batch_size=batch_size)
        scores = (part @ texts.T).view(*inside.shape[:3], -1).numpy()
    drops = np.moveaxis(whole[:, None, None].astype(np.float64) - scores, 2, 3)
    drops[np.broadcast_to(~inside.any(axis=(3, 4))[:, :, None], drops.shape)] = np.nan
    flat = clusters.reshape(*clusters.shape[:2], 1, -1)
    shape = (*drops.shape[:3], flat.shape[-1])
    maps = np.take_along_axis(drops, np.broadcast_to(flat, shape), axis=3)
    return drops, maps.reshape(*drops.shape[:3], *clusters.shape[2:])


def _check_clusters(
    encoder: Encoder,
    images: Tensor,
    texts_TD: Tensor,
    *,
    found: Attributions,
    own: NDArray[np.int64],
    config: AttributionConfig,
    names: tuple[str, ...],
    draws: int,
) -> list[tuple[CheckName, float | None, Floats]]:
    """Measure the drops of the method's clusters in another order, and of random ones."""
    gains, changes = [], []
    given = found.clusters if found.clusters is not None else np.zeros(0, np.int64)
    for row, (clusters, name) in enumerate(zip(given, names, strict=True)):
        random = generator(config.seed, "random clusters", name)
        order = random.permutation(int(clusters.max()) + 1)
        several = [order[clusters], *(draw_clusters(clusters, random=random) for _ in range(draws))]
        drops, maps = measure_cluster_drops(
            encoder,
            images[row : row + 1],
            texts_TD,
            clusters=np.stack(several)[None],
            batch_size=config.batch_size,
        )
        top = np.where(np.isnan(drops[0, :, own[row]]), -np.inf, drops[0, :, own[row]]).max(axis=1)
        top[np.isinf(top)] = np.nan
        gains.append(top[0] - top[1:].mean())
        changes.append(np.abs(maps[0, 0, own[row]] - found.values[row, own[row]]).max())
    values: list[tuple[CheckName, float | None, Floats]]
    values = [("random-clusters", None, np.array(gains))]
    if (config.mode, config.score, config.per_area) == ("removal", "cosine", False):
        values.append(("cluster-ids", None, np.array(changes)))
    return values


def _choose_texts(found: Attributions, truth: Sequence[int] | None) -> NDArray[np.int64]:
    """Return the own text of each image: the given one, or the most similar."""
    if truth is None:
        return np.asarray(found.similarity.argmax(axis=1), np.int64)
    own, count = np.asarray(truth, np.int64), found.values.shape[1]
    for row, text in enumerate(own.tolist()):
        if not 0 <= text < count:
            raise InputError(
                f"its own text is number {text}",
                where=f"image {row}",
                mend=f"give a number from 0 to {count - 1}",
            )
    return own


def _name(images: Tensor, ids: Sequence[str] | None) -> tuple[str, ...]:
    return tuple(map(str, ids if ids is not None else range(len(images))))
