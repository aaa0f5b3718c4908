"""Accuracies and drops against plain counting, with objects drawn whole."""

from __future__ import annotations

import numpy as np
import pytest

from fieldmark.benchmarks.covar.backgrounds import (
    list_predicted,
    measure_area,
    measure_scenes,
)
from fieldmark.benchmarks.covar.figures import (
    average_classes,
    compare_encoders,
    measure_classes,
    pool_columns,
    read_accuracies,
    read_drops,
    tally,
)

SUBSETS = ("original", "background", "scale_2", "scale_4", "crop")
COLUMNS = ("original", "background", "crop", "scale")


@pytest.fixture
def pool():
    """12 objects of 3 classes, one original each and 4 scenes in the other subsets."""
    random = np.random.default_rng(3)
    rows = [
        (c, f"{c}-{o}", s, scene)
        for c in range(3)
        for o in range(4)
        for s in range(5)
        for scene in range(1 if s == 0 else 4)
    ]
    labels, objects, cells, scenes = (list(part) for part in zip(*rows, strict=True))
    chance = np.array([0.9, 0.7, 0.5, 0.2, 0.75])[cells]
    correct = random.random((2, len(rows))) < chance
    return correct, np.array(labels), objects, np.array(cells), np.array(scenes)


def count(pool, resamples=300):
    correct, labels, objects, cells, _ = pool
    return tally(
        correct, cells, width=5, labels=labels, objects=objects, classes=3, resamples=resamples
    )


def test_accuracies_are_those_of_plain_counting(pool):
    correct, _, _, cells, _ = pool
    found = average_classes(pool_columns(count(pool), SUBSETS, COLUMNS), COLUMNS)
    figures = read_accuracies(found, encoder=1)
    assert figures["crop"].value == pytest.approx(correct[1][cells == 4].mean())
    assert figures["crop"].count == 48
    both = (cells == 2) | (cells == 3)
    assert figures["scale"].value == pytest.approx(correct[1][both].mean())
    mean = np.mean([figures[name].value for name in ("background", "crop", "scale")])
    assert figures["average"].value == pytest.approx(mean)
    assert figures["scale"].interval.low < figures["scale"].value < figures["scale"].interval.high


def test_drops_and_gains_are_differences(pool):
    found = average_classes(pool_columns(count(pool), SUBSETS, COLUMNS), COLUMNS)
    first, second = (read_accuracies(found, encoder=k) for k in (0, 1))
    drop = read_drops(found, encoder=0, against="original")["scale"]
    assert drop.value == pytest.approx(first["original"].value - first["scale"].value)
    gains = compare_encoders(found, first=0, second=1)
    assert gains["crop"]["accuracy"].value == pytest.approx(
        second["crop"].value - first["crop"].value
    )
    drops = [read_drops(found, encoder=k, against="background")["scale"].value for k in (0, 1)]
    assert gains["scale"]["drop_background"].value == pytest.approx(drops[0] - drops[1])


def test_an_encoder_against_itself_gains_exactly_nothing(pool):
    correct, *rest = pool
    same = (np.stack([correct[0], correct[0]]), *rest)
    found = average_classes(pool_columns(count(same), SUBSETS, COLUMNS), COLUMNS)
    gain = compare_encoders(found, first=0, second=1)["scale"]["accuracy"]
    assert gain.value == 0
    assert gain.interval.low < 0 < gain.interval.high


def test_what_all_images_of_an_object_share_widens_the_interval():
    """Ten images of one object are one draw, so the interval is that of 12 draws, not of 120."""
    objects = [f"o{k}" for k in range(12) for _ in range(10)]
    correct = np.repeat(np.arange(12) % 2 == 0, 10)[None]
    found = tally(correct, np.zeros(120, int), width=1, labels=np.zeros(120, int), objects=objects,
                  classes=1)  # fmt: skip
    limits = read_accuracies(average_classes(found, ["crop"]), encoder=0)["crop"].interval
    assert limits.high - limits.low > 0.4


def test_class_drops_name_the_subset_that_costs_most(pool):
    correct, labels, _, cells, _ = pool
    records = measure_classes(pool_columns(count(pool), SUBSETS, COLUMNS), COLUMNS, encoder=0)
    mine = (labels == 1) & (cells == 0)
    original = correct[0][mine].mean()
    drops = {
        "background": original - correct[0][(labels == 1) & (cells == 1)].mean(),
        "crop": original - correct[0][(labels == 1) & (cells == 4)].mean(),
        "scale": original - correct[0][(labels == 1) & np.isin(cells, (2, 3))].mean(),
    }
    assert records[1]["mean_drop"].value == pytest.approx(np.mean(list(drops.values())))
    assert records[1]["largest_in"] == max(drops, key=lambda name: drops[name])
    assert records[1]["largest_drop"].value == pytest.approx(max(drops.values()))
    assert records[1]["background_drop"].value == pytest.approx(drops["background"])


def test_a_subset_without_images_of_a_class_is_undefined_not_zero():
    found = tally([[True, False]], [0, 1], width=2, labels=[0, 1], objects=["a", "b"], classes=2)
    records = measure_classes(found, ("original", "crop"), encoder=0)
    assert np.isnan(records[0]["accuracy"]["crop"])
    assert np.isnan(records[0]["mean_drop"].value)


def test_a_background_that_calls_up_a_class_is_found():
    scenes = np.tile(np.arange(4), 20)
    predictions = np.where(scenes == 2, 7, np.repeat(np.arange(20) % 5, 4))
    found = list_predicted(
        predictions, scenes, count=4, labels=np.repeat(np.arange(20) % 5, 4),
        objects=[f"o{k // 4}" for k in range(80)], candidates=[f"c{k}" for k in range(8)],
    )  # fmt: skip
    assert found[2]["excess"][0]["class"] == "c7"
    assert found[2]["excess"][0]["value"] == 1.0
    assert found[0]["frequent"][0]["share"] == pytest.approx(0.2)
    assert found[0]["images"] == 20


def test_a_class_that_one_background_hurts_is_found():
    labels = np.repeat([0, 0, 0, 1, 1, 1], 4)
    scenes = np.tile(np.arange(4), 6)
    correct = ~((labels == 1) & (scenes == 3))
    found = measure_scenes(
        correct, scenes, count=4, labels=labels,
        objects=[f"o{k // 4}" for k in range(24)], classes=["cat", "dog"],
    )  # fmt: skip
    worst = found["suffering"][0]
    assert (worst["class"], worst["scene"], worst["accuracy"]) == ("dog", 3, 0.0)
    # Cell 0, class mean 3/4, background mean 1/2, grand mean 7/8.
    assert worst["value"] == pytest.approx(0 - 0.75 - 0.5 + 0.875)


def test_area_is_binned_by_doubling():
    [line] = measure_area(
        [[1, 0, 1]], [0.003, 0.05, 0.07], labels=[0, 0, 0], objects=["a", "b", "c"], classes=1
    )
    assert [(one["low_area"], one["value"], one["count"]) for one in line] == [
        (0.0, 1.0, 1), (0.04, 0.5, 2),
    ]  # fmt: skip
