"""A drawing of all clusters of a discovery: influence across, gap up."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from fieldmark.report import svg
from fieldmark.report.discovery_parts import ClusterFigures
from fieldmark.report.names import write_number

WIDTH, HEIGHT = 420.0, 300.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 46.0, 12.0, 30.0, 44.0


def draw_clusters(
    clusters: Sequence[ClusterFigures],
    *,
    passed: Sequence[int],
    kept: Sequence[int],
    threshold: float | None,
    identifier: str,
) -> Markup:
    """Draw a mark for each cluster that has both a gap and an influence.

    Args:
        clusters: the figures of all clusters.
        passed: ids of the candidates that are more than chance: large marks with their number.
        kept: ids of all candidates, in order.
        threshold: least influence of a candidate, or None.
        identifier: unlike that of any other picture of the page.

    Returns:
        The drawing; empty where no cluster has both.

    Example:
        >>> one = ClusterFigures(cluster=0, size=9, images=8, gap=0.5, influence=0.3)
        >>> "gap" in draw_clusters([one], passed=[0], kept=[0], threshold=0.25, identifier="c")
        True
    """
    known = [one for one in clusters if math.isfinite(one.gap) and math.isfinite(one.influence)]
    if not known:
        return Markup("")
    across = svg.Scale(low=0, high=1, start=_LEFT, stop=WIDTH - _RIGHT)
    high = max(one.gap for one in known) * 1.05 or 1.0
    up = svg.Scale(low=0, high=high, start=HEIGHT - _BOTTOM, stop=_TOP)
    body = _draw_axes(across, up)
    if threshold is not None:
        x = across.place(threshold)
        ends = (x, up.start), (x, up.stop)
        body.append(svg.draw_line(*ends, colour=svg.MUTED, dashes="3 3"))
        body.append(_note(f"candidates from {threshold:g} on", x=x))
    place = {one.cluster: (across.place(one.influence), up.place(one.gap)) for one in known}
    kinds = (
        ([c for c in place if c not in kept], "circle", svg.GREY, 5.0),
        ([c for c in place if c in kept and c not in passed], "square", svg.INK, 7.0),
        ([c for c in place if c in passed], "circle", svg.ACCENT, 10.0),
    )
    for ids, shape, colour, size in kinds:
        points = [place[c] for c in ids]
        body.append(svg.draw_markers(points, shape=shape, colour=colour, size=size))
    body += [_number(place[c], rank=rank) for rank, c in enumerate(kept, start=1) if c in place]
    text = "; ".join(
        f"cluster {one.cluster}: influence {write_number(one.influence, digits=2)}, gap "
        f"{write_number(one.gap, digits=2)}"
        for one in known
    )
    title = "Influence and gap of each cluster"
    return svg.draw((WIDTH, HEIGHT), name=identifier, title=title, description=text, body=body)


def _draw_axes(across: svg.Scale, up: svg.Scale) -> list[Markup]:
    parts = []
    for tick in svg.find_ticks(up.low, up.high):
        y = up.place(tick)
        parts.append(svg.draw_line((across.start, y), (across.stop, y)))
        at = (across.start - 6, y + 4)
        parts.append(svg.write(at, svg.write_tick(tick), anchor="end", colour=svg.MUTED))
    for tick in svg.find_ticks(0, 1):
        at = (across.place(tick), up.start + 16)
        parts.append(svg.write(at, svg.write_tick(tick), anchor="middle", colour=svg.MUTED))
    middle = ((across.start + across.stop) / 2, HEIGHT - 6)
    parts.append(svg.write(middle, "influence H", anchor="middle"))
    parts.append(svg.write((2, 12), "gap G"))
    return parts


def _note(text: str, *, x: float) -> Markup:
    """Write above the frame, where no mark is."""
    anchor = "start" if x < WIDTH - 150 else "end"
    return svg.write((x, _TOP - 6), text, anchor=anchor, colour=svg.MUTED, size=11)


def _number(at: tuple[float, float], *, rank: int) -> Markup:
    x, y = at
    if x > WIDTH - 30:
        return svg.write((x - 8, y - 6), str(rank), anchor="end", weight="600")
    return svg.write((x + 8, y - 6), str(rank), weight="600")
