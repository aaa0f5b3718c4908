"""`fieldmark bench ravl` from its words to its page, on a fake small encoder and fake packages."""

from __future__ import annotations

import json

import pytest

from fieldmark.cli.dispatch import run
from fieldmark.core.records import read_rows, read_run
from fieldmark.data.controlled.objects import DIGITS
from tests.benchmarks.fake_controlled import AMOUNTS, use_fake_encoder
from tests.data.controlled.fake_packages import fake_packages


@pytest.fixture(scope="module", autouse=True)
def fake_stamps(tmp_path_factory):
    with fake_packages(tmp_path_factory.mktemp("cache")):
        yield


def call(out, *given, **amounts):
    asked = [f"study.{key}={value}" for key, value in {**AMOUNTS, **amounts}.items()]
    words = [word for one in asked for word in ("--set", one)]
    with pytest.raises(SystemExit) as stop:
        run(["bench", "ravl", "--out", str(out), *words, *map(str, given)])
    return int(stop.value.code or 0)


def test_settings_of_a_fake_small_encoder_are_run_kept_and_shown(tmp_path, monkeypatch, capsys):
    opened = use_fake_encoder(monkeypatch, classes=DIGITS)
    out, store = tmp_path / "out", tmp_path / "store"
    asked = ["--data", "digits", "--seeds", "2", "--store", store]
    assert call(out, *asked) == 0
    assert opened == ["digits"]
    told = capsys.readouterr()
    assert f"the page to look at: {out / 'report.html'}" in told.err
    assert "Controlled settings, and how many are valid" in told.out
    rows = read_rows(out)
    assert {row.suite for row in rows} == {"ravl"}
    assert {row.dataset for row in rows} == {"digits"}
    assert len({row.setting for row in rows}) == 2
    record = read_run(out)
    assert record["arguments"]["models"] == ["small"]
    assert record["notes"]["jobs"] == 3
    page = (out / "report.html").read_text()
    assert "A setting is valid at tau if epsilon1 and epsilon2 are tau points or more" in page
    table = (out / "tables/ravl-settings.csv").read_text().splitlines()
    assert table[1].startswith("digits,2,")
    assert len(list((store / "jobs").glob("*.json"))) == 3

    again = tmp_path / "again"
    assert call(again, *asked) == 0
    assert (again / "results.jsonl").read_text() == (out / "results.jsonl").read_text()
    kept = [json.loads(path.read_text())["job"] for path in (store / "jobs").glob("*.json")]
    assert len(kept) == 3
    assert {job["model"] for job in kept} == {"small"}


@pytest.mark.parametrize(
    ("given", "amounts", "problem"),
    [
        (["--data", "coco"], {}, "the domain coco needs COCO's files; give their folder by --root"),
        (["--data", "birds"], {}, "'birds' is no domain of controlled settings; known: digits"),
        (["--data", "digits"], {"epochs": "few"}, "study.epochs=few is no whole number above 0"),
    ],
)
def test_what_cannot_be_run_is_one_line(tmp_path, capsys, given, amounts, problem):
    assert call(tmp_path / "out", *given, **amounts) == 2
    told = capsys.readouterr().err.strip()
    assert problem in " ".join(told.split())
    assert "Traceback" not in told
    assert not (tmp_path / "out").exists()
