"""What the studies of an encoder look at: composites of a task, its scenes by name, class texts."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fieldmark.benchmarks.jobs import Job
from fieldmark.benchmarks.subject import Bench, choose_foregrounds
from fieldmark.core.errors import NotApplicableError
from fieldmark.core.fetch import cache_dir
from fieldmark.core.seeds import generator
from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.compositing import SCALES, Compositor
from fieldmark.data.foregrounds import Foregrounds
from fieldmark.models.prompts import TEMPLATES, ensemble_prompts

# Categories that say nothing: scenes of all kinds, and those of a pool without categories.
UNNAMED = frozenset({"other", "scene"})


def require_backgrounds(bench: Bench) -> Backgrounds:
    """Return the scenes of a task.

    Raises:
        NotApplicableError: the task has none.
    """
    if bench.task.backgrounds is None or not len(bench.task.backgrounds):
        raise NotApplicableError(f"{bench.task.name} comes without backgrounds")
    return bench.task.backgrounds


def open_compositor(
    bench: Bench,
    job: Job,
    *,
    backgrounds: Backgrounds | None = None,
    scales: tuple[float, float] = SCALES,
    scale_steps: int = 8,
) -> Compositor:
    """Prepare a task's objects and scenes at the size of the bench's encoder.

    Args:
        bench: task and encoder.
        job: says which objects.
        backgrounds: some of the task's scenes; all by default.
        scales: least and largest longer side of an object as a share of the side.
        scale_steps: sizes between them.

    Raises:
        NotApplicableError: the task has no objects or no scenes.
    """
    return Compositor(
        choose_foregrounds(bench.task, job.source),
        backgrounds or require_backgrounds(bench),
        side=bench.encoder.spec.image_size,
        scales=scales,
        scale_steps=scale_steps,
        cache=cache_dir() / "composites",
    )


def sample_backgrounds(backgrounds: Backgrounds, count: int, *, seed: int) -> Backgrounds:
    """Choose scenes as evenly over the categories as there are scenes; all if `count` allows.

    Example:
        >>> from pathlib import Path
        >>> pool = Backgrounds(name="p", root=Path(), ids=("a", "b", "c"), paths=(Path(),) * 3,
        ...                    category_ids=np.array([0, 0, 1]), categories=("land", "water"))
        >>> sorted(sample_backgrounds(pool, 2, seed=0).category_ids.tolist())
        [0, 1]
    """
    if count >= len(backgrounds):
        return backgrounds
    order = generator(seed, "scenes of a study").permutation(len(backgrounds))
    rank = np.empty(len(order), np.int64)
    for category in range(len(backgrounds.categories)):
        members = order[backgrounds.category_ids[order] == category]
        rank[members] = np.arange(len(members))
    chosen = order[np.argsort(rank[order], kind="stable")][:count]
    return backgrounds.take(np.sort(chosen))


def list_named(backgrounds: Backgrounds) -> NDArray[np.int64]:
    """Return the categories that occur and whose name a prompt can use: not "other".

    Example:
        >>> from pathlib import Path
        >>> pool = Backgrounds(name="p", root=Path(), ids=("a", "b"), paths=(Path(),) * 2,
        ...                    category_ids=np.array([0, 1]), categories=("land", "other", "sea"))
        >>> list_named(pool).tolist()
        [0]
    """
    present = np.unique(backgrounds.category_ids).tolist()
    return np.array([i for i in present if backgrounds.categories[i] not in UNNAMED], np.int64)


def name_category(category: str) -> str:
    """Return what a prompt calls a category of scenes.

    Places365 has an initial in front and the finer kind behind a slash.

    Example:
        >>> [name_category(c) for c in ("b/bamboo_forest", "forest/broadleaf", "c/church/indoor")]
        ['bamboo forest', 'broadleaf forest', 'indoor church']
    """
    words = [part for part in category.split("/") if part]
    if len(words) > 1 and re.fullmatch("[a-z]", words[0]):
        words = words[1:]
    return " ".join(reversed(words)).replace("_", " ").replace("-", " ")


def name_objects(bench: Bench, foregrounds: Foregrounds) -> tuple[str, ...]:
    """Return what prompts call the classes of objects: the task's words where they are its own."""
    if foregrounds.classes == bench.task.table.classes:
        return bench.class_words
    return tuple(name_category(name) for name in foregrounds.classes)


def embed_names(bench: Bench, names: Sequence[str]) -> NDArray[np.float32]:
    """Return prompt-ensemble embeddings of names (BAP G.1, J.1): (n,D) of unit norm."""
    with torch.inference_mode():
        made = ensemble_prompts(bench.encoder, names, TEMPLATES)
    return np.asarray(made.float().cpu().numpy())
