from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image

from fieldmark.core.errors import InputError
from fieldmark.core.records import start_run
from fieldmark.report import discovery_page
from fieldmark.report.discovery_page import build_discovery_page, write_discovery_page
from fieldmark.report.discovery_parts import read_discovery_parts
from fieldmark.report.discovery_words import tell_classes, write_sentences, write_title
from tests.report.test_browser import BROWSER, FRAME, browse

EVIL = '<script>alert("&")</script>'


def make_label(name, gap):
    return {
        "name": name,
        "accuracy_with": 0.9,
        "accuracy_without": 0.9 - gap,
        "gap": gap,
        "interval": [gap - 0.1, gap + 0.1],
        "images_with": 20,
        "images_without": 30,
    }


def make_candidate(cluster, p_value, *, tied="cat", words=("bowl",)):
    return {
        "cluster": cluster,
        "tied_class": tied,
        "influence": 0.75,
        "gap": 0.6,
        "interval": [0.2, 0.9],
        "chance": 0.1,
        "p_value": None if p_value is None else p_value / 2,
        "adjusted_p_value": p_value,
        "size": 40,
        "images": 38,
        "medoid": 7,
        "nearest": [{"row": 7, "image": "a.jpg", "box": [0, 0, 4, 4]}],
        "words": [{"word": word, "similarity": 0.25} for word in words],
        "classes": [make_label("cat", 0.4), make_label("dog", -0.2)],
    }


def make_values(candidates):
    return {
        "schema": 1,
        "model": "local-dir:m",
        "dataset": "pets",
        "split": "val",
        "method": "ravl",
        "level": 0.05,
        "permutations": 999,
        "accuracy": 0.8125,
        "images": 1200,
        "regions": {"source": "quadrants", "way": "crop", "count": 4800},
        "clustering": {"asked": "4-10", "found": 24},
        "selection": {"name": "paper", "threshold": 0.25},
        "reason": "of 24 clusters 22 left out: its influence is below 0.25 (22)",
        "notes": ["one image only, so no gap: newt"],
        "candidates": candidates,
        "all_clusters": [
            {"cluster": 3, "size": 40, "images": 38, "gap": 0.6, "influence": 0.75},
            {"cluster": 4, "size": 4, "images": 4, "gap": 0.1, "influence": 0.1},
            {"cluster": 5, "size": 4, "images": 4, "gap": None, "influence": None},
        ],
    }


def make_run(folder, candidates, *, pictures=None, **changed):
    run = start_run(folder, "discover", arguments={"model": "m"})
    (folder / "discovery.json").write_text(json.dumps({**make_values(candidates), **changed}))
    if pictures is not None:
        (folder / "page").mkdir()
        Image.effect_noise((144, 144), 90).convert("RGB").save(folder / "page" / "a.jpg")
        (folder / "page" / "pictures.json").write_text(json.dumps(pictures))
    return run.finish()


def make_strip(count, *, image="a.jpg", label="dog", predicted="cat", crop="a.jpg", of=50):
    one = {"image": image, "label": label, "predicted": predicted, "whole": "a.jpg", "crop": crop}
    return {"count": of, "pictures": [one] * count}


class Reader(HTMLParser):
    """Collect what a page loads, what its images say, and which scripts it has."""

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


@pytest.mark.parametrize(
    ("p_values", "changed", "title"),
    [
        (
            [0.001, 0.3],
            {},
            "With 1 of 24 clusters of regions accuracy changes more than chance explains, at level "
            "0.05",
        ),
        (
            [0.001, 0.05],
            {},
            "With 2 of 24 clusters of regions accuracy changes more than chance explains, at level "
            "0.05",
        ),
        ([0.051, 0.3], {}, "None of 24 clusters is told from chance at level 0.05"),
        ([0.04], {"level": 0.01}, "None of 24 clusters is told from chance at level 0.01"),
        ([], {}, "Nothing found in 24 clusters of regions"),
        (
            [None],
            {"method": "domino"},
            "domino names one group of regions; it has no p-value",
        ),
    ],
)
def test_the_headline_claims_no_more_than_the_p_values_bear(tmp_path, p_values, changed, title):
    candidates = [make_candidate(3 + i, p) for i, p in enumerate(p_values)]
    out = make_run(tmp_path / "run", candidates, **changed)
    assert write_title(read_discovery_parts(out)) == title
    page = write_discovery_page(out).read_text()
    assert f"<h1>{title}</h1>" in page


@pytest.mark.parametrize(
    ("p_values", "sentence"),
    [
        ([0.001, 0.3], "1 of them passes at level 0.05, corrected for all 24 clusters by 999"),
        ([0.001, 0.3], "The other one may be chance."),
        ([0.3, 0.4], "None of them passes at level 0.05"),
        ([0.01, 0.02], "2 of them pass at level 0.05"),
        ([0.01], "not that the cluster is spurious"),
        ([], "No cluster is a candidate: of 24 clusters 22 left out"),
    ],
)
def test_the_sentences_say_what_it_bears(tmp_path, p_values, sentence):
    candidates = [make_candidate(3 + i, p) for i, p in enumerate(p_values)]
    out = make_run(tmp_path / "run", candidates)
    assert sentence in " ".join(write_sentences(read_discovery_parts(out)))


def test_a_candidate_shows_its_figures_and_both_kinds_of_examples(tmp_path):
    strips = {
        "nearest": make_strip(2, label="cat"),
        "misled": make_strip(1, of=9),
        "missed": make_strip(1, label="cat", predicted="dog", crop=None, of=4),
    }
    out = make_run(tmp_path / "run", [make_candidate(3, 0.002)], pictures={"3": strips})
    page = write_discovery_page(out).read_text()
    assert "1. bowl, tied to cat" in page
    assert "More than chance: corrected p 0.002" in page
    # What `mitigate --cluster` takes is the id, not the place in the table.
    assert re.search(r'--cluster</th>.*<span class="mean">3</span></td>\s*</tr>', page, re.DOTALL)
    told = "On images of cat accuracy is 0.90 with a region of this cluster (20 images) and 0.50 "
    assert f"{told}without (30): a difference of 0.40 [0.30, 0.50]." in page
    assert "On images of dog accuracy is 0.90 with" in page
    assert "No class is named right more often with it" not in page
    assert "Misled: images that have it and are wrongly taken for cat <span>1 of 9 images" in page
    assert "Missed: images of cat that do not have it and are named wrongly" in page
    assert "-0.20 [-0.30, -0.10]" in page
    assert '0.60</span> <span class="interval">[0.20, 0.90]' in page
    assert "One image only, so no gap: newt." in page
    reader = read_html(out / "report.html")
    assert len(reader.images) == 2 * 2 + 2 + 1
    assert all(image["alt"] for image in reader.images)
    assert "Region of a.jpg, dog, taken for cat" in {image["alt"] for image in reader.images}


def test_a_class_that_only_errors_speak_for_is_said_to_be_so(tmp_path):
    out = make_run(tmp_path / "run", [make_candidate(3, 0.002, tied="dog")])
    told = tell_classes(read_discovery_parts(out).candidates[0])
    assert "it is tied to dog because the wrong predictions" in told[1]
    assert len(told) == 2
    alone = make_run(tmp_path / "alone", [make_candidate(3, 0.002, tied="newt")])
    told = tell_classes(read_discovery_parts(alone).candidates[0])
    assert "it is tied to newt because" in told[0]
    assert "On images of dog" in told[1]


def test_the_page_loads_nothing_and_has_one_script(tmp_path):
    strips = {"nearest": make_strip(1)}
    out = make_run(tmp_path / "run", [make_candidate(3, 0.002)], pictures={"3": strips})
    reader = read_html(write_discovery_page(out))
    assert all(source.startswith("data:") for source in reader.sources)
    assert reader.scripts == 1


def test_markup_in_names_is_shown_not_obeyed(tmp_path):
    strips = {"nearest": make_strip(1, image=EVIL, label=EVIL, predicted=EVIL)}
    out = make_run(
        tmp_path / "run",
        [make_candidate(3, 0.002, tied=EVIL, words=[EVIL])],
        pictures={"3": strips},
        dataset=EVIL,
        model=EVIL,
        reason=EVIL,
        notes=[EVIL],
    )
    path = write_discovery_page(out)
    assert EVIL not in path.read_text()
    assert read_html(path).scripts == 1


def test_pictures_stop_where_the_page_would_grow_too_large(tmp_path, monkeypatch):
    monkeypatch.setattr(discovery_page, "BUDGET", 60_000)
    strips = {"nearest": make_strip(40)}
    out = make_run(tmp_path / "run", [make_candidate(3, 0.002)], pictures={"3": strips})
    page = write_discovery_page(out).read_text()
    shown = page.count('alt="Region of')
    assert 0 < shown < 40
    assert f"{40 - shown} pictures are left out" in page
    assert len(page) < 120_000


def test_a_full_page_stays_below_5_megabytes(tmp_path):
    candidates = [make_candidate(3 + i, 0.002) for i in range(30)]
    strips = {name: make_strip(60) for name in ("nearest", "misled", "missed")}
    pictures = {str(3 + i): strips for i in range(3)}
    path = write_discovery_page(make_run(tmp_path / "run", candidates, pictures=pictures))
    assert 2_000_000 < path.stat().st_size < 5_000_000
    assert "27 of the candidates have no pictures on this page" in path.read_text()


def test_missing_pictures_are_said_to_be_missing(tmp_path):
    strips = {"nearest": make_strip(1)}
    out = make_run(tmp_path / "run", [make_candidate(3, 0.002)], pictures={"3": strips})
    (out / "page" / "a.jpg").unlink()
    page = write_discovery_page(out).read_text()
    assert page.count(">image missing</span>") == 2
    (out / "page" / "pictures.json").unlink()
    assert "Cluster" not in re.findall(r"<h2>(.*?)</h2>", write_discovery_page(out).read_text())


def test_a_picture_outside_of_the_run_is_refused(tmp_path):
    strips = {"nearest": make_strip(1, crop="../../secret.jpg")}
    out = make_run(tmp_path / "run", [make_candidate(3, 0.002)], pictures={"3": strips})
    with pytest.raises(InputError, match="lies outside"):
        write_discovery_page(out)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: v.pop("candidates"), "is damaged"),
        (lambda v: v["candidates"][0].pop("gap"), "is damaged"),
        (lambda v: v["candidates"][0].update(interval=3), "is damaged"),
        (lambda v: v.update(all_clusters=[7]), "is damaged"),
        (lambda v: v.update(schema=None), "has schema None"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, spoil, message):
    values = make_values([make_candidate(3, 0.002)])
    spoil(values)
    (tmp_path / "discovery.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=rf"discovery\.json: {message}"):
        read_discovery_parts(tmp_path)


def test_every_cluster_with_both_scores_is_drawn(tmp_path):
    out = make_run(tmp_path / "run", [make_candidate(3, 0.002)])
    parts = read_discovery_parts(out)
    page = build_discovery_page(parts, manifest={})
    assert "cluster 3: influence 0.75, gap 0.60; cluster 4: influence 0.10, gap 0.10</desc>" in page
    bare = build_discovery_page(replace(parts, clusters=()), manifest={})
    assert "<svg class" not in re.sub(r'<svg class="verdict.*?</svg>', "", bare)


@pytest.mark.skipif(BROWSER is None, reason="needs chromium (tests/QUARANTINES.md)")
def test_at_360_pixels_nothing_runs_off_the_side(tmp_path):
    strips = {
        name: make_strip(7, image="a-very-long-file-name-" * 4 + ".jpg", label="c" * 40)
        for name in ("nearest", "misled", "missed")
    }
    candidates = [make_candidate(3, 0.002, tied="w" * 40, words=["a word", "v" * 30])]
    source = write_discovery_page(make_run(tmp_path / "run", candidates, pictures={"3": strips}))
    probe = """<script>addEventListener("load", () => {
      for (const details of document.querySelectorAll("details")) details.open = true;
      const broken = [...document.images].filter((image) => !image.naturalWidth).length;
      parent.postMessage(JSON.stringify([document.documentElement.scrollWidth, broken]), "*");
    });</script>"""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', probe, source.read_text())
    (tmp_path / "report.html").write_text(text)
    (tmp_path / "frame.html").write_text(FRAME.format(width=360))
    document, console = browse(tmp_path / "frame.html", tmp_path / "p", "--window-size=640,1000")
    found = re.search(r'<pre id="result">(.+?)</pre>', document)
    assert found is not None
    width, broken = json.loads(found[1])
    assert width <= 360
    assert broken == 0
    assert console == []
