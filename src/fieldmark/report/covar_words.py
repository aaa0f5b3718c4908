"""What a run of `covar evaluate` bears to be said: each sentence with number and interval."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from fieldmark.metrics.intervals import Interval
from fieldmark.report.covar_parts import (
    AVERAGE,
    BACKGROUND,
    ORIGINAL,
    CovarParts,
    Reading,
    read_figure,
    read_number,
)
from fieldmark.report.names import DASH

SUBSETS = {
    ORIGINAL: "Original",
    BACKGROUND: "Background",
    "h_flip": "H-flip",
    "v_flip": "V-flip",
    "translate": "Translation",
    "crop": "Crop",
    "rotation": "Rotation",
    "viewpoint": "Viewpoint",
    "scale": "Scale",
    AVERAGE: "Average",
}
RULES = {
    "causal": "causal: remove its tokens",
    "density": "density: mean of the map",
    "paper": "paper: larger IoU",
}


def name_subset(name: str) -> str:
    """Return a subset's name for people.

    Example:
        >>> name_subset("scale_1.5"), name_subset("crop")
        ('Scale 1/1.5', 'Crop')
    """
    if name.startswith("scale_"):
        return f"Scale 1/{name.removeprefix('scale_')}"
    if name.startswith("viewpoint_"):
        return f"Viewpoint {name.removeprefix('viewpoint_')}"
    return SUBSETS.get(name, name)


def write_points(value: float) -> str:
    """Write a share as points of 100, without a sign of per cent.

    Example:
        >>> write_points(0.1234), write_points(float("nan")) == DASH
        ('12.3', True)
    """
    return DASH if math.isnan(value) else f"{100 * value:.1f}"


def write_interval(interval: Interval) -> str:
    """Write an interval in points, nothing where it is undefined.

    Example:
        >>> write_interval(Interval(-0.1, 0.25))
        '[-10.0, 25.0]'
    """
    if math.isnan(interval.low):
        return ""
    return f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"


def write_title(parts: CovarParts) -> str:
    """Write the headline: the change that costs the first encoder most."""
    one = parts.encoders[0]
    drops = {name: read_figure(one["drop_original"].get(name)) for name in parts.columns}
    known = {name: drop for name, drop in drops.items() if not math.isnan(drop.value)}
    if not known:
        average = read_figure(one["accuracy"].get(AVERAGE))
        return f"{one['label']} names {write_points(average.value)} % of the variants right"
    worst = max(known, key=lambda name: known[name].value)
    if known[worst].sign <= 0:
        return f"No change costs {one['label']} more than chance"
    points = write_points(known[worst].value)
    return f"{name_subset(worst)} costs {one['label']} most: {points} points"


def write_sentences(parts: CovarParts) -> tuple[str, ...]:
    """Write what was looked at, what each change costs, and what drives the errors."""
    values = parts.values
    lines = [
        f"{values['images']:,} images of {values['objects']:,} objects in {len(values['classes'])} "
        f"classes, each named by the nearest of {values['names']:,} names. Intervals hold 95 % and "
        "are drawn by object, all variants of an object together."
    ]
    for one in parts.encoders:
        lines.extend(_say_drops(parts, one))
        lines.extend(_say_sources(one))
    return tuple(lines)


def write_comparisons(parts: CovarParts) -> tuple[str, ...]:
    """Write of each further encoder which drops it removed, only where the interval bears it."""
    lines: list[str] = []
    for pair in parts.values["comparisons"]:
        first, second = parts.label(pair["first"]), parts.label(pair["second"])
        for against, words in ((ORIGINAL, "the originals"), (BACKGROUND, "the varied backgrounds")):
            lines.extend(_say_removed(pair, against=against, words=words, names=(first, second)))
        gain = read_figure(pair["columns"].get(AVERAGE, {}).get("accuracy"))
        if gain.sign:
            word = "more" if gain.sign > 0 else "less"
            lines.append(
                f"On average over the variants {second} names {write_points(abs(gain.value))} "
                f"points {word} right than {first} {write_interval(gain.interval)}."
            )
        elif not math.isnan(gain.value):
            lines.append(
                f"Average accuracy of {second} and {first} is not told apart: "
                f"{write_points(gain.value)} points {write_interval(gain.interval)}."
            )
    return tuple(lines)


def _say_drops(parts: CovarParts, one: Mapping[str, Any]) -> Iterator[str]:
    original = read_figure(one["accuracy"].get(ORIGINAL))
    average = read_figure(one["accuracy"].get(AVERAGE))
    text = f"{one['label']}: {write_points(average.value)} % right on average over the variants"
    if not math.isnan(original.value):
        text += f", {write_points(original.value)} % on the originals"
    yield text + "."
    for key, words in (("drop_original", "the originals"), ("drop_background", "new backgrounds")):
        drops = {name: read_figure(one[key].get(name)) for name in parts.columns}
        sure = [(name, drop) for name, drop in drops.items() if drop.sign > 0]
        none = [name for name, drop in drops.items() if drop.sign == 0 and drop.count]
        if sure:
            listed = ", ".join(
                f"{name_subset(name).lower()} {write_points(d.value)} {write_interval(d.interval)}"
                for name, d in sorted(sure, key=lambda item: -item[1].value)
            )
            yield f"Against {words} {one['label']} loses, in points: {listed}."
        if none and sure:
            listed = ", ".join(name_subset(name).lower() for name in none)
            yield f"Not told from no loss at all against {words}: {listed}."


def _say_sources(one: Mapping[str, Any]) -> Iterator[str]:
    """Say by the first rule where the background drives more errors than chance would."""
    for rule, columns in list(one["sources"].items())[:1]:
        found = []
        for name, shares in columns.items():
            share = next(s for s in shares if s["source"] == BACKGROUND)
            low = read_number(share["corrected_interval"][0])
            if low > 0:
                found.append(
                    f"{name_subset(name).lower()} {write_points(share['corrected'])} "
                    f"{write_interval(Interval(low, read_number(share['corrected_interval'][1])))}"
                )
        if found:
            yield (
                f"By the {rule} rule the background drives more errors of {one['label']} than "
                f"chance, in points beyond it: {', '.join(found)}."
            )
        else:
            yield (
                f"By the {rule} rule in no subset is the background told to drive more errors of "
                f"{one['label']} than chance would."
            )


def _say_removed(
    pair: Mapping[str, Any], *, against: str, words: str, names: tuple[str, str]
) -> Iterator[str]:
    figures = {
        name: read_figure(held[f"drop_{against}"])
        for name, held in pair["columns"].items()
        if f"drop_{against}" in held and name != AVERAGE
    }
    first, second = names
    for sign, verb in ((1, "smaller"), (-1, "larger")):
        sure = [(name, one) for name, one in figures.items() if one.sign == sign]
        if sure:
            yield (
                f"The drop against {words} is {verb} with {second} than with {first}, in points: "
                f"{', '.join(_write_change(name, one) for name, one in sure)}."
            )
    same = [(name, one) for name, one in figures.items() if one.sign == 0 and one.count]
    if same:
        yield (
            f"Not told apart against {words}: "
            f"{', '.join(_write_change(name, one) for name, one in same)}."
        )


def _write_change(name: str, figure: Reading) -> str:
    value = write_points(abs(figure.value) if figure.sign else figure.value)
    low, high = figure.interval
    ends = Interval(-high, -low) if figure.sign < 0 else figure.interval
    return f"{name_subset(name).lower()} {value} {write_interval(ends)}"
