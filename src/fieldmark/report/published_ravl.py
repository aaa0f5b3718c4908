"""What the RaVL paper prints in its Tables 1, 2, 3, 5 and 6, to stand beside our figures.

`references/ravl.csv` holds one line a figure, as a share of 1 where the paper prints per cent. All
but Table 1 are of real photographs (COCO). How many settings Tables 2 and 3 rest on is said in
the paper's text (Figure 2, section 4.2), not in the tables.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources

from fieldmark.core.errors import InputError
from fieldmark.report.reference_lines import read_lines

COLUMNS = ("table", "model", "row", "column", "metric", "value")
SETTINGS = "settings"


@dataclass(frozen=True, kw_only=True)
class RavlReference:
    """One figure of the paper.

    Attributes:
        table: number of its table.
        model: the encoder that was fine-tuned; empty where the figure is a mean over several.
        row: as `ResultRow.method`; empty for a number of settings.
        column: which settings: `tau=10` are those whose learned correlation is at least that many
            points strong, `precision>0.6` those where RaVL's Precision@10 is above that.
        metric: as `ResultRow.metric`, or `settings` for their number.
        value: a share of 1, or the number of settings.
    """

    table: int
    model: str
    row: str
    column: str
    metric: str
    value: float


@functools.cache
def read_ravl_references() -> tuple[RavlReference, ...]:
    """Return every figure of the paper's Tables 1, 2, 3, 5 and 6, in the order of the tables.

    Example:
        >>> sorted({reference.table for reference in read_ravl_references()})
        [1, 2, 3, 5, 6]
    """
    source = resources.files("fieldmark.report") / "references" / "ravl.csv"
    return parse_ravl_references(source.read_text(encoding="utf-8"), where=source.name)


def parse_ravl_references(text: str, *, where: str) -> tuple[RavlReference, ...]:
    """Read figures from CSV text with the columns of `COLUMNS`.

    Args:
        text: the table, its heads in the first line.
        where: the file, for messages.

    Raises:
        InputError: a column is missing, a number is none, or a figure is there twice; the line is
            named.

    Example:
        >>> parse_ravl_references("table,row", where="a.csv")
        Traceback (most recent call last):
        fieldmark.core.errors.InputError: a.csv: lacks the columns model, column, metric, value...
    """
    found: dict[tuple[object, ...], RavlReference] = {}
    for place, reference in read_lines(text, columns=COLUMNS, where=where, parse=_parse):
        key = _key(reference)
        if key in found:
            raise InputError(
                f"repeats {reference.metric} of {reference.row or 'all'} in {reference.column}",
                where=place,
                mend="keep one of the two lines",
            )
        found[key] = reference
    return tuple(found.values())


def _parse(line: Mapping[str, str]) -> RavlReference:
    words = {key: line[key].strip() for key in ("model", "row", "column", "metric")}
    return RavlReference(table=int(line["table"]), value=float(line["value"]), **words)


def _key(one: RavlReference) -> tuple[object, ...]:
    return one.table, one.row, one.column, one.metric, one.model


@functools.cache
def _index() -> dict[tuple[object, ...], float]:
    return {_key(one): one.value for one in read_ravl_references()}


def find_ravl_reference(
    *, table: int, column: str, metric: str, row: str = "", model: str = ""
) -> float | None:
    """Find one figure that the paper prints.

    Args:
        table: number of the table.
        column: as `RavlReference.column`.
        metric: as `RavlReference.metric`.
        row: as `ResultRow.method`; empty for a number of settings.
        model: as `RavlReference.model`.

    Returns:
        The figure, or None where the paper has none.

    Example:
        >>> find_ravl_reference(table=1, row="ravl", column="tau=20", metric="precision@10")
        0.762
        >>> find_ravl_reference(table=1, column="tau=20", metric="settings")
        369.0
    """
    return _index().get((table, row, column, metric, model))
