"""Two-dimensional maps of scenes, of objects alone and of composites (BAP Figure 4, D.2).

UMAP draws them where the extra `viz` is installed, else t-SNE of scikit-learn; the record says
which. Each of the three sets has a map of its own. What a map suggests is also measured on the
embeddings themselves: how far composites group by class and by scene.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from torch import Tensor

from fieldmark.benchmarks.jobs import Job
from fieldmark.benchmarks.store import Measured
from fieldmark.benchmarks.structure import BATCH, embed_scenes, isolate_objects
from fieldmark.benchmarks.study_material import open_compositor
from fieldmark.benchmarks.subject import Bench
from fieldmark.core.errors import NotApplicableError
from fieldmark.core.seeds import derive_seed, generator
from fieldmark.data.compositing import Compositor
from fieldmark.models.embed import embed_batches
from fieldmark.models.encoder import Encoder

# Fewer have no map: t-SNE's perplexity must be below their number.
FEWEST = 5
PERPLEXITY, NEIGHBOURS = 30.0, 15


def measure_map(bench: Bench, job: Job) -> Measured:
    """Map the embeddings of scenes, of objects on grey and of composites.

    Args:
        bench: task and encoder.
        job: its argument `points` is the most points of a map (1,000).

    Returns:
        Rows `silhouette_class` and `silhouette_scene` of the composites (cosine, in [-1, 1], NaN
        where there is one label alone), and as artifact the points with their labels.

    Raises:
        NotApplicableError: fewer than five scenes or objects.
    """
    encoder = bench.adapt(job).encoder
    compositor = open_compositor(bench, job)
    most = int(job.arguments.get("points", 1_000))
    rng = generator(job.seed, "map")
    objects = rng.permutation(compositor.n_objects)[:most]
    scenes = rng.permutation(compositor.n_backgrounds)[:most]
    if min(len(objects), len(scenes), most) < FEWEST:
        raise NotApplicableError(f"{bench.task.name} has fewer than {FEWEST} objects or scenes")
    pairs = rng.choice(objects, size=most), rng.choice(scenes, size=most)
    whole = _embed(encoder, compositor, *pairs, alone=False)
    alone = _embed(encoder, compositor, objects, np.zeros_like(objects), alone=True)
    empty = embed_scenes(encoder, compositor, scenes)
    sets = {"scenes": empty, "objects": alone, "composites": whole}
    seed = derive_seed(job.seed, "map") % 2**32
    views: dict[str, dict[str, Any]] = {}
    for name, values in sets.items():
        bench.report("map", len(views), len(sets), name)
        views[name] = {"points": flatten(values, seed=seed).round(4).tolist()}
    kinds, classes = compositor.backgrounds.category_ids, compositor.labels
    views["scenes"]["scene"] = _name(kinds[scenes], compositor.backgrounds.categories)
    views["objects"]["class"] = _name(classes[objects], compositor.foregrounds.classes)
    views["composites"]["scene"] = _name(kinds[pairs[1]], compositor.backgrounds.categories)
    views["composites"]["class"] = _name(classes[pairs[0]], compositor.foregrounds.classes)
    rows = (
        dataclasses.replace(bench.blank(job), metric=metric, value=value, count=most)
        for metric, value in (
            ("silhouette_class", _measure_grouping(whole, classes[pairs[0]])),
            ("silhouette_scene", _measure_grouping(whole, kinds[pairs[1]])),
        )
    )
    reduction = find_reduction()
    return Measured(
        rows=tuple(rows),
        notes={"map": reduction},
        artifact={"reduction": reduction, "views": views},
    )


def _name(codes: NDArray[np.int64], names: tuple[str, ...]) -> list[str]:
    return [names[code] for code in codes.tolist()]


def _embed(
    encoder: Encoder,
    compositor: Compositor,
    objects: NDArray[np.int64],
    scenes: NDArray[np.int64],
    *,
    alone: bool,
) -> NDArray[np.float32]:
    sizes = np.full(len(objects), compositor.n_scales // 2)

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(objects), BATCH):
            part = slice(start, start + BATCH)
            made = compositor.composite(objects[part], scenes[part], sizes[part])
            yield isolate_objects(made.image, made.mask) if alone else made.image

    return embed_batches(encoder, batches())


def _measure_grouping(values: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    kinds = len(np.unique(labels))
    if not 2 <= kinds < len(labels):
        return math.nan
    return float(silhouette_score(values, labels, metric="cosine"))


def find_reduction() -> str:
    """Say what draws maps here: `UMAP` with the extra `viz`, else `t-SNE`."""
    try:
        import umap  # noqa: F401
    except ImportError:
        return "t-SNE"
    return "UMAP"


def flatten(values: NDArray[np.float32], *, seed: int) -> NDArray[np.float64]:
    """Place embeddings in a plane; the same seed gives the same places.

    Args:
        values: (n,D) of unit norm, at least five.
        seed: in [0, 2**32).

    Returns:
        (n,2), centred, the farthest coordinate at 1.
    """
    if find_reduction() == "UMAP":
        import umap

        near = min(NEIGHBOURS, len(values) - 1)
        # More threads would make the map depend on their timing.
        reducer = umap.UMAP(n_neighbors=near, metric="cosine", random_state=seed, n_jobs=1)
    else:
        perplexity = min(PERPLEXITY, (len(values) - 1) / 3)
        reducer = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    places = np.asarray(reducer.fit_transform(values), np.float64)
    places -= places.mean(axis=0)
    return np.asarray(places / (np.abs(places).max() or 1.0))
