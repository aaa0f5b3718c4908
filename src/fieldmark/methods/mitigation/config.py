"""What mitigation can be told; defaults are those of RaVL (section 4.1 and appendix D.2)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fieldmark.methods.training import Schedule
from fieldmark.methods.training_config import TrainingConfig, compute_learning_rate


class MitigationConfig(TrainingConfig):
    """Settings of a mitigation; see `TrainingConfig` for those that are not listed.

    The paper gives the initial rate 5e-5, batches of 128, 100 epochs "with early stopping", lambda
    0.8 and tau 0.07. It gives no schedule (a cosine here), no weight decay (that of AdamW), and not
    what stops it (here the loss on 5 % of the images, which the authors' data code holds out).

    Attributes:
        epochs: passes of as many images as there are.
        accumulation: 1; a contrastive loss needs its whole batch.
        learning_rate: initial rate of AdamW on the image tower.
        schedule: the rate falls along half a `cosine`, or stays `constant`.
        precision: `fp32`, or `bf16` over float32 weights.
        patience: stop after this many epochs without a lower loss; None never stops early.
        validation_share: share of the images that is held out for early stopping, and whose loss
            chooses the epoch that is kept. With 0, or where that is no image, the training loss
            stops the run and the last epoch is kept.
        freeze_norms: keep the statistics of batch norms as they are.
        channels_last: keep weights and maps in the order rows, columns, channels while training,
            which a conv tower on a CPU is about a third faster with; rounding differs.
        contrast_weight: lambda, the share of the contrastive objective.
        objective: `clip`, `siglip`, or `auto`: SigLIP's where the encoder has a logit bias.
        temperature: tau of the region terms and of zero-shot logits.
        contrast_temperature: of the contrastive objective; None takes the encoder's own scale.
        reduction: the region terms' `mean` over the images that have them, or their `sum` over the
            batch, as the paper writes.
        label_sum: the denominator of L_R has each `distinct` label of the batch once, or each
            image's label (`images`).
        regions: how regions are embedded: `auto` as the encoder does by itself, or `crop`, for
            clusters that were found on crops.
        group_step: step of the group weights of group DRO, eta.
        group_adjustment: C of group DRO's C / sqrt(n_g), 0 or more.
        class_weight: of the class term of spurious-aware fine-tuning.
        spurious_weight: of its spurious term.
        spurious_contrast: that term is over images of one class that differ in the spurious
            feature and images that share it over classes (`opposed`), or over all images by the
            feature alone (`feature`).

    Example:
        >>> config = MitigationConfig()
        >>> config.contrast_weight, config.temperature, config.learning_rate
        (0.8, 0.07, 5e-05)
    """

    epochs: int = Field(default=100, ge=1)
    accumulation: int = Field(default=1, ge=1, le=1)
    learning_rate: float = Field(default=5e-5, gt=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup: float = Field(default=0.0, ge=0)
    precision: Literal["bf16", "fp32"] = "fp32"
    patience: int | None = Field(default=10, ge=1)
    validation_share: float = Field(default=0.05, ge=0, lt=1)
    freeze_norms: bool = True
    channels_last: bool = True
    contrast_weight: float = Field(default=0.8, ge=0, le=1)
    objective: Literal["auto", "clip", "siglip"] = "auto"
    temperature: float = Field(default=0.07, gt=0)
    contrast_temperature: float | None = Field(default=None, gt=0)
    reduction: Literal["mean", "sum"] = "mean"
    label_sum: Literal["distinct", "images"] = "distinct"
    regions: Literal["auto", "crop"] = "auto"
    group_step: float = Field(default=0.01, ge=0)
    group_adjustment: float = Field(default=0.0, ge=0)
    class_weight: float = Field(default=1.0, ge=0)
    spurious_weight: float = Field(default=1.0, ge=0)
    spurious_contrast: Literal["opposed", "feature"] = "opposed"


def make_schedule(config: MitigationConfig) -> Schedule:
    """Return the learning rate of each step.

    Example:
        >>> schedule = make_schedule(MitigationConfig(schedule="constant"))
        >>> schedule(7, 10, 0.5)
        0.5
    """

    def schedule(step: int, total: int, peak: float) -> float:
        level = config.schedule == "constant"
        return compute_learning_rate(
            step,
            total=total,
            peak=peak,
            minimum=peak if level else min(config.minimum_learning_rate, peak),
            warmup=config.warmup,
        )

    return schedule
