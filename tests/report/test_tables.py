"""Tables: the two kinds of chance stay apart, undefined stays undefined, order is fixed."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.core.errors import InputError
from fieldmark.core.records import ResultRow
from fieldmark.report.names import DASH
from fieldmark.report.tables import list_figures, read_row, summarise, tabulate


def make_row(**changes: object) -> ResultRow:
    values = {"suite": "demo", "dataset": "d", "metric": "acc_wg", "method": "bap", "count": 10}
    return read_row({**values, **changes})


def test_mean_and_deviation_are_over_seeds_and_the_interval_is_not() -> None:
    rows = [
        make_row(seed=0, value=0.5, ci_low=0.4, ci_high=0.6),
        make_row(seed=1, value=0.7, ci_low=0.6, ci_high=0.9),
    ]
    (summary,) = summarise(rows)
    assert summary.mean == pytest.approx(0.6)
    assert summary.deviation == pytest.approx(math.sqrt(0.02))
    assert [summary.ci_low, summary.ci_high] == pytest.approx([0.5, 0.75])
    assert summary.text == "0.600 ± 0.141"
    assert summary.interval == "[0.500, 0.750]"
    assert (summary.seeds, summary.asked) == (2, 2)


def test_one_seed_has_no_deviation() -> None:
    (summary,) = summarise([make_row(value=0.5)])
    assert math.isnan(summary.deviation)
    assert summary.text == "0.500"
    assert summary.interval == ""


def test_undefined_everywhere_stays_undefined_with_its_count() -> None:
    (summary,) = summarise([make_row(seed=s, value=math.nan, count=s) for s in (0, 3)])
    assert math.isnan(summary.mean)
    assert summary.text == DASH
    assert summary.counts == (0, 3)
    assert summary.count == "n = 0 to 3"
    assert summary.seeds == 0


def test_undefined_in_one_seed_is_left_out_and_said() -> None:
    rows = [make_row(seed=0, value=math.nan, count=0), make_row(seed=1, value=0.5)]
    summaries = summarise(rows)
    assert summaries[0].mean == 0.5
    assert (summaries[0].seeds, summaries[0].asked) == (1, 2)
    notes = tabulate(summaries, caption="").notes
    assert "Some figures are undefined in some seeds and are means over the others." in notes


@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
@settings(deadline=None, max_examples=30)
def test_summaries_agree_with_the_standard_library(values):
    (summary,) = summarise([make_row(seed=i, value=v) for i, v in enumerate(values)])
    assert summary.mean == pytest.approx(statistics.fmean(values))
    assert summary.deviation == pytest.approx(statistics.stdev(values))


def test_an_encoder_of_its_own_for_each_seed_does_not_split_a_figure() -> None:
    rows = [make_row(seed=i, value=0.5, encoder=f"run-{i}") for i in range(3)]
    assert len(summarise(rows)) == 1


def test_two_encoders_of_one_seed_are_two_figures() -> None:
    rows = [make_row(value=0.5, encoder="a"), make_row(value=0.6, encoder="b")]
    table = tabulate(summarise(rows), caption="")
    assert table.headings == ("Method", "Head", "Split", "Encoder")
    assert [line.names[-1] for line in table.lines] == ["a", "b"]


def test_a_row_that_is_there_twice_counts_once() -> None:
    row = make_row(value=0.5)
    undefined = make_row(metric="acc_avg", value=math.nan)
    assert [s.asked for s in summarise([row, row, undefined, undefined])] == [1, 1]


def test_two_values_for_one_figure_and_seed_are_refused() -> None:
    with pytest.raises(InputError, match=r"acc_wg of bap .* two values for seed 0: 0.5 and 0.6"):
        summarise([make_row(value=0.5), make_row(value=0.6)])


def test_rows_may_be_mappings_with_null_for_undefined() -> None:
    row = read_row({"suite": "s", "dataset": "d", "metric": "m", "value": None, "extra": 1})
    assert math.isnan(row.value)
    assert row == read_row(row) or math.isnan(row.value)


def test_methods_run_from_native_to_oracle_and_splits_from_unseen() -> None:
    rows = [
        make_row(method=method, split=split, value=0.5)
        for split in ("test_seen", "test_unseen")
        for method in ("oracle", "mine", "bap", "native")
    ]
    table = tabulate(summarise(rows), caption="", keys=("split", "method"))
    assert [line.names for line in table.lines] == [
        (split, method)
        for split in ("unseen objects, unseen scenes", "seen objects, unseen scenes")
        for method in ("native", "BAP", "mine", "oracle")
    ]


def test_what_tells_rows_apart_becomes_a_column() -> None:
    rows = [make_row(correlation=c, value=c) for c in (0.5, 1.0)]
    table = tabulate(summarise(rows), caption="", keys=("method",))
    assert table.headings == ("Method", "Correlation")
    assert [line.names[1] for line in table.lines] == ["0.50", "1.00"]


def test_a_figure_that_was_not_measured_is_an_empty_cell() -> None:
    rows = [make_row(value=0.5), make_row(method="native", metric="acc_avg", value=0.6)]
    table = tabulate(summarise(rows), caption="", metrics=("acc_wg", "acc_avg", "never"))
    assert table.measures == ("worst group", "average")
    figures = {line.names[0]: line.figures for line in table.lines}
    assert figures["native"][0] is None
    assert figures["BAP"][1] is None


def test_no_rows_make_an_empty_table() -> None:
    assert tabulate(summarise([]), caption="none").lines == ()
    assert list_figures(summarise([])).lines == ()


def test_list_figures_has_a_row_for_each() -> None:
    rows = [make_row(value=0.5), make_row(metric="acc_y:a_background:b", value=math.nan, count=0)]
    table = list_figures(summarise(rows))
    assert [line.names[-1] for line in table.lines] == ["worst group", "a on b"]
