"""Embed regions of images: a few images in memory at a time, each region once, kept on disk.

The distinct regions are cut into shards of about `SHARD`, between two images and whatever of them
is in the cache, and a shard into batches, so that every engine makes the same batches.

Shape letters: n images, B images of a batch, R regions, S the side of the encoder's input,
D embedding dimensions.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fieldmark.core.errors import InputError, UnknownNameError
from fieldmark.discovery.regions import Regions
from fieldmark.models.adapter import DualEncoder
from fieldmark.models.device import pick_dtype
from fieldmark.models.embed import Images, Precision, Progress
from fieldmark.models.embedding_cache import EmbeddingCache, open_embedding_cache
from fieldmark.models.encoder import Encoder, normalise
from fieldmark.models.engine import LOCAL, Engine
from fieldmark.models.regions import AlignsBoxes, cut_boxes
from fieldmark.models.token_regions import encode_box_tokens, pool_box_tokens

Way = Literal["align", "crop", "tokens", "pool"]
# A killed run loses less than this.
SHARD = 2048


@dataclass(frozen=True, eq=False, kw_only=True)
class RegionEmbeddings:
    """The embeddings of R regions.

    Attributes:
        values: (R,D) float32 of unit norm.
        way: `align` on the feature map in front of the attention pool, `crop` and encode, run the
            blocks on the box's `tokens` alone, or `pool` the box's tokens after the last block.
        reused: how many distinct regions came from the cache.
        computed: how many distinct regions were embedded now.
    """

    values: NDArray[np.float32]
    way: Way
    reused: int
    computed: int


def embed_regions(
    encoder: Encoder,
    images: Images,
    *,
    regions: Regions,
    way: Way | None = None,
    cache: Path | None = None,
    batch_size: int = 64,
    precision: Precision = "auto",
    engine: Engine = LOCAL,
    progress: Progress | None = None,
) -> RegionEmbeddings:
    """Embed regions, each distinct one once.

    Args:
        encoder: any encoder; its own weights stay as they are.
        images: the n images that the regions are of.
        regions: in pixels of this encoder's input.
        way: the encoder's own by default (`find_way`). `crop` works with every encoder, `tokens`
            with ViT and ConvNeXt towers, `pool` with every tower that gives tokens, `align` with a
            ResNet of CLIP. `pool` runs each image once, the others each region.
        cache: folder to keep embeddings in, by content of image, box, way, weights and
            preprocessing.
        batch_size: regions at once; `pool` keeps the regions of an image together. Memory grows
            with it and with (R,D), not with n.
        precision: of the weights during extraction, as in `models.embed.embed_images`.
        engine: where the shards are embedded; the images must be readable there.
        progress: called with how many distinct regions are done and how many there are.

    Raises:
        InputError: the regions are of other images or of another input size, an embedding is not
            finite, the encoder aligns no boxes, or the cache is damaged.
        ImageError: an image cannot be read.
        UnknownNameError: there is no such way.
        UnsupportedEncoderError: the tower does not bear `tokens` or `pool`.

    Example:
        >>> from PIL import Image
        >>> from fieldmark.discovery.regions import cut_quadrants
        >>> from fieldmark.testing import FakeEncoder
        >>> class Pictures:
        ...     def __len__(self): return 1
        ...     def read(self, index, /): return Image.new("RGB", (8, 8), "red")
        ...     def hashes(self): return ("a",)
        >>> result = embed_regions(FakeEncoder(), Pictures(), regions=cut_quadrants(1, side=8))
        >>> result.values.shape, result.way
        ((4, 6), 'crop')
    """
    chosen = _check(encoder, images, regions=regions, way=way)
    dtype = pick_dtype(precision, device=_tensor_of(encoder).device)
    shelf = _open(cache, encoder, dtype=dtype)
    keys = _key_regions(regions, images.hashes(), way=chosen)
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    found = shelf.read(first) if shelf else {}
    reused = len(found)
    missing = np.isin(np.arange(len(regions)), [first[key] for key in first if key not in found])
    shards = _cut_shards(regions, np.array(sorted(first.values()), np.int64), missing=missing)
    work = _embed_shards(
        encoder, images, regions, shards, way=chosen, size=batch_size, dtype=dtype, engine=engine
    )
    with contextlib.closing(work):
        for batches in work:
            fresh: dict[str, NDArray[np.float32]] = {}
            with contextlib.ExitStack() as stack:
                if shelf is not None:
                    stack.callback(shelf.write, fresh)
                for rows, vectors in batches:
                    fresh |= {keys[row]: vector for row, vector in zip(rows, vectors, strict=True)}
                    if progress is not None:
                        progress(len(found) + len(fresh), len(first))
            found |= fresh
    values = np.empty((len(regions), encoder.spec.dim), np.float32)
    for row, key in enumerate(keys):
        values[row] = found[key]
    return RegionEmbeddings(values=values, way=chosen, reused=reused, computed=len(found) - reused)


def find_way(encoder: Encoder) -> Way:
    """Tell how an encoder embeds regions by itself.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> find_way(FakeEncoder())
        'crop'
    """
    if not isinstance(encoder, DualEncoder):
        return "crop"
    tower = encoder.library.take_apart(encoder.model)
    return "align" if isinstance(tower, AlignsBoxes) else "crop"


def _check(encoder: Encoder, images: Images, *, regions: Regions, way: Way | None) -> Way:
    if regions.count != len(images):
        raise InputError(
            f"regions of {regions.count} images do not fit {len(images)} images",
            where=regions.source,
            mend="make them from the same table",
        )
    side = encoder.spec.image_size
    if regions.side != side or encoder.spec.resize == "naflex":
        raise InputError(
            f"regions in {regions.side} x {regions.side} pixels do not fit the encoder's input "
            f"of {side} x {side}",
            where=regions.source,
            mend="make them with the spec of an encoder of one square input",
        )
    if way is not None and way not in get_args(Way):
        raise UnknownNameError("way to embed regions", way, get_args(Way))
    own = find_way(encoder)
    if way == "align" and own != "align":
        raise InputError(
            "this encoder has no feature map to align boxes on",
            where=encoder.spec.uri,
            mend="crop instead",
        )
    return way or own


def _open(cache: Path | None, encoder: Encoder, *, dtype: torch.dtype) -> EmbeddingCache | None:
    if cache is None:
        return None
    name = str(dtype).removeprefix("torch.")
    # A folder beside those of whole images, which would have to be read through otherwise.
    return open_embedding_cache(cache / "regions", spec=encoder.spec, dtype=name)


def _key_regions(regions: Regions, hashes: Sequence[str], *, way: Way) -> list[str]:
    return [
        hashlib.sha256(f"{hashes[image]} {way}".encode() + box.tobytes()).hexdigest()
        for image, box in zip(regions.images.tolist(), regions.boxes, strict=True)
    ]


def _tensor_of(encoder: Encoder) -> Tensor:
    return next(encoder.image_tower.parameters())


class _Work(NamedTuple):
    """What all shards share; the weights are cast already."""

    encoder: Encoder
    images: Images
    regions: Regions
    way: Way
    size: int


_Batch = tuple[list[int], NDArray[np.float32]]


def _cut_shards(
    regions: Regions, rows: NDArray[np.int64], *, missing: NDArray[np.bool_]
) -> list[NDArray[np.int64]]:
    """Cut ascending rows between images, and leave of each shard what is missing."""
    cuts = _cut_batches(regions.images[rows], size=SHARD, whole=True)
    left = (rows[cut][missing[rows[cut]]] for cut in cuts)
    return [shard for shard in left if len(shard)]


def _embed_shards(
    encoder: Encoder,
    images: Images,
    regions: Regions,
    shards: list[NDArray[np.int64]],
    *,
    way: Way,
    size: int,
    dtype: torch.dtype,
    engine: Engine,
) -> Generator[Iterable[_Batch]]:
    if not shards:
        return
    same = _tensor_of(encoder).dtype == dtype
    placed = encoder if same else encoder.place(dtype=dtype)
    work = _Work(placed, images, regions, way, size)
    done = engine.map(_embed_shard, work, shards, device=_tensor_of(placed).device)
    with contextlib.closing(done):
        for _, batches in done:
            yield batches


def _embed_shard(work: _Work, rows: NDArray[np.int64]) -> Generator[_Batch]:
    """Yield rows and their embeddings; rows are ascending, so an image's rows are neighbours."""
    held: dict[int, Tensor] = {}
    regions, whole = work.regions, work.way == "pool"
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="read") as pool:
        for batch in _cut_batches(regions.images[rows], size=work.size, whole=whole):
            part = rows[batch]
            owners = regions.images[part]
            members = np.unique(owners).tolist()
            missing = [image for image in members if image not in held]
            loaded = pool.map(lambda image: _load(work, image), missing)
            held |= dict(zip(missing, loaded, strict=True))
            # The last image of a batch may go on in the next one.
            held = {image: held[image] for image in members}
            boxes = [torch.from_numpy(regions.boxes[part[owners == image]]) for image in members]
            with torch.inference_mode():
                pixels = torch.stack([held[image] for image in members])
                found = _embed(work.encoder, pixels, boxes=boxes, way=work.way)
            vectors = found.float().cpu().numpy()
            if not np.isfinite(vectors).all():
                bad = int(owners[~np.isfinite(vectors).all(axis=1)][0])
                raise InputError(
                    f"a region of image {bad} has an embedding that is not finite",
                    where=work.encoder.spec.uri,
                    mend="try precision fp32, or look at the weights",
                )
            yield part.tolist(), vectors


def _load(work: _Work, image: int) -> Tensor:
    return work.encoder.preprocess(work.images.read(image))


def _cut_batches(owners: NDArray[np.int64], *, size: int, whole: bool) -> Iterator[slice]:
    """Cut rows into batches of `size`; of `whole` images, if one of them fills it, a larger one."""
    start = 0
    while start < len(owners):
        stop = min(start + size, len(owners))
        if whole and stop < len(owners):
            first = int(np.searchsorted(owners, owners[stop], "left"))
            last = int(np.searchsorted(owners, owners[stop], "right"))
            stop = first if first > start else last
        yield slice(start, stop)
        start = stop


def _embed(encoder: Encoder, pixels_BCHW: Tensor, *, boxes: list[Tensor], way: Way) -> Tensor:
    if way == "tokens":
        return torch.cat(encode_box_tokens(encoder, pixels_BCHW, boxes))
    if way == "pool":
        return torch.cat(pool_box_tokens(encoder, pixels_BCHW, boxes))
    if way == find_way(encoder):
        return torch.cat(encoder.encode_regions(pixels_BCHW, boxes))
    # Bicubic enlargement overshoots, which 8 bits could not hold.
    floats = normalise(pixels_BCHW, spec=encoder.spec, dtype=torch.float32)
    return functional.normalize(encoder.encode_image(cut_boxes(floats, boxes)).float(), dim=-1)
