"""WiSE-FT: interpolate between the weights before and after fine-tuning (Wortsman et al.).

bap.txt M.2 starts from LP-FT with alpha 0.5. LP-FT's head is fresh, so there is no zero-shot head
to interpolate it with: the image tower alone is interpolated and the trained head is kept, as the
authors of WiSE-FT advise (facts 3.6).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from fieldmark.core.errors import UsageError
from fieldmark.methods.recipe import Adapted, Material, Recipe
from fieldmark.models.adapter import replace_image_tower
from fieldmark.models.encoder import Encoder

State = Mapping[str, Tensor]


class WiseFtConfig(BaseModel):
    """Settings of WiSE-FT.

    Attributes:
        alpha: share of the fine-tuned weights.

    Example:
        >>> WiseFtConfig().alpha
        0.5
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    alpha: float = Field(default=0.5, ge=0, le=1)


def interpolate_weights(zero_shot: State, fine_tuned: State, *, alpha: float) -> dict[str, Tensor]:
    """Return (1 - alpha) zero_shot + alpha fine_tuned over every floating-point tensor.

    Tensors of integers (counters, positions) cannot be mixed and are those of the nearer end, of
    the fine-tuned one halfway. Alpha 0 and 1 give the very bits of either end.

    Args:
        zero_shot: weights before fine-tuning.
        fine_tuned: weights after it, with the same names and shapes.
        alpha: in [0, 1].

    Raises:
        UsageError: names or shapes differ, or alpha is out of range.

    Example:
        >>> import torch
        >>> mixed = interpolate_weights(
        ...     {"w": torch.zeros(2)}, {"w": torch.ones(2)}, alpha=0.25)
        >>> mixed["w"].tolist()
        [0.25, 0.25]
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha must be in [0, 1], got {alpha}")
    check_same_names([zero_shot, fine_tuned])
    nearer = fine_tuned if alpha >= 0.5 else zero_shot
    mixed = {}
    for name, start in zero_shot.items():
        end = fine_tuned[name].to(start.device)
        if alpha in (0, 1) or not start.is_floating_point():
            mixed[name] = nearer[name].to(start.device).clone()
        else:
            mixed[name] = (1 - alpha) * start + alpha * end
    return mixed


def check_same_names(states: Sequence[State]) -> None:
    """Check that several sets of weights have the same names and shapes.

    Raises:
        UsageError: they do not; the message names the first tensor that differs.

    Example:
        >>> import torch
        >>> check_same_names([{"w": torch.zeros(2)}, {}])
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.UsageError: weights to be averaged differ in 'w'; ...
    """
    first, *others = states
    for other in others:
        shapes = [{(name, tuple(v.shape)) for name, v in s.items()} for s in (first, other)]
        odd = {name for name, _ in shapes[0] ^ shapes[1]}
        if odd:
            raise UsageError(
                f"weights to be averaged differ in {min(odd)!r}",
                mend="average towers of one architecture only",
            )


def interpolate(zero_shot: Encoder, fine_tuned: Encoder, *, alpha: float) -> Encoder:
    """Return an encoder with the image tower between two others; its text tower is untouched.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> halfway = interpolate(FakeEncoder(), FakeEncoder(background=0.0), alpha=0.5)
        >>> halfway.image_tower.state_dict()["mix.weight"].diag().tolist()
        [1.0, 1.0, 1.0, 0.5, 0.5, 0.5]
    """
    before, after = (encoder.image_tower.state_dict() for encoder in (zero_shot, fine_tuned))
    return replace_image_tower(zero_shot, interpolate_weights(before, after, alpha=alpha))


def sweep_alpha(
    zero_shot: Encoder, fine_tuned: Encoder, *, alphas: Sequence[float]
) -> Iterator[tuple[float, Encoder]]:
    """Yield each alpha with its encoder, one at a time, for curves.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> [alpha for alpha, _ in sweep_alpha(FakeEncoder(), FakeEncoder(), alphas=(0, 0.5, 1))]
        [0, 0.5, 1]
    """
    for alpha in alphas:
        yield alpha, interpolate(zero_shot, fine_tuned, alpha=alpha)


def _adapt(material: Material) -> Adapted:
    config: WiseFtConfig = material.config
    base = material.base["lp-ft"]
    encoder = interpolate(material.encoder, base.encoder, alpha=config.alpha)
    return Adapted(encoder=encoder, head=base.head, notes={"alpha": config.alpha})


RECIPE = Recipe(
    name="wise-ft",
    adapt=_adapt,
    config=WiseFtConfig,
    uses="nothing",
    starts_from=("lp-ft",),
    source="bap.txt M.2; Wortsman et al., Robust fine-tuning of zero-shot models",
)
