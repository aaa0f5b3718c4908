"""Run jobs: nothing twice, one encoder in memory at a time, every finished job on disk at once.

What an engine is given to do is a chain: jobs of one task and one encoder that share an encoder
which a recipe makes, or all those that need none. So no two workers ever make the same thing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import math
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fieldmark import __version__
from fieldmark.benchmarks.jobs import NATIVE, Job, TaskRef
from fieldmark.benchmarks.measures import MEASURES
from fieldmark.benchmarks.plugins import LOADED, load_plugin
from fieldmark.benchmarks.sources import find_copy, open_task
from fieldmark.benchmarks.store import Measured, Store
from fieldmark.benchmarks.subject import Bench, read_config
from fieldmark.core.atomic import hash_json
from fieldmark.core.errors import NotApplicableError
from fieldmark.core.registry import look_up
from fieldmark.data.datasets import DATASETS, build_dataset
from fieldmark.data.tasks import Task
from fieldmark.methods.recipe import Report
from fieldmark.methods.recipes import RECIPES
from fieldmark.models.device import pick_device
from fieldmark.models.engine import LOCAL, Engine
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


def say_nothing(phase: str, done: int, total: int, note: str) -> None:
    """Report nothing, as a worker does: its progress within a job stays there."""


def load_plugins(paths: Sequence[Path]) -> None:
    """Load a user's files in a worker; where they were loaded before, nothing happens."""
    for path in paths:
        if path.name not in LOADED:
            load_plugin(path)


def run_jobs(
    jobs: Sequence[Job],
    *,
    store: Store,
    device: str = "auto",
    batch_size: int = 64,
    keep_encoders: bool = True,
    code: str = __version__,
    engine: Engine = LOCAL,
    plugins: Sequence[Path] = (),
    report: Report = say_nothing,
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
        engine: where the jobs run; the store, the data and the cache must lie where its workers
            read and write them too.
        plugins: files that were loaded here, for workers to load too.
        report: called with what is being done, units done, units in all and a note.

    Returns:
        Where each job's outcome is, in the order of `jobs`.

    Raises:
        FieldmarkError: a task or an encoder that cannot be had, or an unknown name.
    """
    for job in jobs:
        look_up(MEASURES, job.measure, kind="measure")
        look_up({NATIVE: None, **RECIPES}, job.recipe, kind="recipe")
    chains = list(_chain(jobs))
    work = _Work(
        jobs=jobs,
        store=store,
        device=device,
        batch_size=batch_size,
        keep_encoders=keep_encoders,
        code=code,
        plugins=tuple(map(Path.resolve, plugins)),
        report=report if engine is LOCAL else say_nothing,
    )
    outcomes: dict[int, Outcome] = {}
    ran = engine.map(_run_chain, work, chains, device=pick_device(device))
    with contextlib.closing(ran):
        for _, finished in ran:
            for number, key in finished:
                outcomes[number] = Outcome(jobs[number], key)
                report("jobs", len(outcomes), len(jobs), jobs[number].describe())
    work.opened.clear()
    gc.collect()
    return [outcomes[number] for number in range(len(jobs))]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Work:
    """What all chains share, and the one task with its encoder that is in memory."""

    jobs: Sequence[Job]
    store: Store
    device: str
    batch_size: int
    keep_encoders: bool
    code: str
    plugins: tuple[Path, ...]
    report: Report
    opened: dict[str, Bench] = field(default_factory=dict)

    def open(self, job: Job) -> Bench:
        """Return the task of a job with its encoder; the one before is forgotten."""
        name = _name_group(job)
        if name not in self.opened:
            self.opened.clear()
            gc.collect()
            task = open_ref(job.task)
            self.store.write_task(job.task.to_json(), task=task)
            self.opened[name] = Bench(
                task=task,
                encoder=load_encoder(job.model, device=pick_device(self.device)),
                store=self.store,
                batch_size=self.batch_size,
                code=self.code,
                report=self.report,
            )
        return self.opened[name]


def _run_chain(work: _Work, chain: list[int]) -> Generator[tuple[int, str]]:
    """Run jobs of one task and one encoder; yield the number of each and its name in the store."""
    load_plugins(work.plugins)
    jobs, store = work.jobs, work.store
    bench = work.open(jobs[chain[0]])
    for number in _order(chain, jobs):
        key = bench.key(jobs[number])
        if not store.has(key):
            store.write(key, _run(bench, jobs[number]), job=jobs[number].to_json())
        yield number, key
    if not work.keep_encoders:
        for number in chain:
            _drop(bench, jobs[number])


def open_ref(ref: TaskRef) -> Task:
    """Open a task; a data set that needs no files of the user's is built in the cache, once.

    Raises:
        FieldmarkError: it cannot be had, or is off.
    """
    if ref.root is not None or ref.dataset not in DATASETS or DATASETS[ref.dataset].layout:
        return open_task(ref.dataset, root=ref.root, options=ref.options)
    folder = find_copy(ref.dataset, options=ref.options)
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


def _chain(jobs: Sequence[Job]) -> Iterator[list[int]]:
    """Yield jobs that go together, in the order in which they first come.

    They have one task and one encoder, and share an encoder that a recipe makes, directly or over
    others; those on the native encoder, which share its embeddings, go together too.
    """
    chains: list[tuple[set[str], list[int]]] = []
    for number, job in enumerate(jobs):
        needs, members = set(_list_needs(job)), [number]
        for chain in [one for one in chains if one[0] & needs]:
            chains.remove(chain)
            needs, members = needs | chain[0], chain[1] + members
        chains.append((needs, sorted(members)))
    first: dict[str, int] = {}
    for number, job in enumerate(jobs):
        first.setdefault(_name_group(job), number)
    # Chains of one task and one encoder stand beside each other: both are opened once.
    yield from sorted(
        (members for _, members in chains),
        key=lambda members: (first[_name_group(jobs[members[0]])], members[0]),
    )


def _name_group(job: Job) -> str:
    return hash_json([job.task.to_json(), job.model])


def _list_needs(job: Job) -> Iterator[str]:
    """Yield a name for each encoder that a job needs, without opening anything."""
    group = _name_group(job)
    if job.recipe == NATIVE:
        yield group
        return
    names = [job.recipe]
    for name in names:
        recipe = RECIPES[name]
        config = read_config(recipe, job.settings).model_dump(mode="json")
        yield hash_json([group, name, config, dataclasses.asdict(job.source), job.seed])
        names.extend(recipe.starts_from)


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
