"""Tables of discovery in `fieldmark bench ravl`: mean Precision@10 over settings (Tables 1 and 2).

Precision@10 is 0 where a method found nothing. A figure is the mean over settings of the mean over
seeds; its interval resamples settings. The paper's figures are from other encoders, on 654 settings
of MNIST, FashionMNIST and COCO: the shape is to be compared, not the third decimal.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence

from fieldmark.benchmarks.suite import Exhibit
from fieldmark.benchmarks.suites.ravl_settings import (
    BRACKETS,
    CLUSTER,
    PRECISION,
    TOP,
    Setting,
    average_scores,
    keep_valid,
    list_methods,
    show_mean,
    show_printed,
    show_table,
    show_value,
)
from fieldmark.report.names import name, sort_known
from fieldmark.report.published_ravl import SETTINGS, find_ravl_reference
from fieldmark.report.tables import Line, Summary, Table

TAUS = (10, 20, 30, 40)
RAVL = "ravl"
RIVALS = (
    "random",
    "distilling-failures",
    "distilling-failures-image",
    "george",
    "domino",
    "domino-image",
    "spurious-aware",
)
ABLATIONS = ("unweighted-gap-only", "gap-only")
ORDER = (*RIVALS, *ABLATIONS, RAVL)
METHODS = {
    "random": "random",
    "distilling-failures": "Distilling Failures",
    # Told whether the image is named right, not the region.
    "distilling-failures-image": "Distilling Failures (image's errors)",
    "george": "George",
    "domino": "Domino",
    "domino-image": "Domino (image's errors)",
    "spurious-aware": "Spurious-Aware Detection",
    "unweighted-gap-only": "unweighted gap only",
    "gap-only": "gap only",
    RAVL: "RaVL",
}


def name_method(method: str) -> str:
    """Return the plain words for a method of discovery.

    Example:
        >>> name_method("spurious-aware")
        'Spurious-Aware Detection'
    """
    return name(method, known=METHODS)


def list_discoverers(settings: Sequence[Setting]) -> tuple[list[str], list[str]]:
    """Return the methods of discovery that were run, and those of them that are no ablation."""
    methods = sort_known(list_methods(settings, metric=PRECISION), order=ORDER)
    return methods, [method for method in methods if method not in ABLATIONS]


def draw_discovery(settings: Sequence[Setting]) -> Iterator[Exhibit]:
    """Yield the tables of discovery that the methods which were run bear.

    Args:
        settings: valid ones.
    """
    methods, compared = list_discoverers(settings)
    if compared:
        title = "Mean Precision@10 of discovery (Table 1)"
        yield show_table(
            "ravl-table-1", tabulate_by_strength(settings, methods=compared, caption=title)
        )
    ablated = [method for method in (*ABLATIONS, RAVL) if method in methods]
    if set(ablated) & set(ABLATIONS):
        title = "What gap, weight and influence each bring: mean Precision@10 (Table 2)"
        table = tabulate_by_strength(settings, methods=ablated, caption=title, paper=2)
        yield show_table("ravl-table-2", table)
    if RAVL in methods and len(methods) > 1:
        rivals = [method for method in methods if method != RAVL]
        yield show_table("ravl-differences", tabulate_leads(settings, rivals=rivals))
    if methods:
        yield show_table("ravl-found", tabulate_clusters(settings, methods=methods))
    parts: tuple[tuple[str, str, Callable[[Setting], str]], ...] = (
        ("domain", "Domain", lambda one: one.domain),
        ("kind", "Kind of feature", lambda one: one.kind),
    )
    for part, heading, read in parts if compared else ():
        table = tabulate_parts(settings, methods=compared, heading=heading, read=read)
        yield show_table(f"ravl-by-{part}", table)


def _score(settings: Sequence[Setting], method: str, *, tau: float) -> Summary:
    scores = [one.score(method) for one in keep_valid(settings, tau=tau)]
    seeds = max((one.count_empty(method)[1] for one in settings), default=0)
    return show_mean(average_scores(scores), method=method, metric=PRECISION, seeds=seeds)


def tabulate_by_strength(
    settings: Sequence[Setting], *, methods: Sequence[str], caption: str, paper: int = 1
) -> Table:
    """Lay out mean Precision@10 at each tau with the paper's beside it.

    Args:
        settings: valid ones.
        methods: the rows, in order.
        caption: what the table shows.
        paper: number of the paper's table.
    """
    model = "" if paper == 1 else "CLIP-RN50"
    heads: list[str] = []
    for tau in TAUS:
        count = find_ravl_reference(table=paper, column=f"tau={tau}", metric=SETTINGS, model=model)
        known = "" if count is None else f" ({count:.0f} settings)"
        ours = len(keep_valid(settings, tau=tau))
        heads += [f"tau = {tau} ({ours} settings)", f"tau = {tau}, paper{known}"]
    lines = []
    for method in methods:
        figures: list[Summary | None] = []
        for tau in TAUS:
            printed = show_printed(
                table=paper, method=method, column=f"tau={tau}", metric=PRECISION, model=model
            )
            figures += [_score(settings, method, tau=tau), printed]
        lines.append(Line(names=(name_method(method),), figures=tuple(figures)))
    notes = [BRACKETS, *_note_gaps(settings, methods)]
    if paper != 1:
        notes.append("The paper's column is of CLIP ResNet-50 on photographs, ours of all domains.")
    return Table(
        caption=caption,
        headings=("Method",),
        measures=tuple(heads),
        lines=tuple(lines),
        notes=tuple(notes),
    )


def _note_gaps(settings: Sequence[Setting], methods: Sequence[str]) -> Iterator[str]:
    """Say where a method found nothing, and where it was not run."""
    empty, absent = [], []
    for method in methods:
        counts = [one.count_empty(method) for one in settings]
        nothing, runs = (sum(column) for column in zip(*counts, strict=True))
        if nothing:
            empty.append(f"{name_method(method)} {nothing} of {runs}")
        lacking = sum(not seeds for _, seeds in counts)
        if lacking:
            absent.append(f"{name_method(method)} {lacking} of {len(settings)}")
    yield "Nothing found counts as 0; runs at tau 10 in which that is so: " + (
        f"{'; '.join(empty)}." if empty else "none."
    )
    if absent:
        yield f"Settings at tau 10 in which a method was not run: {'; '.join(absent)}."


def tabulate_leads(settings: Sequence[Setting], *, rivals: Sequence[str]) -> Table:
    """Lay out RaVL's Precision@10 minus each rival's at each tau, setting by setting.

    Args:
        settings: valid ones.
        rivals: the rows, in order; ablations too.
    """
    lines = []
    for rival in rivals:
        figures = []
        for tau in TAUS:
            gaps = [
                # Equal means of other counts differ by what rounding leaves.
                round(one.score(RAVL) - one.score(rival), 12)
                for one in keep_valid(settings, tau=tau)
            ]
            mean = average_scores(gaps, bounded=False)
            figures.append(show_mean(mean, method=RAVL, metric=PRECISION))
        lines.append(Line(names=(name_method(rival),), figures=tuple(figures)))
    counts = (len(keep_valid(settings, tau=tau)) for tau in TAUS)
    return Table(
        caption="Mean Precision@10 of RaVL minus each other method, setting by setting",
        headings=("Method",),
        measures=tuple(f"tau = {t} ({n} settings)" for t, n in zip(TAUS, counts, strict=True)),
        lines=tuple(lines),
        notes=(BRACKETS, "Above 0, RaVL is better. Nothing found counts as 0."),
    )


def tabulate_clusters(settings: Sequence[Setting], *, methods: Sequence[str]) -> Table:
    """Lay out how often a method found nothing, or fewer regions than ten, and how many.

    Args:
        settings: valid ones.
        methods: the rows, in order.
    """
    lines = []
    for method in methods:
        cells = [c for s in settings for c in s.cells.get((method, PRECISION), {}).values()]
        sizes = [
            size
            for one in settings
            for size in one.list_values(method, CLUSTER)
            if not math.isnan(size) and size > 0
        ]
        empty = [float(math.isnan(cell.value)) for cell in cells]
        few = [float(cell.size < TOP) for cell in cells if not math.isnan(cell.value)]
        figures = (
            show_value(_mean(empty), metric="nothing", count=len(empty)),
            show_value(_mean(few), metric="few", count=len(few)),
            show_value(
                statistics.median(sizes) if sizes else math.nan, metric=CLUSTER, count=len(sizes)
            ),
        )
        lines.append(Line(names=(name_method(method), str(len(cells))), figures=figures))
    return Table(
        caption=f"What was found at tau {TAUS[0]}",
        headings=("Method", "Runs"),
        measures=("share that found nothing", "share with under 10 regions", "median cluster size"),
        lines=tuple(lines),
        notes=("Precision@10 of a cluster of fewer than ten regions is the share of those.",),
    )


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if values else math.nan


def tabulate_parts(
    settings: Sequence[Setting],
    *,
    methods: Sequence[str],
    heading: str,
    read: Callable[[Setting], str],
) -> Table:
    """Lay out mean Precision@10 at each tau for each domain or kind of feature.

    Args:
        settings: valid ones.
        methods: of each part, in order.
        heading: what tells parts apart.
        read: the part of a setting.
    """
    parts: dict[str, list[Setting]] = {}
    for one in settings:
        parts.setdefault(read(one), []).append(one)
    lines = []
    for part, members in parts.items():
        counts = ", ".join(str(len(keep_valid(members, tau=tau))) for tau in TAUS)
        for method in methods:
            figures = tuple(_score(members, method, tau=tau) for tau in TAUS)
            lines.append(Line(names=(part, counts, name_method(method)), figures=figures))
    return Table(
        caption=f"Mean Precision@10 of discovery by {heading.lower()}",
        headings=(heading, "Settings at each tau", "Method"),
        measures=tuple(f"tau = {tau}" for tau in TAUS),
        lines=tuple(lines),
        notes=(BRACKETS, "Nothing found counts as 0."),
    )
