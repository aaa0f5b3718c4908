"""Maps side by side in one drawing, with a legend that they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fieldmark.report import svg
from fieldmark.report.names import METHODS, name

SIDE, GAP, HEAD, KEY = 240.0, 16.0, 22.0, 17.0
MARGIN, DOT = 10.0, 4.5


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A map.

    Attributes:
        title: what it is of.
        points: x and y.
        labels: of each point.
    """

    title: str
    points: tuple[tuple[float, float], ...]
    labels: tuple[str, ...]


def draw_panels(panels: Sequence[Panel], *, identifier: str, title: str) -> Markup:
    """Draw maps beside each other; each label has one colour and one shape in all of them.

    Args:
        panels: the maps.
        identifier: unlike that of any other picture of the page.
        title: what is drawn.

    Example:
        >>> panel = Panel(title="native", points=((0, 0), (1, 2)), labels=("bird", "cow"))
        >>> 'role="img"' in draw_panels([panel], identifier="a", title="A map")
        True
    """
    labels = sorted({label for panel in panels for label in panel.labels})
    body: list[Markup] = []
    for number, panel in enumerate(panels):
        body += _draw_panel(panel, left=number * (SIDE + GAP), labels=labels)
    for number, label in enumerate(labels):
        y = HEAD + SIDE + KEY * (number + 1)
        body.append(_mark([(8.0, y - 4)], number=number))
        body.append(svg.write((18, y), label, size=11.5))
    width = len(panels) * (SIDE + GAP) - GAP
    height = HEAD + SIDE + KEY * len(labels) + 8
    words = "; ".join(f"{panel.title}: {len(panel.points)} points" for panel in panels)
    return svg.draw((width, height), name=identifier, title=title, description=words, body=body)


def _draw_panel(panel: Panel, *, left: float, labels: Sequence[str]) -> list[Markup]:
    frame = {"x": left + 0.5, "y": HEAD, "width": SIDE - 1, "height": SIDE - 1}
    body = [
        svg.write((left, 14), name(panel.title, known=METHODS), weight="600"),
        svg.element("rect", {**frame, "fill": "none", "stroke": svg.RULE}),
    ]
    xs, ys = zip(*panel.points, strict=True) if panel.points else ((0.0,), (0.0,))
    # One unit for both axes, so that distances stay comparable.
    half = max(max(xs) - min(xs), max(ys) - min(ys)) / 2 or 1.0
    middle = ((max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2)
    across = svg.Scale(middle[0] - half, middle[0] + half, left + MARGIN, left + SIDE - MARGIN)
    up = svg.Scale(middle[1] - half, middle[1] + half, HEAD + SIDE - MARGIN, HEAD + MARGIN)
    for number, label in enumerate(labels):
        placed = [
            (across.place(x), up.place(y))
            for (x, y), own in zip(panel.points, panel.labels, strict=True)
            if own == label
        ]
        if placed:
            body.append(_mark(placed, number=number))
    return body


def _mark(points: Sequence[tuple[float, float]], *, number: int) -> Markup:
    colour = svg.SERIES[number % len(svg.SERIES)]
    shape = svg.SHAPES[number % len(svg.SHAPES)]
    return svg.draw_markers(points, shape=shape, colour=colour, size=DOT)
