"""The studies of the BAP paper (its figures, Tables 1, 6, 7, 10 to 12 and 14 to 16)."""

from __future__ import annotations

from fieldmark.benchmarks.suite import Suite
from fieldmark.benchmarks.suites import recognition, structure, sweeps

SUITES: tuple[Suite, ...] = (*structure.SUITES, *sweeps.SUITES, *recognition.SUITES)
