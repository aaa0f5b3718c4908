"""Studies that vary one thing about BAP: K, M, N, masks, the encoder, its checkpoint; and BSI.

Where the paper shows a figure and prints no numbers, the values of its axis are ours: those that
its text names, and some between. Data sets that are built here have a few dozen objects; their
values are smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import get_args

from fieldmark.benchmarks.jobs import NATIVE, Job, Source, TaskRef
from fieldmark.benchmarks.measures import TRAINED
from fieldmark.benchmarks.methods import METHODS
from fieldmark.benchmarks.suite import Exhibit, Found, Request, Suite
from fieldmark.benchmarks.suites.exhibits import draw_settings, list_rows, tabulate_beside
from fieldmark.benchmarks.suites.plans import (
    CHECKPOINTS,
    SIZES,
    change_settings,
    choose_models,
    is_stand_in,
    list_places,
    plan_bap,
    plan_measure,
)
from fieldmark.data.masks import Degradation

ALPHA_VALUES = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
K_VALUES = (1, 2, 4, 8, 16)
M_VALUES = (1, 2, 4, 8, 16, 32)
SMALL_OBJECTS, FEW_OBJECTS = (50, 100), (16, 32)
# M of the study of N (H.0.1).
CONTEXTS = 2
N_VALUES, FEW_N_VALUES = (100, 250, 500, 1000, 2000, 3000, 4000), (8, 16, 32, 64)
COMPARED = ("linear-probe", "data-matched-control", "bap")
INSENSITIVE = (NATIVE, "lp-ft", "prusc", "data-matched-control", "bap")
ACCURACIES = ("acc_avg", "acc_wg")


def _list_values(
    request: Request,
    ref: TaskRef,
    *,
    key: str,
    published: Sequence[int],
    few: Sequence[int] = (),
) -> tuple[int, ...]:
    default = few if few and is_stand_in(ref, request) else published
    given: Iterable[int] = request.budget.study.get(key, default)
    return tuple(int(value) for value in given)


def plan_anchor_contexts(request: Request) -> list[Job]:
    """Plan BAP with K scenes to an anchor (Table 14)."""
    return [
        plan_bap(request, ref, seed=seed, setting=f"K={k}", changes={"anchor_contexts": k})
        for ref, seed in list_places(request)
        for k in _list_values(request, ref, key="k_values", published=K_VALUES)
    ]


def plan_contexts(request: Request) -> list[Job]:
    """Plan BAP with M composites of each of a few objects (Figures 3 and 6)."""
    return [
        plan_bap(
            request,
            ref,
            seed=seed,
            setting=f"N={n}, M={m}",
            changes={"objects": n, "contexts": m},
        )
        for ref, seed in list_places(request)
        for n in _list_values(
            request, ref, key="small_objects", published=SMALL_OBJECTS, few=FEW_OBJECTS
        )
        for m in _list_values(request, ref, key="m_values", published=M_VALUES)
    ]


def plan_objects(request: Request) -> list[Job]:
    """Plan BAP with N objects, two composites of each (Figure 5)."""
    return [
        plan_bap(
            request,
            ref,
            seed=seed,
            setting=f"N={n}",
            changes={"objects": n, "contexts": CONTEXTS},
        )
        for ref, seed in list_places(request)
        for n in _list_values(request, ref, key="n_values", published=N_VALUES, few=FEW_N_VALUES)
    ]


def plan_mixing(request: Request) -> list[Job]:
    """Plan WiSE-FT between the native encoder (alpha 0) and the fine-tuned one (alpha 1)."""
    values: Iterable[float] = request.budget.study.get("alpha_values", ALPHA_VALUES)
    return [
        plan_measure(
            request,
            ref,
            seed=seed,
            measure="accuracy",
            recipe="wise-ft",
            settings=change_settings(request, "wise-ft", {"alpha": alpha}),
            arguments={"head": TRAINED},
            setting=f"alpha={alpha:g}",
        )
        for ref, seed in list_places(request)
        for alpha in values
    ]


def plan_masks(request: Request) -> list[Job]:
    """Plan BAP on objects cut out of photographs by good and spoilt masks (Tables 6 and 15)."""
    return [
        plan_bap(
            request,
            ref,
            seed=seed,
            setting=f"masks={masks}",
            source=Source(foregrounds="photographs", masks=masks),
        )
        for ref, seed in list_places(request)
        for masks in get_args(Degradation)
    ]


def plan_sensitivity(request: Request) -> list[Job]:
    """Plan the background sensitivity index after each method (Table 12)."""
    return [
        plan_measure(request, ref, seed=seed, measure="sensitivity", recipe=recipe)
        for ref, seed in list_places(request)
        for recipe in INSENSITIVE
    ]


def _plan_encoders(request: Request, published: Sequence[str]) -> list[Job]:
    jobs = []
    for model in choose_models(request, published):
        for ref, seed in list_places(request):
            for name in COMPARED:
                method = METHODS[name]
                jobs.append(
                    plan_measure(
                        request,
                        ref,
                        seed=seed,
                        measure="accuracy",
                        recipe=method.recipe,
                        model=model,
                        arguments={"head": method.head},
                    )
                )
    return jobs


def plan_backbones(request: Request) -> list[Job]:
    """Plan a probe natively, after the control and after BAP, over sizes (Table 10)."""
    return _plan_encoders(request, SIZES)


def plan_checkpoints(request: Request) -> list[Job]:
    """Plan the same over checkpoints of one size (Table 11)."""
    return _plan_encoders(request, CHECKPOINTS)


def _draw_table(
    found: Sequence[Found],
    *,
    name: str,
    title: str,
    keys: Sequence[str],
    metrics: Sequence[str] = ACCURACIES,
    note: str = "",
) -> list[Exhibit]:
    rows = list_rows(found, *metrics)
    if not rows:
        return []
    table = tabulate_beside(rows, caption=title, keys=keys, metrics=metrics)
    return [Exhibit(name=name, title=title, table=table, note=note)]


def _draw_sweep(
    letter: str, *, across: str, name: str, title: str, log: bool = True
) -> Callable[[Sequence[Found]], list[Exhibit]]:
    def draw(found: Sequence[Found]) -> list[Exhibit]:
        return [
            *_draw_table(found, name=name, title=title, keys=("setting", "split")),
            *draw_settings(found, letter=letter, across=across, name=name, title=title, log=log),
        ]

    return draw


def draw_masks(found: Sequence[Found]) -> list[Exhibit]:
    """Draw Tables 6 and 15."""
    return _draw_table(
        found,
        name="masks",
        title="BAP with good and spoilt masks (Tables 6, 15)",
        keys=("setting", "split"),
        note="Objects are cut out of training photographs; what a mask lets in is what was there.",
    )


def draw_sensitivity(found: Sequence[Found]) -> list[Exhibit]:
    """Draw Table 12."""
    return _draw_table(
        found,
        name="sensitivity",
        title="Background sensitivity index (Table 12), lower is better",
        keys=("method", "split"),
        metrics=("bsi_per_dimension", "bsi_total"),
        note="The paper's figures are those with the mean variance of a dimension.",
    )


def _draw_encoders(name: str, title: str) -> Callable[[Sequence[Found]], list[Exhibit]]:
    return lambda found: _draw_table(
        found, name=name, title=title, keys=("encoder", "method", "split")
    )


_WATERBIRDS = ("waterbirds",)
_WHOLLY_BIASED = (1.0,)
SUITES = (
    Suite(
        name="sweep-k",
        summary="BAP with K scenes to an anchor (Table 14)",
        plan=plan_anchor_contexts,
        draw=_draw_sweep(
            "K", across="scenes to an anchor", name="sweep-k", title="Accuracy by K (Table 14)"
        ),
        datasets=_WATERBIRDS,
        correlations=_WHOLLY_BIASED,
    ),
    Suite(
        name="sweep-m",
        summary="BAP with M composites of each of few objects (Figures 3, 6)",
        plan=plan_contexts,
        draw=_draw_sweep(
            "M",
            across="composites of each object",
            name="sweep-m",
            title="Accuracy by M with few objects (Figures 3, 6)",
        ),
        datasets=_WATERBIRDS,
        correlations=_WHOLLY_BIASED,
    ),
    Suite(
        name="sweep-n",
        summary="BAP with N objects, two composites of each (Figure 5)",
        plan=plan_objects,
        draw=_draw_sweep(
            "N", across="objects", name="sweep-n", title="Accuracy by N at M = 2 (Figure 5)"
        ),
        datasets=_WATERBIRDS,
        correlations=_WHOLLY_BIASED,
    ),
    Suite(
        name="sweep-alpha",
        summary="WiSE-FT between the native encoder and the fine-tuned one (Wortsman et al. 2022)",
        plan=plan_mixing,
        draw=_draw_sweep(
            "alpha",
            across="share of the fine-tuned weights",
            name="sweep-alpha",
            title="Accuracy of WiSE-FT by alpha",
            log=False,
        ),
        datasets=_WATERBIRDS,
        correlations=(0.95, 1.0),
    ),
    Suite(
        name="masks",
        summary="BAP with dilated, eroded and box masks (Tables 6, 15)",
        plan=plan_masks,
        draw=draw_masks,
        datasets=_WATERBIRDS,
        correlations=_WHOLLY_BIASED,
    ),
    Suite(
        name="sensitivity",
        summary="how far backgrounds move embeddings after each method (Table 12)",
        plan=plan_sensitivity,
        draw=draw_sensitivity,
        datasets=_WATERBIRDS,
        correlations=_WHOLLY_BIASED,
    ),
    Suite(
        name="backbones",
        summary="native, control and BAP over sizes of encoders (Table 10)",
        plan=plan_backbones,
        draw=_draw_encoders("backbones", "A linear probe over sizes of encoders (Table 10)"),
        datasets=_WATERBIRDS,
        many_encoders=True,
        correlations=_WHOLLY_BIASED,
    ),
    Suite(
        name="checkpoints",
        summary="native, control and BAP over checkpoints of one size (Table 11)",
        plan=plan_checkpoints,
        draw=_draw_encoders("checkpoints", "A linear probe over checkpoints (Table 11)"),
        datasets=_WATERBIRDS,
        many_encoders=True,
        correlations=_WHOLLY_BIASED,
    ),
)
