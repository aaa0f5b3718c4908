"""Tables of mitigation in `fieldmark bench ravl`: where discovery was right, by its Precision@10.

Whether discovery was right is asked of each seed; the seeds of a setting where it was are averaged,
and intervals resample settings (Table 3 of the paper).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from fieldmark.benchmarks.suite import Exhibit
from fieldmark.benchmarks.suites.ravl_settings import (
    BRACKETS,
    FINE_TUNED,
    PRECISION,
    Setting,
    average_scores,
    list_methods,
    show_mean,
    show_printed,
    show_table,
)
from fieldmark.report.names import name, sort_known
from fieldmark.report.published_ravl import SETTINGS, find_ravl_reference
from fieldmark.report.tables import Line, Summary, Table

PRECISIONS = (0.6, 0.8)
RAVL = "ravl-mitigation"
VARIANTS = (RAVL, "ravl-sum-mitigation", "ravl-balanced-mitigation")
METHODS = {
    FINE_TUNED: "fine-tuned, not mitigated",
    "standard": "standard fine-tuning",
    "upsampled": "upsampled fine-tuning",
    "vl-erm": "VL-ERM",
    "vl-gdro": "VL-GDRO",
    "spurious-aware-mitigation": "Spurious-Aware Mitigation",
    RAVL: "RaVL, mean over images",
    "ravl-sum-mitigation": "RaVL, sum as in equation 3",
    "ravl-balanced-mitigation": "RaVL with the rivals' sampler",
}
METRICS = {
    "image_avg": "image overall",
    "image_wg": "image worst group",
    "region_avg": "region overall",
    "region_wg": "region worst group",
}


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The settings where discovery was right.

    Attributes:
        least: RaVL's Precision@10 is above it.
        settings: each with the seeds where it is and where mitigation was run.
    """

    least: float
    settings: tuple[tuple[Setting, tuple[int, ...]], ...]

    def average(self, method: str, metric: str) -> list[float]:
        """Return (S,) the mean over the chosen seeds of each setting, NaN where undefined."""
        return [one.average(method, metric, seeds=seeds) for one, seeds in self.settings]

    def describe(self) -> str:
        """Return the number of settings and of runs in words."""
        runs = sum(len(seeds) for _, seeds in self.settings)
        return f"{len(self.settings)} settings, {runs} runs"


def choose_settings(settings: Sequence[Setting], *, least: float) -> Chosen:
    """Choose settings and seeds where RaVL's discovery was right and mitigation was run.

    Args:
        settings: valid ones.
        least: RaVL's Precision@10 is to be above it, with the same seed.
    """
    chosen = []
    for one in settings:
        cells = one.cells.get(("ravl", PRECISION), {})
        run = _list_runs(one)
        seeds = tuple(seed for seed, cell in cells.items() if cell.value > least and seed in run)
        if seeds:
            chosen.append((one, seeds))
    return Chosen(least=least, settings=tuple(chosen))


def _list_runs(one: Setting) -> set[int]:
    return {
        seed
        for (method, metric), cells in one.cells.items()
        if metric in METRICS and method != FINE_TUNED
        for seed in cells
    }


def draw_mitigation(settings: Sequence[Setting]) -> list[Exhibit]:
    """Draw Table 3 and RaVL's difference to each rival; nothing where mitigation was not run.

    Args:
        settings: valid ones.

    Example:
        >>> draw_mitigation([])
        []
    """
    # The overall accuracy of the model before comes with discovery too.
    found = list_methods(settings, metric="image_wg")
    methods = sort_known(found, order=METHODS)
    if not set(methods) - {FINE_TUNED}:
        return []
    chosen = [choose_settings(settings, least=least) for least in PRECISIONS]
    drawn = [
        show_table(f"ravl-table-3-above-{100 * one.least:.0f}", tabulate_mitigation(one, methods))
        for one in chosen
        if one.settings
    ]
    differences = tabulate_differences(chosen, methods)
    return (
        [*drawn, show_table("ravl-mitigation-differences", differences)] if differences else drawn
    )


def tabulate_mitigation(chosen: Chosen, methods: Sequence[str]) -> Table:
    """Lay out the mean of each metric after each method, with the paper's beside it.

    Args:
        chosen: from `choose_settings`.
        methods: the rows, in order.
    """
    column = f"precision>{chosen.least:g}"
    count = find_ravl_reference(table=3, column=column, metric=SETTINGS)
    lines = []
    for method in methods:
        figures: list[Summary | None] = []
        for metric in METRICS:
            printed = show_printed(table=3, method=method, column=column, metric=metric)
            mean = average_scores(chosen.average(method, metric))
            seeds = max(len(kept) for _, kept in chosen.settings)
            figures.append(show_mean(mean, method=method, metric=metric, seeds=seeds))
            figures.append(printed)
        lines.append(Line(names=(name(method, known=METHODS),), figures=tuple(figures)))
    paper = "" if count is None else f"; in the paper {count:.0f} settings of photographs"
    return Table(
        caption=(
            f"Mitigation where RaVL's Precision@10 is above {chosen.least:g} (Table 3):"
            f" {chosen.describe()}{paper}"
        ),
        headings=("Method",),
        measures=tuple(text for word in METRICS.values() for text in (word, f"{word}, paper")),
        lines=tuple(lines),
        notes=(BRACKETS, *_note_fewer(chosen, methods)),
    )


def _note_fewer(chosen: Chosen, methods: Sequence[str]) -> Iterator[str]:
    least: Mapping[str, int] = {
        method: min(
            sum(not math.isnan(value) for value in chosen.average(method, metric))
            for metric in METRICS
        )
        for method in methods
    }
    fewer = [
        f"{name(method, known=METHODS)} {count}"
        for method, count in least.items()
        if count < len(chosen.settings)
    ]
    if fewer:
        yield f"A figure undefined or not measured in some settings; left: {'; '.join(fewer)}."


def tabulate_differences(chosen: Sequence[Chosen], methods: Sequence[str]) -> Table | None:
    """Lay out RaVL minus each rival, setting by setting, or None where there is no pair.

    Args:
        chosen: from `choose_settings`, one for each threshold.
        methods: RaVL and its rivals, in order.
    """
    ours = [method for method in methods if method in VARIANTS]
    rivals = [method for method in methods if method not in VARIANTS]
    lines = []
    for one in chosen:
        for own, rival in itertools.product(ours, rivals):
            means = {metric: _subtract(one, own, rival, metric=metric) for metric in METRICS}
            if not any(pairs for _, pairs in means.values()):
                continue
            settings = max(pairs for _, pairs in means.values())
            words = (name(method, known=METHODS) for method in (own, rival))
            names = (f"above {one.least:g}", str(settings), *words)
            lines.append(Line(names=names, figures=tuple(figure for figure, _ in means.values())))
    if not lines:
        return None
    return Table(
        caption="Mitigation: RaVL minus each rival, setting by setting",
        headings=("Precision@10", "Settings", "Method", "Rival"),
        measures=tuple(METRICS.values()),
        lines=tuple(lines),
        notes=(BRACKETS, "Above 0, RaVL is better. Only seeds that both have are paired."),
    )


def _subtract(chosen: Chosen, own: str, rival: str, *, metric: str) -> tuple[Summary, int]:
    gaps = []
    for one, seeds in chosen.settings:
        mine, theirs = (one.cells.get((method, metric), {}) for method in (own, rival))
        paired = [
            # Equal shares of other counts differ by what rounding leaves.
            round(mine[seed].value - theirs[seed].value, 12)
            for seed in seeds
            if seed in mine and seed in theirs
        ]
        defined = [gap for gap in paired if not math.isnan(gap)]
        gaps.append(sum(defined) / len(defined) if defined else math.nan)
    mean = average_scores(gaps, bounded=False)
    return show_mean(mean, method=own, metric=metric), mean.settings
