"""TensorBoard event files, written by tensorboard's own writer; torch is not needed."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from PIL import Image

from fieldmark.benchmarks.tracking.protocol import Metrics, Tracker
from fieldmark.benchmarks.tracking.trackers import TrackedRun
from fieldmark.core.errors import RunExistsError

PICTURES = (".png", ".jpg", ".jpeg")


class TensorBoardTracker:
    """Scalars and pictures; other files have no place in an event file and are left out."""

    def __init__(self, run: TrackedRun) -> None:
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        self._summary, self._event = summary_pb2.Summary, event_pb2.Event
        self._writer = EventFileWriter(str(run.folder / run.name))

    def log(self, metrics: Metrics, *, step: int) -> None:
        """Write one scalar for each figure."""
        values = [self._summary.Value(tag=k, simple_value=v) for k, v in metrics.items()]
        self._add(values, step=step)

    def log_artifact(self, path: Path, *, name: str) -> None:
        """Write a picture as it is on disk."""
        if path.suffix.lower() not in PICTURES:
            return
        with Image.open(path) as image:
            width, height = image.size
        data = self._summary.Image(
            width=width, height=height, colorspace=3, encoded_image_string=path.read_bytes()
        )
        self._add([self._summary.Value(tag=name, image=data)], step=0)

    def finish(self) -> None:
        """Flush and close the file."""
        self._writer.close()

    def _add(self, values: list[Any], *, step: int) -> None:
        event = self._event(wall_time=time.time(), step=step, summary=self._summary(value=values))
        self._writer.add_event(event)


def open_run(run: TrackedRun) -> Tracker:
    """Open an event file in `run.folder / run.name`.

    Raises:
        RunExistsError: that folder has one, and TensorBoard would show both as one run.
    """
    folder = run.folder / run.name
    if any(folder.glob("events.out.tfevents.*")):
        raise RunExistsError("holds a run already", where=folder, mend="choose another --out")
    return TensorBoardTracker(run)
