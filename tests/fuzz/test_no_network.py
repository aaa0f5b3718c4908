"""No verb reaches for the network unless its words ask for something that lies there."""

from __future__ import annotations

import json
import shutil
import socket
import sys
import urllib.request
from pathlib import Path

import pytest

from fieldmark.cli import main
from fieldmark.core.errors import FieldmarkError
from fieldmark.data.datasets import build_dataset
from fieldmark.models.load import load_encoder
from tests.models import tiny

SMALL = {"size": 32, "n_objects": 4, "n_scenes": 4, "per_class": 6, "per_group": 2}


@pytest.fixture
def reached(monkeypatch) -> list[str]:
    """Cut the network off and return the list of what was tried."""
    tried: list[str] = []

    def refuse(*given, **named):
        tried.append(repr(given)[:200])
        raise OSError("the network is off in this test")

    for name in ("getaddrinfo", "gethostbyname", "create_connection"):
        monkeypatch.setattr(socket, name, refuse)
    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    return tried


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return build_dataset("synthetic", tmp_path_factory.mktemp("d") / "s", options=SMALL)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("m") / "clip"
    return f"local-dir:{tiny.write_open_clip(folder, 'clip')}"


def test_verbs_on_local_files_reach_for_nothing(
    data, model, tmp_path, monkeypatch, capsys, reached
):
    monkeypatch.setenv("FIELDMARK_CACHE", str(tmp_path / "cache"))
    words = ["--model", model, "--data", str(data), "--out"]
    regions = ["--split", "train", "--regions", "quadrants"]
    verbs = [
        ["data", "list"],
        ["embed", *words, str(tmp_path / "embed")],
        ["evaluate", *words, str(tmp_path / "evaluate")],
        ["discover", *words, str(tmp_path / "discover"), *regions],
    ]
    for verb in verbs:
        monkeypatch.setattr(sys, "argv", ["fieldmark", *verb])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code, capsys.readouterr().err
    assert not reached


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("vision_cfg", "timm_model_name", "hf-hub:org/repo"),
        ("vision_cfg", "timm_model_name", "local-dir:/etc"),
        ("text_cfg", "hf_model_name", "org/repo"),
        ("text_cfg", "hf_tokenizer_name", "org/repo"),
    ],
)
def test_no_configuration_in_a_folder_sends_anyone_to_the_hub(
    part, key, value, model, tmp_path, reached
):
    folder = Path(shutil.copytree(model.removeprefix("local-dir:"), tmp_path / "m"))
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"][part][key] = value
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(FieldmarkError):
        load_encoder(f"local-dir:{folder}")
    assert not reached


def test_what_is_tried_is_seen(reached):
    with pytest.raises(OSError, match="the network is off"):
        urllib.request.urlopen("http://localhost:9/")
    assert "localhost" in reached[0]
