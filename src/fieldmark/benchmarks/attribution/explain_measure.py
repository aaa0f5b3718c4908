"""Run methods over the images of an explanation, a method at a time, each kept until all are done.

    OUT/parts/cci.safetensors    maps, flags, clusters and drops by image, and what they cost

Shape letters: S texts of an image, h and w rows and columns of its grid, K clusters.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fieldmark.attribution.attribute import attribute
from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.maps import Attributions
from fieldmark.benchmarks.attribution.explain_material import Material
from fieldmark.core.errors import InputError
from fieldmark.core.fetch import cache_dir
from fieldmark.core.sealed import SEAL, is_whole, sealing

PARTS = "parts"


@dataclass(frozen=True, eq=False, kw_only=True)
class Explained:
    """What a method says of one image.

    Attributes:
        values: (S,h,w) signed maps.
        no_support: (S,) whether nothing speaks for the text.
        clusters: (h,w), or None.
        drops: (S,K) what each cluster is worth, or None.
    """

    values: NDArray[np.float32]
    no_support: NDArray[np.bool_]
    clusters: NDArray[np.int64] | None = None
    drops: NDArray[np.float32] | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class MethodResult:
    """What a method says of all images, and what that cost.

    Attributes:
        images: one for each image.
        forwards: image-tower forwards an image, on average.
        backwards: backward passes an image.
        seconds: wall clock an image.
    """

    images: tuple[Explained, ...]
    forwards: float
    backwards: float
    seconds: float


def needs_all_texts(method: str, config: AttributionConfig) -> bool:
    """Say whether a method's map for one text depends on which others there are.

    Example:
        >>> needs_all_texts("cci", AttributionConfig())
        False
    """
    return method == "clip-surgery" or (method == "cci" and config.score != "cosine")


def explain_images(material: Material, *, method: str, config: AttributionConfig) -> MethodResult:
    """Run a method over all images.

    Images that share their size and their texts go together.

    Raises:
        NotApplicableError: the encoder or the texts do not bear the method.
    """
    found: dict[int, Explained] = {}
    forwards = backwards = 0.0
    started = time.perf_counter()
    for rows, texts in _group(material, whole=needs_all_texts(method, config)):
        part = attribute(
            material.encoder,
            torch.stack([material.pictures[row].pixels for row in rows]),
            [material.texts[text] for text in texts]
            if material.has_words
            else material.embeddings[list(texts)],
            method=method,
            config=config,
            ids=[material.pictures[row].identity for row in rows],
            cache=cache_dir() / "clusters",
        )
        forwards += part.forwards * len(rows)
        backwards += part.backwards * len(rows)
        for place, row in enumerate(rows):
            wanted = [texts.index(text) for text in material.shown[row]]
            found[row] = _pick(part, place, texts=wanted)
    count = len(material.pictures)
    return MethodResult(
        images=tuple(found[row] for row in range(count)),
        forwards=forwards / count,
        backwards=backwards / count,
        seconds=(time.perf_counter() - started) / count,
    )


def _group(material: Material, *, whole: bool) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield rows that can be measured together, with the texts they are measured for."""
    every = tuple(range(len(material.texts)))
    groups: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for row, picture in enumerate(material.pictures):
        texts = every if whole else material.shown[row]
        groups.setdefault((tuple(picture.pixels.shape), texts), []).append(row)
    for (_, texts), rows in groups.items():
        yield tuple(rows), texts


def _pick(part: Attributions, place: int, *, texts: Sequence[int]) -> Explained:
    return Explained(
        values=part.values[place, texts],
        no_support=part.no_support[place, texts],
        clusters=None if part.clusters is None else part.clusters[place],
        drops=None if part.drops is None else part.drops[place, texts],
    )


def list_tensors(result: MethodResult, *, method: str) -> dict[str, NDArray[np.generic]]:
    """Return the arrays of a method by their names in a file, `IMAGE/METHOD/KIND`."""
    tensors: dict[str, NDArray[np.generic]] = {}
    for row, one in enumerate(result.images):
        kinds = {
            "maps": one.values,
            "no_support": one.no_support,
            "clusters": one.clusters,
            "drops": one.drops,
        }
        for kind, value in kinds.items():
            if value is not None:
                tensors[f"{row}/{method}/{kind}"] = np.ascontiguousarray(value)
    return tensors


def save_result(path: Path, result: MethodResult, *, method: str) -> None:
    """Keep what a method found, so that a run that was stopped goes on after it."""
    cost = {name: getattr(result, name) for name in ("forwards", "backwards", "seconds")}
    words = {**SEAL, "cost": json.dumps(cost), "images": str(len(result.images))}
    with sealing(path) as part:
        save_file(list_tensors(result, method=method), part, metadata=words)


def load_result(path: Path, *, method: str) -> MethodResult:
    """Read what `save_result` kept.

    Raises:
        InputError: the file is damaged.
    """
    try:
        if not is_whole(path):
            raise ValueError("its checksum does not fit its bytes")
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        cost: Mapping[str, float] = json.loads(metadata["cost"])
        images = tuple(
            Explained(
                values=tensors[f"{row}/{method}/maps"],
                no_support=tensors[f"{row}/{method}/no_support"],
                clusters=tensors.get(f"{row}/{method}/clusters"),
                drops=tensors.get(f"{row}/{method}/drops"),
            )
            for row in range(int(metadata["images"]))
        )
        return MethodResult(images=images, **cost)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"cannot be read ({error})", where=path, mend="delete it; --resume makes it again"
        ) from error
