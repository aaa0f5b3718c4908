from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from fieldmark.report.audit_markdown import fence, write_audit_markdown
from fieldmark.report.audit_page import write_audit_page
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


class Tables(HTMLParser):
    """The rows of all tables of a page, each as the texts of its cells."""

    def __init__(self):
        super().__init__()
        self.rows, self.inside, self.skipped = [], False, 0

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td") and "dots" not in dict(attributes).get("class", ""):
            self.rows[-1].append("")
            self.inside = True

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self.inside = False

    def handle_data(self, text):
        if self.inside:
            self.rows[-1][-1] += text


def read_markdown_rows(text):
    for line in text.splitlines():
        if line.startswith("| ") and "](" not in line and "<br>" not in line and ":--" not in line:
            cells = re.split(r"(?<!\\) \| ", line.removeprefix("| ").removesuffix(" |"))
            yield [re.sub(r"\\(.)", r"\1", one) for one in cells]


def flatten_row(cells):
    # The page sets counts apart without brackets.
    return tuple(re.sub(r"\(([\d,]+)\)", r"\1", " ".join(cell.split())) for cell in cells)


@pytest.mark.parametrize("encoders", [1, 2])
def test_every_cell_of_every_table_is_that_of_the_page(tmp_path, encoders):
    out = build_audit(tmp_path, encoders=encoders, images=2)
    tables = Tables()
    tables.feed(write_audit_page(out).read_text(encoding="utf-8"))
    page = [flatten_row(row) for row in tables.rows]
    told = [flatten_row(row) for row in read_markdown_rows(read(out))]
    assert len(told) > 25
    # Below pictures that have titles alone, no page has a table.
    assert [row for row in told if row in page] == page


def test_it_holds_what_the_page_shows_first_and_last(tmp_path):
    out = build_audit(tmp_path, images=1)
    text = read(out)
    advice = "What to do: take the background out of the embedding; then look at the pond regions"
    assert advice in text
    assert advice in write_audit_page(out).read_text(encoding="utf-8")
    assert r"- Named right, zero-shot: 69.0 % \[64.0, 74.0\] \(240 images\)" in text
    assert r"- Lost on other backgrounds, zero-shot: 31.0 points \[21.0, 41.0\]" in text
    assert "[Regions](./parts/discover-0/" in text
    assert r"- Encoder: model packaged:dinov2-small, fingerprint" in text
    assert "- Regions: Varma, Delbrouck" in text


def test_pages_of_two_encoders_are_told_apart(tmp_path):
    def change(values):
        values["parts"] = [{"title": "Regions", "page": one["page"]} for one in values["discovery"]]

    out = edit_values(build_audit(tmp_path, encoders=2, images=1), change)
    for page in (
        out / one["page"] for one in json.loads((out / "audit.json").read_text())["parts"]
    ):
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text("x")
    text = read(out)
    assert "[Regions, before](./parts/discover-0/" in text
    assert "[Regions, after](./parts/discover-1/" in text


def test_names_of_images_and_words_of_regions_keep_their_letters(tmp_path):
    text = read(build_audit(tmp_path, images=1))
    assert "\n### 0000.jpg \\(object 12.0 % of the image\\)\n" in text
    assert "\n### pond, shore, reeds \\(goes with mammal\\)\n" in text
    assert "\n### bird \\(stamps" in text.replace("####", "###")


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
