"""Run the jobs of controlled settings: an encoder a domain, every finished job on disk at once.

What an engine is given to do is one job: none shares anything with another but the encoder that is
fine-tuned. That is opened here, where it may first be trained, and sent to each worker.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fieldmark import __version__
from fieldmark.benchmarks.controlled.measure import measure
from fieldmark.benchmarks.controlled.small_encoder import NAME, open_small_encoder
from fieldmark.benchmarks.jobs import Job
from fieldmark.benchmarks.runner import Outcome, load_plugins, say_nothing
from fieldmark.benchmarks.store import Measured, Store
from fieldmark.core.atomic import hash_json
from fieldmark.core.errors import NotApplicableError
from fieldmark.methods.recipe import Report
from fieldmark.models.device import pick_device
from fieldmark.models.encoder import Encoder
from fieldmark.models.engine import LOCAL, Engine
from fieldmark.models.load import load_encoder


def run_controlled(
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
    """Run every job about a controlled setting that the store does not hold yet.

    Args:
        jobs: in the order in which they are begun.
        store: where finished work is, and goes.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        batch_size: no part of these jobs, whose batches are their settings'.
        keep_encoders: no part of them either: a fine-tuned encoder is made again where it is asked
            for, which takes less than to read it.
        code: what computes: the version of fieldmark and a digest of each plugin.
        engine: where the jobs run; the store and the cache must lie where its workers read and
            write them too.
        plugins: files that were loaded here, for workers to load too.
        report: called with what is being done, units done, units in all and a note.

    Returns:
        Where each job's outcome is, in the order of `jobs`.

    Raises:
        FieldmarkError: an encoder or the data cannot be had.
    """
    encoders: dict[str, Encoder] = {}
    for job in jobs:
        if job.task.dataset not in encoders:
            opened = _open(job.model, job.task.dataset, device=device, report=report)
            encoders[job.task.dataset] = opened
    keys = [_name(job, encoders[job.task.dataset], code=code) for job in jobs]
    # Of two jobs that are one, the first is run.
    missing = {key: n for n, key in reversed([*enumerate(keys)]) if not store.has(key)}
    shards = sorted(missing.values())
    work = _Work(
        jobs=jobs,
        keys=keys,
        encoders=encoders,
        store=store,
        plugins=tuple(map(Path.resolve, plugins)),
        report=report if engine is LOCAL else say_nothing,
    )
    total = len(set(keys))
    done = total - len(shards)
    report("settings", done, total, "")
    ran = engine.map(_run_job, work, shards, device=_find_device(encoders))
    with contextlib.closing(ran):
        for _, finished in ran:
            for number in finished:
                done += 1
                report("settings", done, total, jobs[number].setting)
    return [Outcome(job, key) for job, key in zip(jobs, keys, strict=True)]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Work:
    """What all jobs share; encoders by domain."""

    jobs: Sequence[Job]
    keys: Sequence[str]
    encoders: Mapping[str, Encoder]
    store: Store
    plugins: tuple[Path, ...]
    report: Report


def _name(job: Job, encoder: Encoder, *, code: str) -> str:
    """Return a job's name in the store."""
    return hash_json({**job.to_json(), "seed": 0, "encoder": encoder.spec.fingerprint, "of": code})


def _run_job(work: _Work, number: int) -> Generator[int]:
    """Run one job, keep what it found, and yield its number."""
    load_plugins(work.plugins)
    job = work.jobs[number]
    title = f"{job.measure.split()[-1]}: {job.setting}"

    def tell(what: str) -> None:
        work.report("setting", 0, 1, f"{title}: {what}")

    try:
        found = measure(job, work.encoders[job.task.dataset], report=tell)
    except NotApplicableError as error:
        found = Measured(refused=str(error), notes={"dataset": job.task.dataset})
    work.store.write(work.keys[number], found, job=job.to_json())
    yield number


def _find_device(encoders: Mapping[str, Encoder]) -> torch.device | None:
    """Return where the work computes; the small encoder stays on the CPU."""
    first = next(iter(encoders.values()), None)
    return None if first is None else next(first.image_tower.parameters()).device


def _open(model: str, domain: str, *, device: str, report: Report) -> Encoder:
    if model != NAME:
        return load_encoder(model, device=pick_device(device))
    return open_small_encoder(
        domain, report=lambda done, total: report("small encoder", done, total, domain)
    )
