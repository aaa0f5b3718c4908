"""Tables and figures that several studies draw from what their jobs found."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fieldmark.benchmarks.suite import Exhibit, Found
from fieldmark.core.records import ResultRow
from fieldmark.report.curves import Axis, draw_sweep
from fieldmark.report.names import name_metric
from fieldmark.report.published import Reference, find_reference
from fieldmark.report.sweeps import Series, make_point
from fieldmark.report.tables import Line, Summary, Table, summarise, tabulate

Key = Mapping[str, Any]


def list_rows(found: Sequence[Found], *metrics: str) -> list[ResultRow]:
    """Return the rows of some metrics; a metric's own variants (`METRIC:K`) come along."""
    return [row for _, one in found for row in one.rows if row.metric.partition(":")[0] in metrics]


def look_up_reference(key: Key) -> Reference | None:
    """Return what the paper prints for the figure that a summary's key names, or None."""
    asked = ("encoder", "metric", "dataset", "correlation", "split", "method", "head", "setting")
    return find_reference(**{name: key[name] for name in asked})


def tabulate_beside(
    rows: Sequence[ResultRow],
    *,
    caption: str,
    keys: Sequence[str],
    metrics: Sequence[str],
    find: Callable[[Key], Reference | None] = look_up_reference,
) -> Table:
    """Lay rows out with the paper's figure in a column of its own, wherever it prints one.

    Args:
        rows: of all seeds.
        caption: what the table shows.
        keys: what names a line.
        metrics: the columns.
        find: from what names a figure to the paper's.
    """
    table = tabulate(
        summarise(row for row in rows if row.metric in metrics),
        caption=caption,
        keys=keys,
        metrics=metrics,
    )
    printed = [[_find(figure, find=find) for figure in line.figures] for line in table.lines]
    shown = [i for i in range(len(table.measures)) if any(line[i] for line in printed)]
    lines = tuple(
        Line(names=line.names, figures=tuple(_interleave(line.figures, references, shown=shown)))
        for line, references in zip(table.lines, printed, strict=True)
    )
    heads = [
        [measure, f"{measure}, paper"] if i in shown else [measure]
        for i, measure in enumerate(table.measures)
    ]
    return Table(
        caption=table.caption,
        headings=table.headings,
        measures=tuple(name for pair in heads for name in pair),
        lines=lines,
        notes=(*table.notes, *_note_differences(table, printed)),
    )


def _find(figure: Summary | None, *, find: Callable[[Key], Reference | None]) -> Reference | None:
    return None if figure is None else find(figure.key)


def _interleave(
    figures: Sequence[Summary | None],
    references: Sequence[Reference | None],
    *,
    shown: Sequence[int],
) -> Iterator[Summary | None]:
    for index, figure in enumerate(figures):
        yield figure
        if index in shown:
            reference = references[index]
            yield None if reference is None else show_reference(reference)


def show_reference(reference: Reference) -> Summary:
    """Return the paper's figure in the shape of one of ours; it names no number of images."""
    return Summary(
        key={"metric": reference.metric, "group": None, "method": reference.method},
        mean=reference.value,
        deviation=reference.deviation,
        ci_low=math.nan,
        ci_high=math.nan,
        counts=(0, 0),
        seeds=reference.runs,
        asked=reference.runs,
    )


def _note_differences(table: Table, printed: Sequence[Sequence[Reference | None]]) -> Iterator[str]:
    far = [
        f"{', '.join(line.names)} ({measure})"
        for line, references in zip(table.lines, printed, strict=True)
        for measure, figure, reference in zip(table.measures, line.figures, references, strict=True)
        if figure is not None and reference is not None and reference.differs(figure.mean)
    ]
    if far:
        yield f"More than two of the paper's standard deviations from it: {'; '.join(far)}."


def read_number(setting: str, letter: str) -> float:
    """Return the number that a setting gives a letter, or NaN.

    Example:
        >>> read_number("N=50, M=4", "M"), read_number("masks=box", "M")
        (4.0, nan)
    """
    match = re.search(rf"(?:^|, ){letter}=(\d+)", setting)
    return float(match[1]) if match else math.nan


def read_series(
    rows: Sequence[ResultRow], *, letter: str, label: Callable[[ResultRow], str]
) -> tuple[Series, ...]:
    """Gather rows over seeds into lines against the number that their setting gives a letter."""
    found: dict[str, dict[float, list[float]]] = {}
    for row in rows:
        number = read_number(row.setting, letter)
        if not math.isnan(number):
            found.setdefault(label(row), {}).setdefault(number, []).append(row.value)
    return tuple(
        Series(label=name, points=tuple(make_point(x, values[x]) for x in sorted(values)))
        for name, values in found.items()
    )


def draw_settings(
    found: Sequence[Found],
    *,
    letter: str,
    across: str,
    name: str,
    title: str,
    metrics: Sequence[str] = ("acc_avg", "acc_wg"),
    log: bool = True,
) -> list[Exhibit]:
    """Draw accuracy against the setting of a sweep, a figure for each data set, split and encoder.

    Args:
        found: from the jobs of the sweep.
        letter: what the sweep varies; another letter of the setting makes a line of its own.
        across: what the letter stands for.
        name: stem of the figures' files.
        title: what they show.
        metrics: the lines.
        log: whether the axis of the setting is logarithmic.
    """

    def label(row: ResultRow) -> str:
        others = [part for part in row.setting.split(", ") if not part.startswith(f"{letter}=")]
        return ", ".join([name_metric(row.metric), *others])

    rows = list_rows(found, *metrics)
    exhibits = []
    for number, (place, part) in enumerate(group_rows(rows).items()):
        words = ", ".join(filter(None, place))
        svg = draw_sweep(
            read_series(part, letter=letter, label=label),
            across=Axis(label=f"{letter}, {across}", log=log),
            up=Axis(label="accuracy"),
            identifier=f"{name}-{number}",
            title=f"{title}: {words}",
        )
        if svg:
            exhibits.append(
                Exhibit(name=f"{name}-{number}", title=f"{title}: {words}", svg=str(svg))
            )
    return exhibits


def group_rows(
    rows: Sequence[ResultRow], *, by: Sequence[str] = ("dataset", "split", "encoder")
) -> dict[tuple[str, ...], list[ResultRow]]:
    """Gather rows by some of their fields, in the order in which they come."""
    found: dict[tuple[str, ...], list[ResultRow]] = {}
    for row in rows:
        found.setdefault(tuple(str(getattr(row, key)) for key in by), []).append(row)
    return found
