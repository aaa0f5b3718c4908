"""What the studies measure, on FakeEncoder, whose every embedding can be worked out by hand."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import pytest

from fieldmark.benchmarks import embedding_maps
from fieldmark.benchmarks.jobs import Job, TaskRef
from fieldmark.benchmarks.store import Store
from fieldmark.benchmarks.structure import SIZES
from fieldmark.benchmarks.study_measures import STUDY_MEASURES
from fieldmark.benchmarks.subject import Bench
from fieldmark.core.errors import NotApplicableError, UsageError
from fieldmark.testing import FakeEncoder
from tests.benchmarks.squares import BAP, draw_task
from tests.methods.task_material import SETTINGS


@pytest.fixture
def bench(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))
    return Bench(
        task=draw_task(tmp_path / "task"), encoder=FakeEncoder(), store=Store(tmp_path / "store")
    )


def job_of(measure, *, recipe="native", seed=0, **arguments):
    return Job(
        task=TaskRef(dataset="squares"),
        model="fake:colours",
        recipe=recipe,
        settings={"bap": BAP},
        measure=measure,
        arguments=arguments,
        seed=seed,
    )


def measure(bench, name, **changes):
    return STUDY_MEASURES[name](bench, job_of(name, **changes))


def values_of(found):
    return {(row.split, row.metric): row for row in found.rows}


def test_additivity_comes_with_its_deviation_over_composites(bench):
    rows = values_of(measure(bench, "additivity", composites=40))
    score, deviation = rows["", "additivity"], rows["", "additivity_deviation"]
    assert score.count == deviation.count == 40
    # Object and scene have coordinates of their own here, but grey adds to the object's.
    assert 0.7 < score.value < 1
    half = 1.96 * deviation.value / math.sqrt(40)
    assert score.ci_high - score.value == pytest.approx(half)
    assert deviation.value > 0


def test_texts_are_scored_with_the_likeness_of_their_words(bench):
    rows = values_of(measure(bench, "text-additivity", pairs=60))
    assert {metric for _, metric in rows} == {
        "text_additivity",
        "text_additivity_deviation",
        "word_similarity",
        "word_similarity_deviation",
    }
    # FakeEncoder knows none of the words: every text has the same embedding.
    assert rows["", "text_additivity"].value == pytest.approx(1, abs=1e-6)
    assert rows["", "word_similarity"].value == pytest.approx(1, abs=1e-6)
    assert rows["", "word_similarity_deviation"].value == pytest.approx(0, abs=1e-6)
    assert rows["", "word_similarity"].count == 60


def test_the_study_of_anchors_shows_the_decay(bench):
    found = measure(bench, "anchor-study", objects=6, backgrounds=100, sequences=300)
    rows = values_of(found)
    slope = rows["", "residual_slope"]
    assert slope.value == pytest.approx(-1, abs=0.1)
    assert slope.ci_low < slope.value < slope.ci_high
    assert slope.count == 300
    assert found.notes == {"scenes": 7, "objects": 6}
    for metric, count in (("residual_variance", 300), ("anchor_class_similarity", 6)):
        assert [rows["", f"{metric}:{k}"].count for k in SIZES] == [count] * len(SIZES)
    # Averaging over scenes brings an anchor nearer to its class and away from any one scene.
    own = [rows["", f"anchor_class_similarity:{k}"].value for k in SIZES]
    assert own[-1] > own[0]


def test_scenes_and_classes_are_named_by_the_encoder(bench):
    rows = values_of(measure(bench, "scene-recognition"))
    assert rows["test", "acc_y:blue"].value == rows["test", "acc_y:red"].value == 1
    assert rows["test", "acc_avg"].count == 8
    # A scene of "other" has no name to be called by.
    scenes = {metric: row.value for (split, metric), row in rows.items() if split == "scenes"}
    assert set(scenes) == {"acc_scenes", "acc_scene:green", "acc_scene:white"}
    assert scenes["acc_scenes"] == pytest.approx(
        (scenes["acc_scene:green"] + scenes["acc_scene:white"]) / 2
    )
    assert rows["scenes", "acc_scene:green"].count == 3
    assert {row.head for row in rows.values()} == {"zero-shot"}


def test_what_a_task_lacks_is_named(bench):
    bare = dataclasses.replace(bench, task=dataclasses.replace(bench.task, backgrounds=None))
    for name in ("additivity", "anchor-study", "scene-recognition", "map"):
        with pytest.raises(NotApplicableError, match="squares comes without backgrounds"):
            measure(bare, name, composites=4, points=8)
    bare = dataclasses.replace(bench, task=dataclasses.replace(bench.task, foregrounds=None))
    with pytest.raises(NotApplicableError, match="without foregrounds"):
        measure(bare, "additivity", composites=4)
    one = bench.task.backgrounds.select("green")
    bare = dataclasses.replace(bench, task=dataclasses.replace(bench.task, backgrounds=one))
    alone = dataclasses.replace(
        bench, task=dataclasses.replace(bench.task, backgrounds=one.take([0]))
    )
    with pytest.raises(NotApplicableError, match="squares has one scene"):
        measure(alone, "anchor-study")
    with pytest.raises(NotApplicableError, match="no two named categories"):
        measure(bare, "scene-recognition")
    with pytest.raises(NotApplicableError, match="fewer than 5"):
        measure(bare, "map", points=8)


def test_a_map_is_the_same_each_time_and_says_how_it_was_drawn(bench):
    first, second = (measure(bench, "map", points=20) for _ in range(2))
    assert first.artifact == second.artifact
    assert first.notes["map"] == embedding_maps.find_reduction() == first.artifact["reduction"]
    views = first.artifact["views"]
    assert [len(views[name]["points"]) for name in views] == [7, 8, 20]
    assert set(views["composites"]["scene"]) <= {"green", "white", "other"}
    assert len(views["composites"]["class"]) == 20
    rows = values_of(first)
    assert -1 <= rows["", "silhouette_scene"].value <= 1


def test_grouping_is_undefined_where_there_is_one_kind():
    values = np.eye(4, dtype=np.float32)
    assert math.isnan(embedding_maps._measure_grouping(values, np.zeros(4, np.int64)))
    assert embedding_maps._measure_grouping(values[[0, 0, 1, 1]], np.array([0, 0, 1, 1])) == 1


def test_fine_tuning_after_bap_is_followed_epoch_by_epoch(bench):
    tuning = {key: SETTINGS[key] for key in ("batch_size", "learning_rate", "precision")}
    found = measure(
        bench,
        "fine-tuning-curve",
        recipe="bap",
        probe_epochs=[1, 3],
        fine_tuning={**tuning, "epochs": 2},
    )
    rows = values_of(found)
    assert [key for key in rows if key[1].startswith("loss")] == [
        ("train", "loss:1"),
        ("train", "loss:2"),
    ]
    for stage, epochs in (("probe", (1, 3)), ("fine_tuning", (1, 2))):
        for epoch, metric in itertools.product(epochs, ("acc_avg", "acc_wg")):
            assert 0 <= rows["test", f"{metric}_{stage}:{epoch}"].value <= 1
    # 8 objects twice an epoch in batches of 4.
    assert rows["train", "loss:2"].count == 4
    assert rows["test", "acc_avg_probe:3"].count == 8
    assert rows["test", "acc_wg_probe:3"].count == 2
    assert rows["test", "acc_wg_probe:3"].head == "linear-probe"
    assert rows["test", "acc_wg_fine_tuning:2"].head == "trained"
    assert not list((bench.store.root / "curves").iterdir())


def test_a_killed_curve_goes_on_to_the_same_figures(bench):
    """The kill is an exception from the report of progress."""
    arguments = {
        "probe_epochs": [1],
        "fine_tuning": {
            "epochs": 3,
            "batch_size": 4,
            "learning_rate": 1e-2,
            "precision": "fp32",
            "checkpoint_seconds": 0,
        },
    }
    whole = measure(bench, "fine-tuning-curve", **arguments)

    def kill(phase, done, total, note):
        if phase == "fine-tuning" and done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(dataclasses.replace(bench, report=kill), "fine-tuning-curve", **arguments)
    again = measure(bench, "fine-tuning-curve", **arguments)
    assert [row.to_json() for row in again.rows] == [row.to_json() for row in whole.rows]


def test_settings_of_fine_tuning_that_do_not_exist_are_named(bench):
    with pytest.raises(UsageError, match=r"settings of fine-tuning: .*; known: epochs"):
        measure(bench, "fine-tuning-curve", fine_tuning={"epochs": "many"})
