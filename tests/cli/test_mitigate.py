"""`fieldmark discover`, then `fieldmark mitigate`, on drawn images and a tiny CLIP."""

from __future__ import annotations

import csv

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from fieldmark.cli.dispatch import run
from fieldmark.core.records import read_rows, read_run
from fieldmark.models.load import load_encoder
from fieldmark.report.mitigation_parts import read_mitigation_parts
from tests.models import tiny

SETTINGS = ["epochs=2", "batch_size=8", "learning_rate=1e-3", "validation_share=0.2"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "clip"
    return f"local-dir:{tiny.write_open_clip(folder, 'clip')}"


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FIELDMARK_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Return a table of noise in three splits, with a white square in half of each class."""
    folder, random = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    rows = [["path", "label", "split"]]
    for split in ("train", "val", "test"):
        for number in range(16):
            pixels = random.integers(0, 255, (40, 48, 3), np.uint8)
            pixels[:20, :20] = 255 if number % 4 < 2 else 0
            name = f"{split}-{number}.png"
            Image.fromarray(pixels).save(folder / name)
            rows.append([name, ("cat", "hot [dog]")[number % 2], split])
    with (folder / "table.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows(rows)
    return folder / "table.csv"


def call(verb, *given):
    with pytest.raises(SystemExit) as stop:
        run([verb, *map(str, given)])
    return int(stop.value.code or 0)


@pytest.fixture(scope="module")
def found(model, images, cache, tmp_path_factory):
    """Return the folder of a discovery; its candidates are those of the weights' noise."""
    folder = tmp_path_factory.mktemp("found")
    (folder / "words.txt").write_text("square\nnoise\n")
    asked = ["--model", model, "--data", images, "--out", folder / "run"]
    options = ["--regions", "quadrants", "--clusters", "3", "--threshold", 0, "--gallery", 0]
    words = ["--vocabulary", folder / "words.txt", "--permutations", 19]
    assert call("discover", *asked, *options, *words) == 0
    return folder / "run"


def ask(model, images, found, out, *more, settings=SETTINGS):
    given = ["--model", model, "--data", images, "--discovery", found, "--out", out]
    return [*given, *(word for setting in settings for word in ("--set", setting)), *more]


def test_mitigate_leaves_an_encoder_that_open_clip_loads(model, images, found, tmp_path, capsys):
    out = tmp_path / "run"
    assert call("mitigate", *ask(model, images, found, out, "--cluster", 1, "--gallery", 2)) == 0
    told = capsys.readouterr()
    assert "Worst-group accuracy" in told.err
    assert "Split test" in told.out
    assert "Gap G of cluster 1" in told.out
    assert f"encoder: {out / 'encoder'}" in told.err
    assert (out / "report.html").is_file()
    trained, start = load_encoder(str(out)), load_encoder(model)
    run = read_run(out)
    assert run["weights"] == {
        "before": start.spec.fingerprint,
        "after": trained.spec.fingerprint,
    }
    assert trained.spec.fingerprint != start.spec.fingerprint
    torch.testing.assert_close(trained.encode_text(["a cat"]), start.encode_text(["a cat"]))
    theirs, _, _ = open_clip.create_model_and_transforms(f"local-dir:{out / 'encoder'}")
    pixels = torch.zeros(1, 3, 32, 32)
    with torch.no_grad():
        ours = trained.image_tower(pixels)
        torch.testing.assert_close(theirs.eval().encode_image(pixels), ours)
    parts = read_mitigation_parts(out)
    assert parts.values["counts"]["held_out"] == 3
    assert parts.values["training"]["epochs"] == 2
    assert {row.method for row in read_rows(out)} == {"native", "ravl"}


def test_a_finished_run_is_not_written_over(model, images, found, tmp_path, capsys):
    out = tmp_path / "run"
    words = ask(model, images, found, out, "--cluster", 0, "--method", "standard", "--gallery", 0)
    assert call("mitigate", *words, "--split", "val") == 0
    assert call("mitigate", *words, "--split", "val") == 2
    assert "holds a finished run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (["--method", "ravle"], 2, "did you mean ravl?"),
        (["--cluster", "7"], 2, "there is no cluster 7"),
        (["--split", "tests"], 1, "has no split 'tests'"),
        (["--caption-column", "text"], 1, "has no column 'text'"),
        (["--several", "none"], 2, "--several"),
        (["--set", "epoch=1"], 2, "unknown setting 'epoch'"),
        (["--discovery", "nowhere"], 1, "nowhere: holds no discovery.json"),
        (["--resume"], 2, "holds no run to resume"),
    ],
)
def test_words_that_are_off_are_one_line(
    model, images, found, tmp_path, capsys, given, code, message
):
    out = tmp_path / "run"
    out.mkdir()
    assert call("mitigate", *ask(model, images, found, out, "--cluster", 0), *given) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if "fieldmark:" in line]
    assert len(lines) == 1
    assert message in lines[0]
    assert not (out / "run.json").exists()


def test_nothing_discovered_is_one_line(model, images, cache, tmp_path, capsys):
    (tmp_path / "words.txt").write_text("noise\n")
    asked = ["--model", model, "--data", images, "--out", tmp_path / "found", "--clusters", 2]
    more = ["--method", "random", "--vocabulary", tmp_path / "words.txt", "--permutations", 9]
    assert call("discover", *asked, *more, "--regions", "quadrants") == 0
    capsys.readouterr()
    words = ask(model, images, tmp_path / "found", tmp_path / "run")
    assert call("mitigate", *words) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "nothing was found to train away" in line
    assert "name a --cluster" in line


def test_another_model_is_one_line(images, found, tmp_path, capsys):
    folder = tmp_path / "other"
    tiny.write_open_clip(folder, "clip-attention")
    words = ask(f"local-dir:{folder}", images, found, tmp_path / "run", "--cluster", 0)
    assert call("mitigate", *words) == 1
    assert "are not those that were discovered on" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
