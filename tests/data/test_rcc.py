"""Qt resource files, against one that is written here by hand."""

from __future__ import annotations

import struct
import zlib

import pytest

from fieldmark.core.errors import InputError
from fieldmark.data.datasets.rcc import ResourceFile


def write_resource(path, *, flags: int = 0, payload: bytes = b"hello", magic: bytes = b"qres"):
    """One folder `a` with one file `b.txt`; the format is that of Qt's rcc, version 2."""
    names, places = b"", []
    for name in ("a", "b.txt"):
        places.append(len(names))
        names += struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    data = struct.pack(">I", len(payload)) + payload
    tree = struct.pack(">IHIIQ", 0, 2, 1, 1, 0)  # the root: a folder with one child, node 1
    tree += struct.pack(">IHIIQ", places[0], 2, 1, 2, 0)  # folder a: one child, node 2
    tree += struct.pack(">IHHHIQ", places[1], flags, 0, 0, 0, 0)  # file b.txt at the data's start
    start = 20
    head = magic + struct.pack(">4I", 2, start, start + len(tree), start + len(tree) + len(data))
    path.write_bytes(head + tree + data + names)
    return path


def test_files_are_named_by_their_path_and_read_whole(tmp_path):
    resource = ResourceFile(write_resource(tmp_path / "x.rcc"))
    assert resource.names() == ("a/b.txt",)
    assert resource.read("a/b.txt") == b"hello"
    with pytest.raises(InputError, match="has no file 'c'"):
        resource.read("c")


def test_zlib_is_unpacked_and_zstandard_is_refused(tmp_path):
    packed = struct.pack(">I", 5) + zlib.compress(b"hello")
    resource = ResourceFile(write_resource(tmp_path / "x.rcc", flags=1, payload=packed))
    assert resource.read("a/b.txt") == b"hello"
    bad = ResourceFile(write_resource(tmp_path / "y.rcc", flags=1, payload=b"12345678"))
    with pytest.raises(InputError, match="bad data"):
        bad.read("a/b.txt")
    zstandard = ResourceFile(write_resource(tmp_path / "z.rcc", flags=4))
    with pytest.raises(InputError, match="Zstandard"):
        zstandard.read("a/b.txt")


def test_other_files_and_cut_ones_are_named(tmp_path):
    with pytest.raises(InputError, match=r"x\.rcc: is not a Qt resource file"):
        ResourceFile(write_resource(tmp_path / "x.rcc", magic=b"none"))
    whole = write_resource(tmp_path / "y.rcc").read_bytes()
    for length in (0, 10, 30, len(whole) - 4):
        cut = tmp_path / f"{length}.rcc"
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError):
            ResourceFile(cut).read("a/b.txt")
