"""`fieldmark discover` from its words to its page, on drawn images and a tiny CLIP."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from fieldmark.benchmarks import discovery
from fieldmark.benchmarks.discovery_record import read_discovery
from fieldmark.cli.dispatch import run
from fieldmark.core.records import read_run
from fieldmark.models.load import load_encoder
from fieldmark.testing import FakeEncoder
from tests.benchmarks.planted_corners import CLASS_NAMES, draw_corners
from tests.models import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "clip"
    return f"local-dir:{tiny.write_open_clip(folder, 'clip')}"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return a folder of folders of noise, with a white square in half of each class."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name in ("a [b]cat", "dog"):
        (folder / name).mkdir()
        for number in range(12):
            pixels = random.integers(0, 255, (40, 48, 3), np.uint8)
            pixels[:20, :20] = 255 if number % 2 else 0
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def words(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text("square\n[bold]noise\n")
    return path


def call(*given):
    with pytest.raises(SystemExit) as stop:
        run(["discover", *map(str, given)])
    return int(stop.value.code or 0)


def test_a_folder_of_images_gives_a_record_and_a_page(model, images, words, tmp_path, capsys):
    out = tmp_path / "run"
    asked = ["--model", model, "--data", images, "--out", out, "--vocabulary", words]
    options = ["--regions", "grid:2x2", "--clusters", "3-5", "--threshold", 0, "--seed", 3]
    assert call(*asked, *options, "--permutations", 99, "--precision", "fp32") == 0
    record = read_discovery(out)
    assert len(record.regions.images) == 4 * 24
    assert record.source == "grid:2x2"
    assert record.fingerprint == load_encoder(model).spec.fingerprint
    assert 3 <= len(record.regions.medoids) <= 5
    assert f"page: {out / 'report.html'}" in capsys.readouterr().err
    assert record.classes == ("a [b]cat", "dog")
    assert read_run(out)["arguments"]["clusters"] == "3-5"
    assert read_run(out)["seeds"] == [3]


def test_candidates_of_a_fake_encoder_are_printed_as_a_table(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(discovery, "load_encoder", lambda uri, *, device: FakeEncoder())
    table = draw_corners(tmp_path / "images")
    (tmp_path / "words.txt").write_text("[red]\nblue\ngreen\n")
    out, names = tmp_path / "run", [w for name in CLASS_NAMES for w in ("--class-name", name)]
    asked = ["--model", "fake:colours", "--data", table, "--out", out, "--regions", "quadrants"]
    assert call(*asked, *names, "--vocabulary", tmp_path / "words.txt") == 0
    record, told = read_discovery(out), capsys.readouterr()
    assert "With 1 of 4 clusters of regions accuracy changes more than chance" in told.err
    assert "Candidates, the largest gap first" in told.out
    assert len(record.candidates) == 2
    for one in record.candidates:
        low, high = one.interval
        line = next(row for row in told.out.splitlines() if f"{one.gap:.2f}" in row)
        assert f"[{low:.2f}, {high:.2f}]" in line
        assert ", ".join(word.word for word in one.words) in line
        assert str(one.tied_class) in line


def test_where_nothing_is_found_the_reason_is_printed(model, images, words, tmp_path, capsys):
    out = tmp_path / "run"
    asked = ["--model", model, "--data", images, "--out", out, "--vocabulary", words]
    assert call(*asked, "--method", "random", "--clusters", 2, "--permutations", 9) == 0
    told = capsys.readouterr()
    assert "Nothing found in 2 clusters of regions" in told.err
    assert "No cluster is a candidate: all regions in a random order" in told.err
    assert "<h1>Nothing found" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (["--clusters", "many"], 2, "'many' is no number of clusters"),
        (["--way", "guess"], 2, "--way"),
        (["--way", "align"], 1, "align"),
        (["--method", "ravle"], 2, "did you mean ravl?"),
        (["--regions", "quadrant"], 2, "quadrants"),
        (["--regions", "boxes:nowhere.csv"], 1, "nowhere.csv"),
        (["--vocabulary", "nowhere.txt"], 1, "nowhere.txt"),
        (["--split", "val"], 1, "has no split 'val'"),
        (["--resume"], 2, "holds no run to resume"),
        (["--clusters", "999"], 1, "cannot be clustered"),
    ],
)
def test_words_that_are_off_are_one_line(model, images, tmp_path, capsys, given, code, message):
    out = tmp_path / "run"
    out.mkdir()
    found = call("--model", model, "--data", images, "--out", out, *given)
    lines = [line for line in capsys.readouterr().err.splitlines() if "fieldmark:" in line]
    assert (found, len(lines)) == (code, 1)
    assert message in lines[0]
    assert not (out / "run.json").exists()
