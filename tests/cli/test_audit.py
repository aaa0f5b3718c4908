"""`fieldmark audit` from its words to what it prints; a fake run writes a drawn audit."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fieldmark.benchmarks.audit import run
from fieldmark.benchmarks.audit.request import AuditRequest
from fieldmark.cli.audit import app
from fieldmark.report.audit_parts import read_audit
from fieldmark.report.audit_words import write_advice, write_summary, write_verdict
from tests.report.audit_sample import build_audit


@pytest.fixture
def requests(monkeypatch):
    """Keep what a fake run is asked for."""
    kept: list[AuditRequest] = []

    def fake_run(request, *, report):
        report("images", 1, 1)
        kept.append(request)
        build_audit(request.out, encoders=1 + (request.compare is not None), images=0)

    monkeypatch.setattr(run, "run_audit", fake_run)
    return kept


def call(*words):
    return CliRunner().invoke(app, [str(one) for one in words], catch_exceptions=False)


def test_without_options_the_run_has_its_own_defaults(tmp_path, requests):
    call("--model", "m", "--data", "d", "--out", tmp_path / "o")
    assert requests == [AuditRequest(model="m", data="d", out=tmp_path / "o")]


def test_every_option_reaches_the_run(tmp_path, requests):
    wanted = AuditRequest(
        model="m", data="d", out=tmp_path / "o", root=tmp_path, compare="n", split="val",
        masks=tmp_path, mask_source="given", backgrounds=tmp_path, limit=7, objects=5,
        class_names=("a", "b"), templates="people", level=0.1, margin=0.2, pictures=3, seed=4,
        batch_size=2, precision="fp32", device="cpu", skip_unreadable=True, resume=True,
    )  # fmt: skip
    call("--model", "m", "--data", "d", "--out", tmp_path / "o", "--root", tmp_path,
         "--compare", "n", "--split", "val", "--masks", tmp_path, "--mask-source", "given",
         "--backgrounds", tmp_path, "--limit", 7, "--objects", 5, "--class-name", "a",
         "--class-name", "b", "--templates", "people", "--level", 0.1, "--margin", 0.2,
         "--pictures", 3, "--seed", 4, "--batch-size", 2, "--precision", "fp32",
         "--device", "cpu", "--skip-unreadable", "--resume")  # fmt: skip
    assert requests == [wanted]


@pytest.mark.parametrize("second", [(), ("--compare", "n")])
def test_it_prints_the_words_of_the_page_and_where_it_is(tmp_path, requests, second):
    out = tmp_path / "o"
    result = call("--model", "m", "--data", "d", "--out", out, *second)
    assert result.exit_code == 0
    parts = read_audit(out)
    count = 1 + bool(second)
    told = result.output.splitlines()[-(count + len(write_summary(parts)) + 3) :]
    assert told == [
        *(write_verdict(parts, number) for number in range(count)),
        *(f"- {one}" for one in write_summary(parts)),
        "left out: controlled changes (COVAR): only 1 of 12 pools has scenes enough",
        write_advice(parts),
        f"page: {Path(out) / 'report.html'}",
    ]
    assert len(requests) == 1
