"""Memory of a sweep against the number of its runs: the peak of a process, few seeds and many.

    python benchmarks/sweep_memory.py

Each line is a process of its own that runs `fieldmark bench synthetic` on small drawn images, with
heads and fine-tuned encoders; `run.json` holds its peak. The rival is a sweep that keeps what it
loads: one adapted encoder of this kind is 14 MB, so twelve more would show.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

DATA = {"size": 64, "n_objects": 6, "n_scenes": 4, "per_class": 16, "per_group": 8}
SETTINGS = {
    **{f"data.{key}": value for key, value in DATA.items()},
    "lp-ft.epochs": 1,
    "lp-ft.batch_size": 16,
    "erm-80.epochs": 1,
    "erm-80.batch_size": 16,
}
METHODS = "zero-shot,linear-probe,lp-ft,wise-ft"


def measure_sweep(seeds: int, *, model: str, folder: Path) -> tuple[int, float]:
    """Run a sweep in a process of its own; return its jobs and its peak memory in GiB."""
    words = ["bench", "synthetic", "--model", model, "--methods", METHODS, "--seeds", str(seeds)]
    settings = [word for k, v in SETTINGS.items() for word in ("--set", f"{k}={v}")]
    out = folder / f"seeds-{seeds}"
    subprocess.run(
        [sys.executable, "-m", "fieldmark", *words, *settings, "--out", str(out)],
        check=True,
        capture_output=True,
    )
    notes = json.loads((out / "run.json").read_text())["notes"]
    return int(notes["jobs"]), float(notes["peak memory in GiB"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="packaged:efficientnet-lite0@64")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 4, 8])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for seeds in options.seeds:
            jobs, peak = measure_sweep(seeds, model=options.model, folder=Path(folder))
            print(f"{seeds} seeds, {jobs} jobs: peak {peak:.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
