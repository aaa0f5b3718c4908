"""The pictures of a page: bars with intervals, a curve of the loss, a map of embeddings.

Each is a small multiple that stays legible at the width of a phone. No picture speaks by colour
alone: bars carry their method and value, curves their end value, points a shape.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fieldmark.report import svg
from fieldmark.report.names import DASH, METHODS, name, write_number
from fieldmark.report.tables import Summary

WIDTH = 360
ROW = 24
MOST_POINTS = 240


@dataclass(frozen=True, kw_only=True)
class Curve:
    """A quantity along training.

    Attributes:
        steps: increasing, in optimiser steps.
        losses: one for each step; NaN leaves a gap.
        rates: learning rates, one for each step, or none.
    """

    steps: tuple[float, ...]
    losses: tuple[float, ...]
    rates: tuple[float, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Points of one kind on a map.

    Attributes:
        label: what they are.
        points: x and y, in the units of the map.
        mark: place of the kind in the legend, which sets colour and shape.
    """

    label: str
    points: tuple[tuple[float, float], ...]
    mark: int


def draw_bars(figures: Sequence[Summary], *, identifier: str, title: str) -> Markup:
    """Draw one horizontal bar a method on [0, 1], with its interval and its value.

    Args:
        figures: one for each method, in the order to be drawn.
        identifier: unlike that of any other picture of the page.
        title: what the bars are of.

    Example:
        >>> from fieldmark.report.tables import summarise
        >>> figures = summarise([{"suite": "s", "dataset": "d", "metric": "acc_wg", "value": 0.5}])
        >>> "<title" in draw_bars(figures, identifier="a", title="Worst group")
        True
    """
    scale = svg.Scale(low=0, high=1, start=146, stop=WIDTH - 40)
    height = ROW * len(figures) + 24
    axis = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = scale.place(tick)
        axis.append(svg.draw_line((x, 2), (x, height - 20)))
    for tick in (0.0, 0.5, 1.0):
        at = (scale.place(tick), height - 5)
        text = svg.write_tick(tick)
        axis.append(svg.write(at, text, anchor="middle", colour=svg.MUTED, size=10.5))
    bars = [
        part
        for index, figure in enumerate(figures)
        for part in _draw_bar(figure, top=4 + ROW * index, scale=scale)
    ]
    return svg.draw(
        (WIDTH, height),
        name=identifier,
        title=title,
        description="; ".join(_describe(figure) for figure in figures),
        body=[*axis, *bars],
    )


def _describe(figure: Summary) -> str:
    method = name(figure.key["method"], known=METHODS)
    if math.isnan(figure.mean):
        return f"{method} undefined ({figure.count})"
    return f"{method} {figure.text} {figure.interval}".strip()


def _draw_bar(figure: Summary, *, top: float, scale: svg.Scale) -> list[Markup]:
    method = name(figure.key["method"], known=METHODS)
    strong = method == "BAP"
    weight = "600" if strong else "400"
    middle = top + ROW / 2 - 2
    label = method if len(method) <= 21 else f"{method[:20]}\N{HORIZONTAL ELLIPSIS}"
    words = svg.write((scale.start - 8, middle + 4), label, anchor="end", weight=weight)
    if math.isnan(figure.mean):
        text = f"{DASH} undefined, {figure.count}"
        return [words, svg.write((scale.start + 4, middle + 4), text, colour=svg.MUTED)]
    end = scale.place(min(max(figure.mean, 0), 1))
    value = write_number(figure.mean, digits=2)
    box = {"x": scale.start, "y": middle - 6, "width": max(end - scale.start, 1), "height": 12}
    return [
        words,
        svg.element("rect", {**box, **_paint(method)}),
        *_draw_whisker(figure, middle=middle, scale=scale),
        svg.write((WIDTH, middle + 4), value, anchor="end", weight=weight, size=12.5),
    ]


def _paint(method: str) -> Mapping[str, str | float]:
    if method == "BAP":
        return {"fill": svg.ACCENT}
    if method == "oracle":
        outline = {"stroke": svg.MUTED, "stroke-dasharray": "3 2"}
        return {"fill": "none", **outline}
    return {"fill": svg.GREY}


def _draw_whisker(figure: Summary, *, middle: float, scale: svg.Scale) -> list[Markup]:
    if math.isnan(figure.ci_low) or math.isnan(figure.ci_high):
        return []
    low, high = (scale.place(min(max(v, 0), 1)) for v in (figure.ci_low, figure.ci_high))
    strokes = [
        ((low, middle), (high, middle)),
        ((low, middle - 3), (low, middle + 3)),
        ((high, middle - 3), (high, middle + 3)),
    ]
    halo = [svg.draw_line(a, b, colour=svg.PAPER, width=4) for a, b in strokes[:1]]
    return halo + [svg.draw_line(a, b, colour=svg.INK, width=1.4) for a, b in strokes]


def draw_losses(curves: Sequence[Curve], *, identifier: str, title: str) -> Markup:
    """Draw the loss of one method against steps, one line a seed, and its learning rate below.

    Args:
        curves: one for each seed.
        identifier: unlike that of any other picture of the page.
        title: whose loss it is.
    """
    losses = [v for c in curves for v in c.losses if math.isfinite(v)]
    if not losses:
        return Markup("")
    steps = [s for c in curves for s in c.steps]
    across = svg.Scale(low=min(steps), high=max(steps), start=44, stop=WIDTH - 50)
    high = max(losses) * 1.04 or 1.0
    up = svg.Scale(low=min(0.0, *losses), high=high, start=170, stop=10)
    body = [*_draw_grid(across, up)]
    for curve in curves:
        points = [(across.place(s), up.place(v)) for s, v in _thin(curve.steps, curve.losses)]
        body.append(_draw_path(points, colour=svg.ACCENT, width=1.8))
    last = [c.losses[-1] for c in curves if c.losses and math.isfinite(c.losses[-1])]
    if last:
        end = sum(last) / len(last)
        at = (across.stop + 5, min(up.place(end) + 4, 168))
        body.append(svg.write(at, write_number(end), weight="600"))
    body += _draw_rates(curves, across=across)
    words = (
        f"from {write_number(losses[0])} to {write_number(losses[-1])} in {max(steps):,.0f} steps"
    )
    return svg.draw((WIDTH, 236), name=identifier, title=title, description=words, body=body)


def _draw_grid(across: svg.Scale, up: svg.Scale) -> list[Markup]:
    parts = []
    for tick in svg.find_ticks(up.low, up.high):
        y = up.place(tick)
        parts.append(svg.draw_line((across.start, y), (across.stop, y)))
        text = svg.write_tick(tick)
        parts.append(
            svg.write((across.start - 6, y + 4), text, anchor="end", colour=svg.MUTED, size=10.5)
        )
    for tick in svg.find_ticks(across.low, across.high):
        at, text = (across.place(tick), 230), svg.write_tick(tick)
        parts.append(svg.write(at, text, anchor="middle", colour=svg.MUTED, size=10.5))
    parts.append(svg.write((across.stop + 5, 230), "step", colour=svg.MUTED, size=10.5))
    return parts


def _draw_rates(curves: Sequence[Curve], *, across: svg.Scale) -> list[Markup]:
    curve = next((c for c in curves if any(r > 0 for r in c.rates)), None)
    if curve is None:
        return []
    peak = max(curve.rates)
    up = svg.Scale(low=0, high=peak, start=214, stop=188)
    points = [(across.place(s), up.place(v)) for s, v in _thin(curve.steps, curve.rates)]
    label = f"rate, peak {peak:.0e}".replace("e-0", "e-")
    return [
        svg.draw_line((across.start, 214), (across.stop, 214)),
        _draw_path(points, colour=svg.MUTED, width=1.2),
        svg.write((across.stop, 184), label, anchor="end", colour=svg.MUTED, size=10.5),
    ]


def _thin(steps: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """Average runs of neighbouring values until at most `MOST_POINTS` are left."""
    pairs = [(s, v) for s, v in zip(steps, values, strict=True) if math.isfinite(v)]
    run = math.ceil(len(pairs) / MOST_POINTS) or 1
    chunks = [pairs[i : i + run] for i in range(0, len(pairs), run)]
    return [
        (sum(s for s, _ in chunk) / len(chunk), sum(v for _, v in chunk) / len(chunk))
        for chunk in chunks
    ]


def _draw_path(points: Sequence[tuple[float, float]], *, colour: str, width: float) -> Markup:
    data = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return svg.element(
        "path",
        {
            "d": data,
            "fill": "none",
            "stroke": colour,
            "stroke-width": width,
            "stroke-linejoin": "round",
        },
    )


def draw_map(clouds: Sequence[Cloud], *, identifier: str, title: str) -> Markup:
    """Draw points of several kinds, each with a colour and a shape of its own.

    Args:
        clouds: one for each kind; the kind that comes last lies on top.
        identifier: unlike that of any other picture of the page.
        title: which encoder, coloured by what.

    Example:
        >>> cloud = Cloud(label="bird", points=((0, 0), (1, 2)), mark=0)
        >>> 'role="img"' in draw_map([cloud], identifier="a", title="before")
        True
    """
    points = [p for cloud in clouds for p in cloud.points if all(map(math.isfinite, p))]
    size = (WIDTH, 300.0)
    across, up = _fit(points, size=size)
    frame = {"x": 0.5, "y": 0.5, "width": size[0] - 1, "height": size[1] - 1}
    body = [svg.element("rect", {**frame, "fill": "none", "stroke": svg.RULE})]
    for cloud in clouds:
        placed = [
            (across.place(x), up.place(y))
            for x, y in cloud.points
            if math.isfinite(x) and math.isfinite(y)
        ]
        body.append(_draw_marks(placed, mark=cloud.mark))
    counts = ", ".join(f"{len(cloud.points)} {cloud.label}" for cloud in clouds)
    return svg.draw(size, name=identifier, title=title, description=counts, body=body)


def _fit(
    points: Sequence[tuple[float, float]], *, size: tuple[float, float]
) -> tuple[svg.Scale, svg.Scale]:
    """Fit points into a frame with one unit for both axes, so that distances stay comparable."""
    margin = 14
    xs, ys = ([p[i] for p in points] or [0.0] for i in (0, 1))
    middle = ((min(xs) + max(xs)) / 2, (min(ys) + max(ys)) / 2)
    room = (size[0] - 2 * margin, size[1] - 2 * margin)
    unit = max((max(xs) - min(xs)) / room[0], (max(ys) - min(ys)) / room[1]) or 1.0
    half = (room[0] / 2 * unit, room[1] / 2 * unit)
    return (
        svg.Scale(middle[0] - half[0], middle[0] + half[0], margin, size[0] - margin),
        svg.Scale(middle[1] - half[1], middle[1] + half[1], size[1] - margin, margin),
    )


def _draw_marks(points: Sequence[tuple[float, float]], *, mark: int) -> Markup:
    colour = svg.SERIES[mark % len(svg.SERIES)]
    return svg.draw_markers(points, shape=svg.SHAPES[mark % len(svg.SHAPES)], colour=colour)


def draw_mark(mark: int) -> Markup:
    """Draw one marker for a legend; the text beside it says what it stands for."""
    attributes = {"viewBox": "0 0 12 12", "class": "mark", "aria-hidden": "true"}
    return svg.element("svg", attributes, _draw_marks([(6, 6)], mark=mark))
