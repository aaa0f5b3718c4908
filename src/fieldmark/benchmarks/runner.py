"""Run jobs: nothing twice, one encoder in memory at a time, every finished job on disk at once."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from fieldmark import __version__
from fieldmark.benchmarks.jobs import NATIVE, Job, TaskRef
from fieldmark.benchmarks.measures import MEASURES
from fieldmark.benchmarks.sources import open_task
from fieldmark.benchmarks.store import Measured, Store
from fieldmark.benchmarks.subject import Bench
from fieldmark.core.atomic import hash_json
from fieldmark.core.errors import NotApplicableError
from fieldmark.core.fetch import cache_dir
from fieldmark.core.registry import look_up
from fieldmark.data.datasets import DATASETS, build_dataset, find_recipe
from fieldmark.data.tasks import Task
from fieldmark.methods.recipe import Report
from fieldmark.methods.recipes import RECIPES
from fieldmark.models.device import pick_device
from fieldmark.models.load import load_encoder


@dataclass(frozen=True)
class Outcome:
    """Where the outcome of a job is.

    Attributes:
        job: the job.
        key: its name in the store.
    """

    job: Job
    key: str


def run_jobs(
    jobs: Sequence[Job],
    *,
    store: Store,
    device: str = "auto",
    batch_size: int = 64,
    keep_encoders: bool = True,
    code: str = __version__,
    report: Report = lambda phase, done, total, note: None,
) -> list[Outcome]:
    """Run every job that the store does not hold yet.

    A job that the data or the encoder do not bear is kept with the reason, and the rest go on.

    Args:
        jobs: in any order; those that share a task and an encoder are run together.
        store: where finished work is, and goes.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        batch_size: images in one forward.
        keep_encoders: False deletes an adapted encoder once no job of the list needs it.
        code: what computes: the version of fieldmark and a digest of each plugin.
        report: called with what is being done, units done, units in all and a note.

    Returns:
        Where each job's outcome is, in the order of `jobs`.

    Raises:
        FieldmarkError: a task or an encoder that cannot be had, or an unknown name.
    """
    for job in jobs:
        look_up(MEASURES, job.measure, kind="measure")
        look_up({NATIVE: None, **RECIPES}, job.recipe, kind="recipe")
    outcomes: dict[int, Outcome] = {}
    done = 0
    for (ref, model), members in _group(jobs):
        task = open_ref(ref)
        store.write_task(ref.to_json(), task=task)
        encoder = load_encoder(model, device=pick_device(device))
        bench = Bench(
            task=task,
            encoder=encoder,
            store=store,
            batch_size=batch_size,
            code=code,
            report=report,
        )
        for number in _order(members, jobs):
            job = jobs[number]
            key = bench.key(job)
            if not store.has(key):
                store.write(key, _run(bench, job), job=job.to_json())
            outcomes[number] = Outcome(job, key)
            done += 1
            report("jobs", done, len(jobs), job.describe())
        if not keep_encoders:
            for number in members:
                _drop(bench, jobs[number])
        del bench, encoder, task
        gc.collect()
    return [outcomes[number] for number in range(len(jobs))]


def open_ref(ref: TaskRef) -> Task:
    """Open a task; a data set that needs no files of the user's is built in the cache, once.

    Raises:
        FieldmarkError: it cannot be had, or is off.
    """
    if ref.root is not None or ref.dataset not in DATASETS or DATASETS[ref.dataset].layout:
        return open_task(ref.dataset, root=ref.root, options=ref.options)
    words = map(str, (ref.dataset, *ref.options.values(), find_recipe(ref.dataset)))
    folder = cache_dir() / "datasets" / "-".join(words)
    if not folder.exists():
        build_dataset(ref.dataset, folder, options=ref.options)
    return open_task(str(folder))


def _run(bench: Bench, job: Job) -> Measured:
    try:
        return MEASURES[job.measure](bench, job)
    except NotApplicableError as error:
        correlation = bench.task.correlation
        known = None if math.isnan(correlation) else correlation
        about = {"dataset": bench.task.name, "correlation": known}
        return Measured(refused=str(error), notes=about)


def _drop(bench: Bench, job: Job) -> None:
    names = [job.recipe]
    for name in names:
        if name != NATIVE:
            bench.store.drop_adapted(bench.adapted_key(name, job))
            names.extend(RECIPES[name].starts_from)


def _group(jobs: Sequence[Job]) -> Iterator[tuple[tuple[TaskRef, str], list[int]]]:
    """Yield the jobs that share a task and an encoder, in the order in which they first come."""

    def name(number: int) -> str:
        return json.dumps([jobs[number].task.to_json(), jobs[number].model], sort_keys=True)

    first: dict[str, int] = {}
    for number in range(len(jobs)):
        first.setdefault(name(number), number)
    order = sorted(range(len(jobs)), key=lambda number: first[name(number)])
    for _, members in itertools.groupby(order, key=name):
        chosen = list(members)
        yield (jobs[chosen[0]].task, jobs[chosen[0]].model), chosen


def _order(members: Sequence[int], jobs: Sequence[Job]) -> list[int]:
    """Put jobs of one adapted encoder beside each other, native first, as recipes are listed."""
    recipes = [NATIVE, *RECIPES]

    def place(number: int) -> tuple[int, str, int]:
        job = jobs[number]
        made = hash_json([job.to_json()[k] for k in ("settings", "foregrounds", "masks")])
        return recipes.index(job.recipe), made, job.seed

    return sorted(members, key=place)


def gather(outcomes: Sequence[Outcome], store: Store) -> Iterator[tuple[Job, Measured]]:
    """Yield what each job found, one at a time, its rows named as the job's suite wants them."""
    for outcome in outcomes:
        job, found = outcome.job, store.read(outcome.key)
        rows = tuple(
            dataclasses.replace(row, suite=job.suite, setting=job.setting) for row in found.rows
        )
        yield job, dataclasses.replace(found, rows=rows)
