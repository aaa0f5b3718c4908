"""What fine-tuning can be told: the settings of bap.txt M.3.1, of M.5.3, and quick ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from fieldmark.core.registry import look_up
from fieldmark.methods.training import Schedule
from fieldmark.methods.training_config import TrainingConfig, compute_learning_rate

Selection = Literal["last", "average", "worst-group"]


class FineTuningConfig(TrainingConfig):
    """Settings of LP-FT; defaults are those of M.3.1. See `TrainingConfig` for the others.

    Attributes:
        warmup_start: share of the peak rate at the first step.
        longest_warmup: most of all steps that the warm-up may take, as a share.
        probe_epochs: epochs of the linear probe.
        probe_learning_rate: of AdamW for the probe.
        class_weight: `balanced` weighs classes inversely to their frequency; None weighs all alike.
        flip: mirror training images at random.
        label_smoothing: in [0, 1).
        mixup: parameter of Mixup's Beta distribution; 0 for none.
        select: keep the `last` epoch, or the best on validation data by `average` or
            `worst-group` accuracy.

    Example:
        >>> FineTuningConfig().epochs, FineTuningConfig().minimum_learning_rate
        (30, 1e-06)
    """

    minimum_learning_rate: float = Field(default=1e-6, ge=0)
    head_learning_rate: float = Field(default=1e-3, gt=0)
    warmup: float = Field(default=200, ge=0)
    warmup_start: float = Field(default=0.01, ge=0, le=1)
    longest_warmup: float = Field(default=0.25, ge=0, le=1)
    probe_epochs: int = Field(default=5, ge=1)
    probe_learning_rate: float = Field(default=1e-3, gt=0)
    class_weight: Literal["balanced"] | None = "balanced"
    flip: bool = True
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    mixup: float = Field(default=0.0, ge=0)
    select: Selection = "last"


class HeldOutConfig(FineTuningConfig):
    """Settings of AFR's first stage: fewer epochs, on a part of the images (M.2).

    Attributes:
        holdout: share of the training images that is kept from training.
    """

    epochs: int = Field(default=5, ge=1)
    holdout: float = Field(default=0.2, gt=0, lt=1)


# M.5.3, for pairs of species with few images: its probe is of 40 epochs at 1e-4.
_SMALL = {
    "epochs": 40,
    "batch_size": 32,
    "learning_rate": 1e-6,
    "head_learning_rate": 1e-4,
    "probe_epochs": 40,
    "probe_learning_rate": 1e-4,
}
# Two slow cores: few epochs with larger steps.
_QUICK = {
    "epochs": 2,
    "batch_size": 16,
    "learning_rate": 2e-5,
    "warmup": 0.1,
    "probe_epochs": 20,
    "checkpoint_seconds": 30,
}
PRESET_VALUES: Mapping[str, Mapping[str, object]] = {
    "paper": {},
    "small": _SMALL,
    "quick": _QUICK,
}


def find_preset(name: str) -> FineTuningConfig:
    """Return a named set of settings: `paper` (M.3.1), `small` (M.5.3) or `quick` (two cores).

    Raises:
        UnknownNameError: there is no such preset.

    Example:
        >>> find_preset("small").batch_size
        32
    """
    return FineTuningConfig.model_validate(look_up(PRESET_VALUES, name, kind="preset"))


def make_schedule(config: FineTuningConfig) -> Schedule:
    """Return warm-up and cosine of M.3.1; a peak below the minimum stays level (M.5.3)."""

    def schedule(step: int, total: int, peak: float) -> float:
        return compute_learning_rate(
            step,
            total=total,
            peak=peak,
            minimum=min(config.minimum_learning_rate, peak),
            warmup=config.warmup,
            start=config.warmup_start,
            longest_warmup=config.longest_warmup,
        )

    return schedule
