"""Recorded runs of `fieldmark covar evaluate`: encoders on a controlled benchmark.

    OUT/covar.json         every figure: Tables 3, 4 and 7 and Figures 6 to 8 of the paper
    OUT/predictions.csv    what each encoder says of each image
    OUT/results.jsonl      each figure with its interval and count
    OUT/report.html        the page

Embeddings are cached by content and errors are explained a chunk at a time (OUT/work), so a run
that was stopped goes on where it was.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldmark.benchmarks.attribution.diagnosis_measure import Report
from fieldmark.benchmarks.covar.describe import Encoded, describe_run, list_rows
from fieldmark.benchmarks.covar.material import Answers, CovarImages, ask_encoder, open_images
from fieldmark.benchmarks.covar.pictures import draw_strip
from fieldmark.benchmarks.covar.request import CovarPlan, CovarRequest, make_covar_plan
from fieldmark.benchmarks.covar.sources import (
    Likeness,
    choose_errors,
    explain_errors,
    find_likeness,
    summarise_columns,
)
from fieldmark.benchmarks.store import make_plain
from fieldmark.core.atomic import hash_json, replacing, write_json
from fieldmark.core.errors import FieldmarkError
from fieldmark.core.records import start_run
from fieldmark.models.device import pick_device
from fieldmark.models.encoder import Encoder
from fieldmark.models.load import load_encoder
from fieldmark.report.covar_page import write_covar_page
from fieldmark.report.covar_parts import RECORD, SCHEMA

WORK, PREDICTIONS = "work", "predictions.csv"


def run_covar_evaluation(request: CovarRequest, *, report: Report | None = None) -> Path:
    """Evaluate encoders on a COVAR, and write records and page.

    An encoder that cannot be loaded or cannot answer is left out and named; the others go on.

    Args:
        request: what to evaluate, and how.
        report: called with the phase, what is done and how much there is.

    Returns:
        The folder of the run.

    Raises:
        UsageError: an option is unknown, a class is not among the candidates, or the folder holds
            another run.
        TableError: the data are no COVAR, or it is damaged.
        FieldmarkError: no encoder could answer.
    """
    plan = make_covar_plan(request)
    images = open_images(plan)
    run = start_run(
        request.out,
        "covar evaluate",
        arguments={**request.arguments(), "templates": list(plan.templates)},
        seeds=[request.seed],
        resume=request.resume,
    )
    likeness = Likeness(similar=None, notes=())
    if plan.rules:
        likeness = find_likeness(images.candidates)
    encoded, failed = _ask_all(plan, images, likeness, report=report or _keep_silent)
    record = describe_run(
        plan, images, encoded, failed=failed, notes=(*images.notes, *likeness.notes)
    )
    record["strip"] = draw_strip(images, encoded, out=request.out)
    write_json(request.out / RECORD, make_plain({"schema": SCHEMA, **record}))
    _write_predictions(request.out / PREDICTIONS, images, encoded)
    run.add(list_rows(record, seed=request.seed))
    run.notes = {"failed": failed}
    run.data = {
        "name": images.table.name,
        "images": len(images.table),
        "fingerprint": hash_json(list(images.table.hashes())),
    }
    run.weights = {one.uri: one.fingerprint for one in encoded}
    run.finish(write_covar_page)
    shutil.rmtree(request.out / WORK, ignore_errors=True)
    return request.out


def _keep_silent(phase: str, done: int, total: int) -> None:
    """Report nothing."""


def _ask_all(
    plan: CovarPlan, images: CovarImages, likeness: Likeness, *, report: Report
) -> tuple[list[Encoded], dict[str, str]]:
    """Ask one encoder after the other, so that one is in memory at a time."""
    encoded: list[Encoded] = []
    failed: dict[str, str] = {}
    first: FieldmarkError | None = None
    for number, uri in enumerate(plan.request.models):
        try:
            encoder = load_encoder(uri, device=pick_device(plan.request.device))
            encoded.append(
                _ask(plan, encoder, images, likeness=likeness, place=(number, uri), report=report)
            )
        except FieldmarkError as error:
            failed[uri], first = str(error), first or error
    if not encoded and first is not None:
        raise first
    return encoded, failed


def _ask(
    plan: CovarPlan,
    encoder: Encoder,
    images: CovarImages,
    *,
    likeness: Likeness,
    place: tuple[int, str],
    report: Report,
) -> Encoded:
    number, uri = place
    answers = ask_encoder(
        plan, encoder, images, progress=lambda done, total: report(f"embed {uri}", done, total)
    )
    truths = images.candidates.truths[images.labels]
    correct = answers.predictions == truths
    sources: dict[str, Any] = {}
    remark = ""
    if plan.rules and not correct.all():
        try:
            sources = _explain(
                plan, encoder, images, answers, likeness=likeness, correct=correct,
                number=number, report=lambda _, done, total: report(f"explain {uri}", done, total),
            )  # fmt: skip
        except FieldmarkError as error:
            remark = f"errors are not explained: {error}"
    return Encoded(
        uri=uri,
        fingerprint=encoder.spec.fingerprint,
        predictions=answers.predictions,
        correct=correct,
        sources=sources,
        remark=remark,
    )


def _explain(
    plan: CovarPlan,
    encoder: Encoder,
    images: CovarImages,
    answers: Answers,
    *,
    likeness: Likeness,
    correct: NDArray[np.bool_],
    number: int,
    report: Report,
) -> dict[str, Any]:
    request, errors = plan.request, ~correct
    rows = choose_errors(images.table, errors, most=request.errors, seed=request.seed)
    measured, judged = explain_errors(
        plan, encoder, images.table, candidates=images.candidates, texts=answers.texts, rows=rows,
        work=request.out / WORK / f"encoder-{number}", report=report,
    )  # fmt: skip
    similar = None
    if likeness.similar is not None:
        truths = images.candidates.truths[images.labels[rows]]
        alike = likeness.similar[truths, measured.predictions]
        similar = np.asarray(alike & (truths != measured.predictions), bool)
    return {
        one.rule: summarise_columns(
            images.table, errors, rows, judgement=one, similar=similar, columns=images.columns,
            parts=measured.parts.shape[1], seed=request.seed,
        )
        for one in judged
    }  # fmt: skip


def _write_predictions(path: Path, images: CovarImages, encoded: Sequence[Encoded]) -> None:
    table, names = images.table, images.candidates.names
    with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["id", "subset", "object", "label", *(one.uri for one in encoded)])
        for row, identity in enumerate(table.ids):
            said = [names[int(one.predictions[row])] for one in encoded]
            subset = images.subsets[int(images.cells[row])]
            label = table.classes[int(images.labels[row])]
            writer.writerow([identity, subset, images.objects[row], label, *said])
