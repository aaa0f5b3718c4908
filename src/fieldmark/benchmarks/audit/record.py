"""What an audit keeps: its parts as they come in, its findings, `audit.json` and the rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from fieldmark.benchmarks.audit.accuracy import Accuracy
from fieldmark.benchmarks.audit.accuracy_change import compare_accuracy
from fieldmark.benchmarks.audit.advice import advise, write_command
from fieldmark.benchmarks.audit.draws import name_objects
from fieldmark.benchmarks.audit.findings import (
    Finding,
    beats_chance,
    compare_findings,
    make_finding,
    reach_verdict,
)
from fieldmark.benchmarks.audit.material import LeftOut, Material
from fieldmark.benchmarks.audit.regions import RegionSearch
from fieldmark.benchmarks.audit.request import AuditPlan, AuditRequest
from fieldmark.core.records import ResultRow
from fieldmark.models.encoder import Encoder

SUITE = "audit"


@dataclasses.dataclass(eq=False)
class Results:
    """What the parts of an audit came to, as they come in."""

    accuracy: list[Accuracy] = dataclasses.field(default_factory=list)
    regions: list[RegionSearch | None] = dataclasses.field(default_factory=list)
    sources: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    swaps: dict[str, Any] | None = None
    images: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    left_out: list[LeftOut] = dataclasses.field(default_factory=list)

    def leave_out(self, parts: Iterable[LeftOut]) -> None:
        """Say of parts that they were left out, once where both encoders lack them alike."""
        self.left_out += [one for one in parts if one not in self.left_out]


def list_findings(found: Results) -> Iterator[Finding]:
    """Yield what is to be judged."""
    sees = {
        (part["encoder"], part["head"]): beats_chance([one["figure"] for one in part["classes"]])
        for one in found.accuracy
        for part in one.parts
    }
    for result in (found.swaps or {}).get("results", ()):
        figure = {name: _undo_null(value) for name, value in result["gap"].items()}
        yield make_finding(
            "background_gap",
            encoder=result["encoder"],
            head=result["head"],
            figure=figure,
            p_value=_undo_null(result["gap_p_value"]),
            sees=sees[result["encoder"], result["head"]],
        )
    for number, one in enumerate(found.accuracy):
        for head, gap in one.gaps.items():
            low, high = gap.interval
            figure = {"value": gap.gap, "low": low, "high": high, "count": gap.count}
            yield make_finding(
                "group_gap",
                encoder=number,
                head=head,
                figure=figure,
                p_value=gap.p_value,
                sees=sees[number, head],
            )
    for number, search in enumerate(found.regions):
        if search is not None and search.lead is not None:
            yield make_finding(
                "region",
                encoder=number,
                head=None,
                figure=search.lead["gap"],
                p_value=search.lead["adjusted_p_value"],
            )


def _describe_changes(found: Results, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return what changes from a first encoder to a second."""
    if len(found.accuracy) == 1:
        return {"accuracy_changes": [], "changes": None}
    return {
        "accuracy_changes": compare_accuracy(*found.accuracy),
        "changes": compare_findings(findings, smaller=_list_smaller(found.swaps)),
    }


def _list_smaller(swaps: Mapping[str, Any] | None) -> list[str]:
    """Return the findings whose effect a second encoder makes smaller, paired by object."""
    differences = (swaps or {}).get("differences", ())
    return [
        f"background_gap:{one['head']}" for one in differences if _undo_null(one["gap"]["high"]) < 0
    ]


def _undo_null(value: float | None) -> float:
    return math.nan if value is None else value


def describe_audit(
    plan: AuditPlan,
    encoders: Sequence[Encoder],
    material: Material,
    *,
    found: Results,
    findings: Sequence[Finding],
    images: int,
) -> dict[str, Any]:
    """Return what `audit.json` holds."""
    request, judged = plan.request, material.judged
    numbers = range(len(encoders))
    labels = ("before", "after") if len(encoders) > 1 else ("encoder",)
    regions = [one.part for one in found.regions if one is not None]
    return {
        "model": request.model,
        "compare": request.compare,
        "encoders": [
            {"label": label, "uri": uri, "fingerprint": encoder.spec.fingerprint}
            for label, uri, encoder in zip(labels, request.models, encoders, strict=True)
        ],
        "dataset": judged.name,
        "split": material.split,
        "images": len(judged),
        "images_all": images,
        "sample": len(material.sample),
        "objects": None if judged.objects is None else len(set(name_objects(judged))),
        "classes": list(judged.classes),
        "attributes": list(judged.attribute_names),
        "mask_source": material.mask_source,
        "heads": list(found.accuracy[0].heads),
        "left_out": [dataclasses.asdict(one) for one in found.left_out],
        "accuracy": [part for one in found.accuracy for part in one.parts],
        "discovery": regions,
        "sources": found.sources,
        "swaps": found.swaps,
        "telling": found.images,
        "findings": list(findings),
        "margin": request.margin,
        "level": request.level,
        "verdict": [
            {"encoder": number, "state": reach_verdict(findings, encoder=number)}
            for number in numbers
        ],
        **_describe_changes(found, findings),
        "next": advise(request, material, findings=findings),
        "not_tested": _list_untested(request, material),
        "parts": _list_parts(regions, found.sources),
        "command": write_command(request),
    }


def _list_parts(
    regions: Sequence[Mapping[str, Any]], sources: Sequence[Mapping[str, Any]]
) -> list[dict[str, str]]:
    titles = {"discover": "regions that go with errors", "diagnose": "where errors come from"}
    return [
        {"title": titles[one["page"].split("/")[1].split("-")[0]], "page": one["page"]}
        for one in (*regions, *sources)
    ]


def _list_untested(request: AuditRequest, material: Material) -> list[str]:
    untested = [
        "Images of other places, cameras and seasons than these.",
        "Other words for the classes than the prompts that were used.",
        "Whatever depends on the object itself: its pose, its age, its parts.",
    ]
    if request.backgrounds is None:
        untested.append("Backgrounds that none of these images shows (--backgrounds adds some).")
    if material.mask_source not in ("given", "none"):
        untested.append(
            f"Whether the masks are right: {material.mask_source} drew them, nobody checked them."
        )
    return untested


def list_rows(
    request: AuditRequest,
    found: Results,
    findings: Sequence[Finding],
    encoders: Sequence[Encoder],
    *,
    dataset: str,
    split: str,
) -> Iterator[ResultRow]:
    """Yield accuracy and findings as rows of `results.jsonl`."""
    for one in found.accuracy:
        yield from one.rows
    for finding in findings:
        figure = finding["figure"]
        blank = ResultRow(
            suite=SUITE,
            dataset=dataset,
            split=split,
            encoder=encoders[finding["encoder"]].spec.uri,
            head=finding["head"] or "",
            seed=request.seed,
            metric=finding["kind"],
            value=figure["value"],
            ci_low=figure["low"],
            ci_high=figure["high"],
            count=figure["count"],
        )
        yield blank
        for name in ("p_value", "adjusted_p_value"):
            yield dataclasses.replace(
                blank,
                metric=f"{finding['kind']}_{name}",
                value=finding[name],
                ci_low=math.nan,
                ci_high=math.nan,
            )
