"""Accuracy of an audit: zero-shot and probe, by class and group, and on the usual background."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldmark.benchmarks.audit.material import LeftOut, Material, leave_out
from fieldmark.benchmarks.audit.request import AuditPlan
from fieldmark.benchmarks.evaluate import ALL, Evaluation, evaluate
from fieldmark.benchmarks.predictions import Predictions, name_clusters
from fieldmark.core.errors import FieldmarkError
from fieldmark.core.fetch import cache_dir
from fieldmark.core.records import ResultRow
from fieldmark.data.tables import ImageTable
from fieldmark.metrics.aligned_gap import AlignedGap, find_usual, measure_aligned_gap
from fieldmark.metrics.intervals import estimate_groups
from fieldmark.models.embed import Progress
from fieldmark.models.encoder import Encoder

# The probe of a few steps that the papers use answers by chance on few images, and then leans on
# backgrounds that no class goes with; the convex one ends where the loss is least.
ZERO_SHOT, PROBE = "zero-shot", "convex-probe"
Predict = Callable[[NDArray[np.float32]], NDArray[np.int64]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Accuracy:
    """What one encoder says of the judged images.

    Attributes:
        parts: for the record, one for each head.
        rows: for `results.jsonl`.
        heads: what turns embeddings into classes, by name.
        said: what they say of the judged images.
        gaps: by head, accuracy on the usual background of a class less that on others; none where
            backgrounds are not named or none is usual.
        left_out: heads that could not be had.
    """

    parts: tuple[dict[str, Any], ...]
    rows: tuple[ResultRow, ...]
    heads: Mapping[str, Predict]
    said: Mapping[str, Predictions]
    gaps: Mapping[str, AlignedGap]
    left_out: tuple[LeftOut, ...]


def measure_accuracy(
    plan: AuditPlan,
    encoder: Encoder,
    material: Material,
    *,
    number: int,
    progress: Progress | None = None,
) -> Accuracy:
    """Judge an encoder by zero-shot and, where the data bear it, by a linear probe.

    Args:
        plan: the words.
        encoder: what is judged.
        material: the images.
        number: of the encoder, for the record.
        progress: called with how many images are embedded and how many there are.
    """
    tables = {ZERO_SHOT: (material.judged, material.split or ALL)}
    if material.probed is not None:
        tables[PROBE] = (material.probed, material.probe_split)
    parts, rows, heads, answers, gaps, left = [], list[ResultRow](), {}, {}, {}, []
    for head, (table, split) in tables.items():
        try:
            found = _evaluate(plan, encoder, table, head=head, split=split, progress=progress)
        except FieldmarkError as error:
            if head == ZERO_SHOT:
                raise
            left.append(leave_out("probe", error))
            continue
        said = answers[head] = found.predictions[0]
        parts.append(_describe(said, found, number=number))
        # BSI belongs to no head: it is told once.
        rows += [row for row in found.rows if row.head or head == ZERO_SHOT]
        heads[head] = next(iter(found.heads.values())).predict
        gap = _measure_gap(said, material.train, seed=plan.request.seed)
        if not math.isnan(gap.gap):
            gaps[head] = gap
    return Accuracy(
        parts=tuple(parts),
        rows=tuple(rows),
        heads=heads,
        said=answers,
        gaps=gaps,
        left_out=tuple(left),
    )


def _evaluate(
    plan: AuditPlan,
    encoder: Encoder,
    table: ImageTable,
    *,
    head: str,
    split: str,
    progress: Progress | None,
) -> Evaluation:
    request = plan.request
    return evaluate(
        encoder,
        table,
        heads=[head],
        seeds=[request.seed],
        test_splits=[split],
        class_names=request.class_names or None,
        templates=plan.templates,
        suite="audit",
        cache=cache_dir() / "embeddings",
        batch_size=request.batch_size,
        precision=request.precision,
        progress=progress,
    )


def _describe(said: Predictions, found: Evaluation, *, number: int) -> dict[str, Any]:
    """Return the figures of one head as the record has them."""
    table = said.split.table
    figures = {row.metric: row for row in found.rows if row.head == said.head}
    groups = list(_list_groups(table, figures))
    worst = figures["acc_wg"]
    # NaN compares as neither less nor more, so a group without images must not come in.
    known = [one for one in groups if one["figure"]["count"]]
    lowest = min(known, key=lambda one: float(one["figure"]["value"]), default=None)
    return {
        "encoder": number,
        "head": said.head,
        "average": _figure(figures["acc_avg"]),
        "worst_group": _figure(worst),
        "worst_group_name": None if lowest is None else lowest["name"],
        "groups": groups,
        "classes": _describe_classes(said),
    }


def _list_groups(table: ImageTable, figures: Mapping[str, ResultRow]) -> Iterator[dict[str, Any]]:
    width = len(table.attribute_names)
    for group, name in sorted(table.group_names().items()):
        row = figures.get(f"acc_{name}")
        if row is not None:
            label, attribute = divmod(group, width) if width else (group, 0)
            yield {
                "name": name,
                "label": table.classes[label],
                "attribute": table.attribute_names[attribute] if width else None,
                "figure": _figure(row),
            }


def _describe_classes(said: Predictions) -> list[dict[str, Any]]:
    table = said.split.table
    clusters = name_clusters(table)
    found = estimate_groups(
        said.correct,
        table.labels,
        known=range(len(table.classes)),
        clusters=None if clusters is None else np.asarray(clusters),
        strata=table.labels,
        seed=said.seed,
    )
    return [
        {
            "name": table.classes[label],
            "figure": {
                "value": one.value,
                "low": one.interval.low,
                "high": one.interval.high,
                "count": one.count,
            },
        }
        for label, one in found.groups.items()
    ]


def _figure(row: ResultRow) -> dict[str, Any]:
    return {"value": row.value, "low": row.ci_low, "high": row.ci_high, "count": row.count}


def _measure_gap(said: Predictions, train: ImageTable | None, *, seed: int) -> AlignedGap:
    """Compare images on the usual background of their class with the others.

    What is usual is told by the training images, or without those by the judged ones.
    """
    table = said.split.table
    nothing = np.full(len(table), -1, np.int64)
    if table.attributes is None:
        return measure_aligned_gap(said.correct, table.labels, nothing)
    told = table if train is None or train.attributes is None else train
    assert told.attributes is not None
    usual = find_usual(told.labels, told.attributes)
    sides = [
        -1 if attribute < 0 or label not in usual else int(usual[label] == attribute)
        for label, attribute in zip(table.labels.tolist(), table.attributes.tolist(), strict=True)
    ]
    clusters = name_clusters(table)
    return measure_aligned_gap(
        said.correct,
        table.labels,
        np.array(sides, np.int64),
        objects=None if clusters is None else np.asarray(clusters),
        seed=seed,
    )
