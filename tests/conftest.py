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
    parser.addoption("--run-slow", action="store_true", help="run tests that take many seconds")


def pytest_collection_modifyitems(config, items):
    skipped = {
        "network": "fetches packages: --run-network (tests/QUARANTINES.md)",
        "slow": "takes many seconds: make test-slow (tests/QUARANTINES.md)",
    }
    if config.getoption("--run-network") or os.environ.get("CI"):
        del skipped["network"]
    if config.getoption("--run-slow"):
        del skipped["slow"]
    for item in items:
        for name, reason in skipped.items():
            if name in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


def pytest_make_parametrize_id(val):
    """Name bytes by their length: a time stamp in them would differ between two processes."""
    return f"{len(val)}-bytes" if isinstance(val, bytes) else None


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
