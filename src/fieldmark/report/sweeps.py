"""Sweeps over a setting (K, M, N, alpha, epochs): points over seeds, a power law through them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from fieldmark.core.errors import InputError
from fieldmark.core.records import ResultRow
from fieldmark.report import names
from fieldmark.report.tables import read_row


@dataclass(frozen=True, kw_only=True)
class SweepPoint:
    """One figure of a sweep.

    Attributes:
        x: the setting.
        mean: over seeds, or NaN.
        low: lower edge of its band, or NaN.
        high: upper edge, or NaN.
    """

    x: float
    mean: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Series:
    """The points of one method or encoder, x increasing."""

    label: str
    points: tuple[SweepPoint, ...]


@dataclass(frozen=True, kw_only=True)
class PowerLaw:
    """A straight line on log-log axes: y = exp(intercept) * x ** slope.

    Attributes:
        slope: by least squares; -1 where a variance falls as 1/K (BAP section 3.2).
        ci_low: lower end of its 95 % interval (Student's t), NaN for two points.
        ci_high: upper end, likewise.
        intercept: natural logarithm of y at x = 1.
        count: of the points.
    """

    slope: float
    ci_low: float
    ci_high: float
    intercept: float
    count: int

    def place(self, x: float) -> float:
        """Return the value of the law at x > 0."""
        return math.exp(self.intercept + self.slope * math.log(x))

    @property
    def text(self) -> str:
        """The slope, with its interval where there is one."""
        slope = f"slope {self.slope:.2f}".replace("-", "\N{MINUS SIGN}")
        if math.isnan(self.ci_low):
            return slope
        ends = f"[{self.ci_low:.2f}, {self.ci_high:.2f}]".replace("-", "\N{MINUS SIGN}")
        return f"{slope} {ends}"


def make_point(x: float, values: Iterable[float]) -> SweepPoint:
    """Return the mean over seeds, with a band of one standard deviation (n - 1) to each side.

    NaN are left out; fewer than two values have no band.

    Example:
        >>> make_point(4, [0.5, 0.7]).mean
        0.6
    """
    defined = [value for value in values if not math.isnan(value)]
    if not defined:
        return SweepPoint(x=x, mean=math.nan)
    mean = statistics.fmean(defined)
    half = statistics.stdev(defined) if len(defined) > 1 else math.nan
    return SweepPoint(x=x, mean=mean, low=mean - half, high=mean + half)


def read_sweep(
    rows: Iterable[ResultRow | Mapping[str, Any]],
    metric: str,
    *,
    setting: str = "",
    by: Sequence[str] = ("method",),
) -> tuple[Series, ...]:
    """Gather a sweep over seeds: rows `METRIC:NUMBER`, or rows of a metric by their setting.

    Args:
        rows: of a run; others are left out.
        metric: as `ResultRow.metric`, without what follows its colon.
        setting: what is swept ("K" for settings such as `K=4` or `N=50,K=4`, whose other parts go
            into the label); empty to read the number behind the colon of the metric.
        by: the fields of a row that tell the series apart.

    Returns:
        One series for each value of `by`, in the order of the rows.

    Example:
        >>> row = {"suite": "s", "dataset": "d", "metric": "residual_variance:2", "value": 0.5}
        >>> series, = read_sweep([{**row, "method": "native"}], "residual_variance")
        >>> series.label, series.points[0].x
        ('native', 2.0)
        >>> row = {"suite": "s", "dataset": "d", "metric": "acc_wg", "value": 0.9, "method": "bap"}
        >>> series, = read_sweep([{**row, "setting": "N=50,M=8"}], "acc_wg", setting="M")
        >>> series.label, series.points[0].x
        ('BAP, N=50', 8.0)
    """
    found: dict[str, dict[float, list[float]]] = {}
    for row in map(read_row, rows):
        place = _find_place(row, metric=metric, setting=setting)
        if place is None:
            continue
        x, rest = place
        known = {"method": names.METHODS, "head": names.HEADS, "split": names.SPLITS}
        words = [names.name(str(getattr(row, key)), known=known.get(key, {})) for key in by]
        label = ", ".join(filter(None, (*words, *rest)))
        found.setdefault(label, {}).setdefault(x, []).append(row.value)
    return tuple(
        Series(label=label, points=tuple(make_point(x, xs[x]) for x in sorted(xs)))
        for label, xs in found.items()
    )


def parse_setting(text: str) -> dict[str, str]:
    """Take a setting apart.

    Example:
        >>> parse_setting("N=50, M=8"), parse_setting("frozen")
        ({'N': '50', 'M': '8'}, {})
    """
    pairs = (part.partition("=") for part in text.split(","))
    return {key.strip(): value.strip() for key, equals, value in pairs if equals}


def read_number(text: str) -> float | None:
    """Return a finite number, or None where the text is none.

    Example:
        >>> read_number("8"), read_number("nan"), read_number("dilated")
        (8.0, None, None)
    """
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _find_place(
    row: ResultRow, *, metric: str, setting: str
) -> tuple[float, tuple[str, ...]] | None:
    """Return where a row stands in the sweep and what else its setting says."""
    before, _, after = row.metric.partition(":")
    parts = parse_setting(row.setting)
    text = parts.pop(setting, "") if setting else after
    if (row.metric if setting else before) != metric:
        return None
    x = read_number(text)
    return None if x is None else (x, tuple(f"{key}={value}" for key, value in parts.items()))


def fit_power_law(points: Sequence[SweepPoint]) -> PowerLaw:
    """Fit log y = intercept + slope * log x by least squares (BAP appendix G's 1/K decay).

    Args:
        points: at least two different x; points whose mean is NaN are left out.

    Raises:
        InputError: a point is not positive, or fewer than two different x are left.

    Example:
        >>> law = fit_power_law([make_point(k, [3 / k]) for k in (1, 2, 4, 8)])
        >>> round(law.slope, 6), round(law.place(3), 6)
        (-1.0, 1.0)
    """
    kept = [(p.x, p.mean) for p in points if not math.isnan(p.mean)]
    if any(x <= 0 or y <= 0 for x, y in kept):
        raise InputError("a power law needs points above zero", mend="leave the others out")
    if len({math.log(x) for x, _ in kept}) < 2:
        raise InputError("a power law needs two different x", mend="sweep over more values")
    x, y = np.log(np.asarray(kept, dtype=np.float64)).T
    spread = x - x.mean()
    slope = float(spread @ y / (spread @ spread))
    intercept = float(y.mean() - slope * x.mean())
    half = math.nan
    if len(kept) > 2:
        rest = y - intercept - slope * x
        error = math.sqrt(float(rest @ rest) / (len(kept) - 2) / float(spread @ spread))
        half = float(stdtrit(len(kept) - 2, 0.975)) * error
    return PowerLaw(
        slope=slope,
        ci_low=slope - half,
        ci_high=slope + half,
        intercept=intercept,
        count=len(kept),
    )
