"""Curves of deletion and insertion with their bands."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fieldmark.report.curves import Axis, draw_sweep
from fieldmark.report.faithfulness_parts import FaithfulnessParts
from fieldmark.report.sweeps import Series, SweepPoint

# A line has a marker at each point, so more than these would hide it.
MOST_POINTS = 11
MOST_LINES = 6
CURVES = ("deletion", "insertion")


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A drawing with what is written above it."""

    caption: str
    remark: str
    drawing: Markup


def draw_overview(parts: FaithfulnessParts) -> tuple[Panel, ...]:
    """Draw the best methods and the nulls, deletion and insertion side by side."""
    nulls = [one for one in parts.methods if one["is_null"]]
    real = [one for one in parts.methods if not one["is_null"]]
    reference = [one for one in real if one["name"] == parts.values["reference"]]
    best = [one for one in real if one not in reference][: MOST_LINES - len(nulls) - len(reference)]
    chosen = [one for one in parts.methods if one in best or one in reference or one in nulls]
    return tuple(
        Panel(
            caption=curve.capitalize(),
            remark="the lower the better" if curve == "deletion" else "the higher the better",
            drawing=_draw(parts, chosen, curve=curve, identifier=f"all-{curve}"),
        )
        for curve in CURVES
    )


def draw_methods(parts: FaithfulnessParts) -> tuple[Panel, ...]:
    """Draw each method beside the better null."""
    panels = []
    for one in parts.methods:
        if one["is_null"]:
            continue
        for curve in CURVES:
            null = parts.values["best_null"][curve]
            pair = [one, *(other for other in parts.methods if other["name"] == null)]
            panels.append(
                Panel(
                    caption=f"{one['title']}, {curve}",
                    remark="",
                    drawing=_draw(parts, pair, curve=curve, identifier=f"{one['name']}-{curve}"),
                )
            )
    return tuple(panels)


def _draw(
    parts: FaithfulnessParts,
    methods: Sequence[Mapping[str, Any]],
    *,
    curve: str,
    identifier: str,
) -> Markup:
    x = parts.values["grids"][curve]
    step = max(1, math.ceil((len(x) - 1) / (MOST_POINTS - 1)))
    shown = sorted({*range(0, len(x), step), len(x) - 1})
    series = [
        Series(
            label=one["title"],
            points=tuple(_point(100 * x[i], one["curves"][curve][i]) for i in shown),
        )
        for one in methods
    ]
    return draw_sweep(
        series,
        across=Axis(label="pixels deleted, %" if curve == "deletion" else "pixels inserted, %"),
        up=Axis(label=str(parts.values["headline"])),
        identifier=identifier,
        title=f"{curve.capitalize()} of {', '.join(one['title'] for one in methods)}",
    )


def _point(x: float, figure: Mapping[str, Any]) -> SweepPoint:
    mean, low, high = (
        math.nan if figure[key] is None else float(figure[key]) for key in ("value", "low", "high")
    )
    return SweepPoint(x=x, mean=mean, low=low, high=high)
