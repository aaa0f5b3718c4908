"""One Ray session of two workers for all tests that need one: it takes ten seconds to start."""

from __future__ import annotations

import pytest

from fieldmark.models.engine import open_engine


@pytest.fixture(scope="session")
def ray_engine():
    with open_engine("ray", workers=2) as opened:
        yield opened
