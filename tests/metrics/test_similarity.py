"""Cosines and z-scores of class pairs against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.metrics.similarity import (
    Spread,
    measure_spread,
    pair_cosines,
    standardise_pairs,
)


@given(seed=st.integers(0, 1000), classes=st.integers(3, 9), scale=st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_cosines_are_those_of_each_pair_and_heed_no_scale(seed, classes, scale):
    rows = np.random.default_rng(seed).normal(size=(classes, 5))
    cosines = pair_cosines(rows)
    for a in range(classes):
        for b in range(classes):
            expected = rows[a] @ rows[b] / np.linalg.norm(rows[a]) / np.linalg.norm(rows[b])
            assert cosines[a, b] == pytest.approx(expected)
    np.testing.assert_allclose(cosines, pair_cosines(rows * scale), atol=1e-12)
    z = standardise_pairs(cosines)[np.triu_indices(classes, 1)]
    assert z.mean() == pytest.approx(0, abs=1e-9)
    assert z.std() == pytest.approx(1)


def test_a_row_of_nan_takes_part_in_nothing():
    rows = np.random.default_rng(0).normal(size=(5, 4))
    gap = rows.copy()
    gap[2] = np.nan
    kept = [0, 1, 3, 4]
    assert measure_spread(pair_cosines(gap)).pairs == 6
    z = standardise_pairs(pair_cosines(gap))
    assert np.isnan(z[2]).all()
    assert np.isnan(z[:, 2]).all()
    alone = standardise_pairs(pair_cosines(rows[kept]))
    np.testing.assert_allclose(z[np.ix_(kept, kept)], alone)


@pytest.mark.parametrize("rows", [np.zeros((3, 2)), np.ones((4, 2)), np.eye(3), np.ones((1, 2))])
def test_pairs_that_do_not_differ_have_no_z(rows):
    assert np.isnan(standardise_pairs(pair_cosines(rows))).all()


def test_a_given_spread_is_used():
    cosines = pair_cosines(np.eye(2))
    assert standardise_pairs(cosines, spread=Spread(0.5, 0.25, 10))[0, 1] == -2
