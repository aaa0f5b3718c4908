from __future__ import annotations

import re

import pytest

from fieldmark.report.audit_parts import read_audit
from fieldmark.report.audit_words import write_summary, write_title, write_verdict
from tests.report.audit_sample import build_bare_audit, fig, make_values, write_values

NUMBER = re.compile(r"\d")
INTERVAL = re.compile(r"\[\N{MINUS SIGN}?\d+\.\d+, \N{MINUS SIGN}?\d+\.\d+\]")
COUNT = re.compile(r"\d+ (images|objects|errors|composites|checks)")


def make_parts(folder, *, encoders=1, change=None):
    values = make_values(encoders=encoders, images=0)
    if change is not None:
        change(values)
    return read_audit(write_values(folder, values))


def judge(*states, verdict):
    """Keep as many findings as there are states, and give them these."""

    def change(values):
        values["findings"] = values["findings"][: len(states)]
        for one, state in zip(values["findings"], states, strict=True):
            one["state"] = state
        values["verdict"] = [{"encoder": 0, "state": verdict}]

    return change


@pytest.mark.parametrize("encoders", [1, 2])
def test_every_sentence_carries_a_number_an_interval_and_a_count(tmp_path, encoders):
    sentences = write_summary(make_parts(tmp_path, encoders=encoders))
    assert len(sentences) == {1: 9, 2: 20}[encoders]
    for sentence in sentences:
        assert NUMBER.search(sentence), sentence
        assert COUNT.search(sentence), sentence
        counts_only = "checks were made" in sentence or "Of the findings" in sentence
        assert counts_only or INTERVAL.search(sentence), sentence


def test_the_summary_tells_the_figures_of_the_record(tmp_path):
    text = " ".join(write_summary(make_parts(tmp_path)))
    assert "69.0 % [64.0, 74.0] of 240 images are named right; the worst group, bird on" in text
    assert "48.0 % [36.0, 60.0] of 60 images" in text
    assert "the same 60 objects are named right in 90.0 % [85.0, 95.0] of cases on a" in text
    assert "and in 59.0 % [50.0, 68.0] on one of another class, 31.0 points fewer [21" in text
    assert "Of 74 errors the background drove 58.0 % [47.0, 69.0], where chance alone" in text
    assert (
        "would say 31.0 %: more than chance, by 39.0 % [24.0, 54.0] of what chance leaves" in text
    )
    assert (
        "falls most with objects on another background, by 29.0 points [19.0, 39.0] below the or"
        in text
    )
    assert "changes the answer in 36.0 % [27.0, 45.0] of cases (60 objects)" in text


@pytest.mark.parametrize(
    ("states", "verdict", "title", "told"),
    [
        (["found", "undecided"], "relies", "This model leans on the background", "1 of 2 checks"),
        (["not_found", "found"], "relies", "This model does worse on unusual backgrounds",
         "The largest: images on unusual backgrounds, zero-shot, accuracy is 20.0 points lower"),
        (["not_found", "not_found", "found"], "relies",
         "This model goes wrong with certain regions", "1 of 3 checks found an effect beyond"),
        (["not_found", "not_found"], "no_sign",
         "No sign that this model leans on what it should not, in what was tested",
         "2 of 2 checks show that the effect lies below 5 points, by the whole interval"),
        (["undecided", "not_found"], "undecided",
         "It cannot be told with these 240 images whether this model leans on what it should not",
         "cannot be told with these 240 images: 1 of 2 checks are undecided and 0 found an effect"),
    ],
)  # fmt: skip
def test_title_and_verdict_follow_the_states(tmp_path, states, verdict, title, told):
    parts = make_parts(tmp_path, change=judge(*states, verdict=verdict))
    assert write_title(parts) == title
    assert told in write_verdict(parts, 0)


def test_no_threshold_of_its_own_a_large_effect_that_is_undecided_stays_undecided(tmp_path):
    def change(values):
        judge("undecided", verdict="undecided")(values)
        values["findings"][0]["figure"] = fig(0.9, 0.05)
        values["findings"][0]["adjusted_p_value"] = 0.0001

    parts = make_parts(tmp_path, change=change)
    text = " ".join([write_title(parts), write_verdict(parts, 0), *write_summary(parts)])
    assert "more than chance explains" not in text
    assert "leans on the background" not in text
    assert "; cannot be told with these 60 objects." in text


def test_a_gap_the_other_way_is_more_and_its_interval_is_turned(tmp_path):
    def change(values):
        values["swaps"]["results"][0]["gap"] = {"value": -0.02, "low": -0.06, "high": 0.01,
                                                "count": 1}  # fmt: skip

    text = " ".join(write_summary(make_parts(tmp_path, change=change)))
    assert "the same 1 object are named right" in text
    assert "2.0 points more [\N{MINUS SIGN}1.0, 6.0]" in text


def test_what_is_undefined_is_said_to_be_so_and_never_0(tmp_path):
    def change(values):
        values["swaps"]["results"] = values["swaps"]["results"][:1]
        values["swaps"]["results"][0] |= {"gap": fig(None, count=3), "flip_rate": fig(None)}
        values["sources"][0]["shares"][0]["null"] = fig(None)
        values["sources"][0]["shares"][0]["corrected"] = fig(None)
        values["swaps"]["drops"][0]["changes"] = []
        values["findings"][0]["figure"] = fig(None, count=0)

    sentences = write_summary(make_parts(tmp_path, change=change))
    text = " ".join(sentences)
    assert "what a background of another class costs is undefined (3 objects)" in text
    assert "what chance alone would say was not measured" in text
    assert "changes the answer" not in text
    assert "nan" not in text.lower()
    assert "controlled changes" not in text


@pytest.mark.parametrize(
    ("value", "told"),
    [(-0.6, "31.0 %: less than by chance"), (0.05, "31.0 %: not told from chance.")],
)
def test_a_share_is_read_against_chance(tmp_path, value, told):
    def change(values):
        values["sources"][0]["shares"][0]["corrected"] = fig(value, 0.2)

    assert told in " ".join(write_summary(make_parts(tmp_path, change=change)))


def test_the_gap_of_a_region_is_a_sum_over_classes_and_no_share(tmp_path):
    def change(values):
        values["findings"][2]["figure"] = {"value": 1.267, "low": 0.2, "high": 1.75, "count": 6}

    text = " ".join(write_summary(make_parts(tmp_path, change=change)))
    assert "accuracy differs by 1.27 [0.20, 1.75], summed over classes (6 images)" in text


def test_two_encoders_are_told_apart(tmp_path):
    parts = make_parts(tmp_path, encoders=2)
    assert write_title(parts) == (
        "Before: leans on the background. After: cannot be told with these 240 images"
    )
    assert write_verdict(parts, 0).startswith("Before: The model leans on the background: 2 of 4")
    assert write_verdict(parts, 1).startswith("After: Whether the model leans on what it should")
    text = " ".join(write_summary(parts))
    assert (
        "From before to after, zero-shot: the cost of a background of another class falls" in text
    )
    assert "by 29.0 points [19.0, 39.0] (60 objects)" in text
    assert "Of the findings 1 vanished, 0 stayed, 0 are new and 2 cannot be told" in text


def test_without_any_check_nothing_is_claimed(tmp_path):
    parts = read_audit(build_bare_audit(tmp_path))
    assert write_title(parts).startswith("It cannot be told with these 20 images")
    assert "none of the checks could be made, 0 in all" in write_verdict(parts, 0)
    (only,) = write_summary(parts)
    assert "70.0 % [50.0, 90.0] of 20 images are named right." in only
