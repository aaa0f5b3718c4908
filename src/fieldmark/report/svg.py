"""Small SVG, inline in a page: every text is escaped, every colour follows the theme of the page.

A drawing is `markupsafe.Markup`, so a template inserts it as it is; the text inside went through
`Markup.format`, which escapes. Outside a page that sets the variables the fallbacks below apply.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from markupsafe import Markup

from fieldmark.report.names import write_number

INK = "var(--ink, currentColor)"
MUTED = "var(--muted, #6a6f73)"
RULE = "var(--rule, #d5d3cc)"
PAPER = "var(--paper, #ffffff)"
GREY = "var(--grey, #a9adae)"
ACCENT = "var(--accent, #0b6a80)"
# After Okabe and Ito, "Color universal design" (2008), darkened or lightened by the theme.
SERIES = (
    "var(--series-1, #0072b2)",
    "var(--series-2, #d55e00)",
    "var(--series-3, #009e73)",
    "var(--series-4, #cc79a7)",
    "var(--series-5, #8a7400)",
    "var(--series-6, #56b4e9)",
)
SHAPES = ("circle", "cross", "square", "triangle")

Attributes = Mapping[str, str | float]


class Scale(NamedTuple):
    """A linear map from data to drawing units.

    Example:
        >>> Scale(low=0, high=1, start=100, stop=300).place(0.5)
        200.0
    """

    low: float
    high: float
    start: float
    stop: float

    def place(self, value: float) -> float:
        """Return where a value stands; the middle where the scale has no extent."""
        if self.high == self.low:
            return (self.start + self.stop) / 2
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)


def element(tag: str, attributes: Attributes, *children: Markup | str) -> Markup:
    """Build one element; attribute values and texts are escaped.

    Example:
        >>> element("text", {"x": 1.25}, "<b>")
        Markup('<text x="1.25">&lt;b&gt;</text>')
    """
    pairs = Markup("").join(
        Markup(' {}="{}"').format(key, _write(value)) for key, value in attributes.items()
    )
    body = Markup("").join(children)
    name = Markup(tag)
    if not children:
        return Markup("<{}{}/>").format(name, pairs)
    return Markup("<{0}{1}>{2}</{0}>").format(name, pairs, body)


def _write(value: str | float) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.5g}"


def draw(
    size: tuple[float, float], *, name: str, title: str, description: str, body: Sequence[Markup]
) -> Markup:
    """Wrap elements into an accessible picture.

    Args:
        size: width and height of its coordinates.
        name: an identifier that no other picture of the page has.
        title: what it is, in a few words.
        description: what it shows, with its numbers, for who cannot see it.
        body: the elements.
    """
    attributes = {
        "viewBox": f"0 0 {size[0]:g} {size[1]:g}",
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-text",
        "class": "plot",
        "xmlns": "http://www.w3.org/2000/svg",
        "font-family": "system-ui, sans-serif",
    }
    head = (
        element("title", {"id": f"{name}-title"}, title),
        element("desc", {"id": f"{name}-text"}, description),
    )
    return element("svg", attributes, *head, *body)


def write(
    at: tuple[float, float],
    text: str,
    *,
    anchor: str = "start",
    colour: str = INK,
    size: float = 12,
    weight: str = "400",
) -> Markup:
    """Draw a text; `at` is the end of its baseline that `anchor` names."""
    return element(
        "text",
        {
            "x": at[0],
            "y": at[1],
            "text-anchor": anchor,
            "fill": colour,
            "font-size": size,
            "font-weight": weight,
        },
        text,
    )


def draw_line(
    start: tuple[float, float],
    stop: tuple[float, float],
    *,
    colour: str = RULE,
    width: float = 1,
    dashes: str = "none",
) -> Markup:
    """Draw a straight line."""
    return element(
        "line",
        {
            "x1": start[0],
            "y1": start[1],
            "x2": stop[0],
            "y2": stop[1],
            "stroke": colour,
            "stroke-width": width,
            "stroke-dasharray": dashes,
        },
    )


def trace_markers(points: Sequence[tuple[float, float]], *, shape: str, size: float) -> str:
    """Write the path data of many markers of one shape, each centred on its point.

    A circle is a dot of a round pen, so that a thousand points stay small.
    """
    half = size / 2
    third = size * 0.577
    strokes = {
        "circle": "h0",
        "cross": f"m{-half:g} {-half:g}l{size:g} {size:g}m0 {-size:g}l{-size:g} {size:g}",
        "square": f"m{-half:g} {-half:g}h{size:g}v{size:g}h{-size:g}z",
        "triangle": f"m0 {-third:g}l{half:g} {1.5 * third:g}h{-size:g}z",
    }
    return "".join(f"M{x:.1f} {y:.1f}{strokes[shape]}" for x, y in points)


def draw_markers(
    points: Sequence[tuple[float, float]], *, shape: str, colour: str, size: float = 6
) -> Markup:
    """Draw markers of one shape and colour as one path."""
    dot = shape == "circle"
    return element(
        "path",
        {
            "d": trace_markers(points, shape=shape, size=size),
            "fill": "none",
            "stroke": colour,
            "stroke-width": size if dot else 1.4,
            "stroke-linecap": "round",
            "stroke-opacity": 0.8 if dot else 0.9,
        },
    )


def find_ticks(low: float, high: float, *, count: int = 4) -> list[float]:
    """Choose about `count` round numbers in [low, high].

    Example:
        >>> find_ticks(0, 1), find_ticks(0.013, 0.3)
        ([0.0, 0.5, 1.0], [0.1, 0.2, 0.3])
    """
    if not low < high:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(s * power for s in (1, 2, 5, 10) if s * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def write_tick(value: float) -> str:
    """Write a number at an axis, without idle zeros.

    Example:
        >>> write_tick(0.5), write_tick(2000.0)
        ('0.5', '2,000')
    """
    return f"{value:,.0f}" if value == int(value) else write_number(value, digits=4).rstrip("0")
