from __future__ import annotations

import re

import pytest

from fieldmark.report.audit_parts import read_audit
from fieldmark.report.audit_sections import list_sections
from fieldmark.report.audit_words import (
    tell_finding,
    write_lead,
    write_summary,
    write_title,
    write_verdict,
)
from tests.report.audit_sample import build_bare_audit, fig, make_values, write_values

ONE = r"(\N{MINUS SIGN}?\d+\.\d+)"
TRIPLE = re.compile(rf"{ONE}(?: %| points)?(?: fewer| more| lower| higher)? \[{ONE}, {ONE}\]")
NUMBER = re.compile(r"\d")
INTERVAL = re.compile(r"\[\N{MINUS SIGN}?\d+\.\d+, \N{MINUS SIGN}?\d+\.\d+\]")
COUNT = re.compile(r"\d+ (images|objects|errors|composites|part)")


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
    assert len(sentences) == {1: 9, 2: 21}[encoders]
    for sentence in sentences:
        assert NUMBER.search(sentence), sentence
        assert COUNT.search(sentence), sentence
        counts_only = sentence.startswith(("Left out", "Findings from"))
        assert counts_only or INTERVAL.search(sentence), sentence


def test_the_summary_tells_the_figures_of_the_record(tmp_path):
    text = " ".join(write_summary(make_parts(tmp_path)))
    assert "69.0 % [64.0, 74.0] of 240 images are named right; the worst group, bird on" in text
    assert "48.0 % [36.0, 60.0] of 60 images" in text
    assert "the same 60 objects are named right in 90.0 % [85.0, 95.0] of cases on a" in text
    assert "and in 59.0 % [50.0, 68.0] on one of another class, 31.0 points fewer [21" in text
    assert "Of 74 errors (zero-shot) the background drove 58.0 % [47.0, 69.0], where chan" in text
    assert (
        "ce alone would say 31.0 %: more than chance, by 39.0 % [24.0, 54.0] of what chance leaves"
        in text
    )
    assert (
        "falls most with objects on another background, by 29.0 points [19.0, 39.0] below the or"
        in text
    )
    assert "changes the answer in 36.0 % [27.0, 45.0] of cases (60 objects)" in text


@pytest.mark.parametrize(
    ("states", "verdict", "title", "told"),
    [
        (["found", "undecided"], "relies", "This model leans on the background",
         "of 2 checks 1 found an effect beyond chance (at most 5 in 100 models that lean on no"),
        (["not_found", "found"], "relies", "This model does worse on unusual backgrounds",
         "The largest: images on unusual backgrounds, zero-shot (by the names of the classes alone)"
         ", accuracy is 20.0 points lower"),
        (["not_found", "not_found", "found"], "relies",
         "This model goes wrong with certain regions", "of 3 checks 1 found an effect beyond"),
        (["not_found", "not_found"], "no_sign",
         "No sign that this model leans on what it should not, in what was tested",
         "of 2 checks 0 found an effect beyond chance, 2 found that less than 5 points are lost"),
        (["undecided", "not_found"], "undecided",
         "It cannot be told with these 240 images whether this model leans on what it should not",
         "cannot be told with these 240 images: of 2 checks 0 found an effect beyond chance, 1 "
         "found that less than 5 points are lost and 1 cannot tell. This is neither"),
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
    assert "under 5 controlled changes" not in text


@pytest.mark.parametrize(
    ("value", "told"),
    [(-0.6, "31.0 %: less than chance."), (0.05, "31.0 %: not told from chance.")],
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
    assert write_verdict(parts, 0).startswith(
        "Before: The model leans on the background: of 4 checks 2"
    )
    assert write_verdict(parts, 1).startswith("After: Whether the model leans on what it should")
    text = " ".join(write_summary(parts))
    assert (
        "From before to after, zero-shot: the cost of a background of another class falls" in text
    )
    assert "by 29.0 points [19.0, 39.0] (60 objects)" in text
    assert (
        "Findings from before to after: 1 vanished, 0 shrank (what is left cannot be told), "
        "0 stayed, 0 new, 2 cannot be told (240" in text
    )


def test_an_encoder_that_names_fewer_images_right_is_said_to(tmp_path):
    def worsen(values):
        values["accuracy_changes"][0] |= {"average": fig(-0.19, 0.05, count=240)}
        values["accuracy_changes"][0]["classes"][1] |= {"figure": fig(-0.4, 0.1, count=120)}

    def worsen_one_class(values):
        values["accuracy_changes"][1]["classes"][0] |= {"figure": fig(-0.4, 0.1, count=120)}

    def doubt(values):
        worsen(values)
        values["accuracy_changes"][0] |= {"p_value": 0.06}
        values["accuracy_changes"][0]["classes"][1] |= {"adjusted_p_value": 0.06}

    better = make_parts(tmp_path / "a", encoders=2)
    assert "fewer" not in write_title(better) + write_verdict(better, 1)
    assert (
        "From before to after, zero-shot: accuracy rises by 10.0 points [6.0, 14.0] (240 images)."
        in write_summary(better)
    )
    worse = make_parts(tmp_path / "b", encoders=2, change=worsen)
    assert write_title(worse).endswith("with these 240 images, and names fewer images right")
    told = " It names fewer images right than before: zero-shot 19.0 points [14.0, 24.0]."
    assert write_verdict(worse, 1).endswith(told)
    assert told not in write_verdict(worse, 0)
    assert (
        "From before to after, zero-shot: accuracy falls by 19.0 points [14.0, 24.0] (240 images),"
        " that of mammal by 40.0 points [30.0, 50.0] (120 images)." in write_summary(worse)
    )
    one = make_parts(tmp_path / "c", encoders=2, change=worsen_one_class)
    assert write_verdict(one, 1).endswith("linear probe on bird 40.0 points [30.0, 50.0].")
    unsure = make_parts(tmp_path / "d", encoders=2, change=doubt)
    assert "fewer" not in write_title(unsure) + write_verdict(unsure, 1)


def test_without_any_check_nothing_is_claimed(tmp_path):
    parts = read_audit(build_bare_audit(tmp_path))
    assert write_title(parts).startswith("It cannot be told with these 20 images")
    assert write_verdict(parts, 0) == (
        "Whether the model leans on what it should not cannot be told with these 20 images (no "
        "background could be checked): 0 checks could be made. This is neither a clean bill nor a "
        "finding."
    )
    accuracy, left_out = write_summary(parts)
    assert "70.0 % [50.0, 90.0] of 20 images are named right." in accuracy
    assert left_out == "Left out, 1 part of the audit: background swaps."


def test_nothing_is_said_to_have_been_changed_where_no_background_was(tmp_path):
    assert "changed what should not matter" in write_lead(make_parts(tmp_path / "full"))
    assert "changed" not in write_lead(read_audit(build_bare_audit(tmp_path / "bare")))


def test_where_regions_alone_could_be_asked_the_doubt_is_not_laid_to_the_number_of_images(tmp_path):
    def change(values):
        judge("undecided", "undecided", "undecided", verdict="undecided")(values)
        del values["findings"][:2]

    parts = make_parts(tmp_path, change=change)
    assert "with these 240 images (no background could be checked)" in write_title(parts)
    assert "(no background could be checked): of 1 check 0 found" in write_verdict(parts, 0)


def test_what_chance_would_show_is_said_once(tmp_path):
    def change(values):
        for one in (*values["findings"], *values["verdict"]):
            one["state"] = "relies" if "kind" not in one else "found"

    parts = make_parts(tmp_path, encoders=2, change=change)
    told = [write_verdict(parts, encoder) for encoder in (0, 1)]
    assert ["at most 5 in 100 models" in one for one in told] == [True, False]
    assert all("4 found an effect beyond chance" in one for one in told)


def test_the_largest_is_the_largest_of_all_losses(tmp_path):
    def change(values):
        judge("found", "found", verdict="relies")(values)
        values["findings"][1]["figure"] = fig(0.6, 0.1)

    told = write_verdict(make_parts(tmp_path, change=change), 0)
    assert "The largest: images on unusual backgrounds" in told
    assert "60.0 points lower [50.0, 70.0]" in told


def test_a_verdict_says_by_which_classifier_nothing_was_found(tmp_path):
    told = write_verdict(make_parts(tmp_path), 0)
    assert told.endswith("Linear probe (by a classifier that learnt from your labels): 1 check, 0 "
                         "found one.")  # fmt: skip


def test_what_is_found_is_told_of_the_classifier_that_it_was_found_for(tmp_path):
    def change(values):
        values["findings"][0]["state"], values["findings"][3]["state"] = "undecided", "found"
        values["swaps"]["results"][1]["flip_rate"] = fig(0.77, 0.1)

    text = " ".join(write_summary(make_parts(tmp_path, change=change)))
    assert "Linear probe: a change of background alone changes the answer in 77.0 %" in text
    assert "Zero-shot: a change of background alone" not in text


@pytest.mark.parametrize("value", [0.0, -1.9e-18, 0.0004, -0.0004])
def test_what_rounds_to_0_has_the_interval_of_the_table_not_its_mirror_image(tmp_path, value):
    figure = {"value": value, "low": -0.051, "high": 0.084, "count": 29}

    def change(values):
        judge("undecided", verdict="undecided")(values)
        values["findings"][0]["figure"] = values["swaps"]["results"][0]["gap"] = figure

    parts = make_parts(tmp_path, change=change)
    text = " ".join(write_summary(parts))
    assert "0.0 points fewer [\N{MINUS SIGN}5.1, 8.4]" in text
    told = tell_finding(parts, parts.findings[0])
    assert "accuracy is 0.0 points lower [\N{MINUS SIGN}5.1, 8.4]" in told


def test_not_found_is_said_of_a_loss_so_that_a_gain_does_not_contradict_it(tmp_path):
    def change(values):
        judge("not_found", verdict="no_sign")(values)
        values["findings"][0]["figure"] = {"value": -0.04, "low": -0.108, "high": 0.019,
                                           "count": 200}  # fmt: skip

    parts = make_parts(tmp_path, change=change)
    assert tell_finding(parts, parts.findings[0]) == (
        "Objects on backgrounds of other classes, zero-shot: accuracy is 4.0 points higher "
        "[\N{MINUS SIGN}1.9, 10.8] (200 objects); the whole interval holds no loss of 5 points or "
        "more."
    )


def test_every_figure_of_the_words_is_one_of_the_record_with_its_own_interval(tmp_path):
    values = make_values(encoders=2, images=0)
    numbers = iter(range(1, 400))
    for one in walk_figures(values):
        # Unlike any other, so that no figure is taken for another.
        step = next(numbers)
        one |= {"value": step / 500, "low": step / 500 - 0.1, "high": step / 500 + 0.15}
    parts = read_audit(write_values(tmp_path, values))
    known = {told for one in walk_figures(values) for told in write_triples(one)}
    sentences = [*write_summary(parts), *(write_verdict(parts, one) for one in (0, 1))]
    sentences += [tell_finding(parts, one) for one in parts.findings]
    sentences += [sentence for one in list_sections(parts) for sentence in one.sentences]
    triples = [told for one in sentences for told in TRIPLE.findall(one)]
    assert len(triples) > 40
    assert set(triples) <= known


def walk_figures(value):
    if isinstance(value, list):
        return [one for item in value for one in walk_figures(item)]
    if isinstance(value, dict):
        own = [value] if {"value", "low", "high"} <= set(value) else []
        return own + [one for item in value.values() for one in walk_figures(item)]
    return []


def write_triples(figure):
    """Write a figure as per cent, turned round, and as a plain number."""
    value, low, high = (figure[key] for key in ("value", "low", "high"))
    turned = (-value, -high, -low)
    for ends, scale, digits in (((value, low, high), 100, 1), (turned, 100, 1),
                                ((value, low, high), 1, 2)):  # fmt: skip
        yield tuple(f"{scale * one:.{digits}f}".replace("-", "\N{MINUS SIGN}") for one in ends)
