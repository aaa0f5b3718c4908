"""Embeddings of images without their clusters, kept on disk and found again by content.

They do not depend on texts, so new prompts for old images cost one matrix product. One folder holds
those of one encoder with one set of settings; `manifest.json` says which. Each
`shard-*.safetensors` holds a batch and, in its metadata, the names of its images and a checksum. A
shard is written whole or not at all and never changed, so a killed run keeps what it had and two
runs can share the folder. A shard that does not fit its checksum is dropped, and its images are
embedded again. Shape letters as in maps.py.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from fieldmark.attribution.cci import ClusterEmbeddings, embed_clusters, join_clusters
from fieldmark.attribution.config import AttributionConfig
from fieldmark.core.atomic import MEND_CACHE, hash_json, write_json
from fieldmark.core.sealed import SEAL, discard, is_whole, sealing
from fieldmark.models.encoder import Encoder, EncoderSpec

SCHEMA = 2
# What changes the embeddings beside weights, pixels and the image's name.
_SETTINGS = ("clusters", "cluster_layer", "cluster_starts", "seed", "mode", "remove", "fill")
_PREPROCESSING = ("mean", "std", "grid")
# What reading a shard of another content raises.
_UNFIT = (SafetensorError, OSError, ValueError, LookupError, TypeError, RecursionError)
_FIELDS = ("labels", "whole", "without", "forwards")


@dataclass(frozen=True)
class ClusterCache:
    """The cluster embeddings of one encoder with one set of settings, in one folder.

    Attributes:
        folder: where the shards lie.
        config: the settings.
        index: shard and row of each image by its key; filled when the folder is opened.
    """

    folder: Path
    config: AttributionConfig
    index: dict[str, tuple[Path, int]] = field(default_factory=dict, repr=False)

    def read(self, keys: Sequence[str]) -> dict[str, ClusterEmbeddings]:
        """Return what there is of these keys, one image each.

        A damaged shard is dropped with a warning.
        """
        wanted: dict[Path, list[str]] = {}
        for key in keys:
            if key in self.index:
                wanted.setdefault(self.index[key][0], []).append(key)
        found = {}
        for shard, names in wanted.items():
            rows = 1 + max(self.index[name][1] for name in names)
            values = _read_shard(shard, rows=rows)
            if values is None:
                self._drop(shard)
                continue
            for name in names:
                row = self.index[name][1]
                parts = {part: values[part][row : row + 1] for part in _FIELDS}
                found[name] = ClusterEmbeddings(**parts, mode=self.config.mode)
        return found

    def _drop(self, shard: Path) -> None:
        for name in [name for name, (place, _) in self.index.items() if place == shard]:
            del self.index[name]

    def write(self, keys: Sequence[str], embeddings: ClusterEmbeddings) -> None:
        """Add a shard: a key for each image.

        Raises:
            FieldmarkError: it cannot be written.
        """
        values = {name: getattr(embeddings, name).contiguous() for name in _FIELDS}
        values["labels"] = values["labels"].to(torch.int32)
        shard = self.folder / f"shard-{hash_json(list(keys))[:32]}.safetensors"
        with sealing(shard, mend=MEND_CACHE) as part:
            save_file(values, part, metadata={**SEAL, "images": json.dumps(list(keys))})
        self.index.update((key, (shard, row)) for row, key in enumerate(keys))


def open_cluster_cache(
    cache: Path, *, spec: EncoderSpec, config: AttributionConfig
) -> ClusterCache:
    """Open the folder for one encoder and these settings under `cache`; make it if need be.

    Raises:
        FieldmarkError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> from fieldmark.testing import FakeEncoder
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = open_cluster_cache(
        ...         Path(folder), spec=FakeEncoder().spec, config=AttributionConfig()
        ...     )
        ...     len(cache.index), (cache.folder / "manifest.json").is_file()
        (0, True)
    """
    facts, settings = asdict(spec), config.model_dump()
    key: dict[str, Any] = {name: settings[name] for name in _SETTINGS}
    key |= {name: facts[name] for name in _PREPROCESSING}
    key |= {"schema": SCHEMA, "fingerprint": spec.fingerprint}
    folder = cache / hash_json(key)[:32]
    if not (folder / "manifest.json").is_file():
        write_json(
            folder / "manifest.json", key | {"uri": spec.uri, "dim": spec.dim}, mend=MEND_CACHE
        )
    found = ClusterCache(folder, config)
    for shard in sorted(folder.glob("shard-*.safetensors")):
        names = _read_names(shard)
        found.index.update((name, (shard, row)) for row, name in enumerate(names))
    return found


def embed_cached(
    cache: ClusterCache, encoder: Encoder, image_BCHW: Tensor, *, ids: Sequence[str]
) -> ClusterEmbeddings:
    """Embed images without their clusters, those that are in the cache out of it.

    Args:
        cache: opened for this encoder.
        encoder: any encoder that gives tokens, in evaluation.
        image_BCHW: uint8 or normalised float (B,3,H,W).
        ids: B names that the starts of k-means are drawn by; they are part of an image's key.

    Returns:
        As `embed_clusters` with the cache's settings; `forwards` are those that were spent when the
        embeddings were made.

    Raises:
        FieldmarkError: a shard cannot be written.

    Example:
        >>> import tempfile
        >>> from fieldmark.testing import FakeEncoder
        >>> encoder, images = FakeEncoder(), torch.ones(2, 3, 8, 8)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     cache = open_cluster_cache(
        ...         Path(folder), spec=encoder.spec, config=AttributionConfig()
        ...     )
        ...     first = embed_cached(cache, encoder, images, ids=["a", "b"])
        ...     again = embed_cached(cache, encoder, images, ids=["a", "b"])
        >>> torch.equal(first.labels, again.labels), len(cache.index)
        (True, 2)
    """
    keys = [hash_image(image, name=name) for image, name in zip(image_BCHW, ids, strict=True)]
    found = cache.read(keys)
    missing = {key: row for row, key in enumerate(keys) if key not in found}
    rows, size = list(missing.values()), cache.config.batch_size
    for part in (rows[start : start + size] for start in range(0, len(rows), size)):
        names = [ids[row] for row in part]
        fresh = embed_clusters(encoder, image_BCHW[part], config=cache.config, ids=names)
        written = [keys[row] for row in part]
        cache.write(written, fresh)
        found |= {key: _take(fresh, row) for row, key in enumerate(written)}
    return join_clusters([found[key] for key in keys])


def hash_image(image_CHW: Tensor, *, name: str) -> str:
    """Return the key of an image: SHA-256 of its pixels, their type and shape, and its name.

    Example:
        >>> image = torch.zeros(3, 8, 8)
        >>> hash_image(image, name="a") == hash_image(image + 1, name="a")
        False
    """
    flat = image_CHW.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{name}\x1f{flat.dtype}{tuple(flat.shape)}".encode())
    digest.update(flat.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _take(embeddings: ClusterEmbeddings, row: int) -> ClusterEmbeddings:
    parts = {name: getattr(embeddings, name)[row : row + 1] for name in _FIELDS}
    return ClusterEmbeddings(**parts, mode=embeddings.mode)


def _read_names(shard: Path) -> list[str]:
    """Return the names of a shard's images; none of a damaged shard."""
    if is_whole(shard):
        with contextlib.suppress(*_UNFIT), safe_open(shard, framework="pt") as file:
            return [str(name) for name in json.loads(file.metadata()["images"])]
    discard(shard, instead="its images are embedded again")
    return []


def _read_shard(shard: Path, *, rows: int) -> dict[str, Tensor] | None:
    """Return the values of a shard with so many rows or more; nothing where it is damaged."""
    if is_whole(shard):
        with contextlib.suppress(*_UNFIT), safe_open(shard, framework="pt") as file:
            values = {name: file.get_tensor(name) for name in _FIELDS}
            if all(len(value) >= rows for value in values.values()):
                return values | {"labels": values["labels"].long()}
    discard(shard, instead="its images are embedded again")
    return None
