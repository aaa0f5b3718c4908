"""Controlled settings: what is planned, measured, kept and refused."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.benchmarks.controlled import measure as module
from fieldmark.benchmarks.controlled import run
from fieldmark.benchmarks.controlled.measure import find_files, measure, prepare
from fieldmark.benchmarks.controlled.outcomes import (
    COMPARED,
    Learned,
    Looked,
    mark_spurious,
    measure_mitigated,
    measure_tie,
)
from fieldmark.benchmarks.controlled.plan import (
    DISCOVERY,
    MITIGATION,
    VARIANTS,
    plan_ravl,
    read_setting,
    write_setting,
)
from fieldmark.benchmarks.controlled.run import run_controlled
from fieldmark.benchmarks.jobs import Job, TaskRef
from fieldmark.benchmarks.runner import gather
from fieldmark.benchmarks.store import Store
from fieldmark.data.controlled.images import ControlledImages, Setting
from fieldmark.data.controlled.objects import DIGITS
from fieldmark.data.pixels import PixelArray
from fieldmark.discovery.clustering import CosineMedoids
from fieldmark.discovery.discoverers import DISCOVERERS
from fieldmark.methods.mitigation.objectives import MITIGATIONS
from tests.benchmarks.fake_controlled import make_fake_encoder, make_request, use_fake_encoder
from tests.data.controlled.captioned_trees import write_vehicles
from tests.data.controlled.fake_packages import fake_packages
from tests.models import tiny

NAN = math.nan
SETTING = Setting(
    domain="digits",
    feature="red-rectangle",
    size=1.0,
    classes=("one", "two"),
    target="two",
    correlation=0.99,
)


@pytest.fixture(scope="module", autouse=True)
def fake_stamps(tmp_path_factory):
    with fake_packages(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture
def fake_encoder(monkeypatch):
    return use_fake_encoder(monkeypatch, classes=DIGITS)


def make_images(labels, feature):
    """Return images of which only labels and features are known."""
    count = len(labels)
    return ControlledImages(
        pixels=PixelArray(torch.zeros(count, 3, 2, 2, dtype=torch.uint8)),
        labels=np.array(labels),
        captions=("",) * count,
        feature=np.array(feature, bool),
        owners=np.arange(0),
        boxes=np.zeros((0, 4), np.float32),
        shows=np.arange(0),
        names=(),
    )


def make_job(setting=SETTING, *, kind=DISCOVERY, seeds=(0,), **amounts):
    """Return a job of a setting that the fake encoder learns."""
    given = {"tuning": 60, "evaluation": 60, "epochs": 8, "batch_size": 20, "learning_rate": 0.3}
    return Job(
        task=TaskRef(dataset=setting.domain, options=write_setting(setting)),
        model="small",
        measure=kind,
        arguments={
            "least_precision": 0.6,
            "variants": list(VARIANTS),
            **given,
            **amounts,
            "seeds": list(seeds),
        },
        setting=setting.name,
    )


def test_a_tie_by_a_table_worked_by_hand():
    # Of each class and feature: how many images, and how many of them right.
    cells = {
        (0, True): (4, 1),
        (0, False): (4, 3),
        (1, True): (5, 4),
        (1, False): (5, 1),
        (2, True): (2, 1),
        (2, False): (10, 8),
    }
    labels, feature, predictions = [], [], []
    for (label, has), (count, right) in cells.items():
        labels += [label] * count
        feature += [has] * count
        predictions += [label] * right + [(label + 1) % 3] * (count - right)
    found = measure_tie(np.array(predictions), make_images(labels, feature), code=1)
    # 4/5 - 1/5; the larger of 3/4 - 1/4 and 8/10 - 1/2.
    assert found.epsilon_1 == pytest.approx(0.6)
    assert found.epsilon_2 == pytest.approx(0.5)
    assert found.strength == pytest.approx(0.5)
    assert found.accuracy == pytest.approx(18 / 30)
    assert found.count == 30
    # The sign: what a feature mends in another class is no tie.
    turned = measure_tie(np.array(predictions), make_images(labels, feature), code=0)
    assert turned.epsilon_1 == pytest.approx(-0.5)
    assert turned.epsilon_2 == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("labels", "feature", "expected"),
    [
        ([0, 0, 1, 1], [1, 0, 1, 1], (NAN, 0.0)),
        ([0, 0, 1, 1], [1, 1, 1, 0], (0.0, NAN)),
        # Undefined in the first of the others, and in the last.
        ([0, 0, 1, 1, 2, 2], [1, 1, 1, 0, 1, 0], (0.0, NAN)),
        ([0, 0, 1, 1, 2, 2], [1, 0, 1, 0, 0, 0], (0.0, NAN)),
        ([1, 1], [1, 0], (0.0, NAN)),
        ([0, 0], [1, 0], (NAN, 0.0)),
    ],
)
def test_an_empty_group_leaves_nan(labels, feature, expected):
    found = measure_tie(np.array(labels), make_images(labels, feature), code=1)
    np.testing.assert_allclose((found.epsilon_1, found.epsilon_2), expected)
    assert math.isnan(found.strength)
    assert found.accuracy == 1


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.integers(0, 2)), min_size=1))
def test_a_tie_is_what_a_loop_finds(rows):
    labels, feature, predictions = zip(*rows, strict=True)
    found = measure_tie(np.array(predictions), make_images(labels, feature), code=0)

    def accuracy(label, has):
        cell = [p == y for y, f, p in rows if y == label and f == has]
        return sum(cell) / len(cell) if cell else NAN

    drops = [accuracy(c, False) - accuracy(c, True) for c in (1, 2) if c in labels]
    undefined = not drops or any(map(math.isnan, drops))
    np.testing.assert_allclose(found.epsilon_1, accuracy(0, True) - accuracy(0, False))
    np.testing.assert_allclose(found.epsilon_2, NAN if undefined else max(drops))


def test_an_undefined_tie_in_one_seed_is_no_valid_setting(fake_encoder, monkeypatch):
    ties = iter([Learned(epsilon_1=0.5, epsilon_2=0.5, accuracy=1, count=9)])
    undefined = Learned(epsilon_1=NAN, epsilon_2=0.5, accuracy=1, count=9)
    monkeypatch.setattr(module, "measure_tie", lambda *_, **__: next(ties, undefined))
    job = make_job(seeds=(0, 1, 2), epochs=1)
    found = measure(job, make_fake_encoder(), report=lambda what: None)
    assert found.notes == {"valid": False, "seeds run": 2}
    strength = [row.value for row in found.rows if row.metric == "strength"]
    np.testing.assert_equal(strength, [NAN])


def test_early_stopping_is_part_of_a_job_only_where_it_is_asked_for():
    (job,) = plan_ravl(make_request(settings=1, mitigations=0, validation_share=0.25, patience=2))
    assert (job.arguments["validation_share"], job.arguments["patience"]) == (0.25, 2)
    config = prepare(
        dataclasses.replace(make_job(), arguments=job.arguments), make_fake_encoder()
    ).config
    assert (config.validation_share, config.patience) == (0.25, 2)


def test_files_of_a_domain_are_found_under_the_root(tmp_path):
    assert find_files(tmp_path, "digits") is None
    assert find_files(tmp_path, "coco") == tmp_path
    for folder, domain in (("mnist", "digits"), ("fashion-mnist", "fashion"), ("coco", "coco")):
        (tmp_path / folder).mkdir()
        assert find_files(tmp_path, domain) == tmp_path / folder
    assert find_files(None, "fashion") is None


def test_regions_are_marked_by_their_nearest_medoid():
    def place(*degrees):
        angles = np.radians(degrees)
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    # Medoids at 0 and 90 degrees; the regions of the first lie 0, 10, 20, 30 and 40 from it.
    found = place(0, 10, 20, 30, 40, 90, 80)
    clusters = CosineMedoids((2, 2))
    clusters.medoid_indices_, clusters.labels_ = np.array([0, 5]), np.array([0] * 5 + [1] * 2)
    regions = place(0, 19, 21, 44, 46, -60, 100, 180 + 44)
    marked = mark_spurious(regions, found, clusters, cluster=0)
    assert marked.tolist() == [True, True, True, True, False, True, False, False]
    other = mark_spurious(regions, found, clusters, cluster=1)
    np.testing.assert_array_equal(other, ~marked)


def test_groups_after_mitigation_by_hand(fake_encoder):
    prepared = prepare(make_job(), make_fake_encoder())
    images, words = prepared.evaluation, prepared.prototypes
    # Right but for images of "one" with the feature; of regions, those that show "two" are wrong.
    fooled = (images.labels == 0) & images.feature
    shown = np.where(images.shows < 2, images.shows, 0)
    looked = Looked(
        images=words[np.where(fooled, 1, images.labels)],
        regions=words[np.where(shown == 1, 0, shown)],
    )
    found = measure_mitigated(prepared, looked)
    count = len(images)
    assert {of for _, of in found.values()} == {count}
    assert {name: value for name, (value, _) in found.items()} == pytest.approx(
        {
            "image_avg": 1 - fooled.sum() / count,
            "image_wg": 0,
            "region_avg": (images.labels == 0).mean(),
            "region_wg": 0,
        }
    )


def test_a_tie_is_learned_discovered_and_trained_away_with_a_fake_encoder(fake_encoder):
    told: list[str] = []
    encoder = make_fake_encoder()
    found = measure(make_job(seeds=(0, 1)), encoder, report=told.append)
    values = {(row.method, row.metric, row.seed): row.value for row in found.rows}
    assert values["fine-tuned", "strength", 0] >= 50
    assert found.notes == {"valid": True, "seeds run": 2}
    assert {method for method, metric, _ in values if metric == "precision@10"} == set(COMPARED)
    assert values["spurious-aware", "precision@10", 0] >= 0
    assert values["ravl", "precision@10", 0] == values["ravl", "precision@10", 1] == 1
    assert told == [
        "fine-tune, seed 0",
        "fine-tune, seed 1",
        "discover, seed 0",
        "discover, seed 1",
    ]
    row = found.rows[0]
    assert (row.dataset, row.split, row.encoder, row.correlation) == (
        "digits",
        "evaluation",
        "small",
        0.99,
    )

    mended = measure(make_job(kind=MITIGATION, seeds=(0,)), encoder, report=lambda what: None)
    left = {(row.method, row.metric): row.value for row in mended.rows}
    methods = {"standard", *VARIANTS}
    # Every way of mitigation, and none under the name of a way of discovery.
    used = {"standard", *(variant.method for variant in VARIANTS.values())}
    assert used == set(MITIGATIONS)
    assert not methods & set(DISCOVERERS)
    assert {method for method, _ in left} == methods
    metrics = {"image_avg", "image_wg", "region_avg", "region_wg"}
    assert set(left) == {(method, metric) for method in methods for metric in metrics}
    notes = mended.notes
    assert notes["precision@10"] == 1
    assert notes["marked"] >= notes["marked that show the feature"]
    assert notes["marked that show the feature"] > 0.8 * notes["regions with the feature"]


def test_what_was_not_learned_is_neither_discovered_nor_mitigated(fake_encoder):
    setting = dataclasses.replace(SETTING, correlation=0.05)
    encoder = make_fake_encoder()
    few = {"epochs": 1, "learning_rate": 1e-6}
    found = measure(make_job(setting, seeds=(0, 1), **few), encoder, report=lambda what: None)
    assert found.notes == {"valid": False, "seeds run": 1}
    assert {row.metric for row in found.rows} == {"epsilon1", "epsilon2", "image_avg", "strength"}
    job = make_job(setting, kind=MITIGATION, **few)
    mended = measure(job, encoder, report=lambda what: None)
    assert mended.rows == ()
    assert mended.notes["left out"] == "not learned, or not discovered"


def test_jobs_that_are_done_are_not_run_again(fake_encoder, tmp_path, monkeypatch):
    jobs = plan_ravl(make_request())
    store, told = Store(tmp_path), []
    outcomes = run_controlled(jobs, store=store, report=lambda *step: told.append(step))
    assert fake_encoder == ["digits"]
    assert len({outcome.key for outcome in outcomes}) == len(jobs) == 3
    assert [outcome.job for outcome in outcomes] == jobs
    assert told[-1] == ("settings", 3, 3, jobs[-1].setting)
    found = list(gather(outcomes, store))
    assert {row.setting for _, one in found for row in one.rows} <= {job.setting for job in jobs}
    files = sorted(tmp_path.rglob("*.json"))

    def refuse(*_, **__):
        raise AssertionError("run again")

    monkeypatch.setattr(run, "measure", refuse)
    again = run_controlled(jobs, store=store)
    assert [outcome.key for outcome in again] == [outcome.key for outcome in outcomes]
    assert sorted(tmp_path.rglob("*.json")) == files
    with pytest.raises(AssertionError, match="run again"):
        run_controlled(jobs, store=store, code="another version")


def test_a_killed_run_keeps_what_was_done(fake_encoder, tmp_path, monkeypatch):
    jobs, store, done = plan_ravl(make_request()), Store(tmp_path), []

    def stop_at_the_second(job, encoder, *, report):
        done.append(job)
        if len(done) == 2:
            raise KeyboardInterrupt
        return measure(job, encoder, report=report)

    monkeypatch.setattr(run, "measure", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        run_controlled(jobs, store=store)
    assert len(list((tmp_path / "jobs").glob("*.json"))) == 1
    run_controlled(jobs, store=store)
    assert done == [jobs[0], jobs[1], jobs[1], jobs[2]]


@pytest.fixture(scope="module")
def miniature_coco(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    write_vehicles(folder, count=60)
    write_vehicles(folder, split="val2017", count=12)
    return folder


def test_miniature_coco_is_planned_and_run_with_a_fake_encoder(
    miniature_coco, tmp_path, monkeypatch
):
    opened = use_fake_encoder(monkeypatch, classes=("bus", "car", "boat"))
    request = make_request(
        datasets=("coco",), model="fake:colours", root=miniature_coco, tuning=150, evaluation=60
    )
    jobs = plan_ravl(request)
    assert [job.measure for job in jobs] == [DISCOVERY, DISCOVERY, MITIGATION]
    assert {job.task.root for job in jobs} == {miniature_coco}
    # A setting that COCO has too few images for is refused, with its counts.
    poor = read_setting(jobs[0].task)
    options = write_setting(dataclasses.replace(poor, classes=("car", "train"), target="car"))
    ref = dataclasses.replace(jobs[0].task, options=options)
    jobs.append(dataclasses.replace(jobs[0], task=ref, setting="poor"))
    store = Store(tmp_path)
    found = [one for _, one in gather(run_controlled(jobs, store=store), store)]
    assert set(opened) == {"fake:colours"}
    for one in found[:2]:
        assert not one.refused
        metrics = {row.metric: row.value for row in one.rows}
        assert {"epsilon1", "epsilon2", "image_avg", "strength"} <= metrics.keys()
        assert 0 <= metrics["image_avg"] <= 1
        assert {row.dataset for row in one.rows} == {"coco"}
    assert "train 0 with and 0 without" in found[3].refused
    assert found[3].notes == {"dataset": "coco"}
    assert found[3].rows == ()


def test_miniature_coco_is_run_with_a_tiny_resnet(miniature_coco, tmp_path):
    folder = tiny.write_open_clip(tmp_path / "model", "resnet")
    config = json.loads((folder / "open_clip_config.json").read_text())
    # The miniature's objects lie where the usual crop leaves nothing.
    config["preprocess_cfg"]["resize_mode"] = "squash"
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    model = f"local-dir:{folder}"
    request = make_request(
        datasets=("coco",),
        model=model,
        root=miniature_coco,
        tuning=150,
        evaluation=60,
        settings=1,
        mitigations=0,
        epochs=1,
    )
    jobs, store = plan_ravl(request), Store(tmp_path / "store")
    ((job, found),) = gather(run_controlled(jobs, store=store), store)
    assert not found.refused
    assert found.notes["seeds run"] == 1
    assert {row.encoder for row in found.rows} == {model}
    assert {row.setting for row in found.rows} == {job.setting}
    assert {"epsilon1", "epsilon2", "strength"} <= {row.metric for row in found.rows}
