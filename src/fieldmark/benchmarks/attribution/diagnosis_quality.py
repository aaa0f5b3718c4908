"""How good the masks of a diagnosis are, and whether its findings stand when they are moved.

Every mask is looked at, given or made. Those that are off stay in, counted with the reason. Then
all masks are eroded and dilated, and the decisions of each rule on maps that change are counted
(facts/attribution.md section 5: the background's share should move by fewer than 2 points). The
causal rule would cost new forwards for every radius, so it is left out.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fieldmark.attribution.error_sources import divide_patches, judge_maps
from fieldmark.benchmarks.attribution.diagnosis_masks import load_batch
from fieldmark.benchmarks.attribution.diagnosis_measure import Material, Measurement
from fieldmark.benchmarks.attribution.diagnosis_request import DiagnosisRequest
from fieldmark.core.errors import MaskError
from fieldmark.core.records import ResultRow
from fieldmark.core.seeds import generator
from fieldmark.data.images import read_grey
from fieldmark.data.mask_quality import (
    MOST_MOVE,
    MaskQuality,
    QualityLimits,
    Stability,
    check_mask,
    measure_stability,
)
from fieldmark.data.masks import Mask
from fieldmark.metrics.overlap import UNRESOLVABLE, MapRule
from fieldmark.models.encoder import Encoder

RADII = (1, 2, 4, 8)
# Errors whose masks are moved at most: nine divisions of each, masks of all in memory.
MOST_MOVED = 1000
_BATCH = 32


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskReport:
    """What the masks of a diagnosis are like.

    Attributes:
        qualities: n, one for each image.
        scores: n, how sure the source of automatic masks is; NaN where nobody says.
        notes: n, what the source finds odd, "" if nothing.
        moved: how many errors had their masks moved.
        stability: by rule on maps, over these errors.
    """

    qualities: tuple[MaskQuality, ...]
    scores: tuple[float, ...]
    notes: tuple[str, ...]
    moved: int
    stability: Mapping[MapRule, Stability]


def check_masks(
    paths: Sequence[Path | None], *, others: Sequence[Path | None] | None = None
) -> tuple[MaskQuality, ...]:
    """Look at each mask at its own size.

    Args:
        paths: of the masks.
        others: second masks of the same images to compare with, None where there is none.

    Raises:
        ImageError: a mask cannot be read.
        MaskError: two masks of an image differ in size.
    """
    found = []
    for row, path in enumerate(paths):
        assert path is not None, "images without a mask were left out before"
        second = None if others is None else others[row]
        other = None if second is None else _read(second)
        try:
            found.append(check_mask(_read(path), other=other))
        except MaskError as error:
            mend = "use masks made for one image"
            raise MaskError(error.problem, where=second or path, mend=mend) from error
    return tuple(found)


def name_reasons(quality: MaskQuality, *, limits: QualityLimits | None = None) -> tuple[str, ...]:
    """Name what is off with a mask in words that can be counted; nothing for a good one.

    Example:
        >>> name_reasons(check_mask(np.full((4, 4), 255, np.uint8)))
        ('no background',)
    """
    at = limits or QualityLimits()
    if quality.area in (0, 1):
        return ("no object" if quality.area == 0 else "no background",)
    tests = {
        "object very small": quality.area < at.least_area,
        "object nearly the whole image": quality.area > at.most_area,
        "in fragments": quality.main < at.least_main,
        "large holes": quality.hole_area > at.most_holes,
        "ragged outline": quality.solidity < at.least_solidity,
        "unlike the given mask": quality.overlap < at.least_overlap,
    }
    return tuple(name for name, is_off in tests.items() if is_off)


def measure_rules(
    request: DiagnosisRequest, encoder: Encoder, material: Material, measured: Measurement
) -> tuple[int, dict[MapRule, Stability]]:
    """Move the masks of the errors and count the verdicts that change, by each rule on maps.

    Masks are moved on the encoder's input, so that a pixel means the same for every image. Of more
    than 1,000 errors that many are drawn.

    Returns:
        How many errors had their masks moved, and by rule how their verdicts moved; a verdict is
        whether the background drives the prediction, NaN where an image is not resolvable.
    """
    rules: list[MapRule] = [rule for rule in request.rules if rule != "causal"]
    rows = np.flatnonzero(measured.predictions != material.table.labels)
    if len(rows) > MOST_MOVED:
        drawn = generator(request.seed, "moved masks").choice(rows, MOST_MOVED, replace=False)
        rows = np.sort(drawn)
    if not rules or not len(rows):
        return 0, {}
    masks, others = _load_masks(encoder, material, rows.tolist())
    ids = [material.table.ids[row] for row in rows.tolist()]
    found = {
        rule: measure_stability(
            masks, _decide_by(rule, measured, others, rows=rows, ids=ids), radii=RADII
        )
        for rule in rules
    }
    return len(rows), found


def list_quality_rows(report: MaskReport, *, blank: ResultRow, method: str) -> Iterator[ResultRow]:
    """Yield the shares of masks by verdict, and how far each rule's verdicts move, as rows.

    Args:
        report: of the masks.
        blank: with what all rows of the run share.
        method: of the maps.
    """
    count = len(report.qualities)
    for verdict, number in count_verdicts(report).items():
        share = number / count if count else math.nan
        yield dataclasses.replace(blank, metric=f"masks_{verdict}", value=share, count=count)
    for rule, found in report.stability.items():
        mine = dataclasses.replace(blank, method=method)
        for place, radius in enumerate(found.radii):
            for name, values in (("flipped", found.flipped), ("moved", found.moved)):
                yield dataclasses.replace(
                    mine,
                    setting=f"rule={rule},mask-radius={radius:+d}",
                    metric=f"background_{name}_errors",
                    value=float(values[place]),
                    count=int(found.counts[place]),
                )
        yield dataclasses.replace(
            mine,
            setting=f"rule={rule}",
            metric="background_largest-move_errors",
            value=found.largest_move,
            count=found.count,
        )


def count_verdicts(report: MaskReport) -> dict[str, int]:
    """Count the masks that are good, suspect and unusable."""
    counted = Counter(one.verdict for one in report.qualities)
    return {name: counted[name] for name in ("good", "suspect", "unusable")}


def note_masks(report: MaskReport, *, source: str) -> Iterator[str]:
    """Yield what the masks take from the findings: no person drew them, or many are off."""
    if source != "given":
        yield f"no person drew the masks: {source} did, so look at some before you believe a share"
    counts = count_verdicts(report)
    if counts["suspect"] or counts["unusable"]:
        yield (
            f"of {len(report.qualities)} masks {counts['suspect']} are suspect and "
            f"{counts['unusable']} unusable; their images are counted all the same"
        )
    unstable = [
        f"{rule} (up to {100 * found.largest_move:.1f})"
        for rule, found in report.stability.items()
        if found.largest_move >= MOST_MOVE
    ]
    if unstable:
        yield (
            f"the background's share by {' and '.join(unstable)} rests on where the masks end: "
            f"it moves by 2 points or more when they are eroded or dilated by 1 to {RADII[-1]} px"
        )


def describe_masks(
    report: MaskReport, *, source: str, settings: Mapping[str, Any], side: int
) -> dict[str, Any]:
    """Return what `diagnosis.json` says of the masks.

    Args:
        report: of the masks.
        source: `given`, or the name of what drew them.
        settings: of the source.
        side: of the encoder's input in pixels, the unit of the radii.
    """
    reasons = Counter(name for one in report.qualities for name in name_reasons(one))
    overlaps = [one.overlap for one in report.qualities if math.isfinite(one.overlap)]
    scores = [score for score in report.scores if math.isfinite(score)]
    return {
        "source": source,
        "automatic": source != "given",
        "settings": dict(settings),
        "counts": count_verdicts(report),
        "reasons": dict(reasons.most_common()),
        "odd": dict(Counter(filter(None, report.notes)).most_common()),
        "overlap": {"mean": _mean(overlaps), "count": len(overlaps)},
        "score": {"mean": _mean(scores), "count": len(scores)},
        "input_side": side,
        "moved": report.moved,
        "stability": {
            rule: {
                **dataclasses.asdict(found),
                "largest_move": found.largest_move,
                "is_stable": found.is_stable,
            }
            for rule, found in report.stability.items()
        },
    }


def describe_mask(report: MaskReport, row: int) -> dict[str, Any]:
    """Return what `diagnosis.json` says of one image's mask."""
    found = dataclasses.asdict(report.qualities[row])
    return {**found, "score": report.scores[row], "note": report.notes[row]}


def _decide_by(
    rule: MapRule,
    measured: Measurement,
    others: torch.Tensor | None,
    *,
    rows: NDArray[np.int64],
    ids: Sequence[str],
) -> Callable[[list[Mask]], NDArray[np.float64]]:
    maps = measured.maps[rows]

    def decide(masks: list[Mask]) -> NDArray[np.float64]:
        targets = torch.from_numpy(np.stack(masks)).float() / 255
        parts = divide_patches(targets, grid=measured.grid, other_BHW=others)
        verdicts = judge_maps(
            maps, parts, rule=rule, grid=measured.grid, ids=ids, null="none"
        ).verdicts
        background = (verdicts == parts.shape[1] - 1).astype(np.float64)
        return np.where(verdicts == UNRESOLVABLE, np.nan, background)

    return decide


def _load_masks(
    encoder: Encoder, material: Material, rows: Sequence[int]
) -> tuple[list[Mask], torch.Tensor | None]:
    masks: list[Mask] = []
    others = []
    for start in range(0, len(rows), _BATCH):
        found = load_batch(
            encoder,
            material.table,
            rows=rows[start : start + _BATCH],
            masks=material.masks,
            others=material.others,
        )
        masks += list((found.masks * 255).round().to(torch.uint8).numpy())
        if found.others is not None:
            others.append(found.others)
    return masks, torch.cat(others) if others else None


def _read(path: Path) -> Mask:
    return np.asarray(read_grey(path))


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
