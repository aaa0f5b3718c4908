"""Sweeps, bars by class and maps as still pictures (PNG, PDF or SVG), for a README or a paper.

The same numbers give the same bytes: no date, no version and no chance goes into a file.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldmark.core.atomic import replacing
from fieldmark.core.errors import InputError, MissingExtraError
from fieldmark.report.bars import ClassBars
from fieldmark.report.curves import Axis
from fieldmark.report.figures import Cloud
from fieldmark.report.sweeps import PowerLaw, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID = "#1d2125", "#646a6f", "#e4e2db"
# After Okabe and Ito, "Color universal design" (2008), as in fieldmark.report.svg.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a7400", "#56b4e9")
MARKERS = ("o", "x", "s", "^")
# What a writer would put into a file on its own, by suffix.
UNDATED: Mapping[str, Mapping[str, Any]] = {
    ".png": {"Software": None},
    ".pdf": {"Creator": None, "Producer": None, "CreationDate": None},
    ".svg": {"Creator": None, "Date": None},
}


def write_sweep_plot(
    series: Sequence[Series],
    path: Path,
    *,
    across: Axis,
    up: Axis,
    title: str = "",
    laws: Mapping[str, PowerLaw] | None = None,
) -> Path:
    """Draw series against a setting, with their bands and fitted laws, into a file.

    Args:
        series: one line each.
        path: where to write; its suffix says what (.png, .pdf, .svg).
        across: the setting.
        up: the figure.
        title: above it.
        laws: power laws by the label of their series.

    Returns:
        The path.

    Raises:
        InputError: there is no defined point, or the suffix is unknown.
        MissingExtraError: matplotlib is not installed.
    """
    if not any(not math.isnan(p.mean) for one in series for p in one.points):
        raise InputError("has no defined point to draw", where=path.name)
    figure = _start(size=(6.4, 4.0))
    axes = figure.add_subplot()
    for index, one in enumerate(series):
        _draw_series(axes, one, mark=index, law=(laws or {}).get(one.label))
    for axis, name in ((across, "x"), (up, "y")):
        if axis.log:
            getattr(axes, f"set_{name}scale")("log")
        getattr(axes, f"set_{name}label")(axis.label, color=MUTED)
        getattr(axes, f"set_{name}lim")(axis.low, axis.high)
    if across.log:
        xs = sorted({p.x for one in series for p in one.points})
        axes.set_xticks(xs, [f"{x:g}" for x in xs])
        axes.minorticks_off()
    axes.legend(frameon=False)
    _dress(axes, title=title)
    return _save(figure, path)


def _draw_series(axes: Axes, one: Series, *, mark: int, law: PowerLaw | None) -> None:
    colour = SERIES[mark % len(SERIES)]
    xs = [p.x for p in one.points]
    label = f"{one.label}, {law.text}" if law is not None else one.label
    axes.plot(
        xs,
        [p.mean for p in one.points],
        color=colour,
        marker=MARKERS[mark % len(MARKERS)],
        markersize=5,
        label=_quote(label),
    )
    lows, highs = [p.low for p in one.points], [p.high for p in one.points]
    axes.fill_between(xs, lows, highs, color=colour, alpha=0.16, linewidth=0)
    if law is not None:
        kept = [x for x in xs if x > 0]
        axes.plot(kept, [law.place(x) for x in kept], color=INK, linewidth=0.9, linestyle="--")


def write_class_plot(
    classes: Sequence[ClassBars], path: Path, *, encoders: Sequence[str], title: str = ""
) -> Path:
    """Draw accuracy by class as horizontal bars, with a line where the paper's figure is.

    Args:
        classes: from top to bottom.
        path: where to write; its suffix says what.
        encoders: what the bars of a class are of, in order.
        title: above it.

    Returns:
        The path.

    Raises:
        InputError: there is no class, or the suffix is unknown.
        MissingExtraError: matplotlib is not installed.
    """
    if not classes:
        raise InputError("has no class to draw", where=path.name)
    figure = _start(size=(6.4, 0.8 + 0.28 * len(classes)))
    axes = figure.add_subplot()
    thick = 0.8 / len(encoders)
    for rank, encoder in enumerate(encoders):
        places = [i + (rank - (len(encoders) - 1) / 2) * thick for i in range(len(classes))]
        widths = [0.0 if math.isnan(one.values[rank]) else one.values[rank] for one in classes]
        colour = ("#b3b5b3", "#0b6a80", *SERIES[1:])[rank % (len(SERIES) + 1)]
        axes.barh(places, widths, thick * 0.92, color=colour, label=_quote(encoder))
        _draw_references(axes, classes, places=places, rank=rank, thick=thick)
    axes.set_yticks(range(len(classes)), [_quote(one.label) for one in classes])
    axes.set_ylim(len(classes) - 0.4, -0.6)
    axes.set_xlim(0, 1)
    axes.set_xlabel("accuracy", color=MUTED)
    axes.legend(frameon=False, ncols=len(encoders) + 1, loc="lower left", bbox_to_anchor=(0, 1))
    _dress(axes, title=title)
    return _save(figure, path)


def _draw_references(
    axes: Axes, classes: Sequence[ClassBars], *, places: Sequence[float], rank: int, thick: float
) -> None:
    drawn = [
        (y, one.references[rank])
        for y, one in zip(places, classes, strict=True)
        if one.references and not math.isnan(one.references[rank])
    ]
    if drawn:
        ys, xs = zip(*drawn, strict=True)
        lows, highs = [y - thick / 2 for y in ys], [y + thick / 2 for y in ys]
        label = "" if rank else "the paper"
        axes.vlines(xs, lows, highs, color=INK, linewidth=1.4, label=label)


def write_map_plot(
    panels: Sequence[tuple[str, Sequence[Cloud]]], path: Path, *, columns: int = 3
) -> Path:
    """Draw maps of embeddings side by side, as Figure 4 of the BAP paper.

    Args:
        panels: the caption and the clouds of each map, row by row.
        path: where to write; its suffix says what.
        columns: how many maps stand in a row.

    Returns:
        The path.

    Raises:
        InputError: there is no map, or the suffix is unknown.
        MissingExtraError: matplotlib is not installed.
    """
    if not panels:
        raise InputError("has no map to draw", where=path.name)
    rows = math.ceil(len(panels) / columns)
    figure = _start(size=(3.1 * columns, 3.1 * rows + 0.5))
    kinds: dict[str, Any] = {}
    for index, (caption, clouds) in enumerate(panels, start=1):
        axes = figure.add_subplot(rows, columns, index)
        for cloud in clouds:
            points = [p for p in cloud.points if all(map(math.isfinite, p))]
            drawn = axes.scatter(
                [x for x, _ in points],
                [y for _, y in points],
                s=12,
                color=SERIES[cloud.mark % len(SERIES)],
                marker=MARKERS[cloud.mark % len(MARKERS)],
                linewidths=0.8,
            )
            kinds.setdefault(cloud.label, drawn)
        axes.set_aspect("equal", adjustable="datalim")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(GRID)
        axes.set_title(_quote(caption), loc="left", fontsize=10, color=INK)
    labels = [_quote(kind) for kind in kinds]
    figure.legend(kinds.values(), labels, loc="outside lower left", ncols=6, frameon=False)
    return _save(figure, path)


def _start(*, size: tuple[float, float]) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", extra="viz") from error
    return Figure(figsize=size, layout="constrained", dpi=160)


def _quote(text: str) -> str:
    """Keep matplotlib from reading a dollar as mathematics and an underscore as "hide me"."""
    quoted = text.replace("$", r"\$")
    return f"\N{ZERO WIDTH SPACE}{quoted}" if quoted.startswith("_") else quoted


def _dress(axes: Axes, *, title: str) -> None:
    if title:
        axes.set_title(_quote(title), loc="left", fontsize=12, color=INK, pad=26)
    axes.tick_params(colors=MUTED)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _save(figure: Figure, path: Path) -> Path:
    from matplotlib import rc_context

    kind = path.suffix.lower()
    if kind not in UNDATED:
        raise InputError(
            f"cannot be a picture of kind {kind or 'none'!r}",
            where=path.name,
            mend=f"end the name with {', '.join(UNDATED)}",
        )
    with rc_context({"svg.hashsalt": "fieldmark"}), replacing(path) as part:
        figure.savefig(part, format=kind[1:], facecolor="white", metadata=UNDATED[kind])
    return path
