"""Embeddings on disk, found again by content of image, weights and preprocessing.

One folder holds the embeddings of one encoder with one preprocessing at one precision.
`manifest.json` says which; each `shard-*.safetensors` holds some embeddings and, in its metadata,
the hashes of their images. A shard is written whole or not at all and is never changed, so a killed
run keeps what it had and two runs can share the folder.
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

from fieldmark.core.atomic import hash_json, replacing, write_json
from fieldmark.core.errors import InputError
from fieldmark.models.encoder import EncoderSpec

SCHEMA = 1
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

        Raises:
            InputError: a shard is damaged.
        """
        wanted, found = set(images), dict[str, NDArray[np.float32]]()
        for shard in sorted(self.folder.glob("shard-*.safetensors")):
            names, values = self._read_shard(shard)
            found.update((n, v) for n, v in zip(names, values, strict=True) if n in wanted)
        return found

    def _read_shard(self, shard: Path) -> tuple[list[str], NDArray[np.float32]]:
        try:
            with safe_open(shard, framework="numpy") as file:
                names: list[str] = json.loads((file.metadata() or {})["images"])
                values: NDArray[np.float32] = file.get_tensor("embeddings")
            whole = values.shape == (len(names), self.dim) and values.dtype == np.float32
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            raise _damaged(shard) from error
        if not whole:
            raise _damaged(shard)
        return names, values

    def write(self, embeddings: Mapping[str, NDArray[np.float32]]) -> None:
        """Add a shard: hash of image to (D,).

        Raises:
            FieldmarkError: it cannot be written.
        """
        if not embeddings:
            return
        names = list(embeddings)
        key = hashlib.sha256("".join(names).encode()).hexdigest()
        with replacing(self.folder / f"shard-{key[:32]}.safetensors") as part:
            values = np.stack([embeddings[name] for name in names]).astype(np.float32)
            save_file({"embeddings": values}, part, metadata={"images": json.dumps(names)})


def _damaged(shard: Path) -> InputError:
    return InputError(
        "is not a whole file of embeddings",
        where=shard,
        mend="delete it, and its images are embedded again",
    )


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
        write_json(folder / "manifest.json", key | {"uri": spec.uri, "dim": spec.dim})
    return EmbeddingCache(folder, spec.dim)
