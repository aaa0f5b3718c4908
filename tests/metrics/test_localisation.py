"""Localisation against enumeration, sklearn and scipy; bounds, ties and undefined cases."""

import itertools

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.metrics.localisation import (
    auroc,
    average_precision,
    correlate_ranks,
    energy_in_mask,
    iou_at_area,
    measure_localisation,
    pointing_game,
)

RANKERS = (pointing_game, iou_at_area, average_precision, auroc)


@st.composite
def cases(draw, *, cells=9):
    """A map with ties and a mask that is neither empty nor full."""
    count = draw(st.integers(2, cells))
    values = draw(st.lists(st.integers(-3, 3), min_size=count, max_size=count))
    hits = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    hits[0], hits[1] = True, False
    order = draw(st.permutations(range(count)))
    return np.array(values, float)[None, None], np.array(hits)[None, None, order]


def enumerate_picks(values, hits):
    """Every way to order equal cells: mean IoU of the first k, mean hit of the first."""
    values, hits = values.ravel(), hits.ravel()
    size = int(hits.sum())
    cut = sorted(values)[-size]
    above = np.flatnonzero(values > cut)
    tied = np.flatnonzero(values == cut)
    overlaps = []
    for chosen in itertools.combinations(tied.tolist(), size - len(above)):
        shared = hits[above].sum() + hits[list(chosen)].sum()
        overlaps.append(shared / (2 * size - shared))
    return np.mean(overlaps)


@settings(max_examples=50, deadline=None)
@given(cases())
def test_iou_is_the_mean_over_all_ways_to_break_ties(case):
    assert iou_at_area(*case)[0] == pytest.approx(enumerate_picks(*case))


@settings(max_examples=50, deadline=None)
@given(cases())
def test_precision_and_auroc_agree_with_sklearn(case):
    truth, score = case[1].ravel(), case[0].ravel()
    expected = sklearn.metrics.average_precision_score(truth, score)
    assert average_precision(*case)[0] == pytest.approx(expected)
    assert auroc(*case)[0] == pytest.approx(sklearn.metrics.roc_auc_score(truth, score))


@settings(max_examples=50, deadline=None)
@given(cases())
def test_a_monotone_change_of_the_map_changes_no_ranking_metric(case):
    values, mask = case
    for metric in RANKERS:
        assert metric(np.exp(values) * 3 - 7, mask) == pytest.approx(metric(values, mask))


@settings(max_examples=50, deadline=None)
@given(cases())
def test_all_metrics_are_shares(case):
    found = measure_localisation(*case)
    for row in found:
        assert np.isnan(row).all() or ((row >= 0) & (row <= 1)).all()
    assert not any(np.isnan(row).any() for row in found[1:])


@settings(max_examples=50, deadline=None)
@given(cases(), st.floats(1e-3, 1e3))
def test_energy_is_free_of_scale_and_splits_between_mask_and_rest(case, factor):
    values, mask = case
    inside, outside = energy_in_mask(values, mask), energy_in_mask(values, ~mask)
    assert energy_in_mask(values * factor, mask) == pytest.approx(inside, nan_ok=True)
    if (values > 0).any():
        assert inside + outside == pytest.approx([1])
    else:
        assert np.isnan(inside).all()


def test_a_constant_map_gets_what_chance_gets():
    mask = np.zeros((1, 4, 4))
    mask[:, :2, :2] = 1
    found = measure_localisation(np.ones((1, 4, 4)), mask)
    assert found.energy == found.pointing == found.average_precision == found.area == 0.25
    assert found.auroc == 0.5
    # Four of sixteen drawn: the overlap is hypergeometric.
    shared = np.arange(5)
    chance = scipy.stats.hypergeom.pmf(shared, 16, 4, 4)
    assert found.iou[0] == pytest.approx((chance * shared / (8 - shared)).sum())


def test_energy_takes_shares_of_a_soft_mask_the_others_its_half():
    values, mask = [[[1.0, 3.0]]], [[[0.25, 0.5]]]
    found = measure_localisation(values, mask)
    assert found.energy[0] == pytest.approx((0.25 + 1.5) / 4)
    assert (found.pointing[0], found.area[0]) == (1.0, 0.375)


def test_what_is_undefined_is_nan():
    values = np.array([[[1.0, 2.0]]] * 4)
    values[3, 0, 0] = np.nan
    masks = np.array([[[0, 0]], [[1, 1]], [[1, 0]], [[1, 0]]])
    for metric in (energy_in_mask, *RANKERS):
        assert np.isnan(metric(values, masks)).tolist() == [True, True, False, True]
    assert measure_localisation(values, masks).area.tolist() == [0, 1, 0.5, 0.5]


def test_huge_values_do_not_overflow():
    assert energy_in_mask([[[1e308, 1e308]]], [[[1, 0]]]).tolist() == [0.5]


@pytest.mark.parametrize("metric", [energy_in_mask, *RANKERS, measure_localisation])
def test_bad_input_is_refused(metric):
    with pytest.raises(ValueError, match=r"must both be \(n,h,w\)"):
        metric(np.zeros((1, 2, 2)), np.zeros((1, 4, 4)))
    with pytest.raises(ValueError, match=r"not in \[0, 1\]"):
        metric(np.zeros((1, 1, 2)), [[[0, 255]]])
    with pytest.raises(ValueError, match=r"not in \[0, 1\]"):
        metric(np.zeros((1, 1, 2)), [[[0, np.nan]]])


def test_no_images_give_no_figures():
    none = np.zeros((0, 2, 2))
    assert [len(row) for row in measure_localisation(none, none)] == [0] * 6
    assert len(correlate_ranks(none, none)) == 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=12))
def test_rank_correlation_agrees_with_scipy(pairs):
    left, right = np.array(pairs, float).T[:, None, None]
    found = correlate_ranks(left, right)[0]
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(scipy.stats.spearmanr(left.ravel(), right.ravel())[0])


def test_rank_correlation_refuses_other_shapes():
    with pytest.raises(ValueError, match="must both"):
        correlate_ranks(np.zeros((1, 2, 2)), np.zeros((1, 1, 4)))
