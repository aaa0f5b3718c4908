"""Readers of an encoder's folder, of open_clip and of transformers, with everything in it.

The model is whole but for one file: its configuration, its tokenizer or its weights.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from fieldmark.models.load import load_encoder
from tests.fuzz.lists import put
from tests.fuzz.mutate import Damage, damage_bytes, damage_json
from tests.fuzz.objects import make_reader
from tests.fuzz.run import Reader
from tests.models import tiny

KINDS: Mapping[str, tuple[str, Callable[[Path], object]]] = {
    "open_clip": ("local-dir", functools.partial(tiny.write_open_clip, family="siglip")),
    "transformers": ("hf", functools.partial(tiny.write_transformers, family="siglip")),
}


@functools.cache
def _write(kind: str) -> Mapping[str, bytes]:
    with tempfile.TemporaryDirectory() as place:
        KINDS[kind][1](Path(place) / "m")
        return {path.name: path.read_bytes() for path in (Path(place) / "m").iterdir()}


def _prepare(folder: Path, *, kind: str) -> None:
    for name, content in _write(kind).items():
        put(folder / name, content)


def _read(path: Path, *, scheme: str) -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    load_encoder(f"{scheme}:{path.parent}")


def list_readers() -> list[Reader]:
    """Return a reader for each file of a folder of each kind."""
    readers = []
    for kind, (scheme, _) in KINDS.items():
        for name, content in sorted(_write(kind).items()):
            damage: Damage = damage_json if name.endswith(".json") else damage_bytes
            readers.append(
                make_reader(
                    f"encoder folder of {kind}, {name}",
                    name,
                    [content],
                    functools.partial(_read, scheme=scheme),
                    prepare=functools.partial(_prepare, kind=kind),
                    damage=damage,
                    share=0.1,
                )
            )
    return readers
