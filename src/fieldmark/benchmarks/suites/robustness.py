"""Tables 2 to 5, 8, 9, 12 and 13: every method on a biased task, by average and worst group."""

from __future__ import annotations

import dataclasses

from fieldmark.benchmarks.jobs import Job
from fieldmark.benchmarks.methods import METHODS
from fieldmark.benchmarks.suite import Request, Suite


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
                    arguments={"head": method.head},
                    seed=seed,
                    suite=request.suite,
                )
                jobs.append(job)
                if method.recipe != "erm-80":  # a stage of AFR; the paper has no BSI of it
                    jobs.append(dataclasses.replace(job, measure="sensitivity", arguments={}))
    return list({str(job.to_json()): job for job in jobs}.values())


_ALL = tuple(METHODS)
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
        methods=_ALL,
    ),
    Suite(
        name="nico++",
        summary="four pairs of vehicles, real photographs (Tables 5, 9)",
        plan=plan_robustness,
        datasets=("nico++",),
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
