"""Drawings of a COVAR page: accuracy by subset, by the object's size, and drops by class."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from fieldmark.report.bars import ClassBars, draw_class_bars
from fieldmark.report.covar_parts import AVERAGE, ORIGINAL, CovarParts, read_figure
from fieldmark.report.covar_words import name_subset
from fieldmark.report.curves import Axis, draw_sweep
from fieldmark.report.published_covar import find_covar_reference
from fieldmark.report.sweeps import Series, SweepPoint

MOST_LINES = 6


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A drawing with what is written above it."""

    caption: str
    remark: str
    drawing: Markup


def draw_panels(parts: CovarParts) -> tuple[Panel, ...]:
    """Draw accuracy by subset and by size of the object, for up to six encoders."""
    return tuple(_list_panels(parts))


def _list_panels(parts: CovarParts) -> Iterator[Panel]:
    chosen = parts.encoders[:MOST_LINES]
    labels = [str(one["label"]) for one in chosen]
    columns = [name for name in (ORIGINAL, *parts.columns, AVERAGE)
               if name in parts.encoders[0]["accuracy"]]  # fmt: skip
    bars = [
        ClassBars(
            label=name_subset(name),
            values=tuple(read_figure(one["accuracy"].get(name)).value for one in chosen),
            references=_find_references([str(one["uri"]) for one in chosen], subset=name),
        )
        for name in columns
    ]
    yield Panel(
        caption="Accuracy by subset",
        remark=str(parts.values["head"]),
        drawing=draw_class_bars(bars, encoders=labels, identifier="subsets", title="Accuracy"),
    )
    yield from _draw_area(chosen)


def _draw_area(chosen: Sequence[Mapping[str, Any]]) -> Iterator[Panel]:
    lines = [
        Series(
            label=str(one["label"]),
            points=tuple(
                SweepPoint(x=float(f"{100 * bin_['mean_area']:.2g}"), mean=figure.value,
                           low=figure.interval.low, high=figure.interval.high)
                for bin_ in one.get("area", ())
                for figure in (read_figure(bin_),)
                if bin_["mean_area"] > 0
            ),
        )
        for one in chosen
    ]  # fmt: skip
    if any(one.points for one in lines):
        yield Panel(
            caption="Accuracy by the object's size",
            remark="new backgrounds and all scales",
            drawing=draw_sweep(
                lines,
                across=Axis(label="object, % of the image", log=True),
                up=Axis(label="accuracy"),
                identifier="area",
                title="Accuracy by realised area",
            ),
        )


def draw_class_panels(parts: CovarParts) -> tuple[Panel, ...]:
    """Draw the drop of each class: on new backgrounds (Figure 6), mean and largest (Figure 8)."""
    panels = []
    for number, one in enumerate(parts.encoders[:MOST_LINES]):
        held = [record for record in one["classes"] if "mean_drop" in record]
        bars = [
            ClassBars(
                label=str(record["class"]),
                values=tuple(
                    read_figure(record.get(key)).value
                    for key in ("background_drop", "mean_drop", "largest_drop")
                ),
            )
            for record in held
        ]
        if bars:
            panels.append(
                Panel(
                    caption=str(one["label"]),
                    remark="drop of accuracy against the originals; below 0 no bar is drawn",
                    drawing=draw_class_bars(
                        bars,
                        encoders=("new backgrounds", "mean", "largest"),
                        identifier=f"classes-{number}",
                        title=f"Drop by class, {one['label']}",
                    ),
                )
            )
    return tuple(panels)


def _find_references(uris: Sequence[str], *, subset: str) -> tuple[float, ...]:
    found = tuple(find_covar_reference(uri, subset=subset) for uri in uris)
    return () if all(map(math.isnan, found)) else found
