from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fieldmark.benchmarks import discovery, mitigation
from fieldmark.benchmarks.discovery_record import read_discovery
from fieldmark.benchmarks.mitigation import run_mitigation
from fieldmark.benchmarks.mitigation_material import StoredImages, find_captions, read_captions
from fieldmark.benchmarks.mitigation_measure import code_regions
from fieldmark.benchmarks.mitigation_request import (
    MitigationRequest,
    choose_spurious,
    choose_tests,
    make_mitigation_plan,
)
from fieldmark.core.errors import (
    FieldmarkError,
    InputError,
    NotApplicableError,
    RunExistsError,
    TableError,
    UsageError,
)
from fieldmark.core.records import read_rows, read_run
from fieldmark.data.tables import read_table
from fieldmark.discovery.evidence import predict_zero_shot
from fieldmark.methods.images import open_task_images
from fieldmark.methods.mitigation.config import MitigationConfig
from fieldmark.metrics.influence import Selection
from fieldmark.models.embed import embed_images
from fieldmark.report.mitigation_parts import RECORD, read_mitigation_parts
from fieldmark.testing import FakeEncoder
from tests.benchmarks.planted_splits import (
    CLASS_NAMES,
    discover_grounds,
    draw_splits,
    make_misled_encoder,
)

CONFIG = MitigationConfig(epochs=8, learning_rate=0.1, batch_size=20, validation_share=0)


@pytest.fixture(scope="module", autouse=True)
def fake_encoder(tmp_path_factory):
    """Every model that these tests name is the misled FakeEncoder, and the cache is their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIELDMARK_CACHE", str(tmp_path_factory.mktemp("cache")))
        for module in (discovery, mitigation):
            patch.setattr(module, "load_encoder", lambda uri, *, device: make_misled_encoder())
        yield


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Return the table and the folder of a discovery."""
    folder = tmp_path_factory.mktemp("planted")
    table = draw_splits(folder / "images", attributes=True)
    return table, discover_grounds(table, folder / "found")


def ask(found, out, **changed):
    table, run = found
    request = MitigationRequest(
        model="fake:colours", data=str(table), discovery=run, out=out, config=CONFIG
    )
    return replace(request, **changed)


@pytest.fixture(scope="module")
def mitigated(found, tmp_path_factory):
    return run_mitigation(ask(found, tmp_path_factory.mktemp("run") / "out"))


def read_values(out):
    return json.loads((out / RECORD).read_text())


def find(evaluation, metric):
    change = evaluation.find(metric)
    assert change is not None
    return change


def mark_green(table):
    """Return which images have a green ground, (n,)."""
    return np.asarray(table.attributes) == table.attribute_names.index("green")


def count_by_hand(encoder, table):
    """Return whether each image of a table is right, and whether its ground is green."""
    prototypes = encoder.encode_text(list(CLASS_NAMES)).detach().numpy()
    seen = embed_images(encoder, table, precision="fp32").values
    green = mark_green(table)
    return predict_zero_shot(seen, prototypes) == table.labels, green


def test_the_worst_group_is_mended_and_nothing_is_claimed_that_was_not_counted(found, mitigated):
    table = read_table(found[0]).select("test")
    parts = read_mitigation_parts(mitigated)
    (test,) = parts.evaluations
    assert test.split == "test"
    for encoder, column in (
        (make_misled_encoder(), "before"),
        (FakeEncoder.load(mitigated / "encoder"), "after"),
    ):
        right, green = count_by_hand(encoder, table)
        groups = [
            right[(table.labels == label) & (green == has)]
            for label in (0, 1)
            for has in (False, True)
        ]
        assert getattr(find(test, "image_avg"), column).value == right.mean()
        assert getattr(find(test, "image_wg"), column).value == min(map(np.mean, groups))
        for (label, has), group in zip([(0, 0), (0, 1), (1, 0), (1, 1)], groups, strict=True):
            name = f"image_y:{table.classes[label]}_cluster:{('without', 'with')[has]}"
            assert getattr(find(test, name), column).value == group.mean()
            assert getattr(find(test, name), column).count == len(group)
    worst = find(test, "image_wg")
    assert worst.before.value == 0
    assert worst.after.value > 0.9
    assert worst.interval.low > 0.5
    assert "<h1>Worst-group accuracy rises from 0.00" in (mitigated / "report.html").read_text()


def test_the_cluster_no_longer_tells_right_from_wrong(mitigated):
    (test,) = read_mitigation_parts(mitigated).evaluations
    gap, influence = find(test, "gap"), find(test, "influence")
    assert gap.group == influence.group == read_values(mitigated)["clusters"][0]["cluster"]
    assert gap.before.value == 1
    assert gap.after.value < 0.2
    assert influence.before.value == 1
    # Without a wrong prediction there is nothing that could rest on the cluster.
    assert math.isnan(influence.after.value)
    assert influence.after.count == 0


def test_regions_that_have_names_are_measured_and_others_are_left_out(mitigated):
    (test,) = read_mitigation_parts(mitigated).evaluations
    overall = find(test, "region_avg")
    assert (overall.before.value, overall.before.count) == (1, 40)
    assert find(test, "region_wg").after.count == 20
    assert find(test, "region_y:rose_image:rose").before.count == 20
    assert test.find("region_y:rose_image:berry") is None


def test_what_was_counted_is_what_is_there(found, mitigated):
    values = read_values(mitigated)
    counts, train = values["counts"], read_table(found[0]).select("train")
    green = int(mark_green(train).sum())
    assert counts["images"] == counts["trained_on"] == 40
    assert counts["unnamed"] == counts["unlabelled"] == 4
    assert counts["several"] == counts["differing"] == counts["without_plain_region"] == 0
    assert counts["regions"] == 80
    assert counts["marked_regions"] == counts["marked_images"] == green == 20
    assert values["clusters"][0]["regions"] == green
    assert values["captions"] == "column 'caption'"
    assert values["config"]["regions"] == "crop"
    assert values["training"]["steps"] == 16
    assert len(values["training"]["losses"]) == 8


def test_rows_hold_before_after_and_their_difference(mitigated):
    parts = read_mitigation_parts(mitigated)
    rows = {(row.metric, row.group, row.method, row.setting): row for row in read_rows(mitigated)}
    worst = find(parts.evaluations[0], "image_wg")
    assert rows["image_wg", None, "native", ""].value == worst.before.value
    assert rows["image_wg", None, "ravl", ""].value == worst.after.value
    gained = rows["image_wg", None, "ravl", "difference"]
    assert (gained.value, gained.ci_low) == (worst.difference, worst.interval.low)
    assert {row.split for row in rows.values()} == {"test"}
    run = read_run(mitigated)
    assert run["weights"]["before"] == make_misled_encoder().spec.fingerprint
    assert run["weights"]["after"] == FakeEncoder.load(mitigated / "encoder").spec.fingerprint
    assert run["notes"]["steps"] == 16


def test_the_pictures_show_the_green_grounds(found, mitigated):
    train = read_table(found[0]).select("train")
    green = dict(zip(train.ids, mark_green(train), strict=True))
    (pictures,) = read_mitigation_parts(mitigated).pictures.values()
    assert len(pictures) == 12
    assert all(green[one.image] for one in pictures)
    assert all(one.crop.is_file() and one.whole.is_file() for one in pictures)


def test_stored_images_are_embedded_as_their_files(found, tmp_path):
    table = read_table(found[0]).select("test")
    encoder = make_misled_encoder()
    stored = StoredImages(open_task_images(table, encoder, cache=tmp_path), table.hashes())
    again = embed_images(encoder, stored, precision="fp32").values
    np.testing.assert_array_equal(again, embed_images(encoder, table, precision="fp32").values)


@pytest.mark.parametrize(
    ("killed_at", "repeated"), [(("training", 7), 9), (("regions of test, after", 40), 0)]
)
def test_a_killed_run_goes_on_to_the_same_weights(found, mitigated, tmp_path, killed_at, repeated):
    config = CONFIG.model_copy(update={"checkpoint_seconds": 0})
    request = ask(found, tmp_path / "out", config=config)

    def stop(phase, done, total, note):
        if phase == killed_at[0] and done >= killed_at[1]:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_mitigation(request, report=stop)
    assert not (tmp_path / "out" / "run.json").exists()
    with pytest.raises(RunExistsError, match="unfinished run"):
        run_mitigation(request)
    steps = []

    def watch(phase, done, total, note):
        steps.extend([done] if phase == "training" else [])

    run_mitigation(replace(request, resume=True), report=watch)
    assert len(steps) == repeated
    ours, theirs = (
        FakeEncoder.load(out / "encoder").image_tower.state_dict()
        for out in (tmp_path / "out", mitigated)
    )
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_prompts_stand_in_for_captions(tmp_path):
    table = draw_splits(tmp_path / "images", captions=False, count=20)
    run = discover_grounds(table, tmp_path / "found")
    plan = make_mitigation_plan(ask((table, run), tmp_path / "out"))
    captions = read_captions(plan)
    assert captions.source == "prompts 'a photo of a {}'"
    assert set(captions.texts) == {"a photo of a blue", "a photo of a red"}
    np.testing.assert_array_equal(captions.labels.argmax(axis=1), plan.train.labels)
    assert find_captions(str(tmp_path / "images" / "train"), column=None) is None
    with pytest.raises(UsageError, match="is no table"):
        find_captions(str(tmp_path / "images" / "train"), column="caption")


def test_captions_stay_with_their_images_and_name_what_they_say(found, tmp_path):
    table = draw_splits(tmp_path / "images", count=20)
    with table.open(newline="") as stream:
        rows = list(csv.reader(stream))
    rows[1:] = rows[:0:-1]  # train comes last
    for row in rows[1:]:
        row[3] = f"{row[0]}: {row[3]}" if row[0] != "train/3.png" else "a blue berry by a red rose"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    plan = make_mitigation_plan(ask((table, found[1]), tmp_path / "out", several="first"))
    captions = read_captions(plan)
    for identity, text in zip(plan.train.ids, captions.texts, strict=True):
        assert text.startswith(f"{identity}: ") or identity == "train/3.png"
    assert (captions.several, captions.differing, captions.unnamed) == (1, 1, 2)


@pytest.mark.parametrize(
    ("caption", "kind", "message"),
    [
        ("", TableError, r"table\.csv, row \d+: the caption is blank"),
        ("a thing", NotApplicableError, "none of 20 captions names a class"),
    ],
)
def test_captions_that_cannot_be_used_are_named(found, tmp_path, caption, kind, message):
    table = draw_splits(tmp_path / "images", count=20)
    with table.open(newline="") as stream:
        rows = [[*row[:3], caption] for row in csv.reader(stream)]
    rows[0][3] = "caption"
    with table.open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    plan = make_mitigation_plan(ask((table, found[1]), tmp_path / "out"))
    with pytest.raises(kind, match=message):
        read_captions(plan)


@pytest.mark.parametrize(
    ("changed", "kind", "message"),
    [
        ({"method": "ravle"}, UsageError, "did you mean ravl"),
        ({"clusters": (9,)}, UsageError, "there is no cluster 9; the candidates are: "),
        ({"train_split": "training"}, TableError, "has no split 'training'"),
        ({"splits": ("train",)}, UsageError, "split 'train' is trained on"),
        ({"splits": ("tests",)}, TableError, "has no split 'tests'"),
        ({"caption_column": "words"}, TableError, "has no column 'words'"),
    ],
)
def test_words_that_are_off_are_refused_before_anything_is_written(
    found, tmp_path, changed, kind, message
):
    with pytest.raises(kind, match=message):
        run_mitigation(ask(found, tmp_path / "out", **changed))
    assert not (tmp_path / "out").exists()


def test_another_model_is_refused_unless_it_is_allowed(found, tmp_path, monkeypatch):
    monkeypatch.setattr(mitigation, "load_encoder", lambda uri, *, device: FakeEncoder())
    request = ask(found, tmp_path / "out", config=CONFIG.model_copy(update={"epochs": 1}))
    with pytest.raises(InputError, match="are not those that were discovered on"):
        run_mitigation(request)
    run_mitigation(replace(request, allow_other_model=True, method="standard", gallery=0))
    notes = read_values(tmp_path / "out")["notes"]
    assert any("found on another model" in note for note in notes)


def test_a_training_set_without_the_cluster_is_refused(found, tmp_path):
    record = read_discovery(found[1])
    # The medoid of a cluster that is moved away from every region is nearest to none.
    far = replace(record.regions, medoids=record.regions.medoids.copy())
    far.medoids[record.candidate_ids[0]] *= -1
    moved = replace(record, regions=far)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "fieldmark.benchmarks.mitigation_request.read_discovery", lambda folder: moved
        )
        with pytest.raises(NotApplicableError, match="none of 80 regions of split 'train' is in"):
            run_mitigation(ask(found, tmp_path / "out"))


def test_the_first_candidate_is_chosen_and_any_cluster_can_be(found):
    record = read_discovery(found[1])
    assert choose_spurious(record, ()) == record.candidate_ids[:1]
    assert choose_spurious(record, (2, 0, 2)) == (2, 0)
    with pytest.raises(NotApplicableError, match=r"nothing was found to train away \(a reason\)"):
        choose_spurious(replace(record, candidates=(), reason="a reason"), ())
    group = replace(record.candidates[0], cluster=-1)
    with pytest.raises(NotApplicableError, match="regions that are no cluster"):
        choose_spurious(replace(record, candidates=(group,)), ())


def test_splits_to_measure_on_are_the_tests_else_val(found):
    table = read_table(found[0])
    assert list(choose_tests(table, (), train_split="train")) == ["test"]
    assert list(choose_tests(table, ("val", "test"), train_split="train")) == ["val", "test"]
    kept = table.take(np.flatnonzero([split != "test" for split in table.splits or ()]))
    assert list(choose_tests(kept, (), train_split="train")) == ["val"]
    with pytest.raises(TableError, match="has no split to measure on"):
        choose_tests(kept.select("val"), (), train_split="val")


def test_limits_are_said(found, tmp_path):
    record = read_discovery(found[1])
    other = next(c for c in range(len(record.regions.medoids)) if c not in record.candidate_ids)
    config = CONFIG.model_copy(update={"epochs": 1})
    request = ask(found, tmp_path / "out", config=config, splits=("val",), clusters=(other,))
    run_mitigation(request)
    notes = " ".join(read_values(tmp_path / "out")["notes"])
    assert f"cluster {other} is no candidate of the discovery" in notes
    assert "the clusters were chosen on split val too" in notes
    assert "there is no region accuracy" not in notes


def test_the_words_of_the_selection_are_those_of_the_discovery(tmp_path):
    table = draw_splits(tmp_path / "images", count=20)
    run = discover_grounds(table, tmp_path / "found", selection="reference", threshold=0.0)
    asked = ask((table, run), tmp_path / "out", clusters=(0,))
    assert make_mitigation_plan(asked).selection == Selection(skip_single_regions=True)
    (tmp_path / "found" / "discovery.json").write_text("{")
    with pytest.raises(FieldmarkError, match=r"discovery\.json: cannot be read"):
        make_mitigation_plan(asked)


def test_regions_are_known_by_any_name_of_a_class():
    names = [("blue", "berry"), ("red", "rose")]
    assert code_regions(["Rose", "blue", "ground"], names, count=3).tolist() == [1, 0, -1]
    assert code_regions(None, names, count=2).tolist() == [-1, -1]
