"""George's subclasses and Jain et al.'s failure directions."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.stats import multivariate_normal
from sklearn.svm import SVC

from fieldmark.core.errors import MissingExtraError, UsageError
from fieldmark.discovery.distilling_failures import FailureConfig, find_failure_direction
from fieldmark.discovery.evidence import gather_evidence
from fieldmark.discovery.george import GeorgeConfig, find_worst_subclass
from fieldmark.discovery.rankings import Clustered


def gather(regions, *, labels, predictions, owners=None):
    return gather_evidence(
        regions=regions,
        owners=np.arange(len(regions)) if owners is None else owners,
        labels=labels,
        predictions=predictions,
        prototypes=np.eye(len(regions[0]))[:2],
        classes=("cat", "dog"),
    )


def nothing(evidence):
    none = np.zeros(len(evidence.regions), np.int64)
    return Clustered(labels=none, medoids=none[:1])


def find_subclass(evidence, *, seed=0, config=GeorgeConfig()):
    return find_worst_subclass(evidence, nothing(evidence), seed, config=config)


def find_direction(evidence, *, seed=0, config=FailureConfig()):
    return find_failure_direction(evidence, nothing(evidence), seed, config=config)


def scatter(sizes, *, seed=0, spread=0.02):
    """Make groups of regions around the axes, one group for each size."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    axes = np.eye(len(sizes) + 2)[2:]
    return axes[groups] + spread * random.normal(size=(len(groups), axes.shape[1])), groups


def split_dogs(*, sizes=(30, 30, 12, 3)):
    """Make cats of one kind and dogs of three, of which two are taken for cats."""
    regions, groups = scatter(sizes)
    regions[groups == 0, 0] += 1
    regions[groups == 1, 1] += 1
    regions[groups == 2, 0] += 0.5
    regions[groups == 3, 0] += 1
    labels = (groups > 0).astype(int)
    predictions = (groups == 1).astype(int)
    return gather(regions, labels=labels, predictions=predictions), groups


@pytest.mark.parametrize("outputs", ["region", "image"])
def test_the_subclass_with_the_highest_loss_is_found_if_it_is_large_enough(outputs):
    evidence, groups = split_dogs()
    found = find_subclass(evidence, config=GeorgeConfig(outputs=outputs, clusters=3))
    assert sorted(found.rows.tolist()) == np.flatnonzero(groups == 2).tolist()
    assert "12 regions of dog" in found.reason
    assert "(pca)" in found.reason


def test_a_small_subclass_counts_where_asked_for_or_where_none_is_larger():
    evidence, groups = split_dogs()
    small = np.flatnonzero(groups == 3).tolist()
    for least in (1, 1000):
        found = find_subclass(evidence, config=GeorgeConfig(clusters=3, least=least))
        assert sorted(found.rows.tolist()) == small


def test_loss_is_the_cross_entropy_of_the_zero_shot_scores():
    regions = np.eye(3)[[0, 0, 1, 2, 2]] + 0.0
    regions[3:, 0] = 0.5
    evidence = gather(regions, labels=[0, 0, 1, 1, 1], predictions=[0, 0, 1, 0, 0])
    found = find_subclass(evidence, config=GeorgeConfig(clusters=2))
    assert sorted(found.rows.tolist()) == [3, 4]
    cosine = 0.5 / np.sqrt(1.25)
    assert f"mean loss {np.log1p(np.exp(cosine / 0.07)):.2f}" in found.reason


def test_regions_are_ranked_by_their_likelihood_in_the_cluster():
    evidence, groups = split_dogs(sizes=(30, 30, 25, 1))
    config = GeorgeConfig(clusters=1, outputs="image", dimensions=2)
    found = find_subclass(evidence, config=config)
    members = np.flatnonzero(groups > 0)
    assert sorted(found.rows.tolist()) == members.tolist()
    values = evidence.regions[members].astype(float)
    centred = values - values.mean(axis=0)
    reduced = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    density = multivariate_normal(
        reduced.mean(axis=0), np.cov(reduced.T, bias=True) + 1e-6 * np.eye(2)
    ).logpdf(reduced)
    ranked = density[np.searchsorted(members, found.rows)]
    assert (np.diff(ranked) <= 1e-6).all()


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_a_class_with_fewer_regions_than_clusters_has_fewer(count):
    regions = np.eye(4)[[0] * 20 + [2] * count] + 0.01 * np.arange(20 + count)[:, None]
    labels = [0] * 20 + [1] * count
    evidence = gather(regions, labels=labels, predictions=[0] * (20 + count))
    found = find_subclass(evidence, config=GeorgeConfig(least=1))
    assert set(found.rows.tolist()) <= set(range(20, 20 + count))
    assert len(found.rows)


def test_umap_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    evidence, _ = split_dogs()
    with pytest.raises(MissingExtraError, match=r"umap-learn; pip install 'fieldmark\[viz\]'"):
        find_subclass(evidence, config=GeorgeConfig(reduction="umap"))


def test_umap_gets_the_settings_of_george_with_a_fake_umap(monkeypatch):
    seen = []

    class FakeUMAP:
        def __init__(self, **settings):
            seen.append(settings)

        def fit_transform(self, values):
            return values[:, 2:4]

    fake = ModuleType("umap")
    monkeypatch.setattr(fake, "UMAP", FakeUMAP, raising=False)
    monkeypatch.setitem(sys.modules, "umap", fake)
    evidence, _ = split_dogs()
    found = find_subclass(evidence, config=GeorgeConfig(reduction="umap", clusters=3))
    assert "(umap)" in found.reason
    assert len(found.rows)
    assert [settings["n_components"] for settings in seen] == [2, 2]
    assert {(settings["n_neighbors"], settings["min_dist"]) for settings in seen} == {(10, 0.0)}
    assert seen[0]["random_state"] != seen[1]["random_state"]


def lean(*, seed=0, count=60):
    """Make dogs that are the more often wrong the more they point along the last axis, and cats."""
    random = np.random.default_rng(seed)
    regions = np.eye(5)[[0] * count + [1] * count] + 0.1 * random.normal(size=(2 * count, 5))
    along = random.uniform(-1, 1, size=2 * count)
    regions[:, 4] += along
    labels = np.repeat([0, 1], count)
    wrong = (labels == 1) & (along + 0.1 * random.normal(size=2 * count) > 0.2)
    wrong[:2] = True
    return gather(regions, labels=labels, predictions=np.where(wrong, 1 - labels, labels)), wrong


def test_the_failure_direction_of_the_class_that_has_one():
    evidence, wrong = lean()
    found = find_direction(evidence, config=FailureConfig(outputs="image"))
    assert found.reason.startswith("the failure direction of dog (balanced accuracy 0.9")
    assert (found.rows >= 60).all()
    assert wrong[found.rows[:10]].all()
    assert evidence.regions[found.rows[:10], 4].min() > evidence.regions[60:, 4].mean()


@pytest.mark.parametrize("penalty", [0.01, 1.0])
def test_the_order_is_that_of_a_linear_machine_on_the_embeddings(penalty):
    evidence, wrong = lean()
    config = FailureConfig(outputs="image", penalties=(penalty,))
    found = find_direction(evidence, config=config)
    values = evidence.regions[60:].astype(float)
    machine = SVC(kernel="linear", C=penalty, class_weight="balanced").fit(values, ~wrong[60:])
    decisions = machine.decision_function(values)
    expected = np.argsort(decisions, kind="stable")[: (decisions < 0).sum()]
    assert (found.rows - 60).tolist() == expected.tolist()


def test_regions_of_an_image_never_tell_on_each_other():
    # Each image has its own axis: what is learnt on some images says nothing about the others.
    images, each = 12, 4
    regions = np.repeat(np.eye(images + 2)[2:], each, axis=0)
    labels = np.repeat([0, 1], images // 2)
    predictions = np.where(np.arange(images) % 3 == 0, 1 - labels, labels)
    evidence = gather(
        regions,
        labels=labels,
        predictions=predictions,
        owners=np.repeat(np.arange(images), each),
    )
    for seed in range(5):
        found = find_direction(evidence, seed=seed, config=FailureConfig(outputs="image"))
        assert found.rows.tolist() == []
        assert "better than chance (balanced accuracy 0.50)" in found.reason


def test_one_wrong_image_in_a_class_gives_no_direction():
    regions = np.eye(3)[[0, 0, 0, 1, 1, 1]]
    evidence = gather(regions, labels=[0, 0, 0, 1, 1, 1], predictions=[0, 0, 1, 1, 1, 1])
    found = find_direction(evidence, config=FailureConfig(outputs="image"))
    assert found.rows.tolist() == []
    assert found.reason == "no class has right and wrong regions for two folds"


@pytest.mark.parametrize("field", ["dimensions", "clusters", "starts", "least"])
def test_numbers_below_one_are_told(field):
    change: dict[str, Any] = {field: 0}
    with pytest.raises(UsageError, match="give 1 or more"):
        GeorgeConfig(**change)


@pytest.mark.parametrize("penalties", [(), (1.0, 0.0), (-1.0,)])
def test_penalties_must_be_above_zero(penalties):
    with pytest.raises(UsageError, match="give values of C above 0"):
        FailureConfig(penalties=penalties)
