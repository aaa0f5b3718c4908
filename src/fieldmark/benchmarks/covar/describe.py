"""What a run of `covar evaluate` found, as JSON values and as rows of `results.jsonl`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldmark.benchmarks.covar.backgrounds import list_predicted, measure_area, measure_scenes
from fieldmark.benchmarks.covar.figures import (
    Columns,
    average_classes,
    compare_encoders,
    measure_classes,
    plain_figures,
    pool_columns,
    read_accuracies,
    read_drops,
    tally,
)
from fieldmark.benchmarks.covar.material import CovarImages
from fieldmark.benchmarks.covar.request import CovarPlan
from fieldmark.core.records import ResultRow
from fieldmark.data.covar.settings import BACKGROUND, ORIGINAL

SUITE = "covar"


@dataclass(frozen=True, eq=False, kw_only=True)
class Encoded:
    """What one encoder did.

    Attributes:
        uri: its name.
        fingerprint: of its weights.
        predictions: (n,) candidate of each image.
        correct: (n,) whether it is the right one.
        sources: by rule and column, the shares of the sources of its errors.
        remark: why errors are not explained; empty if they are.
    """

    uri: str
    fingerprint: str
    predictions: NDArray[np.int64]
    correct: NDArray[np.bool_]
    sources: Mapping[str, Any]
    remark: str


def describe_run(
    plan: CovarPlan,
    images: CovarImages,
    encoded: Sequence[Encoded],
    *,
    failed: Mapping[str, str],
    notes: Sequence[str],
) -> dict[str, Any]:
    """Return what `covar.json` holds, but for its pictures.

    Args:
        plan: of the run.
        images: that were named.
        encoded: what each encoder said; one at least.
        failed: by URI, why an encoder is left out.
        notes: what limits the figures.
    """
    table = images.table
    counted = tally(
        [one.correct for one in encoded], images.cells, width=len(images.subsets),
        labels=images.labels, objects=images.objects, classes=len(table.classes),
        seed=plan.request.seed,
    )  # fmt: skip
    pooled = pool_columns(counted, images.subsets, images.columns)
    columns = average_classes(pooled, images.columns)
    single = average_classes(counted, images.subsets)
    records = [
        {
            **_describe_encoder(
                one, number, columns=columns, single=single, subsets=images.subsets
            ),
            "classes": _describe_classes(
                measure_classes(pooled, images.columns, encoder=number), table.classes
            ),
            **_describe_scenes(images, one, seed=plan.request.seed),
        }
        for number, one in enumerate(encoded)
    ]
    _add_area(records, images, encoded, seed=plan.request.seed)
    return {
        **plan.request.arguments(),
        "dataset": table.name,
        "images": len(table),
        "objects": len(set(images.objects)),
        "classes": list(table.classes),
        "names": len(images.candidates.names),
        "subsets": {
            name: int((images.cells == number).sum()) for number, name in enumerate(images.subsets)
        },
        "columns": list(images.columns),
        "scenes": list(table.attribute_names),
        "encoders": records,
        "comparisons": _compare(encoded, columns),
        "failed": dict(failed),
        "notes": [*notes, *(f"of {one.uri} {one.remark}" for one in encoded if one.remark)],
    }


def _describe_encoder(
    one: Encoded, number: int, *, columns: Columns, single: Columns, subsets: Sequence[str]
) -> dict[str, Any]:
    drops = {
        f"drop_{against}": plain_figures(read_drops(columns, encoder=number, against=against))
        for against in (ORIGINAL, BACKGROUND)
    }
    alone = read_accuracies(single, encoder=number)
    return {
        "uri": one.uri,
        "label": label_encoder(one.uri),
        "fingerprint": one.fingerprint,
        "remark": one.remark,
        "accuracy": plain_figures(read_accuracies(columns, encoder=number)),
        "subset_accuracy": {name: alone[name].plain() for name in subsets},
        **drops,
        "sources": one.sources,
    }


def _compare(encoded: Sequence[Encoded], columns: Columns) -> list[dict[str, Any]]:
    return [
        {
            "first": encoded[0].uri,
            "second": one.uri,
            "columns": {
                name: plain_figures(figures)
                for name, figures in compare_encoders(columns, first=0, second=number).items()
            },
        }
        for number, one in enumerate(encoded)
        if number
    ]


def label_encoder(uri: str) -> str:
    """Return a short name: the folder of a run, or the URI without its kind.

    Example:
        >>> label_encoder("open_clip:ViT-B-16/openai"), label_encoder("packaged:dinov2-small@98")
        ('ViT-B-16/openai', 'dinov2-small@98')
    """
    path = Path(uri)
    if path.is_dir():
        return path.resolve().name
    return uri.partition(":")[2] or uri


def list_rows(record: Mapping[str, Any], *, seed: int) -> Iterator[ResultRow]:
    """Yield the main figures of a record as rows of `results.jsonl`."""
    blank = ResultRow(
        suite=SUITE, dataset=record["dataset"], head=record["head"], seed=seed, metric=""
    )
    for one in record["encoders"]:
        mine = dataclasses.replace(blank, encoder=one["uri"])
        for kind, metric in (
            ("accuracy", "acc_avg"),
            ("subset_accuracy", "acc_subset"),
            ("drop_original", "drop_original"),
            ("drop_background", "drop_background"),
        ):
            for column, figure in one[kind].items():
                yield _fill(mine, figure, split=column, metric=metric)
        for number, of in enumerate(one["classes"]):
            for metric in ("background_drop", "mean_drop", "largest_drop"):
                if metric in of:
                    name = f"{metric}_y:{of['class']}"
                    row = _fill(mine, of[metric], split="", metric=name)
                    yield dataclasses.replace(row, group=number)
        yield from _list_source_rows(mine, one["sources"])
    for pair in record["comparisons"]:
        mine = dataclasses.replace(blank, encoder=pair["second"], method=f"minus {pair['first']}")
        for column, figures in pair["columns"].items():
            for metric, figure in figures.items():
                yield _fill(mine, figure, split=column, metric=f"{metric}_gain")


def _list_source_rows(blank: ResultRow, sources: Mapping[str, Any]) -> Iterator[ResultRow]:
    for rule, columns in sources.items():
        for column, shares in columns.items():
            for share in shares:
                low, high = share["interval"]
                corrected_low, corrected_high = share["corrected_interval"]
                source = share["source"].replace(" ", "-")
                mine = dataclasses.replace(
                    blank, split=column, setting=f"rule={rule}", count=share["of"]
                )
                nan = float("nan")
                for figure, value, ends in (
                    ("share", share["share"], (low, high)),
                    ("null", share["null"], (nan, nan)),
                    ("corrected", share["corrected"], (corrected_low, corrected_high)),
                    ("share_of_images", share["of_images"], (nan, nan)),
                ):
                    yield dataclasses.replace(
                        mine, metric=f"{source}_{figure}", value=value, ci_low=ends[0],
                        ci_high=ends[1],
                    )  # fmt: skip


def _fill(row: ResultRow, figure: Mapping[str, Any], *, split: str, metric: str) -> ResultRow:
    return dataclasses.replace(
        row, split=split, metric=metric, value=figure["value"], ci_low=figure["low"],
        ci_high=figure["high"], count=figure["count"],
    )  # fmt: skip


def _describe_classes(
    records: Sequence[Mapping[str, Any]], classes: Sequence[str]
) -> list[dict[str, Any]]:
    return [
        {
            "class": name,
            **{k: v.plain() if hasattr(v, "plain") else v for k, v in record.items()},
        }
        for name, record in zip(classes, records, strict=True)
    ]


def _describe_scenes(images: CovarImages, one: Encoded, *, seed: int) -> dict[str, Any]:
    rows, table = images.varied, images.table
    if not len(rows) or table.attributes is None:
        return {"backgrounds": [], "factorial": {}}
    scenes, labels = table.attributes[rows], images.labels[rows]
    objects = [images.objects[row] for row in rows.tolist()]
    count = len(table.attribute_names)
    said = list_predicted(
        one.predictions[rows], scenes, count=count, labels=labels, objects=objects,
        candidates=images.candidates.names, seed=seed,
    )  # fmt: skip
    factorial = measure_scenes(
        one.correct[rows], scenes, count=count, labels=labels, objects=objects,
        classes=table.classes, seed=seed,
    )  # fmt: skip
    return {"backgrounds": said, "factorial": factorial}


def _add_area(
    records: Sequence[dict[str, Any]],
    images: CovarImages,
    encoded: Sequence[Encoded],
    *,
    seed: int,
) -> None:
    """Give each encoder its accuracy by area, over what differs in nothing but the size."""
    sized = [
        number
        for number, name in enumerate(images.subsets)
        if name == BACKGROUND or name.startswith("scale_")
    ]
    rows = np.flatnonzero(np.isin(images.cells, sized))
    if not len(rows):
        return
    found = measure_area(
        [one.correct[rows] for one in encoded],
        images.area[rows],
        labels=images.labels[rows],
        objects=[images.objects[row] for row in rows.tolist()],
        classes=len(images.table.classes),
        seed=seed,
    )
    for record, line in zip(records, found, strict=True):
        record["area"] = line
