"""Domino's mixture model against plain loops, and its start."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import norm

from fieldmark.core.errors import UsageError
from fieldmark.discovery.domino import (
    DominoConfig,
    Observations,
    find_worst_slice,
    fit_mixture,
    score_regions,
    start_slices,
    update_mixture,
    weigh_slices,
)
from fieldmark.discovery.evidence import gather_evidence
from fieldmark.discovery.rankings import Clustered


def observe(*, seed=0, count=30, width=3, classes=3, hard=False):
    random = np.random.default_rng(seed)
    predictions = random.dirichlet(np.ones(classes), size=count)
    if hard:
        predictions = np.eye(classes)[predictions.argmax(axis=1)]
    return Observations(
        random.normal(size=(count, width)),
        np.eye(classes)[random.integers(classes, size=count)],
        predictions,
    )


def share(count, slices, *, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(slices), size=count)


def gather(regions, *, labels, predictions, classes=2):
    return gather_evidence(
        regions=regions,
        owners=np.arange(len(regions)),
        labels=labels,
        predictions=predictions,
        prototypes=np.eye(len(regions[0]))[:classes],
        classes=tuple("abcdef"[:classes]),
    )


def find(evidence, *, seed=0, config=DominoConfig()):
    none = np.zeros(len(evidence.regions), np.int64)
    return find_worst_slice(evidence, Clustered(labels=none, medoids=none[:1]), seed, config=config)


@pytest.mark.parametrize("weights", [(1, 1), (10, 0.5), (0, 0)])
def test_the_e_step_equals_plain_loops(weights):
    observed, (by_label, by_prediction) = observe(), weights
    mixture = update_mixture(observed, share(30, 4))
    config = DominoConfig(label_weight=by_label, prediction_weight=by_prediction)
    joint = weigh_slices(observed, mixture, config=config)
    assert joint.shape == (30, 4)
    for row, embedding in enumerate(observed.embeddings):
        label = observed.labels[row].argmax()
        for place in range(4):
            expected = math.log(mixture.shares[place])
            for at, value in enumerate(embedding):
                deviation = math.sqrt(mixture.variances[place, at])
                expected += norm.logpdf(value, mixture.means[place, at], deviation)
            expected += by_label * math.log(mixture.labels[place, label])
            mean = sum(
                observed.predictions[row, at] * mixture.predictions[place, at] for at in range(3)
            )
            expected += by_prediction * math.log(mean)
            assert joint[row, place] == pytest.approx(expected, abs=1e-9)


def test_the_m_step_equals_plain_weighted_means():
    observed, shares = observe(), share(30, 4)
    mixture = update_mixture(observed, shares, ridge=0.25)
    assert mixture.shares.sum() == pytest.approx(1)
    for place in range(4):
        weights = shares[:, place]
        assert mixture.shares[place] == pytest.approx(weights.sum() / 30)
        for got, values in (
            (mixture.means, observed.embeddings),
            (mixture.labels, observed.labels),
            (mixture.predictions, observed.predictions),
        ):
            np.testing.assert_allclose(got[place], np.average(values, axis=0, weights=weights))
        spread = (observed.embeddings - mixture.means[place]) ** 2
        np.testing.assert_allclose(
            mixture.variances[place], np.average(spread, axis=0, weights=weights) + 0.25
        )


@given(st.integers(0, 10_000), st.integers(1, 5))
def test_no_round_lowers_the_likelihood_of_hard_predictions(seed, slices):
    observed = observe(seed=seed, count=20, hard=True)
    shares, before = share(20, slices, seed=seed), -np.inf
    for _ in range(6):
        mixture = update_mixture(observed, shares)
        joint = weigh_slices(observed, mixture)
        total = logsumexp(joint, axis=1)
        # The ridge moves variances off their best by so little.
        assert total.mean() >= before - 1e-3
        shares, before = np.exp(joint - total[:, None]), total.mean()


def test_a_slice_without_regions_and_equal_regions_stay_finite():
    shares = np.zeros((30, 3))
    shares[:, 0] = 1
    observed = observe()
    equal = observed._replace(embeddings=np.ones((30, 3)))
    for part in (observed, equal):
        mixture = fit_mixture(part, shares)
        assert all(np.isfinite(values).all() for values in mixture)
        assert (mixture.variances > 0).all()
        assert np.isfinite(weigh_slices(part, mixture)).all()


def test_slices_start_from_cells_of_the_confusion_matrix_in_turns():
    labels, predictions = np.eye(2)[[0, 0, 1, 1]], np.eye(2)[[0, 1, 0, 1]]
    observed = Observations(np.zeros((4, 1)), labels, predictions)
    start = start_slices(observed, 6, seed=0, noise=0)
    # The fifth and sixth slices are the first two cells again, which share their regions.
    expected = np.eye(4)[:, [0, 1, 2, 3, 0, 1]] / np.array([[2], [2], [1], [1]])
    np.testing.assert_allclose(start, expected)
    noisy = start_slices(observed, 6, seed=0)
    assert 0 < np.abs(noisy - expected).max() < 5e-3
    np.testing.assert_allclose(noisy.sum(axis=1), 1)
    assert np.abs(noisy - start_slices(observed, 6, seed=1)).max() > 0


def test_fewer_slices_than_cells_start_from_clusters():
    observed = observe(count=20, classes=3)
    observed = observed._replace(embeddings=np.repeat([[0.0, 0, 0], [9.0, 0, 0]], 10, axis=0))
    start = start_slices(observed, 2, seed=0)
    assert set(start.ravel().tolist()) == {0.0, 1.0}
    assert len(np.unique(start[:10], axis=0)) == len(np.unique(start[10:], axis=0)) == 1
    assert (start[0] != start[10]).any()


def test_the_worst_slice_by_hand():
    # Regions of "b" that look like "a", among regions that look like what they are.
    regions = np.eye(3)[[0] * 10 + [1] * 10 + [0] * 4]
    regions[20:, 2] = [0.4, 0.5, 0.6, 0.8]
    labels = [0] * 10 + [1] * 14
    evidence = gather(regions, labels=labels, predictions=[0] * 10 + [1] * 10 + [0] * 4)
    found = find(evidence, config=DominoConfig(slices=4))
    assert sorted(found.rows.tolist()) == [20, 21, 22, 23]
    assert found.reason.startswith("a slice of 4 regions where a is predicted ")


def test_of_slices_that_are_all_error_the_largest_is_the_worst():
    regions = np.eye(6)[[0, 1] * 6 + [3] * 3 + [4] * 7]
    labels = [0, 1] * 6 + [0] * 3 + [1] * 7
    predictions = [0, 1] * 6 + [1] * 3 + [0] * 7
    evidence = gather(regions, labels=labels, predictions=predictions)
    found = find(evidence, config=DominoConfig(outputs="image", slices=4))
    assert sorted(found.rows.tolist()) == list(range(15, 22))


def test_scores_of_regions_follow_their_own_cosines_or_their_image():
    regions = np.array([[1.0, 0, 0], [0, 0, 1.0]])
    evidence = gather(regions, labels=[0, 1], predictions=[1, 1])
    ratio = math.exp(1 / 0.07)
    np.testing.assert_allclose(
        score_regions(evidence), [[ratio / (ratio + 1), 1 / (ratio + 1)], [0.5, 0.5]]
    )
    assert score_regions(evidence, outputs="image").tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize(
    "change",
    [{"slices": 0}, {"components": 0}, {"rounds": 0}, {"ridge": 0}, {"label_weight": -1}],
)
def test_numbers_out_of_range_are_told(change):
    with pytest.raises(UsageError, match="give numbers in their range"):
        DominoConfig(**change)
