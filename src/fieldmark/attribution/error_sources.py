"""Error sources: was a prediction driven by the object, by another object, or by the background?

Three rules. `paper`: the map of the predicted class, binarised at half of its maximum, overlaps
more with the one or with the other (CCI paper, section 3.1). `density`: its mean is larger over the
one or over the other, whatever their areas. `causal`: no map at all; each part is removed, and the
score of the predicted class drops more without the one or without the other (facts/attribution.md
section 5). The paper explains only errors; hits have a source as well.

What is removed for the causal rule has to be gone. By the rule of half a patch the border of the
object stays in the background's patches, and an object is often known by its border alone; scraps
of the scene stay in the object's. So a part goes with every patch that it touches
(`touch_patches`), and where the background goes, what shows of it beside the object is painted over
(`paint_background`): without the object no pixel of it is left, and without the background none.
Shape letters: B images, C classes, P parts, R regions, N patches, h and w rows and columns of the
grid, H and W pixels, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fieldmark.attribution.error_nulls import (
    DRAWS,
    draw_partitions,
    draw_voronoi,
    share_wins,
    shuffle_clusters,
)
from fieldmark.attribution.foreground import LEAST_SHARE, share_foreground
from fieldmark.core.errors import MaskError, UnsupportedEncoderError
from fieldmark.metrics.overlap import (
    Floats,
    Ints,
    MapRule,
    count_regions,
    find_source,
    is_resolvable,
    score_parts,
)
from fieldmark.models.encoder import Encoder, EncoderSpec
from fieldmark.models.token_removal import encode_kept

Rule = Literal["causal", "density", "paper"]
RULES: tuple[Rule, ...] = ("causal", "density", "paper")
MAP_RULES: tuple[MapRule, ...] = ("density", "paper")
Score = Literal["cosine", "log-softmax", "margin"]
# An object touches a patch from this share of its pixels on: 4 of 14 x 14. What resampling leaves
# of its edge, or a stray pixel of a mask, is less.
LEAST_TOUCH = 0.02


@dataclass(frozen=True, eq=False, kw_only=True)
class Judgement:
    """What a rule says of some images.

    Attributes:
        rule: its name.
        verdicts: (B,) part that drives the prediction, or `UNDECIDED` or `UNRESOLVABLE`.
        scores: (B,P) what each part came to.
        null: (B,P) share of draws of the null that each part wins, or None where none was drawn.
    """

    rule: str
    verdicts: Ints
    scores: Floats
    null: Floats | None = None


def divide_patches(
    mask_BHW: Tensor,
    *,
    grid: tuple[int, int],
    other_BHW: Tensor | None = None,
    least_share: float = LEAST_SHARE,
) -> NDArray[np.bool_]:
    """Divide the patches of each image into foreground, other object and background.

    A patch belongs to an object that covers at least so much of it, the target before the other;
    what is left is background.

    Args:
        mask_BHW: (B,H,W) in [0, 1], the target.
        grid: rows and columns of patches.
        other_BHW: (B,H,W) in [0, 1], other objects, for three parts in place of two.
        least_share: of its pixels that makes a patch an object's: half of them by default.

    Returns:
        bool (B,P,N), foreground first, background last; each patch in one part. A part may be
        empty: such an image is not resolvable (`metrics.overlap.is_resolvable`).

    Raises:
        MaskError: the two masks differ in shape.

    Example:
        >>> divide_patches(torch.tensor([[[1.0, 1.0, 0.0, 0.0]]]), grid=(1, 2)).tolist()
        [[[True, False], [False, True]]]
    """
    target = share_foreground(mask_BHW, grid=grid).flatten(1) >= least_share
    if other_BHW is None:
        return torch.stack([target, ~target], dim=1).cpu().numpy()
    if other_BHW.shape != mask_BHW.shape:
        raise MaskError(
            f"the masks of target and other objects are {tuple(mask_BHW.shape)} and "
            f"{tuple(other_BHW.shape)}",
            mend="draw both for the same images",
        )
    other = (share_foreground(other_BHW, grid=grid).flatten(1) >= least_share) & ~target
    return torch.stack([target, other, ~target & ~other], dim=1).cpu().numpy()


def touch_patches(
    mask_BHW: Tensor, *, grid: tuple[int, int], other_BHW: Tensor | None = None
) -> NDArray[np.bool_]:
    """Divide the patches by what touches them: what the causal rule removes.

    As `divide_patches`, but an object has every patch that it touches, and only patches without
    any object are background.

    Example:
        >>> mask = torch.zeros(1, 2, 30)
        >>> mask[:, 0, :11] = 1
        >>> touch_patches(mask, grid=(1, 3)).tolist()
        [[[True, True, False], [False, False, True]]]
    """
    return divide_patches(mask_BHW, grid=grid, other_BHW=other_BHW, least_share=LEAST_TOUCH)


def paint_background(image_BCHW: Tensor, object_BHW: Tensor, *, spec: EncoderSpec) -> Tensor:
    """Paint over what is not object with the mean colour of the encoder's training images.

    Args:
        image_BCHW: (B,3,H,W), uint8 or normalised float.
        object_BHW: (B,H,W) in [0, 1], 1 on all objects.
        spec: knows the mean colour.

    Returns:
        (B,3,H,W) of the same kind.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> image = torch.full((1, 3, 1, 2), 200, dtype=torch.uint8)
        >>> paint_background(image, torch.tensor([[[1.0, 0.0]]]), spec=FakeEncoder().spec)[0, 0]
        tensor([[200,   0]], dtype=torch.uint8)
    """
    shown = object_BHW[:, None].to(image_BCHW.device)
    if image_BCHW.dtype != torch.uint8:
        return image_BCHW * shown.to(image_BCHW.dtype)
    mean = 255 * torch.tensor(spec.mean, device=image_BCHW.device).view(1, 3, 1, 1)
    return (image_BCHW * shown + mean * (1 - shown)).round().to(torch.uint8)


def encode_parts(
    encoder: Encoder,
    images: Tensor,
    parts: NDArray[np.bool_],
    *,
    painted: Tensor | None = None,
    draws: int = 0,
    ids: Sequence[str] = (),
    seed: int = 0,
    batch_size: int = 64,
) -> NDArray[np.float32]:
    """Embed each image whole, without each of its parts, and without random sets of patches.

    Args:
        encoder: any encoder that gives tokens.
        images: (B,3,H,W), uint8 or normalised float.
        parts: (B,P,N), as `touch_patches` makes them.
        painted: (B,3,H,W) as `paint_background` makes them, for what is left without the
            background, the last part; the images themselves by default.
        draws: how many random divisions into parts of the same sizes to embed as well; each costs
            about as much as its images whole.
        ids: B names that chance is drawn by, needed with `draws`.
        seed: of the run.
        batch_size: as many tokens are run at once as this many whole images have.

    Returns:
        (B,1+draws,P+1,D): of each division, the whole image first, then without each part. The
        first division is the true one. NaN where nothing is left of an image, not one patch.

    Raises:
        UnsupportedEncoderError: the tower gives no tokens, or not as many as `parts` has.
    """
    patches = parts.shape[2]
    if patches != np.prod(encoder.spec.grid) and patches != np.prod(
        encoder.tokens(images[:1]).grid
    ):
        raise UnsupportedEncoderError(
            f"its grid has {np.prod(encoder.spec.grid)} patches, the masks {patches}",
            where=encoder.spec.uri,
            mend="divide the masks on the encoder's own grid",
        )
    dealt = draw_partitions(parts, ids=ids, draws=draws, seed=seed) if draws else None
    removed = parts[:, None] if dealt is None else np.concatenate([parts[:, None], dealt], axis=1)
    kept = (~removed).reshape(len(parts), -1, patches)
    shown = kept.copy()
    if painted is not None:
        # It is embedded below, from other pixels.
        shown[:, parts.shape[1] - 1] = False
    whole = np.ones((len(parts), 1, patches), bool)
    embedded = _embed(encoder, images, np.concatenate([whole, shown], axis=1), batch_size)
    if painted is not None:
        place = parts.shape[1]
        embedded[:, place] = _embed(encoder, painted, kept[:, place - 1, None], batch_size)[:, 0]
    shape = (*removed.shape[:3], embedded.shape[-1])
    first = np.broadcast_to(embedded[:, :1, None], (*shape[:2], 1, shape[-1]))
    return np.concatenate([first, embedded[:, 1:].reshape(shape)], axis=2)


def _embed(
    encoder: Encoder, images: Tensor, kept: NDArray[np.bool_], batch_size: int
) -> NDArray[np.float32]:
    with torch.inference_mode():
        found = encode_kept(encoder, images, torch.from_numpy(kept), batch_size=batch_size)
    # What a class token says of no patch at all says nothing of an image.
    some = np.asarray(kept.any(axis=-1))[..., None]
    return np.where(some, found.float().cpu().numpy(), np.float32(np.nan))


def measure_drops(
    embeddings: NDArray[np.float32],
    texts: NDArray[np.float32],
    *,
    predictions: Ints,
    score: Score = "cosine",
    logit_scale: float = 100.0,
) -> Floats:
    """Measure how far the score of the predicted class drops without each part.

    Args:
        embeddings: (B,...,P+1,D), the whole image first, as `encode_parts` gives them.
        texts: (C,D) of unit norm, the classes.
        predictions: (B,) class of each image.
        score: the `cosine`; or the `log-softmax` over the classes, or the `margin` over the best
            other class. The cosine may drop for all classes alike, which these two leave out.
        logit_scale: of the cosines within the softmax.

    Returns:
        (B,...,P), above 0 where a part speaks for the class; NaN where nothing was left.

    Example:
        >>> parts = np.array([[[0.6, 0.8], [1.0, 0.0], [0.0, 1.0]]], np.float32)
        >>> measure_drops(
        ...     parts, np.eye(2, dtype=np.float32), predictions=np.array([1])).round(1).tolist()
        [[0.8, -0.2]]
    """
    cosines = embeddings.astype(np.float64) @ texts.astype(np.float64).T
    place = predictions.reshape(-1, *[1] * (cosines.ndim - 1))
    mine = np.take_along_axis(cosines, place, axis=-1)[..., 0]
    values = mine
    if score == "log-softmax":
        logits = logit_scale * cosines
        top = logits.max(axis=-1)
        values = logit_scale * mine - top - np.log(np.exp(logits - top[..., None]).sum(axis=-1))
    elif score == "margin" and cosines.shape[-1] > 1:
        rivals = cosines.copy()
        np.put_along_axis(rivals, np.broadcast_to(place, (*mine.shape, 1)), -np.inf, axis=-1)
        values = mine - rivals.max(axis=-1)
    return np.asarray(values[..., :1] - values[..., 1:], np.float64)


def judge_removals(drops: Floats, parts: NDArray[np.bool_]) -> Judgement:
    """Judge by the causal rule: the part without which the score drops most.

    Args:
        drops: (B,1+draws,P): the true division, then random ones for the null.
        parts: (B,P,N), as `divide_patches` makes them: an image whose object is below half a patch
            is not resolvable, as for the other rules. Nor is one of which nothing is left without
            the object, or without the background.

    Returns:
        The judgement; its null is None without random divisions.

    Example:
        >>> parts = np.array([[[True, False], [False, True]]])
        >>> judge_removals(np.array([[[0.1, 0.3]]]), parts).verdicts.tolist()
        [1]
    """
    present = np.asarray(parts.any(axis=-1))
    left = ~np.isnan(drops[:, 0, 0]) & ~np.isnan(drops[:, 0, -1])
    resolvable = (np.asarray(is_resolvable(parts)) & left)[:, None]
    shown = np.where(present[:, None], drops, np.nan)
    verdicts = find_source(shown, resolvable=resolvable)
    null = None
    if drops.shape[1] > 1:
        null = share_wins(verdicts[:, 1:], parts=parts.shape[1])
    return Judgement(rule="causal", verdicts=verdicts[:, 0], scores=shown[:, 0], null=null)


def judge_maps(
    maps: NDArray[np.float32],
    parts: NDArray[np.bool_],
    *,
    rule: MapRule,
    grid: tuple[int, int],
    ids: Sequence[str],
    clusters: Ints | None = None,
    null: Literal["clusters", "voronoi", "none"] = "clusters",
    draws: int = DRAWS,
    seed: int = 0,
) -> Judgement:
    """Judge maps of the predicted class by a rule.

    Args:
        maps: (B,N) a value for each patch, signed; what is below 0 is taken for 0.
        parts: (B,P,N), as `divide_patches` makes them.
        rule: `paper` or `density`.
        grid: rows and columns of patches.
        ids: B names that chance is drawn by.
        clusters: (B,N) cluster of each patch, where the method has clusters.
        null: shuffle the values among an image's own `clusters`; a method without clusters gets
            random `voronoi` cells in their place. `none` for none.
        draws: of the null for each image.
        seed: of the run.

    Example:
        >>> parts = np.array([[[True, False], [False, True]]])
        >>> found = judge_maps(np.array([[0.1, 0.4]], np.float32), parts, rule="density",
        ...     grid=(1, 2), ids=["a"], clusters=np.array([[0, 1]]))
        >>> found.verdicts.tolist(), found.scores.round(3).tolist(), float(found.null.sum())
        ([1], [[0.1, 0.4]], 1.0)
    """
    scores = score_parts(maps, parts, rule=rule)
    present = np.asarray(parts.any(axis=-1))
    scores = np.where(present, scores, np.nan)
    verdicts = find_source(scores, resolvable=is_resolvable(parts))
    drawn = None
    if null == "clusters" and clusters is not None:
        values, counts = summarise_clusters(maps, clusters, parts=parts)
        drawn = shuffle_clusters(values, counts, rule=rule, ids=ids, draws=draws, seed=seed)
    elif null != "none":
        drawn = draw_voronoi(parts, grid=grid, rule=rule, ids=ids, draws=draws, seed=seed)
    return Judgement(rule=rule, verdicts=verdicts, scores=scores, null=drawn)


def summarise_clusters(
    maps: NDArray[np.float32], clusters: Ints, *, parts: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Return the mean value of each cluster and its patches in each part.

    Args:
        maps: (B,N).
        clusters: (B,N) cluster of each patch, 0 or more.
        parts: (B,P,N).

    Returns:
        Values (B,R), NaN for a cluster that an image has not, and counts (B,P,R).

    Example:
        >>> values, counts = summarise_clusters(
        ...     np.array([[1, 1, 3]]), np.array([[0, 0, 2]]), parts=np.ones((1, 1, 3), bool))
        >>> values.tolist(), counts.tolist()
        ([[1.0, nan, 3.0]], [[[2.0, 0.0, 1.0]]])
    """
    regions = int(clusters.max(initial=0)) + 1
    counts = count_regions(clusters, parts, regions=regions)
    member = clusters[..., None] == np.arange(regions)
    sizes, sums = member.sum(axis=1), (maps[..., None].astype(np.float64) * member).sum(axis=1)
    values = np.divide(sums, sizes, out=np.full(sums.shape, np.nan), where=sizes > 0)
    return values, counts
