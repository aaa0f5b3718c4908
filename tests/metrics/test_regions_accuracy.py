"""Accuracies of images and regions by group, against loops and tables."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.metrics.regions import summarise_images, summarise_regions

CLASSES = 3


def draw(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    images, regions = int(random.integers(1, 6)), int(random.integers(0, 30))
    return {
        "predictions": random.integers(0, CLASSES, regions),
        "labels": random.integers(-1, CLASSES, regions),
        "owners": random.integers(0, images, regions),
        "image_labels": random.integers(-1, CLASSES, images),
    }


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["label", "label and image"]))
def test_region_accuracies_equal_a_loop(seed, by):
    drawn = draw(seed)
    found = summarise_regions(**drawn, classes=CLASSES, by=by)
    right: dict[tuple[int, int | None], list[bool]] = {}
    for guess, label, owner in zip(
        drawn["predictions"], drawn["labels"], drawn["owners"], strict=True
    ):
        image = int(drawn["image_labels"][owner]) if by == "label and image" else None
        if label >= 0:
            right.setdefault((int(label), image), []).append(bool(guess == label))
    of = {meaning: group for group, meaning in found.meanings.items()}
    for meaning, hits in right.items():
        assert found.groups.accuracies[of[meaning]] == pytest.approx(np.mean(hits))
        assert found.groups.counts[of[meaning]] == len(hits)
    every = [hit for hits in right.values() for hit in hits]
    assert found.unlabelled == (drawn["labels"] < 0).sum()
    if not every:
        assert math.isnan(found.groups.average)
        assert math.isnan(found.groups.worst)
        return
    assert found.groups.average == pytest.approx(np.mean(every))
    assert found.groups.worst == pytest.approx(min(np.mean(hits) for hits in right.values()))
    if by == "label":
        absent = set(range(CLASSES)) - {label for label, _ in right}
        assert all(math.isnan(found.groups.accuracies[of[label, None]]) for label in absent)
        assert all(found.groups.counts[of[label, None]] == 0 for label in absent)


def test_region_groups_by_hand():
    """A couch on a person's picture is read as a person; alone it is read rightly."""
    found = summarise_regions(
        [0, 0, 1, 1, 0],
        [0, 1, 1, 1, -1],
        owners=[0, 0, 1, 2, 2],
        image_labels=[0, 1, -1],
        classes=2,
    )
    named = {found.meanings[g]: a for g, a in found.groups.accuracies.items()}
    assert named == {(0, 0): 1.0, (1, 0): 0.0, (1, 1): 1.0, (1, -1): 1.0}
    assert (found.groups.average, found.groups.worst, found.unlabelled) == (0.75, 0.0, 1)
    alone = summarise_regions(
        [0, 0, 1, 1, 0],
        [0, 1, 1, 1, -1],
        owners=[0, 0, 1, 2, 2],
        image_labels=[0, 1, -1],
        classes=2,
        by="label",
    )
    assert alone.groups.accuracies == {0: 1.0, 1: pytest.approx(2 / 3)}


def test_image_groups_by_hand():
    found = summarise_images([0, 0, 1, 1, 2], [0, 1, 1, 1, -1], spurious=[1, 1, 0, 0, 0], classes=3)
    named = {found.meanings[g]: a for g, a in found.groups.accuracies.items()}
    assert (named[0, 1], named[1, 1], named[1, 0]) == (1.0, 0.0, 1.0)
    assert all(math.isnan(named[key]) for key in [(0, 0), (2, 0), (2, 1)])
    assert found.groups.counts == {0: 0, 1: 1, 2: 2, 3: 1, 4: 0, 5: 0}
    assert (found.groups.average, found.groups.worst, found.unlabelled) == (0.75, 0.0, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predictions": [0]}, "must both be"),
        ({"labels": [3, 0]}, r"a label is not in \[-1, 3\)"),
        ({"owners": [0, 2]}, r"an owner is not in \[0, 2\)"),
        ({"owners": [0]}, "owners"),
        ({"image_labels": [0, 3]}, "the class of an image"),
    ],
)
def test_bad_regions(changes, message):
    values = {"predictions": [0, 1], "labels": [0, 1], "owners": [0, 1], "image_labels": [0, 1]}
    with pytest.raises(ValueError, match=message):
        summarise_regions(**{**values, **changes}, classes=3)


def test_bad_images():
    with pytest.raises(ValueError, match="spurious"):
        summarise_images([0, 1], [0, 1], spurious=[True], classes=2)
