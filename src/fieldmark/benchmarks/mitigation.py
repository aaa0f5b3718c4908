"""Recorded runs of `fieldmark mitigate`: train away what `fieldmark discover` found.

    OUT/encoder/           the trained encoder, in its library's own layout
    OUT/training/          checkpoint, losses and held-out losses
    OUT/mitigation.json    what was trained away and counted, every figure before and after
    OUT/results.jsonl      the same figures, a row each
    OUT/report.html        the page

Pixels are decoded once into the cache, embeddings are kept there, and training goes on from its
last checkpoint, so a run that was stopped goes on where it was, to the same weights on a CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fieldmark.benchmarks.mitigation_material import (
    Captions,
    Floats,
    Part,
    embed_captions,
    embed_part,
    prepare_parts,
    read_captions,
)
from fieldmark.benchmarks.mitigation_measure import (
    Figure,
    Measuring,
    Seen,
    list_rows,
    measure_change,
)
from fieldmark.benchmarks.mitigation_pictures import draw_regions
from fieldmark.benchmarks.mitigation_record import describe_run, list_notes
from fieldmark.benchmarks.mitigation_request import (
    MitigationPlan,
    MitigationRequest,
    make_mitigation_plan,
)
from fieldmark.benchmarks.pretraining import report_step
from fieldmark.benchmarks.store import make_plain
from fieldmark.core.atomic import hash_json, write_json
from fieldmark.core.errors import InputError, NotApplicableError
from fieldmark.core.fetch import cache_dir
from fieldmark.core.records import ResultRow, Run, start_run
from fieldmark.methods.mitigation.fine_tune import Mitigated, mitigate
from fieldmark.methods.mitigation.material import MitigationData
from fieldmark.models.device import pick_device
from fieldmark.models.embed import embed_images
from fieldmark.models.encoder import Encoder
from fieldmark.models.load import load_encoder
from fieldmark.models.prompts import ensemble_prompts
from fieldmark.report.mitigation_page import write_mitigation_page
from fieldmark.report.mitigation_parts import RECORD

SUITE = "mitigate"
# Called with a phase, what is done, how much there is, and a note.
Report = Callable[[str, int, int, str], None]


@dataclass(frozen=True, eq=False, kw_only=True)
class _Session:
    plan: MitigationPlan
    encoder: Encoder
    captions: Captions
    prototypes: Floats
    report: Report


def run_mitigation(request: MitigationRequest, *, report: Report | None = None) -> Path:
    """Fine-tune an encoder so that it ignores a discovered cluster, and measure what that changed.

    Args:
        request: what to train away, and how.
        report: called with the phase, what is done, how much there is, and a note.

    Returns:
        The folder of the run.

    Raises:
        UsageError: a word is off, or the folder holds another run.
        InputError: discovery, images or boxes cannot be used, or the model is not the one that was
            discovered on.
        NotApplicableError: nothing was discovered, or the data lack what the method needs.
    """
    plan = make_mitigation_plan(request)
    captions = read_captions(plan)
    encoder = load_encoder(request.model, device=pick_device(request.device))
    check_model(encoder, plan)
    with torch.inference_mode():
        made = ensemble_prompts(encoder, plan.record.class_names, plan.record.templates)
    session = _Session(
        plan=plan,
        encoder=encoder,
        captions=captions,
        prototypes=np.asarray(made.float().cpu().numpy()),
        report=report or (lambda phase, done, total, note: None),
    )
    return _run(session)


def check_model(encoder: Encoder, plan: MitigationPlan) -> None:
    """Raise unless a model is the one that was discovered on, or another one was allowed.

    Raises:
        InputError: its weights are others.
    """
    ours, theirs = encoder.spec.fingerprint, plan.record.fingerprint
    if ours != theirs and not plan.request.allow_other_model:
        raise InputError(
            f"its weights ({ours[:12]}) are not those that were discovered on ({theirs[:12]}, "
            f"{plan.record.model})",
            where=plan.request.model,
            mend="give that model, discover on this one, or add --allow-other-model",
        )


def _run(session: _Session) -> Path:
    plan, request, report = session.plan, session.plan.request, session.report
    run = start_run(
        request.out,
        SUITE,
        arguments={**request.arguments(), "discovery_record": plan.discovery_key},
        seeds=[request.seed],
        resume=request.resume,
    )
    parts = prepare_parts(
        plan, session.encoder, report=lambda phase, done, total: report(phase, done, total, "")
    )
    train = parts.pop(request.train_split)
    check_marks(train, method=request.method)
    before = {
        name: _see(session, session.encoder, part, when="before") for name, part in parts.items()
    }
    began = time.monotonic()
    trained = _train(session, train)
    seconds = time.monotonic() - began
    trained.encoder.save(request.out / "encoder")
    changes = {
        name: measure_change(
            _measure_by(session, part),
            before[name],
            _see(session, trained.encoder, part, when="after"),
        )
        for name, part in parts.items()
    }
    _write(session, run, train, parts=parts, trained=trained, changes=changes, seconds=seconds)
    return request.out


def check_marks(train: Part, *, method: str) -> None:
    """Raise unless a region of the training images is of a chosen cluster.

    Standard fine-tuning looks at no region, so it needs none.

    Raises:
        NotApplicableError: there is none.
    """
    if method != "standard" and not train.marked.any():
        clusters = ", ".join(map(str, train.chosen))
        raise NotApplicableError(
            f"none of {len(train.regions)} regions of split {train.name!r} is in cluster "
            f"{clusters}",
            where=train.table.name,
            mend="name another --cluster, or train on the images that were discovered on",
        )


def _train(session: _Session, train: Part) -> Mitigated:
    plan, captions = session.plan, session.captions
    data = MitigationData(
        pixels=train.pixels,
        captions=embed_captions(session.encoder, captions.texts, cache=cache_dir() / "embeddings"),
        labels=captions.labels,
        prototypes=session.prototypes,
        owners=train.regions.images,
        boxes=train.regions.boxes,
        spurious=train.marked,
    )
    return mitigate(
        session.encoder,
        data,
        method=plan.request.method,
        config=plan.config,
        seed=plan.request.seed,
        folder=plan.request.out / "training",
        progress=lambda at: report_step(session.report, "training", at),
    )


def _see(session: _Session, encoder: Encoder, part: Part, *, when: str) -> Seen:
    """Embed the images of a part and, by a trained encoder, its regions anew."""
    plan = session.plan
    untrained = encoder is session.encoder
    # What a run trained is of no use to another run.
    cache = cache_dir() / "embeddings" if untrained else None

    def tell(what: str) -> Callable[[int, int], None]:
        return lambda done, total: session.report(f"{what}, {when}", done, total, "")

    images = embed_images(
        encoder,
        part.stored,
        cache=cache,
        batch_size=plan.request.batch_size,
        precision=plan.precision,
        progress=tell(f"images of {part.name}"),
    ).values
    if untrained:
        return Seen(images, part.embeddings)
    regions = embed_part(
        encoder,
        part.stored,
        regions=part.regions,
        way=plan.record.way,
        batch_size=plan.request.batch_size,
        precision=plan.precision,
        cache=None,
        progress=tell(f"regions of {part.name}"),
    )
    return Seen(images, regions)


def _measure_by(session: _Session, part: Part) -> Measuring:
    record = session.plan.record
    return Measuring(
        part=part,
        prototypes=session.prototypes,
        names=tuple(zip(record.class_names, record.classes, strict=True)),
        selection=session.plan.selection,
        seed=session.plan.request.seed,
    )


def _write(
    session: _Session,
    run: Run,
    train: Part,
    *,
    parts: Mapping[str, Part],
    trained: Mitigated,
    changes: Mapping[str, Sequence[Figure]],
    seconds: float,
) -> None:
    plan, request = session.plan, session.plan.request
    spec = session.encoder.spec
    values = describe_run(
        plan, train, captions=session.captions, trained=trained, parts=parts, changes=changes
    )
    after = trained.encoder.spec.fingerprint
    notes = list_notes(plan, parts, fingerprint=spec.fingerprint)
    write_json(
        request.out / RECORD,
        make_plain({**values, "weights": [spec.fingerprint, after], "notes": notes}),
    )
    draw_regions(
        train,
        request.out / "page",
        medoids=plan.record.regions.medoids,
        spec=spec,
        most=request.gallery,
    )
    for name, figures in changes.items():
        blank = ResultRow(
            suite=SUITE,
            dataset=plan.table.name,
            split=name,
            encoder=request.model,
            method=request.method,
            metric="",
            seed=request.seed,
        )
        run.add(list_rows(figures, blank=blank))
    run.weights = {"before": spec.fingerprint, "after": after}
    run.data = _describe_data(plan, {train.name: train, **parts})
    run.notes = {"steps": len(trained.losses), "seconds of training": round(seconds, 1)}
    run.finish(write_mitigation_page)


def _describe_data(plan: MitigationPlan, parts: Mapping[str, Part]) -> dict[str, Any]:
    return {
        "name": plan.table.name,
        **{
            name: {"images": len(part.table), "content": hash_json(part.stored.hashes())}
            for name, part in parts.items()
        },
    }
