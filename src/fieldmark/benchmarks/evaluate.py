"""Evaluate one encoder on one table: embed once, fit heads, report groups and sensitivity.

Every image is embedded once whatever the number of heads, seeds and splits. Composites that share a
foreground object are drawn together for the intervals. A head that has no seed is evaluated once,
under the first seed.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fieldmark.benchmarks.predictions import (
    EvaluatedSplit,
    Predictions,
    report_groups,
    report_sensitivity,
)
from fieldmark.core.errors import NotApplicableError, TableError, UsageError
from fieldmark.core.records import ResultRow
from fieldmark.core.registry import look_up
from fieldmark.data.datasets.built import pair_up
from fieldmark.data.tables import ImageTable
from fieldmark.data.tasks import Pairs
from fieldmark.methods.head import Concepts, Features, Head, HeadData, HeadKind, Need
from fieldmark.methods.heads import HEADS
from fieldmark.models.embed import Embeddings, Precision, Progress, embed_images
from fieldmark.models.encoder import Encoder
from fieldmark.models.prompts import TEMPLATES, ensemble_prompts

# The name of the one split of a table without splits.
ALL = "all"
TRAIN = "train"


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """All that an evaluation found.

    Attributes:
        rows: the figures.
        predictions: what each head said, for each split and seed.
        splits: the evaluated splits and the training split, by name, with their embeddings.
        heads: the heads, by name and seed.
        unreadable: id of each image that was left out, and why.
    """

    rows: tuple[ResultRow, ...]
    predictions: tuple[Predictions, ...]
    splits: dict[str, EvaluatedSplit]
    heads: dict[tuple[str, int], Head]
    unreadable: dict[str, str]


def evaluate(
    encoder: Encoder,
    table: ImageTable,
    *,
    heads: Sequence[str] = ("linear-probe",),
    seeds: Sequence[int] = (0,),
    train_split: str = TRAIN,
    test_splits: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    templates: Sequence[str] | None = None,
    suite: str = "evaluate",
    method: str = "native",
    correlation: float = math.nan,
    cache: Path | None = None,
    batch_size: int = 64,
    precision: Precision = "auto",
    skip_unreadable: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Evaluate an encoder on the splits of a table.

    Args:
        encoder: what is evaluated; it stays as it is.
        table: the images.
        heads: names out of `fieldmark.methods.heads.HEADS`.
        seeds: of the heads that have one.
        train_split: what heads are fitted on; a balanced one makes a probe the oracle.
        test_splits: what is evaluated; by default every split whose name starts with "test", else
            "val", and the whole of a table without splits.
        class_names: names for the prompts, in the order of the labels; the table's own by default.
        templates: prompt templates; fieldmark's own by default.
        suite: for the rows.
        method: for the rows: what was done to the encoder.
        correlation: for the rows: share of training images whose background goes with their class.
        cache: folder that keeps embeddings.
        batch_size: images a batch.
        precision: of the weights during extraction: fp32, bf16, fp16, or `auto`: bf16 where the
            device has it natively.
        skip_unreadable: leave out images that cannot be read instead of raising.
        progress: called with how many images are embedded and how many there are.

    Raises:
        NotApplicableError: the data do not bear a head: no minority group, no attribute to name.
        UsageError: no head, no seed, an unknown head, or class names that do not fit.
        TableError: a split that is not there, or a training split with fewer than two classes.
        ImageError: an image cannot be read, and `skip_unreadable` is off.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from fieldmark.data.tables import read_table
        >>> from fieldmark.testing import FakeEncoder
        >>> with tempfile.TemporaryDirectory() as name:
        ...     for colour in ("red", "blue"):
        ...         (Path(name) / colour).mkdir()
        ...         Image.new("RGB", (8, 8), colour).save(Path(name) / colour / "a.png")
        ...     table = read_table(Path(name))
        ...     result = evaluate(FakeEncoder(), table, heads=["zero-shot"], templates=["{}"])
        >>> {row.metric: row.value for row in result.rows}["acc_avg"]
        1.0
    """
    kinds = _look_up_heads(heads, seeds)
    needs = frozenset().union(*(kind.needs for kind in kinds.values()))
    tests = _choose_splits(table, test_splits)
    fitted_on = _choose_fitting(table, needs, train_split=train_split)
    embed = functools.partial(
        embed_images,
        encoder,
        cache=cache,
        batch_size=batch_size,
        precision=precision,
        skip_unreadable=skip_unreadable,
        progress=progress,
    )
    splits, unreadable = _embed_splits(embed, table, [*tests, *fitted_on.values()])
    data = _embed_words(encoder, table, needs, names=class_names, templates=templates)
    if "train" in needs:
        data = _add_training(data, splits[train_split])
    if "val" in needs:
        data = replace(data, val=as_features(splits[fitted_on["val"]]))
    fitted = _fit_heads(kinds, data, seeds=seeds)
    predictions = _predict_all(fitted, [splits[name] for name in tests])
    blank = ResultRow(
        suite=suite,
        dataset=table.name,
        encoder=encoder.spec.uri,
        method=method,
        correlation=correlation,
        seed=seeds[0],
        metric="",
    )
    training = _select_frequencies(table, train_split)
    sensitivity = (report_sensitivity(splits[name], blank=blank) for name in tests)
    groups = (report_groups(one, training=training, blank=blank) for one in predictions)
    return Evaluation(
        rows=tuple(itertools.chain(*sensitivity, *groups)),
        predictions=tuple(predictions),
        splits=splits,
        heads=fitted,
        unreadable=unreadable,
    )


def _look_up_heads(heads: Sequence[str], seeds: Sequence[int]) -> dict[str, HeadKind]:
    if not heads or not seeds:
        raise UsageError("an evaluation needs at least one head and one seed")
    return {name: look_up(HEADS, name, kind="head") for name in heads}


def _names(table: ImageTable) -> list[str]:
    return list(dict.fromkeys(table.splits or (ALL,)))


def _select(table: ImageTable, split: str) -> ImageTable:
    return table if table.splits is None and split == ALL else table.select(split)


def _choose_splits(table: ImageTable, test_splits: Sequence[str] | None) -> list[str]:
    if test_splits is not None:
        return list(dict.fromkeys(test_splits))
    names = _names(table)
    tests = [name for name in names if name.startswith("test")]
    chosen = tests or [name for name in names if name in ("val", ALL)]
    if not chosen:
        raise TableError(
            f"has no test split; its splits are: {', '.join(names)}",
            where=table.name,
            mend="say which to evaluate",
        )
    return chosen


def _embed_splits(
    embed: Callable[[ImageTable], Embeddings], table: ImageTable, names: Sequence[str]
) -> tuple[dict[str, EvaluatedSplit], dict[str, str]]:
    """Embed some splits in one go, so that no image that they share is embedded twice."""
    parts = {name: _select(table, name) for name in dict.fromkeys(names)}
    place = {identity: index for index, identity in enumerate(table.ids)}
    rows = [place[identity] for part in parts.values() for identity in part.ids]
    embedded = embed(table.take(rows))
    bad = {table.ids[rows[image.index]]: image.reason for image in embedded.unreadable}
    splits, start = {}, 0
    for name, part in parts.items():
        kept = np.array([identity not in bad for identity in part.ids], dtype=bool)
        values = embedded.values[start : start + len(part)]
        start += len(part)
        splits[name] = EvaluatedSplit(
            name=name, table=part.take(np.flatnonzero(kept)), embeddings=values[kept]
        )
    return splits, bad


def _embed_prompts(
    encoder: Encoder,
    table: ImageTable,
    *,
    names: Sequence[str] | None,
    templates: Sequence[str] | None,
) -> NDArray[np.float32]:
    names = table.name_classes(names)
    with torch.inference_mode():
        prototypes = ensemble_prompts(encoder, names, TEMPLATES if templates is None else templates)
    return np.asarray(prototypes.float().cpu().numpy())


def _choose_fitting(
    table: ImageTable, needs: frozenset[Need], *, train_split: str
) -> dict[str, str]:
    """Return the splits that heads are fitted and selected on, by what they are for."""
    chosen = {"train": train_split} if "train" in needs else {}
    if "val" not in needs:
        return chosen
    found = [name for name in ("val", "calibration") if name in (table.splits or ())]
    if not found:
        raise NotApplicableError(f"{table.name} has no split val to select by")
    return {**chosen, "val": found[0]}


def _embed_words(
    encoder: Encoder,
    table: ImageTable,
    needs: frozenset[Need],
    *,
    names: Sequence[str] | None,
    templates: Sequence[str] | None,
) -> HeadData:
    """Embed what heads need of the texts."""
    data = HeadData()
    if "prototypes" in needs:
        prototypes = _embed_prompts(encoder, table, names=names, templates=templates)
        data = replace(data, prototypes=prototypes)
    if "concepts" in needs:
        data = replace(data, concepts=_embed_concepts(encoder, table, names=names))
    return data


def _embed_concepts(
    encoder: Encoder, table: ImageTable, *, names: Sequence[str] | None
) -> Concepts:
    """Embed pairs of backgrounds and of classes, in the words of the table."""
    reject = pair_up([f"{name} background" for name in table.attribute_names])
    if not reject:
        raise NotApplicableError(f"{table.name} names no two backgrounds")
    return embed_concepts(encoder, reject=reject, accept=pair_up(names or table.classes))


def embed_concepts(encoder: Encoder, *, reject: Pairs, accept: Pairs) -> Concepts:
    """Embed concept pairs for the heads that work in the space of texts.

    Args:
        encoder: its text tower is used.
        reject: pairs of texts of the spurious attribute.
        accept: pairs of texts of classes.
    """

    def embed(pairs: Pairs) -> NDArray[np.float32]:
        with torch.inference_mode():
            flat = encoder.encode_text([text for pair in pairs for text in pair])
        return np.asarray(flat.float().cpu().numpy()).reshape(len(pairs), 2, -1)

    return Concepts(reject=embed(reject), accept=embed(accept))


def _add_training(data: HeadData, part: EvaluatedSplit) -> HeadData:
    present = np.unique(part.table.labels)
    if len(present) < 2:
        raise TableError(
            f"has images of {len(present)} class in split {part.name!r}, a probe needs 2",
            where=part.table.name,
            mend="choose another training split, or the head zero-shot",
        )
    return replace(data, train=as_features(part))


def as_features(part: EvaluatedSplit) -> Features:
    """Return the embeddings of a split with its labels and groups, for a head."""
    return Features(
        embeddings=part.embeddings,
        labels=part.table.labels,
        groups=part.table.group_ids(),
        names=part.table.group_names(),
    )


def _fit_heads(
    kinds: Mapping[str, HeadKind], data: HeadData, *, seeds: Sequence[int]
) -> dict[tuple[str, int], Head]:
    return {
        (name, seed): kind.make(replace(data, seed=seed))
        for name, kind in kinds.items()
        for seed in (seeds if kind.seeded else seeds[:1])
    }


def _predict_all(
    heads: Mapping[tuple[str, int], Head], splits: Sequence[EvaluatedSplit]
) -> list[Predictions]:
    predictions = []
    for split in splits:
        for (name, seed), head in heads.items():
            labels = split.table.labels
            # scikit-learn refuses an empty array.
            predicted = head.predict(split.embeddings) if len(labels) else np.zeros_like(labels)
            one = Predictions(split=split, head=name, seed=seed, predicted=predicted)
            predictions.append(one)
    return predictions


def _select_frequencies(table: ImageTable, train_split: str) -> ImageTable | None:
    # An oracle's balanced split is not how often groups occur, so `train` goes first.
    names = _names(table)
    name = next((name for name in (TRAIN, train_split) if name in names), None)
    return None if name is None else _select(table, name)
