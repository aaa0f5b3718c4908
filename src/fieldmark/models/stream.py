"""Embed a stream of images that is never held whole: a shard of output at a time, on disk at once.

    OUT/shard-000000.safetensors    embeddings, float32 (m,D), rows in the order of the stream
    OUT/shard-000001.safetensors    ...; every shard but the last has `shard_size` rows

The metadata of a shard says what it holds: `rows`, a JSON list with [id, label, split, problem] of
each row (the problem is blank, or says why the row is NaN), `content`, a SHA-256 of all ids,
labels, splits and bytes, and `key`, one of the weights, their type and the preprocessing. A shard
is written whole or not at all, with its checksum. A run that goes on reads past the shards that are
there, checks that the stream still says the same, and embeds only what is missing; memory depends
on the sizes of a batch and a shard, not on the length of the stream.

Shape letters: m images of a shard, D embedding dimensions.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from fieldmark.core.atomic import hash_json
from fieldmark.core.errors import InputError
from fieldmark.core.sealed import SEAL, is_whole, sealing
from fieldmark.models.device import pick_dtype
from fieldmark.models.embed import Precision
from fieldmark.models.encoder import Encoder, EncoderSpec

# At 100 images a second a killed run loses 40 s; a shard of 768 numbers a row takes 13 MB.
SHARD_SIZE = 4096
# What a summary lists by name; all of them are in the shards.
SHOWN = 100
_PREPROCESSING = ("image_size", "mean", "std", "interpolation", "resize")


class StreamImage(Protocol):
    """One encoded image of a stream."""

    @property
    def id(self) -> str:
        """What tells it from all others."""
        ...

    @property
    def data(self) -> bytes:
        """Its bytes as a file would hold them."""
        ...

    @property
    def label(self) -> str:
        """Name of its class, or blank."""
        ...

    @property
    def split(self) -> str:
        """Name of its split, or blank."""
        ...


class StreamRow(NamedTuple):
    """What a shard says of one of its rows; `problem` says why it is NaN, or is blank."""

    id: str
    label: str
    split: str
    problem: str


class EmbeddedShard(NamedTuple):
    """A shard as it is on disk."""

    path: Path
    rows: list[StreamRow]
    content: str


@dataclass(kw_only=True)
class StreamSummary:
    """What became of a stream.

    Attributes:
        images: how many images there were.
        unreadable: how many of them could not be read.
        shards: how many shards they are in.
        reused: how many shards were there already.
        content: SHA-256 of the ids, labels, splits and bytes of all images in order, by shard.
        problems: id and reason of the first unreadable images.
    """

    images: int = 0
    unreadable: int = 0
    shards: int = 0
    reused: int = 0
    content: str = ""
    problems: dict[str, str] = field(default_factory=dict)

    def add(self, shard: EmbeddedShard, *, reused: bool) -> None:
        """Count a shard."""
        self.images += len(shard.rows)
        self.shards += 1
        self.reused += reused
        self.content = hash_json([self.content, shard.content])
        for row in shard.rows:
            if row.problem:
                self.unreadable += 1
                if len(self.problems) < SHOWN:
                    self.problems[row.id] = row.problem


def embed_stream(
    encoder: Encoder,
    images: Iterable[StreamImage],
    *,
    out: Path,
    decode: Callable[..., Image.Image],
    batch_size: int = 64,
    shard_size: int = SHARD_SIZE,
    precision: Precision = "auto",
    skip_unreadable: bool = False,
    progress: Callable[[int], None] | None = None,
) -> StreamSummary:
    """Embed a stream into a folder of shards, going on from the shards that are there.

    Args:
        encoder: any encoder; its own weights stay as they are.
        images: in an order that is the same each time.
        out: folder of the shards.
        decode: from an image of the stream to its pixels, RGB; called from several threads.
        batch_size: images a forward.
        shard_size: images a shard.
        precision: of the weights during extraction, as in `embed_images`.
        skip_unreadable: give images that cannot be read a row of NaN instead of stopping.
        progress: called with how many images are done.

    Raises:
        InputError: an image cannot be read, and `skip_unreadable` is off; or a shard in `out` is
            of other images than the stream.
        FieldmarkError: a shard cannot be written.

    Example:
        >>> import tempfile
        >>> from types import SimpleNamespace
        >>> from fieldmark.testing import FakeEncoder
        >>> images = [SimpleNamespace(id=c, data=c.encode(), label="", split="")
        ...           for c in ("red", "blue", "red")]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     summary = embed_stream(
        ...         FakeEncoder(), images, out=Path(folder), shard_size=2,
        ...         decode=lambda image: Image.new("RGB", (8, 8), image.id))
        ...     names = sorted(path.name for path in Path(folder).iterdir())
        >>> summary.images, summary.shards, names[0]
        (3, 2, 'shard-000000.safetensors')
    """
    dtype = pick_dtype(precision, device=next(encoder.image_tower.parameters()).device)
    key = _make_key(encoder.spec, dtype=dtype)
    summary, stream = StreamSummary(), iter(images)
    placed: Encoder | None = None
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="decode") as pool:
        while (first := next(stream, None)) is not None:
            part = itertools.chain([first], itertools.islice(stream, shard_size - 1))
            path = _name_shard(out, summary.shards)
            kept = _read_kept(path, key=key)
            if kept is not None:
                _check_same(part, kept)
            else:
                placed = placed or _cast(encoder, dtype)
                ready = _decode_ahead(placed, part, decode=decode, pool=pool, ahead=2 * batch_size)
                writing = _Shard(path, key=key, dim=encoder.spec.dim)
                for batch in _batch(ready, batch_size):
                    writing.add(placed, batch, skip_unreadable=skip_unreadable)
                    if progress is not None:
                        progress(summary.images + len(writing.rows))
            summary.add(kept or writing.write(), reused=kept is not None)
            if progress is not None:
                progress(summary.images)
    if _name_shard(out, summary.shards).exists():
        raise _other_images(_name_shard(out, summary.shards))
    return summary


def _name_shard(out: Path, number: int) -> Path:
    return out / f"shard-{number:06d}.safetensors"


def read_embedded(out: Path) -> Iterator[EmbeddedShard]:
    """Yield the shards of a folder in order, without their embeddings.

    Raises:
        InputError: a shard is damaged.
    """
    for path in sorted(out.glob("shard-*.safetensors")):
        shard = _read_kept(path, key=None)
        if shard is None:
            raise InputError(
                "is not a whole shard of embeddings", where=path, mend="delete it and resume"
            )
        yield shard


class _Ready(NamedTuple):
    """An image after preprocessing, or the error in its place."""

    image: StreamImage
    pixels: Tensor | InputError


class _Shard:
    """A shard that is being filled."""

    def __init__(self, path: Path, *, key: str, dim: int) -> None:
        self.path, self.key, self.dim = path, key, dim
        self.rows: list[StreamRow] = []
        self.values: list[NDArray[np.float32]] = []
        self.content = hashlib.sha256()

    def add(self, encoder: Encoder, batch: list[_Ready], *, skip_unreadable: bool) -> None:
        """Embed a batch and keep its rows."""
        values = np.full((len(batch), self.dim), np.nan, np.float32)
        shapes: dict[torch.Size, list[int]] = {}
        for place, item in enumerate(batch):
            problem = ""
            if isinstance(item.pixels, InputError):
                if not skip_unreadable:
                    raise item.pixels
                problem = str(item.pixels)
            else:
                # Only NaFlex gives more than one shape.
                shapes.setdefault(item.pixels.shape, []).append(place)
            self.rows.append(StreamRow(item.image.id, item.image.label, item.image.split, problem))
            _digest(self.content, item.image)
        for places in shapes.values():
            pixels = torch.stack([batch[place].pixels for place in places])  # type: ignore[misc]
            with torch.inference_mode():
                values[places] = encoder.encode_image(pixels).float().cpu().numpy()
        self.values.append(values)

    def write(self) -> EmbeddedShard:
        """Write the file whole or not at all."""
        content = self.content.hexdigest()
        words = {**SEAL, "rows": json.dumps(self.rows), "content": content, "key": self.key}
        with sealing(self.path) as part:
            save_file({"embeddings": np.concatenate(self.values)}, part, metadata=words)
        return EmbeddedShard(self.path, self.rows, content)


def _decode_ahead(
    encoder: Encoder,
    images: Iterable[StreamImage],
    *,
    decode: Callable[..., Image.Image],
    pool: ThreadPoolExecutor,
    ahead: int,
) -> Iterator[_Ready]:
    """Yield preprocessed images in order, decoded by threads that stay `ahead` of the encoder."""

    def load(image: StreamImage) -> _Ready:
        try:
            return _Ready(image, encoder.preprocess(decode(image)))
        except InputError as error:
            return _Ready(image, error)

    waiting: deque[Future[_Ready]] = deque()
    try:
        for image in images:
            waiting.append(pool.submit(load, image))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def _batch(ready: Iterator[_Ready], size: int) -> Iterator[list[_Ready]]:
    while batch := list(itertools.islice(ready, size)):
        yield batch


def _digest(content: hashlib._Hash, image: StreamImage) -> None:
    words = json.dumps([image.id, image.label, image.split])
    content.update(hashlib.sha256(words.encode()).digest())
    content.update(hashlib.sha256(image.data).digest())


def _check_same(images: Iterable[StreamImage], shard: EmbeddedShard) -> None:
    """Read past the images of a shard that is there, and make sure that they are its images."""
    content = hashlib.sha256()
    for image in images:
        _digest(content, image)
    if content.hexdigest() != shard.content:
        raise _other_images(shard.path)


def _other_images(path: Path) -> InputError:
    return InputError(
        "was made of other images or labels than the stream has",
        where=path,
        mend="choose another --out",
    )


def _make_key(spec: EncoderSpec, *, dtype: torch.dtype) -> str:
    """Return what the embeddings depend on beside the images, as one number."""
    facts = asdict(spec)
    key = {name: facts[name] for name in _PREPROCESSING}
    return hash_json(key | {"fingerprint": spec.fingerprint, "dtype": str(dtype)})


def _read_kept(path: Path, *, key: str | None) -> EmbeddedShard | None:
    """Return a whole shard, None where there is none: a damaged one is made again."""
    if not is_whole(path):
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            words = file.metadata()
        if key is not None and words["key"] != key:
            return None
        rows = [StreamRow(*map(str, row)) for row in json.loads(words["rows"])]
        return EmbeddedShard(path, rows, words["content"])
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _cast(encoder: Encoder, dtype: torch.dtype) -> Encoder:
    same = next(encoder.image_tower.parameters()).dtype == dtype
    return encoder if same else encoder.place(dtype=dtype)
