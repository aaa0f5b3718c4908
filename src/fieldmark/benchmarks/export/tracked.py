"""Send a finished run to a tracker: its figures, its losses, its pictures and its records."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fieldmark.benchmarks.tracking import Metrics, TrackedRun, Tracker, open_tracker
from fieldmark.core.errors import InputError
from fieldmark.core.records import RESULTS, RUN, ResultRow, read_rows, read_run
from fieldmark.report.card_evidence import shorten_path

# Where verbs leave the losses of each optimiser step; the page's copy names the methods.
LOSSES = ("page/loss.jsonl", "training/loss.jsonl", "training/*/loss.jsonl")
PICTURES = frozenset({".png", ".jpg", ".jpeg"})
FILES = (RUN, RESULTS, "audit.json", "model_card.md", "report.html")
NAMED_BY = ("dataset", "encoder", "setting")


def export_to_tracker(run: Path, *, kind: str, out: Path, project: str = "fieldmark") -> TrackedRun:
    """Write a finished run into a tracker's local store.

    Args:
        run: the run directory.
        kind: `tensorboard`, `mlflow` or `wandb`.
        out: folder of the store; it may hold other runs.
        project: what groups runs there.

    Returns:
        What the tracker was told.

    Raises:
        InputError: `run` is no finished run, or its losses are damaged.
        MissingExtraError: the tracker's library is not installed.
    """
    manifest = read_run(run)
    steps = gather_steps(run)
    told = TrackedRun(
        folder=out,
        project=project,
        name=run.resolve().name,
        settings=flatten_settings(
            {"verb": manifest["verb"], **manifest["arguments"], "versions": manifest["versions"]}
        ),
    )
    tracker = open_tracker(kind, told)
    try:
        _send(run, tracker, steps=steps)
    finally:
        tracker.finish()
    return told


def _send(run: Path, tracker: Tracker, *, steps: Mapping[int, Metrics]) -> None:
    for step, metrics in steps.items():
        tracker.log(metrics, step=step)
    for path in (*list_pictures(run), *(run / name for name in FILES)):
        if path.is_file():
            tracker.log_artifact(path, name=path.relative_to(run).as_posix())


def gather_steps(run: Path) -> dict[int, dict[str, float]]:
    """Return all figures of a run by step, steps rising.

    A loss stands at its optimiser step, a figure of `results.jsonl` at its seed, with the ends of
    its interval and its count beside it. What is undefined is left out; its count is not.

    Args:
        run: the run directory.

    Raises:
        InputError: a file of losses is damaged.
    """
    rows = read_rows(run) if (run / RESULTS).is_file() else []
    steps: dict[int, dict[str, float]] = {}
    for step, name, value in (*_name_losses(run), *_name_figures(rows)):
        if math.isfinite(value):
            steps.setdefault(step, {})[name] = value
    return dict(sorted(steps.items()))


def _name_figures(rows: Sequence[ResultRow]) -> Iterator[tuple[int, str, float]]:
    telling = [key for key in NAMED_BY if len({getattr(row, key) for row in rows}) > 1]
    if len({str(row.correlation) for row in rows}) > 1:
        telling.append("correlation")
    encoders = {row.encoder: shorten_path(row.encoder) for row in rows}
    if len({*encoders.values()}) < len(encoders):
        encoders = {name: name for name in encoders}
    # An accuracy says its group in its own name; the gap of a finding does not.
    held = Counter(metric for metric, _ in {(row.metric, row.group) for row in rows})
    for row in rows:
        told = {**{key: getattr(row, key) for key in telling}, "encoder": encoders[row.encoder]}
        parts = [*(told[key] for key in telling), row.method, row.head, row.split]
        if row.group is not None and held[row.metric] > 1:
            parts.append(f"group {row.group}")
        name = "/".join(str(part) for part in (*parts, row.metric) if part not in ("", None))
        yield row.seed, name, row.value
        # Not under a slash: a store of files would need one name for a file and for a folder.
        yield row.seed, f"{name}.ci_low", row.ci_low
        yield row.seed, f"{name}.ci_high", row.ci_high
        yield row.seed, f"{name}.count", float(row.count)


def _name_losses(run: Path) -> Iterator[tuple[int, str, float]]:
    for pattern in LOSSES:
        paths = sorted(run.glob(pattern))
        for path in paths:
            yield from _read_losses(path, method=path.parent.name)
        if paths:
            return


def _read_losses(path: Path, *, method: str) -> Iterator[tuple[int, str, float]]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            step, name = int(row["step"]), str(row.get("method") or method)
            seed = f"/seed={row['seed']}" if row.get("seed") else ""
            values = {key: row[key] for key in ("loss", "learning_rate") if key in row}
            for key, value in values.items():
                yield step, f"{key}/{name}{seed}", math.nan if value is None else float(value)
        except (
            ValueError,
            TypeError,
            KeyError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise InputError(
                f"is no row of losses ({error!r})",
                where=f"{path}, line {number}",
                mend="run it again, or delete the file to leave the losses out",
            ) from error


def list_pictures(run: Path) -> list[Path]:
    """Return the pictures that a run left for its page, in the order of their names.

    Example:
        >>> list_pictures(Path("nowhere"))
        []
    """
    found = (path for name in ("page", "pictures") for path in (run / name).rglob("*"))
    return sorted(path for path in found if path.suffix.lower() in PICTURES and path.is_file())


def flatten_settings(values: Mapping[str, Any], *, under: str = "") -> dict[str, str]:
    """Return settings as texts by dotted name.

    Example:
        >>> flatten_settings({"config": {"epochs": 3}, "seeds": [0, 1], "root": None})
        {'config.epochs': '3', 'seeds': '[0, 1]', 'root': 'null'}
    """
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{under}{key}"
        if isinstance(value, Mapping):
            flat |= flatten_settings(value, under=f"{name}.")
        else:
            flat[name] = value if isinstance(value, str) else json.dumps(value)
    return flat
