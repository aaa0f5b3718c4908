"""What the plans of several studies share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fieldmark.benchmarks.jobs import NATIVE, Job, Source, TaskRef
from fieldmark.benchmarks.suite import Request

PROBE: Mapping[str, str] = {"head": "linear-probe"}
# What the paper compares encoders by (Tables 1, 7, 10 and 11), where weights can be had.
SIZES = (
    "open_clip:ViT-B-16/laion2b_s34b_b88k",
    "open_clip:ViT-L-14/laion2b_s32b_b82k",
    "open_clip:ViT-H-14/laion2b_s32b_b79k",
    "hf:google/siglip2-base-patch16-224",
)
CHECKPOINTS = (
    "open_clip:ViT-B-16/laion2b_s34b_b88k",
    "open_clip:ViT-B-16/openai",
    "open_clip:ViT-B-16/metaclip_fullcc",
    "open_clip:ViT-B-16/datacomp_xl_s13b_b90k",
)
ENCODERS = (
    "open_clip:ViT-B-16/laion2b_s34b_b88k",
    "open_clip:ViT-L-14/laion2b_s32b_b82k",
    "open_clip:convnext_base_w/laion2b_s13b_b82k",
    "hf:google/siglip2-base-patch16-224",
)
PACKAGED = ("packaged:dinov2-small", "packaged:efficientnet-lite0")


def choose_models(request: Request, published: Sequence[str]) -> tuple[str, ...]:
    """Return the encoders to compare: those asked for, or the paper's.

    A budget that has smaller stand-ins for encoders is one without a network: it gets those.
    """
    if request.models:
        return request.models
    stand_ins = request.budget.models
    return tuple(stand_ins.get(name, name) for name in PACKAGED) if stand_ins else tuple(published)


def list_places(request: Request) -> Iterator[tuple[TaskRef, int]]:
    """Yield every data set at every correlation with every seed."""
    for seed in request.seeds:
        for ref in request.refs(seed=seed):
            yield ref, seed


def is_stand_in(ref: TaskRef, request: Request) -> bool:
    """Say whether a data set is one that is built here, with a few dozen objects."""
    return ref.dataset in request.budget.data


def change_settings(
    request: Request, recipe: str, changes: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the budget's settings of a recipe with some of its own changed."""
    settings = request.settings(recipe)
    return {**settings, recipe: {**settings.get(recipe, {}), **changes}}


def plan_bap(
    request: Request,
    ref: TaskRef,
    *,
    seed: int,
    setting: str = "",
    changes: Mapping[str, Any] | None = None,
    source: Source | None = None,
) -> Job:
    """Return the job of a linear probe after BAP with some settings changed."""
    return Job(
        task=ref,
        model=request.models[0],
        recipe="bap",
        settings=change_settings(request, "bap", changes or {}),
        source=source or Source(),
        arguments=PROBE,
        seed=seed,
        suite=request.suite,
        setting=setting,
    )


def plan_measure(
    request: Request,
    ref: TaskRef,
    *,
    seed: int,
    measure: str,
    recipe: str = NATIVE,
    model: str = "",
    arguments: Mapping[str, Any] | None = None,
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    setting: str = "",
) -> Job:
    """Return the job of one measure on an encoder that a recipe made, under the budget."""
    return Job(
        task=ref,
        model=model or request.models[0],
        recipe=recipe,
        settings=settings or request.settings(recipe),
        measure=measure,
        arguments=arguments or {},
        seed=seed,
        suite=request.suite,
        setting=setting,
    )
