from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from PIL import Image

from fieldmark.core.errors import InputError
from fieldmark.core.records import start_run
from fieldmark.report import mitigation_page
from fieldmark.report.mitigation_page import write_mitigation_page
from fieldmark.report.mitigation_parts import read_mitigation_parts
from fieldmark.report.mitigation_words import list_counts, write_lead, write_sentences, write_title
from fieldmark.report.names import DASH
from tests.report.test_browser import BROWSER, FRAME, browse

EVIL = '<script>alert("&")</script>'


def make_estimate(value, count=40):
    ends = [None, None] if value is None else [value - 0.05, value + 0.05]
    return {"value": value, "low": ends[0], "high": ends[1], "count": count}


def make_figure(metric, before, after, *, group=None, interval=(None, None), counts=(40, 40)):
    undefined = before is None or after is None
    return {
        "metric": metric,
        "group": group,
        "before": make_estimate(before, counts[0]),
        "after": make_estimate(after, counts[1]),
        "difference": {
            "value": None if undefined else after - before,
            "low": interval[0],
            "high": interval[1],
            "p_value": None,
        },
    }


def make_figures(interval=(0.1, 0.3)):
    return [
        make_figure("image_avg", 0.7, 0.8, interval=(0.05, 0.15)),
        make_figure("image_wg", 0.4, 0.6, interval=interval, counts=(10, 12)),
        make_figure("image_y:tabby_cat_cluster:with", 0.4, 0.6, group=1),
        make_figure("acc_y:cat_background:sofa", 0.35, 0.61, group=1),
        make_figure("region_y:dog_image:cat", 0.25, 0.5, group=2),
        make_figure("gap", 0.9, 0.2, group=3),
        make_figure("influence", 0.8, None, group=3, counts=(9, 0)),
    ]


def make_values(**changed):
    counts = ("images", "trained_on", "held_out", "unnamed", "several", "unlabelled", "differing",
              "without_plain_region", "without_region", "regions", "marked_regions",
              "marked_images", "groups")  # fmt: skip
    cluster = {"cluster": 3, "tied_class": "cat", "words": ["sofa"], "regions": 1234, "images": 900}
    evaluation = {
        "split": "test",
        "images": 40,
        "with the cluster": 22,
        "regions": 160,
        "figures": make_figures(),
    }
    return {
        "schema": 1,
        "model": "local-dir:m",
        "discovery": "runs/found",
        "dataset": "pets",
        "method": "ravl",
        "config": {"epochs": 3},
        "regions": {"source": "quadrants", "way": "crop"},
        "clusters": [cluster],
        "counts": {name: number for number, name in enumerate(counts)},
        "captions": "column 'caption'",
        "training": {"steps": 1200, "epochs": 3, "kept": 1, "stopped_early": True},
        "evaluation": [evaluation],
        "notes": ["cluster 3 is not told from chance"],
        **changed,
    }


def make_run(folder, *, pictures=None, figures=None, **changed):
    run = start_run(folder, "mitigate", arguments={"model": "m"})
    values = make_values(**changed)
    if figures is not None:
        values["evaluation"][0]["figures"] = figures
    (folder / "mitigation.json").write_text(json.dumps(values))
    if pictures is not None:
        (folder / "page").mkdir()
        Image.effect_noise((144, 144), 90).convert("RGB").save(folder / "page" / "a.jpg")
        (folder / "page" / "pictures.json").write_text(json.dumps(pictures))
    return run.finish()


def make_picture(*, image="a.jpg", label="dog", crop="a.jpg"):
    return {"image": image, "label": label, "whole": "a.jpg", "crop": crop}


class Reader(HTMLParser):
    """Collect what a page loads, and its cells."""

    def __init__(self):
        super().__init__()
        self.images, self.sources, self.scripts = [], [], 0

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.sources += [given[name] for name in ("src", "srcset", "data") if name in given]
        if tag == "img":
            self.images.append(given)
        if tag == "link":
            self.sources.append(given["href"])
        self.scripts += tag == "script"


def read_html(path):
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


def list_lines(page):
    """Return the cells of each line of each table, tags taken out."""
    lines = re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.DOTALL) for line in lines]
    return [[re.sub(r"<[^>]+>", "", cell).strip() for cell in line] for line in cells]


@pytest.mark.parametrize(
    ("interval", "title"),
    [
        ((0.1, 0.3), "Worst-group accuracy rises from 0.40 to 0.60"),
        ((-0.4, -0.1), "Worst-group accuracy falls from 0.40 to 0.60"),
        (
            (-0.1, 0.3),
            "Worst-group accuracy is 0.40 before and 0.60 after: no difference told from chance",
        ),
        (
            (None, None),
            "Worst-group accuracy is 0.40 before and 0.60 after: no difference told from chance",
        ),
    ],
)
def test_the_headline_claims_no_more_than_the_interval_bears(tmp_path, interval, title):
    out = make_run(tmp_path / "run", figures=make_figures(interval))
    assert write_title(read_mitigation_parts(out)) == title
    assert f"<h1>{title}</h1>" in write_mitigation_page(out).read_text()


def test_what_was_not_measured_is_said(tmp_path):
    none = make_run(tmp_path / "none", figures=[make_figure("image_wg", None, None)])
    assert write_title(read_mitigation_parts(none)).endswith("undefined on split test")
    empty = make_run(tmp_path / "empty", evaluation=[])
    assert write_title(read_mitigation_parts(empty)) == "Nothing was measured"
    write_mitigation_page(empty)


def test_every_figure_stands_in_its_line(tmp_path):
    lines = list_lines(write_mitigation_page(make_run(tmp_path / "run")).read_text())
    assert ["Image overall", "0.700 [0.650, 0.750]", "0.800 [0.750, 0.850]",
            "0.100 [0.050, 0.150]", "40"] in lines  # fmt: skip
    assert ["Image worst group", "0.400 [0.350, 0.450]", "0.600 [0.550, 0.650]",
            "0.200 [0.100, 0.300]", "10 / 12"] in lines  # fmt: skip
    assert ["Gap G of cluster 3", "0.900 [0.850, 0.950]", "0.200 [0.150, 0.250]", "-0.700",
            "40"] in lines  # fmt: skip
    assert ["Influence H of cluster 3", "0.800 [0.750, 0.850]", DASH, DASH, "9 / 0"] in lines
    named = {line[0] for line in lines}
    assert {
        "tabby_cat, with the cluster",
        "cat on sofa",
        "region of dog in an image of cat",
    } < named


def test_sentences_and_counts_are_those_of_the_record(tmp_path):
    parts = read_mitigation_parts(make_run(tmp_path / "run"))
    told = write_sentences(parts)
    assert told[0].startswith(
        "On split test (40 images, 22 with the cluster): overall accuracy 0.7"
    )
    assert told[1] == "Training took 1,200 steps in 3 epochs, stopped early; epoch 2 was kept."
    assert "another seed" in told[2]
    lead = write_lead(parts)
    assert lead == (
        "The image tower was fine-tuned by RaVL to rely less on cluster 3 (sofa), tied to cat."
    )
    counts = dict(list_counts(parts.values))
    assert counts["captions that name no class"] == "3"
    assert counts["of them in the cluster"] == "10"
    page = (write_mitigation_page(tmp_path / "run")).read_text()
    assert "Cluster 3 is not told from chance." in page
    assert "1,234, in 900 images." in page


def test_standard_fine_tuning_is_not_said_to_aim_at_the_cluster(tmp_path):
    parts = read_mitigation_parts(make_run(tmp_path / "run", method="standard"))
    assert "looks at no region" in write_lead(parts)


def test_many_groups_are_cut_to_those_that_were_worst(tmp_path):
    groups = [
        make_figure(f"image_y:c{number}_cluster:with", number / 100, 0.5, group=number)
        for number in range(60, 0, -1)
    ]
    figures = [*make_figures()[:2], *groups]
    page = write_mitigation_page(make_run(tmp_path / "run", figures=figures)).read_text()
    shown = [line[0] for line in list_lines(page) if line and line[0].startswith("c")]
    assert shown == [f"c{number}, with the cluster" for number in range(24, 0, -1)]
    assert "36 groups that were better before are left out" in page


def test_the_page_shows_the_regions_and_loads_nothing(tmp_path):
    pictures = {"3": [make_picture(), make_picture(image="b/c.jpg")]}
    out = make_run(tmp_path / "run", pictures=pictures)
    reader = read_html(write_mitigation_page(out))
    assert len(reader.images) == 4
    assert reader.images[2]["alt"] == "Region of b/c.jpg, dog"
    assert all(source.startswith("data:") for source in reader.sources)
    assert reader.scripts == 1
    (out / "page" / "a.jpg").unlink()
    assert write_mitigation_page(out).read_text().count(">image missing</span>") == 4


def test_markup_in_names_is_shown_not_obeyed(tmp_path):
    cluster = {"cluster": 3, "tied_class": EVIL, "words": [EVIL], "regions": 1, "images": 1}
    out = make_run(
        tmp_path / "run",
        pictures={"3": [make_picture(image=EVIL, label=EVIL)]},
        figures=[*make_figures(), make_figure(f"image_y:{EVIL}_cluster:with", 0.1, 0.2, group=7)],
        clusters=[cluster],
        dataset=EVIL,
        model=EVIL,
        captions=EVIL,
        notes=[EVIL],
    )
    path = write_mitigation_page(out)
    assert EVIL not in path.read_text()
    assert read_html(path).scripts == 1


def test_pictures_stop_where_the_page_would_grow_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(mitigation_page, "BUDGET", 60_000)
    out = make_run(tmp_path / "run", pictures={"3": [make_picture()] * 40})
    page = write_mitigation_page(out).read_text()
    shown = page.count('alt="Region of')
    assert 0 < shown < 40
    assert f"{40 - shown} pictures are left out" in page


def test_a_picture_outside_of_the_run_is_refused(tmp_path):
    out = make_run(tmp_path / "run", pictures={"3": [make_picture(crop="../../secret.jpg")]})
    with pytest.raises(InputError, match="lies outside"):
        write_mitigation_page(out)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: v.pop("evaluation"), "is damaged"),
        (lambda v: v["evaluation"][0]["figures"][0].pop("before"), "is damaged"),
        (lambda v: v.update(evaluation=3), "is damaged"),
        (lambda v: v.update(schema=None), "has schema None, this fieldmark reads 1"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, spoil, message):
    values = make_values()
    spoil(values)
    (tmp_path / "mitigation.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=rf"mitigation\.json: {message}"):
        read_mitigation_parts(tmp_path)
    (tmp_path / "mitigation.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_mitigation_parts(tmp_path)


@pytest.mark.skipif(BROWSER is None, reason="needs chromium (tests/QUARANTINES.md)")
def test_at_360_pixels_nothing_runs_off_the_side(tmp_path):
    long = make_figure(f"image_y:{'w' * 60}_cluster:with", 0.1, 0.2, group=7)
    out = make_run(
        tmp_path / "run",
        pictures={"3": [make_picture(image="long-name-" * 9 + ".jpg", label="c" * 40)] * 5},
        figures=[*make_figures(), long],
        discovery="a/long/path/" * 9,
    )
    probe = """<script>addEventListener("load", () => {
      for (const details of document.querySelectorAll("details")) details.open = true;
      const broken = [...document.images].filter((image) => !image.naturalWidth).length;
      parent.postMessage(JSON.stringify([document.documentElement.scrollWidth, broken]), "*");
    });</script>"""
    text = write_mitigation_page(out).read_text()
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', probe, text)
    (tmp_path / "report.html").write_text(text)
    (tmp_path / "frame.html").write_text(FRAME.format(width=360))
    document, console = browse(tmp_path / "frame.html", tmp_path / "p", "--window-size=640,1000")
    found = re.search(r'<pre id="result">(.+?)</pre>', document)
    assert found is not None
    width, broken = json.loads(found[1])
    assert width <= 360
    assert broken == 0
    assert console == []
