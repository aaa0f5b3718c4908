"""Comparison of many methods on one data set, laid out as Table 2 of the BAP paper.

Lines are methods, those without downstream labels first; columns are correlations times metrics,
the paper's figure beside ours. A refused method keeps its line, with the reason in a footnote.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fieldmark.core.errors import InputError
from fieldmark.core.records import ResultRow
from fieldmark.report import names
from fieldmark.report.bench_notes import PairedTest, Refusal
from fieldmark.report.published import Reference, find_reference
from fieldmark.report.tables import Summary, read_row, summarise

METRICS = ("acc_avg", "acc_wg")
BLOCKS = ("Zero-shot", "Trained")
# Columns of our own: what they are told apart by.
Column = tuple[float, str]
# Method, head and setting of a line.
Name = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One figure of the comparison.

    Attributes:
        figure: ours over seeds, or None where none was measured.
        reference: the paper's, or None.
        best: whether no other method of its block has a higher mean.
        footnote: place of the reason in `Comparison.reasons` where it was refused, or None.
    """

    figure: Summary | None
    reference: Reference | None
    best: bool = False
    footnote: int | None = None

    @property
    def differs(self) -> bool:
        """Whether ours is more than two of the paper's standard deviations away from it."""
        if self.figure is None or self.reference is None:
            return False
        return self.reference.differs(self.figure.mean)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One method and setting, as the records name them, and a cell for each column."""

    method: str
    head: str
    cells: tuple[Cell, ...]
    setting: str = ""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Methods that may use the same labels."""

    title: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A comparison, to be rendered by `fieldmark.report.comparison_formats` or by the page.

    Attributes:
        caption: what it shows.
        dataset: as `ResultRow.dataset`.
        split: as `ResultRow.split`.
        columns: correlation and metric of each column.
        blocks: the lines, zero-shot ones first.
        reasons: why methods were refused, each once.
        tests: paired tests against the best rival.
        notes: what a reader must know.
    """

    caption: str
    dataset: str
    split: str
    columns: tuple[Column, ...]
    blocks: tuple[Block, ...]
    reasons: tuple[str, ...] = ()
    tests: tuple[PairedTest, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def cells(self) -> list[Cell]:
        """Every cell, line by line."""
        return [cell for block in self.blocks for line in block.lines for cell in line.cells]

    @property
    def has_references(self) -> tuple[bool, ...]:
        """For each column, whether the paper has any figure for it."""
        lines = [line for block in self.blocks for line in block.lines]
        return tuple(
            any(line.cells[index].reference is not None for line in lines)
            for index in range(len(self.columns))
        )


def compare_methods(
    rows: Iterable[ResultRow | Mapping[str, Any]],
    *,
    encoder: str = "",
    metrics: Sequence[str] = METRICS,
    splits: Sequence[str] = (),
    refusals: Sequence[Refusal] = (),
    tests: Sequence[PairedTest] = (),
) -> tuple[Comparison, ...]:
    """Build a comparison for each data set and split that has one of the metrics.

    Args:
        rows: of all methods and seeds. A zero-shot row whose correlation is NaN stands in every
            column, since its head saw no training image.
        encoder: URI of the encoder before anything was done to it, which the paper's figures are
            looked up by; by default that of the native rows, none if they have several.
        metrics: the columns of each correlation, in order.
        splits: which splits; all by default.
        refusals: what could not run and why.
        tests: paired tests.

    Returns:
        One comparison for each data set and split, in the order of the rows.

    Raises:
        InputError: two figures claim one cell.

    Example:
        >>> row = {"suite": "s", "dataset": "waterbirds", "split": "test", "correlation": 1.0,
        ...        "metric": "acc_wg", "method": "bap", "head": "linear-probe", "value": 0.9,
        ...        "encoder": "run/1"}
        >>> uri = "open_clip:ViT-B-16/laion2b_s34b_b88k"
        >>> comparison, = compare_methods([row], encoder=uri)
        >>> cell, = comparison.cells
        >>> cell.figure.mean, cell.reference.value, cell.differs
        (0.9, 0.918, False)
    """
    read = [row for row in map(read_row, rows) if row.metric in metrics]
    base = encoder or find_base_encoder(read)
    places = dict.fromkeys((row.dataset, row.split) for row in read)
    return tuple(
        _compare(
            summarise(row for row in read if (row.dataset, row.split) == (dataset, split)),
            encoder=base,
            metrics=metrics,
            refusals=[r for r in refusals if r.dataset in ("", dataset)],
            tests=[t for t in tests if (t.dataset, t.split) == (dataset, split)],
        )
        for dataset, split in places
        if not splits or split in splits
    )


def find_base_encoder(rows: Iterable[ResultRow]) -> str:
    """Return the URI that all native rows share; empty where there is none or several."""
    found = {row.encoder for row in rows if row.method == "native"}
    return found.pop() if len(found) == 1 else ""


def _compare(
    summaries: Sequence[Summary],
    *,
    encoder: str,
    metrics: Sequence[str],
    refusals: Sequence[Refusal],
    tests: Sequence[PairedTest],
) -> Comparison:
    key = summaries[0].key
    columns = _list_columns(summaries, metrics=metrics)
    figures = _place(summaries, columns=columns)
    reasons = list(dict.fromkeys(refusal.reason for refusal in refusals))
    refused = _place_refusals(refusals, columns=columns, reasons=reasons)
    lines = []
    for name in _sort_names({**figures, **refused}):
        row = figures.get(name, {})
        cells = tuple(
            Cell(
                figure=row.get(column),
                reference=_look_up(key, name=name, column=column, encoder=encoder),
                footnote=None
                if _is_defined(row.get(column))
                else refused.get(name, {}).get(column),
            )
            for column in columns
        )
        lines.append(Line(method=name[0], head=name[1], cells=cells, setting=name[2]))
    split = names.name(key["split"], known=names.SPLITS)
    comparison = Comparison(
        caption=", ".join(filter(None, (key["dataset"], split, encoder))),
        dataset=key["dataset"],
        split=key["split"],
        columns=columns,
        blocks=_list_blocks(lines),
        reasons=tuple(reasons),
        tests=tuple(tests),
    )
    return dataclasses.replace(comparison, notes=_write_notes(comparison))


def _list_columns(summaries: Sequence[Summary], *, metrics: Sequence[str]) -> tuple[Column, ...]:
    values = {s.key["correlation"] for s in summaries}
    known = sorted(value for value in values if not math.isnan(value))
    found = {s.key["metric"] for s in summaries}
    return tuple((c, m) for c in known or [math.nan] for m in metrics if m in found)


def _name(summary: Summary) -> Name:
    return summary.key["method"], summary.key["head"], summary.key["setting"]


def _is_zero_shot(head: str) -> bool:
    return head in names.ZERO_SHOT_HEADS


def _place(
    summaries: Sequence[Summary], *, columns: Sequence[Column]
) -> dict[Name, dict[Column, Summary]]:
    placed: dict[Name, dict[Column, Summary]] = {}
    whole: list[Summary] = []
    for s in summaries:
        column = (s.key["correlation"], s.key["metric"])
        line = placed.setdefault(_name(s), {})
        if math.isnan(column[0]):
            whole.append(s)
        elif column in line:
            _refuse_two(s, line[column])
        else:
            line[column] = s
    for s in whole:
        _spread(s, placed[_name(s)], columns=columns)
    return placed


def _spread(summary: Summary, line: dict[Column, Summary], *, columns: Sequence[Column]) -> None:
    """Put a figure without correlation into the columns of its metric that are free."""
    alone = all(math.isnan(correlation) for correlation, _ in columns)
    if not (alone or _is_zero_shot(summary.key["head"])):
        raise InputError(
            f"{summary.key['method']} ({summary.key['head']}) has no correlation, others have",
            where="results.jsonl",
            mend="give every trained row the correlation of its training images",
        )
    for column in columns:
        if column[1] != summary.key["metric"]:
            continue
        if alone and column in line:
            _refuse_two(summary, line[column])
        line.setdefault(column, summary)


def _refuse_two(one: Summary, other: Summary) -> None:
    whose = " and ".join(f"{s.key['suite']}: {s.key['encoder']}" for s in (other, one))
    raise InputError(
        f"{one.key['metric']} of {one.key['method']} ({one.key['head']}) is there twice ({whose})",
        where="results.jsonl",
        mend="compare one suite and one encoder at a time",
    )


def _place_refusals(
    refusals: Sequence[Refusal], *, columns: Sequence[Column], reasons: Sequence[str]
) -> dict[Name, dict[Column, int]]:
    placed: dict[Name, dict[Column, int]] = {}
    for refusal in refusals:
        line = placed.setdefault((refusal.method, refusal.head, ""), {})
        for column in columns:
            everywhere = math.isnan(refusal.correlation) or math.isnan(column[0])
            if everywhere or math.isclose(refusal.correlation, column[0], abs_tol=1e-6):
                line.setdefault(column, reasons.index(refusal.reason))
    return placed


def _is_defined(figure: Summary | None) -> bool:
    return figure is not None and not math.isnan(figure.mean)


def _look_up(
    key: Mapping[str, Any], *, name: Name, column: Column, encoder: str
) -> Reference | None:
    if not encoder:
        return None
    return find_reference(
        encoder=encoder,
        dataset=key["dataset"],
        split=key["split"],
        correlation=column[0],
        method=name[0],
        head=name[1],
        setting=name[2],
        metric=column[1],
    )


def _sort_names(found: Iterable[Name]) -> list[Name]:
    listed = list(found)
    methods = names.sort_methods(method for method, _, _ in listed)
    heads = names.sort_known((head for _, head, _ in listed), order=names.HEAD_ORDER)
    return sorted(listed, key=lambda name: (methods.index(name[0]), heads.index(name[1])))


def _list_blocks(lines: Sequence[Line]) -> tuple[Block, ...]:
    parts = (
        [line for line in lines if _is_zero_shot(line.head)],
        [line for line in lines if not _is_zero_shot(line.head)],
    )
    return tuple(
        Block(title=title, lines=_mark_best(part))
        for title, part in zip(BLOCKS, parts, strict=True)
        if part
    )


def _mark_best(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Mark the highest mean of each column; the oracle, which saw more, does not compete."""
    rivals = [line for line in lines if "oracle" not in (line.method, line.head)]
    highest: list[float] = []
    for index in range(len(lines[0].cells)):
        figures = [line.cells[index].figure for line in rivals]
        means = [f.mean for f in figures if f is not None and not math.isnan(f.mean)]
        highest.append(max(means) if len(means) > 1 else math.nan)
    return tuple(
        dataclasses.replace(
            line,
            cells=tuple(
                dataclasses.replace(
                    cell,
                    best=line in rivals and _equals(cell.figure, top),
                )
                for cell, top in zip(line.cells, highest, strict=True)
            ),
        )
        for line in lines
    )


def _equals(figure: Summary | None, value: float) -> bool:
    return figure is not None and math.isclose(figure.mean, value, abs_tol=1e-9)


def _write_notes(comparison: Comparison) -> tuple[str, ...]:
    figures = [cell.figure for cell in comparison.cells if cell.figure is not None]
    notes = ["Best of each block in bold."] if any(c.best for c in comparison.cells) else []
    if len(comparison.blocks) > 1:
        notes.append("Zero-shot methods use no label of the downstream task.")
    if any(f.asked > 1 for f in figures):
        notes.append("Mean ± standard deviation over seeds.")
    if any(f.interval for f in figures):
        notes.append("In brackets, the 95 % interval of test sampling, averaged over seeds.")
    if any(comparison.has_references):
        notes.append("Paper: as printed by Zaazou and Thomas (BAP, 2026).")
    if any(cell.differs for cell in comparison.cells):
        notes.append("† more than two of the paper's standard deviations away from it.")
    if any(0 < f.seeds < f.asked for f in figures):
        notes.append("Some figures are undefined in some seeds and are means over the others.")
    return tuple(notes)
