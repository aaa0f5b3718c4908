"""Recorded runs of `fieldmark diagnose`: what drove each prediction, object or background.

    OUT/diagnosis.json       shares by rule and group, and what each rule says of each image
    OUT/maps.safetensors     maps, clusters, parts of the grid and drops, by image
    OUT/results.jsonl        each share, its null, and what is left beyond chance
    OUT/report.html          the page

Images are measured a chunk at a time, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file

from fieldmark.attribution.methods import require_support
from fieldmark.benchmarks.attribution.diagnosis_judge import (
    HEAD,
    SUITE,
    Diagnosis,
    describe_summaries,
    judge_measurement,
    list_rows,
    list_sources,
)
from fieldmark.benchmarks.attribution.diagnosis_masks import Masked, choose_masks, find_masks
from fieldmark.benchmarks.attribution.diagnosis_measure import (
    Material,
    Measurement,
    Report,
    drop_chunks,
    measure_images,
)
from fieldmark.benchmarks.attribution.diagnosis_pictures import draw_diagnosis
from fieldmark.benchmarks.attribution.diagnosis_quality import (
    MaskReport,
    check_masks,
    describe_mask,
    describe_masks,
    list_quality_rows,
    measure_rules,
    note_masks,
)
from fieldmark.benchmarks.attribution.diagnosis_request import (
    DiagnosisPlan,
    DiagnosisRequest,
    make_diagnosis_plan,
)
from fieldmark.benchmarks.discovery import DEFAULT_SPLIT, select_split
from fieldmark.benchmarks.sources import open_table
from fieldmark.benchmarks.store import make_plain
from fieldmark.core.atomic import hash_json, replacing, write_json
from fieldmark.core.records import ResultRow, Run, start_run
from fieldmark.data.tables import ImageTable
from fieldmark.models.device import pick_device
from fieldmark.models.encoder import Encoder
from fieldmark.models.load import load_encoder
from fieldmark.models.prompts import ensemble_prompts
from fieldmark.report.diagnosis_page import write_diagnosis_page
from fieldmark.report.diagnosis_parts import RECORD, SCHEMA

MAPS = "maps.safetensors"


def run_diagnosis(
    request: DiagnosisRequest,
    *,
    encoder: Encoder | None = None,
    table: ImageTable | None = None,
    report: Report | None = None,
) -> Path:
    """Say of each prediction what drove it, and write records and page.

    Args:
        request: what to diagnose, and how.
        encoder: the one that the request names, where it is loaded already.
        table: the images that the request names, where they are open already.
        report: called with the phase, what is done and how much there is.

    Returns:
        The folder of the run.

    Raises:
        UsageError: an option is out of its range or unknown, or the folder holds another run.
        InputError: the images or the masks cannot be used.
        NotApplicableError: there are no masks, or the encoder does not bear the method.
    """
    plan = make_diagnosis_plan(request)
    table = table or select_split(open_table(request.data, root=request.root), request.split)
    names = table.name_classes(request.class_names)
    told = report or (lambda phase, done, total: None)
    masked = choose_masks(request, table, names=names, report=told)
    material = _gather(request, table, masked)
    encoder = encoder or load_encoder(request.model, device=pick_device(request.device))
    if plan.method is not None:
        require_support(encoder, plan.method)
    with torch.inference_mode():
        texts = ensemble_prompts(encoder, names, plan.templates).float().cpu().numpy()
    run = start_run(
        request.out,
        "diagnose",
        arguments={**request.arguments(), "templates": list(plan.templates)},
        seeds=[request.seed],
        resume=request.resume,
    )
    material = dataclasses.replace(material, texts=texts)
    measured = measure_images(plan, encoder, material, report=told)
    diagnosis = judge_measurement(plan, material.table, measured, names=names)
    masks = _inspect(request, encoder, masked, (material, measured))
    split = "" if table.splits is None else request.split or DEFAULT_SPLIT
    record = describe(plan, diagnosis, masks, masked=masked, encoder=encoder, split=split)
    write_json(request.out / RECORD, make_plain({"schema": SCHEMA, **record}))
    _write_maps(request.out / MAPS, measured, ids=material.table.ids)
    draw_diagnosis(diagnosis, encoder, material, out=request.out, gallery=request.gallery)
    run.add(list_rows(request, diagnosis, split=split, uri=encoder.spec.uri))
    run.add(_list_mask_rows(request, masks, table=table, split=split, uri=encoder.spec.uri))
    run.notes = {"left_out": masked.left_out, "masks": request.mask_source}
    _finish(run, material.table, encoder)
    drop_chunks(request.out)
    return request.out


def _finish(run: Run, table: ImageTable, encoder: Encoder) -> None:
    run.data = {
        "name": table.name,
        "images": len(table),
        "fingerprint": hash_json(list(table.hashes())),
    }
    run.weights = {"uri": encoder.spec.uri, "fingerprint": encoder.spec.fingerprint}
    run.finish(write_diagnosis_page)


def describe(
    plan: DiagnosisPlan,
    diagnosis: Diagnosis,
    masks: MaskReport,
    *,
    masked: Masked,
    encoder: Encoder,
    split: str,
) -> dict[str, Any]:
    """Return what `diagnosis.json` holds."""
    table, measured = diagnosis.table, diagnosis.measured
    area = measured.parts[:, 0].mean(axis=1)
    notes = list(diagnosis.notes)
    notes += note_masks(masks, source=plan.request.mask_source)
    if masked.left_out:
        notes.append(f"{len(masked.left_out)} images were left out: no mask, or not readable")
    return {
        **plan.request.arguments(),
        "fingerprint": encoder.spec.fingerprint,
        "dataset": table.name,
        "split": split,
        "classes": list(table.classes),
        "images": len(table),
        "errors": int(diagnosis.errors.sum()),
        "objects": None if table.objects is None else len(set(table.objects)),
        "grid": list(measured.grid),
        "foreground_area": {
            "mean": float(area.mean()),
            "median": float(np.median(area)),
        },
        "summaries": describe_summaries(diagnosis),
        "notes": notes,
        "left_out": masked.left_out,
        "mask_quality": describe_masks(
            masks,
            source=plan.request.mask_source,
            settings=masked.settings,
            side=encoder.spec.image_size,
        ),
        "predictions": _describe_predictions(diagnosis, masks, area=area),
    }


def _describe_predictions(
    diagnosis: Diagnosis, masks: MaskReport, *, area: NDArray[np.float64]
) -> list[dict[str, Any]]:
    table, measured = diagnosis.table, diagnosis.measured
    sources = {one.rule: list_sources(diagnosis, one) for one in diagnosis.judgements}
    return [
        {
            "image": table.ids[row],
            "label": table.classes[int(table.labels[row])],
            "predicted": table.classes[int(measured.predictions[row])],
            "similarity": float(measured.similarity[row]),
            "foreground_area": float(area[row]),
            "mask": describe_mask(masks, row),
            "sources": {rule: names[row] for rule, names in sources.items()},
            "scores": {one.rule: one.scores[row] for one in diagnosis.judgements},
        }
        for row in range(len(table))
    ]


def _gather(request: DiagnosisRequest, table: ImageTable, masked: Masked) -> Material:
    others: Sequence[Path | None] | None = None
    if request.other_masks is not None:
        found = find_masks(table, request.other_masks)
        others = [found[row] for row in masked.rows.tolist()]
    return Material(
        table=table.take(masked.rows),
        masks=masked.masks,
        others=others,
        texts=np.zeros((0, 0), np.float32),
    )


def _inspect(
    request: DiagnosisRequest,
    encoder: Encoder,
    masked: Masked,
    found: tuple[Material, Measurement],
) -> MaskReport:
    moved, stability = measure_rules(request, encoder, *found)
    count = len(masked.masks)
    return MaskReport(
        qualities=check_masks(masked.masks, others=masked.rivals),
        scores=tuple(one.score for one in masked.drawn) or (math.nan,) * count,
        notes=tuple(one.note for one in masked.drawn) or ("",) * count,
        moved=moved,
        stability=stability,
    )


def _list_mask_rows(
    request: DiagnosisRequest, masks: MaskReport, *, table: ImageTable, split: str, uri: str
) -> Iterator[ResultRow]:
    blank = ResultRow(
        suite=SUITE,
        dataset=table.name,
        split=split,
        encoder=uri,
        head=HEAD,
        seed=request.seed,
        metric="",
    )
    return list_quality_rows(masks, blank=blank, method=request.method)


def _write_maps(path: Path, measured: Measurement, *, ids: Sequence[str]) -> None:
    tensors = {
        "maps": measured.maps,
        "clusters": measured.clusters,
        "parts": measured.parts,
        "drops": measured.drops,
        "grid": np.asarray(measured.grid, np.int64),
    }
    with replacing(path) as part:
        save_file(
            {name: np.ascontiguousarray(value) for name, value in tensors.items()},
            part,
            metadata={"image_ids": json.dumps(list(ids), ensure_ascii=False)},
        )
