"""Recorded runs of `fieldmark faithfulness`: which attribution method to believe.

    OUT/batches/METHOD/*.safetensors    maps and curves of each image, see `faithfulness_batches`
    OUT/faithfulness.json               areas, differences, curves, costs
    OUT/results.jsonl                   one row a figure
    OUT/report.html                     the page

Every batch of every method is kept at once, so a run that was stopped goes on where it was and
comes to the same figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from fieldmark.attribution.protocols import CURVES
from fieldmark.attribution.sanity import Check, check_sanity
from fieldmark.benchmarks.attribution.faithfulness_batches import (
    Measured,
    join_measured,
    measure_batches,
)
from fieldmark.benchmarks.attribution.faithfulness_material import (
    Material,
    choose_images,
    gather_material,
)
from fieldmark.benchmarks.attribution.faithfulness_record import describe_run, list_rows
from fieldmark.benchmarks.attribution.faithfulness_request import (
    NULLS,
    FaithfulnessRequest,
    Plan,
    make_plan,
)
from fieldmark.benchmarks.sources import open_table
from fieldmark.benchmarks.store import make_plain
from fieldmark.core.atomic import hash_json, write_json
from fieldmark.core.errors import NotApplicableError
from fieldmark.core.records import start_run
from fieldmark.data.tables import ImageTable
from fieldmark.models.device import pick_device
from fieldmark.models.encoder import Encoder
from fieldmark.models.load import load_encoder
from fieldmark.report.faithfulness_page import write_faithfulness_page
from fieldmark.report.faithfulness_parts import RECORD

# Sanity checks explain every image for several texts and with several towers.
SANITY_IMAGES = 16
# Called with a phase, what is done and how much there is.
Report = Callable[[str, int, int], None]


def run_faithfulness(request: FaithfulnessRequest, *, report: Report | None = None) -> Path:
    """Measure how faithful attribution methods are, and write records and page.

    Args:
        request: what to look at, and how.
        report: called with the phase, what is done and how much there is.

    Returns:
        The folder of the run.

    Raises:
        UsageError: an option is out of its range or unknown, or the folder holds another run.
        InputError: an image, a mask or a caption cannot be used.
        NotApplicableError: the tower bears none of the methods asked for.
    """
    plan = make_plan(request)
    table = choose_images(
        open_table(request.data, root=request.root),
        split=request.split,
        limit=request.limit,
        seed=request.seed,
    )
    encoder = load_encoder(request.model, device=pick_device(request.device))
    return run_plan(plan, encoder, table, report=report)


def run_plan(
    plan: Plan, encoder: Encoder, table: ImageTable, *, report: Report | None = None
) -> Path:
    """Run a plan on an encoder and images that are already there; see `run_faithfulness`."""
    request, tell = plan.request, report or (lambda phase, done, total: None)
    run = start_run(
        request.out,
        "faithfulness",
        arguments=request.arguments(),
        seeds=[request.seed],
        resume=request.resume,
    )
    material = gather_material(
        plan, encoder, table, report=lambda done, total: tell("images", done, total)
    )
    parts, skipped = measure_batches(
        material,
        plan.methods,
        out=request.out,
        report=lambda done, total: tell("maps and curves", done, total),
    )
    _require_some(parts, skipped)
    measured = {name: join_measured(some, count=len(table)) for name, some in parts.items()}
    checks, unchecked = _check(material, list(measured), report=tell)
    values = describe_run(
        material, measured, skipped=skipped, checks=checks, sanity_skipped=unchecked
    )
    write_json(request.out / RECORD, make_plain(values))
    run.add(list_rows(values, seed=request.seed))
    run.notes = {"skipped": skipped, "forwards": _count_forwards(measured)}
    run.data = {"name": table.name, "images": len(table), "content": hash_json(table.hashes())}
    run.weights = {"encoder": encoder.spec.fingerprint}
    run.finish(write_faithfulness_page)
    return request.out


def _require_some(parts: dict[str, list[Measured]], skipped: dict[str, str]) -> None:
    if not set(parts) - set(NULLS):
        reasons = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        raise NotApplicableError(
            f"none of the methods can be run ({reasons or 'only nulls were asked for'})",
            mend="name another with --methods",
        )


def _count_forwards(measured: dict[str, Measured]) -> dict[str, float]:
    """Return the forwards behind each image: those that all methods share, and all in all."""
    own = sum(one.forwards + one.curve_forwards for one in measured.values())
    return {"shared_per_image": 1.0 + len(CURVES), "per_image": own + 1.0 + len(CURVES)}


def _check(
    material: Material, methods: Sequence[str], *, report: Report
) -> tuple[list[Check], dict[str, str]]:
    """Run the sanity checks on the first images of each batch, if they were asked for."""
    plan, table = material.plan, material.table
    if not plan.request.sanity:
        return [], {}
    rows = material.batches[0][:SANITY_IMAGES].tolist()
    if len(material.batches) > 1:
        rows = sorted({int(row) for some in material.batches for row in some[:2]})[:SANITY_IMAGES]
    encoder = material.encoder
    found: list[Check] = []
    skipped: dict[str, str] = {}
    images = [encoder.preprocess(table.read(row)) for row in rows]
    kept = [place for place, image in enumerate(images) if image.shape == images[0].shape]
    rows = [rows[place] for place in kept]
    own = material.explained[rows]
    texts, truth = torch.unique(own, return_inverse=True)
    if len(texts) == 1:
        more = [text for text in range(len(material.texts.names)) if text != int(texts[0])]
        texts = torch.cat([texts, torch.tensor(more[:4], dtype=texts.dtype)])
    device = next(encoder.image_tower.parameters()).device
    for done, name in enumerate(methods):
        try:
            found += check_sanity(
                encoder,
                torch.stack([images[place] for place in kept]).to(device),
                material.texts.embeddings[texts].to(device),
                method=name,
                truth=truth.tolist(),
                config=plan.config,
                ids=[table.ids[row] for row in rows],
                objects=[table.objects[row] for row in rows] if table.objects else None,
            )
        except NotApplicableError as error:
            skipped[name] = str(error)
        report("sanity checks", done + 1, len(methods))
    return found, skipped
