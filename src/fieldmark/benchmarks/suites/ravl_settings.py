"""What was found in each controlled setting of `fieldmark bench ravl`, and means over settings.

A setting is what chance draws: its seeds share data and feature, so they are averaged within it and
intervals resample settings. Shape letters: S settings, M methods, B resamples.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.benchmarks.suite import Exhibit, Found
from fieldmark.core.errors import InputError
from fieldmark.core.seeds import generator
from fieldmark.data.controlled.features import find_kind
from fieldmark.metrics.intervals import UNDEFINED, wilson_interval
from fieldmark.report.published_ravl import SETTINGS, find_ravl_reference
from fieldmark.report.tables import Summary, Table

PRECISION, STRENGTH, CLUSTER = "precision@10", "strength", "cluster_size"
FINE_TUNED = "fine-tuned"
EPSILONS = ("epsilon1", "epsilon2")
TOP = 10
RESAMPLES = 4_000
CONFIDENCE = 0.95
BRACKETS = "In brackets, the 95 % interval of a bootstrap that resamples settings."

Floats = NDArray[np.float64]


class Cell(NamedTuple):
    """One figure of one seed and what it rests on."""

    value: float
    size: int


class Mean(NamedTuple):
    """A mean over settings.

    Attributes:
        value: NaN over no setting.
        low: lower end of its 95 % interval; NaN for fewer than two settings.
        high: upper end, likewise.
        settings: how many settings it rests on.
    """

    value: float
    low: float
    high: float
    settings: int


@dataclass(frozen=True, kw_only=True)
class Setting:
    """All that was measured in one controlled setting.

    Attributes:
        domain: what the images are of.
        name: of the setting; its second word is the spurious feature.
        model: the encoder that was fine-tuned; empty where names alone tell settings apart.
        cells: figures by method, metric and seed.
    """

    domain: str
    name: str
    model: str = ""
    cells: Mapping[tuple[str, str], Mapping[int, Cell]]

    @property
    def kind(self) -> str:
        """The kind of its spurious feature ("texture patch")."""
        return find_kind(" ".join(self.name.split()[1:2]))

    @property
    def strength(self) -> float:
        """How strongly every seed learned the correlation, in points (section 3.2), or NaN.

        The figure of that name, else the least of epsilon1 and epsilon2 over the seeds.
        """
        gaps = self.list_values(FINE_TUNED, STRENGTH) or [
            value for metric in EPSILONS for value in self.list_values(FINE_TUNED, metric)
        ]
        return min(gaps) if gaps and not any(map(math.isnan, gaps)) else math.nan

    def list_values(self, method: str, metric: str) -> list[float]:
        """Return a figure of every seed; NaN where it is undefined."""
        return [cell.value for cell in self.cells.get((method, metric), {}).values()]

    def score(self, method: str) -> float:
        """Return the mean Precision@10 over seeds; nothing found counts as 0, NaN if not run."""
        values = self.list_values(method, PRECISION)
        return statistics.fmean(0.0 if math.isnan(v) else v for v in values) if values else math.nan

    def count_empty(self, method: str) -> tuple[int, int]:
        """Return in how many seeds a method found nothing, and how many there are."""
        values = self.list_values(method, PRECISION)
        return sum(map(math.isnan, values)), len(values)

    def average(self, method: str, metric: str, *, seeds: Iterable[int] | None = None) -> float:
        """Return the mean of a figure over the seeds where it is defined, or NaN.

        Args:
            method: as `ResultRow.method`.
            metric: as `ResultRow.metric`.
            seeds: which seeds; all by default.
        """
        cells = self.cells.get((method, metric), {})
        kept = cells.keys() if seeds is None else [seed for seed in seeds if seed in cells]
        defined = [cells[seed].value for seed in kept if not math.isnan(cells[seed].value)]
        return statistics.fmean(defined) if defined else math.nan


def gather_settings(found: Sequence[Found]) -> list[Setting]:
    """Gather rows by data set and setting, in the order in which they come.

    The encoder tells settings apart only where two encoders have different figures under one name.

    Args:
        found: from the jobs of the suite.

    Raises:
        InputError: two rows say different things of one figure of one seed.

    Example:
        >>> from fieldmark.benchmarks.jobs import Job, TaskRef
        >>> from fieldmark.benchmarks.store import Measured
        >>> from fieldmark.core.records import ResultRow
        >>> row = ResultRow(suite="ravl", dataset="digits", method="fine-tuned",
        ...     setting="digits stripes 3", metric="strength", value=24.0)
        >>> found = [(Job(task=TaskRef(dataset="digits"), model="m"), Measured(rows=(row,)))]
        >>> setting, = gather_settings(found)
        >>> setting.domain, setting.kind, setting.strength
        ('digits', 'texture patch', 24.0)
    """
    try:
        return _gather(found, by_model=False)
    except InputError:
        return _gather(found, by_model=True)


def _gather(found: Sequence[Found], *, by_model: bool) -> list[Setting]:
    places: dict[tuple[str, str, str], dict[tuple[str, str], dict[int, Cell]]] = {}
    for job, measured in found:
        for row in measured.rows:
            if not row.setting:
                continue
            model = job.model if by_model else ""
            cells = places.setdefault((row.dataset, row.setting, model), {})
            seeds = cells.setdefault((row.method, row.metric), {})
            cell = Cell(row.value, row.count)
            if _differ(seeds.setdefault(row.seed, cell), cell):
                raise InputError(
                    f"{row.metric} of {row.method} in {row.dataset} {row.setting!r} has two values"
                    f" for seed {row.seed}: {seeds[row.seed].value} and {cell.value}",
                    where="results.jsonl",
                    mend="give the settings different names",
                )
    return [
        Setting(domain=domain, name=name, model=model, cells=cells)
        for (domain, name, model), cells in places.items()
    ]


def _differ(one: Cell, other: Cell) -> bool:
    same = one.value == other.value or (math.isnan(one.value) and math.isnan(other.value))
    return not same


def keep_valid(settings: Sequence[Setting], *, tau: float) -> list[Setting]:
    """Return the settings whose correlation every seed learned with at least `tau` points."""
    return [one for one in settings if one.strength >= tau]


def list_methods(settings: Sequence[Setting], *, metric: str) -> list[str]:
    """Return the methods that have a figure of that name, as they come."""
    return list(
        dict.fromkeys(
            method for one in settings for method, measured in one.cells if measured == metric
        )
    )


def average_scores(scores: ArrayLike, *, bounded: bool = True, seed: int = 0) -> Mean:
    """Return the mean of one score a setting, with a percentile bootstrap over settings.

    Scores of the same settings are resampled alike, so intervals of two methods go together. Where
    all scores are equal the bootstrap has no spread; Wilson's interval, counted in settings, stands
    in for scores in [0, 1] (their variance is at most that of a share), and none for others.

    Args:
        scores: (S,) one figure a setting; NaN are left out.
        bounded: whether scores lie in [0, 1]; differences do not.
        seed: of the resampling.

    Example:
        >>> average_scores([0.5, 1.0, float("nan")])
        Mean(value=0.75, low=0.5, high=1.0, settings=2)
        >>> average_scores([])
        Mean(value=nan, low=nan, high=nan, settings=0)
    """
    given = np.asarray(scores, dtype=np.float64).ravel()
    defined = given[~np.isnan(given)]
    count = len(defined)
    value = float(defined.mean()) if count else math.nan
    if count < 2:
        return Mean(value, math.nan, math.nan, count)
    if np.ptp(defined) == 0:
        low, high = wilson_interval(value * count, count) if bounded else UNDEFINED
    else:
        tail = (1 - CONFIDENCE) / 2
        ends = np.quantile(_draw_weights(count, seed) @ defined, (tail, 1 - tail))
        # The shares of a resample sum to 1 only up to rounding.
        low, high = (float(round(end, 12)) for end in ends)
    return Mean(value, low, high, count)


@functools.lru_cache(maxsize=4)
def _draw_weights(settings: int, seed: int) -> Floats:
    """Draw (B,S) shares of each setting in a resample of as many settings."""
    random = generator(seed, "ravl", "settings", settings)
    counts = random.multinomial(settings, np.full(settings, 1 / settings), size=RESAMPLES)
    return counts / settings


def show_mean(mean: Mean, *, method: str, metric: str, seeds: int = 0) -> Summary:
    """Return a mean over settings in the shape of a table's figure; its count is of settings.

    Args:
        mean: from `average_scores`.
        method: as `ResultRow.method`.
        metric: as `ResultRow.metric`.
        seeds: the most that a setting has.
    """
    return Summary(
        key={"metric": metric, "group": None, "method": method},
        mean=mean.value,
        deviation=math.nan,
        ci_low=mean.low,
        ci_high=mean.high,
        counts=(mean.settings, mean.settings),
        seeds=seeds,
        asked=seeds,
    )


def show_value(value: float, *, metric: str, count: int, method: str = "") -> Summary:
    """Return a figure without an interval in the shape of a table's figure.

    Args:
        value: the figure; NaN where it is undefined.
        metric: as `ResultRow.metric`.
        count: what it rests on.
        method: as `ResultRow.method`.
    """
    return show_mean(Mean(value, math.nan, math.nan, count), method=method, metric=metric)


def show_printed(
    *, table: int, column: str, metric: str, method: str, model: str = ""
) -> Summary | None:
    """Return the paper's figure in the shape of one of ours, or None where it has none.

    Args:
        table: number of the paper's table.
        column: as `RavlReference.column`.
        metric: as `ResultRow.metric`.
        method: as `ResultRow.method`.
        model: as `RavlReference.model`.
    """
    value = find_ravl_reference(table=table, row=method, column=column, metric=metric, model=model)
    count = find_ravl_reference(table=table, column=column, metric=SETTINGS, model=model)
    if value is None:
        return None
    return show_value(value, metric=metric, count=int(count or 0), method=method)


def show_table(stem: str, table: Table) -> Exhibit:
    """Return a table as an exhibit whose note is the table's notes."""
    return Exhibit(name=stem, title=table.caption, table=table, note=" ".join(table.notes))
