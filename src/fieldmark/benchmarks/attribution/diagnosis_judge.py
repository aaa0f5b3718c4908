"""Judge what was measured by every rule asked for, and sum it up over errors, hits and groups."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldmark.attribution.error_nulls import swap_masks
from fieldmark.attribution.error_sources import Judgement, Rule, judge_maps, judge_removals
from fieldmark.attribution.fine_grained import find_similar_classes
from fieldmark.benchmarks.attribution.diagnosis_measure import Measurement
from fieldmark.benchmarks.attribution.diagnosis_request import DiagnosisPlan, DiagnosisRequest
from fieldmark.core.errors import FieldmarkError
from fieldmark.core.records import ResultRow
from fieldmark.data.tables import ImageTable
from fieldmark.metrics.error_shares import SourceShare, split_sources, summarise_sources

SUITE, HEAD = "diagnose", "zero-shot"
# By group fewer draws are enough for an interval on a page.
GROUP_RESAMPLES = 500


@dataclass(frozen=True, eq=False, kw_only=True)
class Group:
    """Some images that a table speaks of.

    Attributes:
        kind: `errors`, `hits`, or errors of a `class` or of an `attribute`.
        name: of the class or the attribute, else empty.
        number: its id, None for all images.
        chosen: (n,) which images.
    """

    kind: str
    name: str
    number: int | None
    chosen: NDArray[np.bool_]


@dataclass(frozen=True, eq=False, kw_only=True)
class Diagnosis:
    """Judgements and their summaries.

    Attributes:
        table: the images.
        measured: what was measured of them.
        judgements: one for each rule.
        similar: (n,) whether truth and prediction are alike, or None where nobody knows.
        summaries: by rule, each group with its shares.
        notes: what limits them.
    """

    table: ImageTable
    measured: Measurement
    judgements: tuple[Judgement, ...]
    similar: NDArray[np.bool_] | None
    summaries: Mapping[str, Sequence[tuple[Group, tuple[SourceShare, ...]]]]
    notes: tuple[str, ...]

    @property
    def errors(self) -> NDArray[np.bool_]:
        """(n,) which images are named wrong."""
        return np.asarray(self.measured.predictions != self.table.labels)


def judge_measurement(
    plan: DiagnosisPlan, table: ImageTable, measured: Measurement, *, names: Sequence[str]
) -> Diagnosis:
    """Judge by every rule of the plan and sum up.

    Args:
        plan: names rules and nulls.
        table: the images.
        measured: of the same images.
        names: of the classes, for their likeness.
    """
    request = plan.request
    judgements = tuple(_judge(request, table, measured, rule=rule) for rule in request.rules)
    alike, notes = _find_similar(request, names)
    similar = None if alike is None else alike[table.labels, measured.predictions]
    groups = list(_list_groups(table, errors=measured.predictions != table.labels))
    parts = measured.parts.shape[1]
    summaries = {
        one.rule: [
            (
                group,
                summarise_sources(
                    one.verdicts,
                    group.chosen,
                    parts=parts,
                    null=one.null,
                    # Of a hit truth and prediction are one class: nothing is fine-grained there.
                    similar=None if group.kind == "hits" else similar,
                    objects=table.objects,
                    seed=request.seed,
                    resamples=2000 if group.number is None else GROUP_RESAMPLES,
                ),
            )
            for group in groups
        ]
        for one in judgements
    }
    return Diagnosis(
        table=table,
        measured=measured,
        judgements=judgements,
        similar=similar,
        summaries=summaries,
        notes=(*notes, *_note(request, table, measured)),
    )


def list_sources(diagnosis: Diagnosis, judgement: Judgement) -> tuple[str, ...]:
    """Return the source of each image by a rule."""
    hit = ~diagnosis.errors
    similar = None if diagnosis.similar is None else diagnosis.similar & ~hit
    found = split_sources(
        judgement.verdicts, parts=diagnosis.measured.parts.shape[1], similar=similar
    )
    place = np.stack(list(found.values())).argmax(axis=0)
    return tuple(list(found)[one] for one in place.tolist())


def list_rows(
    request: DiagnosisRequest, diagnosis: Diagnosis, *, split: str, uri: str
) -> Iterator[ResultRow]:
    """Yield each figure as a row of `results.jsonl`."""
    blank = ResultRow(
        suite=SUITE,
        dataset=diagnosis.table.name,
        split=split,
        encoder=uri,
        head=HEAD,
        seed=request.seed,
        metric="",
    )
    images = len(diagnosis.table)
    accuracy = float((~diagnosis.errors).mean())
    yield dataclasses.replace(blank, metric="acc_avg", value=accuracy, count=images)
    for rule, groups in diagnosis.summaries.items():
        method = "token removal" if rule == "causal" else request.method
        for group, shares in groups:
            for share in shares:
                figures = {
                    "share": (share.share, *share.interval),
                    "null": (share.null, math.nan, math.nan),
                    "corrected": (share.corrected, *share.corrected_interval),
                    "share_of_images": (share.of_images, math.nan, math.nan),
                    "corrected_of_images": (share.corrected_of_images, math.nan, math.nan),
                }
                name = f"{group.kind}:{group.name}" if group.name else group.kind
                for figure, (value, low, high) in figures.items():
                    yield dataclasses.replace(
                        blank,
                        method=method,
                        setting=f"rule={rule}",
                        metric=f"{share.source}_{figure}_{name}".replace(" ", "-"),
                        group=group.number,
                        value=value,
                        ci_low=low,
                        ci_high=high,
                        count=images if figure.endswith("images") else share.of,
                    )


def describe_summaries(diagnosis: Diagnosis) -> dict[str, list[dict[str, Any]]]:
    """Return the summaries as JSON values."""
    return {
        rule: [
            {
                "kind": group.kind,
                "name": group.name,
                "number": group.number,
                "images": int(group.chosen.sum()),
                "sources": [dataclasses.asdict(share) for share in shares],
            }
            for group, shares in groups
        ]
        for rule, groups in diagnosis.summaries.items()
    }


def _judge(
    request: DiagnosisRequest, table: ImageTable, measured: Measurement, *, rule: Rule
) -> Judgement:
    if rule == "causal":
        return judge_removals(measured.drops, measured.parts)
    found = judge_maps(
        measured.maps,
        measured.parts,
        rule=rule,
        grid=measured.grid,
        ids=table.ids,
        clusters=measured.clusters if measured.clusters.shape[1] else None,
        null="none" if request.null == "masks" else request.null,
        draws=request.draws,
        seed=request.seed,
    )
    if request.null != "masks":
        return found
    swapped = swap_masks(
        measured.maps,
        measured.parts,
        rule=rule,
        ids=table.ids,
        draws=request.draws,
        seed=request.seed,
    )
    return dataclasses.replace(found, null=swapped)


def _find_similar(
    request: DiagnosisRequest, names: Sequence[str]
) -> tuple[NDArray[np.bool_] | None, tuple[str, ...]]:
    if request.similar == "none":
        return None, ("fine-grained errors are not told apart from other foreground errors",)
    try:
        found = find_similar_classes(names)
    except FieldmarkError as error:
        return None, (f"fine-grained errors are not told apart: {error}",)
    unknown = tuple(found.unknown)
    note = (f"WordNet does not know these classes: {', '.join(unknown)}",) if unknown else ()
    return np.asarray(found.similar, bool), note


def _list_groups(table: ImageTable, *, errors: NDArray[np.bool_]) -> Iterator[Group]:
    yield Group(kind="errors", name="", number=None, chosen=errors)
    yield Group(kind="hits", name="", number=None, chosen=~errors)
    for number, name in enumerate(table.classes):
        chosen = errors & (table.labels == number)
        yield Group(kind="class", name=name, number=number, chosen=chosen)
    if table.attributes is not None:
        for number, name in enumerate(table.attribute_names):
            chosen = errors & (table.attributes == number)
            yield Group(kind="attribute", name=name, number=number, chosen=chosen)


def _note(request: DiagnosisRequest, table: ImageTable, measured: Measurement) -> Iterator[str]:
    sizes = measured.parts.sum(axis=2)
    empty, full = int((sizes[:, 0] == 0).sum()), int((sizes[:, -1] == 0).sum())
    if empty or full:
        yield (
            f"{empty + full} of {len(table)} images are not resolvable: the object covers half of "
            f"no patch in {empty}, and leaves no patch to the background in {full}"
        )
    if "causal" in request.rules:
        bare = np.isnan(measured.drops[:, 0, 0]) & (sizes[:, 0] > 0) & (sizes[:, -1] > 0)
        if bare.any():
            yield (
                f"by the causal rule {int(bare.sum())} more are not: the object touches every "
                "patch, so that nothing is left without it"
            )
    if "causal" in request.rules and not request.causal_draws:
        yield (
            "the causal rule has no null here: --causal-draws removes random sets of patches of "
            "the same sizes, at about one forward a draw"
        )
    judged = [rule for rule in request.rules if rule != "causal"]
    if judged and request.null == "clusters" and not measured.clusters.shape[1]:
        yield (
            f"{request.method} has no clusters to shuffle, so the null is random Voronoi cells, "
            "which are not its own shapes"
        )
    if table.objects is None:
        yield "no column names the object, so intervals take the images for independent"
