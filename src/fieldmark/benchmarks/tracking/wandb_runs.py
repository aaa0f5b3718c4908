"""Weights & Biases runs, offline unless WANDB_MODE says otherwise (`wandb sync` sends them)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal, get_args

from fieldmark.benchmarks.tracking.protocol import Metrics, Tracker
from fieldmark.benchmarks.tracking.trackers import TrackedRun, refuse
from fieldmark.core.registry import look_up

Mode = Literal["online", "offline", "disabled", "shared"]
PICTURES = (".png", ".jpg", ".jpeg")


class WandbTracker:
    """Figures and files of one run; pictures go into its media panel."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        run.folder.mkdir(parents=True, exist_ok=True)
        self._wandb = wandb
        self._run = wandb.init(
            mode=choose_mode(),
            dir=run.folder,
            project=run.project,
            name=run.name,
            config=dict(run.settings),
            # A run of the caller's own goes on beside this one.
            reinit="create_new",
            # Only what fieldmark hands over is kept: no console, machine, packages, code or git.
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                save_code=False,
                x_disable_stats=True,
                x_disable_meta=True,
                x_save_requirements=False,
            ),
        )

    def log(self, metrics: Metrics, *, step: int) -> None:
        """Write figures at a step."""
        self._run.log(dict(metrics), step=step)

    def log_artifact(self, path: Path, *, name: str) -> None:
        """Keep a file; a picture is shown as well."""
        if path.suffix.lower() in PICTURES:
            self._run.log({name: self._wandb.Image(str(path))})
        else:
            # As an artifact it would wait for `wandb sync` in the home folder, not in the store.
            kept = Path(self._run.dir) / name
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, kept)
            self._run.save(str(kept), base_path=self._run.dir, policy="end", glob=False)

    def finish(self) -> None:
        """Write everything out."""
        self._run.finish()
        if self._wandb.run is None:
            # Only the end of its service says that the last bytes are on the disk.
            self._wandb.teardown()


def choose_mode() -> Mode:
    """Return what WANDB_MODE says, offline where it says nothing.

    Raises:
        UnknownNameError: it says something else.
    """
    modes: dict[str, Mode] = {name: name for name in get_args(Mode)}
    return look_up(modes, os.environ.get("WANDB_MODE") or "offline", kind="WANDB_MODE")


def open_run(run: TrackedRun) -> Tracker:
    """Open a run below `run.folder`."""
    # It would report its own errors to its makers, offline or not.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    from wandb.errors import Error

    try:
        return WandbTracker(run)
    except Error as error:
        raise refuse(error, run) from error
