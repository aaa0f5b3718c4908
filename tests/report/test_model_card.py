"""Model cards, read back by YAML and by huggingface_hub as the hub would read them."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from fieldmark.core.errors import InputError, UsageError
from fieldmark.core.records import ResultRow, start_run
from fieldmark.report.audit_parts import read_audit
from fieldmark.report.audit_words import tell_finding, write_verdict
from fieldmark.report.card_evidence import read_evidence
from fieldmark.report.formats import escape_markdown
from fieldmark.report.model_card import CardModel, build_model_card, write_audit_card
from tests.report.audit_sample import build_audit

OURS, THEIRS = "a" * 64, "b" * 64
GROUPS = {
    "acc_avg": (0.8, 0.7, 0.9, 40),
    "acc_wg": (0.5, 0.3, 0.7, 20),
    "acc_y:bird_background:land": (1.0, 0.9, 1.0, 20),
    "acc_y:bird_background:water": (0.5, 0.3, 0.7, 20),
}


def make_rows(*, method: str = "native", shift: float = 0.0, **more: Any) -> list[ResultRow]:
    return [
        ResultRow(
            suite="evaluate",
            dataset="birds",
            split="test",
            encoder="m",
            method=method,
            head="zero-shot",
            metric=metric,
            value=value - shift,
            ci_low=low - shift,
            ci_high=high - shift,
            count=count,
            **more,
        )
        for metric, (value, low, high, count) in GROUPS.items()
    ]


def read_card(text: str) -> Any:
    """Read the front matter as the hub's own library does."""
    return ModelCard(text).data


def write_run(folder: Path, rows: list[ResultRow], *, weights: dict[str, str]) -> Path:
    run = start_run(folder, "evaluate", arguments={"model": "m", "data": "/home/me/birds"})
    run.add(rows)
    run.weights, run.data = weights, {"name": "birds", "images": 1240}
    return run.finish()


def build(*evidence: Any, **changes: Any) -> tuple[dict[str, Any], str]:
    model = CardModel(**{"name": "me/clip", "library": "open_clip", **changes})
    text = build_model_card(model, evidence=evidence, training=None)
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_hub_reads_the_figures_that_the_rows_hold(tmp_path):
    run = write_run(tmp_path / "run", make_rows(), weights={"encoder": OURS})
    evidence = read_evidence(run, fingerprint=OURS, card={"licences": ["CC0"], "citation": "Us"})
    model = CardModel(
        name="me/clip",
        library="open_clip",
        base="hf-hub:org/base",
        base_repo="org/base",
        licence="mit",
        fingerprint=OURS,
    )
    text = build_model_card(model, evidence=(evidence,), training=None)
    data = read_card(text)
    assert data.license == "mit"
    assert data.base_model == "org/base"
    assert data.library_name == "open_clip"
    assert data.pipeline_tag == "zero-shot-image-classification"
    results = {one.metric_type: one for one in data.eval_results}
    assert {name: one.metric_value for name, one in results.items()} == {
        "acc_avg": 0.8,
        "acc_wg": 0.5,
    }
    worst = results["acc_wg"]
    assert worst.metric_name == "accuracy of the worst group (95 % CI [0.300, 0.700], n = 20)"
    assert (worst.dataset_name, worst.dataset_split) == ("birds", "test")
    assert r"| bird on water | 0.500 \[0.300, 0.700\] | 20 |" in text
    assert "- birds, 1,240 images\n  - licence: CC0\n  - cite: Us" in text
    assert "Chance between seeds: every figure is from one seed." in text
    assert "Warning" not in text


def test_figures_of_other_weights_are_refused_or_stand_beside(tmp_path):
    run = write_run(tmp_path / "run", make_rows(), weights={"encoder": THEIRS})
    with pytest.raises(UsageError, match=r"measured other weights than these; .*aaaaaaaaaaaa"):
        read_evidence(run, fingerprint=OURS, card={})
    both = [*make_rows(shift=0.1), *make_rows(method="bap")]
    demo = write_run(tmp_path / "demo", both, weights={"native": THEIRS, "bap": OURS})
    front, body = build(read_evidence(demo, fingerprint=OURS, card={}))
    metrics = [m for one in front["model-index"][0]["results"] for m in one["metrics"]]
    assert [m["value"] for m in metrics] == [0.8, 0.5], "the native encoder's are not this model's"
    lines = [line for line in body.splitlines() if line.startswith("| birds")]
    assert ["this" in line for line in lines] == [True] * 4 + [False] * 4
    assert r"| native | bird on water | 0.400 \[0.200, 0.600\] | 20 |" in lines[-1]


def test_what_is_undefined_is_in_no_index_and_named(tmp_path):
    rows = [
        ResultRow(suite="s", dataset="d", head="h", metric=metric, count=0)
        for metric in ("acc_avg", "acc_wg", "acc_y:bird_background:water")
    ]
    run = write_run(tmp_path / "run", rows, weights={"encoder": OURS})
    front, body = build(read_evidence(run, fingerprint=OURS, card={}))
    assert "model-index" not in front
    assert "| all | \N{EN DASH} | 0 |" in body
    assert "Groups without images, here or on some split: bird on water." in body


def test_an_unknown_licence_is_a_warning():
    front, body = build()
    assert front["license"] == "unknown"
    assert "> **Warning:** the licence of the base model could not be read." in body
    assert "Nothing was measured with these weights." in body
    assert "- Everything: no figures of this model were given to this card." in body


NASTY = "<script>alert(1)</script>|`x`\n---\nlicense: wtf\n# [me](http://x)"


def test_names_out_of_records_are_text_and_never_markup(tmp_path):
    rows = [
        ResultRow(suite="s", dataset=NASTY, split=NASTY, head=NASTY, metric=metric, value=1.0)
        for metric in ("acc_avg", f"acc_y:{NASTY}")
    ]
    run = write_run(tmp_path / "run", rows, weights={"encoder": OURS})
    card = {"licences": [NASTY], "citation": NASTY}
    evidence = read_evidence(run, fingerprint=OURS, card=card)
    training = {"verb": NASTY, "arguments": {"method": NASTY, "config": {"a": NASTY}}}
    model = CardModel(name="me/clip", base=NASTY, licence=NASTY, fingerprint=NASTY)
    text = build_model_card(model, evidence=(evidence,), training=training)
    data = read_card(text)
    assert data.eval_results[0].dataset_name.startswith("<script>")
    body = text.split("\n---\n", 1)[1]
    assert "\n---" not in body
    outside = "".join(body.split("`")[::2])
    assert not re.search(r"(?<!\\)<", outside)
    assert "](" not in outside
    assert body.count("\n# ") == 1


def test_training_is_told_without_local_paths():
    training = {
        "verb": "bap",
        "arguments": {"foregrounds": "/home/me/birds.csv", "config": {"epochs": 3, "at": "/x/y"}},
        "weights": {"before": THEIRS, "after": OURS},
        "versions": {"torch": "2.4", "platform": "my-laptop"},
        "commit": "abc",
    }
    text = build_model_card(CardModel(name="me/clip"), training=training)
    assert "By `fieldmark bap`." in text
    assert "- foregrounds: birds.csv" in text
    assert '- config: `{"epochs": 3, "at": "y"}`' in text
    assert f"- weights, after: `{OURS}`" in text
    assert "my-laptop" not in text
    assert "/home" not in text


def figure(value: float | None, count: int = 40) -> dict[str, Any]:
    low, high = (None, None) if value is None else (value - 0.1, value + 0.1)
    return {"value": value, "low": low, "high": high, "count": count}


def write_audit(folder: Path, **changes: Any) -> Path:
    """Write the record of an audit by hand, by its contract."""
    encoders = [{"label": "before", "uri": "m", "fingerprint": THEIRS}]
    encoders.append({"label": "after", "uri": "n", "fingerprint": OURS})
    groups = [("bird", "land", 0.9), ("bird", "water", None)]
    accuracy = [
        {
            "encoder": which,
            "head": "zero-shot",
            "average": figure(0.7 + which / 10),
            "worst_group": figure(0.4 + which / 10),
            "worst_group_name": None,
            "groups": [
                {"name": "g", "label": label, "attribute": on, "figure": figure(value)}
                for label, on, value in groups
            ],
            "classes": [],
        }
        for which in (0, 1)
    ]
    findings = [
        {
            "id": f"gap:{which}",
            "kind": "background_gap",
            "encoder": which,
            "head": "zero-shot",
            "title": f"Accuracy drops on other backgrounds <{which}>",
            "figure": figure(0.2),
            "p_value": 0.01,
            "adjusted_p_value": 0.02,
            "state": "found",
            "detail": "",
        }
        for which in (0, 1)
    ]
    audit = {
        "schema": 1,
        "model": "m",
        "compare": "n",
        "encoders": encoders,
        "dataset": "birds",
        "split": "test",
        "images": 40,
        "images_all": 80,
        "accuracy": accuracy,
        "findings": findings,
        "left_out": [{"part": "swaps", "reason": "there are no masks", "mend": "give some"}],
        "margin": 0.05,
        "level": 0.05,
        "verdict": [{"encoder": which, "state": "relies"} for which in (0, 1)],
        "not_tested": ["Other data."],
    }
    folder.mkdir()
    (folder / "audit.json").write_text(json.dumps({**audit, **changes}))
    return folder


def test_the_card_of_an_audit_tells_of_the_encoder_that_came_of_it(tmp_path):
    path = write_audit_card(write_audit(tmp_path / "audit"))
    assert path == tmp_path / "audit" / "model_card.md"
    text = path.read_text()
    assert "\n# n\n" in text
    assert f"SHA-256 `{OURS}`" in text
    results = {one.metric_type: one.metric_value for one in read_card(text).eval_results}
    assert results == {"acc_avg": 0.8, "acc_wg": 0.5}
    assert (
        r"Accuracy drops on other backgrounds \<1\>, zero-shot: accuracy is 20.0 points lower "
        r"\[10.0, 30.0\] \(40 objects\); more than chance explains \(p = 0.020, corrected for all "
        r"checks\)." in text
    )
    assert "- After: The model leans on the background: of 1 check 1 found" in text
    assert r"\<0\>" not in text
    assert "- Other data.\n- Background swaps: there are no masks." in text
    assert "this \\(after\\) | bird on water | \N{EN DASH} | 40 |" in text
    assert "| before | all |" in text
    assert "licence of the base model could not be read" in text
    first = path.read_text()
    assert write_audit_card(tmp_path / "audit").read_text() == first
    known = write_audit_card(tmp_path / "audit", licence="mit", base_repo="org/base").read_text()
    assert "license: mit\nbase_model: org/base\n" in known
    assert "Warning" not in known


def test_the_card_says_the_same_of_findings_as_the_page(tmp_path):
    folder = build_audit(tmp_path, images=0)
    parts = read_audit(folder)
    wanted = [write_verdict(parts, 0), *(tell_finding(parts, one) for one in parts.findings)]
    text = write_audit_card(folder).read_text()
    assert [escape_markdown(one) for one in wanted] == re.findall(
        r"^- (.+)$", text.split("## What the audit found")[1].split("\n## ")[0], re.M
    )


@pytest.mark.parametrize("text", ["- item", "1. item", "---", "=== x"])
def test_no_name_starts_a_list_or_a_rule(tmp_path, text):
    folder = write_audit(tmp_path / "audit", dataset=text, not_tested=[text])
    body = write_audit_card(folder).read_text().split("\n---\n", 1)[1]
    shown = re.sub(r"([-.=])", r"\\\1", text, count=1)
    assert f"## What was not tested\n\n- {shown}\n" in body
    assert f"## Data and licences\n\n- {shown}, 80 images\n" in body


def test_no_name_turns_the_direction_of_writing(tmp_path):
    rows = [dataclasses.replace(row, dataset="birds\u202egnp.exe\u2066") for row in make_rows()]
    run = write_run(tmp_path / "run", rows, weights={"encoder": OURS})
    evidence = read_evidence(run, fingerprint=OURS, card={"licences": ["\u200fMIT"]})
    model = CardModel(name="me/clip", licence="\u202dmit")
    text = build_model_card(model, evidence=(evidence,), training=None)
    assert not re.search("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]", text)
    name = "birds\N{REPLACEMENT CHARACTER}gnp.exe\N{REPLACEMENT CHARACTER}"
    assert read_card(text).eval_results[0].dataset_name == name


def test_an_audit_is_evidence_for_the_encoder_that_has_its_weights(tmp_path):
    folder = write_audit(tmp_path / "audit")
    front, body = build(read_evidence(folder, fingerprint=OURS, card={}))
    metrics = [m for one in front["model-index"][0]["results"] for m in one["metrics"]]
    assert [m["value"] for m in metrics] == [0.8, 0.5]
    assert r"\<1\>" in body
    with pytest.raises(UsageError, match="audited other weights"):
        read_evidence(folder, fingerprint="c" * 64, card={})


def test_a_damaged_audit_is_one_line(tmp_path):
    folder = write_audit(tmp_path / "audit", encoders=[])
    with pytest.raises(InputError, match=r"audit.json: encoders: .*run `fieldmark audit` again"):
        write_audit_card(folder)
    assert not (folder / "model_card.md").exists()
