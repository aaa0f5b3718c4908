"""A comparison as text: for a terminal, Markdown, LaTeX and CSV. Markup in a name shows as text."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table as RichTable
from rich.text import Text

from fieldmark.report import names
from fieldmark.report.bench_notes import PairedTest
from fieldmark.report.comparison import Cell, Comparison, Line
from fieldmark.report.formats import disarm, escape_latex, escape_markdown, flatten
from fieldmark.report.names import DASH

DAGGER = "\N{DAGGER}"
CSV_HEADS = (
    "dataset",
    "split",
    "method",
    "head",
    "setting",
    "correlation",
    "metric",
    "mean",
    "sd",
    "ci_low",
    "ci_high",
    "count_low",
    "count_high",
    "seeds",
    "paper",
    "paper_sd",
    "paper_table",
    "differs",
    "best",
    "refused",
)
TEST_HEADINGS = ("Method", "Head", "Correlation", "Best rival", "Difference", "p")


@dataclass(frozen=True, kw_only=True)
class Words:
    """A cell in words.

    Attributes:
        text: the mean with its deviation, and marks.
        interval: of test sampling, in brackets, or empty.
        strong: whether it is the best of its block.
    """

    text: str
    interval: str = ""
    strong: bool = False


def write_cell(cell: Cell) -> Words:
    """Write our figure of a cell: `-- (a)` where it was refused, empty where nobody asked.

    Example:
        >>> write_cell(Cell(figure=None, reference=None, footnote=0)).text == f"{DASH} (a)"
        True
    """
    if cell.footnote is not None:
        return Words(text=f"{DASH} ({letter(cell.footnote)})")
    if cell.figure is None:
        return Words(text="")
    if math.isnan(cell.figure.mean):
        return Words(text=f"{DASH} ({cell.figure.count})")
    text = _write_pair(cell.figure.mean, cell.figure.deviation)
    mark = DAGGER if cell.differs else ""
    return Words(text=f"{text}{mark}", interval=cell.figure.interval, strong=cell.best)


def write_reference(cell: Cell) -> str:
    """Write the paper's figure of a cell, with its deviation; a dash where it has none."""
    if cell.reference is None:
        return DASH
    return _write_pair(cell.reference.value, cell.reference.deviation)


def _write_pair(value: float, deviation: float) -> str:
    # Three decimals always, so that columns line up.
    return f"{value:.3f}" if math.isnan(deviation) else f"{value:.3f} ± {deviation:.3f}"


def letter(index: int) -> str:
    """Return a, b, ..., z, aa, ab, ... for 0, 1, ...

    Example:
        >>> letter(0), letter(25), letter(26), letter(701)
        ('a', 'z', 'aa', 'zz')
    """
    text = ""
    index += 1
    while index:
        index, rest = divmod(index - 1, 26)
        text = chr(ord("a") + rest) + text
    return text


def list_headings(comparison: Comparison) -> list[str]:
    """Return the headings: method, head, and for each column ours and the paper's."""
    headings = ["Method", "Head"]
    for (correlation, metric), paper in zip(
        comparison.columns, comparison.has_references, strict=True
    ):
        text = names.name_metric(metric)
        if not math.isnan(correlation):
            text += f", {100 * correlation:g} %"
        headings += [text, "paper"] if paper else [text]
    return headings


def list_words(comparison: Comparison, line: Line) -> list[Words]:
    """Return the cells of a line in words, under `list_headings`."""
    words = [
        Words(text=name_method(line)),
        Words(text=names.name(line.head, known=names.HEADS)),
    ]
    for cell, paper in zip(line.cells, comparison.has_references, strict=True):
        words += [write_cell(cell), Words(text=write_reference(cell))][: 2 if paper else 1]
    return words


def name_method(line: Line) -> str:
    """Return the method of a line in words, with its setting where it has one."""
    method = names.name(line.method, known=names.METHODS)
    return f"{method} ({line.setting})" if line.setting else method


def list_test_words(test: PairedTest) -> list[str]:
    """Return a paired test in words, under `TEST_HEADINGS`."""
    rival = (
        names.name(test.rival_method, known=names.METHODS),
        names.name(test.rival_head, known=names.HEADS),
    )
    difference = names.write_number(test.difference)
    if test.difference > 0:
        difference = f"+{difference}"
    if not math.isnan(test.ci_low + test.ci_high):
        ends = (names.write_number(test.ci_low), names.write_number(test.ci_high))
        difference += f" [{ends[0]}, {ends[1]}]"
    return [
        names.name(test.method, known=names.METHODS),
        names.name(test.head, known=names.HEADS),
        names.write_number(test.correlation, digits=2),
        ", ".join(filter(None, rival)),
        difference,
        names.write_number(test.p_value),
    ]


def caption_tests(comparison: Comparison) -> str:
    """Return the caption of the paired tests."""
    return f"{comparison.caption}: worst group against the best rival, same test images"


def list_footnotes(comparison: Comparison) -> list[str]:
    """Return the notes, then each reason with its letter."""
    reasons = [f"({letter(i)}) {reason}" for i, reason in enumerate(comparison.reasons)]
    return [*comparison.notes, *reasons]


def render_comparison_rich(comparison: Comparison) -> Group:
    """Render for a terminal, to be printed by a `rich.console.Console`."""
    table = _start_rich(comparison.caption, headings=list_headings(comparison), left=2)
    for block in comparison.blocks:
        if len(comparison.blocks) > 1:
            table.add_row(Text(block.title, style="italic"))
        for line in block.lines:
            table.add_row(*map(_style, list_words(comparison, line)))
    parts: list[RichTable | Text] = [table, *map(Text, map(flatten, list_footnotes(comparison)))]
    if comparison.tests:
        tests = _start_rich(caption_tests(comparison), headings=TEST_HEADINGS, left=4)
        for test in comparison.tests:
            tests.add_row(*(Text(flatten(word)) for word in list_test_words(test)))
        parts += [Text(""), tests]
    return Group(*parts)


def _start_rich(caption: str, *, headings: Sequence[str], left: int) -> RichTable:
    table = RichTable(
        title=Text(flatten(caption)),
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for index, heading in enumerate(headings):
        table.add_column(Text(heading), justify="left" if index < left else "right")
    return table


def _style(words: Words) -> Text:
    text = Text()
    text.append(flatten(words.text), style="bold" if words.strong else "")
    if words.interval:
        text.append(f"\n{words.interval}", style="dim")
    return text


def render_comparison_markdown(comparison: Comparison) -> str:
    """Render as Markdown: caption, table, notes and footnotes, then the paired tests."""
    headings = list_headings(comparison)
    lines = [_join_markdown(map(escape_markdown, headings))]
    lines.append(_join_markdown(":--" if i < 2 else "--:" for i in range(len(headings))))
    for block in comparison.blocks:
        if len(comparison.blocks) > 1:
            title = f"*{escape_markdown(block.title)}*"
            lines.append(_join_markdown([title, *[""] * (len(headings) - 1)]))
        for line in block.lines:
            lines.append(_join_markdown(map(_mark_up, list_words(comparison, line))))
    parts = [escape_markdown(comparison.caption), "\n".join(lines)]
    parts += map(escape_markdown, list_footnotes(comparison))
    if comparison.tests:
        rule = _join_markdown(":--" if i < 4 else "--:" for i in range(len(TEST_HEADINGS)))
        tests = [
            _join_markdown(map(escape_markdown, list_test_words(test))) for test in comparison.tests
        ]
        parts.append(escape_markdown(caption_tests(comparison)))
        parts.append("\n".join([_join_markdown(TEST_HEADINGS), rule, *tests]))
    return "\n\n".join(parts) + "\n"


def _join_markdown(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _mark_up(words: Words) -> str:
    text = escape_markdown(words.text)
    if words.strong:
        text = f"**{text}**"
    return f"{text} {escape_markdown(words.interval)}".strip()


def render_comparison_latex(comparison: Comparison) -> str:
    """Render as LaTeX tables with rules of the booktabs package."""
    headings = list_headings(comparison)
    body = []
    for index, block in enumerate(comparison.blocks):
        if len(comparison.blocks) > 1:
            title = (
                rf"\multicolumn{{{len(headings)}}}{{l}}{{\textit{{{escape_latex(block.title)}}}}}"
            )
            body += [r"    \midrule"] * bool(index) + [rf"    {title} \\"]
        for line in block.lines:
            body.append(_join_latex([_set(words) for words in list_words(comparison, line)]))
    notes = " ".join([f"{comparison.caption}.", *list_footnotes(comparison)])
    text = _wrap_latex(notes, columns=_align(len(headings), left=2), headings=headings, body=body)
    if comparison.tests:
        text += _wrap_latex(
            caption_tests(comparison),
            columns=_align(len(TEST_HEADINGS), left=4),
            headings=TEST_HEADINGS,
            body=[
                _join_latex([escape_latex(word) for word in list_test_words(test)])
                for test in comparison.tests
            ],
        )
    return text


def _align(count: int, *, left: int) -> str:
    return "l" * left + "r" * (count - left)


def _wrap_latex(caption: str, *, columns: str, headings: Sequence[str], body: Sequence[str]) -> str:
    lines = [
        r"\begin{table}",
        rf"  \caption{{{escape_latex(caption)}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        _join_latex([escape_latex(heading) for heading in headings]),
        r"    \midrule",
        *body,
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _join_latex(cells: Sequence[str]) -> str:
    # A row that begins with a bracket would be read as the optional argument of the \\ before it.
    joined = " & ".join(cells)
    return f"    {'{}' if joined.startswith('[') else ''}{joined} \\\\"


def _set(words: Words) -> str:
    text = escape_latex(words.text)
    if words.strong:
        text = rf"\textbf{{{text}}}"
    return f"{text} {escape_latex(words.interval)}".strip()


def render_comparison_csv(comparisons: Sequence[Comparison]) -> str:
    """Render as CSV, a line a cell at full precision; empty where undefined or not in the paper.

    Example:
        >>> render_comparison_csv([]).startswith("dataset,split,method,head,setting,correlation")
        True
    """
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_HEADS)
    for comparison in comparisons:
        lines = [line for block in comparison.blocks for line in block.lines]
        for line in lines:
            writer.writerows(_list_records(comparison, line))
    return stream.getvalue()


def _list_records(comparison: Comparison, line: Line) -> list[list[str]]:
    records = []
    for (correlation, metric), cell in zip(comparison.columns, line.cells, strict=True):
        if cell.figure is None and cell.footnote is None and cell.reference is None:
            continue
        where = (comparison.dataset, comparison.split, line.method, line.head, line.setting)
        reason = "" if cell.footnote is None else comparison.reasons[cell.footnote]
        words = [*map(disarm, where), _write_float(correlation), disarm(metric)]
        records.append([*words, *_list_numbers(cell), disarm(reason)])
    return records


def _list_numbers(cell: Cell) -> list[str]:
    figure, reference = cell.figure, cell.reference
    ours = [""] * 7
    if figure is not None:
        floats = (figure.mean, figure.deviation, figure.ci_low, figure.ci_high)
        ours = [*map(_write_float, floats), *map(str, (*figure.counts, figure.seeds))]
    theirs = [""] * 3
    if reference is not None:
        theirs = [*map(_write_float, (reference.value, reference.deviation)), str(reference.table)]
    return [*ours, *theirs, str(int(cell.differs)), str(int(cell.best))]


def _write_float(value: float) -> str:
    return "" if math.isnan(value) else repr(value)
