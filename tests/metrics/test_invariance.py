"""BSI, additivity and residual variance against hand-worked numbers and plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.metrics.invariance import (
    measure_residual_variance,
    measure_sensitivity,
    score_additivity,
    summarise_additivity,
)


def _unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _composites(*, shift, dim=384, count=60):
    """Two classes on two backgrounds; the background moves a unit vector by about `shift`."""
    random = np.random.default_rng(0)
    label, attribute = np.repeat([0, 0, 1, 1], count), np.repeat([0, 1, 0, 1], count)
    base = random.normal(size=(2, dim))[label]
    ground = shift * random.normal(size=(2, dim))[attribute]
    return _unit(base + ground + random.normal(size=(len(label), dim))), label, attribute


def test_bsi_by_hand():
    # Class 0: centroids (0,2) and (4,2), variance 2 in the second dimension of each set.
    embeddings = np.array([[0, 1], [0, 3], [4, 1], [4, 3]], float)
    result = measure_sensitivity(embeddings, [0] * 4, [0, 0, 1, 1])
    assert result.total == pytest.approx(4 / math.sqrt(2 + 2))
    assert result.per_dimension == pytest.approx(4 / math.sqrt(1 + 1))
    assert (result.defined, result.count) == (1, 4)


def test_both_readings_of_unit_vectors():
    """facts/peers_and_layouts.md 3.9: about 30 by mean variance, about 1 by total variance."""
    result = measure_sensitivity(*_composites(shift=1.2))
    assert 10 < result.per_dimension < 60
    assert 0.5 < result.total < 3
    assert result.per_dimension == pytest.approx(result.total * math.sqrt(384))


def test_bsi_against_a_plain_loop():
    embeddings, labels, attributes = _composites(shift=0.7)
    values = []
    for label in (0, 1):
        a = embeddings[(labels == label) & (attributes == 0)]
        b = embeddings[(labels == label) & (attributes == 1)]
        spread = np.trace(np.cov(a.T)) + np.trace(np.cov(b.T))
        values.append(np.sqrt(((a.mean(0) - b.mean(0)) ** 2).sum() / spread))
    result = measure_sensitivity(embeddings, labels, attributes)
    assert result.total == pytest.approx(np.mean(values), rel=1e-10)
    assert [cell.total for cell in result.by_class] == pytest.approx(values, rel=1e-10)


def test_bsi_falls_with_the_background():
    values = [measure_sensitivity(*_composites(shift=s)).total for s in (2.0, 1.0, 0.3)]
    assert values == sorted(values, reverse=True)


def test_bsi_with_an_empty_cell():
    embeddings, labels, attributes = _composites(shift=1.0)
    kept = ~((labels == 1) & (attributes == 1))
    result = measure_sensitivity(embeddings[kept], labels[kept], attributes[kept])
    whole = measure_sensitivity(embeddings, labels, attributes)
    assert result.total == pytest.approx(whole.by_class[0].total)
    assert (result.defined, result.count) == (1, 120)
    assert math.isnan(result.by_class[1].total)
    assert result.by_class[1].counts == (60, 0)


@pytest.mark.parametrize("attributes", [[0, 0, 0], [0, 1, 1]])
def test_bsi_undefined_is_nan_with_its_count(attributes):
    result = measure_sensitivity(np.eye(3), [0, 0, 0], attributes)
    assert math.isnan(result.total)
    assert math.isnan(result.per_dimension)
    assert (result.defined, result.count) == (0, 0)


def test_bsi_without_spread_is_nan():
    result = measure_sensitivity([[0, 1], [0, 1], [1, 0], [1, 0]], [0] * 4, [0, 0, 1, 1])
    assert math.isnan(result.total)


def test_bsi_of_three_backgrounds_averages_pairs():
    embeddings = np.array([[0, 1], [0, 3], [4, 1], [4, 3], [8, 1], [8, 3]], float)
    result = measure_sensitivity(embeddings, [0] * 6, [0, 0, 1, 1, 2, 2])
    assert result.total == pytest.approx((2 + 4 + 2) / 3)
    assert result.defined == 3


def test_sensitivity_refuses_other_lengths():
    with pytest.raises(ValueError, match="differ in n"):
        measure_sensitivity(np.eye(3), [0, 0], [0, 0, 0])


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.1, 9))
def test_bsi_ignores_rotation_shift_and_scale(seed, scale):
    random = np.random.default_rng(seed)
    embeddings = random.normal(size=(24, 5))
    labels, attributes = np.repeat([0, 1], 12), np.tile([0, 1], 12)
    turn, _ = np.linalg.qr(random.normal(size=(5, 5)))
    moved = scale * embeddings @ turn + random.normal(size=5)
    before = measure_sensitivity(embeddings, labels, attributes)
    after = measure_sensitivity(moved, labels, attributes)
    assert after.total == pytest.approx(before.total, rel=1e-8)


def test_additivity_by_hand():
    first, second = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    assert score_additivity([[1.0, 1.0]], first, second)[0] == pytest.approx(1)
    assert score_additivity([[1.0, 0.0]], first, second)[0] == pytest.approx(math.sqrt(0.5))
    assert score_additivity([[-1.0, -1.0]], first, second)[0] == pytest.approx(-1)
    # Parts count alike whatever their length: Equation 1 is on unit vectors.
    assert score_additivity([[1.0, 1.0]], 5 * first, second)[0] == pytest.approx(1)


def test_additivity_summary_and_parts_that_cancel():
    whole = np.array([[1.0, 0], [1, 1], [1, 0]])
    first = np.array([[1.0, 0], [1, 0], [1, 0]])
    second = np.array([[0.0, 1], [0, 1], [-1, 0]])
    summary = summarise_additivity(whole, first, second)
    scores = [math.sqrt(0.5), 1.0]
    assert summary.count == 2
    assert summary.mean == pytest.approx(np.mean(scores))
    assert summary.deviation == pytest.approx(np.std(scores, ddof=1))
    assert summary.parts == pytest.approx((0 + 0 - 1) / 3)


def test_additivity_of_nothing_is_nan():
    empty = np.zeros((0, 4))
    summary = summarise_additivity(empty, empty, empty)
    assert math.isnan(summary.mean)
    assert summary.count == 0


def test_additivity_refuses_other_shapes():
    with pytest.raises(ValueError, match="must both be"):
        score_additivity(np.eye(2), np.eye(3), np.eye(3))


def test_residual_variance_falls_as_one_over_k():
    """Equation 6: Var = trace of the covariance / K; here the trace is 1."""
    random = np.random.default_rng(0)
    mean = random.normal(size=32)
    samples = mean + random.normal(size=(4000, 20, 32)) / math.sqrt(32)
    result = measure_residual_variance(samples, mean, sizes=[1, 2, 5, 10, 20, 40])
    assert result.values[:5] == pytest.approx([1, 1 / 2, 1 / 5, 1 / 10, 1 / 20], rel=0.03)
    assert math.isnan(result.values[5])
    assert result.count == 4000


def test_residual_variance_against_a_plain_loop():
    random = np.random.default_rng(1)
    samples, mean = random.normal(size=(6, 4, 3)), random.normal(size=3)
    by_hand = np.mean([np.sum((s[:3].mean(0) - mean) ** 2) for s in samples])
    values = measure_residual_variance(samples, mean, sizes=[3]).values
    assert values == pytest.approx((by_hand,))


def test_residual_variance_refuses_bad_input():
    with pytest.raises(ValueError, match="at least 1"):
        measure_residual_variance(np.zeros((1, 2, 3)), np.zeros(3), sizes=[0])
    with pytest.raises(ValueError, match=r"\(R,K,D\)"):
        measure_residual_variance(np.zeros((2, 3)), np.zeros(3), sizes=[1])
