"""MLflow runs in a local folder of files.

MLflow keeps this store for reading and writing but asks for a word that one wants it
(MLFLOW_ALLOW_FILE_STORE); mlflow-skinny has no other local store.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from pathlib import Path, PurePosixPath

from fieldmark.benchmarks.tracking.protocol import Metrics, Tracker
from fieldmark.benchmarks.tracking.trackers import TrackedRun, refuse

ALLOW = "MLFLOW_ALLOW_FILE_STORE"
# What MLflow takes in the name of a metric or of a parameter, and how much of it.
_REFUSED = re.compile(r"[^\w\-./ :]")
LONGEST, LONGEST_SETTING = 250, 500


class MlflowTracker:
    """Figures, settings and files of one MLflow run."""

    def __init__(self, run: TrackedRun) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient(tracking_uri=run.folder.resolve().as_uri())
        known = self._client.get_experiment_by_name(run.project)
        experiment = known.experiment_id if known else self._client.create_experiment(run.project)
        self._id = self._client.create_run(experiment, run_name=run.name).info.run_id
        for name, value in run.settings.items():
            self._client.log_param(self._id, make_name(name), value[:LONGEST_SETTING])

    def log(self, metrics: Metrics, *, step: int) -> None:
        """Write one metric for each figure."""
        for name, value in metrics.items():
            self._client.log_metric(self._id, make_name(name), value, step=step)

    def log_artifact(self, path: Path, *, name: str) -> None:
        """Copy a file into the run's artifacts."""
        folder = str(PurePosixPath(name).parent)
        self._client.log_artifact(self._id, str(path), None if folder == "." else folder)

    def finish(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._id)


def make_name(name: str) -> str:
    """Return a name that MLflow takes: a path below its folder, with a digest where it was mended.

    Example:
        >>> make_name("birds/acc_wg"), make_name("/runs/bap//acc_wg"), len(make_name("x" * 300))
        ('birds/acc_wg', 'runs/bap/acc_wg-ac7941fb', 250)
    """
    path = posixpath.normpath(f"/{_REFUSED.sub('_', name)}").lstrip("/")
    if path == name and len(name) <= LONGEST:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{path[: LONGEST - 9]}-{digest}"


def open_run(run: TrackedRun) -> Tracker:
    """Open a run of an experiment called after the project."""
    os.environ.setdefault(ALLOW, "true")
    # Nothing is asked of the network for a local store, its telemetry included.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow.exceptions import MlflowException

    try:
        return MlflowTracker(run)
    except MlflowException as error:
        raise refuse(error, run) from error
