"""Tiny models, written once a session; tests must not change them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.models import tiny


@pytest.fixture(scope="session")
def open_clip_folder(tmp_path_factory) -> Callable[[str], Path]:
    """Return a function from a family to its `local-dir:` folder."""
    root = tmp_path_factory.mktemp("open_clip")

    def get(family: str) -> Path:
        folder: Path = root / family
        if folder.exists():
            return folder
        if family == "bert-text":
            return tiny.write_bert_text(folder)
        return tiny.write_open_clip(folder, family)

    return get


@pytest.fixture(scope="session")
def transformers_folder(tmp_path_factory) -> Callable[[str], Path]:
    """Return a function from a family to its folder in transformers' layout."""
    root = tmp_path_factory.mktemp("transformers")

    def get(family: str) -> Path:
        folder: Path = root / family
        return folder if folder.exists() else tiny.write_transformers(folder, family)

    return get
