"""`fieldmark diagnose` from its words to its page, on painted squares and a fake encoder."""

from __future__ import annotations

import pytest
from PIL import Image
from typer.testing import CliRunner

from fieldmark.benchmarks.attribution import diagnosis
from fieldmark.cli.diagnose import app
from fieldmark.testing import FakeEncoder


@pytest.fixture
def data(tmp_path):
    mask = Image.new("L", (8, 8))
    mask.paste(255, (2, 2, 6, 6))
    mask.save(tmp_path / "mask.png")
    lines = ["path,label,mask"]
    for number, (inside, outside) in enumerate([("red", "blue"), ("red", "white")] * 3):
        image = Image.new("RGB", (8, 8), outside)
        image.paste(inside, (2, 2, 6, 6))
        image.save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'red' if number % 2 else 'white'},mask.png")
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_words_become_a_page_and_a_table(data, monkeypatch):
    monkeypatch.setattr(diagnosis, "load_encoder", lambda uri, *, device: FakeEncoder())
    words = ["--model", "fake", "--data", str(data / "table.csv"), "--out", str(data / "run"),
             "--method", "occlusion", "--rule", "causal,density", "--similar", "none",
             "--causal-draws", "2", "--draws", "10"]  # fmt: skip
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    assert "Sources of errors" in result.output
    assert (data / "run" / "report.html").is_file()


def test_an_unknown_rule_is_named(data):
    words = ["--model", "fake", "--data", "x", "--out", str(data / "run"), "--rule", "iou"]
    result = CliRunner().invoke(app, words)
    assert "unknown rule 'iou'" in str(result.exception)
