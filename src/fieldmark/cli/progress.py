"""Progress on the terminal: what is done, how fast, how long it will take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Tables go to standard output, everything that passes by goes to standard error.
console = Console(stderr=True)


class Report(Protocol):
    """Say how far something is: units done, units in all, a note ("loss 0.12, 14 images/s")."""

    def __call__(self, done: int, total: int, note: str = "") -> None: ...


@contextmanager
def show_progress(title: str, *, shown: bool = True) -> Iterator[Report]:
    """Show a bar and yield the function that moves it.

    Args:
        title: what is going on.
        shown: False prints nothing (all processes but the first).
    """
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not shown) as bar:
        task = bar.add_task(title, total=None, note="")

        def report(done: int, total: int, note: str = "") -> None:
            bar.update(task, completed=done, total=total, note=note)

        yield report


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


@contextmanager
def show_phases() -> Iterator[Callable[[str, int, int, str], None]]:
    """Yield a function of a phase's name, units done, units in all and a note; a bar for each."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    times = (TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, *times, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def report(phase: str, done: int, total: int, note: str = "") -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total, note=note)
            bars.update(tasks[phase], completed=done, total=total, note=note)

        yield report
