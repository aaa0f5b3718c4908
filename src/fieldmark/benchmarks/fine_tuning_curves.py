"""What BAP's loss, a probe after it and fine-tuning after it do epoch by epoch (BAP Figure 7, K).

After BAP a linear probe is trained on the frozen encoder; then encoder and probe are trained
together with cross-entropy on the biased training images, as in LP-FT's second stage.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fieldmark.benchmarks.jobs import Job
from fieldmark.benchmarks.predictions import EvaluatedSplit
from fieldmark.benchmarks.store import Measured
from fieldmark.benchmarks.subject import Bench
from fieldmark.core.atomic import write_json
from fieldmark.core.errors import InputError, NotApplicableError, UsageError
from fieldmark.core.fetch import cache_dir
from fieldmark.core.json_text import parse_json
from fieldmark.core.records import ResultRow
from fieldmark.methods.classifier import fold_head, open_head
from fieldmark.methods.fine_tuning import classify_softly, report_training
from fieldmark.methods.fine_tuning_config import FineTuningConfig, make_schedule
from fieldmark.methods.head import Head
from fieldmark.methods.images import (
    ImageBatches,
    TaskImages,
    embed_task_images,
    make_targets,
    open_task_images,
    weigh_classes,
)
from fieldmark.methods.linear_probe import LinearProbe
from fieldmark.methods.training import train
from fieldmark.metrics.groups import summarise_groups
from fieldmark.models.adapter import replace_image_tower
from fieldmark.models.encoder import Encoder

# The paper shows every epoch up to 30 and finds the best at about 5.
PROBE_EPOCHS = (1, 2, 3, 4, 5, 10, 15, 20, 25, 30)


def measure_fine_tuning_curve(bench: Bench, job: Job) -> Measured:
    """Measure the loss of a recipe, a probe after it and fine-tuning after it, by epoch.

    Args:
        bench: task and encoder.
        job: arguments `probe_epochs` (a list; after the last of them fine-tuning starts) and
            `fine_tuning` (changes to the settings of M.3.1).

    Returns:
        For each epoch e from 1 `loss:e` of the recipe, if it notes its losses; on each test split
        `acc_avg_probe:e` and `acc_wg_probe:e`, then `acc_avg_fine_tuning:e` and
        `acc_wg_fine_tuning:e`, counted from the start of fine-tuning.

    Raises:
        NotApplicableError: there is no training split.
        UsageError: settings of fine-tuning that cannot be.
    """
    if "train" not in (bench.task.table.splits or ()):
        raise NotApplicableError(f"{bench.task.name} has no split train")
    config = _read_config(job.arguments.get("fine_tuning", {}))
    adapted = bench.adapt(job)
    blank = bench.blank(job)
    rows = list(_report_losses(adapted.notes, blank=blank))
    splits = bench.embed(adapted.encoder, ["train", *bench.task.tests])
    train_split = splits.pop("train")
    epochs = sorted({int(e) for e in job.arguments.get("probe_epochs", PROBE_EPOCHS)})
    probe = LinearProbe()
    for epoch in epochs:
        probe = LinearProbe(epochs=epoch, random_state=job.seed)
        probe.fit(train_split.embeddings, train_split.table.labels)
        for split in splits.values():
            rows += _report(probe, split, blank=blank, stage="probe", epoch=epoch)
    folder = bench.store.root / "curves" / bench.key(job)
    rows += _fine_tune(bench, job, adapted.encoder, probe=probe, config=config, folder=folder)
    shutil.rmtree(folder, ignore_errors=True)
    return Measured(rows=tuple(rows), notes={"recipe": dict(adapted.notes)})


def _report_losses(notes: Mapping[str, Any], *, blank: ResultRow) -> Iterator[ResultRow]:
    """Yield the mean loss of each epoch, counted in steps."""
    losses = notes.get("loss_by_epoch", ())
    for epoch, value in enumerate(losses, start=1):
        yield dataclasses.replace(
            blank,
            split="train",
            metric=f"loss:{epoch}",
            value=float(value),
            count=int(notes.get("steps", 0)) // len(losses),
        )


def _read_config(given: Mapping[str, Any]) -> FineTuningConfig:
    try:
        return FineTuningConfig.model_validate(dict(given))
    except ValueError as error:
        raise UsageError(
            f"settings of fine-tuning: {str(error).splitlines()[2].strip()}",
            mend=f"known: {', '.join(FineTuningConfig.model_fields)}",
        ) from error


def _report(
    head: Head, split: EvaluatedSplit, *, blank: ResultRow, stage: str, epoch: int
) -> Iterator[ResultRow]:
    right = head.predict(split.embeddings) == split.table.labels
    groups = split.table.group_ids()
    known = groups >= 0
    found = summarise_groups(right[known], groups[known])
    fewest = 0 if found.worst_group is None else found.counts[found.worst_group]
    average = summarise_groups(right, np.zeros_like(groups)).average
    named = "linear-probe" if stage == "probe" else "trained"
    for metric, value, count in (
        ("acc_avg", average, len(right)),
        ("acc_wg", found.worst, fewest),
    ):
        yield dataclasses.replace(
            blank,
            split=split.name,
            head=named,
            metric=f"{metric}_{stage}:{epoch}",
            value=value,
            count=count,
        )


def _fine_tune(
    bench: Bench,
    job: Job,
    start: Encoder,
    *,
    probe: LinearProbe,
    config: FineTuningConfig,
    folder: Path,
) -> list[ResultRow]:
    """Train tower and probe together and report every epoch; a killed run goes on."""
    table, cache = bench.task.table, cache_dir() / "images"
    images = open_task_images(table.select("train"), start, cache=cache)
    tests = {n: open_task_images(table.select(n), start, cache=cache) for n in bench.task.tests}
    tower = copy.deepcopy(start.image_tower).float()
    head = open_head(probe).to(next(tower.parameters()).device)
    weights = weigh_classes(images.codes) if config.class_weight else np.ones(len(images.classes))
    target = make_targets(images.codes, weights=weights, smoothing=config.label_smoothing)

    def score(epoch: int) -> None:
        tuned = replace_image_tower(start, tower.state_dict())
        folded = fold_head(head, classes=images.classes)
        rows = _score(bench, job, tuned, head=folded, tests=tests, epoch=epoch + 1)
        values = [json.loads(row.to_json()) for row in rows]
        write_json(folder / f"epoch-{epoch:05d}.json", values)

    batches = ImageBatches(
        images,
        target,
        batch_size=config.batch_size,
        flip=config.flip,
        mixup=config.mixup,
        seed=job.seed,
    )
    train(
        tower,
        batches,
        spec=start.spec,
        loss=classify_softly(head),
        config=config,
        schedule=make_schedule(config),
        seed=job.seed,
        folder=folder,
        head=head,
        progress=functools.partial(report_training, bench.report, "fine-tuning"),
        on_epoch=score,
    )
    return [row for path in sorted(folder.glob("epoch-*.json")) for row in _read_epoch(path)]


def _read_epoch(path: Path) -> list[ResultRow]:
    try:
        rows = parse_json(path.read_text(encoding="utf-8"))
        return [ResultRow.from_json(json.dumps(row)) for row in rows]
    except (OSError, ValueError, KeyError, TypeError) as error:
        mend = "delete its folder, and --resume trains again"
        raise InputError("is no scores of an epoch", where=path, mend=mend) from error


def _score(
    bench: Bench,
    job: Job,
    encoder: Encoder,
    *,
    head: LinearProbe,
    tests: Mapping[str, TaskImages],
    epoch: int,
) -> list[ResultRow]:
    rows: list[ResultRow] = []
    for name, images in tests.items():
        values = embed_task_images(encoder, images, batch_size=bench.batch_size)
        split = EvaluatedSplit(name=name, table=bench.task.table.select(name), embeddings=values)
        rows += _report(head, split, blank=bench.blank(job), stage="fine_tuning", epoch=epoch)
    return rows
