"""Every verb, end to end, on drawn images and a tiny CLIP with random weights."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from fieldmark.cli.dispatch import run
from fieldmark.core.records import read_rows, read_run
from fieldmark.data.datasets import build_dataset
from tests.models import tiny

SMALL = {"size": 32, "n_objects": 4, "n_scenes": 4, "per_class": 12, "per_group": 3}
QUICK = ["epochs=1", "contexts=2", "anchor_contexts=2", "batch_size=8", "precision=fp32"]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "synthetic"
    return build_dataset("synthetic", folder, options=SMALL)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model") / "clip"
    return f"local-dir:{tiny.write_open_clip(folder, 'clip')}"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))


def call(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        run([str(word) for word in words])
    return int(stop.value.code or 0)


def train(data: Path, model: str, out: Path, *more: object) -> int:
    settings = [word for setting in QUICK for word in ("--set", setting)]
    pools = ["--foregrounds", data / "foregrounds", "--backgrounds", data / "backgrounds"]
    return call("bap", "--model", model, *pools, "--out", out, *settings, *more)


def test_bap_evaluate_export_and_back(data, model, tmp_path, capsys):
    run_dir, out = tmp_path / "bap", tmp_path / "figures"
    assert train(data, model, run_dir, "--guard", data, "--guard-split", "test_unseen") == 0
    manifest = read_run(run_dir)
    assert manifest["weights"]["before"] != manifest["weights"]["after"]
    assert [row.metric for row in read_rows(run_dir)] == ["loss_epoch:0"]
    words = ["--model", run_dir, "--data", data, "--head", "linear-probe", "--seeds", 2]
    assert call("evaluate", *words, "--out", out) == 0
    assert "worst group" in capsys.readouterr().out
    rows = {(r.split, r.metric, r.seed): r for r in read_rows(out)}
    assert {"test_seen", "test_unseen"} == {split for split, _, _ in rows}
    assert rows["test_unseen", "acc_wg", 1].count > 0
    assert rows["test_unseen", "acc_avg", 0].correlation == 1.0
    exported = tmp_path / "exported"
    assert call("export", run_dir, "--out", exported) == 0
    program = (
        "import sys, open_clip, torch; "
        f"m, _, p = open_clip.create_model_and_transforms('local-dir:{exported}'); "
        "assert 'fieldmark' not in sys.modules; "
        "x = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32); "
        "print(m.eval().encode_image(x, normalize=True)[0].tolist())"
    )
    told = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True
    )
    import torch

    from fieldmark.models.load import load_encoder

    image = torch.linspace(-1, 1, 3 * 32 * 32).view(1, 3, 32, 32)
    with torch.no_grad():
        ours = load_encoder(str(run_dir)).encode_image(image)[0].numpy()
    np.testing.assert_allclose(json.loads(told.stdout.splitlines()[-1]), ours, atol=1e-5)


@pytest.mark.parametrize("method", ["data-matched-control", "random-orthogonal-anchors"])
def test_controls_train_from_the_same_command(data, model, tmp_path, method):
    assert train(data, model, tmp_path / "run", "--method", method) == 0
    assert {row.method for row in read_rows(tmp_path / "run")} == {method}


def test_the_same_command_gives_the_same_rows_and_weights(data, model, tmp_path):
    for name in ("a", "b"):
        assert train(data, model, tmp_path / name) == 0
    lines = [(tmp_path / n / "results.jsonl").read_text() for n in ("a", "b")]
    assert lines[0] == lines[1]
    weights = [read_run(tmp_path / n)["weights"]["after"] for n in ("a", "b")]
    assert weights[0] == weights[1]


def test_embed_writes_rows_in_the_order_of_the_index(data, model, tmp_path):
    out = tmp_path / "run"
    assert call("embed", "--model", model, "--data", data, "--out", out) == 0
    values = load_file(out / "embeddings.safetensors")["embeddings"]
    with (out / "index.csv").open() as stream:
        index = list(csv.DictReader(stream))
    assert len(index) == len(values) == len((data / "metadata.csv").read_text().splitlines()) - 1
    np.testing.assert_allclose(np.linalg.norm(values, axis=1), 1, atol=1e-5)


def spoil(folder: Path) -> Path:
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for i in range(3):
            Image.new("RGB", (32, 32), (50 * i, 0, 99)).save(folder / name / f"{i}.png")
    (folder / "b" / "1.png").write_bytes((folder / "b" / "0.png").read_bytes()[:60])
    return folder


def test_unreadable_images_stop_or_are_recorded(model, tmp_path, capsys):
    folder, out = spoil(tmp_path / "images"), tmp_path / "run"
    words = ["--model", model, "--data", folder, "--out"]
    assert call("embed", *words, tmp_path / "x") == 1
    assert "b/1.png" in capsys.readouterr().err.splitlines()[-1]
    assert call("embed", *words, out, "--skip-unreadable") == 0
    assert list(read_run(out)["notes"]["unreadable"]) == ["b/1.png"]
    values = load_file(out / "embeddings.safetensors")["embeddings"]
    assert np.isnan(values).any(axis=1).sum() == 1
    words = ["--model", model, "--data", folder, "--head", "zero-shot", "--skip-unreadable"]
    assert call("evaluate", *words, "--out", tmp_path / "e") == 0
    assert {r.count for r in read_rows(tmp_path / "e") if r.metric == "acc_avg"} == {5}


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--model", "packaged:dino"], 2, "unknown packaged encoder 'dino'"),
        (["--model", "open_clip:ViT-Z/none"], 2, "ViT-Z"),
        (["--model", "local-dir:nowhere"], 1, "nowhere"),
        (["--foregrounds", "nowhere"], 1, "nowhere"),
        (["--backgrounds", "EMPTY"], 1, "EMPTY"),
        (["--method", "bop"], 2, "unknown method 'bop'"),
        (["--guard", "DATA"], 1, "foregrounds occur in it"),
        (["--device", "tpu"], 2, "device"),
        (["--config", "nowhere.yaml"], 1, "nowhere.yaml"),
        (["--resume"], 2, "holds no run to resume"),
    ],
)
def test_a_request_that_is_off_is_one_line_and_writes_nothing(
    data, model, tmp_path, capsys, monkeypatch, words, code, message
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").mkdir()
    words = [str(data) if word == "DATA" else word for word in words]
    capsys.readouterr()
    assert train(data, model, tmp_path / "run", *words) == code
    errors = [line for line in capsys.readouterr().err.splitlines() if "fieldmark:" in line]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "run").exists()


def test_an_output_folder_of_another_run_says_how_to_go_on(data, model, tmp_path, capsys):
    assert train(data, model, tmp_path / "run") == 0
    assert train(data, model, tmp_path / "run") == 2
    assert "holds a finished run; choose another --out" in capsys.readouterr().err


def test_a_class_with_one_foreground_is_named(data, model, tmp_path, capsys):
    pool = tmp_path / "pool"
    with (data / "foregrounds" / "foregrounds.csv").open() as stream:
        first = next(csv.DictReader(stream))
    for name, count in (("fish", 2), ("beetle", 1)):
        (pool / name).mkdir(parents=True)
        for i in range(count):
            source = data / "foregrounds" / first["path"]
            (pool / name / f"{i}.png").write_bytes(source.read_bytes())
    words = ["bap", "--model", model, "--foregrounds", pool, "--backgrounds", data / "backgrounds"]
    assert call(*words, "--out", tmp_path / "run") == 1
    assert "beetle" in capsys.readouterr().err


def test_data_verbs(tmp_path, capsys):
    assert call("data", "list") == 0
    assert "synthetic" in capsys.readouterr().out
    assert call("data", "info", "stamps") == 0
    assert "waterbirds" in capsys.readouterr().out
    assert call("data", "info", "waterbird") == 2
    small = [word for k, v in SMALL.items() for word in ("--set", f"{k}={v}")]
    assert call("data", "build", "synthetic", "--out", tmp_path / "s", *small) == 0
    assert call("data", "check", "--root", tmp_path / "s") == 0
    (tmp_path / "s" / "card.json").unlink()
    capsys.readouterr()
    assert call("data", "check", "--root", tmp_path / "s") == 1
    assert "card.json is missing" in capsys.readouterr().out


def test_an_unknown_data_set_lists_the_known_ones(model, tmp_path, capsys):
    assert call("embed", "--model", model, "--data", "stamp", "--out", tmp_path / "x") == 2
    assert "did you mean stamps? known: celeba, coco, " in capsys.readouterr().err


def test_bench_lists_its_suites(capsys):
    assert call("bench", "--list") == 0
    shown = capsys.readouterr().out
    assert "waterbirds" in shown
    assert "Table 14" in shown


def bench(data, model, out, *more):
    words = ("--model", model, "--data", data, "--seeds", 1, "--out", out, *more)
    return call("bench", "synthetic", *words)


def test_bench_compares_methods_and_leaves_tables_and_a_page(data, model, tmp_path, capsys):
    out = tmp_path / "out"
    small = ["--set", "lp-ft.epochs=1", "--set", "lp-ft.batch_size=8", "--set", "lp-ft.warmup=1"]
    assert bench(data, model, out, "--methods", "zero-shot,linear-probe,dfr", *small) == 0
    shown = capsys.readouterr().out
    assert "linear probe" in shown
    assert "split val has" in shown.replace("\n", " ")
    assert {p.suffix for p in (out / "tables").iterdir()} == {".md", ".tex", ".csv"}
    assert "DFR" in (out / "report.html").read_text()
    assert read_run(out)["arguments"]["seeds"] == [0]


def test_a_study_leaves_its_own_tables_and_drawings(data, model, tmp_path, capsys):
    small = ["--set", "study.composites=8", "--set", "study.sequences=20"]
    out = tmp_path / "out"
    words = ("--model", model, "--data", data, "--seeds", 1, "--out", out)
    assert call("bench", "anchors", *words, *small, "--set", "study.anchor_objects=2") == 0
    page = (out / "report.html").read_text()
    assert "slope of log variance" in page.lower()
    assert "<svg" in page
    assert list((out / "figures").glob("*.svg"))


def test_bench_says_what_is_wrong_in_one_line(data, model, tmp_path, capsys):
    for words, part in (
        (["--methods", "bep"], "unknown method 'bep'"),
        (["--budget", "huge"], "unknown budget"),
        (["--set", "epochs=3"], "is not RECIPE.KEY=VALUE"),
        (["--set", "bop.epochs=3"], "unknown place of a setting"),
        (["--plugin", tmp_path / "none.py"], "none.py: cannot be run"),
    ):
        assert bench(data, model, tmp_path / "out", *words) != 0
        told = capsys.readouterr().err.strip()
        assert part in told
        assert len(told.splitlines()) == 1
