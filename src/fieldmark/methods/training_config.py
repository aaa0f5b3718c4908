"""What every training run can be told, and how fast it learns at each step."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fieldmark.core.errors import UsageError


class TrainingConfig(BaseModel):
    """Settings of the training loop; defaults are those of BAP Table 17.

    Attributes:
        epochs: passes over the data.
        batch_size: images in one optimiser step, over all processes together.
        accumulation: in how many parts a step's batch goes through the encoder.
        learning_rate: peak learning rate of AdamW on the image tower.
        minimum_learning_rate: where the cosine ends.
        head_learning_rate: peak learning rate of the linear head, where there is one.
        weight_decay: of AdamW.
        warmup: linear warm-up: a share of all steps if below 1, else a number of steps.
        precision: `bf16` computes in bfloat16 with float32 master weights; `fp32` does not.
        patience: stop after this many epochs without a better mean loss; None never stops early.
        minimum_improvement: how much lower a mean loss must be to count as better.
        checkpoint_seconds: how much work a kill may lose at the most.

    Example:
        >>> TrainingConfig().batch_size
        128
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=128, ge=1)
    accumulation: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=5e-6, gt=0)
    minimum_learning_rate: float = Field(default=0.0, ge=0)
    head_learning_rate: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0)
    precision: Literal["bf16", "fp32"] = "bf16"
    patience: int | None = Field(default=None, ge=1)
    minimum_improvement: float = Field(default=1e-4, ge=0)
    checkpoint_seconds: float = Field(default=60.0, ge=0)


def compute_learning_rate(
    step: int,
    *,
    total: int,
    peak: float,
    minimum: float,
    warmup: float,
    start: float = 0.0,
    longest_warmup: float = 1.0,
) -> float:
    """Return the learning rate of a step: linear warm-up, then half a cosine.

    Args:
        step: number of the step, from 0.
        total: number of all steps.
        peak: highest rate.
        minimum: rate at the end.
        warmup: a share of all steps if below 1, else a number of steps.
        start: share of the peak that step 0 has (M.3.1: 0.01); with 0 it has one step's worth of
            the rise, as in Table 17.
        longest_warmup: most of all steps that the warm-up may take, as a share.

    Raises:
        UsageError: the minimum is above the peak.

    Example:
        >>> compute_learning_rate(0, total=10, peak=1.0, minimum=0.0, warmup=2)
        0.5
        >>> compute_learning_rate(0, total=10, peak=1.0, minimum=0.0, warmup=2, start=0.01)
        0.01
    """
    if minimum > peak:
        raise UsageError(f"minimum_learning_rate {minimum} is above learning_rate {peak}")
    rise = math.ceil(warmup * total) if warmup < 1 else min(int(warmup), total)
    rise = min(rise, math.ceil(longest_warmup * total))
    if step < rise:
        if start:
            return peak * (start + (1 - start) * step / rise)
        return peak * (step + 1) / rise
    share = (step - rise) / max(total - rise, 1)
    return minimum + (peak - minimum) * 0.5 * (1 + math.cos(math.pi * share))
