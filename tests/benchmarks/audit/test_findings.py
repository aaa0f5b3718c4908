"""What is found, what is not, and what cannot be told: by hand-worked figures."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.benchmarks.audit.findings import (
    beats_chance,
    compare_findings,
    correct_holm,
    count_needed,
    judge,
    judge_findings,
    make_finding,
    reach_verdict,
)
from fieldmark.benchmarks.audit.material import LeftOut
from fieldmark.benchmarks.audit.record import Results
from fieldmark.benchmarks.audit.regions import choose_lead


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
        (0.02, 0.01, 0.03, 0.001, "not_found"),  # beyond chance, but of no account
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


def test_a_cluster_is_found_or_not_told_whatever_its_gap():
    states = [
        judge_findings([finding("region", 0, p, value=v, high=0.04)], level=0.05, margin=0.05)
        for p, v in ((0.01, 0.02), (0.2, 0.02), (0.01, -0.02))
    ]
    assert [one["state"] for [one] in states] == ["found", "undecided", "undecided"]


def test_who_names_classes_by_chance_is_not_cleared():
    sure = {"figure": figure(0.0, -0.01, 0.01), "p_value": 0.6, "kind": "group_gap", "encoder": 0}
    for sees, state in ((True, "not_found"), (False, "undecided")):
        [one] = judge_findings([{**sure, "sees": sees}], level=0.05, margin=0.05)
        assert one["state"] == state


def test_chance_is_the_mean_over_classes():
    # By hand: (0.9 + 0.3) / 2 is 0.6, and its reach the root of 0.1^2 + 0.1^2, halved: 0.07.
    classes = [{"value": value, "low": value - 0.1, "count": 50} for value in (0.9, 0.3)]
    assert beats_chance(classes)
    assert not beats_chance([classes[0], {**classes[1], "value": 0.15, "low": 0.05}])
    assert not beats_chance([{"value": math.nan, "low": math.nan, "count": 0}] * 2)
    assert not beats_chance([{"value": 1.0, "low": 0.9, "count": 9}])  # one class: all are right


def test_what_both_encoders_lack_is_told_once():
    found, left = Results(), LeftOut(part="probe", reason="few", mend="add images")
    found.leave_out([left])
    found.leave_out([left, LeftOut(part="swaps", reason="no masks", mend="give masks")])
    assert [one.part for one in found.left_out] == ["probe", "swaps"]


def test_a_cluster_on_the_object_or_nowhere_known_leads_to_nothing():
    places = ("object", "unknown", "mixed", "background")
    findings = [
        {"place": place, "adjusted_p_value": p}
        for p, place in zip((0.01, 0.02, 0.2, 0.1), places, strict=True)
    ]
    assert choose_lead(findings[:2]) is None
    assert choose_lead(findings) == findings[3]


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
    before["f"] = "found"
    after = {"a": "not_found", "b": "found", "c": "undecided", "d": "found", "f": "undecided"}
    found = compare_findings(
        [{"id": name, "encoder": 0, "state": state} for name, state in before.items()]
        + [{"id": name, "encoder": 1, "state": state} for name, state in after.items()],
        smaller=["a", "b", "f"],
    )
    assert found == {
        "vanished": ["a"],
        "shrank": ["f"],
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
