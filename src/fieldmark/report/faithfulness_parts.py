"""Read what a faithfulness run leaves for its page: `OUT/faithfulness.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldmark.core.errors import InputError
from fieldmark.report.names import write_number
from fieldmark.report.stored import load_record

RECORD = "faithfulness.json"
SCHEMA = 1
MEND = "run `fieldmark faithfulness` again"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One figure of a table.

    Attributes:
        mean: the figure, or NaN.
        low: lower end of its interval, or NaN.
        high: upper end.
        counts: empty: the table's caption tells how many images there are.
        count: images behind an undefined figure.
        digits: how many it is written with.
    """

    mean: float
    low: float = math.nan
    high: float = math.nan
    counts: tuple[str, str] = ("", "")
    count: str = ""
    digits: int = 3

    @property
    def text(self) -> str:
        """The figure as written."""
        return write_number(self.mean, digits=self.digits)

    @property
    def interval(self) -> str:
        """Its interval as written, or nothing."""
        if math.isnan(self.low) or math.isnan(self.high):
            return ""
        low, high = (write_number(end, digits=self.digits) for end in (self.low, self.high))
        return f"[{low}, {high}]"


@dataclass(frozen=True, kw_only=True)
class FaithfulnessParts:
    """What the page shows: the record as it was written, null where a figure is undefined."""

    values: Mapping[str, Any]

    @property
    def methods(self) -> tuple[Mapping[str, Any], ...]:
        """The methods, the largest gap of insertion and deletion first."""
        score = self.values["headline"]

        def key(one: Mapping[str, Any]) -> float:
            value = one["areas"][score]["gap"]["value"]
            return math.inf if value is None else -float(value)

        return tuple(sorted(self.values["methods"], key=key))

    def contrast(self, method: str, *, against: str, kind: str = "gap") -> Mapping[str, Any] | None:
        """Return how a method compares with another by the headline score."""
        wanted = (self.values["headline"], kind, method, against)
        for one in self.values["contrasts"]:
            if (one["score"], one["kind"], one["method"], one["against"]) == wanted:
                found: Mapping[str, Any] = one
                return found
        return None


def to_figure(value: Mapping[str, Any] | None, *, digits: int = 3) -> Figure | None:
    """Turn a figure of the record into one of a table.

    Example:
        >>> figure = to_figure({"value": 0.5, "low": 0.4, "high": 0.6, "count": 9})
        >>> figure.text, figure.interval
        ('0.500', '[0.400, 0.600]')
    """
    if value is None:
        return None
    mean, low, high = (
        math.nan if value.get(key) is None else float(value[key])
        for key in ("value", "low", "high")
    )
    return Figure(mean=mean, low=low, high=high, digits=digits)


def read_faithfulness_parts(run_dir: Path) -> FaithfulnessParts:
    """Read the record of a run.

    Raises:
        InputError: it is missing, damaged, or of another version.

    Example:
        >>> read_faithfulness_parts(Path("nowhere"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: nowhere: holds no faithfulness.json; ...
    """
    path = run_dir / RECORD
    values = load_record(run_dir, name=RECORD, schema=SCHEMA, mend=MEND)
    lacking = {"methods", "headline", "contrasts", "protocol", "grids"} - values.keys()
    if lacking:
        raise InputError(f"lacks {', '.join(sorted(lacking))}", where=path, mend=MEND)
    return FaithfulnessParts(values=values)
