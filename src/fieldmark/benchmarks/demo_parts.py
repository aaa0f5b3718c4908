"""What the demo's page shows beside its figures: `fieldmark.report.parts` describes the files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.manifold import TSNE

from fieldmark.benchmarks.evaluate import Evaluation
from fieldmark.benchmarks.predictions import EvaluatedSplit
from fieldmark.core.atomic import replacing, write_json, write_text
from fieldmark.core.seeds import derive_seed, generator
from fieldmark.data.compositing import Compositor
from fieldmark.data.tables import ImageTable
from fieldmark.methods.checkpoints import LossRow

SHOWN = 24
QUERIES = 8
NEIGHBOURS = 5
THUMBNAIL = 112
SPLIT = "test_unseen"


def write_parts(
    folder: Path,
    *,
    compositor: Compositor,
    before: Evaluation,
    after: Evaluation,
    losses: Mapping[str, Sequence[LossRow]],
    card: Mapping[str, Any],
    seed: int,
) -> None:
    """Write composites, losses, the 2-D map, nearest neighbours and the card under `folder`.

    Args:
        folder: OUT/page.
        compositor: what the encoder was shown.
        before: evaluation of the native encoder.
        after: evaluation of the encoder after BAP.
        losses: losses of each pre-training.
        card: the data set's card.
        seed: seed of the run.
    """
    _write_composites(folder, compositor, seed=seed)
    lines = [
        json.dumps({"method": method, "seed": seed, **_as_json(row)})
        for method, rows in losses.items()
        for row in rows
    ]
    write_text(folder / "loss.jsonl", "\n".join(lines) + "\n")
    splits = {"before": before.splits[SPLIT], "after": after.splits[SPLIT]}
    maps = [
        {"encoder": name, "points": _map_points(split, seed=seed)} for name, split in splits.items()
    ]
    write_json(folder / "map.json", maps)
    _write_neighbours(folder, splits, seed=seed)
    write_json(folder / "card.json", dict(card))


def _as_json(row: LossRow) -> dict[str, float | int]:
    return {
        "step": row.step,
        "epoch": row.epoch,
        "loss": row.loss,
        "learning_rate": row.learning_rate,
    }


def _write_composites(folder: Path, compositor: Compositor, *, seed: int) -> None:
    rng = generator(seed, "shown composites")
    # Two composites of each object, side by side: the same thing somewhere else.
    objects = rng.permutation(compositor.n_objects)[: SHOWN // 2].repeat(2)
    scenes = rng.integers(compositor.n_backgrounds, size=len(objects))
    scales = rng.integers(compositor.n_scales, size=len(objects))
    images = compositor.composite(objects, scenes, scales).image.permute(0, 2, 3, 1).numpy()
    captions = {}
    for number, (pixels, thing, scene) in enumerate(zip(images, objects, scenes, strict=True)):
        name = f"{number:02d}.png"
        with replacing(folder / "composites" / name) as part:
            Image.fromarray(pixels).save(part)
        label = compositor.foregrounds.classes[compositor.labels[thing]]
        category = compositor.backgrounds.categories[compositor.backgrounds.category_ids[scene]]
        captions[name] = f"{label} on {category}"
    write_json(folder / "composites.json", captions)


def _map_points(split: EvaluatedSplit, *, seed: int) -> list[dict[str, Any]]:
    count = len(split.embeddings)
    place = TSNE(
        metric="cosine",
        init="random",
        perplexity=min(30, max(2, (count - 1) // 3)),
        random_state=derive_seed(seed, "map") % 2**32,
    ).fit_transform(split.embeddings)
    return [
        {"x": round(float(x), 3), "y": round(float(y), 3), "split": split.name, **_name(split, i)}
        for i, (x, y) in enumerate(place)
    ]


def _name(split: EvaluatedSplit, index: int) -> dict[str, str]:
    table = split.table
    words = {"label": table.classes[table.labels[index]]}
    if table.attributes is not None and table.attributes[index] >= 0:
        words["attribute"] = table.attribute_names[table.attributes[index]]
    return words


def _write_neighbours(folder: Path, splits: Mapping[str, EvaluatedSplit], *, seed: int) -> None:
    table = splits["before"].table
    queries = choose_queries(table, count=QUERIES, seed=seed)
    found = []
    for query in queries:
        entry: dict[str, Any] = {"query": _show(folder, splits["before"], query)}
        for name, split in splits.items():
            nearest, similarity = find_neighbours(split, query, count=NEIGHBOURS)
            entry[name] = [
                {**_show(folder, split, i), "similarity": round(float(s), 4)}
                for i, s in zip(nearest.tolist(), similarity, strict=True)
            ]
        found.append(entry)
    write_json(folder / "neighbours.json", found)


def choose_queries(table: ImageTable, *, count: int, seed: int) -> list[int]:
    """Choose images to look up, from each group in turn and each of another object."""
    rng = generator(seed, "queries")
    groups = table.group_ids()
    objects = table.objects or table.ids
    order = rng.permutation(len(table))
    queues = {g: [i for i in order if groups[i] == g] for g in np.unique(groups[groups >= 0])}
    chosen: list[int] = []
    shown: set[str] = set()
    while len(chosen) < count and any(queues.values()):
        for queue in queues.values():
            while queue and objects[queue[0]] in shown:
                queue.pop(0)
            if queue and len(chosen) < count:
                chosen.append(int(queue.pop(0)))
                shown.add(objects[chosen[-1]])
    return chosen


def find_neighbours(
    split: EvaluatedSplit, query: int, *, count: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Return the nearest images of other objects, nearest first, and their cosine similarities.

    Args:
        split: images and unit embeddings.
        query: index of the image to look up.
        count: how many to return; one of each object.
    """
    objects = np.array(split.table.objects or split.table.ids)
    similarity = split.embeddings @ split.embeddings[query]
    order = np.argsort(-similarity, kind="stable")
    order = order[objects[order] != objects[query]]
    _, first = np.unique(objects[order], return_index=True)
    nearest = order[np.sort(first)][:count]
    return nearest, similarity[nearest]


def _show(folder: Path, split: EvaluatedSplit, index: int) -> dict[str, Any]:
    name = f"thumbs/{index}.jpg"
    if not (folder / name).exists():
        image = split.table.read(index)
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        with replacing(folder / name) as part:
            image.save(part, quality=88)
    return {"image": name, **_name(split, index)}
