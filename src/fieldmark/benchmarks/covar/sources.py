"""BG-Er and Fine-Er by subset: what drove the errors of an encoder, each share beside its null.

Only errors are explained, and of each subset at most as many as asked, drawn by name; shares of all
images follow from the subset's error rate.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldmark.attribution.error_sources import Judgement, Rule, judge_maps, judge_removals
from fieldmark.attribution.fine_grained import find_similar_classes
from fieldmark.attribution.methods import require_support
from fieldmark.benchmarks.attribution.diagnosis_measure import (
    Material,
    Measurement,
    Report,
    measure_images,
)
from fieldmark.benchmarks.attribution.diagnosis_request import (
    DiagnosisRequest,
    make_diagnosis_plan,
)
from fieldmark.benchmarks.covar.candidates import Candidates
from fieldmark.benchmarks.covar.figures import name_column
from fieldmark.benchmarks.covar.request import CovarPlan
from fieldmark.core.errors import FieldmarkError
from fieldmark.core.seeds import derive_seed
from fieldmark.data.tables import ImageTable
from fieldmark.metrics.error_shares import SourceShare, summarise_sources
from fieldmark.models.encoder import Encoder

RESAMPLES = 1000


@dataclass(frozen=True, eq=False, kw_only=True)
class Likeness:
    """Which candidates look alike.

    Attributes:
        similar: (K,K), or None where nobody knows.
        notes: why not, or which names WordNet has not.
    """

    similar: NDArray[np.bool_] | None
    notes: tuple[str, ...]


def find_likeness(candidates: Candidates) -> Likeness:
    """Tell by WordNet which candidates look alike; without it no error is fine-grained."""
    try:
        found = find_similar_classes(candidates.names)
    except FieldmarkError as error:
        return Likeness(similar=None, notes=(f"fine-grained errors are not told apart: {error}",))
    missing = ", ".join(found.unknown)
    notes = (f"WordNet does not know these candidates: {missing}",) if missing else ()
    return Likeness(similar=np.asarray(found.similar, bool), notes=notes)


def order_rows(table: ImageTable, rows: Sequence[int], *, seed: int) -> list[int]:
    """Put rows in an order drawn by object and scene, in which all classes take turns.

    The first so many of each subset are the same compositions in all of them.

    Args:
        table: has objects and scenes.
        rows: of one subset.
        seed: of the run.
    """
    objects, scenes = table.objects or table.ids, table.scenes or ("",) * len(table)
    drawn = sorted(
        rows, key=lambda row: (derive_seed(seed, "covar order", objects[row], scenes[row]), row)
    )
    turns: dict[int, int] = {}
    ranked: list[tuple[int, int, int]] = []
    for row in drawn:
        label = int(table.labels[row])
        turns[label] = turns.get(label, -1) + 1
        ranked.append((turns[label], len(ranked), row))
    return [row for _, _, row in sorted(ranked)]


def choose_errors(
    table: ImageTable, errors: NDArray[np.bool_], *, most: int, seed: int
) -> list[int]:
    """Choose the errors that are explained: of each subset at most so many, 0 for all."""
    subsets = np.array(table.splits or ("",) * len(table))
    chosen: list[int] = []
    for name in dict.fromkeys(subsets.tolist()):
        rows = np.flatnonzero(errors & (subsets == name)).tolist()
        chosen += order_rows(table, rows, seed=seed)[: most or None]
    return sorted(chosen)


def explain_errors(
    plan: CovarPlan,
    encoder: Encoder,
    table: ImageTable,
    *,
    candidates: Candidates,
    texts: NDArray[np.float32],
    rows: Sequence[int],
    work: Path,
    report: Report,
) -> tuple[Measurement, tuple[Judgement, ...]]:
    """Measure and judge some errors by every rule of the plan.

    Args:
        plan: names the rules.
        encoder: which erred.
        table: all images, with masks.
        candidates: what it chose among.
        texts: (K,D) their embeddings.
        rows: the errors.
        work: folder where an unfinished run goes on.
        report: called with the phase, errors done and in all.

    Raises:
        NotApplicableError: the encoder gives no tokens, or images of several sizes.
        MaskError: a mask is missing.
    """
    request = plan.request
    inner = make_diagnosis_plan(
        DiagnosisRequest(
            model=encoder.spec.uri,
            data=str(request.data),
            out=work,
            rules=plan.rules,
            causal_draws=request.causal_draws,
            draws=request.draws,
            seed=request.seed,
            batch_size=request.batch_size,
        )
    )
    if inner.method is not None:
        require_support(encoder, inner.method)
    part = table.take(np.asarray(rows, np.int64))
    material = Material(
        table=part, masks=part.masks or (None,) * len(part), others=None, texts=texts
    )
    measured = measure_images(inner, encoder, material, report=report)
    judged = tuple(_judge(plan, part, measured, rule=rule) for rule in plan.rules)
    return measured, judged


def summarise_columns(
    table: ImageTable,
    errors: NDArray[np.bool_],
    rows: Sequence[int],
    *,
    judgement: Judgement,
    similar: NDArray[np.bool_] | None,
    columns: Sequence[str],
    parts: int,
    seed: int,
) -> dict[str, list[dict[str, Any]]]:
    """Return the shares of the sources by column: Table 4 of the paper.

    Args:
        table: all images.
        errors: (n,) which of them are named wrong.
        rows: those that were explained.
        judgement: of these.
        similar: of these, whether truth and prediction look alike.
        columns: of the table.
        parts: into how many the images were divided.
        seed: of the resampling.
    """
    of = np.array([name_column(name) for name in table.splits or ("",) * len(table)])
    mine, found = of[list(rows)], {}
    objects = table.objects or table.ids
    for column in columns:
        inside = np.flatnonzero(mine == column)
        shares = summarise_sources(
            judgement.verdicts[inside],
            np.ones(len(inside), bool),
            parts=parts,
            null=None if judgement.null is None else judgement.null[inside],
            similar=None if similar is None else similar[inside],
            objects=[objects[rows[k]] for k in inside.tolist()],
            seed=seed,
            resamples=RESAMPLES,
        )
        images = int((of == column).sum())
        rate = float(errors[of == column].mean()) if images else float("nan")
        found[column] = [_spread(share, shares, rate=rate) for share in shares]
    return found


def _spread(share: SourceShare, shares: Sequence[SourceShare], *, rate: float) -> dict[str, Any]:
    """Return a share as JSON values, of all images by the error rate."""
    lost = next(one.share for one in shares if one.source == "unresolvable")
    values = dataclasses.asdict(share)
    values["of_images"] = share.share * rate
    values["corrected_of_images"] = share.corrected * (1 - lost) * rate
    return values


def _judge(plan: CovarPlan, table: ImageTable, measured: Measurement, *, rule: Rule) -> Judgement:
    if rule == "causal":
        return judge_removals(measured.drops, measured.parts)
    return judge_maps(
        measured.maps,
        measured.parts,
        rule=rule,
        grid=measured.grid,
        ids=table.ids,
        clusters=measured.clusters if measured.clusters.shape[1] else None,
        draws=plan.request.draws,
        seed=plan.request.seed,
    )


def list_sources(found: Mapping[str, Sequence[Mapping[str, Any]]], source: str) -> dict[str, Any]:
    """Return one source by column.

    Example:
        >>> list_sources({"crop": [{"source": "background", "share": 0.5}]}, "background")
        {'crop': {'source': 'background', 'share': 0.5}}
    """
    return {c: next(dict(one) for one in shares if one["source"] == source)
            for c, shares in found.items()}  # fmt: skip
