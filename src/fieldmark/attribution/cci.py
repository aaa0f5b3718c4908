"""CCI: what each cluster of patches is worth to the score of a text (paper section 3).

The patches of an image are clustered, and the image is embedded once for each cluster without it.
These embeddings do not depend on any text, so they are made first (`embed_clusters`) and any number
of texts then costs one matrix product (`score_clusters`). What the paper leaves open is decided in
facts/attribution.md section 4. Shape letters as in maps.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.maps import Maps, Subject
from fieldmark.attribution.patch_clusters import cluster_patches, count_clusters, embed_patches
from fieldmark.core.errors import NotApplicableError
from fieldmark.models.encoder import Encoder, Tokens, normalise
from fieldmark.models.token_removal import encode_kept

Score = Literal["cosine", "log-softmax", "margin"]


@dataclass(frozen=True, eq=False, kw_only=True)
class ClusterEmbeddings:
    """Images and what is left of them without each cluster; free of any text.

    Attributes:
        labels: (B,h,w) int64 cluster of each patch.
        whole: (B,D) float32 of unit norm.
        without: (B,K,D) float32 of unit norm: the image without the cluster, or in `sufficiency`
            the cluster alone. NaN where an image has fewer clusters, or where nothing was left.
        forwards: (B,) forwards spent on each image, the removed tokens counted out.
        mode: which of the two `without` is.
    """

    labels: Tensor
    whole: Tensor
    without: Tensor
    forwards: Tensor
    mode: Literal["removal", "sufficiency"] = "removal"


def embed_clusters(
    encoder: Encoder, image_BCHW: Tensor, *, config: AttributionConfig, ids: Sequence[str]
) -> ClusterEmbeddings:
    """Cluster the patches of each image and embed it without each cluster.

    Args:
        encoder: any encoder that gives tokens, in evaluation.
        image_BCHW: uint8 or normalised float (B,3,H,W).
        config: `clusters`, `cluster_layer`, `cluster_starts`, `seed`, `mode`, `remove`, `fill` and
            `batch_size` are read.
        ids: B names that the starts of k-means are drawn by.

    Raises:
        UnsupportedEncoderError: the tower gives no tokens or cells to remove.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> image = torch.zeros(1, 3, 8, 8)
        >>> image[:, 0, 2:6, 2:6] = 1
        >>> found = embed_clusters(FakeEncoder(), image, config=AttributionConfig(), ids=["a"])
        >>> found.labels[0].tolist()
        [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
        >>> found.without.shape, int(found.without.isnan().all(-1).sum())
        (torch.Size([1, 7, 6]), 5)
    """
    parts = []
    for start in range(0, len(image_BCHW), config.batch_size):
        rows = slice(start, start + config.batch_size)
        parts.append(_embed_batch(encoder, image_BCHW[rows], config=config, ids=ids[rows]))
    return join_clusters(parts)


def join_clusters(parts: Sequence[ClusterEmbeddings]) -> ClusterEmbeddings:
    """Put batches of one mode and one grid together."""
    return ClusterEmbeddings(
        labels=torch.cat([part.labels for part in parts]),
        whole=torch.cat([part.whole for part in parts]),
        without=torch.cat([part.without for part in parts]),
        forwards=torch.cat([part.forwards for part in parts]),
        mode=parts[0].mode,
    )


def _embed_batch(
    encoder: Encoder, image_BCHW: Tensor, *, config: AttributionConfig, ids: Sequence[str]
) -> ClusterEmbeddings:
    with torch.inference_mode():
        clean = embed_patches(encoder, image_BCHW, layer=config.cluster_layer)
        labels = cluster_patches(
            clean.features,
            clusters=config.clusters,
            starts=config.cluster_starts,
            seed=config.seed,
            ids=ids,
        ).cpu()
        kept = choose_kept(labels, clusters=config.clusters, mode=config.mode)
        exists = torch.arange(config.clusters) < count_clusters(labels)[:, None]
        if config.remove == "pixels":
            without = _embed_filled(
                encoder, image_BCHW, kept & exists[..., None], grid=clean.tokens.grid, config=config
            )
            forwards = 1.0 + exists.sum(1)
        else:
            without = encode_kept(
                encoder, image_BCHW, kept, batch_size=config.batch_size, tokens=clean.tokens
            )
            forwards = _count_forwards(clean.tokens, kept, exists=exists, encoder=encoder)
        without = without.where(exists[..., None], torch.nan)
    rows, columns = clean.tokens.grid
    # Clones, since tensors made in inference mode cannot be used under autograd.
    return ClusterEmbeddings(
        labels=labels.view(-1, rows, columns).clone(),
        whole=clean.whole.cpu().clone(),
        without=without.clone(),
        forwards=forwards.clone(),
        mode=config.mode,
    )


def choose_kept(
    labels_BN: Tensor, *, clusters: int, mode: Literal["removal", "sufficiency"]
) -> Tensor:
    """Return which patches each variant keeps: bool (B,K,N), none where there is no such cluster.

    Example:
        >>> choose_kept(torch.tensor([[0, 1]]), clusters=3, mode="removal").int().tolist()
        [[[0, 1], [1, 0], [0, 0]]]
    """
    alone = labels_BN[:, None] == torch.arange(clusters)[:, None]
    return alone if mode == "sufficiency" else ~alone & alone.any(-1, keepdim=True)


def _count_forwards(tokens: Tokens, kept: Tensor, *, exists: Tensor, encoder: Encoder) -> Tensor:
    if encoder.spec.pooling == "conv":
        return 1.0 + kept.any(-1).sum(1)
    share = (kept.sum(-1) + tokens.prefix) / (kept.shape[-1] + tokens.prefix)
    return 1.0 + share.where(exists, 0).sum(1)


def _embed_filled(
    encoder: Encoder,
    image_BCHW: Tensor,
    kept_BKN: Tensor,
    *,
    grid: tuple[int, int],
    config: AttributionConfig,
) -> Tensor:
    """Embed each image with the pixels of what is not kept filled in: (B,K,D)."""
    device = next(encoder.image_tower.parameters()).device
    pixels = normalise(image_BCHW.to(device), spec=encoder.spec, dtype=torch.float32)
    # The checkpoint's mean colour is 0 once normalised.
    fill = torch.zeros_like(pixels)
    if config.fill == "blur":
        fill = blur(pixels, sigma=pixels.shape[-1] / grid[1])
    images, clusters, _ = kept_BKN.shape
    flat = kept_BKN.flatten(0, 1).view(-1, 1, *grid)
    result = torch.full((len(flat), encoder.spec.dim), torch.nan)
    for rows in flat.flatten(1).any(1).nonzero().flatten().split(config.batch_size):
        mask = functional.interpolate(flat[rows].float(), size=pixels.shape[-2:], mode="nearest")
        owner = rows // clusters
        mixed = torch.lerp(fill[owner], pixels[owner], mask.to(device))
        result[rows] = encoder.encode_image(mixed).cpu()
    return result.view(images, clusters, -1)


def blur(pixels_BCHW: Tensor, *, sigma: float) -> Tensor:
    """Blur by a Gaussian of `sigma` pixels, cut off at 3 sigma, edges repeated.

    Example:
        >>> blur(torch.ones(1, 3, 8, 8), sigma=2.0).round(decimals=4).unique().tolist()
        [1.0]
    """
    reach = max(1, round(3 * sigma))
    weight = torch.arange(-reach, reach + 1, device=pixels_BCHW.device, dtype=pixels_BCHW.dtype)
    weight = (-(weight**2) / (2 * sigma**2)).exp()
    weight = (weight / weight.sum()).expand(pixels_BCHW.shape[1], 1, 1, -1)
    for kernel, border in (
        (weight, (reach, reach, 0, 0)),
        (weight.mT, (0, 0, reach, reach)),
    ):
        padded = functional.pad(pixels_BCHW, border, mode="replicate")
        pixels_BCHW = functional.conv2d(padded, kernel, groups=len(kernel))
    return pixels_BCHW


def score_clusters(
    embeddings: ClusterEmbeddings, texts: Tensor, *, score: Score = "cosine", logit_scale: float
) -> Tensor:
    """Say what each cluster is worth to each text.

    Args:
        embeddings: of B images.
        texts: (T,D) of unit norm.
        score: the `cosine`; the `log-softmax` of `logit_scale` times it over the T texts; or its
            `margin` over the best other text.
        logit_scale: the encoder's.

    Returns:
        float32 (B,T,K), signed. In `removal` how far the score drops without the cluster. In
        `sufficiency` the score of the cluster alone; a log-softmax is then given above that of
        chance. NaN where there is no such cluster, or where nothing was left to score.

    Raises:
        NotApplicableError: a score that compares texts, for one text.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> encoder, image = FakeEncoder(), torch.zeros(1, 3, 8, 8)
        >>> image[:, 0, 2:6, 2:6], image[:, 2, :2] = 1, 1
        >>> found = embed_clusters(encoder, image, config=AttributionConfig(clusters=3), ids=["a"])
        >>> text = encoder.encode_text(["red on black"])
        >>> score_clusters(found, text, logit_scale=1.0)[0, 0].round(decimals=2).tolist()
        [-0.05..., 0.2..., 0.9...]
    """
    texts = texts.to(embeddings.whole)
    if score != "cosine" and len(texts) < 2:
        raise NotApplicableError(
            f"the score {score} compares texts and there is one",
            mend="give two at least, or use score=cosine",
        )
    parts = _score(embeddings.without @ texts.T, score=score, logit_scale=logit_scale)
    if embeddings.mode == "sufficiency":
        if score == "log-softmax":
            parts = parts + torch.tensor(float(len(texts))).log()
        return parts.mT
    whole = _score(embeddings.whole @ texts.T, score=score, logit_scale=logit_scale)
    return (whole[:, None] - parts).mT


def _score(cosine: Tensor, *, score: Score, logit_scale: float) -> Tensor:
    """Turn cosines (...,T) into scores."""
    if score == "log-softmax":
        return (logit_scale * cosine).log_softmax(-1)
    if score == "margin":
        first, second = cosine.topk(2, dim=-1).values.unsqueeze(-2).unbind(-1)
        return cosine - torch.where(cosine == first, second, first)
    return cosine


def draw_maps(labels: Tensor, drops: Tensor, *, per_area: bool = False) -> tuple[Tensor, Tensor]:
    """Give every patch what its cluster is worth.

    Args:
        labels: (B,h,w) cluster of each patch.
        drops: (B,T,K), signed.
        per_area: divide by the share of the patches that are in the cluster.

    Returns:
        Maps (B,T,h,w), signed, 0 where a drop is undefined; and (B,T) whether no cluster is worth
        more than 0.

    Example:
        >>> labels = torch.tensor([[[0, 1], [1, 1]]])
        >>> values, none = draw_maps(labels, torch.tensor([[[0.5, -0.1]]]))
        >>> values.round(decimals=2).tolist(), none.tolist()
        ([[[[0.5, -0.1...], [-0.1..., -0.1...]]]], [[False]])
        >>> draw_maps(labels, torch.tensor([[[0.5, 0.3]]]), per_area=True)[0].tolist()
        [[[[2.0, 0.4...], [0.4..., 0.4...]]]]
    """
    worth = drops
    if per_area:
        share = functional.one_hot(labels.flatten(1), drops.shape[-1]).float().mean(1)
        worth = drops / share[:, None]
    index = labels.flatten(1)[:, None].expand(-1, drops.shape[1], -1)
    values = worth.gather(2, index).nan_to_num(0.0).unflatten(2, labels.shape[1:])
    return values, ~(drops > 0).any(-1)


def weigh_clusters(drops: Tensor) -> Tensor:
    """Return the paper's weights w_k (section 3): each positive drop by their sum.

    Args:
        drops: (B,T,K), signed, NaN where there is no such cluster.

    Returns:
        (B,T,K) in [0, 1] that sum to 1, all 0 where no drop is positive. The paper divides by the
        signed sum, which may be 0 or negative (facts section 4, point 1).

    Example:
        >>> weigh_clusters(torch.tensor([[[0.3, -0.2, 0.1, torch.nan]]])).round(decimals=2).tolist()
        [[[0.75, 0.0, 0.25, 0.0]]]
    """
    positive = drops.nan_to_num(0.0).clamp(min=0)
    total = positive.sum(-1, keepdim=True)
    return torch.where(total > 0, positive / total.where(total > 0, 1), 0.0)


def explain_clusters(
    embeddings: ClusterEmbeddings,
    texts: Tensor,
    *,
    config: AttributionConfig,
    logit_scale: float,
) -> Maps:
    """Draw the maps of any texts from embeddings that were made before; see `score_clusters`."""
    drops = score_clusters(embeddings, texts, score=config.score, logit_scale=logit_scale)
    values, no_support = draw_maps(embeddings.labels, drops, per_area=config.per_area)
    return Maps(
        values=values,
        similarity=embeddings.whole @ texts.to(embeddings.whole).T,
        no_support=no_support,
        clusters=embeddings.labels,
        drops=drops,
        forwards=float(embeddings.forwards.mean()),
    )


def explain_by_clusters(subject: Subject) -> Maps:
    """Explain by CCI: the drop of the score when each cluster of patches is removed.

    Raises:
        UnsupportedEncoderError: the tower gives no tokens or cells to remove.
        NotApplicableError: a score that compares texts, for one text.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> encoder, image = FakeEncoder(), torch.zeros(1, 3, 8, 8)
        >>> image[:, 0, 2:6, 2:6] = 1
        >>> maps = explain_by_clusters(Subject(encoder=encoder, images=image,
        ...     texts=encoder.encode_text(["red on black"]), config=AttributionConfig(),
        ...     ids=("a",)))
        >>> maps.values[0, 0].tolist()[1], maps.forwards
        ([0.0, 1.0, 1.0, 0.0], 2.0)
    """
    return explain_clusters(
        _embed_subject(subject),
        subject.texts,
        config=subject.config,
        logit_scale=subject.encoder.spec.logit_scale,
    )


def _embed_subject(subject: Subject) -> ClusterEmbeddings:
    encoder, config = subject.encoder, subject.config
    if subject.cache is None:
        return embed_clusters(encoder, subject.images, config=config, ids=subject.ids)
    # The cache stands on this module.
    from fieldmark.attribution.cluster_cache import embed_cached, open_cluster_cache

    cache = open_cluster_cache(subject.cache, spec=encoder.spec, config=config)
    return embed_cached(cache, encoder, subject.images, ids=subject.ids)


def measure_floor(encoder: Encoder, image_1CHW: Tensor, texts: Tensor) -> Tensor:
    """Return the cosine of texts with an image all of whose patches are removed: (T,).

    It is one number for an encoder and a text, whatever the image, and what a drop can reach; NaN
    where a tower has no prefix tokens, so that nothing is left.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> encoder = FakeEncoder()
        >>> measure_floor(encoder, torch.ones(1, 3, 8, 8), encoder.encode_text(["red"])).tolist()
        [nan]
    """
    with torch.inference_mode():
        rows, columns = encoder.tokens(image_1CHW).grid
    nothing = torch.zeros(1, 1, rows * columns, dtype=torch.bool)
    left = encode_kept(encoder, image_1CHW, nothing)[0, 0]
    return left @ texts.to(left).T
