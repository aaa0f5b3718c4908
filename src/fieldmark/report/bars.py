"""Bars by class (BAP Table 16) and dots of ours beside the paper's, as inline SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fieldmark.report import svg
from fieldmark.report.names import DASH, write_number

WIDTH = 360.0
NAMES = 132.0
ROW = 24.0
LEGEND = 20.0


@dataclass(frozen=True, kw_only=True)
class ClassBars:
    """One class: a bar for each encoder.

    Attributes:
        label: the class.
        values: accuracies in [0, 1], NaN where undefined; one for each encoder.
        references: the paper's, NaN where it has none; as many, or none at all.
    """

    label: str
    values: tuple[float, ...]
    references: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Dot:
    """One figure on [0, 1] beside the paper's.

    Attributes:
        label: of the method.
        value: ours, or NaN.
        low: lower end of the interval of test sampling, or NaN.
        high: upper end, or NaN.
        reference: the paper's, or NaN.
        remark: in place of a value that is undefined ("refused").
        strong: whether it is the best.
    """

    label: str
    value: float
    low: float = math.nan
    high: float = math.nan
    reference: float = math.nan
    remark: str = "undefined"
    strong: bool = False


def draw_class_bars(
    classes: Sequence[ClassBars], *, encoders: Sequence[str], identifier: str, title: str
) -> Markup:
    """Draw accuracy by class, one bar for each encoder, with a tick where the paper's figure is.

    Args:
        classes: in the order to be drawn.
        encoders: what the bars of a class are of, in order ("native", "BAP").
        identifier: unlike that of any other picture of the page.
        title: what the bars are of.

    Returns:
        The drawing; empty where there is no class.

    Example:
        >>> bars = [ClassBars(label="attic", values=(0.92, 0.02))]
        >>> names = {"encoders": ("native", "BAP"), "identifier": "c", "title": "Zero-shot"}
        >>> "attic" in draw_class_bars(bars, **names)
        True
    """
    if not classes:
        return Markup("")
    thick = 11.0
    row = thick * len(encoders) + 8
    top = LEGEND + 6
    height = top + row * len(classes) + 22
    scale = svg.Scale(low=0, high=1, start=NAMES, stop=WIDTH - 38)
    body = _draw_legend(encoders, paper=any(one.references for one in classes))
    body += _draw_frame(scale, top=top, height=height)
    for index, one in enumerate(classes):
        base = top + row * index + 4
        middle = base + thick * len(encoders) / 2 + 4
        body.append(svg.write((NAMES - 8, middle), _shorten(one.label), anchor="end", size=11.5))
        for rank, value in enumerate(one.values):
            y = base + thick * rank
            body += _draw_bar(value, y=y, thick=thick, scale=scale, mark=rank)
            if one.references and not math.isnan(one.references[rank]):
                x = scale.place(one.references[rank])
                body.append(svg.draw_line((x, y), (x, y + thick - 1), colour=svg.INK, width=2))
    words = "; ".join(
        f"{one.label}: {', '.join(write_number(v, digits=2) for v in one.values)}"
        for one in classes
    )
    return svg.draw((WIDTH, height), name=identifier, title=title, description=words, body=body)


def _shorten(label: str, *, most: int = 22) -> str:
    return label if len(label) <= most else f"{label[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def _draw_legend(encoders: Sequence[str], *, paper: bool) -> list[Markup]:
    parts: list[Markup] = []
    x = 2.0
    for rank, encoder in enumerate(encoders):
        box: svg.Attributes = {"x": x, "y": 4, "width": 10, "height": 10, "fill": _paint(rank)}
        parts += [svg.element("rect", box), svg.write((x + 14, 13), encoder, size=11.5)]
        x += 26 + 6.6 * len(encoder)
    if paper:
        parts.append(svg.draw_line((x + 4, 3), (x + 4, 15), colour=svg.INK, width=2))
        parts.append(svg.write((x + 11, 13), "the paper", size=11.5))
    return parts


def _paint(rank: int) -> str:
    return (svg.GREY, svg.ACCENT, *svg.SERIES[1:])[rank % (len(svg.SERIES) + 1)]


def _draw_frame(scale: svg.Scale, *, top: float, height: float) -> list[Markup]:
    parts = [
        svg.draw_line((scale.place(t), top), (scale.place(t), height - 18))
        for t in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    for tick in (0.0, 0.5, 1.0):
        at, text = (scale.place(tick), height - 5), svg.write_tick(tick)
        parts.append(svg.write(at, text, anchor="middle", colour=svg.MUTED, size=10.5))
    return parts


def _draw_bar(value: float, *, y: float, thick: float, scale: svg.Scale, mark: int) -> list[Markup]:
    text = DASH if math.isnan(value) else f"{value:.2f}"
    at = (WIDTH, y + thick - 2)
    word = svg.write(at, text, anchor="end", colour=svg.MUTED, size=10)
    if math.isnan(value):
        return [word]
    wide = max(scale.place(min(max(value, 0.0), 1.0)) - scale.start, 0.5)
    box: svg.Attributes = {
        "x": scale.start,
        "y": y,
        "width": wide,
        "height": thick - 1,
        "fill": _paint(mark),
    }
    return [svg.element("rect", box), word]


def draw_dots(dots: Sequence[Dot], *, identifier: str, title: str) -> Markup:
    """Draw one line a method on [0, 1]: ours as a dot with its interval, the paper's as a square.

    Args:
        dots: in the order to be drawn.
        identifier: unlike that of any other picture of the page.
        title: what the dots are of.

    Returns:
        The drawing; empty where there is no dot.

    Example:
        >>> dot = Dot(label="BAP, linear probe", value=0.93, reference=0.921)
        >>> "0.93" in draw_dots([dot], identifier="d", title="Worst group")
        True
    """
    if not dots:
        return Markup("")
    scale = svg.Scale(low=0, high=1, start=NAMES + 68, stop=WIDTH - 40)
    height = ROW * len(dots) + 24
    body = _draw_frame(scale, top=2, height=height)
    for index, dot in enumerate(dots):
        body += _draw_dot(dot, middle=4 + ROW * index + ROW / 2 - 2, scale=scale)
    words = "; ".join(_describe(dot) for dot in dots)
    return svg.draw((WIDTH, height), name=identifier, title=title, description=words, body=body)


def _describe(dot: Dot) -> str:
    ours = dot.remark if math.isnan(dot.value) else write_number(dot.value)
    paper = "" if math.isnan(dot.reference) else f", the paper {write_number(dot.reference)}"
    return f"{dot.label} {ours}{paper}"


def _draw_dot(dot: Dot, *, middle: float, scale: svg.Scale) -> list[Markup]:
    weight = "600" if dot.strong else "400"
    colour = svg.ACCENT if dot.strong else svg.MUTED
    at = (scale.start - 10, middle + 4)
    label = _shorten(dot.label, most=33)
    parts = [svg.write(at, label, anchor="end", weight=weight, size=10.5)]
    if not math.isnan(dot.reference):
        x = scale.place(dot.reference)
        parts.append(svg.draw_markers([(x, middle)], shape="square", colour=svg.INK, size=9))
    if math.isnan(dot.value):
        at = (scale.start + 4, middle + 4)
        return [*parts, svg.write(at, f"{DASH} {dot.remark}", colour=svg.MUTED, size=11.5)]
    if not math.isnan(dot.low + dot.high):
        ends = [(scale.place(min(max(v, 0.0), 1.0)), middle) for v in (dot.low, dot.high)]
        parts.append(svg.draw_line(ends[0], ends[1], colour=colour, width=1.4))
    x = scale.place(min(max(dot.value, 0.0), 1.0))
    parts.append(svg.draw_markers([(x, middle)], shape="circle", colour=colour, size=7))
    text = write_number(dot.value, digits=2)
    return [*parts, svg.write((WIDTH, middle + 4), text, anchor="end", weight=weight, size=12)]
