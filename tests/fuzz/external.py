"""Readers of other libraries' data sets: tar shards, saved Arrow files, folders of torchvision."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import json
import lzma
import os
import random
import tarfile
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fieldmark.data.external import open_external
from fieldmark.data.external.web_shards import from_webdataset, stream_webdataset
from tests.fuzz.lists import put
from tests.fuzz.mutate import Damage, damage_bytes, damage_json, damage_text
from tests.fuzz.pictures import draw, save
from tests.fuzz.run import Reader

FACTS = {"label": 1, "attribute": "land", "split": "train", "object": "o", "scene": None}
PACKERS: Mapping[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gz": functools.partial(gzip.compress, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
}
NAMES = b"cat\nbird\n"
IDX = {
    f"FashionMNIST/raw/{part}-{kind}": head + bytes(size)
    for part in ("train", "t10k")
    for kind, head, size in (
        ("images-idx3-ubyte", b"\0\0\x08\x03\0\0\0\2\0\0\0\x1c\0\0\0\x1c", 1568),
        ("labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\2", 2),
    )
}
Members = list[tuple[tarfile.TarInfo, bytes]]


def write_tar(members: Members) -> bytes:
    """Return a tar file of members, whatever their heads say."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def list_members() -> Members:
    """Return the members of a shard of two samples, with a mask, a pickle and a hidden file."""
    picture = save(draw("RGB"), "JPEG", {})
    parts = {
        "a/000.jpg": picture, "a/000.cls": b"0", "a/000.pyd": b"\x80\x04N.",
        "a/000.mask.png": save(draw("L"), "PNG", {}), "a/001.png": save(draw("RGBA"), "PNG", {}),
        "a/001.json": json.dumps(FACTS).encode(), "a/.hidden": b"x", "README": b"x",
        "a/002.webp": save(draw("RGB"), "WEBP", {}), "a/002.txt": b"cat",
    }  # fmt: skip
    members = []
    for name, content in parts.items():
        info = tarfile.TarInfo(name)
        info.size = len(content)
        members.append((info, content))
    return members


def damage_shard(rng: random.Random, seed: bytes, others: Sequence[bytes]) -> bytes:
    """Damage a shard: its bytes, what is in its members, or their heads; then it may be packed."""
    kind = rng.random()
    packer = rng.choice(list(PACKERS.values())) if rng.random() < 0.3 else bytes
    if kind < 0.4 or not seed.endswith(b"\0" * 512):
        return damage_bytes(rng, packer(seed), others)
    with tarfile.open(fileobj=io.BytesIO(seed)) as archive:
        files = [(info, archive.extractfile(info)) for info in archive]
        members = [(info, file.read()) for info, file in files if file is not None]
    place = rng.randrange(len(members))
    info, content = members[place]
    if kind < 0.7:
        damage: Damage = damage_json if info.name.endswith("json") else damage_bytes
        content = damage(rng, content, [content])
        info.size = len(content)
        members[place] = (info, content)
    else:
        _change_head(rng, info, members)
    return packer(write_tar(members))


def _change_head(rng: random.Random, info: tarfile.TarInfo, members: Members) -> None:
    odd = (
        "../x.jpg",
        "/x.jpg",
        "a/000.jpg",
        "a/b.c.d.e",
        "a" * 300 + ".jpg",
        "x\udcff.jpg",
        ".jpg",
    )
    kind = rng.randrange(4)
    if kind == 0:
        info.name = rng.choice(odd)
    elif kind == 1:
        info.type = rng.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, b"S", b"x"))
        info.linkname = rng.choice(("../../etc/passwd", "a/000.jpg", ""))
    elif kind == 2:
        info.pax_headers = {
            rng.choice(("size", "path", "GNU.sparse.size")): rng.choice(("-1", "x"))
        }
    else:
        members.append(rng.choice(members))


def in_cache(content: bytes, folder: Path, *, name: str, read: Callable[[Path], object]) -> None:
    """Read a file with a cache of its own, which is empty for each input."""
    put(folder / name, content)
    before = os.environ.get("FIELDMARK_CACHE")
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        os.environ["FIELDMARK_CACHE"] = cache
        try:
            read(folder / name)
        finally:
            os.environ.pop("FIELDMARK_CACHE")
            if before is not None:
                os.environ["FIELDMARK_CACHE"] = before


def _read_shards(path: Path) -> None:
    shards = [path if path.suffix == ".tar" else path.with_name("a.tar")]
    for _ in stream_webdataset(shards):
        pass
    from_webdataset(shards)


def _read_saved(path: Path, *, source: str) -> None:
    open_external(f"hf-dataset:{source}", root=path.parents[path.parts[::-1].index("work") - 1])


def _read_torchvision(path: Path, *, source: str, up: int) -> None:
    open_external(f"torchvision:{source}", root=path.parents[up])


def _read_kept(path: Path) -> None:
    """Read the shards with a cache that holds them already, with a manifest that is damaged."""
    content = path.read_bytes()
    from_webdataset([path.with_name("a.tar")])
    (kept,) = (Path(os.environ["FIELDMARK_CACHE"]) / "external").glob("*/manifest.json")
    kept.write_bytes(content)
    assert len(from_webdataset([path.with_name("a.tar")])) == 3


def _prepare_shards(folder: Path) -> None:
    put(folder / "train" / "a.tar", write_tar(list_members()))
    put(folder / "train" / "classnames.txt", NAMES)


def _prepare_saved(folder: Path) -> None:
    for name, content in _save_arrow().items():
        put(folder / name, content)


@functools.cache
def _save_arrow() -> Mapping[str, bytes]:
    """Return a data set of Hugging Face's library as files, saved and as Parquet."""
    import datasets

    pictures = [{"bytes": save(draw("RGB"), "PNG", {}), "path": None}] * 2
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["bird", "cat"]),
            "place": datasets.Value("string"),
        }
    )
    columns = {"image": pictures, "label": [0, 1], "place": ["land", "water"]}
    held = datasets.Dataset.from_dict(columns, features=features)
    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as place:
        held.save_to_disk(f"{place}/saved")
        held.to_parquet(f"{place}/plain.parquet")
        paths = sorted(path for path in Path(place).rglob("*") if path.is_file())
        if shown:
            datasets.enable_progress_bars()
        return {path.relative_to(place).as_posix(): path.read_bytes() for path in paths}


def _prepare_folders(folder: Path) -> None:
    for name in ("bird/a.png", "cat/b.png"):
        put(folder / "images" / name)


def _prepare_idx(folder: Path) -> None:
    for name, content in IDX.items():
        put(folder / name, content)


def _list_arrow() -> list[Reader]:
    readers = []
    for name, content in _save_arrow().items():
        source = "plain.parquet" if name.endswith("parquet") else "saved"
        damage = damage_json if name.endswith(".json") else damage_bytes
        readers.append(
            _make(
                f"Hugging Face {name}",
                name,
                [content],
                functools.partial(_read_saved, source=source),
                prepare=_prepare_saved,
                damage=damage,
                share=0.1,
            )
        )
    return readers


def _make(
    title: str,
    file: str,
    seeds: Sequence[bytes],
    read: Callable[[Path], object],
    *,
    prepare: Callable[[Path], object],
    damage: Damage,
    share: float = 1.0,
) -> Reader:
    return Reader(
        name=title,
        seeds=seeds,
        read=functools.partial(in_cache, name=file, read=read),
        damage=damage,
        prepare=prepare,
        share=share,
    )


def list_readers() -> list[Reader]:
    """Return the readers of webdataset shards."""
    shard = write_tar(list_members())
    shards = [shard, *(pack(shard) for pack in PACKERS.values())]
    manifest = {"schema": 1, "name": "train", "images": 3, "classes": [], "table": "", "files": ""}
    return [
        _make("webdataset shard", "train/a.tar", shards, _read_shards,
              prepare=_prepare_shards, damage=damage_shard, share=1.5),
        _make("webdataset classnames.txt", "train/classnames.txt", [NAMES], _read_shards,
              prepare=_prepare_shards, damage=damage_text, share=0.3),
        _make("kept images manifest.json", "train/m.json", [json.dumps(manifest).encode()],
              _read_kept, prepare=_prepare_shards, damage=damage_json, share=0.2),
    ]  # fmt: skip


def list_long_readers() -> list[Reader]:
    """Return the readers of Arrow, whose native code a damaged file may crash, and torchvision."""
    images = functools.partial(_read_torchvision, source="ImageFolder", up=1)
    fashion = functools.partial(_read_torchvision, source="FashionMNIST", up=2)
    name, content = next(iter(IDX.items()))
    return [
        *_list_arrow(),
        _make("torchvision image folder", "images/bird/a.png", [save(draw("RGB"), "PNG", {})],
              images, prepare=_prepare_folders, damage=damage_bytes, share=0.1),
        _make("torchvision IDX", name, [content], fashion,
              prepare=_prepare_idx, damage=damage_bytes, share=0.2),
    ]  # fmt: skip
