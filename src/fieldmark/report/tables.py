"""Tables of results: mean and standard deviation over seeds, the interval of test sampling apart.

Two kinds of chance are never pooled. `deviation` says how much the figure moves from seed to seed;
`ci_low` and `ci_high` say how much it would move with other test images, each end averaged over the
seeds. A figure that is undefined (NaN) in every seed stays NaN and keeps its count.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from fieldmark.core.errors import InputError
from fieldmark.core.records import ResultRow
from fieldmark.report import names

KEYS = (
    "suite",
    "dataset",
    "split",
    "method",
    "head",
    "setting",
    "correlation",
    "metric",
    "group",
)
HEADINGS = {
    "suite": "Suite",
    "dataset": "Data set",
    "split": "Split",
    "encoder": "Encoder",
    "method": "Method",
    "head": "Head",
    "setting": "Setting",
    "correlation": "Correlation",
    "metric": "Metric",
}


@dataclass(frozen=True, kw_only=True)
class Summary:
    """One figure over its seeds.

    Attributes:
        key: what it is a figure of, by the names of `ResultRow`.
        mean: mean over the seeds where it is defined, or NaN.
        deviation: standard deviation over those seeds (n - 1), NaN for fewer than two.
        ci_low: lower end of the 95 % interval of test sampling, averaged over seeds, or NaN.
        ci_high: upper end, likewise.
        counts: smallest and largest number of images behind it in one seed.
        seeds: in how many seeds it is defined.
        asked: in how many seeds it was measured.
    """

    key: Mapping[str, Any]
    mean: float
    deviation: float
    ci_low: float
    ci_high: float
    counts: tuple[int, int]
    seeds: int
    asked: int

    @property
    def text(self) -> str:
        """The mean, with its deviation where there is one."""
        mean = names.write_number(self.mean)
        if math.isnan(self.deviation):
            return mean
        return f"{mean} ± {names.write_number(self.deviation)}"

    @property
    def interval(self) -> str:
        """The interval in brackets; empty where there is none."""
        if math.isnan(self.ci_low) or math.isnan(self.ci_high):
            return ""
        return f"[{names.write_number(self.ci_low)}, {names.write_number(self.ci_high)}]"

    @property
    def count(self) -> str:
        """How many images it rests on: `n = 40`, or a range where seeds differ."""
        low, high = self.counts
        return f"n = {low:,}" if low == high else f"n = {low:,} to {high:,}"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row: the texts that name it, then its figures; None where none was measured."""

    names: tuple[str, ...]
    figures: tuple[Summary | None, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table to be rendered by `fieldmark.report.formats` or by the page.

    Attributes:
        caption: what it shows.
        headings: of the columns that name a row.
        measures: of the columns that hold a figure.
        lines: the rows.
        notes: what a reader must know.
    """

    caption: str
    headings: tuple[str, ...]
    measures: tuple[str, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()


def read_row(row: ResultRow | Mapping[str, Any]) -> ResultRow:
    """Return a row as a `ResultRow`; a mapping may leave out defaults, and None is NaN."""
    if isinstance(row, ResultRow):
        return row
    numbers = ("correlation", "value", "ci_low", "ci_high")
    known: dict[str, Any] = {f.name: row[f.name] for f in fields(ResultRow) if f.name in row}
    known.update({key: math.nan for key in numbers if known.get(key, 0) is None})
    return ResultRow(**known)


def summarise(rows: Iterable[ResultRow | Mapping[str, Any]]) -> tuple[Summary, ...]:
    """Gather rows that differ in their seed alone, in the order in which they come.

    The encoder tells rows apart only where nothing else does: what a seed trained has an address of
    its own. A row that is there twice counts once.

    Raises:
        InputError: two rows say different things of the same figure and seed.

    Example:
        >>> rows = [{"suite": "s", "dataset": "d", "metric": "acc_wg", "seed": i, "value": v,
        ...          "count": 10} for i, v in enumerate([0.5, 0.7])]
        >>> summary, = summarise(rows)
        >>> summary.text, summary.count
        ('0.600 ± 0.141', 'n = 10')
    """
    every = tuple(f.name for f in fields(ResultRow))
    read = list({_key(row, keys=every): row for row in map(read_row, rows)}.values())
    keys = KEYS if _is_clear(read, keys=KEYS) else (*KEYS, "encoder")
    gathered: dict[tuple[object, ...], dict[int, ResultRow]] = {}
    for row in read:
        seeds = gathered.setdefault(_key(row, keys=keys), {})
        if row.seed in seeds and _differ(seeds[row.seed], row):
            raise InputError(
                f"{row.metric} of {row.method or row.encoder} ({row.head}, {row.split}) has two"
                f" values for seed {row.seed}: {seeds[row.seed].value} and {row.value}",
                where="results.jsonl",
                mend="give the rows different methods or encoders",
            )
        seeds.setdefault(row.seed, row)
    return tuple(_summarise(list(seeds.values()), keys=keys) for seeds in gathered.values())


def _key(row: ResultRow, *, keys: Sequence[str]) -> tuple[object, ...]:
    values = (getattr(row, key) for key in keys)
    return tuple(None if isinstance(v, float) and math.isnan(v) else v for v in values)


def _is_clear(rows: Sequence[ResultRow], *, keys: Sequence[str]) -> bool:
    return len({(*_key(row, keys=keys), row.seed) for row in rows}) == len(rows)


def _differ(one: ResultRow, other: ResultRow) -> bool:
    pairs = ((one.value, other.value), (one.ci_low, other.ci_low), (one.ci_high, other.ci_high))
    same = all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in pairs)
    return not same or one.count != other.count


def _summarise(rows: Sequence[ResultRow], *, keys: Sequence[str]) -> Summary:
    values = [row.value for row in rows if not math.isnan(row.value)]
    ends = [(r.ci_low, r.ci_high) for r in rows if not math.isnan(r.ci_low + r.ci_high)]
    counts = [row.count for row in rows]
    return Summary(
        key={**{key: getattr(rows[0], key) for key in (*KEYS, "encoder")}},
        mean=statistics.fmean(values) if values else math.nan,
        deviation=statistics.stdev(values) if len(values) > 1 else math.nan,
        ci_low=statistics.fmean(low for low, _ in ends) if ends else math.nan,
        ci_high=statistics.fmean(high for _, high in ends) if ends else math.nan,
        counts=(min(counts), max(counts)),
        seeds=len(values),
        asked=len(rows),
    )


def tabulate(
    summaries: Sequence[Summary],
    *,
    caption: str,
    keys: Sequence[str] = ("method", "head", "split"),
    metrics: Sequence[str] | None = None,
) -> Table:
    """Lay summaries out: one row for each value of `keys`, one column for each metric.

    Args:
        summaries: from `summarise`.
        caption: what the table shows.
        keys: what names a row. Data set, correlation and so on are added where they tell rows
            apart.
        metrics: the columns, in order; by default every metric that occurs.

    Returns:
        The table. Methods run from the native encoder to the oracle, splits from unseen to seen.

    Example:
        >>> rows = [{"suite": "s", "dataset": "d", "method": m, "metric": "acc_wg", "value": v,
        ...          "count": 10} for m, v in [("bap", 0.7), ("native", float("nan"))]]
        >>> table = tabulate(summarise(rows), caption="Demo", keys=("method",))
        >>> [(line.names, line.figures[0].mean) for line in table.lines]
        [(('native',), nan), (('BAP',), 0.7)]
    """
    found = list(dict.fromkeys(s.key["metric"] for s in summaries))
    columns = [m for m in (found if metrics is None else metrics) if m in found]
    chosen = [s for s in summaries if s.key["metric"] in columns]
    keys = (*keys, *_find_telling(chosen, keys=keys))
    grid: dict[tuple[str, ...], dict[str, Summary]] = {}
    for summary in _sort(chosen):
        line = grid.setdefault(tuple(_write_key(summary, key=key) for key in keys), {})
        line[summary.key["metric"]] = summary
    return Table(
        caption=caption,
        headings=tuple(HEADINGS[key] for key in keys),
        measures=tuple(names.name_metric(metric) for metric in columns),
        lines=tuple(
            Line(names=words, figures=tuple(line.get(metric) for metric in columns))
            for words, line in grid.items()
        ),
        notes=_write_notes(chosen),
    )


def list_figures(
    summaries: Sequence[Summary],
    *,
    keys: Sequence[str] = ("method", "head", "split", "dataset", "correlation", "metric"),
) -> Table:
    """Lay out every figure in a row of its own, with all that names it."""
    return Table(
        caption="All figures",
        headings=tuple(HEADINGS[key] for key in keys),
        measures=("value",),
        lines=tuple(
            Line(names=tuple(_write_key(s, key=key) for key in keys), figures=(s,))
            for s in _sort(summaries)
        ),
        notes=_write_notes(summaries),
    )


def _find_telling(summaries: Sequence[Summary], *, keys: Sequence[str]) -> list[str]:
    """Name the keys, beyond those given, without which two summaries would share a cell."""
    telling: list[str] = []
    for key in ("dataset", "split", "head", "correlation", "suite", "encoder"):
        if key in keys:
            continue
        cells = [_cell(s, keys=(*keys, *telling)) for s in summaries]
        if len(set(cells)) == len(cells):
            break
        wider = {_cell(s, keys=(*keys, *telling, key)) for s in summaries}
        if len(wider) > len(set(cells)):
            telling.append(key)
    return telling


def _cell(summary: Summary, *, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(summary.key[key]) for key in (*keys, "metric", "group"))


def _sort(summaries: Sequence[Summary]) -> list[Summary]:
    methods = names.sort_methods(s.key["method"] for s in summaries)
    splits = names.sort_known((s.key["split"] for s in summaries), order=names.SPLIT_ORDER)
    heads = list(dict.fromkeys(s.key["head"] for s in summaries))
    return sorted(
        summaries,
        key=lambda s: (
            splits.index(s.key["split"]),
            heads.index(s.key["head"]),
            methods.index(s.key["method"]),
        ),
    )


def _write_key(summary: Summary, *, key: str) -> str:
    value = summary.key[key]
    if key == "correlation":
        return names.write_number(value, digits=2)
    if key == "metric":
        return names.name_metric(value)
    known = {"method": names.METHODS, "head": names.HEADS, "split": names.SPLITS}.get(key, {})
    return names.name(str(value), known=known) or names.DASH


def _write_notes(summaries: Sequence[Summary]) -> tuple[str, ...]:
    notes = []
    if any(s.asked > 1 for s in summaries):
        notes.append("Mean ± standard deviation over seeds.")
    if any(s.interval for s in summaries):
        seeds = ", each end averaged over seeds" if any(s.asked > 1 for s in summaries) else ""
        notes.append(f"In brackets, the 95 % interval of test sampling{seeds}.")
    if any(math.isnan(s.mean) for s in summaries):
        notes.append(f"A {names.DASH} is undefined, with the number of images that it rests on.")
    if any(0 < s.seeds < s.asked for s in summaries):
        notes.append("Some figures are undefined in some seeds and are means over the others.")
    return tuple(notes)
