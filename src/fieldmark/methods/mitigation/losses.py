"""The losses of mitigation: RaVL's region-aware ones, the contrastive ones, and the rivals'.

RaVL's are ratios of exponentials, so everything here is a logarithm: sigma(a, b) (Eq. 7) is the
similarity <f(a), g(b)> / tau, and sums are taken by logsumexp, so that nothing overflows at tau
0.07. All return one loss an image.

Shape letters: B images, R regions, S spurious regions, K labels, D embedding dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# The logarithm of what is not in a sum. It is finite, so that the gradient of a sum of nothing is
# 0 and not NaN; a similarity over a temperature of 1e-6 is 1e6 at the most.
_ABSENT = -1e9


def compute_maximum_similarity(similarity_RK: Tensor, owners_R: Tensor, *, count: int) -> Tensor:
    """Return log sigma_m: the largest similarity of an image's regions to each label (Eq. 8).

    Args:
        similarity_RK: log sigma of each region and label.
        owners_R: image of each region, 0 to `count` - 1, ascending.
        count: B.

    Returns:
        (B,K), -1e9 for an image without regions.

    Example:
        >>> similarity = torch.tensor([[1.0, 5.0], [3.0, 2.0], [0.0, 0.0]])
        >>> compute_maximum_similarity(similarity, torch.tensor([0, 0, 2]), count=3).tolist()
        [[3.0, 5.0], [-1000000000.0, -1000000000.0], [0.0, 0.0]]
    """
    sizes = torch.bincount(owners_R, minlength=count)
    widest = max(int(sizes.max()), 1) if count else 1
    places = torch.arange(len(owners_R), device=owners_R.device)
    places = places - (sizes.cumsum(0) - sizes)[owners_R]
    padded = similarity_RK.new_full((count, widest, similarity_RK.shape[1]), _ABSENT)
    return padded.index_put((owners_R, places), similarity_RK).amax(1)


def compute_penalty(similarity_SK: Tensor) -> Tensor:
    """Return log P: over spurious regions, the sum of their largest similarity (Eq. 6).

    Args:
        similarity_SK: log sigma of each spurious region of the batch and each of its labels.

    Returns:
        A scalar, -1e9 where there is no spurious region.

    Example:
        >>> round(float(compute_penalty(torch.tensor([[0.0, 1.0], [1.0, 0.5]])).exp()), 3)
        5.437
    """
    if not len(similarity_SK):
        return similarity_SK.new_full((), _ABSENT)
    return similarity_SK.amax(1).logsumexp(0)


def compute_label_loss(
    maximum_BK: Tensor,
    labels_BK: Tensor,
    *,
    penalty: Tensor,
    counts_K: Tensor | None = None,
) -> Tensor:
    """Return L_R: the own label's similarity against that of the other labels (Eq. 3 and 5).

    Args:
        maximum_BK: log sigma_m of each image and each label of the batch.
        labels_BK: bool, the labels of each image, at least one. With several the loss is the mean
            over them, and none of them stands against another.
        penalty: log P.
        counts_K: how often the sum over the labels of the batch has each; once if None.

    Returns:
        (B,), 0 or more.

    Example:
        >>> maximum, labels = torch.tensor([[0.0, 0.0]]), torch.tensor([[True, False]])
        >>> loss = compute_label_loss(maximum, labels, penalty=torch.tensor(0.0))
        >>> round(float(loss.exp()), 3)
        3.0
    """
    often = maximum_BK if counts_K is None else maximum_BK + counts_K.log()
    others = often.masked_fill(labels_BK, _ABSENT).logsumexp(1)
    others = torch.logaddexp(others, penalty)
    own = torch.logaddexp(often, others[:, None]) - maximum_BK
    return _average_own(own, labels_BK)


def compute_region_loss(maximum_BK: Tensor, labels_BK: Tensor, *, similarity_SK: Tensor) -> Tensor:
    """Return L_A: the own regions' similarity against other images' regions (Eq. 4 and 9).

    Args:
        maximum_BK: log sigma_m of each image and each label of the batch.
        labels_BK: bool, the labels of each image, at least one; an image stands against another
            for the labels that it has not. With several the loss is the mean over them.
        similarity_SK: log sigma of each spurious region of the batch and each label.

    Returns:
        (B,), 0 or more.

    Example:
        >>> maximum, labels = torch.zeros(2, 2), torch.eye(2, dtype=torch.bool)
        >>> loss = compute_region_loss(maximum, labels, similarity_SK=torch.zeros(1, 2))
        >>> loss.exp().round(decimals=3).tolist()
        [3.0, 3.0]
    """
    rivals = torch.cat([maximum_BK.masked_fill(labels_BK, _ABSENT), similarity_SK])
    own = functional.softplus(rivals.logsumexp(0) - maximum_BK)
    return _average_own(own, labels_BK)


def _average_own(values_BK: Tensor, labels_BK: Tensor) -> Tensor:
    own = values_BK.masked_fill(~labels_BK, 0.0).sum(1)
    return own / labels_BK.sum(1)


def compute_clip_loss(image_BD: Tensor, text_BD: Tensor, *, scale: float) -> Tensor:
    """Return CLIP's loss of each image and its text: the mean of both cross-entropies.

    Args:
        image_BD: unit embeddings of images.
        text_BD: unit embeddings of their texts.
        scale: of the logits, 1 / temperature.

    Example:
        >>> loss = compute_clip_loss(torch.eye(2), torch.eye(2), scale=1.0)
        >>> loss.exp().round(decimals=3).tolist()
        [1.368..., 1.368...]
    """
    logits = scale * image_BD @ text_BD.T
    own = torch.arange(len(logits), device=logits.device)
    of_images = functional.cross_entropy(logits, own, reduction="none")
    return (of_images + functional.cross_entropy(logits.T, own, reduction="none")) / 2


def compute_siglip_loss(image_BD: Tensor, text_BD: Tensor, *, scale: float, bias: float) -> Tensor:
    """Return SigLIP's loss of each image: over all texts, the sum of logistic losses.

    Args:
        image_BD: unit embeddings of images.
        text_BD: unit embeddings of their texts.
        scale: of the logits.
        bias: added to the logits.

    Example:
        >>> loss = compute_siglip_loss(torch.eye(2), torch.eye(2), scale=100.0, bias=-50.0)
        >>> loss.round(decimals=3).tolist()
        [0.0, 0.0]
    """
    logits = scale * image_BD @ text_BD.T + bias
    sign = 2 * torch.eye(len(logits), dtype=logits.dtype, device=logits.device) - 1
    return -functional.logsigmoid(sign * logits).sum(1)


def compute_zero_shot_loss(
    image_BD: Tensor, prototypes_YD: Tensor, *, labels_BY: Tensor, temperature: float
) -> Tensor:
    """Return the cross-entropy of zero-shot logits (D.2, VL-ERM); 0 for an image without a label.

    Args:
        image_BD: unit embeddings of images.
        prototypes_YD: unit text embedding of each class.
        labels_BY: bool; the mean is taken over several labels of an image.
        temperature: tau.

    Returns:
        (B,), 0 or more.

    Example:
        >>> loss = compute_zero_shot_loss(
        ...     torch.eye(2), torch.ones(2, 2), labels_BY=torch.tensor([[True, False]] * 2),
        ...     temperature=1.0)
        >>> loss.exp().round(decimals=3).tolist()
        [2.0, 2.0]
    """
    scores = -functional.log_softmax(image_BD @ prototypes_YD.T / temperature, dim=1)
    return scores.masked_fill(~labels_BY, 0.0).sum(1) / labels_BY.sum(1).clamp(min=1)


def compute_image_contrast(image_BD: Tensor, *, near: Tensor, far: Tensor) -> Tensor:
    """Return how near each image is to those to be far from, less to those to be near.

    Both are sums of cosines over the batch, divided by B, as in the code of Yang et al. 2023.

    Args:
        image_BD: unit embeddings of images.
        near: (B,B) bool, which images are to be near each image; may hold the image itself.
        far: (B,B) bool, which are to be far from it.

    Returns:
        (B,) in [-1, 1].

    Example:
        >>> own = torch.eye(2, dtype=torch.bool)
        >>> compute_image_contrast(torch.eye(2), near=own, far=~own).tolist()
        [-0.5, -0.5]
    """
    weights = far.to(image_BD.dtype) - near.to(image_BD.dtype)
    return (image_BD @ image_BD.T * weights).mean(1)
