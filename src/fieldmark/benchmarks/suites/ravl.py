"""RaVL's evaluation: discovery and mitigation on controlled settings (Tables 1 to 3, Figure 2)."""

from __future__ import annotations

from fieldmark.benchmarks.controlled.plan import plan_ravl
from fieldmark.benchmarks.controlled.run import run_controlled
from fieldmark.benchmarks.controlled.small_encoder import NAME
from fieldmark.benchmarks.suite import Suite
from fieldmark.benchmarks.suites.ravl_exhibits import draw_ravl

SUITES = (
    Suite(
        name="ravl",
        summary="spurious features that are known, discovered and trained away (RaVL, Tables 1-3)",
        plan=plan_ravl,
        draw=draw_ravl,
        run=run_controlled,
        datasets=("digits", "fashion", "stamps"),
        model=NAME,
        packaged=True,
    ),
)
