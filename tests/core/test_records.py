"""Records survive a round trip and folders are claimed by one run."""

from __future__ import annotations

import json
import math
import time

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


def test_a_run_killed_before_its_last_page_can_be_resumed(tmp_path):
    out = tmp_path / "run"

    def write_page(folder):
        assert [row.metric for row in read_rows(folder)] == ["acc_avg"]
        (folder / "report.html").write_text(read_run(folder)["verb"])

    def fail(folder):
        raise KeyboardInterrupt

    def run(*pages, **more):
        run = begin(out, model="m", **more)
        run.add([ResultRow(suite="s", dataset="d", metric="acc_avg")])
        run.finish(*pages)

    with pytest.raises(KeyboardInterrupt):
        run(fail, write_page)
    with pytest.raises(RunExistsError, match="unfinished run; add --resume"):
        run()
    run(write_page, resume=True)
    assert (out / "report.html").read_text() == "embed"
    with pytest.raises(RunExistsError, match="finished run; choose another --out"):
        run(resume=True)


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
    path.write_text('{"schema": 99}')
    with pytest.raises(InputError, match="schema 99"):
        read_run(tmp_path / "run")


def spoil(path, *, at=-20):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_damaged_manifest_or_rows_are_refused(tmp_path):
    run = begin(tmp_path / "run")
    run.add([ResultRow(suite="s", dataset="d", metric="m", value=0.5, encoder="a\u2028b\x85c")])
    run.finish()
    assert [row.encoder for row in read_rows(run.out)] == ["a\u2028b\x85c"]
    spoil(run.out / "results.jsonl")
    with pytest.raises(InputError, match=r"results\.jsonl: is damaged; run again"):
        read_rows(run.out)
    spoil(run.out / "run.json", at=60)
    with pytest.raises(InputError, match=r"run\.json: is damaged; run again"):
        read_run(run.out)
    (run.out / "run.json").write_text("[]")
    with pytest.raises(InputError, match=r"run\.json: is damaged"):
        read_run(run.out)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"verb": 1, "arguments": {}, "key": "a"}', "{{"])
def test_a_damaged_manifest_of_an_unfinished_run_is_refused(tmp_path, text):
    begin(tmp_path / "run")
    path = tmp_path / "run" / "run.partial.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"run\.partial\.json: is damaged; choose another"):
        begin(tmp_path / "run", resume=True)


def test_manifests_of_an_older_fieldmark_are_read(tmp_path):
    """They have no checksum."""
    begin(tmp_path / "run")
    partial = tmp_path / "run" / "run.partial.json"
    values = json.loads(partial.read_text())
    del values["fieldmark_sha256"]
    partial.write_text(json.dumps(values))
    run = begin(tmp_path / "run", resume=True)
    run.finish()
    (run.out / "run.json").write_text(json.dumps({"schema": 1, "verb": "v"}))
    assert read_run(run.out)["verb"] == "v"
    assert read_rows(run.out) == []


def test_a_run_killed_before_it_said_what_it_is_can_be_started_again(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".part-x.json").write_text("{")
    begin(tmp_path / "run")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["run.partial.json"]


def test_resuming_removes_what_a_killed_process_left_half_written(tmp_path):
    begin(tmp_path / "run")
    (tmp_path / "run" / "deep" / ".part-model").mkdir(parents=True)
    (tmp_path / "run" / "deep" / ".part-x.txt").touch()
    begin(tmp_path / "run", resume=True)
    assert [path.name for path in sorted((tmp_path / "run").rglob("*"))] == [
        "deep",
        "run.partial.json",
    ]


def test_a_clock_that_goes_back_changes_nothing_but_the_times(tmp_path, monkeypatch):
    """The clock is a fake one."""
    clock = iter(range(2_000_000_000, 0, -100_000))
    monkeypatch.setattr(time, "time", lambda: float(next(clock)))
    row = ResultRow(suite="s", dataset="d", metric="m", value=0.5)
    for name in "ab":
        run = begin(tmp_path / name)
        run = begin(tmp_path / name, resume=True)
        run.add([row])
        run.finish()
    runs = [read_run(tmp_path / name) for name in "ab"]
    for values in runs:
        assert values["seconds"] >= 0
        del values["started"], values["seconds"]
    assert runs[0] == runs[1]
    assert read_rows(tmp_path / "a") == read_rows(tmp_path / "b")
