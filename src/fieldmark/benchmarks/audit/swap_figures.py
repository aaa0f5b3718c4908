"""The figures of background swaps as JSON values; what is undefined is null."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldmark.benchmarks.audit.swap_composites import Composites
from fieldmark.benchmarks.covar import figures
from fieldmark.metrics.background_gap import (
    ObjectAnswers,
    compare_background_gaps,
    estimate_mean,
    measure_background_gap,
    tabulate_objects,
)
from fieldmark.metrics.intervals import Estimate
from fieldmark.metrics.invariance import compare_parts, measure_sensitivity, score_additivity


@dataclass(frozen=True, eq=False, kw_only=True)
class EncoderAnswers:
    """What one encoder makes of the images.

    Attributes:
        embeddings: (n,D) of unit norm.
        predictions: head to the class of each image, (n,).
    """

    embeddings: NDArray[np.float32]
    predictions: Mapping[str, NDArray[np.int64]]


def plain_number(value: float) -> float | None:
    """Return a number for JSON, None for NaN.

    Example:
        >>> plain_number(0.5), plain_number(math.nan)
        (0.5, None)
    """
    return None if math.isnan(value) else float(value)


def plain_figure(estimate: Estimate | figures.Figure) -> dict[str, Any]:
    """Return a figure as JSON values."""
    low, high = estimate.interval
    return {
        "value": plain_number(estimate.value),
        "low": plain_number(low),
        "high": plain_number(high),
        "count": estimate.count,
    }


def tabulate_answers(composites: Composites, answers: EncoderAnswers) -> dict[str, ObjectAnswers]:
    """Sum up what the heads of one encoder say, by object."""
    rows = composites.find("same", "other")
    table = composites.table
    return {
        head: tabulate_objects(
            said[rows],
            other=composites.kinds[rows] == "other",
            objects=[(table.objects or table.ids)[row] for row in rows.tolist()],
            labels=table.labels[rows],
        )
        for head, said in answers.predictions.items()
    }


def list_results(
    tables: Sequence[Mapping[str, ObjectAnswers]], names: Sequence[str], *, seed: int
) -> list[dict[str, Any]]:
    """Return the BG-gap of every head of every encoder.

    Args:
        tables: of each encoder, by head.
        names: of the classes, as they are shown.
        seed: of the resampling.
    """
    found = []
    for encoder, heads in enumerate(tables):
        for head, table in heads.items():
            gap = measure_background_gap(table, seed=seed)
            shown = {name: plain_figure(getattr(gap, name))
                     for name in ("same", "other", "gap", "flip_rate")}  # fmt: skip
            by_class = [
                {"name": names[label], "gap": plain_figure(one)}
                for label, one in gap.by_class.items()
            ]
            found.append(
                {
                    "encoder": encoder,
                    "head": head,
                    **shown,
                    "gap_p_value": plain_number(gap.p_value),
                    "by_class": by_class,
                }
            )
    return found


def list_differences(
    tables: Sequence[Mapping[str, ObjectAnswers]], *, seed: int
) -> list[dict[str, Any]]:
    """Return what the second encoder has over the first, for the heads of both."""
    if len(tables) != 2:
        return []
    first, second = tables
    found = []
    for head in [name for name in first if name in second]:
        change = compare_background_gaps(first[head], second[head], seed=seed)
        found.append(
            {
                "head": head,
                "gap": plain_figure(change.gap),
                "flip_rate": plain_figure(change.flip_rate),
            }
        )
    return found


def describe_sensitivity(
    composites: Composites, answers: EncoderAnswers, *, encoder: int
) -> dict[str, Any]:
    """Return BSI between the scenes of an object's own class and those of others (BAP D.1)."""
    rows = composites.find("same", "other")
    found = measure_sensitivity(
        answers.embeddings[rows],
        composites.table.labels[rows],
        (composites.kinds[rows] == "other").astype(np.int64),
    )
    return {
        "encoder": encoder,
        "total": plain_number(found.total),
        "per_dimension": plain_number(found.per_dimension),
        "defined": found.defined,
        "count": found.count,
    }


def describe_additivity(
    composites: Composites, answers: EncoderAnswers, *, encoder: int, seed: int
) -> dict[str, Any]:
    """Return S, by object: is a composite the sum of the object on grey and the scene (BAP, 1)?"""
    alone, scenes = composites.find("alone"), composites.find("scene")
    swapped = composites.find("other")
    first = {int(composites.items[row]): int(row) for row in reversed(swapped.tolist())}
    wholes = [first[item] for item in composites.items[alone].tolist()]
    values = answers.embeddings
    scores = score_additivity(values[wholes], values[alone], values[scenes])
    parts = compare_parts(values[alone], values[scenes])
    known = parts[~np.isnan(parts)]
    labels = composites.table.labels[alone]
    mean = estimate_mean(scores, labels, share=False, seed=seed, name="additivity")
    return {
        "encoder": encoder,
        "figure": plain_figure(mean),
        "parts": plain_number(float(known.mean()) if len(known) else math.nan),
    }
