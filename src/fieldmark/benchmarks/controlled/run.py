"""Run the jobs of controlled settings: an encoder a domain, every finished job on disk at once."""

from __future__ import annotations

from collections.abc import Sequence

from fieldmark import __version__
from fieldmark.benchmarks.controlled.measure import measure
from fieldmark.benchmarks.controlled.small_encoder import NAME, open_small_encoder
from fieldmark.benchmarks.jobs import Job
from fieldmark.benchmarks.runner import Outcome
from fieldmark.benchmarks.store import Measured, Store
from fieldmark.core.atomic import hash_json
from fieldmark.core.errors import NotApplicableError
from fieldmark.methods.recipe import Report
from fieldmark.models.device import pick_device
from fieldmark.models.encoder import Encoder
from fieldmark.models.load import load_encoder


def run_controlled(
    jobs: Sequence[Job],
    *,
    store: Store,
    device: str = "auto",
    batch_size: int = 64,
    keep_encoders: bool = True,
    code: str = __version__,
    report: Report = lambda phase, done, total, note: None,
) -> list[Outcome]:
    """Run every job about a controlled setting that the store does not hold yet.

    Args:
        jobs: in the order in which they are run.
        store: where finished work is, and goes.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        batch_size: no part of these jobs, whose batches are their settings'.
        keep_encoders: no part of them either: a fine-tuned encoder is made again where it is asked
            for, which takes less than to read it.
        code: what computes: the version of fieldmark and a digest of each plugin.
        report: called with what is being done, units done, units in all and a note.

    Returns:
        Where each job's outcome is, in the order of `jobs`.

    Raises:
        FieldmarkError: an encoder or the data cannot be had.
    """
    encoders: dict[str, Encoder] = {}
    outcomes = []
    for done, job in enumerate(jobs):
        domain = job.task.dataset
        if domain not in encoders:
            encoders[domain] = _open(job.model, domain, device=device, report=report)
        encoder = encoders[domain]
        asked = {**job.to_json(), "seed": 0, "encoder": encoder.spec.fingerprint, "of": code}
        key = hash_json(asked)
        if not store.has(key):
            note = f"{job.measure.split()[-1]}: {job.setting}"
            report("settings", done, len(jobs), note)
            store.write(key, _run(job, encoder, report=report), job=job.to_json())
        report("settings", done + 1, len(jobs), job.setting)
        outcomes.append(Outcome(job, key))
    return outcomes


def _run(job: Job, encoder: Encoder, *, report: Report) -> Measured:
    try:
        return measure(job, encoder, report=lambda what: report("setting", 0, 1, what))
    except NotApplicableError as error:
        return Measured(refused=str(error), notes={"dataset": job.task.dataset})


def _open(model: str, domain: str, *, device: str, report: Report) -> Encoder:
    if model != NAME:
        return load_encoder(model, device=pick_device(device))
    return open_small_encoder(
        domain, report=lambda done, total: report("small encoder", done, total, domain)
    )
