"""The demo at several seeds: the figures that the README quotes, with what is asked of them.

    python benchmarks/demo.py [--out runs/demo] [--seeds 3] [--task birds-mammals]

Each seed is a run of `fieldmark demo` in its own process (OUT/seed-N); a finished one is not
repeated. Prints the table over seeds, and which targets hold.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

from rich.console import Console

from fieldmark.core.records import RUN, ResultRow, read_rows, read_run
from fieldmark.metrics.intervals import mean_and_deviation
from fieldmark.report import render_rich, summarise
from fieldmark.report.sections import list_tables


def find(
    rows: list[ResultRow], method: str, metric: str, split: str = "test_unseen"
) -> list[float]:
    head = "" if metric.startswith("bsi") else "linear-probe"
    return [
        row.value
        for row in rows
        if (row.method, row.metric, row.split) == (method, metric, split) and row.head == head
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--task", default="birds-mammals")
    parser.add_argument("more", nargs="*", help="further words for `fieldmark demo`, after --")
    options = parser.parse_args()
    rows: list[ResultRow] = []
    for seed in range(options.seeds):
        out = options.out / f"seed-{seed}"
        if not (out / RUN).exists():
            words = ["demo", "--out", str(out), "--task", options.task, "--seed", str(seed)]
            resume = ["--resume"] if out.exists() else []
            subprocess.run(
                [sys.executable, "-m", "fieldmark", *words, *resume, *options.more],
                check=True,
                stdout=subprocess.DEVNULL,
            )
        rows += read_rows(out)
        notes = read_run(out)["notes"]
        print(f"seed {seed}: {json.dumps(notes)}")
    for table in list_tables(summarise(rows)):
        Console().print(render_rich(table))
    native, bap, control, oracle = (
        mean_and_deviation(find(rows, method, "acc_wg")).mean
        for method in ("native", "bap", "data-matched-control", "oracle")
    )
    seen = mean_and_deviation(find(rows, "bap", "acc_wg", "test_seen")).mean
    sensitivity = [
        mean_and_deviation(find(rows, method, "bsi_total")).mean for method in ("native", "bap")
    ]
    targets = {
        "BAP - native, unseen objects, at least 0.25": (bap - native, bap - native >= 0.25),
        "BAP - oracle, unseen objects, at least -0.05": (bap - oracle, bap - oracle >= -0.05),
        "BAP, seen objects, at least 0.85": (seen, seen >= 0.85),
        "BAP - control, unseen objects, above 0": (bap - control, bap > control),
        "BSI, BAP / native, at most 1/3": (
            sensitivity[1] / sensitivity[0] if sensitivity[0] else math.nan,
            sensitivity[1] <= sensitivity[0] / 3,
        ),
    }
    for name, (value, held) in targets.items():
        print(f"{'held  ' if held else 'MISSED'}  {name}: {value:.3f}")


if __name__ == "__main__":
    main()
