"""No verb reaches for the network unless its words ask for something that lies there."""

from __future__ import annotations

import socket
import sys
import urllib.request
from pathlib import Path

import pytest

from fieldmark.cli import main
from fieldmark.data.datasets import build_dataset
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


def test_what_is_tried_is_seen(reached):
    with pytest.raises(OSError, match="the network is off"):
        urllib.request.urlopen("http://localhost:9/")
    assert "localhost" in reached[0]
