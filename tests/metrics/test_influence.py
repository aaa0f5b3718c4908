from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.metrics.cluster_gaps import label_gaps, mark_presence, tabulate_gaps
from fieldmark.metrics.influence import (
    REFERENCE,
    Selection,
    find_strongest_regions,
    find_tied_labels,
    measure_influence,
    measure_precision,
    rank_clusters,
)


def influence_by_loops(case, *, skip_single=False):
    """Definition 1 word for word, one cluster, label and image at a time."""
    shares = np.full((case["clusters"], case["classes"]), np.nan)
    labels, predictions = case["labels"], case["predictions"]
    for cluster in range(case["clusters"]):
        inside = {i for i, c in zip(case["owners"], case["of"], strict=True) if c == cluster}
        for label in range(case["classes"]):
            mine = [i for i in range(len(labels)) if labels[i] == label]
            with_it = [labels[i] == predictions[i] for i in mine if i in inside]
            without = [labels[i] == predictions[i] for i in mine if i not in inside]
            if not with_it or not without or np.mean(with_it) >= np.mean(without):
                continue
            hits = []
            for image in mine:
                rows = [r for r, i in enumerate(case["owners"]) if i == image]
                if image not in inside or labels[image] == predictions[image]:
                    continue
                if skip_single and len(rows) == 1:
                    continue
                best = max(rows, key=lambda r: (case["scores"][r][predictions[image]], -r))
                hits.append(case["of"][best] == cluster)
            if hits:
                shares[cluster, label] = np.mean(hits)
    return shares


@st.composite
def cases(draw):
    seed = draw(st.integers(0, 10_000))
    random = np.random.default_rng(seed)
    count, regions = int(random.integers(2, 12)), int(random.integers(1, 30))
    return {
        "clusters": 3,
        "classes": 3,
        "labels": random.integers(3, size=count),
        "predictions": random.integers(3, size=count),
        "owners": random.integers(count, size=regions),
        "of": random.integers(-1, 3, size=regions),
        # Few values, so that regions tie.
        "scores": random.integers(3, size=(regions, 3)) / 2,
    }


def measured(case, *, skip_single=False):
    presence = mark_presence(case["owners"], case["of"], count=len(case["labels"]), width=3)
    correct = case["labels"] == case["predictions"]
    gaps = label_gaps(tabulate_gaps(presence, case["labels"], correct=correct, width=3))
    rows = find_strongest_regions(case["scores"], case["owners"], predictions=case["predictions"])
    per_image = np.bincount(case["owners"], minlength=len(case["labels"]))
    return measure_influence(
        presence,
        np.where(rows >= 0, case["of"][rows], -1),
        labels=case["labels"],
        predictions=case["predictions"],
        gaps=gaps,
        skip=per_image == 1 if skip_single else None,
    )


@settings(deadline=None, max_examples=80)
@given(case=cases(), skip=st.booleans())
def test_influence_equals_the_definition_worked_by_loops(case, skip):
    expected = influence_by_loops(case, skip_single=skip)
    result = measured(case, skip_single=skip)
    np.testing.assert_allclose(result.shares, expected)
    best = [np.nan if np.isnan(row).all() else np.nanmax(row) for row in expected]
    np.testing.assert_allclose(result.scores, best)


def test_the_strongest_region_is_the_first_of_those_that_tie_in_any_order_of_rows():
    scores = np.array([[0.1, 0.7], [0.3, 0.7], [0.9, 0.2], [0.3, 0.7]])
    assert find_strongest_regions(scores, [1, 1, 0, 1], predictions=[0, 1]).tolist() == [2, 0]
    assert find_strongest_regions(np.zeros((0, 2)), [], predictions=[0, 1]).tolist() == [-1, -1]


def test_an_image_of_one_region_counts_unless_it_is_left_out():
    case = {
        "clusters": 3,
        "classes": 3,
        "labels": np.array([0, 0]),
        "predictions": np.array([1, 0]),
        "owners": np.array([0, 1]),
        "of": np.array([0, 1]),
        "scores": np.ones((2, 3)),
    }
    assert measured(case).scores[0] == 1
    assert np.isnan(measured(case, skip_single=True).scores[0])
    assert measured(case).misled[0].tolist() == [0, 1, 0]


GAPS = np.array([[0.5, -0.5], [-0.1, -0.2], [0.6, -0.1], [np.nan, np.nan], [0.2, -0.2], [0.0, 0.0]])
TOTALS = np.array([1.0, 0.3, 0.7, np.nan, 1.0, 0.0])
INFLUENCE = np.array([0.25, 0.9, 0.24, np.nan, 0.8, np.nan])


def test_ranking_keeps_the_threshold_itself_and_breaks_ties_by_influence():
    ranking = rank_clusters(TOTALS, INFLUENCE, gaps=GAPS)
    assert ranking.order.tolist() == [4, 0, 1]
    assert ranking.dropped == {
        "no label has images both with and without it": 1,
        "accuracy does not change with it": 1,
        "its influence is below 0.25": 1,
    }


def test_the_filters_of_the_published_code_are_an_option():
    assert rank_clusters(TOTALS, INFLUENCE, gaps=GAPS, selection=REFERENCE).order.tolist() == [4, 0]
    by_gap_alone = Selection(threshold=None)
    assert rank_clusters(TOTALS, INFLUENCE, gaps=GAPS, selection=by_gap_alone).order.tolist() == [
        4,
        0,
        2,
        1,
    ]


def test_nothing_kept_is_an_empty_ranking_that_accounts_for_every_cluster():
    ranking = rank_clusters(TOTALS, np.full(6, 0.1), gaps=GAPS)
    assert ranking.order.tolist() == []
    assert sum(ranking.dropped.values()) == 6
    assert rank_clusters(np.zeros(0), np.zeros(0), gaps=np.zeros((0, 2))).dropped == {}


def test_the_tied_label_is_that_which_gains_most_else_that_which_errors_are_taken_for():
    gaps = np.array([[0.1, 0.4], [-0.1, -0.2], [np.nan, np.nan]])
    assert find_tied_labels(gaps, np.array([[9, 0], [0, 3], [0, 0]])).tolist() == [1, 1, -1]


@pytest.mark.parametrize(
    ("relevant", "expected"),
    [
        ([True] * 12, (1.0, 10, 10, 12)),
        ([True, False] * 3, (0.5, 3, 6, 6)),
        ([False] * 10 + [True], (0.0, 0, 10, 11)),
    ],
)
def test_precision_divides_by_what_was_looked_at(relevant, expected):
    assert tuple(measure_precision(relevant, k=10)) == expected


def test_precision_of_an_empty_cluster_is_undefined():
    assert math.isnan(measure_precision([]).value)
    assert measure_precision([]).size == 0
