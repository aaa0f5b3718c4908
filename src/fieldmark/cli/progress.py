"""Progress on the terminal, or line by line in a log: what is done, how fast, how long it takes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

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
# Called with the name of a phase, units done, units in all and a note ("loss 0.12").
Report = Callable[[str, int, int, str], None]
# How often a log that nobody watches gets a line, in seconds.
LOG_EVERY = 20.0


@contextmanager
def show_progress() -> Iterator[Report]:
    """Yield a function that reports progress: bars on a terminal, lines in a log.

    Under `torchrun` only the first process shows anything.
    """
    if os.environ.get("RANK", "0") != "0":
        yield lambda phase, done, total, note: None
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

        def report(phase: str, done: int, total: int, note: str) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total, note=note)
            bars.update(tasks[phase], completed=done, total=total, note=note)

        yield report


def _write_lines() -> Report:
    started: dict[str, tuple[float, int]] = {}
    written: dict[str, float] = {}

    def report(phase: str, done: int, total: int, note: str) -> None:
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
    """Print the tables of a finished run on standard output, and where the run is."""
    from fieldmark.core.records import read_rows
    from fieldmark.report.formats import render_rich
    from fieldmark.report.sections import list_tables
    from fieldmark.report.tables import summarise

    terminal = Console()
    for table in list_tables(summarise(read_rows(out))):
        terminal.print(render_rich(table))
    say(f"done: {out / 'results.jsonl'}")
