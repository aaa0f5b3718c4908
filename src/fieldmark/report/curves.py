"""Line plots of sweeps, as inline SVG: error bands, linear or logarithmic axes, a fitted slope.

No line speaks by colour alone: each has a marker of its own in the legend. The same bytes come out
of the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup

from fieldmark.core.errors import InputError
from fieldmark.report import svg
from fieldmark.report.names import DASH, write_number
from fieldmark.report.sweeps import PowerLaw, Series, SweepPoint

WIDTH, HEIGHT = 360.0, 230.0
LEFT, RIGHT, FOOT = 50.0, 14.0, 40.0
LEGEND = 17.0
CLOSEST = 25.0


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis of a line plot.

    Attributes:
        label: what it measures.
        log: logarithmic in place of linear.
        low: where it begins; the data decide by default.
        high: where it ends, likewise.
    """

    label: str
    log: bool = False
    low: float | None = None
    high: float | None = None

    def move(self, value: float) -> float:
        """Return the value on the scale of the axis."""
        return math.log10(value) if self.log else value


def draw_sweep(
    series: Sequence[Series],
    *,
    across: Axis,
    up: Axis,
    identifier: str,
    title: str,
    laws: Mapping[str, PowerLaw] | None = None,
) -> Markup:
    """Draw series against a setting, each with its band, and the power law through some.

    Args:
        series: one line each; a NaN leaves a gap.
        across: the setting.
        up: the figure.
        identifier: unlike that of any other picture of the page.
        title: what is drawn.
        laws: fitted laws by the label of their series, drawn dashed with their slope in the legend.

    Returns:
        The drawing, or an empty one where nothing is defined.

    Raises:
        InputError: a value at or below zero on a logarithmic axis.

    Example:
        >>> from fieldmark.report.sweeps import make_point
        >>> line = Series(label="BAP", points=tuple(make_point(k, [k / 9]) for k in (1, 2, 4)))
        >>> axes = {"across": Axis(label="K", log=True), "up": Axis(label="accuracy")}
        >>> 'role="img"' in draw_sweep([line], identifier="k", title="Accuracy by K", **axes)
        True
    """
    points = [p for one in series for p in one.points if not math.isnan(p.mean)]
    if not points:
        return Markup("")
    found = laws or {}
    _check(points, across=across, up=up)
    top = 30 + LEGEND * len(series)
    height = HEIGHT + 20 + LEGEND * len(series)
    x_scale = _fit([p.x for p in points], axis=across, start=LEFT, stop=WIDTH - RIGHT)
    heights = [v for p in points for v in (p.mean, p.low, p.high) if _fits(v, axis=up)]
    y_scale = _fit(heights, axis=up, start=height - FOOT, stop=top, margin=0.06)
    body = [*_draw_across(points, axis=across, scale=x_scale, height=height, top=top)]
    body += _draw_up(axis=up, scale=y_scale, top=top)
    for index, one in enumerate(series):
        colour = svg.SERIES[index % len(svg.SERIES)]
        body += _draw_band(one, axes=(across, up), scales=(x_scale, y_scale), colour=colour)
    for index, one in enumerate(series):
        law = found.get(one.label)
        if law is not None:
            body.append(_draw_law(law, one, axes=(across, up), scales=(x_scale, y_scale)))
        body += _draw_series(one, mark=index, axes=(across, up), scales=(x_scale, y_scale))
        body += _draw_key(one, mark=index, law=law)
    words = "; ".join(_describe(one, law=found.get(one.label)) for one in series)
    return svg.draw((WIDTH, height), name=identifier, title=title, description=words, body=body)


def _check(points: Sequence[SweepPoint], *, across: Axis, up: Axis) -> None:
    for axis, values in ((across, [p.x for p in points]), (up, [p.mean for p in points])):
        if axis.log and min(values) <= 0:
            raise InputError(
                f"{axis.label} = {min(values):g} has no place on a logarithmic axis",
                mend="draw it on a linear one",
            )


def _fits(value: float, *, axis: Axis) -> bool:
    return not math.isnan(value) and (value > 0 or not axis.log)


def _fit(
    values: Sequence[float], *, axis: Axis, start: float, stop: float, margin: float = 0.0
) -> svg.Scale:
    low, high = axis.move(min(values)), axis.move(max(values))
    pad = (high - low) * margin or (0.5 if high == low else 0.0)
    low = low - pad if axis.low is None else axis.move(axis.low)
    high = high + pad if axis.high is None else axis.move(axis.high)
    return svg.Scale(low=low, high=high, start=start, stop=stop)


def find_log_ticks(low: float, high: float) -> list[float]:
    """Choose round numbers between two exponents of ten: powers, or 1-2-5 where they are few.

    Args:
        low: logarithm to base ten of the lower end.
        high: of the upper end.

    Example:
        >>> find_log_ticks(-3, 0), find_log_ticks(0, 1)
        ([0.001, 0.01, 0.1, 1.0], [1.0, 2.0, 5.0, 10.0])
    """
    steps = (1.0,) if high - low >= 2 else (1.0, 2.0, 5.0)
    powers = range(math.floor(low) - 1, math.ceil(high) + 1)
    ticks = [step * 10.0**power for power in powers for step in steps]
    return [round(t, 12) for t in ticks if low - 1e-9 <= math.log10(t) <= high + 1e-9]


def _draw_across(
    points: Sequence[SweepPoint], *, axis: Axis, scale: svg.Scale, height: float, top: float
) -> list[Markup]:
    floor = height - FOOT
    values = sorted({p.x for p in points}) if axis.log else svg.find_ticks(scale.low, scale.high)
    parts = [svg.draw_line((scale.start, floor), (scale.stop, floor), colour=svg.MUTED)]
    last = -math.inf
    for value in values:
        x = scale.place(axis.move(value))
        parts.append(svg.draw_line((x, floor), (x, floor + 4), colour=svg.MUTED))
        if x - last >= CLOSEST:
            text, last = svg.write_tick(value), x
            at = (x, floor + 16)
            parts.append(svg.write(at, text, anchor="middle", colour=svg.MUTED, size=10.5))
    at = ((scale.start + scale.stop) / 2, height - 6)
    return [*parts, svg.write(at, axis.label, anchor="middle", colour=svg.MUTED, size=11)]


def _draw_up(*, axis: Axis, scale: svg.Scale, top: float) -> list[Markup]:
    ticks = (
        find_log_ticks(scale.low, scale.high)
        if axis.log
        else svg.find_ticks(scale.low, scale.high, count=5)
    )
    parts = []
    for tick in ticks:
        y = scale.place(axis.move(tick))
        parts.append(svg.draw_line((LEFT, y), (WIDTH - RIGHT, y)))
        text = write_number(tick) if 0 < abs(tick) < 0.001 else svg.write_tick(tick)
        at = (LEFT - 6, y + 4)
        parts.append(svg.write(at, text, anchor="end", colour=svg.MUTED, size=10.5))
    at = (LEFT, top - 9)
    return [*parts, svg.write(at, axis.label, anchor="start", colour=svg.MUTED, size=11)]


Axes = tuple[Axis, Axis]
Scales = tuple[svg.Scale, svg.Scale]


def _place(x: float, y: float, *, axes: Axes, scales: Scales) -> tuple[float, float]:
    return scales[0].place(axes[0].move(x)), scales[1].place(axes[1].move(y))


def _draw_band(one: Series, *, axes: Axes, scales: Scales, colour: str) -> list[Markup]:
    with_band = [
        p for p in one.points if _fits(p.low, axis=axes[1]) and _fits(p.high, axis=axes[1])
    ]
    if len(with_band) < 2:
        return []
    above = [_place(p.x, p.high, axes=axes, scales=scales) for p in with_band]
    below = [_place(p.x, p.low, axes=axes, scales=scales) for p in reversed(with_band)]
    data = f"{_trace([*above, *below])}z"
    return [
        svg.element("path", {"d": data, "fill": colour, "fill-opacity": 0.16, "stroke": "none"})
    ]


def _trace(points: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def _draw_series(one: Series, *, mark: int, axes: Axes, scales: Scales) -> list[Markup]:
    colour = svg.SERIES[mark % len(svg.SERIES)]
    strokes = [
        _trace([_place(p.x, p.mean, axes=axes, scales=scales) for p in pair])
        for pair in pairwise(one.points)
        if not any(math.isnan(p.mean) for p in pair)
    ]
    line: svg.Attributes = {"fill": "none", "stroke": colour, "stroke-width": 1.8}
    parts = [svg.element("path", {"d": "".join(strokes), **line})] if strokes else []
    placed = [
        _place(p.x, p.mean, axes=axes, scales=scales) for p in one.points if not math.isnan(p.mean)
    ]
    shape = svg.SHAPES[mark % len(svg.SHAPES)]
    return [*parts, svg.draw_markers(placed, shape=shape, colour=colour)]


def _draw_law(law: PowerLaw, one: Series, *, axes: Axes, scales: Scales) -> Markup:
    xs = [p.x for p in one.points if not math.isnan(p.mean)]
    steps = [min(xs) * (max(xs) / min(xs)) ** (i / 24) for i in range(25)]
    points = [_place(x, law.place(x), axes=axes, scales=scales) for x in steps]
    attributes: svg.Attributes = {
        "fill": "none",
        "stroke": svg.INK,
        "stroke-width": 1,
        "stroke-dasharray": "4 3",
    }
    return svg.element("path", {"d": _trace(points), **attributes})


def _draw_key(one: Series, *, mark: int, law: PowerLaw | None) -> list[Markup]:
    y = 12 + LEGEND * mark
    colour = svg.SERIES[mark % len(svg.SERIES)]
    shape = svg.SHAPES[mark % len(svg.SHAPES)]
    text = f"{one.label}, {law.text}" if law is not None else one.label
    if len(text) > 44:
        text = f"{text[:43]}\N{HORIZONTAL ELLIPSIS}"
    return [
        svg.draw_markers([(LEFT + 5, y - 4)], shape=shape, colour=colour),
        svg.write((LEFT + 14, y), text, size=11.5),
    ]


def _describe(one: Series, *, law: PowerLaw | None) -> str:
    pairs = ", ".join(f"{write_number(p.mean)} at {p.x:g}" for p in one.points) or DASH
    return f"{one.label}: {pairs}" + (f"; {law.text}" if law is not None else "")
