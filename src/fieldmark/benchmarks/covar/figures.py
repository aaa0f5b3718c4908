"""Accuracies and drops on a COVAR with intervals by object, all encoders on the same draws.

The images of one object stand and fall together, so objects are drawn, within their class
(`metrics.resampling`), and each with all its variants: a drop is the difference of two accuracies
of the same objects. A class with one object is not drawn again, so its own figures get the interval
of one trial. Shape letters: V encoders, n images, C classes, S subsets, K columns, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.core.seeds import generator
from fieldmark.data.covar.settings import BACKGROUND, ORIGINAL
from fieldmark.metrics.intervals import UNDEFINED, Interval, correct_bias, wilson_interval
from fieldmark.metrics.resampling import draw_units, tabulate_units

Floats = NDArray[np.float64]
RESAMPLES = 2000
AVERAGE = "average"
# Columns of the paper's Table 3; its average is over these.
PAPER_COLUMNS = (
    BACKGROUND,
    "h_flip",
    "translate",
    "crop",
    "v_flip",
    "rotation",
    "viewpoint",
    "scale",
)
_EQUAL = 1e-12


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A figure with its interval.

    Attributes:
        value: NaN where it is undefined.
        interval: 95 %, by object.
        count: images behind it.
    """

    value: float
    interval: Interval
    count: int

    def plain(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return {"value": self.value, "low": self.interval.low, "high": self.interval.high,
                "count": self.count}  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class Tally:
    """Right answers by class and cell, as counted and as drawn.

    Attributes:
        hits: (V,C,G) right answers.
        totals: (C,G) images.
        drawn_hits: (V,B,C,G).
        drawn_totals: (B,C,G).
        units: (C,G) objects.
    """

    hits: Floats
    totals: Floats
    drawn_hits: Floats
    drawn_totals: Floats
    units: NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Columns:
    """Accuracy by column, over all classes.

    Attributes:
        names: K columns, the average last.
        values: (V,K) accuracy, NaN for a column without images.
        drawn: (V,B,K).
        counts: (K,) images.
        units: (K,) objects.
    """

    names: tuple[str, ...]
    values: Floats
    drawn: Floats
    counts: NDArray[np.int64]
    units: NDArray[np.int64]

    def place(self, name: str) -> int:
        """Return the number of a column."""
        return self.names.index(name)


def name_column(subset: str) -> str:
    """Return the column of the paper's tables that a subset counts for.

    Example:
        >>> name_column("scale_1.5"), name_column("viewpoint_2"), name_column("crop")
        ('scale', 'viewpoint', 'crop')
    """
    for column in ("scale", "viewpoint"):
        if subset.startswith(f"{column}_"):
            return column
    return subset


def list_columns(subsets: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of some subsets in the paper's order, the originals first.

    Example:
        >>> list_columns(["original", "crop", "scale_2", "scale_4", "background"])
        ('original', 'background', 'crop', 'scale')
    """
    found = {name_column(name) for name in subsets}
    known = (ORIGINAL, *PAPER_COLUMNS)
    return (*(c for c in known if c in found), *sorted(found - set(known)))


def tally(
    correct: ArrayLike,
    cells: ArrayLike,
    *,
    width: int,
    labels: ArrayLike,
    objects: Sequence[str],
    classes: int,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Tally:
    """Count right answers by class and cell, on the images and on draws of objects.

    Args:
        correct: (V,n) booleans.
        cells: (n,) the cell of each image, 0 to `width` - 1.
        width: how many cells there are (G).
        labels: (n,) class of each image.
        objects: n ids.
        classes: how many there are.
        seed: of the draws.
        resamples: how many.

    Example:
        >>> found = tally([[1, 0]], [0, 1], width=2, labels=[0, 0], objects=["a", "a"], classes=1)
        >>> found.hits.tolist(), found.totals.tolist()
        ([[[1.0, 0.0]]], [[1.0, 1.0]])
    """
    of, label = np.asarray(cells, np.int64), np.asarray(labels, np.int64)
    column = label * width + of
    design = tabulate_units(
        correct, column, width=classes * width, clusters=np.asarray(objects), strata=label
    )
    draws = draw_units(design, size=resamples, random=generator(seed, "covar"))
    shape = (classes, width)
    return Tally(
        hits=design.hits.sum(axis=1).reshape(-1, *shape),
        totals=design.totals.sum(axis=0).reshape(shape),
        drawn_hits=np.stack([one.hits.reshape(-1, *shape) for one in draws]),
        drawn_totals=draws[0].totals.reshape(-1, *shape),
        units=(design.totals > 0).sum(axis=0).reshape(shape),
    )


def pool_columns(counted: Tally, subsets: Sequence[str], columns: Sequence[str]) -> Tally:
    """Add up the subsets of each column: four scales are one column of the paper.

    Args:
        counted: by class and subset.
        subsets: their names, in the order of the cells.
        columns: names, in the order wanted.
    """
    member = np.array(
        [[float(name_column(subset) == column) for column in columns] for subset in subsets]
    )
    units = np.stack([(counted.units * m).max(axis=1) for m in member.T], axis=1)
    return Tally(
        hits=counted.hits @ member,
        totals=counted.totals @ member,
        drawn_hits=counted.drawn_hits @ member,
        drawn_totals=counted.drawn_totals @ member,
        units=units.astype(np.int64),
    )


def average_classes(counted: Tally, columns: Sequence[str]) -> Columns:
    """Return the accuracy of each column over all images, and the average over the paper's columns.

    Args:
        counted: by class and column.
        columns: their names.

    Example:
        >>> counted = tally([[1, 0, 1]], [0, 1, 1], width=2, labels=[0, 0, 0],
        ...     objects=["a", "a", "b"], classes=1)
        >>> found = average_classes(counted, ["background", "crop"])
        >>> found.names, found.values.tolist()
        (('background', 'crop', 'average'), [[1.0, 0.5, 0.75]])
    """
    values = _divide(counted.hits.sum(axis=1), counted.totals.sum(axis=0))
    drawn = _divide(counted.drawn_hits.sum(axis=2), counted.drawn_totals.sum(axis=1))
    counts, units = counted.totals.sum(axis=0), counted.units.sum(axis=0)
    mine = [place for place, name in enumerate(columns) if name in PAPER_COLUMNS and counts[place]]
    return Columns(
        names=(*columns, AVERAGE),
        values=_append(values, mine),
        drawn=_append(drawn, mine),
        counts=np.append(counts, counts[mine].sum()).astype(np.int64),
        units=np.append(units, units[mine].max() if mine else 0).astype(np.int64),
    )


def bound(samples: ArrayLike, value: float, *, units: int, share: bool = False) -> Interval:
    """Bound a figure by its draws; where they do not vary, by what so many objects can tell.

    Args:
        samples: (B,) of the figure.
        value: the figure.
        units: objects behind it.
        share: whether it is a share in [0, 1]; else a difference in [-1, 1].

    Example:
        >>> bound([1.0, 1.0], 1.0, units=3, share=True).low < 0.5
        True
    """
    drawn = np.asarray(samples, np.float64)
    drawn = drawn[~np.isnan(drawn)]
    if math.isnan(value) or not len(drawn):
        return UNDEFINED
    if np.ptp(drawn) > _EQUAL:
        return correct_bias(drawn, value)
    if share:
        return wilson_interval(min(max(value, 0.0), 1.0) * units, units)
    reach = wilson_interval(0, units).high
    return Interval(max(-1.0, value - reach), min(1.0, value + reach))


def read_accuracies(columns: Columns, *, encoder: int) -> dict[str, Figure]:
    """Return the accuracy of one encoder by column."""
    return {
        name: Figure(
            value=float(columns.values[encoder, k]),
            interval=bound(
                columns.drawn[encoder, :, k],
                float(columns.values[encoder, k]),
                units=int(columns.units[k]),
                share=True,
            ),
            count=int(columns.counts[k]),
        )
        for k, name in enumerate(columns.names)
    }


def read_drops(columns: Columns, *, encoder: int, against: str) -> dict[str, Figure]:
    """Return how far the accuracy of each column lies below that of another: Figures 6 and 7.

    Args:
        columns: accuracies.
        encoder: which.
        against: a column; without it there is no drop.
    """
    if against not in columns.names:
        return {}
    base = columns.place(against)
    values, drawn = columns.values[encoder], columns.drawn[encoder]
    return {
        name: _difference(
            values[base] - values[k], drawn[:, base] - drawn[:, k], columns=columns, column=k
        )
        for k, name in enumerate(columns.names)
        if k != base and name != ORIGINAL
    }


def compare_encoders(columns: Columns, *, first: int, second: int) -> dict[str, dict[str, Figure]]:
    """Return what the second encoder has over the first, on the same objects.

    Returns:
        By column: `accuracy`, how much more the second has; `drop_original` and `drop_background`,
        how much of the drop it removed (above 0 where its drop is smaller).
    """
    gain = columns.values[second] - columns.values[first]
    drawn = columns.drawn[second] - columns.drawn[first]
    found: dict[str, dict[str, Figure]] = {}
    for k, name in enumerate(columns.names):
        found[name] = {"accuracy": _difference(gain[k], drawn[:, k], columns=columns, column=k)}
        for base_name in (ORIGINAL, BACKGROUND):
            if base_name not in columns.names or name in (base_name, ORIGINAL):
                continue
            base = columns.place(base_name)
            found[name][f"drop_{base_name}"] = _difference(
                gain[k] - gain[base], drawn[:, k] - drawn[:, base], columns=columns, column=k
            )
    return found


def measure_classes(
    counted: Tally, columns: Sequence[str], *, encoder: int
) -> list[dict[str, Any]]:
    """Return for each class its accuracy by column, and its mean and largest drop: Figures 6 and 8.

    Args:
        counted: by class and column.
        columns: their names.
        encoder: which.

    Returns:
        One record a class: `original`, `accuracy` by column, `background_drop`, `mean_drop` over
        the paper's columns, `largest_drop` and `largest_in`. The largest of several is above its
        true value by chance.
    """
    values = _divide(counted.hits[encoder], counted.totals)
    drawn = _divide(counted.drawn_hits[encoder], counted.drawn_totals)
    places = {name: k for k, name in enumerate(columns)}
    mine = [places[name] for name in PAPER_COLUMNS if name in places]
    base = places.get(ORIGINAL)
    records: list[dict[str, Any]] = []
    for c in range(len(values)):
        units = max(1, int(counted.units[c].max(initial=0)))
        record: dict[str, Any] = {
            "accuracy": {name: float(values[c, k]) for name, k in places.items()},
            "objects": int(counted.units[c].max(initial=0)),
        }
        if base is not None and mine and counted.totals[c, base]:
            drops, spread = (
                values[c, base] - values[c, mine],
                drawn[:, c, [base]] - drawn[:, c][:, mine],
            )
            known = np.where(np.isnan(drops), -np.inf, drops)
            top = int(known.argmax())
            counts = counted.totals[c, mine]
            record |= {
                "mean_drop": _figure(_mean(drops), _mean(spread), units=units, count=counts.sum()),
                "largest_drop": _figure(
                    drops[top], spread[:, top], units=units, count=int(counts[top])
                ),
                "largest_in": columns[mine[top]],
            }
            if BACKGROUND in places:
                k = mine.index(places[BACKGROUND])
                record["background_drop"] = _figure(
                    drops[k], spread[:, k], units=units, count=int(counts[k])
                )
        records.append(record)
    return records


def _figure(value: float, samples: Floats, *, units: int, count: float) -> Figure:
    return Figure(
        value=float(value), interval=bound(samples, float(value), units=units), count=int(count)
    )


def _difference(value: float, samples: Floats, *, columns: Columns, column: int) -> Figure:
    return _figure(
        value, samples, units=int(columns.units[column]), count=int(columns.counts[column])
    )


def _mean(values: Floats) -> Any:
    known = ~np.isnan(values)
    return _divide(np.where(known, values, 0).sum(axis=-1), known.sum(axis=-1))


def _append(values: Floats, mine: Sequence[int]) -> Floats:
    average = np.full((*values.shape[:-1], 1), np.nan)
    if mine:
        average = values[..., mine].mean(axis=-1, keepdims=True)
    return np.concatenate([values, average], axis=-1)


def _divide(numerator: ArrayLike, denominator: ArrayLike) -> Floats:
    above, below = np.broadcast_arrays(
        np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    )
    out = np.full(above.shape, np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out


def plain_figures(figures: Mapping[str, Figure]) -> dict[str, Any]:
    """Return figures by name as JSON values."""
    return {name: one.plain() for name, one in figures.items()}
