"""What each cluster of an image is worth, as bars to either side of 0."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from fieldmark.report import svg
from fieldmark.report.heatmap import CLUSTER_COLOURS
from fieldmark.report.names import write_number

WIDTH, ROW, TOP = 340.0, 22.0, 18.0
_BARS = (86.0, 282.0)


def draw_drops(
    drops: Sequence[float], sizes: Sequence[int], *, identifier: str, title: str
) -> Markup:
    """Draw a bar for each cluster, to the right where the score drops without it.

    Args:
        drops: what each cluster is worth, NaN for a cluster that the image has not.
        sizes: patches of each cluster.
        identifier: unlike that of any other picture of the page.
        title: what the bars are of.

    Returns:
        The drawing; empty where there is no cluster.

    Example:
        >>> "1 patch" in draw_drops([0.1, -0.2], [1, 3], identifier="a", title="drops")
        True
    """
    known = [number for number, drop in enumerate(drops) if math.isfinite(drop)]
    if not known:
        return Markup("")
    top = max(abs(drops[number]) for number in known) or 1.0
    scale = svg.Scale(low=-top, high=top, start=_BARS[0], stop=_BARS[1])
    middle = scale.place(0)
    height = TOP + ROW * len(known) + 4
    body = [
        svg.write((middle - 6, 11), "against", anchor="end", colour=svg.MUTED, size=11),
        svg.write((middle + 6, 11), "for the text", colour=svg.MUTED, size=11),
    ]
    order = sorted(known, key=lambda number: -drops[number])
    for place, number in enumerate(order):
        body += _draw_bar(number, drops[number], sizes, at=TOP + ROW * place, scale=scale)
    axis: dict[str, str | float] = {
        "x1": middle,
        "x2": middle,
        "y1": TOP - 2,
        "y2": height,
        "stroke": svg.INK,
    }
    body.append(svg.element("line", axis))
    told = ", ".join(f"cluster {n + 1} {write_number(drops[n])}" for n in order)
    return svg.draw((WIDTH, height), name=identifier, title=title, description=told, body=body)


def _draw_bar(
    number: int, drop: float, sizes: Sequence[int], *, at: float, scale: svg.Scale
) -> list[Markup]:
    red, green, blue = CLUSTER_COLOURS[number % len(CLUSTER_COLOURS)]
    colour = f"rgb({red},{green},{blue})"
    ends = sorted((scale.place(0), scale.place(drop)))
    bar: dict[str, str | float] = {
        "y": at + 3,
        "height": ROW - 7,
        "fill": colour,
        "stroke": svg.MUTED,
    }
    size = sizes[number] if number < len(sizes) else 0
    return [
        svg.element("rect", {"x": 1, "width": 12, **bar}),
        svg.write(
            (18, at + 15),
            f"{size} patch{'' if size == 1 else 'es'}",
            colour=svg.MUTED,
            size=11,
        ),
        svg.element("rect", {"x": ends[0], "width": max(ends[1] - ends[0], 0.5), **bar}),
        svg.write((WIDTH - 2, at + 15), write_number(drop), anchor="end", size=11),
    ]
