"""Embeddings on disk, found again by content of image, weights and preprocessing.

One folder holds the embeddings of one encoder with one preprocessing at one precision.
`manifest.json` says which; each `shard-*.safetensors` holds some embeddings and, in its metadata,
the hashes of their images and its checksum. A shard is written whole or not at all and is never
changed, so a killed run keeps what it had and two runs can share the folder. A shard that does not
fit its checksum is dropped, and its images are embedded again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fieldmark.core.atomic import MEND_CACHE, hash_json, write_json
from fieldmark.core.sealed import SEAL, discard, is_whole, sealing
from fieldmark.models.encoder import EncoderSpec

SCHEMA = 2
# What changes an embedding beside the weights; the URI and the logit scale do not.
_PREPROCESSING = ("image_size", "mean", "std", "interpolation", "resize")


@dataclass(frozen=True)
class EmbeddingCache:
    """The embeddings of one encoder, in one folder.

    Attributes:
        folder: where the shards lie.
        dim: D, the size of an embedding.
    """

    folder: Path
    dim: int

    def read(self, images: Collection[str]) -> dict[str, NDArray[np.float32]]:
        """Return the embeddings there are of these images: hash to (D,).

        A damaged shard is dropped with a warning.
        """
        wanted, found = set(images), dict[str, NDArray[np.float32]]()
        for shard in sorted(self.folder.glob("shard-*.safetensors")):
            held = self._read_shard(shard)
            if held is None:
                discard(shard, instead="its images are embedded again")
            else:
                found.update((name, value) for name, value in held.items() if name in wanted)
        return found

    def _read_shard(self, shard: Path) -> dict[str, NDArray[np.float32]] | None:
        """Return what a shard holds; nothing where it is damaged or of another content."""
        if not is_whole(shard):
            return None
        try:
            with safe_open(shard, framework="numpy") as file:
                names: list[str] = json.loads(file.metadata()["images"])
                values: NDArray[np.float32] = file.get_tensor("embeddings")
            fits = values.dtype == np.float32 and values.shape == (len(names), self.dim)
            return dict(zip(names, values, strict=True)) if fits else None
        except (SafetensorError, OSError, ValueError, LookupError, TypeError, RecursionError):
            return None

    def write(self, embeddings: Mapping[str, NDArray[np.float32]]) -> None:
        """Add a shard: hash of image to (D,).

        Raises:
            FieldmarkError: it cannot be written.
        """
        if not embeddings:
            return
        names = list(embeddings)
        key = hashlib.sha256("".join(names).encode()).hexdigest()
        with sealing(self.folder / f"shard-{key[:32]}.safetensors", mend=MEND_CACHE) as part:
            values = np.stack([embeddings[name] for name in names]).astype(np.float32)
            words = {**SEAL, "images": json.dumps(names)}
            save_file({"embeddings": values}, part, metadata=words)


def open_embedding_cache(cache: Path, *, spec: EncoderSpec, dtype: str) -> EmbeddingCache:
    """Open the folder for one encoder under `cache`, and make it if need be.

    Args:
        cache: folder that holds the folders of all encoders.
        spec: of the encoder as it was loaded, before its weights were cast for extraction.
        dtype: type that the weights are cast to, such as "bfloat16".

    Raises:
        FieldmarkError: the folder cannot be written.
    """
    facts = asdict(spec)
    key: dict[str, Any] = {name: facts[name] for name in _PREPROCESSING}
    key |= {"schema": SCHEMA, "fingerprint": spec.fingerprint, "dtype": dtype}
    folder = cache / hash_json(key)[:32]
    if not (folder / "manifest.json").is_file():
        write_json(
            folder / "manifest.json", key | {"uri": spec.uri, "dim": spec.dim}, mend=MEND_CACHE
        )
    return EmbeddingCache(folder, spec.dim)
