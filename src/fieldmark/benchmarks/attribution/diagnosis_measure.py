"""Measure images for a diagnosis, a chunk at a time, each chunk kept as a file until all are done.

    OUT/parts/00000.safetensors    predictions, parts of the grid, drops, maps and clusters

Shape letters: n images, P parts, N patches, C classes.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fieldmark.attribution.attribute import attribute
from fieldmark.attribution.error_sources import (
    divide_patches,
    encode_parts,
    measure_drops,
    paint_background,
    touch_patches,
)
from fieldmark.benchmarks.attribution.diagnosis_masks import load_batch
from fieldmark.benchmarks.attribution.diagnosis_request import DiagnosisPlan
from fieldmark.core.errors import InputError
from fieldmark.core.sealed import SEAL, is_whole, sealing
from fieldmark.data.tables import ImageTable
from fieldmark.metrics.overlap import Floats, Ints
from fieldmark.models.encoder import Encoder

PARTS = "parts"
# Images of a chunk: a run that was stopped loses no more.
CHUNK = 32
Report = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Material:
    """What there is to measure.

    Attributes:
        table: the images, all with a mask.
        masks: their masks.
        others: masks of other objects, or None.
        texts: (C,D) unit embeddings of the classes.
    """

    table: ImageTable
    masks: Sequence[Path | None]
    others: Sequence[Path | None] | None
    texts: NDArray[np.float32]


@dataclass(frozen=True, eq=False, kw_only=True)
class Measurement:
    """What was measured of n images.

    Attributes:
        predictions: (n,) class of the nearest text.
        similarity: (n,) cosine of image and predicted class.
        parts: (n,P,N) whether a patch belongs to a part, by half of its pixels.
        drops: (n,1+draws,P) drop of the score without each part and every patch that it touches,
            then without random sets; NaN where nothing was left.
        maps: (n,N) map of the predicted class; empty (n,0) where no rule needs one.
        clusters: (n,N) cluster of each patch, (n,0) where the method has none.
        grid: rows and columns.
    """

    predictions: Ints
    similarity: NDArray[np.float32]
    parts: NDArray[np.bool_]
    drops: Floats
    maps: NDArray[np.float32]
    clusters: Ints
    grid: tuple[int, int]


_FIELDS = tuple(field.name for field in dataclasses.fields(Measurement) if field.name != "grid")


def measure_images(
    plan: DiagnosisPlan, encoder: Encoder, material: Material, *, report: Report
) -> Measurement:
    """Measure all images, or those that an unfinished run has not."""
    folder, count = plan.request.out / PARTS, len(material.table)
    chunks = []
    for start in range(0, count, CHUNK):
        path = folder / f"{start // CHUNK:05d}.safetensors"
        rows = range(start, min(start + CHUNK, count))
        if not path.is_file():
            found = _measure_chunk(plan, encoder, material, rows=rows)
            tensors = {name: np.ascontiguousarray(value) for name, value in found.items()}
            with sealing(path) as part:
                save_file(tensors, part, metadata=dict(SEAL))
        chunks.append(_load_chunk(path, count=len(rows)))
        report("images", rows[-1] + 1, count)
    joined = {name: np.concatenate([chunk[name] for chunk in chunks]) for name in _FIELDS}
    height, width = chunks[0]["grid"].tolist()
    return Measurement(**joined, grid=(int(height), int(width)))


def drop_chunks(out: Path) -> None:
    """Remove what only an unfinished run needs."""
    shutil.rmtree(out / PARTS, ignore_errors=True)


def _load_chunk(path: Path, *, count: int) -> dict[str, NDArray[Any]]:
    try:
        if not is_whole(path):
            raise OSError("its checksum does not fit its bytes")
        found: dict[str, NDArray[Any]] = load_file(path)
        if len(found["predictions"]) == count and set(_FIELDS) <= set(found):
            return found
        problem = "does not fit this run"
    except (OSError, KeyError, SafetensorError) as error:
        problem = f"is damaged ({error})"
    raise InputError(problem, where=path, mend="remove the file and resume")


def _measure_chunk(
    plan: DiagnosisPlan, encoder: Encoder, material: Material, *, rows: Sequence[int]
) -> Mapping[str, NDArray[Any]]:
    request, ids = plan.request, [material.table.ids[row] for row in rows]
    batch = load_batch(
        encoder, material.table, rows=rows, masks=material.masks, others=material.others
    )
    grid = encoder.tokens(batch.images[:1]).grid
    parts = divide_patches(batch.masks, grid=grid, other_BHW=batch.others)
    causal = "causal" in request.rules
    objects = batch.masks if batch.others is None else torch.maximum(batch.masks, batch.others)
    embedded = encode_parts(
        encoder,
        batch.images,
        touch_patches(batch.masks, grid=grid, other_BHW=batch.others),
        painted=paint_background(batch.images, objects, spec=encoder.spec),
        draws=request.causal_draws if causal else 0,
        ids=ids,
        seed=request.seed,
        batch_size=request.batch_size,
    )
    cosines = embedded[:, 0, 0] @ material.texts.T
    predictions = cosines.argmax(axis=1).astype(np.int64)
    drops = measure_drops(
        embedded,
        material.texts,
        predictions=predictions,
        score=request.score,
        logit_scale=encoder.spec.logit_scale,
    )
    maps, clusters = _explain(plan, encoder, material, (batch.images, predictions, ids))
    return {
        "predictions": predictions,
        "similarity": cosines[np.arange(len(rows)), predictions].astype(np.float32),
        "parts": parts,
        "drops": drops,
        "maps": maps,
        "clusters": clusters,
        "grid": np.asarray(grid, np.int64),
    }


def _explain(
    plan: DiagnosisPlan,
    encoder: Encoder,
    material: Material,
    batch: tuple[torch.Tensor, Ints, Sequence[str]],
) -> tuple[NDArray[np.float32], Ints]:
    """Return the map of each image's predicted class, and its clusters; one call for each class."""
    images, predictions, ids = batch
    maps = np.zeros((len(images), 0), np.float32)
    clusters = np.zeros((len(images), 0), np.int64)
    if plan.method is None:
        return maps, clusters
    device = next(encoder.image_tower.parameters()).device
    for label in np.unique(predictions).tolist():
        rows = np.flatnonzero(predictions == label)
        found = attribute(
            encoder,
            images[torch.from_numpy(rows)].to(device),
            torch.from_numpy(material.texts[label : label + 1]).to(device),
            method=plan.method.name,
            config=plan.config,
            ids=[ids[row] for row in rows.tolist()],
        )
        values = found.values[:, 0].reshape(len(rows), -1)
        if not maps.shape[1]:
            maps = np.zeros((len(images), values.shape[1]), np.float32)
        maps[rows] = values
        if found.clusters is not None:
            owned = found.clusters.reshape(len(rows), -1)
            if not clusters.shape[1]:
                clusters = np.zeros((len(images), owned.shape[1]), np.int64)
            clusters[rows] = owned
    return maps, clusters
