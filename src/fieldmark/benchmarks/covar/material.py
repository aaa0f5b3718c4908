"""The images of a COVAR that are evaluated, and what every encoder says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from fieldmark.benchmarks.covar.candidates import Candidates, choose_candidates
from fieldmark.benchmarks.covar.figures import list_columns
from fieldmark.benchmarks.covar.request import CovarPlan
from fieldmark.benchmarks.covar.sources import order_rows
from fieldmark.core.errors import TableError, UsageError
from fieldmark.core.fetch import cache_dir
from fieldmark.core.seeds import generator
from fieldmark.data.covar.manifest import Covar, is_whole, open_covar
from fieldmark.data.covar.settings import BACKGROUND, ORIGINAL
from fieldmark.data.tables import ImageTable
from fieldmark.models.embed import Embeddings, embed_images
from fieldmark.models.encoder import Encoder
from fieldmark.models.prompts import ensemble_prompts


@dataclass(frozen=True, eq=False, kw_only=True)
class CovarImages:
    """What is evaluated.

    Attributes:
        covar: the whole COVAR.
        table: the images that are taken.
        labels: (n,) class of the COVAR of each image.
        cells: (n,) number of the subset of each image.
        subsets: their names.
        columns: of the paper's tables, the originals first.
        area: (n,) share of the image that the object has.
        candidates: what encoders choose among.
        fit: images that class means are made of, of objects that are not evaluated; None where
            encoders are asked by texts.
        notes: what limits the figures.
    """

    covar: Covar
    table: ImageTable
    labels: NDArray[np.int64]
    cells: NDArray[np.int64]
    subsets: tuple[str, ...]
    columns: tuple[str, ...]
    area: NDArray[np.float64]
    candidates: Candidates
    fit: ImageTable | None
    notes: tuple[str, ...]

    @property
    def objects(self) -> tuple[str, ...]:
        """Id of the object in each image."""
        return self.table.objects or self.table.ids

    @property
    def varied(self) -> NDArray[np.int64]:
        """Rows of the images that differ in the background alone, its category known."""
        if self.table.attributes is None or BACKGROUND not in self.subsets:
            return np.zeros(0, np.int64)
        of = self.cells == self.subsets.index(BACKGROUND)
        return np.flatnonzero(of & (self.table.attributes >= 0))


@dataclass(frozen=True, eq=False, kw_only=True)
class Answers:
    """What an encoder says of the images.

    Attributes:
        predictions: (n,) candidate.
        texts: (K,D) the candidates' embeddings, unit class means where texts are not asked.
    """

    predictions: NDArray[np.int64]
    texts: NDArray[np.float32]


def open_images(plan: CovarPlan) -> CovarImages:
    """Open a COVAR and choose its images.

    Raises:
        TableError: the folder holds no finished COVAR, a file is missing or torn, or there is no
            variant.
        UsageError: a class is not among the candidates, or has no object left to judge.
    """
    request = plan.request
    covar = open_covar(request.data)
    if set(covar.subsets) <= {ORIGINAL}:
        raise TableError(
            "holds no variant, only originals", where=request.data, mend="build it with subsets"
        )
    candidates = choose_candidates(request.candidates, covar.table.classes)
    fit = choose_fit(covar, count=request.fit_objects, seed=request.seed)
    fit = fit if request.head == "class-means" else frozenset()
    objects, rows = covar.table.objects or covar.table.ids, list[int]()
    for subset in covar.subsets:
        found = [row for row in covar.find_rows(subset).tolist() if objects[row] not in fit]
        rows += order_rows(covar.table, found, seed=request.seed)[: request.limit]
    chosen = np.array(sorted(rows), np.int64)
    table = covar.table.take(chosen)
    _require_whole(table, masks=bool(plan.rules), where=request.data)
    return CovarImages(
        covar=covar,
        table=table,
        labels=table.labels,
        cells=np.array([covar.subsets.index(name) for name in table.splits or ()], np.int64),
        subsets=covar.subsets,
        columns=list_columns(covar.subsets),
        area=covar.realised_area[chosen],
        candidates=candidates,
        fit=_take_fit(covar, fit) if fit else None,
        notes=tuple(_list_notes(covar, limit=request.limit)) + _note_fit(fit, covar),
    )


def ask_encoder(
    plan: CovarPlan,
    encoder: Encoder,
    images: CovarImages,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Answers:
    """Embed every image once, through the cache, and name it by the nearest candidate.

    Args:
        plan: the templates.
        encoder: which to ask.
        images: what to name.
        progress: called with images done and in all.

    Raises:
        ImageError: an image cannot be read.
    """
    if images.fit is None:
        with torch.inference_mode():
            texts = ensemble_prompts(encoder, images.candidates.names, plan.templates)
        known = texts.float().cpu().numpy()
    else:
        known = average_classes_of(images.fit, _embed(plan, encoder, images.fit).values)
    embedded = _embed(plan, encoder, images.table, progress=progress)
    predictions = (embedded.values @ known.T).argmax(axis=1)
    return Answers(predictions=predictions.astype(np.int64), texts=known)


def choose_fit(covar: Covar, *, count: int, seed: int) -> frozenset[str]:
    """Draw `count` objects of each class, by id, each class by its own name."""
    table, chosen = covar.table, set[str]()
    objects = np.array(table.objects or table.ids)
    for label, name in enumerate(table.classes):
        own = sorted(set(objects[table.labels == label].tolist()))
        drawn = generator(seed, "covar", "fit", name).permutation(len(own))[:count]
        chosen |= {own[place] for place in drawn.tolist()}
    return frozenset(chosen)


def average_classes_of(table: ImageTable, values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the unit mean of each class's unit embeddings: (n,D) to (classes,D)."""
    means = np.stack([values[table.labels == k].mean(axis=0) for k in range(len(table.classes))])
    unit: NDArray[np.float32] = means / np.linalg.norm(means, axis=1, keepdims=True)
    return unit


def _take_fit(covar: Covar, fit: frozenset[str]) -> ImageTable:
    table = covar.table
    subset = BACKGROUND if BACKGROUND in covar.subsets else covar.subsets[0]
    objects = table.objects or table.ids
    taken = table.take([row for row in covar.find_rows(subset).tolist() if objects[row] in fit])
    judged = {
        int(label) for label, own in zip(table.labels, objects, strict=True) if own not in fit
    }
    short = [name for label, name in enumerate(table.classes) if label not in judged]
    if short:
        raise UsageError(
            f"no object is left to judge of {', '.join(short[:3])}",
            mend="set fewer aside with --fit-objects, or build more of each class",
        )
    return taken


def _note_fit(fit: frozenset[str], covar: Covar) -> tuple[str, ...]:
    if not fit:
        return ()
    return (
        f"classes are the mean of {len(fit)} objects on all scenes, which are not judged "
        f"({len(fit) / len(covar.table.classes):g} of each class); texts are not asked",
    )


def _embed(
    plan: CovarPlan,
    encoder: Encoder,
    table: ImageTable,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Embeddings:
    # In full precision, so that images are named as when their errors are explained.
    return embed_images(
        encoder,
        table,
        cache=_find_cache(),
        batch_size=plan.request.batch_size,
        precision="fp32",
        progress=progress,
    )


def _require_whole(table: ImageTable, *, masks: bool, where: Path) -> None:
    # Only what is taken is opened: a whole COVAR has ten thousands of files.
    wanted = [*table.paths, *(path for path in table.masks or () if masks and path is not None)]
    torn = [path for path in wanted if not is_whole(path)]
    if torn:
        more = f", and {len(torn) - 1} more" if len(torn) > 1 else ""
        raise TableError(
            f"is damaged: {torn[0]} is missing or torn{more}", where=where, mend="build it again"
        )


def _find_cache() -> Path:
    return cache_dir() / "embeddings"


def _list_notes(covar: Covar, *, limit: int | None) -> list[str]:
    columns = list_columns(covar.subsets)
    missing = [name for name in ("viewpoint", "scale", BACKGROUND) if name not in columns]
    count = len([name for name in columns if name != ORIGINAL])
    notes = []
    if missing:
        notes.append(
            f"the paper averages over eight subsets; here there are {count}, "
            f"without {', '.join(missing)}"
        )
    if BACKGROUND not in columns:
        notes.append("there is no subset of varied backgrounds, so no drop against it")
    originals = covar.find_rows(ORIGINAL) if ORIGINAL in covar.subsets else np.zeros(0, np.int64)
    scenes = {(covar.table.scenes or ())[row] for row in originals.tolist()}
    if len(scenes) == 1:
        notes.append(
            f"the originals lie on one background ({scenes.pop()}), so a drop against them is that "
            "against a plain card, not against a photograph as in the paper"
        )
    if limit is not None:
        notes.append(f"at most {limit} images of each subset, the same compositions in all")
    return notes
