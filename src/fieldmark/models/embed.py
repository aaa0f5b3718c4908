"""Embed many images: decoded once each, ahead of the encoder, in cast weights, kept on disk.

The distinct images are cut into shards of `SHARD`, whatever of them is in the cache, and a shard
into batches. So the batches are the same on every engine and after every stop between two of them,
and with the batches the bytes.

Shape letters: n images, B images of a batch, S the side of the encoder's input, D embedding
dimensions.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fieldmark.core.errors import InputError
from fieldmark.models.device import pick_dtype
from fieldmark.models.embedding_cache import EmbeddingCache, open_embedding_cache
from fieldmark.models.encoder import Encoder
from fieldmark.models.engine import LOCAL, Engine

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Progress = Callable[[int, int], None]
# A killed run loses less than this; at the 55 images a second of two cores about ten seconds.
SHARD = 512


class Images(Protocol):
    """What is asked of images: an ImageTable, foregrounds and backgrounds all fit."""

    def __len__(self) -> int: ...

    def read(self, index: int, /) -> Image.Image:
        """Read one image as RGB."""
        ...

    def hashes(self) -> Sequence[str]:
        """Return a hash of the content of each image."""
        ...


@dataclass(frozen=True)
class UnreadableImage:
    """An image that was left out: its index and the one-line reason."""

    index: int
    reason: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Embeddings:
    """The embeddings of n images.

    Attributes:
        values: (n,D) float32 of unit norm, NaN where the image could not be read.
        unreadable: the images that could not be read.
        reused: how many distinct images came from the cache.
        computed: how many distinct images were embedded now.
    """

    values: NDArray[np.float32]
    unreadable: tuple[UnreadableImage, ...]
    reused: int
    computed: int


def embed_images(
    encoder: Encoder,
    images: Images,
    *,
    cache: Path | None = None,
    batch_size: int = 64,
    precision: Precision = "auto",
    skip_unreadable: bool = False,
    engine: Engine = LOCAL,
    progress: Progress | None = None,
) -> Embeddings:
    """Embed images, each distinct one once.

    Args:
        encoder: any encoder; its own weights stay as they are.
        images: what to embed. Images of one hash are one image.
        cache: folder to keep embeddings in, by content of image, weights and preprocessing.
        batch_size: images a batch.
        precision: of the weights during extraction: fp32, bf16, fp16, or `auto`: bf16 where the
            device has it natively.
        skip_unreadable: leave out images that cannot be read instead of raising.
        engine: where the shards are embedded; their files must be readable there.
        progress: called with how many distinct images are done and how many there are.

    Raises:
        ImageError: an image cannot be read, and `skip_unreadable` is off.
        InputError: the cache is damaged.
        UnknownNameError: there is no such precision.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> class Pictures:
        ...     def __len__(self): return 2
        ...     def read(self, index, /): return Image.new("RGB", (8, 8), "red")
        ...     def hashes(self): return ("same", "same")
        >>> result = embed_images(FakeEncoder(), Pictures())
        >>> result.values.shape, result.computed
        ((2, 6), 1)
    """
    hashes = images.hashes()
    first = {name: index for index, name in reversed(list(enumerate(hashes)))}
    dtype = pick_dtype(precision, device=_tensor_of(encoder).device)
    name = str(dtype).removeprefix("torch.")
    shelf = open_embedding_cache(cache, spec=encoder.spec, dtype=name) if cache else None
    found = shelf.read(first) if shelf else {}
    reused = len(found)
    unread: dict[str, str] = {}
    shards = _cut_shards({index: name not in found for name, index in first.items()})
    work = _embed_shards(encoder, images, shards, batch_size=batch_size, dtype=dtype, engine=engine)
    with contextlib.closing(work):
        for batches in work:
            with _shelving(shelf, into=found) as fresh:
                for batch in batches:
                    if batch.errors and not skip_unreadable:
                        raise next(iter(batch.errors.values()))
                    fresh.update({hashes[i]: vector for i, vector in batch.vectors.items()})
                    unread |= {hashes[i]: str(error) for i, error in batch.errors.items()}
                    if progress is not None:
                        progress(len(found) + len(fresh) + len(unread), len(first))
    missing = np.full(encoder.spec.dim, np.nan, np.float32)
    values = np.array([found.get(name, missing) for name in hashes], np.float32)
    return Embeddings(
        values=values.reshape(len(hashes), encoder.spec.dim),
        unreadable=tuple(
            UnreadableImage(i, unread[name]) for i, name in enumerate(hashes) if name in unread
        ),
        reused=reused,
        computed=len(found) - reused,
    )


def embed_batches(
    encoder: Encoder, batches: Iterable[Tensor], *, precision: Precision = "auto"
) -> NDArray[np.float32]:
    """Embed images that are in memory already, such as composites.

    Args:
        encoder: any encoder; its own weights stay as they are.
        batches: uint8 (B,3,S,S) each, or normalised float.
        precision: of the weights during extraction, as in `embed_images`.

    Returns:
        (n,D) float32 of unit norm, in the order of the batches.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> embed_batches(FakeEncoder(), [torch.full((2, 3, 8, 8), 255, dtype=torch.uint8)]).shape
        (2, 6)
    """
    placed = _cast(encoder, pick_dtype(precision, device=_tensor_of(encoder).device))
    parts = [np.zeros((0, encoder.spec.dim), np.float32)]
    with torch.inference_mode():
        parts += [placed.encode_image(batch).cpu().numpy() for batch in batches]
    return np.concatenate(parts)


def _tensor_of(encoder: Encoder) -> Tensor:
    return next(encoder.image_tower.parameters())


def _cast(encoder: Encoder, dtype: torch.dtype) -> Encoder:
    """Cast the weights once: under autocast they would be cast again at every call."""
    return encoder if _tensor_of(encoder).dtype == dtype else encoder.place(dtype=dtype)


class _Batch(NamedTuple):
    """What became of one batch, by index of the image."""

    vectors: dict[int, NDArray[np.float32]]
    errors: dict[int, InputError]


def _embed_shards(
    encoder: Encoder,
    images: Images,
    shards: list[list[int]],
    *,
    batch_size: int,
    dtype: torch.dtype,
    engine: Engine,
) -> Generator[Iterable[_Batch]]:
    if not shards:
        return
    placed = _cast(encoder, dtype)
    work = _Work(placed, images, batch_size)
    done = engine.map(_embed_shard, work, shards, device=_tensor_of(placed).device)
    with contextlib.closing(done):
        for _, batches in done:
            yield batches


class _Work(NamedTuple):
    """What all shards share; the weights are cast already."""

    encoder: Encoder
    images: Images
    batch_size: int


def _cut_shards(missing: dict[int, bool]) -> list[list[int]]:
    """Cut distinct images into shards, and leave of each what is missing, if anything is."""
    indices = sorted(missing)
    cut = (indices[start : start + SHARD] for start in range(0, len(indices), SHARD))
    return [left for shard in cut if (left := [index for index in shard if missing[index]])]


def _embed_shard(work: _Work, shard: list[int]) -> Generator[_Batch]:
    encoder, size = work.encoder, work.batch_size
    ready = _prepare(encoder, work.images, shard, ahead=2 * size)
    with contextlib.closing(ready):
        while part := list(itertools.islice(ready, size)):
            errors = {index: item for index, item in part if isinstance(item, InputError)}
            pixels = {index: item for index, item in part if isinstance(item, Tensor)}
            vectors: dict[int, NDArray[np.float32]] = {}
            for members in _group_by_shape(pixels):
                with torch.inference_mode():
                    batch = encoder.encode_image(torch.stack([pixels[i] for i in members]))
                vectors.update(zip(members, batch.cpu().numpy(), strict=True))
            yield _Batch(vectors, errors)


def _group_by_shape(pixels: dict[int, Tensor]) -> list[list[int]]:
    """Group images that fit into one batch; only NaFlex gives more than one shape."""
    groups: dict[torch.Size, list[int]] = {}
    for index, image in pixels.items():
        groups.setdefault(image.shape, []).append(index)
    return list(groups.values())


def _prepare(
    encoder: Encoder, images: Images, indices: Sequence[int], *, ahead: int
) -> Generator[tuple[int, Tensor | InputError]]:
    """Yield preprocessed images in order, read by threads that stay `ahead` of the encoder."""

    def load(index: int) -> Tensor | InputError:
        try:
            return encoder.preprocess(images.read(index))
        except InputError as error:
            return error

    waiting: deque[tuple[int, Future[Tensor | InputError]]] = deque()
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="read") as pool:
        try:
            for index in indices:
                waiting.append((index, pool.submit(load, index)))
                if len(waiting) > ahead:
                    done, future = waiting.popleft()
                    yield done, future.result()
            while waiting:
                done, future = waiting.popleft()
                yield done, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


@contextlib.contextmanager
def _shelving(
    shelf: EmbeddingCache | None, *, into: dict[str, NDArray[np.float32]]
) -> Generator[dict[str, NDArray[np.float32]]]:
    """Yield what is made of a shard; it is written at its end, and when the run stops within it."""
    fresh: dict[str, NDArray[np.float32]] = {}
    try:
        yield fresh
    finally:
        if shelf is not None:
            shelf.write(fresh)
        into.update(fresh)
