"""Tables 2 to 5, 8, 9, 12 and 13: every method on a biased task, by average and worst group."""

from __future__ import annotations

import dataclasses
from typing import Any

from fieldmark.benchmarks.jobs import Job
from fieldmark.benchmarks.methods import METHODS
from fieldmark.benchmarks.suite import Request, Suite
from fieldmark.data.datasets.counteranimal import PAIRS as ANIMALS
from fieldmark.data.datasets.nico import PAIRS as VEHICLES
from fieldmark.methods.bap.config import PRESETS
from fieldmark.methods.fine_tuning_config import PRESET_VALUES


def plan_robustness(request: Request) -> list[Job]:
    """Plan every method on every data set, correlation and seed, and BSI of every encoder."""
    jobs = []
    for seed in request.seeds:
        for ref in request.refs(seed=seed):
            for name in request.methods:
                method = METHODS[name]
                job = Job(
                    task=ref,
                    model=request.models[0],
                    recipe=method.recipe,
                    settings=request.settings(method.recipe),
                    arguments=_choose_head(request, method.head),
                    seed=seed,
                    suite=request.suite,
                )
                jobs.append(job)
                if method.recipe != "erm-80":  # a stage of AFR; the paper has no BSI of it
                    jobs.append(dataclasses.replace(job, measure="sensitivity", arguments={}))
    return list({str(job.to_json()): job for job in jobs}.values())


def _choose_head(request: Request, head: str) -> dict[str, Any]:
    settings = request.head_settings.get(head)
    return {"head": head, "settings": dict(settings)} if settings else {"head": head}


_ALL = tuple(METHODS)
# M.5.3: few images, so small batches and small steps.
_TUNED = ("lp-ft", "erm-80", "bang", "weight-ensemble", "prusc")
_SMALL = dict.fromkeys(_TUNED, PRESET_VALUES["small"])
_SMALL_PROBE = {"linear-probe": {"epochs": 40, "learning_rate": 1e-4, "batch_size": 32}}
# M.6.2.
_VEHICLES = PRESETS["nico"].model_dump(exclude_defaults=True)
_PRETRAINED = ("bap", "data-matched-control", "random-orthogonal-anchors")
SUITES = (
    Suite(
        name="waterbirds",
        summary="birds on land and water (Tables 2, 8, 12); without --root stamps and synthetic",
        plan=plan_robustness,
        datasets=("waterbirds",),
        correlations=(0.95, 1.0),
        methods=_ALL,
    ),
    Suite(
        name="coco-gender",
        summary="men and women in kitchens and on building sites (Table 3)",
        plan=plan_robustness,
        datasets=("coco-gender",),
        correlations=(0.95, 1.0),
        methods=_ALL,
    ),
    Suite(
        name="counteranimal",
        summary="natural photographs of birds in common and uncommon places (Tables 4, 13)",
        plan=plan_robustness,
        datasets=("counteranimal",),
        variants=tuple({"pair": pair} for pair in ANIMALS),
        settings=_SMALL,
        head_settings=_SMALL_PROBE,
        methods=_ALL,
    ),
    Suite(
        name="nico++",
        summary="four pairs of vehicles, real photographs (Tables 5, 9)",
        plan=plan_robustness,
        datasets=("nico++",),
        variants=tuple({"pair": pair} for pair in VEHICLES),
        settings={**_SMALL, **dict.fromkeys(_PRETRAINED, _VEHICLES)},
        head_settings=_SMALL_PROBE,
        methods=_ALL,
    ),
    Suite(
        name="stamps",
        summary="the same on cut-outs and scenes that packages carry",
        plan=plan_robustness,
        datasets=("stamps",),
        correlations=(0.95, 1.0),
        methods=_ALL,
    ),
    Suite(
        name="synthetic",
        summary="the same on objects and scenes that fieldmark draws",
        plan=plan_robustness,
        datasets=("synthetic",),
        correlations=(0.95, 1.0),
        methods=_ALL,
    ),
)
