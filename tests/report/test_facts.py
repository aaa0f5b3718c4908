"""Facts of a record, and thumbnails: short, whole on demand, never a traceback."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fieldmark.core.records import start_run
from fieldmark.report import write_page
from fieldmark.report.facts import MOST_FACTS, list_facts
from fieldmark.report.names import DASH
from fieldmark.report.pictures import BACKDROP, embed_thumbnail
from tests.report.sample import write_parts


def test_facts_nest_and_say_what_is_empty() -> None:
    value = {"a_b": None, "c": {"d": True, "e": []}, "f": {}, "g": 0.5, "h": [{"i": 1}, 2]}
    first, second, third, fourth, fifth = list_facts(value)
    assert (first.name, first.text) == ("a b", DASH)
    assert [(fact.name, fact.text) for fact in second.facts] == [("d", "yes"), ("e", third.text)]
    assert fourth.text == "0.5"
    assert [(f.name, f.text, len(f.facts)) for f in fifth.facts] == [("1", "", 1), ("2", "2", 0)]


def test_digests_and_long_lists_are_cut_short() -> None:
    digest, many = list_facts({"sha256": "ab" * 32, "ids": list(range(MOST_FACTS + 5))})
    assert (digest.text, digest.whole) == ("abababababab…", "ab" * 32)
    assert many.text.endswith("22, 23 and 5 more, in run.json")
    facts = list_facts({str(i): i for i in range(MOST_FACTS + 2)})
    assert (len(facts), facts[-1].name) == (MOST_FACTS + 1, "and 2 more")


def read_thumbnail(uri: str | None) -> Image.Image:
    assert uri is not None
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "CMYK", "I;16", "1"])
def test_every_kind_of_image_becomes_a_small_jpeg(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.new(mode, (400, 200)).save(path)
    thumbnail = read_thumbnail(embed_thumbnail(path, side=100))
    assert (thumbnail.size, thumbnail.mode) == ((100, 50), "RGB")


def test_what_is_clear_shows_the_backdrop(tmp_path: Path) -> None:
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(tmp_path / "a.png")
    thumbnail = read_thumbnail(embed_thumbnail(tmp_path / "a.png"))
    assert np.abs(np.asarray(thumbnail, int) - BACKDROP).max() <= 2


def test_what_is_no_image_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (64, 64)).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert embed_thumbnail(path) is None
    path.write_bytes(whole)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64 - 1)
    assert embed_thumbnail(path) is None
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert embed_thumbnail(path) is None
    assert embed_thumbnail(tmp_path) is None


def test_a_run_that_only_trained_has_a_page_of_its_training(tmp_path: Path) -> None:
    run = start_run(tmp_path / "out", "bap", arguments={})
    write_parts(run.out / "page")
    html = write_page(run.finish()).read_text(encoding="utf-8")
    assert "<h1>made-up figures for a test, nothing was measured</h1>" in html
    assert '<p class="eyebrow">fieldmark bap</p>' in html
    assert "<h2>Training</h2>" in html
    assert 'class="lead"' not in html
