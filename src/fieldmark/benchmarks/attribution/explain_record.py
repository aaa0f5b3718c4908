"""What `explanation.json` and `results.jsonl` hold of an explanation.

Shape letters: h and w rows and columns of the grid.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldmark.attribution.foreground import LEAST_SHARE, share_foreground
from fieldmark.attribution.methods import METHODS
from fieldmark.benchmarks.attribution.explain_material import Material
from fieldmark.benchmarks.attribution.explain_measure import Explained, MethodResult
from fieldmark.benchmarks.attribution.explain_pictures import (
    FOLDER,
    name_picture,
    scale_to_show,
)
from fieldmark.benchmarks.attribution.explain_request import ExplanationPlan
from fieldmark.core.records import ResultRow
from fieldmark.metrics.localisation import energy_in_mask

SUITE = "explain"
Shares = Mapping[int, NDArray[np.float32]]


def measure_masks(material: Material) -> dict[int, NDArray[np.float32]]:
    """Return the share of each patch (h,w) that the mask covers, for the images with a mask."""
    found = {}
    for row, picture in enumerate(material.pictures):
        if picture.mask is not None:
            grid = find_grid(material, row)
            share = share_foreground(picture.mask[None].cpu(), grid=grid)[0]
            found[row] = share.clamp(0, 1).numpy().astype(np.float32)
    return found


def find_grid(material: Material, row: int) -> tuple[int, int]:
    """Return rows and columns of an image's grid; NaFlex gives each image its own."""
    spec = material.encoder.spec
    if spec.resize != "naflex":
        return spec.grid
    patch = spec.image_size // spec.grid[0]
    height, width = material.pictures[row].pixels.shape[-2:]
    return height // patch, width // patch


def is_resolvable(share: NDArray[np.float32]) -> bool:
    """Say whether an object fills half of any patch; a smaller one no map can point at.

    Example:
        >>> is_resolvable(np.array([[0.2, 0.4]], np.float32))
        False
    """
    return bool((share >= LEAST_SHARE).any())


def measure_energy(one: Explained, *, place: int, share: NDArray[np.float32] | None) -> float:
    """Return the share of a map's positive part inside the mask; NaN where that says nothing."""
    if share is None or not is_resolvable(share):
        return math.nan
    return float(energy_in_mask(one.values[place][None], share[None])[0])


def describe(
    plan: ExplanationPlan,
    material: Material,
    *,
    results: Mapping[str, MethodResult],
    skipped: Mapping[str, str],
    shares: Shares,
) -> dict[str, Any]:
    """Return what `explanation.json` holds; NaN where a figure is undefined."""
    return {
        "model": material.encoder.spec.uri,
        "fingerprint": material.encoder.spec.fingerprint,
        "dataset": material.name,
        "split": plan.request.split or "",
        "texts": list(material.texts),
        "texts_are_classes": not material.has_words,
        "templates": [] if material.has_words else list(plan.templates),
        "attribution": plan.config.model_dump(),
        "methods": [_describe_method(name, result) for name, result in results.items()],
        "skipped": dict(skipped),
        "images": [
            _describe_image(material, row, results=results, share=shares.get(row))
            for row in range(len(material.pictures))
        ],
    }


def _describe_method(name: str, result: MethodResult) -> dict[str, Any]:
    method = METHODS[name]
    return {
        "name": name,
        "title": method.title,
        "summary": method.summary,
        "uses_text": method.uses_text,
        "is_null": method.is_null,
        "forwards": result.forwards,
        "backwards": result.backwards,
        "seconds": result.seconds,
    }


def _describe_image(
    material: Material,
    row: int,
    *,
    results: Mapping[str, MethodResult],
    share: NDArray[np.float32] | None,
) -> dict[str, Any]:
    picture, predicted = material.pictures[row], material.predictions[row]
    has_clusters = "cci" in results and results["cci"].images[row].clusters is not None
    area = None
    if share is not None:
        area = {
            "area": float(share.mean()),
            "patches": int((share >= LEAST_SHARE).sum()),
            "resolvable": is_resolvable(share),
        }
    return {
        "id": picture.identity,
        "path": str(picture.path),
        "grid": list(find_grid(material, row)),
        "truth": picture.truth,
        "predicted": predicted,
        "mask": area,
        "picture": f"{FOLDER}/{row}.png",
        "clusters_picture": f"{FOLDER}/{row}-clusters.png" if has_clusters else None,
        "clusters": _count_clusters(results["cci"].images[row]) if has_clusters else [],
        "texts": [
            {
                "text": text,
                "similarity": float(material.similarity[row, text]),
                "maps": {
                    name: _describe_map(
                        result.images[row], place=place, name=(row, text, name), share=share
                    )
                    for name, result in results.items()
                },
            }
            for place, text in enumerate(material.shown[row])
        ],
    }


def _count_clusters(one: Explained) -> list[int]:
    if one.clusters is None or one.drops is None:
        return []
    counts = np.bincount(one.clusters.ravel(), minlength=one.drops.shape[1])
    return [int(count) for count in counts]


def _describe_map(
    one: Explained,
    *,
    place: int,
    name: tuple[int, int, str],
    share: NDArray[np.float32] | None,
) -> dict[str, Any]:
    values = one.values[place]
    return {
        "lowest": float(values.min()),
        "highest": float(values.max()),
        "no_support": bool(one.no_support[place]),
        "stretched": scale_to_show(values)[1],
        "energy": measure_energy(one, place=place, share=share),
        "drops": None if one.drops is None else one.drops[place].tolist(),
        "picture": name_picture(*name),
        "signed_picture": name_picture(*name, signed=True) if values.min() < 0 else None,
    }


def list_rows(
    plan: ExplanationPlan,
    material: Material,
    *,
    results: Mapping[str, MethodResult],
    shares: Shares,
) -> Iterator[ResultRow]:
    """Yield similarity, drops and energy as rows of `results.jsonl`, and what methods cost."""
    blank = ResultRow(
        suite=SUITE,
        dataset=material.name,
        split=plan.request.split or "",
        encoder=material.encoder.spec.uri,
        seed=plan.request.seed,
        metric="",
    )
    for row, picture in enumerate(material.pictures):
        for place, text in enumerate(material.shown[row]):
            setting = f"image={picture.identity} text={material.texts[text]}"
            about = dataclasses.replace(blank, setting=setting, count=1)
            similarity = float(material.similarity[row, text])
            yield dataclasses.replace(about, metric="similarity", value=similarity)
            for name, result in results.items():
                one = dataclasses.replace(about, method=name)
                yield from _list_map(one, result.images[row], place=place, share=shares.get(row))
    for name, result in results.items():
        for metric in ("forwards", "backwards", "seconds"):
            value = getattr(result, metric)
            count = len(material.pictures)
            yield dataclasses.replace(
                blank, method=name, metric=f"{metric}_per_image", value=value, count=count
            )


def _list_map(
    blank: ResultRow, one: Explained, *, place: int, share: NDArray[np.float32] | None
) -> Iterator[ResultRow]:
    if one.drops is not None:
        for cluster, drop in enumerate(one.drops[place].tolist()):
            if math.isfinite(drop):
                yield dataclasses.replace(blank, metric=f"drop_of_cluster_{cluster}", value=drop)
    if share is not None:
        energy = measure_energy(one, place=place, share=share)
        count = int(math.isfinite(energy))
        yield dataclasses.replace(blank, metric="energy_in_mask", value=energy, count=count)
