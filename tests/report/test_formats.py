"""The same table as text: numbers survive, markup shows as text in every format."""

from __future__ import annotations

import csv
import io
import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from fieldmark.report.formats import (
    render_csv,
    render_latex,
    render_markdown,
    render_rich,
    write_figure,
)
from fieldmark.report.names import DASH
from fieldmark.report.tables import Table, summarise, tabulate

NASTY = [
    "<script>alert(1)</script>",
    "[bold red]x[/]",
    "a|b",
    "100% & $5 #1_{x}^2~",
    "=HYPERLINK(1)",
    "two\nlines\x1b[31m",
    "back\\slash",
]


def make_table(name: str, *, value: float = 0.5) -> Table:
    row = {"suite": "s", "dataset": "d", "metric": "acc_wg", "method": name, "value": value}
    rows = [{**row, "ci_low": 0.4, "ci_high": 0.6, "count": 7}]
    return tabulate(summarise(rows), caption=f"Of {name}", keys=("method",))


def print_rich(table: Table) -> str:
    console = Console(file=io.StringIO(), width=200, color_system="truecolor", force_terminal=True)
    console.print(render_rich(table))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_markdown_lines() -> None:
    lines = render_markdown(make_table("bap")).splitlines()
    assert lines[0] == "Of bap"
    assert lines[2:5] == [
        "| Method | worst group |",
        "| :-- | --: |",
        r"| BAP | 0.500 \[0.400, 0.600\] |",
    ]


def test_csv_reads_back_at_full_precision() -> None:
    value = 1 / 3
    (row,) = csv.DictReader(io.StringIO(render_csv(make_table("bap", value=value))))
    assert float(row["worst group"]) == value
    assert row["worst group sd"] == ""
    assert (row["worst group count_low"], row["worst group seeds"]) == ("7", "1")


def test_latex_row() -> None:
    assert "    BAP & 0.500 [0.400, 0.600] \\\\\n" in render_latex(make_table("bap"))


def test_latex_row_that_begins_with_a_bracket_is_no_optional_argument() -> None:
    assert "\n    {}[x] & " in render_latex(make_table("[x]"))


def test_undefined_is_a_dash_with_its_count_everywhere() -> None:
    table = make_table("bap", value=math.nan)
    assert write_figure(table.lines[0].figures[0]) == f"{DASH} (n = 7)"
    assert rf"| {DASH} \(n = 7\) |" in render_markdown(table)
    assert "& -- (n = 7)" in render_latex(table)
    assert f"{DASH} (n = 7)" in print_rich(table)
    (row,) = csv.DictReader(io.StringIO(render_csv(table)))
    assert row["worst group"] == ""
    assert row["worst group count_low"] == "7"


def test_an_empty_cell_is_empty_everywhere() -> None:
    row = {"suite": "s", "dataset": "d", "value": 0.5}
    rows = [{**row, "method": m, "metric": m} for m in ("a", "b")]
    table = tabulate(summarise(rows), caption="", keys=("method",))
    assert "| a | 0.500 |  |" in render_markdown(table)
    assert "    a & 0.500 &  \\\\" in render_latex(table)
    assert list(csv.reader(io.StringIO(render_csv(table))))[1][8:] == [""] * 7


@pytest.mark.parametrize("name", NASTY)
def test_markup_shows_as_text(name: str) -> None:
    table = make_table(name)
    flat = " ".join(name.split()).replace("\x1b", "\N{REPLACEMENT CHARACTER}")
    assert flat in print_rich(table)
    (row,) = csv.DictReader(io.StringIO(render_csv(table)))
    assert row["Method"].removeprefix("'") == flat
    assert not row["Method"].startswith("=")
    markdown = render_markdown(table)
    assert len(markdown.splitlines()) == len(render_markdown(make_table("plain")).splitlines())
    assert "<script" not in markdown.replace(r"\<", "")
    latex = render_latex(table)
    assert "\x1b" not in latex + markdown
    bare = re.sub(r"\\[%&#_$]", "", latex).replace("$\\pm$", "")
    assert {letter: bare.count(letter) for letter in "%&#_$"} == {
        **dict.fromkeys("%#_$", 0),
        "&": 2,
    }


@given(st.text(max_size=30))
@settings(deadline=None, max_examples=60)
def test_any_name_keeps_the_shape_of_a_table(name):
    table = make_table(name)
    rows = list(csv.reader(io.StringIO(render_csv(table))))
    assert [len(row) for row in rows] == [8, 8]
    cells = render_markdown(table).splitlines()[4].replace(r"\|", "")
    assert cells.count("|") == 3
    print_rich(table)
