"""Records survive a round trip and folders are claimed by one run."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.core.errors import InputError, RunExistsError
from fieldmark.core.records import ResultRow, Run, read_rows, read_run, start_run

numbers = st.floats(allow_infinity=False)
rows = st.builds(
    ResultRow,
    suite=st.text(),
    dataset=st.text(),
    split=st.text(),
    encoder=st.text(),
    method=st.text(),
    head=st.text(),
    correlation=numbers,
    metric=st.text(),
    group=st.none() | st.integers(0, 99),
    seed=st.integers(0, 99),
    value=numbers,
    ci_low=numbers,
    ci_high=numbers,
    count=st.integers(0, 10**9),
)


@given(row=rows)
def test_rows_survive_strict_json(row):
    line = row.to_json()
    assert "\n" not in line
    json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    again = ResultRow.from_json(line)
    assert repr(again) == repr(row)  # NaN is not equal to itself, its repr is


def test_the_schema_is_frozen():
    assert list(json.loads(ResultRow(suite="s", dataset="d", metric="m").to_json())) == [
        "suite", "dataset", "split", "encoder", "method", "head", "setting", "correlation",
        "metric", "group", "seed", "value", "ci_low", "ci_high", "count",
    ]  # fmt: skip


def test_a_row_from_before_settings_is_read():
    line = json.loads(ResultRow(suite="s", dataset="d", metric="m", value=0.5).to_json())
    del line["setting"]
    assert ResultRow.from_json(json.dumps(line)).setting == ""


def begin(folder, *, resume=False, **arguments) -> Run:
    return start_run(folder, "embed", arguments=arguments, seeds=[3], resume=resume)


def test_a_finished_run_says_how_it_was_made(tmp_path):
    run = begin(tmp_path / "run", model="m")
    run.add([ResultRow(suite="s", dataset="d", metric="acc_wg", value=math.nan)])
    run.finish()
    manifest = read_run(run.out)
    assert manifest["arguments"] == {"model": "m"}
    assert manifest["seeds"] == [3]
    assert {"python", "fieldmark", "torch"} <= set(manifest["versions"])
    assert {"commit", "dirty", "started", "seconds", "data", "weights"} <= set(manifest)
    assert [row.metric for row in read_rows(run.out)] == ["acc_wg"]
    assert sorted(p.name for p in run.out.iterdir()) == ["results.jsonl", "run.json"]


def test_an_unfinished_run_is_no_run_yet(tmp_path):
    begin(tmp_path / "run")
    with pytest.raises(InputError, match="unfinished: resume it first"):
        read_run(tmp_path / "run")
    with pytest.raises(InputError, match="holds no run"):
        read_run(tmp_path)


def test_an_output_folder_belongs_to_one_run(tmp_path):
    out = tmp_path / "run"
    begin(out, model="m", k=1)
    with pytest.raises(RunExistsError, match="unfinished run; add --resume"):
        begin(out, model="m", k=1)
    with pytest.raises(RunExistsError, match=r"other arguments \(k, model\)"):
        begin(out, model="n", k=2, resume=True)
    begin(out, model="m", k=1, resume=True).finish()
    with pytest.raises(RunExistsError, match="finished run; choose another --out"):
        begin(out, model="m", k=1, resume=True)


def test_other_peoples_files_are_safe(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(RunExistsError, match="holds other files"):
        begin(tmp_path)
    with pytest.raises(RunExistsError, match="is a file"):
        begin(tmp_path / "thesis.tex")
    with pytest.raises(RunExistsError, match="no run to resume"):
        begin(tmp_path / "new", resume=True)
    assert not (tmp_path / "new").exists()


def test_another_schema_is_refused(tmp_path):
    begin(tmp_path / "run").finish()
    path = tmp_path / "run" / "run.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 99'))
    with pytest.raises(InputError, match="schema 99"):
        read_run(tmp_path / "run")
