"""Read what `covar evaluate` leaves for its page: `OUT/covar.json`, and its figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldmark.core.errors import InputError
from fieldmark.metrics.intervals import Interval
from fieldmark.report.stored import load_record

RECORD, SCHEMA = "covar.json", 1
ORIGINAL, BACKGROUND, AVERAGE = "original", "background", "average"
MEND = "run `fieldmark covar evaluate` again"
_NEEDED = ("dataset", "images", "objects", "classes", "subsets", "columns", "scenes", "encoders",
           "comparisons", "notes", "failed", "candidates", "names", "strip")  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A figure as it was stored; NaN where it is undefined."""

    value: float
    interval: Interval
    count: int

    @property
    def sign(self) -> int:
        """1 where the interval lies above 0, -1 where below, 0 where it holds 0 or is unknown."""
        low, high = self.interval
        return 0 if math.isnan(low + high) else int(low > 0) - int(high < 0)


@dataclass(frozen=True, eq=False, kw_only=True)
class CovarParts:
    """All that the page speaks of.

    Attributes:
        values: `covar.json` as it is.
        folder: of the run.
    """

    values: Mapping[str, Any]
    folder: Path

    @property
    def encoders(self) -> Sequence[Mapping[str, Any]]:
        """The encoders' records, the first the one that others are compared with."""
        return tuple(self.values["encoders"])

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the paper's tables without the originals."""
        return tuple(name for name in self.values["columns"] if name != ORIGINAL)

    def label(self, uri: str) -> str:
        """Return the short name of an encoder."""
        return next((str(one["label"]) for one in self.encoders if one["uri"] == uri), uri)


def read_covar_parts(folder: Path) -> CovarParts:
    """Read what the page of a run is made of.

    Raises:
        InputError: the record is missing or damaged.

    Example:
        >>> read_covar_parts(Path("nowhere"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: nowhere: holds no covar.json; run `fieldmark covar ev...
    """
    values = load_record(folder, name=RECORD, schema=SCHEMA, mend=MEND)
    missing = [name for name in _NEEDED if name not in values]
    if missing or not values["encoders"]:
        problem = f"lacks {', '.join(missing)}" if missing else "has no encoder"
        raise InputError(f"is damaged ({problem})", where=folder / RECORD, mend=MEND)
    for one in values["strip"]:
        file = folder / "page" / str(one["file"])
        if not file.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"names a picture outside of it ({file})", where=folder, mend=MEND)
    return CovarParts(values=values, folder=folder)


def read_figure(values: Mapping[str, Any] | None) -> Reading:
    """Read a figure; nothing gives one that is undefined.

    Example:
        >>> read_figure({"value": 0.2, "low": 0.1, "high": None, "count": 4}).sign
        0
    """
    held = values or {}
    low, high = (read_number(held.get(end)) for end in ("low", "high"))
    return Reading(
        value=read_number(held.get("value")),
        interval=Interval(low, high),
        count=int(held.get("count") or 0),
    )


def read_number(value: Any) -> float:
    """Return a number; null is NaN."""
    return math.nan if value is None else float(value)
