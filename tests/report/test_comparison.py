"""The comparison table: what stands where, and the same in four formats."""

from __future__ import annotations

import csv
import io
import math
import re

import pytest
from rich.console import Console

from fieldmark.core.errors import InputError
from fieldmark.core.records import ResultRow
from fieldmark.report.bench_notes import PairedTest, Refusal, read_refusal, read_test
from fieldmark.report.comparison import Cell, Comparison, compare_methods, find_base_encoder
from fieldmark.report.comparison_formats import (
    list_headings,
    render_comparison_csv,
    render_comparison_latex,
    render_comparison_markdown,
    render_comparison_rich,
    write_cell,
    write_reference,
)
from fieldmark.report.names import DASH

CLIP = "open_clip:ViT-B-16/laion2b_s34b_b88k"
NASTY = "a|b [red]x[/] <i> 5 % & $1_{x}^2~ \\now"


def make(
    method: str, head: str, correlation: float, *values: float, **fields: object
) -> list[ResultRow]:
    base = {
        "suite": "bench",
        "dataset": "waterbirds",
        "split": "test",
        "encoder": CLIP if method == "native" else f"run/{method}",
        "method": method,
        "head": head,
        "correlation": correlation,
        "metric": "acc_wg",
        "ci_low": 0.1,
        "ci_high": 0.9,
        "count": 642,
    }
    rows = [base | fields | {"seed": seed, "value": v} for seed, v in enumerate(values)]
    return [ResultRow(**row) for row in rows]  # type: ignore[arg-type]


ROWS = [
    *make("native", "zero-shot", math.nan, 0.513, 0.513),
    *make("bap", "linear-probe", 0.95, 0.92, 0.94),
    *make("bap", "linear-probe", 1.0, 0.91, 0.93),
    *make("lp-ft", "dfr", 0.95, 0.90, 0.92),
    *make("lp-ft", "trained", 1.0, 0.40, 0.50),
    *make("native", "linear-probe", 0.95, 0.62, math.nan),
]
REFUSED = Refusal(method="lp-ft", head="dfr", reason="group 1 has no images", correlation=1.0)
TEST = PairedTest(
    dataset="waterbirds",
    split="test",
    correlation=0.95,
    method="bap",
    head="linear-probe",
    rival_method="lp-ft",
    rival_head="dfr",
    difference=0.02,
    ci_low=-0.01,
    ci_high=0.05,
    p_value=0.2,
)


@pytest.fixture
def comparison() -> Comparison:
    (found,) = compare_methods(ROWS, refusals=[REFUSED], tests=[TEST])
    return found


def find(comparison: Comparison, method: str, head: str) -> tuple[Cell, ...]:
    lines = [line for block in comparison.blocks for line in block.lines]
    (found,) = [line for line in lines if (line.method, line.head) == (method, head)]
    return found.cells


def print_rich(comparison: Comparison) -> str:
    console = Console(file=io.StringIO(), width=200, color_system="standard", force_terminal=True)
    console.print(render_comparison_rich(comparison))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_lines_and_columns(comparison: Comparison) -> None:
    assert comparison.columns == ((0.95, "acc_wg"), (1.0, "acc_wg"))
    blocks = {b.title: [(line.method, line.head) for line in b.lines] for b in comparison.blocks}
    assert blocks == {
        "Zero-shot": [("native", "zero-shot")],
        "Trained": [
            ("native", "linear-probe"),
            ("lp-ft", "trained"),
            ("lp-ft", "dfr"),
            ("bap", "linear-probe"),
        ],
    }
    assert list_headings(comparison) == (
        ["Method", "Head", "worst group, 95 %", "paper", "worst group, 100 %", "paper"]
    )


def test_a_zero_shot_row_without_correlation_stands_in_every_column(
    comparison: Comparison,
) -> None:
    cells = find(comparison, "native", "zero-shot")
    assert [cell.figure and cell.figure.mean for cell in cells] == [0.513, 0.513]
    assert [cell.reference and cell.reference.value for cell in cells] == [0.513, 0.513]


def test_a_trained_row_without_correlation_is_refused() -> None:
    with pytest.raises(InputError, match=r"bap .* has no correlation, others have"):
        compare_methods([*ROWS, *make("bap", "convex-probe", math.nan, 0.5)])


def test_our_figure_beside_the_papers(comparison: Comparison) -> None:
    first, second = find(comparison, "bap", "linear-probe")
    assert write_cell(first).text == "0.930 ± 0.014"
    assert write_cell(first).interval == "[0.100, 0.900]"
    assert (write_reference(first), write_reference(second)) == ("0.921 ± 0.012", "0.918 ± 0.009")
    assert (first.differs, second.differs) == (False, False)
    far = find(comparison, "lp-ft", "trained")[1]
    assert far.differs
    assert write_cell(far).text == "0.450 ± 0.071†"


def test_best_of_each_block_is_strong_and_the_oracle_does_not_compete() -> None:
    rows = [*ROWS, *make("oracle", "oracle", 0.95, 0.99), *make("bang", "trained", 0.95, 0.93)]
    (found,) = compare_methods(rows)
    best = {
        (line.method, line.head)
        for block in found.blocks
        for line in block.lines
        if line.cells[0].best
    }
    assert best == {("bap", "linear-probe"), ("bang", "trained")}, (
        "a tie; one zero-shot has no rival"
    )


def test_a_refused_cell_has_the_reason_as_a_footnote(comparison: Comparison) -> None:
    done, refused = find(comparison, "lp-ft", "dfr")
    assert (done.footnote, refused.footnote) == (None, 0)
    assert write_cell(refused).text == f"{DASH} (a)"
    assert comparison.reasons == ("group 1 has no images",)


def test_a_refused_method_without_any_row_keeps_its_line() -> None:
    refusals = [
        REFUSED,
        Refusal(method="native", head="dial", reason="no autoencoder"),
        Refusal(method="native", head="roboshot", reason="other data", dataset="stamps"),
    ]
    (found,) = compare_methods(ROWS, refusals=refusals)
    assert [cell.footnote for cell in find(found, "native", "dial")] == [1, 1]
    assert "other data" not in found.reasons
    assert all(line.head != "roboshot" for block in found.blocks for line in block.lines)


def test_a_nan_row_that_was_refused_shows_the_reason_not_a_count() -> None:
    rows = [*ROWS, *make("lp-ft", "dfr", 1.0, math.nan, count=0)]
    (found,) = compare_methods(rows, refusals=[REFUSED])
    assert write_cell(find(found, "lp-ft", "dfr")[1]).text == f"{DASH} (a)"


def test_an_undefined_figure_keeps_its_count() -> None:
    (found,) = compare_methods(make("bap", "linear-probe", 1.0, math.nan, count=0))
    assert write_cell(found.cells[0]).text == f"{DASH} (n = 0)"


def test_a_data_set_and_a_split_each_have_their_table() -> None:
    other = make("bap", "linear-probe", 1.0, 0.5, dataset="stamps", split="test_unseen")
    found = compare_methods([*ROWS, *other], tests=[TEST])
    assert [(c.dataset, c.split, len(c.tests)) for c in found] == [
        ("waterbirds", "test", 1),
        ("stamps", "test_unseen", 0),
    ]
    assert found[1].has_references == (False,)
    assert list_headings(found[1]) == ["Method", "Head", "worst group, 100 %"]
    assert [c.dataset for c in compare_methods([*ROWS, *other], splits=["test_unseen"])] == [
        "stamps"
    ]


def test_two_figures_for_one_cell_are_refused() -> None:
    rows = [*ROWS, *make("bap", "linear-probe", 1.0, 0.1, suite="other")]
    with pytest.raises(InputError, match=r"acc_wg of bap .* is there twice"):
        compare_methods(rows)


def test_no_rows_no_table() -> None:
    assert compare_methods([]) == ()
    assert compare_methods(ROWS, metrics=["bsi_total"]) == ()


def test_base_encoder() -> None:
    assert find_base_encoder(ROWS) == CLIP
    assert find_base_encoder([*ROWS, *make("native", "dial", 1.0, 0.1, encoder="x")]) == ""


def test_markdown(comparison: Comparison) -> None:
    text = render_comparison_markdown(comparison)
    assert r"| BAP | linear probe | **0.930 ± 0.014** \[0.100, 0.900\] | 0.921 ± 0.012 |" in text
    line = (
        rf"| LP-FT | DFR | 0.910 ± 0.014 \[0.100, 0.900\] | 0.913 ± 0.006 | {DASH} \(a\) | {DASH} |"
    )
    assert line in text
    assert r"\(a\) group 1 has no images" in text
    row = r"| BAP | linear probe | 0.95 | LP-FT, DFR | \+0.020 \[-0.010, 0.050\] | 0.200 |"
    assert row in text


def test_latex(comparison: Comparison) -> None:
    text = render_comparison_latex(comparison)
    assert r"BAP & linear probe & \textbf{0.930 $\pm$ 0.014} [0.100, 0.900] &" in text
    assert r"0.450 $\pm$ 0.071\dag{} [0.100, 0.900]" in text
    assert r"\multicolumn{6}{l}{\textit{Trained}} \\" in text
    for kind in ("table", "tabular"):
        assert text.count(rf"\begin{{{kind}}}") == text.count(rf"\end{{{kind}}}") == 2


def test_terminal(comparison: Comparison) -> None:
    text = print_rich(comparison)
    assert "\x1b[1m0.930 ± 0.014\x1b[0m" in text
    assert "(a) group 1 has no images" in text
    assert re.search(r"LP-FT, DFR +\+0.020 \[-0.010, 0.050\] +0.200", text)


def test_csv_at_full_precision(comparison: Comparison) -> None:
    rows = list(csv.DictReader(io.StringIO(render_comparison_csv([comparison]))))
    found = {(r["method"], r["head"], r["correlation"]): r for r in rows}
    ours = found["bap", "linear-probe", "0.95"]
    assert float(ours["mean"]) == pytest.approx(0.93, abs=1e-12)
    assert (ours["paper"], ours["paper_sd"], ours["paper_table"]) == ("0.921", "0.012", "2")
    assert (ours["best"], ours["differs"], ours["refused"]) == ("1", "0", "")
    assert found["lp-ft", "dfr", "1.0"]["refused"] == "group 1 has no images"
    assert found["lp-ft", "dfr", "1.0"]["mean"] == ""
    assert found["lp-ft", "trained", "1.0"]["differs"] == "1"


def test_markup_in_names_and_reasons_shows_as_text() -> None:
    rows = [*ROWS, *make(NASTY, NASTY, 1.0, 0.5)]
    refusal = Refusal(method="x", head="y", reason=f"={NASTY}")
    (found,) = compare_methods(rows, refusals=[refusal])
    terminal = print_rich(found)
    assert NASTY in terminal
    markdown = render_comparison_markdown(found)
    assert r"a\|b \[red\]x\[/\] \<i\> 5 % \& \$1\_\{x\}^2\~ \\now" in markdown
    latex = render_comparison_latex(found)
    assert r"a\textbar{}b [red]x[/] \textless{}i\textgreater{} 5 \% \& \$1\_\{x\}" in latex
    assert "\\now" not in latex.replace(r"\textbackslash{}now", "")
    assert f"'={NASTY}" in [
        r["refused"] for r in csv.DictReader(io.StringIO(render_comparison_csv([found])))
    ]


def test_notes_of_a_run_are_read() -> None:
    refusal = {"method": "lp-ft", "head": "dfr", "correlation": None, "reason": "r"}
    assert math.isnan(read_refusal(refusal).correlation)
    test = {key: getattr(TEST, key) for key in TEST.__dataclass_fields__}
    assert read_test(test) == TEST
    assert math.isnan(read_test(test | {"p_value": None}).p_value)


@pytest.mark.parametrize("missing", ["method", "head", "reason"])
def test_notes_that_lack_a_field_are_named(missing: str) -> None:
    refusal = {"method": "lp-ft", "head": "dfr", "reason": "r"}
    del refusal[missing]
    with pytest.raises(InputError, match=f"without {missing}"):
        read_refusal(refusal)
