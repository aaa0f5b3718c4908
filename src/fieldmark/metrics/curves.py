"""Areas under curves of a score, and how sure a mean over images or a difference of two is.

Images of one object are not independent: they are drawn together. From m objects m - 1 are drawn
and weigh m / (m - 1) each (Rao and Wu 1988), as in `fieldmark.metrics.resampling`.

Shape letters: n images, P points of a curve, M rows of values (methods or points), U objects,
B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.core.seeds import generator
from fieldmark.metrics.intervals import UNDEFINED, Interval

Floats = NDArray[np.float64]
RESAMPLES = 2000
# Bounds the memory of one block of drawn weights.
_BLOCK = 250


@dataclass(frozen=True, kw_only=True)
class Mean:
    """A mean over images with its percentile interval.

    Attributes:
        value: the mean of those that are defined, NaN where none is.
        interval: from drawing objects; undefined for fewer than two of them.
        count: images behind it.
        objects: objects behind it.
    """

    value: float
    interval: Interval
    count: int
    objects: int


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A mean difference of two rows of values on the same images.

    Attributes:
        value: the first minus the second, over images where both are defined.
        interval: percentile interval, both on the same draws.
        simultaneous: holds for all contrasts of one call at once (maximum of the studentised
            differences over all contrasts; Westfall and Young 1993).
        count: images behind it.
    """

    value: float
    interval: Interval
    simultaneous: Interval
    count: int


def area_under(curves: ArrayLike, x: ArrayLike) -> Floats:
    """Return the area under curves over the range of x, so that a curve of 1 has area 1.

    By trapezoids over the true x, not over equal steps (facts/attribution.md section 2).

    Args:
        curves: (...,P) values; NaN gives NaN.
        x: (P,) increasing, two points at least.

    Returns:
        (...) areas in the range of the values.

    Raises:
        ValueError: x does not increase, is too short, or does not fit.

    Example:
        >>> area_under([[1.0, 0.5, 0.0], [1.0, 1.0, 1.0]], [0.0, 0.1, 1.0]).tolist()
        [0.3, 1.0]
    """
    y, at = np.asarray(curves, np.float64), np.asarray(x, np.float64)
    if at.ndim != 1 or len(at) < 2 or y.shape[-1] != len(at):
        raise ValueError(f"curves of shape {y.shape} do not fit {at.shape} points")
    steps = np.diff(at)
    if not (steps > 0).all():
        raise ValueError("x does not increase")
    area: Floats = ((y[..., 1:] + y[..., :-1]) / 2) @ steps / (at[-1] - at[0])
    return area


def draw_means(
    values: ArrayLike, objects: Sequence[Hashable], *, size: int, seed: int = 0
) -> Floats:
    """Draw objects again and again and return the mean of each row of values.

    Every row sees the same draws, so differences of rows are paired.

    Args:
        values: (M,n), NaN where undefined.
        objects: n objects that the images show.
        size: B.
        seed: of the draws.

    Returns:
        (B,M), NaN where a draw holds no defined value.

    Example:
        >>> draw_means([[0.0, 1.0]], ["a", "b"], size=50).min() in (0.0, 1.0)
        True
    """
    rows = np.atleast_2d(np.asarray(values, np.float64))
    unit = _number_objects(objects)
    if rows.shape[1] != len(unit):
        raise ValueError(f"{rows.shape[1]} values and {len(unit)} objects differ in number")
    count = int(unit.max(initial=-1)) + 1
    known = np.isfinite(rows)
    sums = np.stack(
        [np.bincount(unit, np.where(k, r, 0), count) for r, k in zip(rows, known, strict=True)]
    )
    totals = np.stack([np.bincount(unit, k, count) for k in known.astype(float)])
    random, parts = generator(seed, "curves", "objects"), []
    for start in range(0, size, _BLOCK):
        weights = _draw_weights(count, size=min(_BLOCK, size - start), random=random)
        total = weights @ totals.T
        mean = np.full(total.shape, np.nan)
        parts.append(np.divide(weights @ sums.T, total, out=mean, where=total > 0))
    draws: Floats = np.concatenate(parts)
    return draws


def _number_objects(objects: Sequence[Hashable]) -> NDArray[np.int64]:
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(one, len(numbers)) for one in objects], np.int64)


def _draw_weights(count: int, *, size: int, random: np.random.Generator) -> Floats:
    if count < 2:
        return np.ones((size, count))
    picks = random.integers(count, size=(size, count - 1)) + count * np.arange(size)[:, None]
    times = np.bincount(picks.ravel(), minlength=size * count).reshape(size, count)
    return np.asarray(times * (count / (count - 1)), np.float64)


def estimate_means(
    values: ArrayLike,
    objects: Sequence[Hashable],
    *,
    seed: int = 0,
    size: int = RESAMPLES,
    level: float = 0.95,
) -> list[Mean]:
    """Return the mean of each row with a percentile interval from drawing objects.

    Args:
        values: (M,n), NaN where undefined.
        objects: n objects.
        seed: of the draws.
        size: how many draws.
        level: of the intervals, in (0, 1).

    Example:
        >>> [mean] = estimate_means([[0.0, 1.0, float("nan")]], ["a", "b", "c"])
        >>> mean.value, mean.count, mean.objects
        (0.5, 2, 2)
    """
    rows = np.atleast_2d(np.asarray(values, np.float64))
    draws = draw_means(rows, objects, size=size, seed=seed)
    names, found = np.array(_number_objects(objects)), []
    for row, drawn in zip(rows, draws.T, strict=True):
        known = np.isfinite(row)
        spread = len(np.unique(names[known]))
        found.append(
            Mean(
                value=float(row[known].mean()) if known.any() else math.nan,
                interval=_take_percentiles(drawn, level=level) if spread > 1 else UNDEFINED,
                count=int(known.sum()),
                objects=spread,
            )
        )
    return found


def contrast_means(
    values: ArrayLike,
    objects: Sequence[Hashable],
    *,
    pairs: Sequence[tuple[int, int]],
    seed: int = 0,
    size: int = RESAMPLES,
    level: float = 0.95,
) -> list[Contrast]:
    """Compare rows of values on the same images, the same objects drawn for both.

    Args:
        values: (M,n), NaN where undefined; an image counts where both rows are defined.
        objects: n objects.
        pairs: which row less which other.
        seed: of the draws.
        size: how many draws.
        level: of the intervals, in (0, 1).

    Example:
        >>> rows = [[1.0, 0.0, 1.0], [0.5, -0.5, 0.5]]
        >>> [contrast] = contrast_means(rows, ["a", "b", "c"], pairs=[(0, 1)])
        >>> contrast.value, contrast.interval
        (0.5, Interval(low=0.5, high=0.5))
    """
    if not pairs:
        return []
    rows = np.atleast_2d(np.asarray(values, np.float64))
    changes = np.stack([rows[first] - rows[second] for first, second in pairs])
    means = estimate_means(changes, objects, seed=seed, size=size, level=level)
    draws = draw_means(changes, objects, size=size, seed=seed)
    widths = _widen(draws, [mean.value for mean in means], level=level)
    return [
        Contrast(
            value=mean.value,
            interval=mean.interval,
            simultaneous=(
                Interval(mean.value - width, mean.value + width) if mean.objects > 1 else UNDEFINED
            ),
            count=mean.count,
        )
        for mean, width in zip(means, widths.tolist(), strict=True)
    ]


def _widen(draws: Floats, centres: Sequence[float], *, level: float) -> Floats:
    """Return the half width of each simultaneous interval: (B,M) to (M,)."""
    away = np.abs(draws - np.asarray(centres))
    error = (
        np.nan_to_num(np.nanstd(draws, axis=0))
        if np.isfinite(draws).any()
        else np.zeros(len(centres))
    )
    scaled = np.divide(away, error, out=np.zeros_like(away), where=error > 0)
    most = float(np.quantile(np.nan_to_num(scaled).max(axis=1), level))
    return np.asarray(most * error, np.float64)


def _take_percentiles(drawn: Floats, *, level: float) -> Interval:
    known = drawn[np.isfinite(drawn)]
    if not len(known):
        return UNDEFINED
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(low, high)
