"""`fieldmark faithfulness` from its words to its page, on drawn images and a fake encoder.

The texts name the colour in the middle of an image, so a map of the middle is right.
"""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest
import typer
from PIL import Image

from fieldmark.benchmarks.attribution import faithfulness
from fieldmark.benchmarks.attribution.faithfulness_batches import measure_batches, read_measured
from fieldmark.benchmarks.attribution.faithfulness_request import assign_settings, choose_methods
from fieldmark.cli import faithfulness as verb
from fieldmark.core.errors import InputError, NotApplicableError, UsageError
from fieldmark.core.records import read_rows, read_run
from fieldmark.testing import FakeEncoder

QUICK = ["--set", "points=4", "--set", "insert_start=black", "--batch-size", "4"]


@pytest.fixture(autouse=True)
def fake_encoder(monkeypatch):
    monkeypatch.setattr(faithfulness, "load_encoder", lambda uri, device: FakeEncoder())


@pytest.fixture
def table(tmp_path):
    """Write ten images of a colour on another, with masks and captions, two an object."""
    folder = tmp_path / "images"
    folder.mkdir()
    lines = ["id,path,label,mask,object,caption"]
    mask = Image.new("L", (8, 8))
    mask.paste(255, (2, 2, 6, 6))
    mask.save(folder / "mask.png")
    for number in range(10):
        colour, ground = (("red", "green"), ("blue", "yellow"))[number % 2]
        image = Image.new("RGB", (8, 8), ground)
        image.paste(colour, (2, 2, 6, 6))
        image.save(folder / f"{number}.png")
        lines.append(f"i{number},{number}.png,{colour},mask.png,o{number // 2},a {colour} thing")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")
    return folder / "metadata.csv"


def call(*given):
    return verb.app(
        ["--model", "fake:colours", *map(str, given)], prog_name="f", standalone_mode=False
    )


def test_a_table_gives_a_record_rows_and_a_page(table, tmp_path, capsys):
    out = tmp_path / "run"
    call("--data", table, "--out", out, "--methods", "occlusion,grad-cam", *QUICK)
    values = json.loads((out / "faithfulness.json").read_text())
    by_name = {one["name"]: one for one in values["methods"]}
    assert list(by_name) == ["occlusion", "random", "centre"]
    assert list(values["skipped"]) == ["grad-cam"]
    assert (values["images"], values["objects"]) == (10, 5)
    assert values["changed"] == {"points": 4, "insert_start": "black"}
    gap = {name: one["areas"]["probability"]["gap"]["value"] for name, one in by_name.items()}
    assert gap["occlusion"] > gap["random"]
    assert by_name["occlusion"]["localisation"]["energy"]["value"] == pytest.approx(1, abs=1e-3)
    assert by_name["random"]["localisation"]["area"]["value"] == pytest.approx(0.25)
    assert by_name["occlusion"]["cost"]["curve_forwards"] == 6
    rows = {(r.method, r.metric, r.setting): r for r in read_rows(out)}
    row = rows["occlusion", "gap_auc", "probability"]
    assert row.ci_low <= row.value <= row.ci_high
    assert row.count == 10
    null = values["best_null"]["gap"]
    assert ("occlusion", f"gap_auc_minus:{null}", "probability") in rows
    manifest = read_run(out)
    assert manifest["arguments"]["protocol"]["preset"] == "fieldmark"
    assert manifest["notes"]["forwards"]["shared_per_image"] == 3
    page = (out / "report.html").read_text()
    # The null in the middle is right here by construction, so nothing is ahead of it.
    assert "No method is told from a map that knows nothing" in page
    assert "Not measured" in page
    assert "Energy in the mask" in page
    assert "occlusion" in capsys.readouterr().out


def test_a_stopped_run_goes_on_to_the_same_rows(table, tmp_path, monkeypatch):
    words = ["--data", table, "--methods", "occlusion", *QUICK]
    call(*words, "--out", tmp_path / "whole")
    real, calls = measure_batches, []

    def stop(*given, report, **named):
        def count(done, total):
            calls.append(done)
            if len(calls) == 4:
                raise KeyboardInterrupt
            report(done, total)

        return real(*given, report=count, **named)

    monkeypatch.setattr(faithfulness, "measure_batches", stop)
    with contextlib.suppress(KeyboardInterrupt, typer.Abort):
        call(*words, "--out", tmp_path / "part")
    assert not (tmp_path / "part" / "run.json").exists()
    monkeypatch.setattr(faithfulness, "measure_batches", real)
    kept = sorted((tmp_path / "part" / "batches").rglob("*.safetensors"))
    assert len(kept) == 4
    written = [path.stat().st_mtime_ns for path in kept]
    call(*words, "--out", tmp_path / "part", "--resume")
    assert [path.stat().st_mtime_ns for path in kept] == written
    timed = ("seconds", "seconds_per_image", "images_per_second")
    first, second = (
        [row.to_json() for row in read_rows(tmp_path / name) if row.metric not in timed]
        for name in ("whole", "part")
    )
    assert first == second


def test_maps_of_the_prediction_and_the_preset_rise(table, tmp_path):
    out = tmp_path / "run"
    call("--data", table, "--out", out, "--methods", "occlusion", "--preset", "rise",
         "--labels", "prediction", "--limit", 4, "--set", "points=3")  # fmt: skip
    values = json.loads((out / "faithfulness.json").read_text())
    assert (values["protocol"]["preset"], values["labels"]) == ("rise", "prediction")
    assert (values["protocol"]["target"], values["images"]) == ("prediction", 4)


def test_the_native_preset_perturbs_before_preprocessing(table, tmp_path):
    out = tmp_path / "run"
    call("--data", table, "--out", out, "--methods", "occlusion", "--preset", "gradeclip",
         "--limit", 3, "--set", "points=2")  # fmt: skip
    values = json.loads((out / "faithfulness.json").read_text())
    assert values["grids"] == {"deletion": [0.0, 0.25, 0.5], "insertion": [0.25, 0.5, 1.0]}
    assert values["headline"] == "accuracy@1"


def test_captions_are_retrieved(table, tmp_path):
    out = tmp_path / "run"
    call("--data", table, "--out", out, "--methods", "occlusion", "--task", "retrieval", *QUICK,
         "--set", "protocol.score=accuracy@1")  # fmt: skip
    values = json.loads((out / "faithfulness.json").read_text())
    assert values["captions"]
    assert values["texts"] == ["a red thing", "a blue thing"]
    assert values["headline"] == "text-retrieval@1"
    assert {"image-retrieval@1", "image-retrieval@5"} <= set(values["scores"])


def test_sanity_checks_are_recorded(table, tmp_path):
    out = tmp_path / "run"
    call("--data", table, "--out", out, "--methods", "occlusion", "--sanity", *QUICK)
    values = json.loads((out / "faithfulness.json").read_text())
    checks = {(one["method"], one["check"]): one for one in values["sanity"]}
    assert checks["random", "text"]["value"] == pytest.approx(1)
    # For the colour that is not there the map is flat, which has no rank: undefined, not 0.
    assert checks["occlusion", "text"]["value"] is None
    assert checks["occlusion", "text"]["undefined"] > 0
    assert "Sanity checks" in (out / "report.html").read_text()


def test_settings_of_two_things_need_a_prefix():
    with pytest.raises(UsageError, match=r"protocol\.score or attribution\.score"):
        assign_settings(["score=cosine"])
    assert assign_settings(["attribution.score=margin"]) == ([], ["score=margin"])
    with pytest.raises(UsageError, match="use --seed"):
        assign_settings(["seed=3"])
    with pytest.raises(UsageError, match="unknown setting 'sore'"):
        assign_settings(["sore=3"])


def test_nulls_are_always_there():
    assert choose_methods(["cci"]) == ("cci", "random", "centre")
    assert choose_methods(["all"])[-2:] == ("random", "centre")


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["--methods", "saliency"], UsageError, "unknown attribution method"),
        (["--methods", "grad-cam"], NotApplicableError, "none of the methods can be run"),
        (["--class-name", "one"], UsageError, "1 class names for 2 classes"),
        (["--set", "fraction_max=2"], UsageError, "fraction_max = 2"),
        (["--split", "val"], InputError, "has no split 'val'"),
    ],
)
def test_bad_words_give_one_line(table, tmp_path, words, error, message):
    with pytest.raises(error, match=message) as found:
        call("--data", table, "--out", tmp_path / "run", "--methods", "occlusion", *QUICK, *words)
    assert "\n" not in str(found.value)


def test_an_empty_caption_names_its_image(table, tmp_path):
    table.write_text(table.read_text().replace("a red thing", "", 1))
    with pytest.raises(InputError, match="image i0 has no caption"):
        call("--data", table, "--out", tmp_path / "run", "--task", "retrieval", *QUICK)


def test_a_damaged_batch_says_how_to_mend_it(tmp_path):
    path = tmp_path / "00000.safetensors"
    path.write_bytes(b"not a tensor")
    with pytest.raises(InputError, match="delete it; --resume measures it again"):
        read_measured(path, rows=np.arange(2))
