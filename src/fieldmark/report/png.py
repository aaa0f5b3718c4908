"""A still picture of the result, for a README or a paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fieldmark.core.atomic import replacing
from fieldmark.core.errors import InputError, MissingExtraError
from fieldmark.report import names
from fieldmark.report.headline import choose_focus, write_headline
from fieldmark.report.tables import Summary

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer

INK, MUTED, GREY, ACCENT = "#1d2125", "#646a6f", "#b3b5b3", "#0b6a80"


def write_figure_png(
    summaries: Sequence[Summary], path: Path, *, methods: Sequence[str] = (), title: str = ""
) -> Path:
    """Draw accuracy by group and method, with intervals, into a PNG (or PDF or SVG, by suffix).

    Args:
        summaries: from `fieldmark.report.tables.summarise`.
        path: where to write.
        methods: which methods, as the records name them; all by default.
        title: in place of the headline.

    Returns:
        The path.

    Raises:
        InputError: the records hold no accuracy of the worst group.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", extra="viz") from error
    focus = choose_focus(summaries)
    if focus is None:
        raise InputError("holds no accuracy of the worst group", where="results.jsonl")
    chosen = [
        s
        for s in summaries
        if focus.holds(s)
        and (not methods or s.key["method"] in methods)
        and (names.parse_group(s.key["metric"]) or s.key["metric"] == "acc_wg")
    ]
    with rc_context({"font.family": "sans-serif", "svg.hashsalt": "fieldmark"}):
        figure = Figure(figsize=(9, 4.2), layout="constrained", dpi=160)
        axes = figure.add_subplot()
        _draw_columns(axes, chosen)
        figure.suptitle(
            title or write_headline(summaries).title, x=0.012, ha="left", fontsize=13, color=INK
        )
        with replacing(path) as part:
            figure.savefig(part, facecolor="white")
    return path


def _draw_columns(axes: Axes, chosen: Sequence[Summary]) -> None:
    found = list(dict.fromkeys(s.key["metric"] for s in chosen))
    metrics = sorted(found, key=lambda metric: metric == "acc_wg")
    methods = names.sort_methods(s.key["method"] for s in chosen)
    cells = {(s.key["method"], s.key["metric"]): s for s in chosen}
    width = 0.8 / max(len(methods), 1)
    bars = []
    for index, method in enumerate(methods):
        offset = (index - (len(methods) - 1) / 2) * width
        figures = [cells.get((method, metric)) for metric in metrics]
        heights = [0.0 if f is None or math.isnan(f.mean) else f.mean for f in figures]
        places = [place + offset for place in range(len(metrics))]
        bars.append(_draw_method(axes, method, places=places, heights=heights, width=width))
        for x, figure in zip(places, figures, strict=True):
            _write_value(axes, figure, x=x)
    ticks = [names.name_metric(metric).replace(" on ", "\non ") for metric in metrics]
    axes.set_xticks(range(len(metrics)), ticks, color=INK)
    axes.legend(
        bars,
        [names.name(method, known=names.METHODS) for method in methods],
        frameon=False,
        ncols=len(methods),
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
    )
    _dress(axes)


def _draw_method(
    axes: Axes, method: str, *, places: Sequence[float], heights: Sequence[float], width: float
) -> BarContainer:
    label = names.name(method, known=names.METHODS)
    colour = {"BAP": ACCENT, "oracle": "white"}.get(label, GREY)
    bars = axes.bar(places, heights, width * 0.9, color=colour)
    for bar in bars:
        if label == "oracle":
            bar.set(edgecolor=MUTED, linestyle="--")
        if label == "data-matched control":
            bar.set(hatch="////", edgecolor="white")
    return bars


def _write_value(axes: Axes, figure: Summary | None, *, x: float) -> None:
    if figure is None or math.isnan(figure.mean):
        axes.text(x, 0.01, names.DASH, ha="center", color=MUTED)
        return
    if figure.interval:
        axes.vlines(x, figure.ci_low, figure.ci_high, color=INK, linewidth=1.2)
    top = max(figure.mean, figure.ci_high) if figure.interval else figure.mean
    text = names.write_number(figure.mean, digits=2)
    axes.text(x, top + 0.015, text, ha="center", fontsize=8, color=INK)


def _dress(axes: Axes) -> None:
    axes.set_ylim(0, 1.06)
    axes.set_ylabel("accuracy", color=MUTED)
    axes.tick_params(axis="y", colors=MUTED)
    axes.tick_params(axis="x", length=0)
    axes.get_xticklabels()[-1].set_fontweight("bold")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.grid(axis="y", color="#e4e2db", linewidth=0.8)
    axes.set_axisbelow(True)
