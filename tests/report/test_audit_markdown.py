from __future__ import annotations

import re

from fieldmark.report.audit_markdown import fence, write_audit_markdown
from fieldmark.report.audit_parts import read_audit
from fieldmark.report.audit_sections import list_sections
from fieldmark.report.audit_words import write_summary
from fieldmark.report.formats import escape_markdown
from tests.report.audit_sample import build_audit, build_bare_audit, edit_values


def read(out):
    return write_audit_markdown(out).read_text(encoding="utf-8")


def test_it_holds_the_same_sections_sentences_and_tables_as_the_page(tmp_path):
    out = build_audit(tmp_path, encoders=2, images=2)
    text, parts = read(out), read_audit(out)
    titles = re.findall(r"^## (.+)$", text, re.M)
    assert titles == [*(one.title for one in list_sections(parts)), "How it was made"]
    for sentence in write_summary(parts):
        assert f"- {escape_markdown(sentence)}" in text
    assert r"| bird | water | 48.0 % \[38.0, 58.0\] \(60\) | 58.0 %" in text
    assert "![bird on water](pictures/image0-bird-water.jpg)" in text
    assert "wrong: before: mammal" in text
    assert "```sh\nfieldmark bap --model packaged:dinov2-small@98" in text


def test_every_table_is_whole(tmp_path):
    lines = read(build_audit(tmp_path, encoders=2, images=2)).splitlines()
    widths: list[int] = []
    for before, line in zip(["", *lines], lines, strict=False):
        if not line.startswith("|"):
            continue
        width = len(re.findall(r"(?<!\\)\|", line))
        if before.startswith("|"):
            assert width == widths[-1], line
        widths.append(width)
    assert len(widths) > 40


def test_labels_are_escaped(tmp_path):
    evil = "a|b](x) <b>`c`\n# d"

    def change(values):
        values["dataset"] = evil
        values["accuracy"][0]["groups"][0]["label"] = evil
        values["telling"][0]["picture"]["alt"] = evil
        values["telling"][0]["why"] = "1. not a list"
        values["next"][0]["command"] = "echo ```\nrm x"

    out = build_audit(tmp_path, images=1)
    text = read(edit_values(out, change))
    assert "<b>" not in text
    assert r"a\|b\]\(x\) \<b\>\`c\` \# d" in text
    assert "\n1\\. not a list" in text
    assert "````sh\necho ```\nrm x\n````" in text


def test_a_fence_is_longer_than_any_inside():
    assert fence("a ```` b").startswith("`````sh\n")


def test_the_bare_audit(tmp_path):
    text = read(build_bare_audit(tmp_path))
    assert "| Background swaps | no masks | give --masks FOLDER |" in text
    assert "nan" not in text
