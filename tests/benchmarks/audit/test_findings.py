"""What is found, what is not, and what cannot be told: by hand-worked figures."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.benchmarks.audit.findings import (
    compare_findings,
    correct_holm,
    count_needed,
    judge,
    judge_findings,
    make_finding,
    reach_verdict,
)


def figure(value, low, high, count=100):
    return {"value": value, "low": low, "high": high, "count": count}


def finding(kind, encoder, p_value, *, value=0.2, high=0.4):
    return make_finding(
        kind, encoder=encoder, head="zero-shot", figure=figure(value, 0.1, high), p_value=p_value
    )


def test_holm_by_hand():
    # Sorted 0.01, 0.02, 0.03: times 3, 2, 1, and never falling.
    assert correct_holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert correct_holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_makes_a_p_value_smaller_and_keeps_their_order(p_values):
    adjusted = correct_holm(p_values)
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    assert [adjusted[i] for i in order] == sorted(adjusted)


@pytest.mark.parametrize(
    ("value", "low", "high", "p_value", "state"),
    [
        (0.2, 0.1, 0.3, 0.01, "found"),
        (0.2, 0.1, 0.3, 0.06, "undecided"),
        (-0.2, -0.3, -0.1, 0.01, "not_found"),  # it does better there: that is no reliance
        (0.01, -0.01, 0.049, 0.3, "not_found"),
        (0.01, -0.01, 0.05, 0.3, "undecided"),
        (math.nan, math.nan, math.nan, math.nan, "undecided"),
        (0.2, 0.1, 0.3, math.nan, "undecided"),
    ],
)
def test_a_state_follows_from_p_value_and_interval(value, low, high, p_value, state):
    assert judge(figure(value, low, high), p_value=p_value, level=0.05, margin=0.05) == state


def test_each_encoder_is_corrected_by_itself():
    own = [finding("background_gap", 0, 0.02), finding("group_gap", 0, 0.04)]
    other = [finding("background_gap", 1, 0.04)]
    judged = judge_findings([*own, *other], level=0.05, margin=0.05)
    assert [one["adjusted_p_value"] for one in judged] == pytest.approx([0.04, 0.04, 0.04])
    assert {one["state"] for one in judged} == {"found"}


def test_a_verdict_is_reached_only_where_all_are_told():
    states = {"found": "relies", "not_found": "no_sign", "undecided": "undecided"}
    gap = {"kind": "group_gap", "encoder": 0}
    for state, verdict in states.items():
        assert reach_verdict([{**gap, "state": state}], encoder=0) == verdict
    mixed = [{**gap, "state": "not_found"}, {**gap, "state": "undecided"}]
    assert reach_verdict(mixed, encoder=0) == "undecided"
    assert reach_verdict(mixed, encoder=1) == "undecided"


def test_what_became_of_each_finding():
    before = {"a": "found", "b": "found", "c": "found", "d": "not_found", "e": "found"}
    after = {"a": "not_found", "b": "found", "c": "undecided", "d": "found"}
    found = compare_findings(
        [{"id": name, "encoder": 0, "state": state} for name, state in before.items()]
        + [{"id": name, "encoder": 1, "state": state} for name, state in after.items()]
    )
    assert found == {
        "vanished": ["a"],
        "stayed": ["b"],
        "new": ["d"],
        "undecided": ["c", "e"],
    }


def test_four_times_the_objects_halve_an_interval():
    assert count_needed(figure(0.0, -0.2, 0.2), margin=0.1) == 4
    assert count_needed(figure(math.nan, math.nan, math.nan), margin=0.1) is None


def test_no_cluster_found_speaks_neither_for_nor_against():
    gap = {"kind": "group_gap", "encoder": 0, "state": "not_found"}
    region = {"kind": "region", "encoder": 0, "state": "undecided"}
    assert reach_verdict([gap, region], encoder=0) == "no_sign"
    assert reach_verdict([region], encoder=0) == "undecided"
    assert reach_verdict([gap, {**region, "state": "found"}], encoder=0) == "relies"
