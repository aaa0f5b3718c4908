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
from fieldmark.core.errors import TableError
from fieldmark.core.fetch import cache_dir
from fieldmark.data.covar.manifest import Covar, is_whole, open_covar
from fieldmark.data.covar.settings import BACKGROUND, ORIGINAL
from fieldmark.data.tables import ImageTable
from fieldmark.models.embed import embed_images
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
        texts: (K,D) the candidates' embeddings.
    """

    predictions: NDArray[np.int64]
    texts: NDArray[np.float32]


def open_images(plan: CovarPlan) -> CovarImages:
    """Open a COVAR and choose its images.

    Raises:
        TableError: the folder holds no finished COVAR, a file is missing or torn, or there is no
            variant.
        UsageError: a class is not among the candidates.
    """
    request = plan.request
    covar = open_covar(request.data)
    if set(covar.subsets) <= {ORIGINAL}:
        raise TableError(
            "holds no variant, only originals", where=request.data, mend="build it with subsets"
        )
    candidates = choose_candidates(request.candidates, covar.table.classes)
    rows: list[int] = []
    for subset in covar.subsets:
        found = covar.find_rows(subset).tolist()
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
        notes=tuple(_list_notes(covar, limit=request.limit)),
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
    with torch.inference_mode():
        texts = ensemble_prompts(encoder, images.candidates.names, plan.templates)
    known = texts.float().cpu().numpy()
    # In full precision, so that images are named as when their errors are explained.
    embedded = embed_images(
        encoder,
        images.table,
        cache=_find_cache(),
        batch_size=plan.request.batch_size,
        precision="fp32",
        progress=progress,
    )
    predictions = (embedded.values @ known.T).argmax(axis=1)
    return Answers(predictions=predictions.astype(np.int64), texts=known)


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
