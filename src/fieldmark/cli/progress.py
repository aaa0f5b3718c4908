"""Progress on the terminal, or line by line in a log: what is done, how fast, how long it takes."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Tables go to standard output, everything that passes by goes to standard error.
console = Console(stderr=True)
# How often a log that nobody watches gets a line, in seconds.
LOG_EVERY = 20.0


class Report(Protocol):
    """Tells how far a run is."""

    def __call__(self, phase: str, done: int, total: int, note: str = "") -> None:
        """Tell the name of a phase, units done, units in all and a note ("loss 0.12")."""


@contextmanager
def show_progress() -> Iterator[Report]:
    """Yield a function that reports progress: bars on a terminal, lines in a log.

    Under `torchrun` only the first process shows anything.
    """
    if os.environ.get("RANK", "0") != "0":
        yield lambda phase, done, total, note="": None
    elif console.is_terminal:
        with _show_bars() as report:
            yield report
    else:
        yield _write_lines()


@contextmanager
def _show_bars() -> Iterator[Report]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: int, total: int, note: str = "") -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total, note=note)
            bars.update(tasks[phase], completed=done, total=total, note=note)

        yield report


def _write_lines() -> Report:
    started: dict[str, tuple[float, int]] = {}
    written: dict[str, float] = {}

    def report(phase: str, done: int, total: int, note: str = "") -> None:
        now = time.monotonic()
        since, first = started.setdefault(phase, (now, done))
        if done < total and now - written.setdefault(phase, now) < LOG_EVERY:
            return
        written[phase] = now
        seconds = now - since
        left = seconds * (total - done) / (done - first) if done > first else 0.0
        ending = f", {left:.0f} s left" if done < total else f", {seconds:.0f} s"
        say(f"{phase}: {done}/{total}{', ' if note else ''}{note}{ending}")

    return report


def say(text: str) -> None:
    """Print a line for the person at the terminal; markup in names is not obeyed."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_results(out: Path) -> None:
    """Print the main tables of a finished run on standard output, and where all figures are."""
    from fieldmark.core.records import read_rows
    from fieldmark.report import render_rich, summarise, tabulate
    from fieldmark.report.names import SPLIT_ORDER, SPLITS, name, sort_known

    summaries = summarise(read_rows(out))
    # A log has no width of its own; a terminal of 80 columns holds these tables.
    terminal = Console() if Console().is_terminal else Console(width=120)
    for split in sort_known({s.key["split"] for s in summaries}, order=SPLIT_ORDER):
        here = [s for s in summaries if s.key["split"] == split]
        for keys, metrics in (
            (("method", "head"), ("acc_wg", "acc_avg")),
            (("method",), ("bsi_total", "bsi_per_dimension", "additivity")),
        ):
            chosen = [s for s in here if s.key["metric"] in metrics]
            if chosen:
                caption = name(split, known=SPLITS)
                table = tabulate(chosen, caption=caption, keys=keys, metrics=metrics)
                terminal.print(render_rich(table))
    say(f"all figures: {out / 'results.jsonl'}")
