"""What each mitigation trains for: the region-aware loss of RaVL, and its rivals (ravl.txt D.2).

An objective maps the embeddings of a batch to one number an image, whose mean over the batch is the
loss. What the paper leaves open:

- An image takes part in the region terms if it has a label and a region that is not spurious. The
  terms' mean is over these images; all spurious regions of a batch count, whoever owns them.
- VL-ERM's cross-entropy is averaged over the images with a label, and VL-GDRO's over those of a
  group; both take zero-shot logits at tau. VL-GDRO's group weights start even over the groups of
  labelled training images; an epoch is judged by the loss of its worst group.
- Spurious-aware fine-tuning (Yang et al. 2023) is here L_CL + L_vc + L_vs, each term

      L_i = (sum of cos(i, j) over j far from i - sum of cos(i, j) over j near i) / B,

  as `similarity_loss` in their code. In L_vc near is the same class and far another, weight 1 as in
  their commands. L_vs is uncertain: theirs is a cross-entropy against texts that name the spurious
  attribute, and a cluster of regions has no such text; their option `spur_img` takes L_i over the
  attribute alone, and which one RaVL's authors ran is not known. That option, `feature` here, pulls
  an image to all others with its feature, which also teaches the feature. The default, `opposed`,
  is our reading of "set apart spurious attributes from the affected class": near is the same class
  with the other feature value, far another class with the same one. Their CLIP objective takes
  class prompts as texts, here it is captions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fieldmark.core.errors import NotApplicableError
from fieldmark.methods.group_dro import update_group_weights
from fieldmark.methods.mitigation.config import MitigationConfig
from fieldmark.methods.mitigation.losses import (
    compute_clip_loss,
    compute_image_contrast,
    compute_label_loss,
    compute_maximum_similarity,
    compute_penalty,
    compute_region_loss,
    compute_siglip_loss,
    compute_zero_shot_loss,
)
from fieldmark.methods.mitigation.material import Material
from fieldmark.models.encoder import EncoderSpec


class Embedded(NamedTuple):
    """A batch, embedded.

    Attributes:
        rows: (B,) the images.
        images: (B,D) of unit norm.
        regions: (R,D) of unit norm, none for methods that take no regions.
        owners: (R,) position of each region's image in the batch, ascending.
        spurious: (R,) bool.
    """

    rows: Tensor
    images: Tensor
    regions: Tensor
    owners: Tensor
    spurious: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Task:
    """What the objectives are made from.

    Attributes:
        material: captions, labels, groups and regions.
        rows: (m,) the images to train on.
        spec: of the encoder; gives the scale of the logits.
        config: settings.
    """

    material: Material
    rows: Tensor
    spec: EncoderSpec
    config: MitigationConfig


# Losses (B,) of a batch; `train` is False where an epoch is judged.
Objective = Callable[[Embedded, bool], Tensor]


class Mitigation(NamedTuple):
    """A way to mitigate.

    Attributes:
        make: returns the objective and, where it has any, its state, which is kept in checkpoints.
        balanced: whether batches draw each group of class and spurious feature as often.
        regions: whether regions are embedded.
        check: raises NotApplicableError where the data do not bear it.
    """

    make: Callable[[Task], tuple[Objective, nn.Module | None]]
    balanced: bool = False
    regions: bool = False
    check: Callable[[Task], None] = lambda task: None


def make_contrast(task: Task) -> Callable[[Embedded], Tensor]:
    """Return the contrastive objective L_CL with frozen caption embeddings: losses (B,)."""
    config, spec, captions = task.config, task.spec, task.material.captions
    scale = spec.logit_scale
    if config.contrast_temperature is not None:
        scale = 1 / config.contrast_temperature
    sigmoid = config.objective == "siglip"
    if config.objective == "auto":
        sigmoid = spec.logit_bias != 0

    def contrast(batch: Embedded) -> Tensor:
        text = captions[batch.rows]
        if sigmoid:
            return compute_siglip_loss(batch.images, text, scale=scale, bias=spec.logit_bias)
        return compute_clip_loss(batch.images, text, scale=scale)

    return contrast


def make_standard(task: Task) -> tuple[Objective, None]:
    """Return standard fine-tuning: L_CL alone."""
    contrast = make_contrast(task)
    return lambda batch, train: contrast(batch), None


def make_ravl(task: Task) -> tuple[Objective, None]:
    """Return RaVL's: lambda L_CL + (1 - lambda) (L_R + L_A) (section 4.1)."""
    contrast, weight = make_contrast(task), task.config.contrast_weight

    def objective(batch: Embedded, train: bool) -> Tensor:
        region = compute_region_terms(batch, material=task.material, config=task.config)
        return weight * contrast(batch) + (1 - weight) * region

    return objective, None


def compute_region_terms(
    batch: Embedded, *, material: Material, config: MitigationConfig
) -> Tensor:
    """Return L_R + L_A of each image (B,), scaled so that their mean is the batch's region loss.

    Args:
        batch: with its regions.
        material: gives labels and prototypes.
        config: gives temperature, reduction and the denominator of L_R.

    Returns:
        0 for images without a label or without a region that is not spurious. The mean is the mean
        over the other images, or their sum where `config.reduction` is `sum`; 0 without any.
    """
    count = len(batch.rows)
    labels = material.labels[batch.rows]
    present = labels.any(0)
    labels, prototypes = labels[:, present], material.prototypes[present]
    similarity = batch.regions @ prototypes.T / config.temperature
    plain = ~batch.spurious
    sizes = torch.bincount(batch.owners[plain], minlength=count)
    taking_part = (sizes > 0) & labels.any(1)
    whole = batch.images.new_zeros(count)
    if not taking_part.any():
        return whole
    maximum = compute_maximum_similarity(similarity[plain], batch.owners[plain], count=count)
    maximum, own = maximum[taking_part], labels[taking_part]
    spurious = similarity[batch.spurious]
    counts = labels.sum(0).to(maximum.dtype) if config.label_sum == "images" else None
    losses = compute_label_loss(
        maximum, own, penalty=compute_penalty(spurious), counts_K=counts
    ) + compute_region_loss(maximum, own, similarity_SK=spurious)
    factor = count if config.reduction == "sum" else count / len(losses)
    return whole.masked_scatter(taking_part, losses * factor)


def make_erm(task: Task) -> tuple[Objective, None]:
    """Return VL-ERM: lambda L_CL + (1 - lambda) L_ERM (D.2)."""
    contrast, weight = make_contrast(task), task.config.contrast_weight

    def objective(batch: Embedded, train: bool) -> Tensor:
        losses, labelled = _classify(batch, task)
        share = labelled.sum().clamp(min=1) / len(losses)
        return weight * contrast(batch) + (1 - weight) * losses / share

    return objective, None


def _classify(batch: Embedded, task: Task) -> tuple[Tensor, Tensor]:
    labels = task.material.labels[batch.rows]
    losses = compute_zero_shot_loss(
        batch.images,
        task.material.prototypes,
        labels_BY=labels,
        temperature=task.config.temperature,
    )
    return losses, labels.any(1)


class GroupWeights(nn.Module):
    """The weights q (G,) of group DRO, a buffer so that checkpoints hold them."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("values", values)


def make_group_dro(task: Task) -> tuple[Objective, GroupWeights]:
    """Return VL-GDRO: lambda L_CL + (1 - lambda) sum_g q_g L_g (D.2; Sagawa et al. 2020)."""
    config, groups = task.config, task.material.groups
    contrast, weight = make_contrast(task), config.contrast_weight
    count = int(groups.max()) + 1
    labelled_rows = task.rows[task.material.labels[task.rows].any(1)]
    sizes = torch.bincount(groups[labelled_rows], minlength=count)
    # A group that training never shows would keep its weight from the others.
    known = (sizes > 0).float()
    state = GroupWeights(known / known.sum())
    raised = config.group_adjustment / sizes.clamp(min=1).float().sqrt()

    def objective(batch: Embedded, train: bool) -> Tensor:
        losses, labelled = _classify(batch, task)
        of = groups[batch.rows]
        sums = losses.new_zeros(count).index_add(0, of, losses)
        totals = torch.bincount(of[labelled], minlength=count)
        present = totals > 0
        means = sums / totals.clamp(min=1)
        if train:
            q = state.get_buffer("values")
            found = means.detach() + raised
            q.copy_(update_group_weights(q, found, step=config.group_step, present=present))
            robust = (q.clone() * means)[present].sum()
        else:
            robust = means.max()
        return weight * contrast(batch) + (1 - weight) * robust

    return objective, state


def make_spurious_aware(task: Task) -> tuple[Objective, None]:
    """Return spurious-aware fine-tuning: L_CL + L_vc + L_vs (Yang et al. 2023; D.2)."""
    contrast, config, material = make_contrast(task), task.config, task.material

    def objective(batch: Embedded, train: bool) -> Tensor:
        labels = material.labels[batch.rows].to(batch.images.dtype)
        # An image without a label is neither like another in class nor unlike it.
        labelled = labels.any(1)
        known = labelled[:, None] & labelled
        same = (labels @ labels.T) > 0
        has = material.spurious_images[batch.rows]
        shared = has[:, None] == has
        of_class = compute_image_contrast(batch.images, near=known & same, far=known & ~same)
        near, far = shared, ~shared
        if config.spurious_contrast == "opposed":
            near, far = known & same & ~shared, known & ~same & shared
        of_feature = compute_image_contrast(batch.images, near=near, far=far)
        terms = config.class_weight * of_class + config.spurious_weight * of_feature
        return contrast(batch) + terms

    return objective, None


def _need_labels(task: Task) -> None:
    if not task.material.labels[task.rows].any():
        raise NotApplicableError("no image has a class label, so there is no class to learn")


def _need_groups(task: Task) -> None:
    _need_labels(task)
    if len(torch.unique(task.material.groups[task.rows])) < 2:
        raise NotApplicableError("all images are of one group, so none can be upsampled")


def _need_regions(task: Task) -> None:
    _need_labels(task)
    material, rows = task.material, task.rows
    found = material.find_regions(rows)
    plain = found.places[~material.spurious[found.regions]]
    if not material.labels[rows][plain].any():
        raise NotApplicableError("no image with a label has a region that is not spurious")


def _need_both(task: Task) -> None:
    _need_groups(task)
    _need_regions(task)


MITIGATIONS: dict[str, Mitigation] = {
    "standard": Mitigation(make_standard),
    "upsampled": Mitigation(make_standard, balanced=True, check=_need_groups),
    "vl-erm": Mitigation(make_erm, balanced=True, check=_need_groups),
    "vl-gdro": Mitigation(make_group_dro, balanced=True, check=_need_groups),
    "spurious-aware": Mitigation(make_spurious_aware, check=_need_groups),
    "ravl": Mitigation(make_ravl, regions=True, check=_need_regions),
    # The paper gives the weighted sampler to its rivals alone.
    "ravl-balanced": Mitigation(make_ravl, balanced=True, regions=True, check=_need_both),
}
