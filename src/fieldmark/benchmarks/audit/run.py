"""Recorded runs of `fieldmark audit`: how far a model leans on backgrounds, and how sure that is.

    OUT/audit.json           all that the page says, as numbers
    OUT/report.html          the page; OUT/report.md the same as Markdown
    OUT/model_card.md        what a hub shows of the model
    OUT/results.jsonl        accuracy, findings and swaps, a row each
    OUT/material/            the sample that was looked at, and its objects as `fieldmark bap` takes
                             them
    OUT/parts/               the runs that it is made of: discover, diagnose, swaps

Each part is a run of its own or kept in the cache, so an audit that was stopped goes on where it
was. A part that the input does not bear is left out, and the record says why.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from fieldmark.benchmarks.audit.accuracy import Accuracy, measure_accuracy
from fieldmark.benchmarks.audit.findings import judge_findings
from fieldmark.benchmarks.audit.material import (
    ABSENT,
    Material,
    Report,
    gather_material,
    leave_out,
)
from fieldmark.benchmarks.audit.record import (
    Results,
    describe_audit,
    list_findings,
    list_rows,
)
from fieldmark.benchmarks.audit.regions import search_regions
from fieldmark.benchmarks.audit.request import AuditPlan, AuditRequest, make_audit_plan
from fieldmark.benchmarks.audit.sources import judge_errors, show_telling
from fieldmark.benchmarks.audit.swaps import SwapSettings, measure_swaps
from fieldmark.benchmarks.export.base_model import find_base_model
from fieldmark.benchmarks.sources import open_table
from fieldmark.benchmarks.store import make_plain
from fieldmark.core.atomic import hash_json
from fieldmark.core.records import start_run
from fieldmark.core.sealed import write_sealed_json
from fieldmark.data.backgrounds import Backgrounds, read_backgrounds
from fieldmark.models.device import pick_device
from fieldmark.models.encoder import Encoder
from fieldmark.models.load import load_encoder
from fieldmark.models.prompts import ensemble_prompts
from fieldmark.report.audit_markdown import write_audit_markdown
from fieldmark.report.audit_page import write_audit_page
from fieldmark.report.audit_parts import RECORD, SCHEMA
from fieldmark.report.model_card import write_audit_card

T = TypeVar("T")


def run_audit(
    request: AuditRequest,
    *,
    encoders: Sequence[Encoder] | None = None,
    report: Report | None = None,
) -> Path:
    """Audit one encoder, or two beside each other, and write records and pages.

    Args:
        request: what to audit, and how.
        encoders: those that the request names, where they are loaded already.
        report: called with the phase, what is done and how much there is.

    Returns:
        The folder of the run.

    Raises:
        UsageError: an option is out of its range or unknown, or the folder holds another run.
        InputError: the images, or the backgrounds, cannot be used.
    """
    started = time.monotonic()
    plan = make_audit_plan(request)
    table = open_table(request.data, root=request.root)
    table.name_classes(request.class_names)
    scenes = None if request.backgrounds is None else read_backgrounds(request.backgrounds)
    loaded = list(encoders or ())
    for uri in request.models[len(loaded) :]:
        loaded.append(load_encoder(uri, device=pick_device(request.device)))
    run = start_run(
        request.out,
        "audit",
        arguments={**request.arguments(), "templates": list(plan.templates)},
        seeds=[request.seed],
        resume=request.resume,
    )
    told = report or (lambda phase, done, total: None)
    material = gather_material(request, table, out=request.out, report=told)
    found = _measure(plan, loaded, material, backgrounds=scenes, report=told)
    findings = judge_findings(
        list(list_findings(found)), level=request.level, margin=request.margin
    )
    record = describe_audit(
        plan, loaded, material, found=found, findings=findings, images=len(table)
    )
    record["seconds"] = round(time.monotonic() - started, 1)
    write_sealed_json(request.out / RECORD, make_plain({"schema": SCHEMA, **record}))
    run.add(list_rows(request, found, findings, loaded, dataset=table.name, split=material.split))
    run.notes = {"unreadable": dict(material.unreadable)}
    base = find_base_model(request.models[-1])
    write_card = functools.partial(write_audit_card, licence=base.licence, base_repo=base.repo)
    run.data = {
        "name": table.name,
        "images": len(material.judged),
        "fingerprint": hash_json(list(material.judged.hashes())),
    }
    run.weights = {one.spec.uri: one.spec.fingerprint for one in loaded}
    return run.finish(write_audit_page, write_audit_markdown, write_card)


def _measure(
    plan: AuditPlan,
    encoders: Sequence[Encoder],
    material: Material,
    *,
    backgrounds: Backgrounds | None,
    report: Report,
) -> Results:
    found = Results(left_out=list(material.left_out))
    for number, encoder in enumerate(encoders):
        progress = functools.partial(report, f"images {number + 1}/{len(encoders)}")
        one = measure_accuracy(plan, encoder, material, number=number, progress=progress)
        found.accuracy.append(one)
        found.leave_out(one.left_out)
    for number, encoder in enumerate(encoders):
        look = functools.partial(
            search_regions, plan.request, encoder, material, number=number, report=report
        )
        found.regions.append(_try(found, "discovery", look))
    if material.masks is not None:
        swap = functools.partial(
            _swap, plan, encoders, material, found.accuracy, backgrounds=backgrounds, report=report
        )
        found.swaps = _try(found, "swaps", swap)
        _try(found, "sources", lambda: _explain(plan, encoders, material, found, report=report))
    return found


def _try(found: Results, part: str, work: Callable[[], T]) -> T | None:
    """Do a part, or leave it out where the input or the encoder does not bear it."""
    try:
        return work()
    except ABSENT as error:
        found.leave_out([leave_out(part, error)])
        return None


def _swap(
    plan: AuditPlan,
    encoders: Sequence[Encoder],
    material: Material,
    accuracy: Sequence[Accuracy],
    *,
    backgrounds: Backgrounds | None,
    report: Report,
) -> dict[str, Any]:
    request = plan.request
    assert material.masks is not None
    table = material.sample.take(material.unseen)
    return measure_swaps(
        encoders,
        [one.heads for one in accuracy],
        table,
        masks=[material.masks[row] for row in material.unseen],
        names=table.name_classes(request.class_names),
        scenes_from=material.scenes,
        scene_masks=material.scene_masks,
        backgrounds=backgrounds,
        settings=SwapSettings(
            objects=request.objects,
            seed=request.seed,
            batch_size=request.batch_size,
            precision=request.precision,
        ),
        work=request.out / "parts" / "swaps",
        out=request.out,
        report=report,
    )


def _explain(
    plan: AuditPlan,
    encoders: Sequence[Encoder],
    material: Material,
    found: Results,
    *,
    report: Report,
) -> None:
    request, said = plan.request, []
    for number, encoder in enumerate(encoders):
        part, images = judge_errors(request, encoder, material, number=number, report=report)
        found.sources.append(part)
        said.append(images)
    names = material.sample.name_classes(request.class_names)
    with torch.inference_mode():
        texts = [
            np.asarray(ensemble_prompts(one, names, plan.templates).float().cpu().numpy())
            for one in encoders
        ]
    found.images = show_telling(request, encoders, material, said=said, texts=texts)
