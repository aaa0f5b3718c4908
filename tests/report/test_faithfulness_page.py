"""The page of a faithfulness run, from a record written by hand."""

from __future__ import annotations

import json

import pytest

from fieldmark.core.errors import InputError
from fieldmark.core.records import start_run
from fieldmark.report.faithfulness_page import rank_methods, write_faithfulness_page
from fieldmark.report.faithfulness_parts import read_faithfulness_parts
from fieldmark.report.faithfulness_words import write_sentences, write_title

EVIL = '<script>alert("&")</script>'
KINDS = ("deletion", "insertion", "gap")


def make_figure(value, width=0.1):
    low, high = (None, None) if value is None else (value - width, value + width)
    return {"value": value, "low": low, "high": high, "count": 9, "objects": 9}


def make_method(name, title, gap, *, is_null=False):
    areas = {"deletion": make_figure(0.4), "insertion": make_figure(0.5), "gap": make_figure(gap)}
    return {
        "name": name,
        "title": title,
        "is_null": is_null,
        "uses_text": not is_null,
        "areas": {"probability": areas, "cosine": areas},
        "curves": {curve: [make_figure(y) for y in (0.9, 0.5, None)] for curve in KINDS[:2]},
        "localisation": {"energy": make_figure(0.3)} if not is_null else {},
        "cost": {
            "seconds": 1.0,
            "seconds_per_image": 0.1,
            "images_per_second": None,
            "forwards": 7.0,
            "backwards": 0.0,
            "curve_forwards": 4.0,
        },
    }


def make_contrast(method, against, value, kind="gap"):
    return {
        "score": "probability",
        "kind": kind,
        "method": method,
        "against": against,
        "value": value,
        "low": value - 0.05,
        "high": value + 0.05,
        "simultaneous_low": value - 0.1,
        "simultaneous_high": value + 0.1,
        "count": 9,
    }


@pytest.fixture
def record():
    return {
        "schema": 1,
        "model": EVIL,
        "dataset": EVIL,
        "split": "test",
        "images": 9,
        "objects": 4,
        "protocol": {
            "preset": "cci",
            "space": "model_input",
            "fraction_max": 0.5,
            "points": 2,
            "delete_fill": "noise",
            "insert_start": "black",
        },
        "changed": {"points": 2},
        "grids": {curve: [0.0, 0.25, 0.5] for curve in KINDS[:2]},
        "attribution": {"clusters": 7},
        "headline": "probability",
        "scores": ["probability", "cosine"],
        "reference": "cci",
        "best_null": dict.fromkeys(KINDS, "random"),
        "methods": [
            make_method("random", "random (null)", 0.0, is_null=True),
            make_method("cci", "CCI", 0.2),
            make_method("rise", "RISE", 0.4),
        ],
        "contrasts": [
            make_contrast("cci", "random", 0.2),
            make_contrast("rise", "random", 0.4),
            make_contrast("rise", "cci", 0.2),
        ],
        "skipped": {"game": EVIL},
        "sanity": [],
    }


def write(folder, record):
    start_run(folder, "faithfulness", arguments={"model": "m"}).finish()
    (folder / "faithfulness.json").write_text(json.dumps(record))
    return folder


def test_the_page_ranks_escapes_and_loads_nothing(tmp_path, record):
    page = write_faithfulness_page(write(tmp_path / "run", record)).read_text()
    assert EVIL not in page
    assert "&lt;script&gt;alert" in page
    assert "default-src &#39;none&#39;" in page or "default-src 'none'" in page
    for words in ("RISE comes first of 2 methods", "Energy in the mask", "Not measured", "<svg"):
        assert words in page
    parts = read_faithfulness_parts(tmp_path / "run")
    assert [line.names[0] for line in rank_methods(parts).lines] == ["RISE", "CCI", "random (null)"]


def test_sentences_claim_what_their_intervals_bear(tmp_path, record):
    parts = read_faithfulness_parts(write(tmp_path / "run", record))
    text = " ".join(write_sentences(parts))
    assert "9 images of 4 objects" in text
    assert "2 of 2 methods have a larger gap than the better null (random)" in text
    assert "CCI is number 2; surely ahead of it: RISE by 0.200" in text
    assert "points = 2" in text


def test_nothing_is_claimed_where_the_intervals_hold_0(tmp_path, record):
    for contrast in record["contrasts"]:
        contrast["simultaneous_low"] = -0.01
    parts = read_faithfulness_parts(write(tmp_path / "run", record))
    assert write_title(parts) == "No method is told from a map that knows nothing"
    assert "no method is surely ahead of it" in " ".join(write_sentences(parts))


def test_a_run_without_cci_says_so(tmp_path, record):
    record["reference"] = None
    record["methods"] = [one for one in record["methods"] if one["name"] != "cci"]
    parts = read_faithfulness_parts(write(tmp_path / "run", record))
    assert "CCI was not measured." in write_sentences(parts)
    write_faithfulness_page(tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"schema": 9}, "has schema 9"), ({"methods": None}, "lacks methods")],
)
def test_a_record_that_is_off_gives_one_line(tmp_path, record, change, message):
    record = {k: v for k, v in {**record, **change}.items() if v is not None}
    write(tmp_path / "run", record)
    with pytest.raises(InputError, match=message):
        read_faithfulness_parts(tmp_path / "run")
