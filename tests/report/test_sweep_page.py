"""The page of a bench run: complete, escaped, self-contained, and sound in a browser."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from fieldmark.core.errors import InputError
from fieldmark.core.records import ResultRow, start_run
from fieldmark.report.comparison import compare_methods
from fieldmark.report.comparison_formats import render_comparison_csv
from fieldmark.report.names import DASH
from fieldmark.report.sections import Panel
from fieldmark.report.sweep_page import (
    build_sweep_page,
    draw_comparison,
    draw_sweeps,
    write_sweep_page,
)
from fieldmark.report.tables import Line, Summary, Table
from tests.report.test_browser import BROWSER, browse
from tests.report.test_comparison import CLIP, REFUSED, ROWS, TEST

SWEPT = [
    ResultRow(
        suite="k",
        dataset="waterbirds",
        split="test",
        encoder=CLIP,
        method="native",
        metric=f"residual_variance:{k}",
        seed=seed,
        value=(1 + seed / 10) / k,
    )
    for k in (1, 2, 4)
    for seed in (0, 1)
]
SET = [
    dataclasses.replace(ROWS[2], setting=f"K={k}", seed=seed, value=0.8 + k / 100)
    for k in (1, 2, 8)
    for seed in (0, 1)
]
NASTY = "<script>alert(1)</script>"
NOTES: dict[str, Any] = {
    "refused": [{key: getattr(REFUSED, key) for key in REFUSED.__dataclass_fields__}],
    "comparisons": [dataclasses.asdict(TEST)],
    "budget": {"image size": 96, "hours": 1.6},
    "selection": [{"method": "lp-ft", "on": "val"}],
}


def make_manifest(**fields: object) -> dict[str, Any]:
    base = {
        "verb": "bench",
        "notes": NOTES,
        "versions": {"fieldmark": "9.9"},
        "arguments": {"a": 1},
    }
    return base | fields


class Reader(HTMLParser):
    """Keep what a page loads, its identifiers, and the cells of its tables."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.rows: list[list[str]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.loads += [str(values[key]) for key in ("src", "href") if key in values]
        self.ids += [str(values["id"])] if "id" in values else []
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and tag == self.open[-1]:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.open:
            self.rows[-1][-1] = " ".join(f"{self.rows[-1][-1]} {data}".split())


def test_the_table_beside_the_paper() -> None:
    reader = Reader(build_sweep_page(ROWS, manifest=make_manifest()))
    bap = next(row for row in reader.rows if row[:2] == ["BAP", "linear probe"])
    assert bap[2:4] == ["0.930 ± 0.014 [0.100, 0.900]", "0.921 ± 0.012"]
    dfr = next(row for row in reader.rows if row[:2] == ["LP-FT", "DFR"])
    assert dfr[4:] == ["\N{EN DASH} (a)", "\N{EN DASH}"]
    test = ["BAP", "linear probe", "0.95", "LP-FT, DFR", "+0.020 [-0.010, 0.050]", "0.200"]
    assert test in reader.rows


def test_what_else_it_says() -> None:
    data = {"waterbirds": {"citation": "Sagawa et al. (2020).", "more": [{"citation": "Wah."}]}}
    text = Reader(build_sweep_page(ROWS, manifest=make_manifest(data=data))).text
    assert "5 methods on waterbirds" in text
    assert "LP-FT, DFR, correlation 100 %: group 1 has no images" in text
    for words in (
        "image size",
        "1.6",
        "lp-ft",
        "Zaazou and Thomas",
        "Sagawa et al. (2020).",
        "Wah.",
    ):
        assert words in text


def test_it_loads_nothing_and_names_nothing_twice() -> None:
    page = build_sweep_page([*ROWS, *SWEPT, *SET], manifest=make_manifest())
    reader = Reader(page)
    assert all(link.startswith(("#", "data:")) for link in reader.loads)
    assert len(reader.ids) == len(set(reader.ids))
    assert "default-src &#39;none&#39;" in page


def test_the_csv_inside_is_the_comparison() -> None:
    page = build_sweep_page(ROWS, manifest=make_manifest())
    inside = re.search(r'href="data:text/csv;charset=utf-8;base64,([^"]+)"', page)
    assert inside is not None
    refused = [REFUSED]
    expected = render_comparison_csv(compare_methods(ROWS, refusals=refused, tests=[TEST]))
    assert base64.b64decode(inside[1]).decode() == expected


def test_markup_shows_as_text() -> None:
    rows = [dataclasses.replace(row, method=NASTY, dataset=NASTY) for row in ROWS[1:3]]
    refused = [{"method": NASTY, "head": NASTY, "reason": NASTY}]
    notes = {"refused": refused, "budget": {NASTY: NASTY}}
    manifest = make_manifest(notes=notes, data={"x": {"citation": NASTY}}, verb=NASTY)
    page = build_sweep_page(rows, manifest=manifest, encoder=NASTY)
    assert NASTY not in page
    assert page.count("<script>") == 1
    assert NASTY in Reader(page).text


def test_sweeps_become_panels() -> None:
    panels = draw_sweeps([*ROWS, *SWEPT, *SET])
    assert [(p.caption, p.remark) for p in panels] == [
        ("Residual variance by K", "waterbirds"),
        ("Worst group by K", "waterbirds, correlation 0.95"),
    ]
    assert "slope \N{MINUS SIGN}1.00" in panels[0].drawing
    assert draw_sweeps(ROWS) == ()


def test_settings_are_lines_with_the_papers_figures() -> None:
    (found,) = compare_methods([*ROWS, *SET])
    lines = {line.setting: line for block in found.blocks for line in block.lines if line.setting}
    assert list(lines) == ["K=1", "K=2", "K=8"]
    references = [line.cells[1].reference for line in lines.values()]
    assert [r and (r.table, r.value) for r in references] == [(14, 0.871), (14, 0.892), (14, 0.918)]


def test_the_worst_group_is_drawn_for_each_correlation() -> None:
    (found,) = compare_methods(ROWS, refusals=[REFUSED])
    panels = draw_comparison(found, prefix="a")
    assert [p.remark for p in panels] == [
        "correlation 95 %, squares are the paper's",
        "correlation 100 %, squares are the paper's",
    ]
    assert "refused (a)" in panels[1].drawing
    assert "not run" in panels[0].drawing


def test_further_panels_of_a_suite() -> None:
    panel = Panel(caption="Of my own", drawing=draw_sweeps(SWEPT)[0].drawing)
    assert "Of my own" in build_sweep_page([], manifest=make_manifest(), panels=[panel])


def make_figure(mean: float, *, counts: tuple[int, int]) -> Summary:
    none = math.nan
    return Summary(
        key={},
        mean=mean,
        deviation=none,
        ci_low=none,
        ci_high=none,
        counts=counts,
        seeds=1,
        asked=1,
    )


def test_a_table_of_a_study_has_its_notes_and_no_count_of_nothing() -> None:
    printed, nothing = make_figure(0.61, counts=(0, 0)), make_figure(math.nan, counts=(0, 0))
    ours = make_figure(0.5, counts=(0, 3))
    table = Table(
        caption="Of a study",
        headings=("Method",),
        measures=("ours", "paper", "other"),
        lines=(Line(names=("mine",), figures=(ours, printed, nothing)),),
        notes=("Mind the gap.", NASTY),
    )
    page = build_sweep_page([], manifest=make_manifest(), tables=[table])
    reader = Reader(page)
    row = next(row for row in reader.rows if row and row[0] == "mine")
    # What is undefined keeps its count.
    assert row[1:] == ["0.500 n = 0 to 3", "0.610", f"{DASH} undefined n = 0"]
    assert "Mind the gap." in reader.text
    assert NASTY in reader.text
    assert NASTY not in page
    bare = dataclasses.replace(table, notes=())
    without = build_sweep_page([], manifest=make_manifest(), tables=[bare])
    assert without.count('class="notes"') == page.count('class="notes"') - 1


def test_a_run_without_figures_or_notes() -> None:
    text = Reader(build_sweep_page([], manifest={"verb": "bench"})).text
    assert "A bench run without figures" in text
    assert "Nothing: every method ran." in text
    assert "The run states no budget." in text


@pytest.mark.parametrize("notes", [{"refused": "all"}, {"comparisons": [1]}])
def test_notes_of_another_shape_are_named(notes: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"run.json: notes\.\w+ is no list of records"):
        build_sweep_page(ROWS, manifest=make_manifest(notes=notes))


def write_run(folder: Path) -> Path:
    run = start_run(folder / "out", "bench", arguments={"suite": "waterbirds"}, seeds=[0, 1])
    run.add([*ROWS, *SWEPT, *SET])
    run.notes = json.loads(json.dumps(NOTES | {"refused": [NOTES["refused"][0] | {"dataset": ""}]}))
    return write_sweep_page(run.finish())


def test_it_is_written_from_the_files_of_a_run(tmp_path: Path) -> None:
    page = write_run(tmp_path)
    assert page.name == "report.html"
    reader = Reader(page.read_text(encoding="utf-8"))
    assert "BAP (K=8)" in [row[0] for row in reader.rows if row]


@pytest.mark.skipif(
    BROWSER is None, reason="needs chromium: apt-get install chromium (tests/QUARANTINES.md)"
)
def test_in_a_browser_under_its_own_policy(tmp_path: Path) -> None:
    document, console = browse(write_run(tmp_path), tmp_path / "profile", "--window-size=1280,1000")
    assert console == []
    assert 'aria-label="Use dark colours"' in document
