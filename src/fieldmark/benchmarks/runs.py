"""Recorded runs of `fieldmark embed` and `fieldmark evaluate`."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from fieldmark.benchmarks.evaluate import evaluate
from fieldmark.benchmarks.export.predictions import write_predictions
from fieldmark.benchmarks.sources import open_table
from fieldmark.core.atomic import hash_json, replacing, write_text
from fieldmark.core.fetch import cache_dir
from fieldmark.core.records import ResultRow, Run, start_run
from fieldmark.data.tables import ImageTable
from fieldmark.models.device import pick_device
from fieldmark.models.embed import Precision, embed_images
from fieldmark.models.encoder import Encoder
from fieldmark.models.engine import LOCAL, Engine
from fieldmark.models.load import load_encoder
from fieldmark.models.prompts import PEOPLE_TEMPLATES, TEMPLATES, read_templates

Report = Callable[[int, int], None]
EMBEDDINGS, INDEX = "embeddings.safetensors", "index.csv"


def run_embedding(
    *,
    model: str,
    data: str,
    out: Path,
    root: Path | None = None,
    batch_size: int = 64,
    precision: Precision = "auto",
    device: str = "auto",
    skip_unreadable: bool = False,
    resume: bool = False,
    engine: Engine = LOCAL,
    report: Report | None = None,
) -> Path:
    """Embed every image of a table into OUT/embeddings.safetensors, in the order of OUT/index.csv.

    Args:
        model: URI of the encoder.
        data: the images, as `open_table` reads them.
        out: folder of the run.
        root: folder that a table's paths lie in.
        batch_size: images in one forward.
        precision: of the weights.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        skip_unreadable: give images that cannot be read a row of NaN instead of stopping.
        resume: go on with the unfinished run in `out`.
        engine: where the images are embedded.
        report: called with images done and in all.
    """
    table = open_table(data, root=root)
    encoder = load_encoder(model, device=pick_device(device))
    arguments = {
        "model": model,
        "data": data,
        "root": None if root is None else str(root),
        "precision": precision,
        "skip_unreadable": skip_unreadable,
    }
    run = start_run(out, "embed", arguments=arguments, resume=resume)
    embedded = embed_images(
        encoder,
        table,
        cache=cache_dir() / "embeddings",
        batch_size=batch_size,
        precision=precision,
        skip_unreadable=skip_unreadable,
        engine=engine,
        progress=report,
    )
    with replacing(out / EMBEDDINGS) as part:
        save_file({"embeddings": embedded.values}, part, metadata={"encoder": model})
    write_text(out / INDEX, _format_index(table))
    readable = len(table) - len(embedded.unreadable)
    run.add([ResultRow(suite="embed", dataset=table.name, encoder=model, metric="images",
                       value=readable, count=len(table))])  # fmt: skip
    run.notes = {
        "unreadable": {table.ids[image.index]: image.reason for image in embedded.unreadable}
    }
    return _finish(run, table, encoder)


def run_evaluation(
    *,
    model: str,
    data: str,
    out: Path,
    root: Path | None = None,
    heads: Sequence[str] = ("zero-shot", "linear-probe"),
    seeds: Sequence[int] = (0,),
    train_split: str = "train",
    splits: Sequence[str] = (),
    class_names: Sequence[str] = (),
    templates: str = "default",
    batch_size: int = 64,
    precision: Precision = "auto",
    device: str = "auto",
    skip_unreadable: bool = False,
    resume: bool = False,
    report: Report | None = None,
) -> Path:
    """Measure accuracy by group and background sensitivity into OUT/results.jsonl.

    Args:
        model: URI of the encoder.
        data: the images, as `open_table` reads them.
        out: folder of the run.
        root: folder that a table's paths lie in.
        heads: names of heads.
        seeds: seeds of the heads that have one.
        train_split: what probes are fitted on.
        splits: what is evaluated; by default every split whose name starts with "test".
        class_names: names for the prompts; the table's own by default.
        templates: `default`, `people`, or a file with one template a line.
        batch_size: images in one forward.
        precision: of the weights.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        skip_unreadable: leave out images that cannot be read instead of stopping.
        resume: go on with the unfinished run in `out`.
        report: called with images done and in all.
    """
    table = open_table(data, root=root)
    prompts = choose_templates(templates)
    encoder = load_encoder(model, device=pick_device(device))
    arguments = {
        "model": model,
        "data": data,
        "root": None if root is None else str(root),
        "heads": list(heads),
        "seeds": list(seeds),
        "train_split": train_split,
        "splits": list(splits),
        "class_names": list(class_names),
        "templates": prompts,
        "precision": precision,
        "skip_unreadable": skip_unreadable,
    }
    run = start_run(out, "evaluate", arguments=arguments, seeds=seeds, resume=resume)
    found = evaluate(
        encoder,
        table,
        heads=heads,
        seeds=seeds,
        train_split=train_split,
        test_splits=splits or None,
        class_names=class_names or None,
        templates=prompts,
        correlation=measure_correlation(table, split=train_split),
        cache=cache_dir() / "embeddings",
        batch_size=batch_size,
        precision=precision,
        skip_unreadable=skip_unreadable,
        progress=report,
    )
    run.add(found.rows)
    write_predictions(out, found.predictions)
    run.notes = {"unreadable": found.unreadable}
    return _finish(run, table, encoder)


def choose_templates(name: str) -> list[str]:
    """Return prompt templates: fieldmark's own, those for people, or a file's.

    Example:
        >>> len(choose_templates("default")), len(choose_templates("people"))
        (40, 3)
    """
    known = {"default": TEMPLATES, "people": PEOPLE_TEMPLATES}
    return list(known[name] if name in known else read_templates(Path(name)))


def measure_correlation(table: ImageTable, *, split: str) -> float:
    """Return the share of training images whose background is the usual one of their class.

    NaN where backgrounds are not known.
    """
    if table.attributes is None or split not in (table.splits or ()):
        return math.nan
    part = table.select(split)
    if part.attributes is None:
        return math.nan
    known = part.attributes >= 0
    usual = 0
    for label in np.unique(part.labels):
        usual += int(np.bincount(part.attributes[known & (part.labels == label)]).max(initial=0))
    return usual / int(known.sum()) if known.any() else math.nan


def _format_index(table: ImageTable) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["id", "path", "label", "split"])
    splits = table.splits or ("",) * len(table)
    for identity, path, label, split in zip(
        table.ids, table.paths, table.labels, splits, strict=True
    ):
        writer.writerow([identity, path, table.classes[label], split])
    return stream.getvalue()


def _finish(run: Run, table: ImageTable, encoder: Encoder) -> Path:
    run.data = {"name": table.name, "images": len(table), "content": hash_json(table.hashes())}
    run.weights = {"encoder": encoder.spec.fingerprint}
    return run.finish()
