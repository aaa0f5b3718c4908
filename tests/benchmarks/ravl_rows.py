"""Rows of `bench ravl` typed by hand: no model and no image is behind them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fieldmark.benchmarks.jobs import Job, TaskRef
from fieldmark.benchmarks.store import Measured
from fieldmark.benchmarks.suite import Found
from fieldmark.core.records import ResultRow

NAN = math.nan
Values = Mapping[str, Sequence[float]]


def row(
    domain: str, name: str, method: str, metric: str, value: float, *, seed: int = 0, count: int = 9
) -> ResultRow:
    return ResultRow(
        suite="ravl",
        dataset=domain,
        setting=name,
        method=method,
        metric=metric,
        seed=seed,
        value=value,
        count=count,
    )


def measure(
    name: str,
    *,
    strength: float,
    precision: Values,
    mitigation: Mapping[tuple[str, str], Sequence[float]] | None = None,
    model: str = "m",
) -> Found:
    """Return what a setting found; a method's figures are one a seed."""
    domain = name.split()[0]
    rows = [row(domain, name, "fine-tuned", "strength", strength)]
    for method, values in precision.items():
        for seed, value in enumerate(values):
            size = NAN if math.isnan(value) else 12
            rows += [
                row(domain, name, method, "precision@10", value, seed=seed, count=10),
                row(domain, name, method, "cluster_size", size, seed=seed),
            ]
    for (method, metric), values in (mitigation or {}).items():
        rows += [row(domain, name, method, metric, v, seed=s) for s, v in enumerate(values)]
    return Job(task=TaskRef(dataset=domain), model=model), Measured(rows=tuple(rows))


FOUND = [
    measure(
        "digits stripes left",
        strength=15,
        precision={"ravl": [1.0, 0.8], "domino": [0.2, 0.0], "gap-only": [0.5, 0.5]},
    ),
    measure(
        "digits red-rectangle left",
        strength=25,
        precision={"ravl": [NAN, 0.6], "domino": [0.4, 0.4], "gap-only": [0.1, 0.1]},
    ),
    measure(
        "stamps stripes left",
        strength=45,
        precision={"ravl": [1.0, 1.0], "domino": [0.6, 0.2], "gap-only": [0.9, 0.7]},
    ),
    measure(
        "stamps stripes right", strength=9.5, precision={"ravl": [0.0, 0.0], "domino": [1.0, 1.0]}
    ),
]
