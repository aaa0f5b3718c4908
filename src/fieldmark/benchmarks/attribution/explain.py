"""Recorded runs of `fieldmark explain`: which parts of an image speak for a text.

OUT/explanation.json    images, texts, methods, flags, what a cluster is worth, costs
OUT/maps.safetensors    signed maps, clusters and drops, `IMAGE/METHOD/KIND`, and similarities
OUT/results.jsonl       similarity, drop of each cluster, energy in the mask
OUT/pictures/           overlays, see `explain_pictures`
OUT/report.html         the page
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from fieldmark.attribution.methods import METHODS, require_support
from fieldmark.benchmarks.attribution.explain_material import (
    Material,
    gather_material,
    open_images,
)
from fieldmark.benchmarks.attribution.explain_measure import (
    PARTS,
    MethodResult,
    explain_images,
    list_tensors,
    load_result,
    save_result,
)
from fieldmark.benchmarks.attribution.explain_pictures import FOLDER, draw_pictures
from fieldmark.benchmarks.attribution.explain_record import describe, list_rows, measure_masks
from fieldmark.benchmarks.attribution.explain_request import (
    ExplanationPlan,
    ExplanationRequest,
    make_explanation_plan,
)
from fieldmark.benchmarks.store import make_plain
from fieldmark.core.atomic import hash_json, replacing, write_json
from fieldmark.core.errors import NotApplicableError
from fieldmark.core.records import Run, start_run
from fieldmark.data.images import hash_image
from fieldmark.models.device import pick_device
from fieldmark.models.encoder import Encoder
from fieldmark.models.load import load_encoder
from fieldmark.report.explain_page import write_explanation_page
from fieldmark.report.explain_parts import RECORD, SCHEMA

MAPS = "maps.safetensors"
Report = Callable[[str, int, int], None]


def run_explanation(request: ExplanationRequest, *, report: Report | None = None) -> Path:
    """Explain images by texts and write maps, records, pictures and page.

    Args:
        request: what to explain, and how.
        report: called with the phase, what is done and how much there is.

    Returns:
        The folder of the run.

    Raises:
        UsageError: an option is lacking, out of its range or unknown, or the folder holds another
            run.
        InputError: an image, a mask or a text cannot be used.
        NotApplicableError: the encoder does not bear a method that was asked for by name, or none
            of all methods.
    """
    plan = make_explanation_plan(request)
    table = open_images(plan)
    encoder = load_encoder(request.model, device=pick_device(request.device))
    if plan.by_name:
        for name in plan.methods:
            require_support(encoder, METHODS[name])
    material = gather_material(plan, encoder, table)
    run = start_run(
        request.out,
        "explain",
        arguments={**request.arguments(), "templates": list(plan.templates)},
        seeds=[request.seed],
        resume=request.resume,
    )
    results, skipped = _explain(plan, material, report=report or (lambda phase, done, total: None))
    _keep(run, plan, material, results=results, skipped=skipped)
    _finish(run, material, encoder)
    return request.out


def _explain(
    plan: ExplanationPlan, material: Material, *, report: Report
) -> tuple[dict[str, MethodResult], dict[str, str]]:
    """Run the methods that the encoder bears; return what they found and why others were not run.

    Raises:
        NotApplicableError: by name, or where no method is left.
    """
    results: dict[str, MethodResult] = {}
    skipped: dict[str, str] = {}
    for done, name in enumerate(plan.methods):
        report(f"explaining by {name}", done, len(plan.methods))
        path = plan.request.out / PARTS / f"{name}.safetensors"
        try:
            require_support(material.encoder, METHODS[name])
            if not path.is_file():
                result = explain_images(material, method=name, config=plan.config)
                save_result(path, result, method=name)
            results[name] = load_result(path, method=name)
        except NotApplicableError as error:
            if plan.by_name:
                raise
            skipped[name] = error.problem
    report("explaining", len(plan.methods), len(plan.methods))
    if not results:
        raise NotApplicableError(
            "none of the methods can be run", where=material.encoder.spec.uri, mend="name one"
        )
    return results, skipped


def _keep(
    run: Run,
    plan: ExplanationPlan,
    material: Material,
    *,
    results: dict[str, MethodResult],
    skipped: dict[str, str],
) -> None:
    shares = measure_masks(material)
    record = describe(plan, material, results=results, skipped=skipped, shares=shares)
    write_json(run.out / RECORD, make_plain({"schema": SCHEMA, **record}))
    tensors: dict[str, NDArray[np.generic]] = {"similarities": material.similarity}
    for name, result in results.items():
        tensors |= list_tensors(result, method=name)
    for row, share in shares.items():
        tensors[f"{row}/mask"] = share
    names = [picture.identity for picture in material.pictures]
    with replacing(run.out / MAPS) as part:
        metadata = {
            "image_ids": json.dumps(names, ensure_ascii=False),
            "texts": json.dumps(list(material.texts), ensure_ascii=False),
            "texts_of_images": json.dumps([list(texts) for texts in material.shown]),
        }
        save_file(tensors, part, metadata=metadata)
    shutil.rmtree(run.out / FOLDER, ignore_errors=True)
    draw_pictures(run.out, material, results)
    run.add(list_rows(plan, material, results=results, shares=shares))


def _finish(run: Run, material: Material, encoder: Encoder) -> None:
    run.data = {
        "name": material.name,
        "images": len(material.pictures),
        "fingerprint": hash_json([hash_image(picture.path) for picture in material.pictures]),
    }
    run.weights = {"uri": encoder.spec.uri, "fingerprint": encoder.spec.fingerprint}
    run.finish(write_explanation_page)
    shutil.rmtree(run.out / PARTS, ignore_errors=True)
