"""Error sources of an audit, and its most telling images with their maps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fieldmark.attribution.attribute import attribute
from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.maps import clip_maps, enlarge_maps
from fieldmark.benchmarks.attribution.diagnosis import run_diagnosis
from fieldmark.benchmarks.attribution.diagnosis_masks import load_batch
from fieldmark.benchmarks.audit.draws import name_objects
from fieldmark.benchmarks.audit.material import Material, Report, make_diagnosis_request
from fieldmark.benchmarks.audit.request import AuditRequest
from fieldmark.core.atomic import replacing
from fieldmark.core.fetch import cache_dir
from fieldmark.core.records import RUN
from fieldmark.metrics.error_shares import (
    BACKGROUND,
    FINE_GRAINED,
    FOREGROUND,
    NOT_DECIDED,
    NOT_RESOLVED,
    OTHER_OBJECT,
)
from fieldmark.models.encoder import Encoder
from fieldmark.report.diagnosis_parts import read_diagnosis_parts
from fieldmark.report.heatmap import outline_mask, overlay_map

RULE = "causal"
PICTURES = "pictures"
_SIDE = 224
TITLES = {
    BACKGROUND: "the background",
    FOREGROUND: "the object",
    FINE_GRAINED: "the object, taken for a class that looks alike",
    OTHER_OBJECT: "another object",
    NOT_DECIDED: "neither more than the other",
    NOT_RESOLVED: "cannot be told at this size",
}


def judge_errors(
    request: AuditRequest,
    encoder: Encoder,
    material: Material,
    *,
    number: int,
    report: Report,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Say what drove the predictions on the sample, or read what an earlier run said.

    Args:
        request: the words.
        encoder: what is audited.
        material: its sample, all with masks.
        number: of the encoder.
        report: called with the phase, what is done and how much there is.

    Returns:
        The part for the record, and for each image what the diagnosis says of it.
    """
    folder = request.out / "parts" / f"diagnose-{number}"
    if not (folder / RUN).is_file():
        asked = make_diagnosis_request(
            request, request.models[number], out=folder, material=material
        )
        masked = dataclasses.replace(material.sample, masks=material.masks)
        run_diagnosis(asked, encoder=encoder, table=masked, report=report)
    parts = read_diagnosis_parts(folder)
    errors = parts.find(RULE, "errors")
    shares = []
    for name, share in errors.shares.items():
        figures = {
            "share": (share.share, share.interval),
            "null": (share.null, (math.nan, math.nan)),
            "corrected": (share.corrected, share.corrected_interval),
        }
        shares.append(
            {
                "source": name,
                "title": TITLES[name],
                **{
                    key: {"value": value, "low": low, "high": high, "count": share.of}
                    for key, (value, (low, high)) in figures.items()
                },
            }
        )
    part = {
        "encoder": number,
        "rule": RULE,
        "errors": errors.images,
        "images": len(material.sample),
        "page": f"parts/{folder.name}/report.html",
        "shares": shares,
    }
    return part, list(parts.values["predictions"])


def choose_telling(
    said: Sequence[Sequence[Mapping[str, Any]]], objects: Sequence[str], *, most: int
) -> list[tuple[int, str]]:
    """Choose the images that tell most, and say why.

    First come errors that the background drove, then right answers that it drove, then errors of
    the object, those where object and background lie furthest apart first; one image an object as
    long as there are others.

    Args:
        said: of each encoder, what its diagnosis says of each image; the first one chooses.
        objects: of each image.
        most: how many.

    Returns:
        Rows with a reason each.
    """
    ranked: list[tuple[int, float, int, str]] = []
    for row, one in enumerate(said[0]):
        wrong = one["predicted"] != one["label"]
        source = one["sources"][RULE]
        scores = [value for value in one["scores"][RULE] if value is not None]
        lead = max(scores) - min(scores) if len(scores) > 1 else 0.0
        if source == BACKGROUND:
            why = "wrong, and the background drove it" if wrong else "right, by the background"
            ranked.append((0 if wrong else 1, -lead, row, why))
        elif wrong:
            ranked.append((2, -lead, row, "wrong, and the object drove it"))
    seen: set[str] = set()
    first: list[tuple[int, str]] = []
    again: list[tuple[int, str]] = []
    for _, _, row, why in sorted(ranked):
        (again if objects[row] in seen else first).append((row, why))
        seen.add(objects[row])
    return [*first, *again][:most]


def show_telling(
    request: AuditRequest,
    encoders: Sequence[Encoder],
    material: Material,
    *,
    said: Sequence[Sequence[Mapping[str, Any]]],
    texts: Sequence[NDArray[np.float32]],
) -> list[dict[str, Any]]:
    """Draw the most telling images with the maps of each encoder.

    Args:
        request: the words.
        encoders: one or two.
        material: the sample.
        said: of each encoder, what its diagnosis says of each image.
        texts: (C,D) of each encoder, the prompt ensembles of the classes.
    """
    table = material.sample
    assert material.masks is not None
    chosen = choose_telling(said, name_objects(table), most=request.pictures)
    shown: list[dict[str, Any]] = []
    for place, (row, why) in enumerate(chosen):
        label = said[0][row]["label"]
        entry: dict[str, Any] = {
            "id": table.ids[row],
            "label": label,
            "object_area": said[0][row]["foreground_area"],
            "maps": [],
            "said": [],
            "why": why,
        }
        for number, encoder in enumerate(encoders):
            one = said[number][row]
            loaded = load_batch(encoder, table, rows=[row], masks=material.masks)
            pixels = loaded.images[0].permute(1, 2, 0).numpy()
            mask = loaded.masks[0].numpy() >= 0.5
            if number == 0:
                src = _save(outline_mask(pixels, mask), request.out, f"telling-{place}.jpg")
                entry["picture"] = {"src": src, "alt": f"{label}, the object outlined"}
            value = _map(request, encoder, loaded.images, texts[number], one, names=table.classes)
            heated = outline_mask(overlay_map(pixels, value), mask)
            src = _save(heated, request.out, f"telling-{place}-map-{number}.jpg")
            alt = f"what speaks for {one['predicted']} in this image of {label}, brightest most"
            entry["maps"].append({"encoder": number, "src": src, "alt": alt})
            entry["said"].append(
                {
                    "encoder": number,
                    "predicted": one["predicted"],
                    "score": one["similarity"],
                    "right": one["predicted"] == label,
                    "source": one["sources"][RULE],
                }
            )
        shown.append(entry)
    return shown


def _map(
    request: AuditRequest,
    encoder: Encoder,
    images: torch.Tensor,
    texts: NDArray[np.float32],
    one: Mapping[str, Any],
    *,
    names: Sequence[str],
) -> NDArray[np.float32]:
    text = torch.from_numpy(texts[names.index(one["predicted"])][None])
    found = attribute(
        encoder,
        images,
        text,
        config=AttributionConfig(batch_size=request.batch_size, seed=request.seed),
        ids=[one["image"]],
        cache=cache_dir() / "clusters",
    )
    size = (images.shape[2], images.shape[3])
    large: NDArray[np.float32] = enlarge_maps(
        torch.from_numpy(clip_maps(found.values[:, 0])), size=size
    )[0].numpy()
    return large


def _save(pixels: NDArray[np.uint8], out: Path, name: str) -> str:
    picture = Image.fromarray(pixels).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
    with replacing(out / PICTURES / name) as part:
        picture.save(part, "JPEG", quality=85)
    return f"{PICTURES}/{name}"
