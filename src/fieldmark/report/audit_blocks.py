"""What a report of an audit is made of, whether it becomes a page or Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fieldmark.report.audit_contract import Figure, Picture, State
from fieldmark.report.audit_figures import write_percent, write_points, write_range


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One cell.

    Attributes:
        text: what stands there.
        interval: in brackets, more quietly; may be empty.
        count: what it rests on, more quietly; may be empty.
        order: a number to sort by; NaN goes last, None sorts by the text.
    """

    text: str
    interval: str = ""
    count: str = ""
    order: float | None = None

    @property
    def words(self) -> str:
        """All of it on one line."""
        told = f"({self.count})" if self.count else ""
        return " ".join(filter(None, (self.text, self.interval, told)))


@dataclass(frozen=True, kw_only=True)
class Line:
    """One line of a table.

    Attributes:
        cells: under the table's headings.
        label: the class it speaks of, for the filter; empty where it speaks of all.
        dots: the figures that are drawn, one an encoder; empty draws nothing.
    """

    cells: tuple[Cell, ...]
    label: str = ""
    dots: tuple[Figure, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Axis:
    """What the dots of a table are drawn along.

    Attributes:
        low: left end.
        high: right end.
        unit: `%` or `points`.
        reference: a value that each line is to be read against, NaN for none.
        legend: what each dot of a line is; empty where there is one a line.
    """

    low: float
    high: float
    unit: str = "%"
    reference: float = math.nan
    legend: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class AuditTable:
    """A table; the first cell of a line names it.

    Attributes:
        name: an identifier that no other table of the page has.
        caption: what it is of.
        headings: one a column.
        lines: in the order to be shown.
        axis: of the drawn column, None draws none.
        texts: how many columns hold texts; those after them hold figures.
        note: what is to be known of it, below; may be empty.
    """

    name: str
    caption: str
    headings: tuple[str, ...]
    lines: tuple[Line, ...]
    axis: Axis | None = None
    texts: int = 1
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Remark:
    """A line below a picture; `right` puts a tick or a cross before it, None neither."""

    text: str
    right: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Shot:
    """A picture with what stands below it."""

    picture: Picture
    title: str
    remarks: tuple[Remark, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Card:
    """One thing that is shown: a finding, a region, an object, an image.

    Attributes:
        title: its heading.
        remark: beside it, more quietly.
        state: of a finding, None for what is none.
        sentences: what is said of it.
        shots: its pictures.
        label: the class it speaks of, for the filter; empty where it speaks of all.
    """

    title: str
    remark: str = ""
    state: State | None = None
    sentences: tuple[str, ...] = ()
    shots: tuple[Shot, ...] = ()
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Cards below a heading, which may be empty.

    Attributes:
        kind: `findings`, `regions`, `tiles` or `images`: how they are laid out.
        title: of all of them.
        cards: in the order to be shown.
    """

    kind: str
    title: str
    cards: tuple[Card, ...]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What to do next: why, and the command, which may be empty."""

    title: str
    why: str
    command: str


@dataclass(frozen=True, kw_only=True)
class Notes:
    """Terms and what they mean, in small letters."""

    terms: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """A list of sentences."""

    items: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What to do next, in order."""

    steps: tuple[Step, ...]


Block = AuditTable | Gallery | Notes | Listing | Steps


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the report.

    Attributes:
        name: an identifier that no other section has.
        title: its heading.
        brief: a shorter heading for the list of sections.
        sentences: what stands below the heading.
        blocks: what follows.
    """

    name: str
    title: str
    brief: str
    sentences: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()


def cell_share(figure: Figure, *, unit: str = "") -> Cell:
    """Return the cell of a share.

    Example:
        >>> cell_share(Figure(value=0.5, low=0.4, high=0.6, count=9)).words
        '50.0 % [40.0, 60.0] (9)'
    """
    return _cell(figure, text=write_percent(figure.value), unit=unit)


def cell_points(figure: Figure, *, unit: str = "") -> Cell:
    """Return the cell of a difference, in points.

    Example:
        >>> cell_points(Figure(value=0.05, low=0.0, high=0.1, count=9)).words
        '5.0 [0.0, 10.0] (9)'
    """
    return _cell(figure, text=write_points(figure.value).removesuffix(" points"), unit=unit)


def _cell(figure: Figure, *, text: str, unit: str) -> Cell:
    count = f"{figure.count:,} {unit}".strip()
    interval = write_range(figure) if figure.is_defined else "undefined"
    return Cell(text=text, interval=interval, count=count, order=figure.value)


def span_points(figures: Sequence[Figure]) -> Axis:
    """Return an axis that holds differences, their intervals and 0, in steps of 50 points.

    Example:
        >>> span_points([Figure(value=0.3, low=-0.1, high=0.6, count=9)]).low
        -0.5
    """
    ends = [end for one in figures for end in (one.low, one.value, one.high) if not math.isnan(end)]
    low = math.floor(2 * min([0.0, *ends])) / 2
    high = math.ceil(2 * max([0.5, *ends])) / 2
    return Axis(low=low, high=high, unit="points", reference=0.0)
