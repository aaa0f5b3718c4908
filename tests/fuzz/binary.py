"""Readers of weights and packed files, and whole ones to damage."""

from __future__ import annotations

import functools
import gzip
import io
import json
import struct
import tempfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from onnx import TensorProto, helper

from fieldmark.core.fetch import read_manifest
from fieldmark.data.controlled.idx import read_idx, read_pair
from fieldmark.data.datasets.rcc import ResourceFile
from fieldmark.methods.linear_probe import ConvexProbe, load_probe, save_probe
from fieldmark.methods.sparse_autoencoder import load_autoencoder
from fieldmark.models.checkpoint import find_weights, load_weights
from fieldmark.models.embedding_cache import EmbeddingCache
from fieldmark.models.onnx_weights import read_dinov2_onnx
from fieldmark.models.open_clip import read_config
from tests.fuzz.mutate import Damage, damage_bytes, damage_json
from tests.fuzz.run import Reader


def make_idx(shape: Sequence[int], kind: int = 8) -> bytes:
    """Return an IDX file of bytes."""
    head = bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    return head + bytes(int(np.prod(shape)))


def make_resources() -> bytes:
    """Return a Qt resource file of a folder with a stored and a packed file."""
    names, places = b"", []
    for text in ("pictures", "a.txt", "b.txt"):
        places.append(len(names))
        names += struct.pack(">HI", len(text), 0) + text.encode("utf-16-be")
    packed = struct.pack(">I", 5) + zlib.compress(b"hello")
    data = struct.pack(">I", 3) + b"abc" + struct.pack(">I", len(packed)) + packed
    tree = struct.pack(">IHIIQ", 0, 2, 1, 1, 0)
    tree += struct.pack(">IHIIQ", places[0], 2, 2, 2, 0)
    tree += struct.pack(">IHHHIQ", places[1], 0, 0, 0, 0, 0)
    tree += struct.pack(">IHHHIQ", places[2], 1, 0, 0, 7, 0)
    start = 20
    head = struct.pack(">4I", 2, start, start + len(tree), start + len(tree) + len(data))
    return b"qres" + head + tree + data + names


def make_onnx() -> bytes:
    """Return a small ONNX graph with weights as DINOv2's export names them."""
    weights = [
        helper.make_tensor("backbone.layernorm.weight", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0]),
        helper.make_tensor("onnx::MatMul_1", TensorProto.FLOAT, [2, 3], [0.0] * 6),
        helper.make_tensor("backbone.half", TensorProto.FLOAT16, [2], [1, 2]),
    ]
    node = helper.make_node(
        "MatMul",
        ["x", "onnx::MatMul_1"],
        ["y"],
        name="/backbone/encoder/layer.0/attention/attention/query/MatMul",
    )
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    graph = helper.make_graph([node], "g", shapes[:1], shapes[1:], initializer=weights)
    content: bytes = helper.make_model(graph).SerializeToString()
    return content


def make_shard() -> bytes:
    """Return a shard of an embedding cache with two embeddings of four numbers."""
    values = np.arange(8, dtype=np.float32).reshape(2, 4)
    with tempfile.TemporaryDirectory() as place:
        EmbeddingCache(Path(place), 4).write({"a": values[0], "b": values[1]})
        return next(Path(place).glob("shard-*")).read_bytes()


def make_state() -> bytes:
    """Return the weights of a linear layer as torch writes them."""
    stream = io.BytesIO()
    torch.save(torch.nn.Linear(2, 1).state_dict(), stream)
    return stream.getvalue()


CONFIG = {
    "model_cfg": {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 8, "patch_size": 16},
        "text_cfg": {"context_length": 8, "vocab_size": 64, "width": 8, "heads": 1, "layers": 1},
    },
    "preprocess_cfg": {
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}


def _read_idx(content: bytes, folder: Path) -> None:
    (folder / "values").write_bytes(content)
    read_idx(folder / "values")


def _read_labels(content: bytes, folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").write_bytes(content)
    read_pair(folder, part="t10k", classes=10)


def _read_resources(content: bytes, folder: Path) -> None:
    (folder / "a.rcc").write_bytes(content)
    held = ResourceFile(folder / "a.rcc")
    for name in held.names()[:5]:
        held.read(name)


def _read_onnx(content: bytes, folder: Path) -> None:
    (folder / "model.onnx").write_bytes(content)
    read_dinov2_onnx(folder / "model.onnx")


def _read_weights(content: bytes, folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(content)
    path = find_weights(folder, names=("model.safetensors",))
    load_weights(lambda: safetensors.numpy.load_file(path), path=path)


def _read_state(content: bytes, folder: Path) -> None:
    (folder / "model.pt").write_bytes(content)
    path = folder / "model.pt"
    load_weights(lambda: torch.load(path, map_location="cpu", weights_only=True), path=path)


def _read_detector(content: bytes, folder: Path) -> None:
    (folder / "detector.pt").write_bytes(content)
    from fieldmark.discovery.region_sources import _read_weights as read

    read(folder / "detector.pt")


def _read_config(content: bytes, folder: Path) -> None:
    (folder / "open_clip_config.json").write_bytes(content)
    read_config(folder / "open_clip_config.json")


def _read_manifest(content: bytes, folder: Path) -> None:
    (folder / "manifest.json").write_bytes(content)
    read_manifest(folder)


def _prepare_probe(folder: Path) -> None:
    save_probe(ConvexProbe().fit([[0.0], [1.0]], ["cat", "dog"]), folder)


def _prepare_autoencoder(folder: Path) -> None:
    from fieldmark.methods.sparse_autoencoder import ARRAYS, RECORD, WEIGHTS

    arrays = {name: np.zeros((2, 2), np.float32) for name in ARRAYS}
    safetensors.numpy.save_file(arrays, folder / WEIGHTS)
    (folder / RECORD).write_bytes(json.dumps(_AUTOENCODER).encode())


_AUTOENCODER = {
    "params": {},
    "fitted": {"scale_": 1.0, "levels_": [1, 2], "dead_": 0, "error_": [0.1, 0.2]},
}


def _read_probe(content: bytes, folder: Path, *, file: str) -> None:
    (folder / file).write_bytes(content)
    probe = load_probe(folder)
    probe.predict([[0.9]] * 2)


def _read_autoencoder(content: bytes, folder: Path, *, file: str) -> None:
    (folder / file).write_bytes(content)
    load_autoencoder(folder)


def _list_heads() -> list[Reader]:
    from fieldmark.methods import linear_probe, sparse_autoencoder

    readers = []
    kinds: list[tuple[str, Callable[[Path], object], Callable[..., object], str, str]] = [
        ("probe", _prepare_probe, _read_probe, linear_probe.RECORD, linear_probe.WEIGHTS),
        (
            "autoencoder",
            _prepare_autoencoder,
            _read_autoencoder,
            sparse_autoencoder.RECORD,
            sparse_autoencoder.WEIGHTS,
        ),
    ]
    for name, prepare, read, record, weights in kinds:
        with tempfile.TemporaryDirectory() as place:
            prepare(Path(place))
            seeds = {file: (Path(place) / file).read_bytes() for file in (record, weights)}
        for file, seed in seeds.items():
            damage: Damage = damage_json if file.endswith(".json") else damage_bytes
            readers.append(
                Reader(
                    name=f"{name} {Path(file).suffix[1:]}",
                    seeds=[seed],
                    # The other file of the two must be whole again for each reader.
                    read=functools.partial(read, file=file),
                    damage=damage,
                    prepare=prepare,
                )
            )
    return readers


def list_readers() -> list[Reader]:
    """Return the readers of binary files and of what stands beside weights."""
    images = make_idx((2, 1, 2))
    idx = [make_idx((1,)), make_idx((3,)), images, gzip.compress(make_idx((2,)), mtime=0)]
    bytes_only: list[tuple[str, list[bytes], Callable[[bytes, Path], object], float]] = [
        ("IDX", idx, _read_idx, 1),
        ("Qt resources", [make_resources()], _read_resources, 1.5),
        ("ONNX", [make_onnx()], _read_onnx, 1),
        ("safetensors", [make_shard()], _read_weights, 1),
        ("torch checkpoint", [make_state()], _read_state, 0.5),
        ("detector weights", [make_state()], _read_detector, 0.5),
    ]
    readers = [
        Reader(name=name, seeds=seeds, read=read, damage=damage_bytes, share=share)
        for name, seeds, read, share in bytes_only
    ]
    labels = Reader(
        name="IDX labels",
        seeds=[make_idx((2,)), gzip.compress(make_idx((2,)), mtime=0)],
        read=_read_labels,
        damage=damage_bytes,
        prepare=lambda folder: (folder / "t10k-images-idx3-ubyte").write_bytes(images),
    )
    objects: list[tuple[str, object, Callable[[bytes, Path], object]]] = [
        ("open_clip_config.json", CONFIG, _read_config),
        ("manifest.json", {"files": {"a": "0" * 64}, "members": {}}, _read_manifest),
    ]
    readers += [
        Reader(name=name, seeds=[json.dumps(seed).encode()], read=read, damage=damage_json)
        for name, seed, read in objects
    ]
    return [*readers, labels, *_list_heads()]
