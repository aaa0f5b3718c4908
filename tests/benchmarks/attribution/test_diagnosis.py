"""`run_diagnosis` on painted squares and an encoder whose scores can be worked out by hand."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from fieldmark.benchmarks.attribution import diagnosis, diagnosis_measure
from fieldmark.benchmarks.attribution.diagnosis import run_diagnosis
from fieldmark.benchmarks.attribution.diagnosis_request import DiagnosisRequest, parse_rules
from fieldmark.core.errors import (
    InputError,
    MaskError,
    NotApplicableError,
    RunExistsError,
    UnknownNameError,
)
from fieldmark.core.records import read_rows
from fieldmark.testing import FakeEncoder

NAMES = ("red on blue", "green on white")
# What is painted: label, object, background. Two of the four are misled by their background.
PAINTED = (
    ("first", "red", "blue"),
    ("second", "green", "white"),
    ("first", "magenta", "white"),
    ("second", "blue", "blue"),
)


@pytest.fixture(autouse=True)
def fake_model(monkeypatch):
    monkeypatch.setattr(diagnosis, "load_encoder", lambda uri, *, device: FakeEncoder())


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("squares")
    mask = Image.new("L", (8, 8))
    mask.paste(255, (2, 2, 6, 6))
    lines = ["path,label,mask,object,place"]
    for number in range(24):
        label, inside, outside = PAINTED[number % 4]
        image = Image.new("RGB", (8, 8), outside)
        image.paste(inside, (2, 2, 6, 6))
        image.save(folder / f"{number}.png")
        mask.save(folder / f"mask-{number}.png")
        lines.append(f"{number}.png,{label},mask-{number}.png,{inside}-{number // 8},{outside}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder


def ask(data, out, **options):
    words = {
        "model": "fake",
        "data": str(data / "table.csv"),
        "out": out,
        "method": "occlusion",
        "similar": "none",
        "class_names": NAMES,
        "templates": "default",
        "draws": 20,
    }
    return DiagnosisRequest(**{**words, **options})


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run that tests read and must not change."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diagnosis, "load_encoder", lambda uri, *, device: FakeEncoder())
        return run_diagnosis(ask(data, tmp_path_factory.mktemp("runs") / "run", causal_draws=5))


def test_the_record_says_what_drove_each_prediction(finished):
    record = json.loads((finished / "diagnosis.json").read_text())
    assert record["images"] == 24
    assert record["errors"] == 12
    wrong = [one for one in record["predictions"] if one["label"] != one["predicted"]]
    assert {one["sources"]["causal"] for one in wrong} == {"background"}
    errors = record["summaries"]["causal"][0]
    shares = {one["source"]: one for one in errors["sources"]}
    assert shares["background"]["share"] == 1
    assert shares["background"]["null"] is not None
    assert sum(one["share"] for one in shares.values()) == pytest.approx(1)
    stored = load_file(finished / "maps.safetensors")
    assert stored["maps"].shape == (24, 16)
    assert not (finished / "parts").exists()


def test_every_figure_is_a_row_with_its_count(finished):
    rows = {(row.setting, row.metric): row for row in read_rows(finished)}
    assert rows["", "acc_avg"].value == 0.5
    share = rows["rule=density", "background_share_errors"]
    assert share.count == 12
    assert share.method == "occlusion"
    assert share.ci_low <= share.value <= share.ci_high
    assert rows["rule=causal", "background_share_class:first"].group == 0
    assert ("rule=paper", "background_corrected_attribute:blue") in rows


def test_the_page_shows_every_rule_beside_its_null(finished):
    page = (finished / "report.html").read_text()
    assert "The background drove 100.0 % of 12 errors" in page
    for words in ("causal: remove its tokens", "density: mean of the map", "paper: larger IoU"):
        assert words in page
    assert "data:image/jpeg;base64" in page
    assert "first, taken for second" in page
    assert "http://" not in page.replace("http://www.w3.org", "")


def test_a_run_that_was_stopped_goes_on_and_comes_to_the_same(data, tmp_path, monkeypatch):
    monkeypatch.setattr(diagnosis_measure, "CHUNK", 8)
    whole = run_diagnosis(ask(data, tmp_path / "whole"))
    measure = diagnosis_measure._measure_chunk
    calls: list[range] = []

    def stop(*given, **options):
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(options["rows"])
        return measure(*given, **options)

    monkeypatch.setattr(diagnosis_measure, "_measure_chunk", stop)
    with pytest.raises(KeyboardInterrupt):
        run_diagnosis(ask(data, tmp_path / "cut"))
    with pytest.raises(RunExistsError):
        run_diagnosis(ask(data, tmp_path / "cut"))
    calls.clear()

    def count(*given, **options):
        calls.append(options["rows"])
        return measure(*given, **options)

    monkeypatch.setattr(diagnosis_measure, "_measure_chunk", count)
    run_diagnosis(ask(data, tmp_path / "cut", resume=True))
    assert calls == [range(16, 24)]
    assert (tmp_path / "cut" / "diagnosis.json").read_text() == (
        whole / "diagnosis.json"
    ).read_text()


def test_a_damaged_part_is_named(data, tmp_path, monkeypatch):
    monkeypatch.setattr(diagnosis, "judge_measurement", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_diagnosis(ask(data, tmp_path / "run"))
    (tmp_path / "run" / "parts" / "00000.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="remove the file and resume"):
        run_diagnosis(ask(data, tmp_path / "run", resume=True))


def _interrupt(*given, **options):
    raise KeyboardInterrupt


def test_the_causal_rule_alone_needs_no_maps(data, tmp_path):
    out = run_diagnosis(ask(data, tmp_path / "run", rules=parse_rules("causal"), gallery=4))
    assert load_file(out / "maps.safetensors")["maps"].shape == (24, 0)
    assert "density" not in json.loads((out / "diagnosis.json").read_text())["summaries"]


def test_masks_from_a_folder_and_images_without_one(data, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    for number in range(20):
        Image.open(data / f"mask-{number}.png").save(masks / f"{number}.png")
    Image.new("L", (8, 8)).save(masks / "0.png")
    Image.new("L", (8, 8), 255).save(masks / "1.png")
    out = run_diagnosis(ask(data, tmp_path / "run", masks=masks))
    record = json.loads((out / "diagnosis.json").read_text())
    assert record["images"] == 20
    assert len(record["left_out"]) == 4
    assert any("4 images were left out" in note for note in record["notes"])
    assert any("2 of 20 images are not resolvable" in note for note in record["notes"])
    by_image = {one["image"]: one["sources"] for one in record["predictions"]}
    assert set(by_image["0.png"].values()) == {"unresolvable"}
    assert set(by_image["1.png"].values()) == {"unresolvable"}


def test_another_object_is_no_background(data, tmp_path):
    others = tmp_path / "others"
    others.mkdir()
    for number in range(24):
        mask = Image.new("L", (8, 8))
        mask.paste(255, (0, 0, 8, 2))
        mask.save(others / f"{number}.png")
    out = run_diagnosis(ask(data, tmp_path / "run", other_masks=others))
    parts = load_file(out / "maps.safetensors")["parts"]
    assert parts.shape == (24, 3, 16)
    assert (parts.sum(axis=1) == 1).all()
    assert parts[0].sum(axis=1).tolist() == [4, 4, 8]


def test_masks_that_are_off_are_one_line(data, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    with pytest.raises(NotApplicableError, match="name a folder with --masks"):
        run_diagnosis(ask(data, tmp_path / "run", masks=masks))
    Image.new("L", (9, 8), 255).save(masks / "0.png")
    with pytest.raises(MaskError, match=r"0\.png: the mask is 9 x 8, the image 8 x 8"):
        run_diagnosis(ask(data, tmp_path / "again", masks=masks))


def test_swapped_masks_are_a_null_too(data, tmp_path):
    out = run_diagnosis(ask(data, tmp_path / "run", null="masks"))
    record = json.loads((out / "diagnosis.json").read_text())
    shares = {one["source"]: one for one in record["summaries"]["density"][0]["sources"]}
    # All masks are alike, so a swap changes nothing.
    assert shares["background"]["null"] == pytest.approx(shares["background"]["share"])


def test_words_that_are_off_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(UnknownNameError, match="unknown rule 'casual'; did you mean causal"):
        parse_rules("casual")
    request = DiagnosisRequest(model="m", data="nowhere", out=tmp_path / "run")
    with pytest.raises(UnknownNameError, match="attribution method"):
        run_diagnosis(dataclasses.replace(request, method="gradcam"))
    with pytest.raises(UnknownNameError, match="score"):
        run_diagnosis(dataclasses.replace(request, score="logit"))  # type: ignore[arg-type]


def test_look_alike_classes_make_errors_fine_grained(data, tmp_path, monkeypatch):
    from fieldmark.benchmarks.attribution import diagnosis_judge

    monkeypatch.setattr(
        diagnosis_judge,
        "_find_similar",
        lambda request, names: (np.ones((2, 2), bool), ("fake: all classes are alike",)),
    )
    out = run_diagnosis(ask(data, tmp_path / "run"))
    record = json.loads((out / "diagnosis.json").read_text())
    for groups in record["summaries"].values():
        shares = {one["source"]: one["hits"] for one in groups[0]["sources"]}
        assert shares["foreground"] == 0
        hits = {one["source"]: one["hits"] for one in groups[1]["sources"]}
        assert hits["fine-grained"] == 0
