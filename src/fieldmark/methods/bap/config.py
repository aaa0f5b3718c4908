"""What BAP can be told, with the paper's values as defaults (BAP Table 17)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from fieldmark.core.registry import look_up


class BapConfig(BaseModel):
    """Settings of background-invariant anchor pre-training and of its controls.

    Attributes:
        objects: N, how many foreground objects are used at the most.
        contexts: M, how many composites of each object an epoch holds.
        anchor_contexts: K, how many composites an anchor averages over.
        epochs: passes over N x M composites.
        batch_size: composites in one optimiser step, over all processes together.
        accumulation: in how many parts a step's batch goes through the encoder.
        learning_rate: peak learning rate of AdamW on the image tower.
        minimum_learning_rate: where the cosine ends.
        head_learning_rate: learning rate of the data-matched control's linear head.
        weight_decay: of AdamW.
        warmup: linear warm-up: a share of all steps if below 1, else a number of steps.
        scale: the longer side of an object as a share of the image's side, lowest and highest.
        scale_steps: in how many sizes each object is kept.
        redraw_contexts: draw new backgrounds and sizes each epoch, or keep those of the first.
        class_balanced: show every class equally often.
        precision: `bf16` computes in bfloat16 with float32 master weights; `fp32` does not.
        patience: stop after this many epochs without a better mean loss; None never stops early.
        minimum_improvement: how much lower a mean loss must be to count as better.
        checkpoint_seconds: how much work a kill may lose at the most.

    Example:
        >>> BapConfig().batch_size, BapConfig(contexts=16).contexts
        (128, 16)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    objects: int = Field(default=5000, ge=1)
    contexts: int = Field(default=5, ge=1)
    anchor_contexts: int = Field(default=10, ge=1)
    epochs: int = Field(default=30, ge=1)
    batch_size: int = Field(default=128, ge=1)
    accumulation: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=5e-6, gt=0)
    minimum_learning_rate: float = Field(default=0.0, ge=0)
    head_learning_rate: float = Field(default=5e-4, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup: float = Field(default=0.1, ge=0)
    scale: tuple[float, float] = (0.6, 0.8)
    scale_steps: int = Field(default=8, ge=1)
    redraw_contexts: bool = True
    class_balanced: bool = True
    precision: Literal["bf16", "fp32"] = "bf16"
    patience: int | None = Field(default=None, ge=1)
    minimum_improvement: float = Field(default=1e-4, ge=0)
    checkpoint_seconds: float = Field(default=60.0, ge=0)


# BAP M.6.2: the larger COCO set. K is 10 there too (the text writes M for it, facts 3.9).
_NICO = {
    "objects": 80_000,
    "epochs": 160,
    "batch_size": 512,
    "learning_rate": 7e-6,
    "minimum_learning_rate": 5e-7,
    "warmup": 400,
}
# Few objects and two slow cores: fewer composites, smaller and larger steps than Table 17.
_QUICK = {
    "contexts": 4,
    "anchor_contexts": 8,
    "epochs": 3,
    "batch_size": 16,
    "learning_rate": 3e-5,
    "checkpoint_seconds": 30,
}
METHOD_NAMES = ("bap", "data-matched-control", "random-orthogonal-anchors")
PRESETS: Mapping[str, BapConfig] = {
    "paper": BapConfig(),
    "nico": BapConfig.model_validate(_NICO),
    "quick": BapConfig.model_validate(_QUICK),
}


def find_preset(name: str) -> BapConfig:
    """Return a named set of settings: `paper` (Table 17), `nico` (M.6.2) or `quick` (two cores).

    Raises:
        UnknownNameError: there is no such preset.

    Example:
        >>> find_preset("nico").epochs
        160
    """
    return look_up(PRESETS, name, kind="preset")
