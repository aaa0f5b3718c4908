"""Suites on drawn trees in the layout of the published data, by a tiny random CLIP, end to end."""

from __future__ import annotations

import json

import pytest

from fieldmark.cli.dispatch import run
from fieldmark.core.records import read_rows, read_run
from tests.data.datasets.animal_trees import write_counteranimal
from tests.data.datasets.bird_trees import draw_cub, draw_pool, draw_waterbirds
from tests.data.datasets.test_nico import GROUPS, write_nico
from tests.models import tiny

SMALL = (
    *("bap.epochs=1", "bap.batch_size=4", "bap.contexts=1", "bap.anchor_contexts=2"),
    *("bap.precision=fp32", "bap.objects=4"),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return f"local-dir:{tiny.write_open_clip(tmp_path_factory.mktemp('model') / 'clip', 'clip')}"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))


def bench(suite, *words):
    settings = [word for setting in SMALL for word in ("--set", setting)]
    with pytest.raises(SystemExit) as stop:
        run(["bench", suite, "--seeds", "1", *settings, *map(str, words)])
    return stop.value.code or 0


def test_waterbirds_with_what_it_is_made_of(model, tmp_path, capsys):
    draw_waterbirds(tmp_path / "waterbird_complete95_forest2water2")
    draw_cub(tmp_path)
    draw_pool(tmp_path / "places365")
    out = tmp_path / "out"
    words = ("--root", tmp_path, "--model", model, "--methods", "zero-shot,linear-probe,dfr,bap")
    assert bench("waterbirds", *words, "--out", out) == 0, capsys.readouterr().err
    rows = read_rows(out)
    assert {row.dataset for row in rows} == {"waterbirds"}
    assert {row.correlation for row in rows} == {0.95, 1.0}
    assert {row.method for row in rows if row.metric == "acc_wg"} == {"native", "bap"}
    record = read_run(out)
    (first, _) = record["data"]["tasks"]
    assert first["card"]["citation"]
    assert {refused["head"] for refused in record["notes"]["refused"]} == {"dfr"}


def test_both_pairs_of_counteranimal_say_what_they_lack(model, tmp_path, capsys):
    write_counteranimal(tmp_path)
    words = ("--root", tmp_path, "--model", model, "--methods", "linear-probe,bap")
    one = ("--set", "data.pair=ptarmigan-prairie-chicken")
    first, second = ("--out", tmp_path / "first"), ("--out", tmp_path / "second")
    assert bench("counteranimal", *words, *first) != 0
    assert "class 10, common" in capsys.readouterr().err
    assert bench("counteranimal", *words, *first, *one, "--resume") != 0  # other arguments
    assert bench("counteranimal", *words, *second, *one) == 0, capsys.readouterr().err
    out = tmp_path / "second"
    worst = [row for row in read_rows(out) if row.metric == "acc_wg"]
    assert [row.dataset for row in worst] == ["counteranimal/ptarmigan-prairie-chicken"]
    (refused,) = [r for r in read_run(out)["notes"]["refused"] if r["head"]]
    assert "without" in refused["reason"]


def test_a_pair_of_nico_beside_the_papers_figures(model, tmp_path, capsys):
    write_nico(tmp_path / "track_1" / "public_dg_0416" / "train", GROUPS)
    out = tmp_path / "out"
    words = ("--root", tmp_path, "--model", model, "--methods", "zero-shot,linear-probe")
    more = ("--set", "data.pair=car-truck", "--budget", "full", "--out", out)
    assert bench("nico++", *words, *more) == 0, capsys.readouterr().err
    assert {row.dataset for row in read_rows(out)} == {"nico++/car-truck"}
    chosen = json.loads((out / "run.json").read_text())["notes"]["selection"]
    probe = next(one for one in chosen if one["head"] == "linear-probe")
    assert probe["chosen"]["epochs"] == 40
