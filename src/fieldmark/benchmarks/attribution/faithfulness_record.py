"""Figures of a faithfulness run: areas with intervals, differences, localisation, costs.

    OUT/faithfulness.json    everything the page shows
    OUT/results.jsonl        one row a figure

Shape letters: n images, P points of a curve.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldmark.attribution.methods import METHODS
from fieldmark.attribution.protocols import CURVES, Protocol
from fieldmark.attribution.sanity import Check
from fieldmark.benchmarks.attribution.faithfulness_batches import Measured
from fieldmark.benchmarks.attribution.faithfulness_material import Material
from fieldmark.benchmarks.attribution.faithfulness_request import NULLS, REFERENCE
from fieldmark.core.records import ResultRow
from fieldmark.metrics.curves import Contrast, Mean, area_under, contrast_means, estimate_means
from fieldmark.report.faithfulness_parts import SCHEMA

SUITE = "faithfulness"
# Insertion less deletion: one figure for both, the higher the better.
GAP = "gap"
KINDS = (*CURVES, GAP)
_RETRIEVAL = {"accuracy@1": "text-retrieval@1", "accuracy@5": "text-retrieval@5"}
Floats = NDArray[np.float64]


def choose_headline(protocol: Protocol, scores: Sequence[str]) -> str:
    """Return the score that tables are sorted by, under the name it has in this run.

    Example:
        >>> choose_headline(Protocol(score="accuracy@5"), ["accuracy@1", "cosine"])
        'accuracy@1'
    """
    wanted = _RETRIEVAL.get(protocol.score, protocol.score)
    for name in (protocol.score, wanted, wanted.replace("@5", "@1"),
                 protocol.score.replace("@5", "@1")):  # fmt: skip
        if name in scores:
            return name
    return next(iter(scores))


def measure_areas(measured: Measured, *, protocol: Protocol) -> dict[str, dict[str, Floats]]:
    """Return the areas of each image by score and kind: (n,) each."""
    found: dict[str, dict[str, Floats]] = {}
    for name, curves in measured.curves.items():
        curve, _, score = name.partition("/")
        grid = protocol.grid("deletion" if curve == "deletion" else "insertion")
        found.setdefault(score, {})[curve] = area_under(curves, grid)
    return {
        score: {**kinds, GAP: kinds["insertion"] - kinds["deletion"]}
        for score, kinds in found.items()
    }


def describe_run(
    material: Material,
    measured: Mapping[str, Measured],
    *,
    skipped: Mapping[str, str],
    checks: Sequence[Check] = (),
    sanity_skipped: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return everything that was found, as values for JSON."""
    plan = material.plan
    protocol, objects = plan.protocol, material.table.objects or material.table.ids
    areas = {name: measure_areas(one, protocol=protocol) for name, one in measured.items()}
    scores = list(next(iter(areas.values())))
    headline, seed = choose_headline(protocol, scores), plan.request.seed
    means = {
        score: {kind: _estimate(areas, score, kind, objects, seed=seed) for kind in KINDS}
        for score in scores
    }
    best = {kind: find_best_null(means[headline], kind) for kind in KINDS}
    return {
        "schema": SCHEMA,
        **_describe_material(material),
        "headline": headline,
        "scores": scores,
        "reference": REFERENCE if REFERENCE in measured else None,
        "best_null": best,
        "methods": [
            {
                **_describe_method(name),
                "areas": {
                    score: {kind: _write_mean(means[score][kind][name]) for kind in KINDS}
                    for score in scores
                },
                "curves": _describe_curves(one, headline, objects, seed=seed),
                "localisation": _describe_places(one, objects, seed=seed),
                "cost": _describe_cost(one),
            }
            for name, one in measured.items()
        ],
        "contrasts": _contrast(areas, scores, objects, best=best, seed=seed),
        "skipped": dict(skipped),
        "sanity": [_write_check(check) for check in checks],
        "sanity_skipped": dict(sanity_skipped or {}),
    }


def _describe_material(material: Material) -> dict[str, Any]:
    plan, table = material.plan, material.table
    return {
        "model": plan.request.model,
        "dataset": table.name,
        "split": ", ".join(dict.fromkeys(table.splits or ())),
        "task": plan.request.task,
        "labels": plan.request.labels,
        "captions": material.texts.has_captions,
        "texts": list(material.texts.names),
        "images": len(table),
        "objects": len(set(table.objects or table.ids)),
        "protocol": plan.protocol.model_dump(),
        "changed": plan.protocol.changed(),
        "grids": {curve: plan.protocol.grid(curve).tolist() for curve in CURVES},
        "attribution": plan.config.model_dump(),
    }


def _describe_method(name: str) -> dict[str, Any]:
    method = METHODS[name]
    return {
        "name": name,
        "title": method.title,
        "is_null": method.is_null,
        "uses_text": method.uses_text,
    }


def _estimate(
    areas: Mapping[str, Mapping[str, Mapping[str, Floats]]],
    score: str,
    kind: str,
    objects: Sequence[str],
    *,
    seed: int,
) -> dict[str, Mean]:
    rows = np.stack([one[score][kind] for one in areas.values()])
    return dict(zip(areas, estimate_means(rows, objects, seed=seed), strict=True))


def find_best_null(means: Mapping[str, Mapping[str, Mean]], kind: str) -> str:
    """Return the null with the lowest deletion, or the highest insertion or gap."""
    present = [name for name in NULLS if name in means[kind]]
    choose = min if kind == "deletion" else max
    return choose(present, key=lambda name: means[kind][name].value)


def _contrast(
    areas: Mapping[str, Mapping[str, Mapping[str, Floats]]],
    scores: Sequence[str],
    objects: Sequence[str],
    *,
    best: Mapping[str, str],
    seed: int,
) -> list[dict[str, Any]]:
    """Compare every method with CCI and with the better null, by score and kind."""
    names, found = list(areas), []
    for score in scores:
        for kind in KINDS:
            rows = np.stack([areas[name][score][kind] for name in names])
            for against in dict.fromkeys((REFERENCE, best[kind])):
                if against not in names:
                    continue
                others = [name for name in names if name != against]
                pairs = [(names.index(name), names.index(against)) for name in others]
                contrasts = contrast_means(rows, objects, pairs=pairs, seed=seed)
                found += [
                    {"score": score, "kind": kind, "method": name, "against": against,
                     **_write_contrast(contrast)}
                    for name, contrast in zip(others, contrasts, strict=True)
                ]  # fmt: skip
    return found


def _describe_curves(
    measured: Measured, score: str, objects: Sequence[str], *, seed: int
) -> dict[str, list[dict[str, Any]]]:
    return {
        curve: [
            _write_mean(mean)
            for mean in estimate_means(
                measured.curves[f"{curve}/{score}"].T, objects, seed=seed, size=500
            )
        ]
        for curve in CURVES
    }


def _describe_places(measured: Measured, objects: Sequence[str], *, seed: int) -> dict[str, Any]:
    if not measured.localisation:
        return {}
    rows = np.stack(list(measured.localisation.values()))
    means = estimate_means(rows, objects, seed=seed)
    return {
        name: _write_mean(mean) for name, mean in zip(measured.localisation, means, strict=True)
    }


def _describe_cost(measured: Measured) -> dict[str, float]:
    count = len(measured.rows)
    return {
        "seconds": measured.seconds,
        "seconds_per_image": measured.seconds / count,
        "images_per_second": count / measured.seconds if measured.seconds > 0 else math.nan,
        "forwards": measured.forwards,
        "backwards": measured.backwards,
        "curve_forwards": measured.curve_forwards,
    }


def _write_mean(mean: Mean) -> dict[str, Any]:
    low, high = mean.interval
    return {
        "value": mean.value,
        "low": low,
        "high": high,
        "count": mean.count,
        "objects": mean.objects,
    }


def _write_contrast(contrast: Contrast) -> dict[str, Any]:
    return {
        "value": contrast.value,
        "low": contrast.interval.low,
        "high": contrast.interval.high,
        "simultaneous_low": contrast.simultaneous.low,
        "simultaneous_high": contrast.simultaneous.high,
        "count": contrast.count,
    }


def _write_check(check: Check) -> dict[str, Any]:
    return {
        "check": check.name,
        "method": check.method,
        "quantity": check.quantity,
        "share": check.share,
        "undefined": check.undefined,
        **_write_mean(check.mean),
    }


def list_rows(values: Mapping[str, Any], *, seed: int) -> Iterator[ResultRow]:
    """Yield a row for each figure of `describe_run`."""

    def make(method: str, metric: str, figure: Mapping[str, Any], setting: str = "") -> ResultRow:
        return ResultRow(
            suite=SUITE,
            dataset=values["dataset"],
            split=values["split"],
            encoder=values["model"],
            method=method,
            head=values["task"],
            setting=setting,
            metric=metric,
            seed=seed,
            value=figure["value"],
            ci_low=figure.get("low", math.nan),
            ci_high=figure.get("high", math.nan),
            count=figure.get("count", values["images"]),
        )

    for one in values["methods"]:
        for score, kinds in one["areas"].items():
            for kind, figure in kinds.items():
                yield make(one["name"], f"{kind}_auc", figure, score)
        for name, figure in one["localisation"].items():
            yield make(one["name"], f"mask_{name}", figure)
        for name, value in one["cost"].items():
            yield make(one["name"], name, {"value": value})
    for one in values["contrasts"]:
        metric = f"{one['kind']}_auc_minus:{one['against']}"
        yield make(one["method"], metric, one, one["score"])
    for one in values["sanity"]:
        share = "" if one["share"] is None else f"{one['share']:g} of the weights"
        yield make(one["method"], f"sanity_{one['check']}", one, share)
