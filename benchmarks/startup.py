"""`fieldmark --help` against `python -c pass`, whole processes in turns. Target: at most 6 times.

python benchmarks/startup.py [--runs 20]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from fieldmark.core.records import ResultRow

FIELDMARK = [str(Path(sys.executable).with_name("fieldmark")), "--help"]
RIVAL = [sys.executable, "-c", "pass"]


def time_once(words: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    pairs = [(time_once(FIELDMARK), time_once(RIVAL)) for _ in range(runs + 1)][1:]
    ours, rival = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"fieldmark --help {1000 * ours:6.1f} ms, python -c pass {1000 * rival:6.1f} ms")
    row = ResultRow(
        suite="benchmark", dataset="", metric="help_ratio", value=ours / rival, count=runs
    )
    print(row.to_json())


if __name__ == "__main__":
    main()
