"""The trackers that fieldmark can write to, by name."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fieldmark.benchmarks.tracking.protocol import Tracker
from fieldmark.core.errors import FieldmarkError, MissingExtraError
from fieldmark.core.registry import look_up

# Each is a module here with `open_run(run)`, and the library that it needs.
TRACKERS: Mapping[str, str] = {"tensorboard": "tensorboard", "mlflow": "mlflow", "wandb": "wandb"}


@dataclass(frozen=True, kw_only=True)
class TrackedRun:
    """A run that a tracker is told of.

    Attributes:
        folder: where the tracker writes.
        project: what groups runs.
        name: of the run.
        settings: what the run was told, flat: texts by dotted name.
    """

    folder: Path
    project: str
    name: str
    settings: Mapping[str, str] = field(default_factory=dict)


def open_tracker(kind: str, run: TrackedRun) -> Tracker:
    """Open a tracker that writes below a folder and asks nothing of the network.

    Weights & Biases goes online where WANDB_MODE says so, and only there.

    Args:
        kind: a name out of `TRACKERS`.
        run: what it is told.

    Raises:
        UnknownNameError: no such tracker.
        MissingExtraError: its library is not installed.
        FieldmarkError: it refuses the run, such as the name of the project.

    Example:
        >>> open_tracker("paper", TrackedRun(folder=Path("x"), project="p", name="n"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.UnknownNameError: unknown tracker 'paper'; known: mlflow, ...
    """
    library = look_up(TRACKERS, kind, kind="tracker")
    module = importlib.import_module(f"fieldmark.benchmarks.tracking.{kind}_runs")
    try:
        tracker: Tracker = module.open_run(run)
    except ImportError as error:
        raise MissingExtraError(library, extra="track") from error
    return tracker


def refuse(error: Exception, run: TrackedRun) -> FieldmarkError:
    r"""Return what a tracker's library says as our own error of one line.

    Example:
        >>> run = TrackedRun(folder=Path("store"), project="a/b", name="n")
        >>> str(refuse(ValueError("no '/' in a name\nlook elsewhere"), run))
        "store: refuses the run (no '/' in a name); choose another --project or --out"
    """
    return FieldmarkError(
        f"refuses the run ({(str(error).strip() or type(error).__name__).splitlines()[0][:160]})",
        where=run.folder,
        mend="choose another --project or --out",
    )
