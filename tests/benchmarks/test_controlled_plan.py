"""Which controlled settings there are, and which jobs they come to."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from fieldmark.benchmarks.controlled.plan import (
    AMOUNTS,
    DISCOVERY,
    MITIGATION,
    draw_settings,
    plan_ravl,
    read_setting,
    write_setting,
)
from fieldmark.benchmarks.jobs import TaskRef
from fieldmark.core.errors import UsageError
from fieldmark.data.controlled.features import FEATURES
from fieldmark.data.controlled.objects import DOMAINS
from fieldmark.methods.mitigation.captions import parse_captions
from tests.benchmarks.fake_controlled import make_request

NAN = math.nan


def test_a_setting_is_planned_and_read_back():
    for setting in draw_settings("stamps", count=10):
        ref = TaskRef(dataset="stamps", options=json.loads(json.dumps(write_setting(setting))))
        assert read_setting(ref) == setting


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_first_settings_do_not_depend_on_how_many_there_are(domain):
    drawn = draw_settings(domain, count=40)
    assert draw_settings(domain, count=40) == drawn
    for count in (0, 1, 7, 39):
        assert draw_settings(domain, count=count) == drawn[:count]
    assert len({setting.name for setting in drawn}) == 40
    assert {setting.feature for setting in drawn} == set(FEATURES)
    assert {setting.place for setting in drawn[::2]} == {"any"}
    assert len({setting.place for setting in drawn}) == 5
    assert draw_settings(domain, count=5, seed=1) != drawn[:5]


def test_jobs_are_discoveries_then_mitigations_of_some():
    request = make_request(datasets=("stamps", "digits"), settings=6, mitigations=2, seeds=(0, 1))
    jobs = plan_ravl(request)
    asked = [(job.measure, job.task.dataset, job.setting) for job in jobs]
    names = {d: [s.name for s in draw_settings(d, count=6)] for d in ("stamps", "digits")}
    expected = [(DISCOVERY, d, name) for d in names for name in names[d]]
    expected += [(MITIGATION, d, name) for d in names for name in names[d][::3]]
    assert asked == expected
    assert {job.suite for job in jobs} == {"ravl"}
    assert all(job.arguments["seeds"] == [0, 1] for job in jobs)
    assert jobs[0].arguments.keys() == {*AMOUNTS, "seeds"} - {"settings", "mitigations"}


def test_more_settings_leave_the_jobs_of_the_first_as_they_are():
    few, many = (plan_ravl(make_request(settings=n, mitigations=0)) for n in (3, 5))
    assert [job.to_json() for job in few] == [job.to_json() for job in many[:3]]
    assert len(many) == 5


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (
            {"datasets": ("birds",)},
            "'birds' is no domain of .*; known: digits, fashion, stamps, co",
        ),
        (
            {"datasets": ("coco",)},
            "the domain coco needs COCO's files; give their folder by --root",
        ),
        (
            {"datasets": ("coco",), "root": Path("x")},
            "the domain coco has no small encoder; give one by --model",
        ),
        ({"settings": "many"}, "study.settings=many is no whole number above 0; write a wh"),
        ({"tuning": 0}, "study.tuning=0 is no whole number above 0; .* such as 1200"),
        ({"mitigations": -1}, "study.mitigations=-1 is no whole number 0 or more"),
        ({"epochs": 2.5}, "study.epochs=2.5 is no whole number above 0"),
        ({"learning_rate": NAN}, "study.learning_rate=nan is no number above 0"),
        ({"learning_rate": "2e-3"}, "=2e-3 is no number above 0; write a number such as 0.002"),
        ({"patience": 0}, "study.patience=0 is no whole number above 0; .* such as 10"),
        ({"epochs": True}, "study.epochs=True is no whole number above 0"),
    ],
)
def test_what_cannot_be_planned_is_one_line(values, problem):
    with pytest.raises(UsageError, match=problem) as caught:
        plan_ravl(make_request(**values))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_caption_names_its_class_and_no_other(domain):
    known = DOMAINS[domain]
    texts = [text.format(name) for name in known.classes for text in known.captions]
    expected = [(code,) for code in range(len(known.classes)) for _ in known.captions]
    assert list(parse_captions(texts, known.classes).mentions) == expected
