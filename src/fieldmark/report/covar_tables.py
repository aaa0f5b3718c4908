"""Tables of a COVAR page, every cell with its interval, its count and what it is sorted by."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fieldmark.metrics.error_shares import BACKGROUND as BY_BACKGROUND
from fieldmark.metrics.error_shares import FINE_GRAINED
from fieldmark.metrics.intervals import Interval
from fieldmark.report.covar_parts import (
    AVERAGE,
    BACKGROUND,
    ORIGINAL,
    CovarParts,
    read_figure,
    read_number,
)
from fieldmark.report.covar_words import RULES, name_subset, write_interval, write_points
from fieldmark.report.published_covar import find_covar_encoder, find_covar_reference


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell: its text, quieter texts beneath, what it is sorted by, and how dark it is.

    Attributes:
        text: what it says.
        more: interval or remark.
        count: images behind it.
        sort: a number, or None for a word.
        shade: 0 to 100, or None.
    """

    text: str
    more: str = ""
    count: str = ""
    sort: float | None = None
    shade: int | None = None


@dataclass(frozen=True, kw_only=True)
class CovarTable:
    """A table with its caption and what has to be known to read it."""

    caption: str
    headings: tuple[str, ...]
    lines: tuple[tuple[Cell, ...], ...]
    note: str = ""
    dense: bool = False


def make_accuracy_table(parts: CovarParts) -> CovarTable:
    """Make the paper's Table 3, its own row under an encoder that it has too."""
    columns = [name for name in (ORIGINAL, *parts.columns, AVERAGE)
               if name in parts.encoders[0]["accuracy"]]  # fmt: skip
    lines = []
    for one in parts.encoders:
        cells = [_figure_cell(one["accuracy"].get(name)) for name in columns]
        lines.append((Cell(text=str(one["label"])), *cells))
        if find_covar_encoder(str(one["uri"])):
            printed = [find_covar_reference(str(one["uri"]), subset=name) for name in columns]
            lines.append((Cell(text="the paper, its own images"), *map(_number_cell, printed)))
    return CovarTable(
        caption="Accuracy by subset, % (Table 3)",
        headings=("Encoder", *map(name_subset, columns)),
        lines=tuple(lines),
        note="The average is over the paper's subsets that are here. Scale is all scales together.",
    )


def make_scale_table(parts: CovarParts) -> CovarTable | None:
    """Make a table of the single scales and viewpoints, which the paper adds up."""
    names = [n for n in parts.values["subsets"] if n.startswith(("scale_", "viewpoint_"))]
    if not names:
        return None
    lines = tuple(
        (Cell(text=str(one["label"])), *(_figure_cell(one["subset_accuracy"][n]) for n in names))
        for one in parts.encoders
    )
    return CovarTable(
        caption="Accuracy by scale, %", headings=("Encoder", *map(name_subset, names)), lines=lines
    )


def make_drop_table(parts: CovarParts) -> CovarTable:
    """Make the drops of Figures 6 and 7: against the originals, and against new backgrounds."""
    lines = []
    columns = (*parts.columns, AVERAGE)
    for one in parts.encoders:
        for key, words in (("drop_original", "originals"), ("drop_background", "new backgrounds")):
            if one[key]:
                cells = [_figure_cell(one[key].get(name)) for name in columns]
                lines.append((Cell(text=str(one["label"])), Cell(text=words), *cells))
    return CovarTable(
        caption="Drop of accuracy, points (Figures 6 and 7)",
        headings=("Encoder", "Against", *map(name_subset, columns)),
        lines=tuple(lines),
        note="Above 0: fewer right. Both accuracies are of the same objects, drawn together.",
    )


def list_comparison_tables(parts: CovarParts) -> Iterator[CovarTable]:
    """Yield for each further encoder what it has over the first, by subset."""
    kinds = (
        ("accuracy", "Accuracy gained"),
        (f"drop_{ORIGINAL}", "Drop removed, against originals"),
        (f"drop_{BACKGROUND}", "Drop removed, against new backgrounds"),
    )
    for pair in parts.values["comparisons"]:
        lines = tuple(
            (Cell(text=name_subset(name)), *(_figure_cell(held.get(key)) for key, _ in kinds))
            for name, held in pair["columns"].items()
        )
        yield CovarTable(
            caption=f"{parts.label(pair['second'])} against {parts.label(pair['first'])}, points",
            headings=("Subset", *(words for _, words in kinds)),
            lines=lines,
            note="Above 0: better. The images are the same, so the difference is paired by object.",
        )


def list_source_tables(parts: CovarParts) -> Iterator[CovarTable]:
    """Yield Table 4 for each encoder and rule: shares of the errors, chance beside them."""
    for one in parts.encoders:
        for rule, columns in one["sources"].items():
            printed = rule == "paper" and find_covar_encoder(str(one["uri"])) is not None
            lines = tuple(
                _make_source_line(name, shares, uri=str(one["uri"]), printed=printed)
                for name, shares in columns.items()
            )
            headings = ["Subset", "BG-Er, % of errors", "By chance", "Beyond chance",
                        "% of images", "Beyond chance", "Fine-Er, % of errors", "By chance",
                        "Beyond chance", "% of images", "Not resolvable, %"]  # fmt: skip
            yield CovarTable(
                caption=f"{one['label']}: what drove its errors, by {RULES.get(rule, rule)}",
                headings=(*headings, *(("BG-Er, the paper", "Fine-Er, the paper") * printed)),
                lines=lines,
            )


def make_class_table(one: Mapping[str, Any]) -> CovarTable:
    """Make the classes of Figures 6 and 8 for an encoder."""
    held = sorted(
        one["classes"], key=lambda r: -_finite(read_figure(r.get("mean_drop")).value, other=-9.0)
    )
    lines = tuple(
        (
            Cell(text=str(record["class"])),
            Cell(text=str(record["objects"]), sort=float(record["objects"])),
            _number_cell(read_number(record["accuracy"].get(ORIGINAL))),
            _figure_cell(record.get("background_drop")),
            _figure_cell(record.get("mean_drop")),
            _figure_cell(record.get("largest_drop")),
            Cell(text=name_subset(str(record.get("largest_in", "")))),
        )
        for record in held
    )
    return CovarTable(
        caption=f"{one['label']}: drop by class, points (Figures 6 and 8)",
        headings=("Class", "Objects", "Original, %", "New backgrounds", "Mean over subsets",
                  "Largest", "Largest in"),
        lines=lines,
        note="The largest of several drops is above its true value by chance alone.",
    )  # fmt: skip


def make_background_table(parts: CovarParts, one: Mapping[str, Any]) -> CovarTable | None:
    """Make the paper's Table 7 for an encoder, with what a background adds beside it."""
    if not one["backgrounds"]:
        return None
    accuracy = one["factorial"]["accuracy"]
    lines = tuple(
        (
            Cell(text=name),
            _figure_cell(figure),
            Cell(text=", ".join(_say_share(part) for part in said["frequent"])),
            Cell(text="; ".join(_say_excess(part) for part in said["excess"])),
        )
        for name, figure, said in zip(
            parts.values["scenes"], accuracy, one["backgrounds"], strict=True
        )
        if said["images"]
    )
    return CovarTable(
        caption=f"{one['label']}: predictions by background (Table 7)",
        headings=("Background", "Accuracy, %", "Predicted most, %",
                  "More than on other backgrounds, points"),
        lines=lines,
        note="Where every object is laid on the same backgrounds (no limit), what is predicted "
        "more on one of them is the background's doing. The largest of many is above its true "
        "value by chance.",
    )  # fmt: skip


def make_factorial_table(parts: CovarParts, one: Mapping[str, Any]) -> CovarTable | None:
    """Make the table class x background: accuracy in each cell."""
    cells = one["factorial"].get("cells") or []
    shown = [k for k, said in enumerate(one["backgrounds"]) if said["images"]]
    if not cells or not shown:
        return None
    lines = tuple(
        (Cell(text=name), *(_shaded_cell(read_number(row[k])) for k in shown))
        for name, row in zip(parts.values["classes"], cells, strict=True)
    )
    return CovarTable(
        caption=f"{one['label']}: accuracy by class and background, %",
        headings=("Class", *(str(parts.values["scenes"][k]) for k in shown)),
        lines=lines,
        dense=True,
    )


def make_suffering_table(parts: CovarParts, one: Mapping[str, Any]) -> CovarTable | None:
    """Make the cells that lie furthest below what class and background say alone."""
    held = one["factorial"].get("suffering") or []
    if not held:
        return None
    lines = tuple(
        (
            Cell(text=str(cell["class"])),
            Cell(text=str(parts.values["scenes"][cell["scene"]])),
            _number_cell(read_number(cell["accuracy"])),
            _figure_cell(cell),
            Cell(text=str(cell["objects"]), sort=float(cell["objects"])),
        )
        for cell in held
    )
    return CovarTable(
        caption=f"{one['label']}: who suffers from which background",
        headings=("Class", "Background", "Accuracy, %", "Below class and background alone, points",
                  "Objects"),
        lines=lines,
        note="Ten of many cells, the lowest: they lie lower than they would on new images.",
    )  # fmt: skip


def _make_source_line(
    name: str, shares: Sequence[Mapping[str, Any]], *, uri: str, printed: bool
) -> tuple[Cell, ...]:
    by = {share["source"]: share for share in shares}
    cells = [Cell(text=name_subset(name))]
    for source in (BY_BACKGROUND, FINE_GRAINED):
        share = by[source]
        cells += [
            _number_cell(read_number(share["share"]), ends=share["interval"], count=share["of"]),
            _number_cell(read_number(share["null"])),
            _number_cell(read_number(share["corrected"]), ends=share["corrected_interval"]),
            _number_cell(read_number(share["of_images"])),
        ]
        if source == BY_BACKGROUND:
            cells.append(_number_cell(read_number(share["corrected_of_images"])))
    cells.append(_number_cell(read_number(by["unresolvable"]["share"])))
    if printed:
        cells += [
            _number_cell(find_covar_reference(uri, subset=name, metric=metric))
            for metric in ("background_errors", "fine_grained_errors")
        ]
    return tuple(cells)


def _figure_cell(values: Mapping[str, Any] | None) -> Cell:
    figure = read_figure(values)
    return Cell(
        text=write_points(figure.value),
        more=write_interval(figure.interval),
        count=f"{figure.count:,}" if figure.count else "",
        sort=figure.value,
    )


def _number_cell(value: float, *, ends: Sequence[Any] = (None, None), count: int = 0) -> Cell:
    low, high = map(read_number, ends)
    return Cell(
        text=write_points(value),
        more=write_interval(Interval(low, high)),
        count=f"{count:,}" if count else "",
        sort=value,
    )


def _shaded_cell(value: float) -> Cell:
    shade = None if math.isnan(value) else round(100 * (1 - value))
    text = "" if math.isnan(value) else f"{100 * value:.0f}"
    return Cell(text=text, sort=value, shade=shade)


def _say_share(part: Mapping[str, Any]) -> str:
    return f"{part['class']} {write_points(part['share'])}"


def _say_excess(part: Mapping[str, Any]) -> str:
    figure = read_figure(part)
    return f"{part['class']} {write_points(figure.value)} {write_interval(figure.interval)}"


def _finite(value: float, *, other: float) -> float:
    return other if math.isnan(value) else value
