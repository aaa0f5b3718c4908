"""The dots of one line of a table, drawn along an axis that all its lines share.

Places are per cents of the column's width, so that dots stay round at any width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from fieldmark.report import svg
from fieldmark.report.audit_blocks import Axis
from fieldmark.report.audit_contract import Figure

STEP, RADIUS = 10.0, 4.0
# Room at both ends, in per cent of the width, for a dot that lies on the end of the axis.
MARGIN = 4.0
# Upright lines go on beyond the drawing, so that those of all lines meet; the cell cuts them.
TALL = 400.0


def draw_line_dots(dots: Sequence[Figure], *, axis: Axis) -> Markup:
    """Draw a dot with its interval for each figure, one below the other.

    Args:
        dots: of one line; one that is undefined is left out. The last is filled, others are rings.
        axis: what they are drawn along.

    Returns:
        The drawing. It is decoration: the numbers stand beside it.

    Example:
        >>> dot = Figure(value=0.5, low=0.4, high=0.6, count=9)
        >>> 'cx="50%"' in draw_line_dots([dot], axis=Axis(low=0, high=1))
        True
    """
    scale = svg.Scale(low=axis.low, high=axis.high, start=MARGIN, stop=100 - MARGIN)
    height = STEP * max(len(dots), 1) + 8
    body = [_draw_upright(scale.place(tick), colour=svg.RULE) for tick in list_ticks(axis)]
    if not math.isnan(axis.reference):
        body.append(_draw_upright(scale.place(axis.reference), colour=svg.MUTED))
    for rank, dot in enumerate(dots):
        if dot.is_defined:
            middle = 4 + STEP * (rank + 0.5)
            body += _draw_dot(dot, middle=middle, scale=scale, last=rank == len(dots) - 1)
    attributes: svg.Attributes = {
        "class": "dots",
        "height": height,
        "aria-hidden": "true",
        "focusable": "false",
    }
    return svg.element("svg", attributes, *body)


def list_ticks(axis: Axis) -> tuple[float, ...]:
    """Return where an axis is labelled: its ends, and its middle or 0.

    Example:
        >>> list_ticks(Axis(low=0, high=1)), list_ticks(Axis(low=-0.25, high=0.5))
        ((0, 0.5, 1), (-0.25, 0.0, 0.5))
    """
    middle = 0.0 if axis.low < 0 < axis.high else (axis.low + axis.high) / 2
    return (axis.low, middle, axis.high)


def draw_axis(axis: Axis) -> Markup:
    """Draw the labels of an axis, to stand above the lines."""
    scale = svg.Scale(low=axis.low, high=axis.high, start=MARGIN, stop=100 - MARGIN)
    labels = []
    for tick, anchor in zip(list_ticks(axis), ("start", "middle", "end"), strict=True):
        place = {"start": 0.0, "middle": scale.place(tick), "end": 100.0}[anchor]
        text = f"{100 * tick:g}".replace("-", "\N{MINUS SIGN}")
        if anchor == "end" and axis.unit == "%":
            text += " %"
        attributes: svg.Attributes = {"x": f"{place:.4g}%", "y": 11, "text-anchor": anchor}
        if anchor == "middle" and tick != 0:
            attributes = {**attributes, "class": "between"}
        labels.append(svg.element("text", {**attributes, "fill": svg.MUTED}, text))
    attributes = {"class": "dots axis", "height": 14, "aria-hidden": "true", "focusable": "false"}
    return svg.element("svg", attributes, *labels)


def draw_key(*, last: bool) -> Markup:
    """Draw the mark of a legend: filled for the last dot of a line, else a ring."""
    attributes = {"class": "mark", "viewBox": "0 0 14 14", "aria-hidden": "true"}
    return svg.element("svg", attributes, _draw_mark(7, 7, last=last))


def _draw_upright(place: float, *, colour: str) -> Markup:
    x = f"{place:.4g}%"
    return svg.element("line", {"x1": x, "x2": x, "y1": -TALL, "y2": TALL, "stroke": colour})


def _draw_dot(dot: Figure, *, middle: float, scale: svg.Scale, last: bool) -> list[Markup]:
    def place(value: float) -> str:
        return f"{scale.place(min(max(value, scale.low), scale.high)):.4g}%"

    parts = []
    if not math.isnan(dot.low + dot.high):
        attributes: svg.Attributes = {
            "x1": place(dot.low),
            "x2": place(dot.high),
            "y1": middle,
            "y2": middle,
            "stroke": svg.ACCENT if last else svg.MUTED,
            "stroke-width": 2,
        }
        parts.append(svg.element("line", attributes))
    return [*parts, _draw_mark(place(dot.value), middle, last=last)]


def _draw_mark(x: float | str, y: float, *, last: bool) -> Markup:
    attributes: svg.Attributes = {
        "cx": x,
        "cy": y,
        "r": RADIUS,
        "fill": svg.ACCENT if last else svg.PAPER,
        "stroke": svg.ACCENT if last else svg.MUTED,
        "stroke-width": 2,
    }
    return svg.element("circle", attributes)
