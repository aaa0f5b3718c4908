from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats.contingency import association, crosstab

from fieldmark.core.errors import UsageError
from fieldmark.metrics.association import cramers_v

PAIRS = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), min_size=1, max_size=60)


def _split(pairs):
    first, second = np.array(pairs).T
    return first, second


def test_a_hand_worked_table():
    # 20, 5 / 10, 15: chi2 = 50 (20*15 - 5*10)^2 / (25*25*30*20), V = sqrt(chi2 / 50).
    first = np.repeat([0, 0, 1, 1], [20, 5, 10, 15])
    second = np.repeat([0, 1, 0, 1], [20, 5, 10, 15])
    assert cramers_v(first, second) == pytest.approx(250 / math.sqrt(25 * 25 * 30 * 20))


@given(PAIRS)
def test_it_is_scipys_association(pairs):
    first, second = _split(pairs)
    table = crosstab(first, second).count
    if min(table.shape) < 2:
        assert math.isnan(cramers_v(first, second))
    else:
        assert cramers_v(first, second) == pytest.approx(association(table, method="cramer"))


@given(PAIRS)
def test_it_knows_no_order_of_codes_rows_or_variables(pairs):
    first, second = _split(pairs)
    value = cramers_v(first, second)
    same = [
        cramers_v(second, first),
        cramers_v(7 - 3 * first, second * 100 - 5),
        cramers_v(first[::-1], second[::-1]),
        cramers_v(np.tile(first, 3), np.tile(second, 3)),
    ]
    np.testing.assert_allclose(same, value, atol=1e-12)
    assert math.isnan(value) or 0 <= value <= 1


@given(st.lists(st.integers(0, 5), min_size=2, max_size=50).filter(lambda v: len(set(v)) > 1))
def test_a_variable_says_all_of_itself(values):
    assert cramers_v(values, values) == pytest.approx(1)
    assert math.isnan(cramers_v(values, np.ones(len(values), int)))


def test_independent_variables_have_none():
    assert cramers_v([0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 0, 1]) == 0
    assert math.isnan(cramers_v([], []))


@pytest.mark.parametrize(
    ("first", "second", "problem"),
    [
        ([0, 1], [0, 1, 1], "have 2 and 3 rows"),
        ([0.5, 1], [0, 1], "float64"),
        ([[0, 1]], [0, 1], r"shape \(1, 2\)"),
        (["a", "b"], [0, 1], "type <U1"),
    ],
)
def test_what_is_no_variable_is_said(first, second, problem):
    with pytest.raises(UsageError, match=problem):
        cramers_v(first, second)
