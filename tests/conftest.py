"""Options, golden files, and a cache of its own for every test session."""

from __future__ import annotations

import os
from pathlib import Path

# Two threads of one core mostly wait for each other on products as small as a test's.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser):
    parser.addoption("--update-golden", action="store_true", help="write the golden files anew")
    parser.addoption("--run-network", action="store_true", help="run tests that fetch packages")


def pytest_collection_modifyitems(config, items):
    if config.getoption("--run-network") or os.environ.get("CI"):
        return
    skip = pytest.mark.skip(reason="fetches packages: --run-network (tests/QUARANTINES.md)")
    for item in items:
        if "network" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def golden(request):
    """Return a function that compares a text with tests/golden/NAME, or writes it."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"no golden file {name}: run pytest --update-golden"
        assert text == path.read_text()

    return compare
