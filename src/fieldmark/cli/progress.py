"""Progress on the terminal: what is done, how fast, how long it will take."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# Tables go to standard output, everything that passes by goes to standard error.
console = Console(stderr=True)
Report = Callable[[int, int, str], None]


@contextmanager
def show_progress(title: str, *, shown: bool = True) -> Iterator[Report]:
    """Yield a function of units done, units in all and a note ("loss 0.12, 14 images/s").

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
