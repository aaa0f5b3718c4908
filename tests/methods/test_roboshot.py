"""RoboShot: the map against the published steps, the cut of rank, and bad input."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.core.errors import UsageError
from fieldmark.methods.head import Concepts, HeadData
from fieldmark.methods.roboshot import HEAD, RoboShotClassifier, build_projection, find_basis


def _unit(values):
    return values / np.linalg.norm(values, axis=-1, keepdims=True)


def _step_by_step(X, reject, accept):
    """The published order: QR, then one direction after another, renormalised each time."""
    X = _unit(X)
    for pairs, sign in ((reject, -1), (accept, 1)):
        basis = np.linalg.qr((pairs[:, 0] - pairs[:, 1]).T)[0]
        for direction in basis.T:
            X = _unit(X + sign * np.outer(X @ direction, direction))
    return X


@given(seed=st.integers(0, 10**6), n_reject=st.integers(1, 4), n_accept=st.integers(1, 3))
def test_one_map_is_the_step_by_step_procedure(seed, n_reject, n_accept):
    random = np.random.default_rng(seed)
    reject = _unit(random.normal(size=(n_reject, 2, 12)))
    accept = _unit(random.normal(size=(n_accept, 2, 12)))
    X = random.normal(size=(20, 12))
    head = RoboShotClassifier(np.eye(12), projection=build_projection(reject, accept))
    assert head.transform(X) == pytest.approx(_step_by_step(X, reject, accept), abs=1e-9)


def test_repeated_pairs_change_nothing():
    random = np.random.default_rng(0)
    reject, accept = random.normal(size=(2, 2, 8)), random.normal(size=(1, 2, 8))
    more = np.concatenate([reject, reject[:, ::-1], 3 * reject[:1]])
    once = build_projection(reject, accept)
    assert build_projection(more, accept) == pytest.approx(once, abs=1e-12)
    assert find_basis(more).shape == (8, 2)


def test_more_pairs_than_dimensions_leave_nothing():
    reject = np.random.default_rng(0).normal(size=(9, 2, 4))
    projection = build_projection(reject, np.zeros((0, 2, 4)))
    assert projection == pytest.approx(np.zeros((4, 4)), abs=1e-12)
    head = RoboShotClassifier(np.eye(4), projection=np.zeros((4, 4)))
    assert (head.transform(np.eye(4)) == 0).all()


def test_rank_tolerance_decides_what_counts_as_one_direction():
    near = np.array([[[1.0, 0, 0], [0, 0, 0]], [[1.0, 1e-3, 0], [0, 0, 0]]])
    assert find_basis(near, rank_tolerance=1e-2).shape == (3, 1)
    assert find_basis(near, rank_tolerance=1e-5).shape == (3, 2)


def test_without_pairs_it_is_zero_shot():
    none = np.zeros((0, 2, 3))
    assert (build_projection(none, none) == np.eye(3)).all()


def test_head_reads_texts_alone():
    reject, none = np.array([[[0, 1], [0, -1]]], np.float32), np.zeros((0, 2, 2), np.float32)
    prototypes = np.array([[1, 0.5], [-1, 0]], np.float32)
    concepts = Concepts(reject=reject, accept=none)
    head = HEAD.make(HeadData(prototypes=prototypes, concepts=concepts))
    assert head.predict([[0.1, -3.0], [-0.1, 5.0]]).tolist() == [0, 1]
    assert head.describe() == {"head": "roboshot", "classes": 2}
    assert HEAD.needs == {"prototypes", "concepts"}


def test_bad_input_is_refused():
    same = np.ones((2, 2, 3))
    with pytest.raises(UsageError, match="have one embedding"):
        find_basis(same)
    with pytest.raises(UsageError, match="no \\(pairs, 2, dimensions\\)"):
        find_basis(np.ones((2, 3)))
    with pytest.raises(UsageError, match="not finite"):
        find_basis(np.full((1, 2, 3), np.nan))
    with pytest.raises(UsageError, match="width 3, those to accept 4"):
        build_projection(np.zeros((0, 2, 3)), np.zeros((0, 2, 4)))
    with pytest.raises(UsageError, match="does not fit prototypes of width 3"):
        RoboShotClassifier(np.eye(3), projection=np.eye(4))
    with pytest.raises(UsageError, match="do not fit a projection"):
        RoboShotClassifier(np.eye(3), projection=np.eye(3)).predict(np.ones((2, 4)))
