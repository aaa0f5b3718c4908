"""What fieldmark asks of a tracker: figures by step, files, and an end."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

Metrics = Mapping[str, float]


@runtime_checkable
class Tracker(Protocol):
    """Where figures and files of one run go."""

    def log(self, metrics: Metrics, *, step: int) -> None:
        """Write figures, finite numbers by name, at a step from 0 on that never goes back."""
        ...

    def log_artifact(self, path: Path, *, name: str) -> None:
        """Keep a file of the run under a name such as `page/composites/00.png`."""
        ...

    def finish(self) -> None:
        """Write everything out and close; nothing may be logged after it."""
        ...
