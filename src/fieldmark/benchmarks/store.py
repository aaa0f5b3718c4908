"""What a sweep keeps on disk, by content: finished jobs, adapted encoders, embeddings.

    STORE/jobs/KEY.json           what a finished job found, or why it was refused
    STORE/tasks/KEY.json          what a record says of a task
    STORE/adapted/KEY/            image tower, trained head, notes; training/ while it is under way
    STORE/embeddings/             see `models.embedding_cache`

Every file is written whole or not at all, so a killed sweep loses what was under way and no more.
Every file carries its checksum; what does not fit it is made again.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fieldmark.core.atomic import hash_json
from fieldmark.core.errors import InputError
from fieldmark.core.records import ResultRow
from fieldmark.core.sealed import (
    SEAL,
    is_whole,
    read_sealed_json,
    report_damage,
    sealing,
    write_sealed_json,
)
from fieldmark.data.tasks import Task
from fieldmark.methods.linear_probe import ConvexProbe, LinearProbe, load_probe, save_probe
from fieldmark.methods.recipe import Adapted
from fieldmark.models.adapter import replace_image_tower
from fieldmark.models.encoder import Encoder

_UNFIT = (KeyError, TypeError, ValueError, OverflowError, RuntimeError)
TOWER, NOTES, HEAD = "tower.safetensors", "notes.json", "head"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a job found.

    Attributes:
        rows: figures, without the suite's and the setting's name.
        notes: what was selected and on which split, losses, timings.
        correct: for each test split, image ids and whether each was named right; for paired tests.
        artifact: anything else to draw from (points of a map), as JSON values.
        refused: why the job could not be done here; empty if it could.
    """

    rows: tuple[ResultRow, ...] = ()
    notes: Mapping[str, Any] = field(default_factory=dict)
    correct: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    artifact: Any = None
    refused: str = ""


def make_plain(value: Any) -> Any:
    """Return values as strict JSON has them: lists, dictionaries, and null for what is not finite.

    Example:
        >>> make_plain({"a": (np.float32(1), float("nan"))})
        {'a': [1.0, None]}
    """
    if isinstance(value, Mapping):
        return {str(key): make_plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [make_plain(part) for part in value]
    if isinstance(value, np.ndarray | np.generic):
        return make_plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Store:
    """A folder of finished work.

    Attributes:
        root: the folder; made when something is written.
    """

    root: Path

    @property
    def embeddings(self) -> Path:
        """The folder that keeps embeddings."""
        return self.root / "embeddings"

    def training(self, key: str) -> Path:
        """Return the folder that keeps the checkpoints of a recipe that is under way."""
        return self.root / "adapted" / key / "training"

    def has(self, key: str) -> bool:
        """Say whether a job is finished; one whose file is damaged is not."""
        return _read_json(self._job(key), instead="the job is done again") is not None

    def write(self, key: str, measured: Measured, *, job: Mapping[str, Any]) -> None:
        """Keep what a job found."""
        values = dataclasses.asdict(dataclasses.replace(measured, rows=()))
        rows = [json.loads(row.to_json()) for row in measured.rows]
        write_sealed_json(self._job(key), make_plain({"job": dict(job), **values, "rows": rows}))

    def read(self, key: str) -> Measured:
        """Return what a finished job found.

        Raises:
            InputError: the file is damaged.
        """
        path = self._job(key)
        try:
            values = read_sealed_json(path)
            rows = tuple(ResultRow.from_json(json.dumps(row)) for row in values.pop("rows"))
            del values["job"]
            return Measured(rows=rows, **values)
        except (InputError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                "is no finished job", where=path, mend="delete it and run the suite again"
            ) from error

    def _job(self, key: str) -> Path:
        return self.root / "jobs" / f"{key}.json"

    def write_task(self, ref: Mapping[str, Any], *, task: Task) -> None:
        """Keep what a record says of a task: name, size, licence, citation, notes."""
        values = {
            **ref,
            "name": task.name,
            "images": len(task.table),
            "tests": list(task.tests),
            "notes": list(task.notes),
            "card": dict(task.card),
        }
        write_sealed_json(self._task(ref), make_plain(values))

    def read_task(self, ref: Mapping[str, Any]) -> dict[str, Any]:
        """Return what `write_task` kept, or the reference alone."""
        values = _read_json(self._task(ref), instead="the record says less of this task")
        return dict(ref) if values is None else values

    def _task(self, ref: Mapping[str, Any]) -> Path:
        return self.root / "tasks" / f"{hash_json(dict(ref))}.json"

    def write_adapted(self, key: str, adapted: Adapted) -> None:
        """Keep an adapted encoder, notes last, and drop the checkpoints that led to it."""
        folder = self.root / "adapted" / key
        folder.mkdir(parents=True, exist_ok=True)
        state = adapted.encoder.image_tower.state_dict()
        tensors = {name: value.cpu().contiguous() for name, value in state.items()}
        with sealing(folder / TOWER) as part:
            save_file(tensors, part, metadata=dict(SEAL))
        if isinstance(adapted.head, LinearProbe | ConvexProbe):
            save_probe(adapted.head, folder / HEAD)
        holdout = None if adapted.holdout is None else adapted.holdout.tolist()
        notes = make_plain({"notes": adapted.notes, "holdout": holdout})
        write_sealed_json(folder / NOTES, notes)
        shutil.rmtree(self.training(key), ignore_errors=True)

    def read_adapted(self, key: str, *, native: Encoder) -> Adapted | None:
        """Return an adapted encoder, or None if it is not finished or damaged.

        Raises:
            InputError: it belongs to another encoder.
        """
        folder = self.root / "adapted" / key
        instead = "the encoder is adapted again"
        values = _read_json(folder / NOTES, instead=instead)
        if values is None:
            return None
        if not is_whole(folder / TOWER):
            report_damage(folder / TOWER, instead=instead)
            return None
        try:
            holdout = values["holdout"]
            return Adapted(
                encoder=replace_image_tower(native, load_file(folder / TOWER)),
                head=load_probe(folder / HEAD) if (folder / HEAD).is_dir() else None,
                holdout=None if holdout is None else np.array(holdout, np.int64),
                notes=dict(values["notes"]),
            )
        except (*_UNFIT, SafetensorError) as error:
            raise InputError(
                "is no whole adapted encoder", where=folder, mend="delete it and run again"
            ) from error

    def drop_adapted(self, key: str) -> None:
        """Delete an adapted encoder that no open job needs."""
        shutil.rmtree(self.root / "adapted" / key, ignore_errors=True)

    def list_adapted(self) -> Iterator[str]:
        """Yield the keys of the finished adapted encoders."""
        for path in sorted((self.root / "adapted").glob(f"*/{NOTES}")):
            yield path.parent.name


def _read_json(path: Path, *, instead: str) -> dict[str, Any] | None:
    """Return what is in a sealed file; nothing where there is none, or a damaged one."""
    if not path.is_file():
        return None
    try:
        return read_sealed_json(path)
    except InputError:
        report_damage(path, instead=instead)
        return None
