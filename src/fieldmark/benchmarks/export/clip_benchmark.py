"""Write a run's accuracies as CLIP_benchmark's result files, so that its tools read them.

The keys are those of CLIP_benchmark 1.6 (`dataset`, `model`, `pretrained`, `task`, `metrics` with
`acc1`, `acc5` and `mean_per_class_recall`, which have `lp_` before them for a linear probe,
`language`), one file for each data set, model and head. `groups` is added, with what that format
has no word for. A figure that the rows do not bear is null: they hold no scores, so `acc5` always
is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fieldmark.core.atomic import write_json
from fieldmark.core.errors import InputError
from fieldmark.core.records import ResultRow, read_rows, read_run
from fieldmark.report.names import parse_group

TEMPLATE = "{dataset}_{pretrained}_{model}_{language}_{task}.json"
LANGUAGE = "en"
TASKS = {"zero-shot": "zeroshot_classification", "linear-probe": "linear_probe"}
_UNSAFE = re.compile(r"[^\w.+-]+")


class Checkpoint(NamedTuple):
    """A model as CLIP_benchmark names it: architecture, and tag of the weights."""

    model: str
    pretrained: str


def export_clip_benchmark(run: Path, *, out: Path) -> list[Path]:
    """Write the result files of a run.

    Args:
        run: a finished run with accuracies (`evaluate`, `bench`, `demo`).
        out: folder for the files, or the one `.json` file where the run has one result.

    Returns:
        The files.

    Raises:
        InputError: the run is unfinished, holds no accuracy, or several results for one file.
    """
    read_run(run)
    results = list(list_results(read_rows(run)))
    if not results:
        raise InputError("holds no accuracy", where=run, mend="give a run of `fieldmark evaluate`")
    if out.suffix == ".json":
        if len(results) > 1:
            raise InputError(
                f"holds {len(results)} results, and {out} is one file",
                where=run,
                mend="give a folder as --out",
            )
        paths = [out]
    else:
        paths = [out / name for name in name_files(results)]
    for path, result in zip(paths, results, strict=True):
        write_json(path, result)
    return paths


def list_results(rows: Iterable[ResultRow]) -> Iterator[dict[str, Any]]:
    """Yield one result for each data set, split, model, method, head, setting and seed.

    Args:
        rows: of one run.

    Example:
        >>> rows = [ResultRow(suite="evaluate", dataset="d", encoder="open_clip:ViT-B-16/openai",
        ...                   head="zero-shot", metric=metric, value=value, count=count)
        ...         for metric, value, count in (("acc_avg", 0.75, 4), ("acc_y:cat", 1.0, 2),
        ...                                      ("acc_y:dog", 0.5, 2))]
        >>> result, = list_results(rows)
        >>> result["model"], result["pretrained"], result["task"]
        ('ViT-B-16', 'openai', 'zeroshot_classification')
        >>> result["metrics"]
        {'acc1': 0.75, 'acc5': None, 'mean_per_class_recall': 0.75}
    """
    gathered: dict[tuple[str, ...], dict[str, ResultRow]] = {}
    for row in rows:
        if row.metric.startswith("acc_") or row.metric == "adj_acc_avg":
            key = (row.dataset, row.split, row.encoder, row.method, row.head, row.setting)
            gathered.setdefault((*key, str(row.correlation), str(row.seed)), {})[row.metric] = row
    for found in gathered.values():
        if "acc_avg" in found:
            yield _to_result(found)


def _to_result(found: dict[str, ResultRow]) -> dict[str, Any]:
    row = found["acc_avg"]
    checkpoint = split_uri(row.encoder)
    prefix = "lp_" if row.head == "linear-probe" else ""
    return {
        "dataset": row.dataset,
        "model": checkpoint.model,
        "pretrained": checkpoint.pretrained,
        "task": TASKS.get(row.head, row.head.replace("-", "_")),
        "metrics": {
            f"{prefix}acc1": _or_null(row.value),
            f"{prefix}acc5": None,
            f"{prefix}mean_per_class_recall": _or_null(average_recall(list(found.values()))),
        },
        "language": LANGUAGE,
        "split": row.split,
        "method": row.method,
        "setting": row.setting,
        "seed": row.seed,
        "groups": {metric: _describe(one) for metric, one in found.items() if metric != "acc_avg"},
    }


def average_recall(rows: Sequence[ResultRow]) -> float:
    """Return the mean recall over classes; NaN unless the groups hold every image.

    The recall of a class is the mean over its groups, weighted by their images.

    Args:
        rows: of one result, `acc_avg` and the groups among them.
    """
    hits: dict[str, float] = {}
    counts: dict[str, int] = {}
    total = 0
    for row in rows:
        group = parse_group(row.metric)
        if row.metric == "acc_avg":
            total = row.count
        if group is None or row.count == 0:
            continue
        hits[group.label] = hits.get(group.label, 0.0) + row.value * row.count
        counts[group.label] = counts.get(group.label, 0) + row.count
    if not counts or sum(counts.values()) != total:
        return math.nan
    return sum(hits[label] / counts[label] for label in counts) / len(counts)


def split_uri(uri: str) -> Checkpoint:
    """Return how CLIP_benchmark calls an encoder; other than open_clip's tags by the whole name.

    Example:
        >>> split_uri("open_clip:ViT-B-16/laion2b_s34b_b88k")
        Checkpoint(model='ViT-B-16', pretrained='laion2b_s34b_b88k')
        >>> split_uri("hf:google/siglip2-base-patch16-224")
        Checkpoint(model='hf:google/siglip2-base-patch16-224', pretrained='')
    """
    scheme, _, rest = uri.partition(":")
    model, slash, tag = rest.replace(",", "/").rpartition("/")
    if scheme == "open_clip" and slash:
        return Checkpoint(model.replace("/", "-"), tag)
    return Checkpoint(uri, "")


def _describe(row: ResultRow) -> dict[str, Any]:
    figures = {"value": row.value, "ci_low": row.ci_low, "ci_high": row.ci_high}
    return {**{key: _or_null(value) for key, value in figures.items()}, "count": row.count}


def _or_null(value: float) -> float | None:
    return value if math.isfinite(value) else None


def name_files(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return a file name for each result by CLIP_benchmark's template, all different.

    What the template has no place for (split, method, setting, seed) is put after the data set
    where results differ in it.
    """
    extra = ("split", "method", "setting", "seed")
    telling = [key for key in extra if len({result[key] for result in results}) > 1]
    names = []
    for result in results:
        parts = [result["dataset"], *(f"{result[key]}" for key in telling if result[key] != "")]
        slugs = {key: slug(result[key]) for key in ("pretrained", "model", "language", "task")}
        names.append(TEMPLATE.format(dataset=slug("-".join(parts)), **slugs))
    if len(set(names)) == len(names):
        return names
    return [f"{Path(name).stem}_{index}.json" for index, name in enumerate(names)]


def slug(text: str) -> str:
    """Return a text as a part of a file name.

    Example:
        >>> slug("stamps/birds-mammals"), slug("../x")
        ('stamps_birds-mammals', '.._x')
    """
    return _UNSAFE.sub("_", text)[:100]
