"""Ground truth: heads on embeddings whose core and spurious directions are known.

What is left of the spurious attribute is read off the method itself. For DFR, AFR and group DRO it
is how well the head's decision score tells the two places apart within one class, by the best
threshold on a test set with equal groups: 0.5 is chance, and the ERM probe scores above 0.9. For
RoboShot it is a probe for the place, trained and tested on mapped embeddings with equal groups.
Core accuracy is that of the head over equal groups; the planted core direction alone gives 0.93.
"""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from fieldmark.methods import afr, dfr, group_dro, linear_probe, roboshot, zero_shot
from fieldmark.methods.head import Concepts, HeadData
from fieldmark.methods.linear_probe import ConvexProbe
from tests.methods.planted import (
    EVEN,
    TRAIN,
    best_threshold_accuracy,
    plant_directions,
    plant_features,
)

DIM = 16


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """On products this small a second thread costs more than it saves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def _plant(seed):
    data = HeadData(
        train=plant_features(TRAIN, split="train", seed=seed, dim=DIM),
        val=plant_features(EVEN, split="val", seed=seed, dim=DIM),
        seed=seed,
    )
    return data, plant_features((1000,) * 4, split="test", seed=seed, dim=DIM)


def _tell_places(head, test):
    score = head.decision_function(test.embeddings)
    places = test.groups % 2
    return [
        best_threshold_accuracy(score[test.labels == c], places[test.labels == c]) for c in (0, 1)
    ]


def _core_direction_accuracy(test):
    core, _ = plant_directions(dim=DIM)
    return np.mean((test.embeddings @ core > 0) == test.labels)


def test_threshold_accuracy_by_hand():
    places = np.array([0, 1, 0, 1])
    assert best_threshold_accuracy(np.array([1.0, 3.0, 2.0, 4.0]), places) == 1
    assert best_threshold_accuracy(np.array([4.0, 2.0, 3.0, 1.0]), places) == 1
    assert best_threshold_accuracy(np.array([1.0, 2.0, 3.0, 4.0]), places) == 0.75


def test_erm_probe_uses_the_planted_place():
    data, test = _plant(0)
    probe: Any = linear_probe.HEAD.make(data)
    assert min(_tell_places(probe, test)) > 0.9
    assert probe.score(test.embeddings, test.labels) < 0.65


@pytest.mark.parametrize(
    ("method", "seed"), [(dfr, 0), (dfr, 1), (afr, 0), (afr, 1), (group_dro, 0)]
)
def test_head_no_longer_uses_the_planted_place(method, seed):
    data, test = _plant(seed)
    head: Any = method.HEAD.make(data)
    assert max(_tell_places(head, test)) < 0.55
    assert head.score(test.embeddings, test.labels) > _core_direction_accuracy(test) - 0.05


def test_roboshot_removes_the_planted_place():
    data, test = _plant(0)
    core, place = plant_directions(dim=DIM)
    common = np.full(DIM, 0.5)
    prototypes = np.stack([common - core - place, common + core + place])
    reject = np.stack([[common - place, common + place], [common - 2 * place, common + place]])
    accept = np.stack([[common - core, common + core]])
    texts = HeadData(prototypes=prototypes, concepts=Concepts(reject=reject, accept=accept))
    head: Any = roboshot.HEAD.make(texts)
    probes = {}
    for name, targets in (("place", data.val.groups % 2), ("core", data.val.labels)):
        probes[name] = ConvexProbe().fit(head.transform(data.val.embeddings), targets)
    mapped = head.transform(test.embeddings)
    native = ConvexProbe().fit(data.val.embeddings, data.val.groups % 2)
    assert native.score(test.embeddings, test.groups % 2) > 0.9
    assert abs(probes["place"].score(mapped, test.groups % 2) - 0.5) < 0.05
    assert probes["core"].score(mapped, test.labels) > _core_direction_accuracy(test) - 0.01
    zero = zero_shot.HEAD.make(texts)
    assert np.mean(zero.predict(test.embeddings) == test.labels) < 0.85
    assert np.mean(head.predict(test.embeddings) == test.labels) > 0.9
