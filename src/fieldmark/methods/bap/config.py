"""What BAP can be told, with the paper's values as defaults (BAP Table 17)."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field

from fieldmark.core.registry import look_up
from fieldmark.methods.training_config import TrainingConfig


class BapConfig(TrainingConfig):
    """Settings of background-invariant anchor pre-training and of its controls.

    `head_learning_rate` is that of the data-matched control's linear head, an epoch is N x M
    composites, and the other settings of the loop are as `TrainingConfig` says.

    Attributes:
        objects: N, how many foreground objects are used at the most.
        contexts: M, how many composites of each object an epoch holds.
        anchor_contexts: K, how many composites an anchor averages over.
        scale: the longer side of an object as a share of the image's side, lowest and highest.
        scale_steps: in how many sizes each object is kept.
        redraw_contexts: draw new backgrounds and sizes each epoch, or keep those of the first.
        class_balanced: show every class equally often.

    Example:
        >>> BapConfig().batch_size, BapConfig(contexts=16).contexts
        (128, 16)
    """

    objects: int = Field(default=5000, ge=1)
    contexts: int = Field(default=5, ge=1)
    anchor_contexts: int = Field(default=10, ge=1)
    scale: tuple[float, float] = (0.6, 0.8)
    scale_steps: int = Field(default=8, ge=1)
    redraw_contexts: bool = True
    class_balanced: bool = True


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
