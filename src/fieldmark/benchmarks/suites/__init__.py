"""The suites of `fieldmark bench`, by name."""

from __future__ import annotations

from collections.abc import Mapping

from fieldmark.benchmarks.suite import Suite
from fieldmark.benchmarks.suites import ravl, robustness, studies

SUITES: Mapping[str, Suite] = {
    suite.name: suite for suite in (*robustness.SUITES, *ravl.SUITES, *studies.SUITES)
}
