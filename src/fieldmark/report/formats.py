"""Tables as text: for a terminal, Markdown, CSV and LaTeX. Markup in a name shows as text."""

from __future__ import annotations

import csv
import io
import math
import re

from rich.table import Table as RichTable
from rich.text import Text

from fieldmark.report.names import DASH
from fieldmark.report.tables import Summary, Table

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+!|~&$])")
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "_": r"\_",
    "%": r"\%",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "±": r"$\pm$",
    "\N{DAGGER}": r"\dag{}",
    DASH: "--",
}


def write_figure(figure: Summary | None) -> str:
    """Write a figure with its interval; a dash and its count where it is undefined.

    Example:
        >>> write_figure(None)
        ''
    """
    if figure is None:
        return ""
    if math.isnan(figure.mean):
        return f"{figure.text} ({figure.count})"
    return f"{figure.text} {figure.interval}".strip()


def flatten(text: str) -> str:
    """Put a text on one line and take its control characters out."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", " ".join(text.split()))


def _list_cells(table: Table) -> list[list[str]]:
    return [[*map(flatten, line.names), *map(write_figure, line.figures)] for line in table.lines]


def render_rich(table: Table) -> RichTable:
    """Render for a terminal, to be printed by a `rich.console.Console`."""
    rich = RichTable(
        title=Text(flatten(table.caption)),
        caption=Text(" ".join(table.notes)) if table.notes else None,
        title_justify="left",
        caption_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for heading in table.headings:
        rich.add_column(Text(flatten(heading)), overflow="fold")
    for measure in table.measures:
        rich.add_column(Text(flatten(measure)), justify="right", no_wrap=True)
    for cells in _list_cells(table):
        rich.add_row(*map(Text, cells))
    return rich


def render_markdown(table: Table) -> str:
    r"""Render as a Markdown table with its caption before it and its notes after it.

    Example:
        >>> print(render_markdown(Table(caption="A|B", headings=("x",), measures=(), lines=())))
        A\|B
        <BLANKLINE>
        | x |
        | :-- |
        <BLANKLINE>
    """
    heads = [*table.headings, *table.measures]
    rule = [":--"] * len(table.headings) + ["--:"] * len(table.measures)
    lines = [
        [escape_markdown(head) for head in heads],
        rule,
        *([escape_markdown(cell) for cell in cells] for cells in _list_cells(table)),
    ]
    body = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    notes = "\n\n" + escape_markdown(" ".join(table.notes)) if table.notes else ""
    return f"{escape_markdown(table.caption)}\n\n{body}{notes}\n"


def escape_markdown(text: str) -> str:
    r"""Make a text show as itself in Markdown, on one line.

    Example:
        >>> print(escape_markdown("a|b"))
        a\|b
    """
    return _MARKDOWN.sub(r"\\\1", flatten(text))


def render_csv(table: Table) -> str:
    """Render as CSV: seven columns for each measure, empty where undefined, at full precision.

    A name that a spreadsheet would take for a formula gets an apostrophe before it.

    Example:
        >>> print(render_csv(Table(caption="", headings=("a",), measures=("m",), lines=())).strip())
        a,m,m sd,m ci_low,m ci_high,m count_low,m count_high,m seeds
    """
    parts = ("", " sd", " ci_low", " ci_high", " count_low", " count_high", " seeds")
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    heads = [*table.headings, *(f"{m}{part}" for m in table.measures for part in parts)]
    writer.writerow(map(disarm, heads))
    for line in table.lines:
        numbers = [number for figure in line.figures for number in _list_numbers(figure)]
        writer.writerow([*map(disarm, line.names), *numbers])
    return stream.getvalue()


def disarm(text: str) -> str:
    """Put an apostrophe before what a spreadsheet would take for a formula.

    Example:
        >>> disarm("=1+1")
        "'=1+1"
    """
    flat = flatten(text)
    return f"'{flat}" if flat.startswith(("=", "+", "-", "@")) else flat


def _list_numbers(figure: Summary | None) -> list[str]:
    if figure is None:
        return [""] * 7
    floats = (figure.mean, figure.deviation, figure.ci_low, figure.ci_high)
    return [
        *("" if math.isnan(value) else repr(value) for value in floats),
        *map(str, (*figure.counts, figure.seeds)),
    ]


def render_latex(table: Table) -> str:
    r"""Render as a LaTeX `table` with rules of the booktabs package.

    Example:
        >>> print(render_latex(Table(caption="5 %", headings=("a_b",), measures=("m",), lines=())))
        \begin{table}
          \caption{5 \%}
          \begin{tabular}{lr}
            \toprule
            a\_b & m \\
            \midrule
            \bottomrule
          \end{tabular}
        \end{table}
        <BLANKLINE>
    """
    stop = "." if table.notes else ""
    caption = " ".join([f"{table.caption}{stop}", *table.notes])
    columns = "l" * len(table.headings) + "r" * len(table.measures)
    lines = [
        r"\begin{table}",
        rf"  \caption{{{escape_latex(caption)}}}",
        rf"  \begin{{tabular}}{{{columns}}}",
        r"    \toprule",
        _join_latex([*table.headings, *table.measures]),
        r"    \midrule",
        *map(_join_latex, _list_cells(table)),
        r"    \bottomrule",
        r"  \end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _join_latex(cells: list[str]) -> str:
    # A row that begins with a bracket would be read as the optional argument of the \\ before it.
    joined = " & ".join(escape_latex(cell) for cell in cells)
    return f"    {'{}' if joined.startswith('[') else ''}{joined} \\\\"


def escape_latex(text: str) -> str:
    r"""Make a text show as itself in LaTeX, on one line.

    Example:
        >>> print(escape_latex("5 %"))
        5 \%
    """
    return "".join(_LATEX.get(letter, letter) for letter in flatten(text))
