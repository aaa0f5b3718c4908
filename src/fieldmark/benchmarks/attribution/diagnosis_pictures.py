"""Pictures of a diagnosis: the image as the encoder sees it, the object's outline, the map over it.

OUT/page/picture-7.jpg    image and map side by side
OUT/page/pictures.json    which strips there are, and what each picture shows
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fieldmark.attribution.error_sources import Judgement
from fieldmark.attribution.maps import clip_maps, enlarge_maps
from fieldmark.benchmarks.attribution.diagnosis_judge import Diagnosis, list_sources
from fieldmark.benchmarks.attribution.diagnosis_masks import load_batch
from fieldmark.benchmarks.attribution.diagnosis_measure import Material
from fieldmark.core.atomic import replacing, write_json
from fieldmark.metrics.error_shares import BACKGROUND, NOT_RESOLVED
from fieldmark.models.encoder import Encoder
from fieldmark.report.diagnosis_parts import PICTURES
from fieldmark.report.heatmap import outline_mask, overlay_map

SIDE = 224
_GAP = 6


def draw_diagnosis(
    diagnosis: Diagnosis, encoder: Encoder, material: Material, *, out: Path, gallery: int
) -> None:
    """Write pictures of the most telling images, and `pictures.json`.

    Args:
        diagnosis: what was found.
        encoder: whose input is shown.
        material: the images with their masks.
        out: folder of the run.
        gallery: pictures at most, 0 for none.
    """
    folder = out / "page"
    shutil.rmtree(folder, ignore_errors=True)
    sources = {one.rule: list_sources(diagnosis, one) for one in diagnosis.judgements}
    strips, most = [], max(1, gallery // 4) if gallery else 0
    for name, rows in choose_strips(diagnosis, sources):
        shown = [
            _draw(diagnosis, encoder, material, row=row, folder=folder, sources=sources)
            for row in rows[:most]
        ]
        strips.append({"name": name, "count": len(rows), "pictures": shown})
    write_json(folder / PICTURES, {"strips": strips})


def choose_strips(
    diagnosis: Diagnosis, sources: dict[str, tuple[str, ...]]
) -> Iterator[tuple[str, list[int]]]:
    """Yield strips of images, the clearest first: the lead of the winning part by the first rule.

    Yields:
        `background`: errors that all rules lay to the background. `foreground`: errors that none
        does. `disagree`: errors on which rules differ. `lucky`: hits by the background by all
        rules.
    """
    errors = diagnosis.errors
    resolved = np.array([name != NOT_RESOLVED for name in next(iter(sources.values()))])
    votes = np.array([[one == BACKGROUND for one in names] for names in sources.values()])
    every, none = votes.all(axis=0) & resolved, ~votes.any(axis=0) & resolved
    lead = _measure_lead(diagnosis.judgements[0])
    chosen = {
        "background": errors & every,
        "foreground": errors & none,
        "disagree": errors & resolved & ~every & ~none,
        "lucky": ~errors & every,
    }
    for name, which in chosen.items():
        rows = np.flatnonzero(which)
        order = np.argsort(-lead[rows], kind="stable")
        yield name, _spread(rows[order].tolist(), diagnosis.table.objects)


def _measure_lead(judgement: Judgement) -> NDArray[np.float64]:
    scores = np.sort(np.nan_to_num(judgement.scores, nan=-1.0), axis=1)
    return np.asarray(scores[:, -1] - scores[:, -2])


def _spread(rows: list[int], objects: Sequence[str] | None) -> list[int]:
    """Put one image of each object first: ten composites of one cut-out would show little."""
    if objects is None:
        return rows
    first: list[int] = []
    again: list[int] = []
    seen: set[str] = set()
    for row in rows:
        (again if objects[row] in seen else first).append(row)
        seen.add(objects[row])
    return [*first, *again]


def _draw(
    diagnosis: Diagnosis,
    encoder: Encoder,
    material: Material,
    *,
    row: int,
    folder: Path,
    sources: dict[str, tuple[str, ...]],
) -> dict[str, Any]:
    table, measured = diagnosis.table, diagnosis.measured
    loaded = load_batch(encoder, table, rows=[row], masks=material.masks)
    pixels = loaded.images[0].permute(1, 2, 0).numpy()
    outlined = outline_mask(pixels, loaded.masks[0].numpy() >= 0.5)
    panels = [outlined]
    if measured.maps.shape[1]:
        shown = clip_maps(measured.maps[row].reshape(1, *measured.grid))
        large = enlarge_maps(torch.from_numpy(shown), size=pixels.shape[:2])[0].numpy()
        heated = overlay_map(pixels, large)
        panels.append(outline_mask(heated, loaded.masks[0].numpy() >= 0.5))
    name = f"picture-{row}.jpg"
    with replacing(folder / name) as part:
        _join(panels).save(part, "JPEG", quality=88)
    return {
        "image": table.ids[row],
        "label": table.classes[int(table.labels[row])],
        "predicted": table.classes[int(measured.predictions[row])],
        "file": name,
        "says": {rule: names[row] for rule, names in sources.items()},
    }


def _join(panels: Sequence[NDArray[np.uint8]]) -> Image.Image:
    pictures = [
        Image.fromarray(panel).resize((SIDE, SIDE), Image.Resampling.BICUBIC) for panel in panels
    ]
    width = len(pictures) * SIDE + (len(pictures) - 1) * _GAP
    sheet = Image.new("RGB", (width, SIDE), "white")
    for number, picture in enumerate(pictures):
        sheet.paste(picture, (number * (SIDE + _GAP), 0))
    return sheet
