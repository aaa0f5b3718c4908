"""What can be measured on an encoder of a bench, by name."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from fieldmark.benchmarks.evaluate import as_features
from fieldmark.benchmarks.jobs import Job
from fieldmark.benchmarks.predictions import (
    EvaluatedSplit,
    Predictions,
    name_clusters,
    report_groups,
    report_sensitivity,
)
from fieldmark.benchmarks.store import Measured
from fieldmark.benchmarks.study_measures import STUDY_MEASURES
from fieldmark.benchmarks.subject import Bench
from fieldmark.core.errors import NotApplicableError
from fieldmark.core.registry import look_up
from fieldmark.data.tables import ImageTable
from fieldmark.methods.head import Features, Head, HeadData, HeadKind
from fieldmark.methods.heads import HEADS
from fieldmark.methods.recipe import Adapted

TRAINED = "trained"
Measure = Callable[[Bench, Job], Measured]


def measure_accuracy(bench: Bench, job: Job) -> Measured:
    """Fit a head on an encoder's embeddings and report every group of every test split.

    Args:
        bench: task and encoder.
        job: its argument `head` is a key of `methods.heads.HEADS`, or `trained`: the head that the
            encoder was fine-tuned with.

    Raises:
        NotApplicableError: the data or the encoder do not bear the head.
    """
    kind = _find_kind(job.head)
    _check(bench, kind)
    adapted = bench.adapt(job)
    tests = bench.embed(adapted.encoder, bench.task.tests)
    started = time.monotonic()
    head = _make_head(bench, job, kind=kind, adapted=adapted)
    predictions = [_predict(head, split, job=job) for split in tests.values()]
    names = set(bench.task.table.splits or ())
    training = bench.task.table.select("train") if "train" in names else None
    blank = bench.blank(job)
    rows = [
        row for one in predictions for row in report_groups(one, training=training, blank=blank)
    ]
    return Measured(
        rows=tuple(rows),
        notes={
            "head": head.describe(),
            "recipe": dict(adapted.notes),
            "selected on": bench.split_for("val") if "val" in kind.needs else "nothing",
            "seconds of the head": round(time.monotonic() - started, 3),
        },
        correct={one.split.name: _keep(one) for one in predictions},
    )


def measure_sensitivity(bench: Bench, job: Job) -> Measured:
    """Report how far backgrounds move embeddings (BSI, bap.txt D.1), on every test split."""
    adapted = bench.adapt(job)
    splits = bench.embed(adapted.encoder, bench.task.tests)
    blank = bench.blank(job)
    rows = [row for split in splits.values() for row in report_sensitivity(split, blank=blank)]
    if not rows:
        raise NotApplicableError(f"{bench.task.name} does not say which background an image has")
    return Measured(rows=tuple(rows))


def _find_kind(name: str) -> HeadKind:
    if name == TRAINED:
        return HeadKind(name=TRAINED, make=_take_trained, needs=frozenset({"trained"}), seeded=True)
    return look_up(HEADS, name, kind="head")


def _take_trained(data: HeadData) -> Head:
    if data.trained is None:
        raise NotApplicableError("this encoder was not fine-tuned with a head")
    return data.trained


def _check(bench: Bench, kind: HeadKind) -> None:
    """Refuse a head before an encoder is trained for it."""
    parts: dict[str, Features] = {}
    for need in ("train", "val"):
        if need in kind.needs:
            name = bench.split_for(need)
            table = bench.task.table.select(name)
            nothing = np.zeros((len(table), 0), np.float32)
            parts[need] = as_features(EvaluatedSplit(name=name, table=table, embeddings=nothing))
    kind.check(HeadData(train=parts.get("train"), val=parts.get("val")))


def _make_head(bench: Bench, job: Job, *, kind: HeadKind, adapted: Adapted) -> Head:
    settings = job.arguments.get("settings", {})
    data = HeadData(seed=job.seed, trained=adapted.head, settings=settings)
    splits = {need: bench.split_for(need) for need in ("train", "val") if need in kind.needs}
    made = bench.embed(adapted.encoder, list(splits.values()))
    parts = {need: as_features(made[split]) for need, split in splits.items()}
    train = parts.get("train")
    if train is not None and adapted.holdout is not None:
        data = dataclasses.replace(data, holdout=train.take(adapted.holdout))
    if "prototypes" in kind.needs:
        data = dataclasses.replace(data, prototypes=bench.prototypes)
    if "concepts" in kind.needs:
        data = dataclasses.replace(data, concepts=bench.concepts)
    return kind.make(dataclasses.replace(data, train=train, val=parts.get("val")))


def _predict(head: Head, split: EvaluatedSplit, *, job: Job) -> Predictions:
    labels = split.table.labels
    # scikit-learn refuses an empty array.
    predicted = head.predict(split.embeddings) if len(labels) else np.zeros_like(labels)
    return Predictions(split=split, head=job.head, seed=job.seed, predicted=predicted)


def _keep(one: Predictions) -> dict[str, Any]:
    """Keep what a paired test needs: each image's id, group, object, and whether it was right."""
    table: ImageTable = one.split.table
    return {
        "ids": list(table.ids),
        "groups": table.group_ids().tolist(),
        "strata": table.labels.tolist(),
        "clusters": name_clusters(table),
        "correct": [int(value) for value in one.correct],
    }


MEASURES: dict[str, Measure] = {
    "accuracy": measure_accuracy,
    "sensitivity": measure_sensitivity,
    **STUDY_MEASURES,
}
