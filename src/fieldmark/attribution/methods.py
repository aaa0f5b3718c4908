"""All attribution methods by name; a method's module is imported when it is asked for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from fieldmark.attribution.maps import Maps, Subject
from fieldmark.core.errors import UnsupportedEncoderError
from fieldmark.core.registry import look_up
from fieldmark.models.adapter import take_apart
from fieldmark.models.encoder import Encoder

Explain = Callable[[Subject], Maps]
# What a tower must have: nothing but pixels, tokens to remove, pieces to look inside, an attention
# that forms the embedding, or blocks.
Needs = Literal["pixels", "tokens", "pieces", "attention", "blocks"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One attribution method.

    Attributes:
        name: as a user writes it.
        title: as a paper writes it.
        place: module and function, `attribution.cci:explain_by_clusters`.
        needs: what a tower must have.
        uses_text: whether its map depends on the text.
        is_null: whether it is a null that every method must beat.
        summary: one line for `--help` and pages.
    """

    name: str
    title: str
    place: str
    needs: Needs
    uses_text: bool = True
    is_null: bool = False
    summary: str

    def load(self) -> Explain:
        """Import and return the function."""
        module, _, function = self.place.partition(":")
        explain: Explain = getattr(importlib.import_module(f"fieldmark.{module}"), function)
        return explain


_LIST = (
    Method(
        name="cci",
        title="CCI",
        place="attribution.cci:explain_by_clusters",
        needs="tokens",
        summary="how the score drops when each cluster of patches is removed",
    ),
    Method(
        name="raw-attention",
        title="raw attention",
        place="attribution.attention_maps:explain_by_attention",
        needs="attention",
        uses_text=False,
        summary="what the last attention looks at, whatever the text",
    ),
    Method(
        name="rollout",
        title="rollout",
        place="attribution.attention_maps:explain_by_rollout",
        needs="blocks",
        uses_text=False,
        summary="attention multiplied through all blocks, whatever the text",
    ),
    Method(
        name="grad-cam",
        title="Grad-CAM",
        place="attribution.gradient_maps:explain_by_grad_cam",
        needs="pieces",
        summary="features of the last block or stage, weighed by their mean gradient",
    ),
    Method(
        name="game",
        title="GAME",
        place="attribution.attention_gradients:explain_by_game",
        needs="blocks",
        summary="attention times its gradient, positive parts, multiplied through blocks",
    ),
    Method(
        name="maskclip",
        title="MaskCLIP",
        place="attribution.dense_maps:explain_by_maskclip",
        needs="attention",
        summary="likeness of each patch's own value to the text",
    ),
    Method(
        name="clip-surgery",
        title="CLIP Surgery",
        place="attribution.dense_maps:explain_by_surgery",
        needs="blocks",
        summary="likeness of patches to the text after value-value attention, what all texts share "
        "taken off",
    ),
    Method(
        name="m2ib",
        title="M2IB",
        place="attribution.bottleneck:explain_by_bottleneck",
        needs="blocks",
        summary="information that must pass an inner layer to keep the score",
    ),
    Method(
        name="rise",
        title="RISE",
        place="attribution.perturbation:explain_by_random_masks",
        needs="pixels",
        summary="mean of random masks, weighed by the score that they leave",
    ),
    Method(
        name="grad-eclip",
        title="Grad-ECLIP",
        place="attribution.gradient_maps:explain_by_grad_eclip",
        needs="attention",
        summary="values of the last attention times the gradient of its output",
    ),
    Method(
        name="legrad",
        title="LeGrad",
        place="attribution.attention_gradients:explain_by_legrad",
        needs="blocks",
        summary="gradients of the attention maps of the later blocks",
    ),
    Method(
        name="occlusion",
        title="occlusion",
        place="attribution.perturbation:explain_by_occlusion",
        needs="pixels",
        summary="how the score drops when a square is greyed out",
    ),
    Method(
        name="integrated-gradients",
        title="integrated gradients",
        place="attribution.gradient_maps:explain_by_integrated_gradients",
        needs="pixels",
        summary="gradients of the pixels along the way from a blank image",
    ),
    Method(
        name="random",
        title="random (null)",
        place="attribution.nulls:explain_at_random",
        needs="pixels",
        uses_text=False,
        is_null=True,
        summary="noise: what a method without any idea gets",
    ),
    Method(
        name="centre",
        title="centred Gaussian (null)",
        place="attribution.nulls:explain_by_centre",
        needs="pixels",
        uses_text=False,
        is_null=True,
        summary="a bump in the middle: what a photographer's habit is worth",
    ),
)
METHODS: Mapping[str, Method] = {method.name: method for method in _LIST}


def find_method(name: str) -> Method:
    """Return a method by its name.

    Raises:
        UnknownNameError: there is none; the message lists those there are.

    Example:
        >>> find_method("grad-cam").title
        'Grad-CAM'
    """
    return look_up(METHODS, name, kind="attribution method")


def list_supported(encoder: Encoder) -> tuple[str, ...]:
    """Return the names of the methods that an encoder's tower bears.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> list_supported(FakeEncoder())[:3]
        ('cci', 'rise', 'occlusion')
    """
    return tuple(name for name, method in METHODS.items() if not _find_lack(encoder, method.needs))


def require_support(encoder: Encoder, method: Method) -> None:
    """Check that a tower has what a method needs.

    Raises:
        UnsupportedEncoderError: it has not; the message names the methods that it bears.
    """
    lack = _find_lack(encoder, method.needs)
    if lack:
        raise UnsupportedEncoderError(
            f"{method.name} needs {lack}",
            where=encoder.spec.uri,
            mend=f"use one of: {', '.join(list_supported(encoder))}",
        )


def _find_lack(encoder: Encoder, needs: Needs) -> str:
    if needs in ("pixels", "tokens"):
        return ""
    try:
        tower = take_apart(encoder)
        blocks, pooler = tower.blocks, tower.pooler
    except UnsupportedEncoderError as error:
        return f"a tower that can be taken apart ({error.problem})"
    if needs == "blocks" and not blocks:
        return "the blocks of a transformer, which this tower has not"
    if needs == "attention" and not (blocks or pooler):
        return "an attention that forms the embedding, which this tower has not"
    return ""
