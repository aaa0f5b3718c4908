"""Averages of fine-tuned weights: BANG, and the plain weight-space ensemble.

BANG (Lin et al., arXiv 2309.17230): WiSE-FT suffers where the fine-tuned model is overconfident, so
fine-tune with label smoothing and Mixup first, then interpolate with the zero-shot weights. Ours,
where the abstract leaves it open: smoothing 0.1, Mixup's Beta(0.5, 0.5), alpha 0.5, and everything
else as in LP-FT.

The weight-space ensemble is the even average, tower and head, of a few towers that were fine-tuned
from the same start with the same probed head and differ in the seed of their batches (a uniform
soup). The first of them is the outcome of `lp-ft`, so three members cost two runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fieldmark.core.seeds import derive_seed
from fieldmark.methods.classifier import make_probe
from fieldmark.methods.fine_tuning import open_material, probe_frozen, require_head, tune
from fieldmark.methods.fine_tuning_config import FineTuningConfig
from fieldmark.methods.linear_probe import LinearProbe
from fieldmark.methods.recipe import Adapted, Material, Recipe
from fieldmark.methods.wise_ft import State, check_same_names, interpolate
from fieldmark.models.adapter import replace_image_tower


class BangConfig(FineTuningConfig):
    """Settings of BANG. See `FineTuningConfig` for the others.

    Attributes:
        alpha: share of the fine-tuned weights in the average.
    """

    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    mixup: float = Field(default=0.5, ge=0)
    alpha: float = Field(default=0.5, ge=0, le=1)


class WeightEnsembleConfig(FineTuningConfig):
    """Settings of the weight-space ensemble. See `FineTuningConfig` for the others.

    Attributes:
        members: how many fine-tuned towers are averaged, that of `lp-ft` among them.
    """

    members: int = Field(default=3, ge=2)


def average_weights(states: Sequence[State]) -> dict[str, Tensor]:
    """Return the mean of several sets of weights over every floating-point tensor.

    Tensors of integers cannot be averaged and are those of the first set.

    Args:
        states: one or more, with the same names and shapes.

    Raises:
        UsageError: names or shapes differ.

    Example:
        >>> average_weights([{"w": torch.zeros(1)}, {"w": torch.ones(1)}])["w"].tolist()
        [0.5]
    """
    check_same_names(states)
    first = states[0]
    mean = {}
    for name, value in first.items():
        if value.is_floating_point():
            total = sum((s[name].to(value.device).double() for s in states), torch.tensor(0.0))
            mean[name] = (total / len(states)).to(value.dtype)
        else:
            mean[name] = value.clone()
    return mean


def average_heads(heads: Sequence[LinearProbe]) -> LinearProbe:
    """Return the mean of several heads of the same classes.

    Example:
        >>> first, second = (make_probe(w, np.zeros(2), classes=np.arange(2))
        ...                  for w in (np.eye(2), 3 * np.eye(2)))
        >>> average_heads([first, second]).coef_.diagonal().tolist()
        [2.0, 2.0]
    """
    return make_probe(
        np.mean([head.coef_ for head in heads], axis=0),
        np.mean([head.intercept_ for head in heads], axis=0),
        classes=heads[0].classes_,
    )


def _adapt_bang(material: Material) -> Adapted:
    config: BangConfig = material.config
    run = open_material(material)
    tuned = tune(run, head=probe_frozen(run))
    encoder = interpolate(material.encoder, tuned.encoder, alpha=config.alpha)
    return replace(tuned, encoder=encoder, notes={**tuned.notes, "alpha": config.alpha})


def _adapt_members(material: Material) -> Adapted:
    config: WeightEnsembleConfig = material.config
    run = open_material(material)
    head = probe_frozen(run)
    members = [material.base["lp-ft"]]
    for number in range(1, config.members):
        seed = derive_seed(material.seed, "member", number)
        member = replace(run, seed=seed, folder=run.folder / f"member-{number}")
        members.append(tune(member, head=head, phase=f"member {number + 1}"))
    states = [member.encoder.image_tower.state_dict() for member in members]
    return Adapted(
        encoder=replace_image_tower(material.encoder, average_weights(states)),
        head=average_heads([require_head(member, name="lp-ft") for member in members]),
        notes={"members": [dict(member.notes) for member in members]},
    )


BANG_RECIPE = Recipe(
    name="bang",
    adapt=_adapt_bang,
    config=BangConfig,
    uses="images",
    source="Lin et al., Spurious Feature Diversification, arXiv 2309.17230",
)
WEIGHT_ENSEMBLE_RECIPE = Recipe(
    name="weight-ensemble",
    adapt=_adapt_members,
    config=WeightEnsembleConfig,
    uses="images",
    starts_from=("lp-ft",),
    source="Wortsman et al., Model soups (uniform)",
)
