"""Each method of a table against its best rival, on the same test images."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fieldmark.benchmarks.runner import Outcome
from fieldmark.benchmarks.store import Measured, Store
from fieldmark.core.records import ResultRow
from fieldmark.metrics.intervals import compare_worst_groups
from fieldmark.report.bench_notes import PairedTest

Line = tuple[str, str]  # recipe and head


@dataclass(frozen=True)
class _Table:
    """What is compared with each other."""

    dataset: str
    correlation: float
    split: str
    setting: str


def adjust_p_values(values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm 1979); NaN stays NaN and is not counted.

    Args:
        values: in [0, 1], or NaN.

    Example:
        >>> adjust_p_values([0.01, 0.04, 0.03, float("nan")])
        [0.03, 0.06, 0.06, nan]
    """
    known = sorted((value, i) for i, value in enumerate(values) if not math.isnan(value))
    adjusted, least = list(values), 0.0
    for rank, (value, i) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * value))
        adjusted[i] = least
    return adjusted


def compare_with_rivals(
    outcomes: Sequence[Outcome], store: Store, *, seed: int = 0
) -> list[dict[str, Any]]:
    """Compare the worst-group accuracy of each method with that of the best other one.

    The images of all seeds are taken together, those of one object as one draw. P-values are
    corrected over the methods of a table (Holm). Which rival is the best is read off the same test
    images, so the difference to it is, if anything, too small.

    Args:
        outcomes: finished jobs; those that measure no accuracy are left out.
        store: where they are.
        seed: of the resampling.

    Returns:
        One record for each method of each table, as `report.bench_notes.PairedTest` has it.
    """
    found = []
    for table, lines in _group(outcomes, store).items():
        best = sorted(lines, key=lambda line: -lines[line][0])
        if len(best) < 2:
            continue
        kept = {line: _load(lines[line][1], store, split=table.split) for line in best}
        tests = [_test(table, line, kept, best=best, seed=seed) for line in lines]
        values = adjust_p_values([test.p_value for test in tests])
        found += [{**asdict(t), "p_value": p} for t, p in zip(tests, values, strict=True)]
    return found


def _group(
    outcomes: Sequence[Outcome], store: Store
) -> dict[_Table, dict[Line, tuple[float, list[str]]]]:
    """Return for each table its lines, with their mean worst-group accuracy and their jobs."""
    worst: dict[_Table, dict[Line, list[tuple[float, str]]]] = defaultdict(dict)
    for outcome in outcomes:
        if outcome.job.measure != "accuracy":
            continue
        for row in _find_worst(store.read(outcome.key)):
            table = _Table(row.dataset, row.correlation, row.split, outcome.job.setting)
            line = (outcome.job.recipe, outcome.job.head)
            worst[table].setdefault(line, []).append((row.value, outcome.key))
    return {
        table: {
            line: (float(np.mean([value for value, _ in seeds])), [key for _, key in seeds])
            for line, seeds in lines.items()
            # A method that did not run with every seed is not compared on fewer images.
            if len(seeds) == max(map(len, lines.values()))
            and not any(math.isnan(value) for value, _ in seeds)
        }
        for table, lines in worst.items()
    }


def _find_worst(measured: Measured) -> Iterator[ResultRow]:
    return (row for row in measured.rows if row.metric == "acc_wg")


def _load(keys: Sequence[str], store: Store, *, split: str) -> dict[str, np.ndarray[Any, Any]]:
    parts = []
    for key in keys:
        one: Mapping[str, Any] = store.read(key).correct[split]
        clusters = one["clusters"] or [f"image {name}" for name in one["ids"]]
        parts.append({**{k: one[k] for k in ("groups", "strata", "correct")}, "clusters": clusters})
    return {
        name: np.concatenate([np.asarray(part[name]) for part in parts])
        for name in ("groups", "strata", "correct", "clusters")
    }


def _test(
    table: _Table,
    line: Line,
    kept: Mapping[Line, Mapping[str, np.ndarray[Any, Any]]],
    *,
    best: Sequence[Line],
    seed: int,
) -> PairedTest:
    rival = next(other for other in best if other != line)
    mine, theirs = kept[line], kept[rival]
    known = mine["groups"] >= 0
    found = compare_worst_groups(
        theirs["correct"][known] == 1,
        mine["correct"][known] == 1,
        mine["groups"][known],
        clusters=mine["clusters"][known],
        strata=mine["strata"][known],
        seed=seed,
    )
    return PairedTest(
        dataset=table.dataset,
        split=table.split,
        correlation=table.correlation,
        method=line[0],
        head=line[1],
        rival_method=rival[0],
        rival_head=rival[1],
        difference=found.value,
        ci_low=found.interval.low,
        ci_high=found.interval.high,
        p_value=found.p_value,
    )
