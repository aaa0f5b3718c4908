"""Read Qt binary resource files (`.rcc`), in which GCompris keeps its photographs.

The layout, all numbers big-endian (Qt, qtbase/src/corelib/io/qresource.cpp, versions 1 to 3):

    header  `qres`, version, offsets of the tree, the data and the names; from version 3 on flags
    tree    one node an entry: offset of its name, flags, then for a folder the number of its
            children and the index of the first, for a file territory, language and the offset of
            its data; from version 2 on the time of modification. Node 0 is the root
    names   length in UTF-16 units, hash, text
    data    length, then the bytes: as they are, or from zlib with the unpacked length before them
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fieldmark.core.errors import InputError

_ZLIB, _FOLDER, _ZSTANDARD = 1, 2, 4
# A photograph of GCompris has less than a megabyte.
LARGEST = 1 << 28


class ResourceEntry(NamedTuple):
    """One file inside a resource file.

    Attributes:
        name: path inside the resource file, parts joined by `/`.
        flags: 1 zlib, 4 Zstandard, 0 stored as it is.
        offset: where its length and bytes start, counted from the start of the resource file.
    """

    name: str
    flags: int
    offset: int


class ResourceFile:
    """The files inside one `.rcc` file, by name.

    Args:
        path: the resource file; it is read whole.

    Raises:
        InputError: it is no resource file, of a version that is not known, or cut short.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "empty.rcc"
        >>> tree = struct.pack(">IHIIQ", 0, 2, 0, 0, 0)
        >>> _ = path.write_bytes(b"qres" + struct.pack(">4I", 2, 20, 0, 0) + tree)
        >>> ResourceFile(path).names()
        ()
        >>> folder.cleanup()
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._bytes = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", where=path) from error
        if self._bytes[:4] != b"qres":
            raise InputError("is not a Qt resource file", where=path)
        version, tree, data, names = self._unpack(">4I", 4)
        if version not in (1, 2, 3):
            raise InputError(f"has the unknown resource version {version}", where=path)
        self._tree, self._data, self._names = tree, data, names
        self._node_size = 14 if version == 1 else 22
        self._seen: set[int] = set()
        self._entries = {entry.name: entry for entry in self._walk(0, "", 0)}

    def names(self) -> tuple[str, ...]:
        """Return the paths of all files inside, sorted."""
        return tuple(sorted(self._entries))

    def read(self, name: str) -> bytes:
        """Return the bytes of one file inside.

        Raises:
            InputError: there is no such file, it is cut short, or packed in a way that is not
                known.
        """
        if name not in self._entries:
            raise InputError(f"has no file {name!r}", where=self.path)
        entry = self._entries[name]
        (length,) = self._unpack(">I", entry.offset)
        start = entry.offset + 4
        payload = self._bytes[start : start + length]
        if len(payload) != length:
            raise InputError(f"is cut short inside {name!r}", where=self.path)
        if entry.flags & _ZSTANDARD:
            raise InputError(f"packs {name!r} with Zstandard, which is not read", where=self.path)
        if not entry.flags & _ZLIB:
            return payload
        try:
            # qCompress puts the unpacked length, 4 bytes, before the zlib stream.
            unpacked = zlib.decompressobj().decompress(payload[4:], LARGEST + 1)
        except zlib.error as error:
            raise InputError(f"has bad data in {name!r} ({error})", where=self.path) from error
        if len(unpacked) > LARGEST:
            raise InputError(f"unpacks {name!r} to more than {LARGEST} bytes", where=self.path)
        return unpacked

    def _unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        try:
            return struct.unpack_from(layout, self._bytes, offset)
        except struct.error:
            raise InputError("is cut short or no Qt resource file", where=self.path) from None

    def _walk(self, node: int, folder: str, depth: int) -> Iterator[ResourceEntry]:
        # Without the second check two folders in one another take longer than anyone waits.
        if depth > 64 or node in self._seen:
            raise InputError("has folders that contain themselves", where=self.path)
        self._seen.add(node)
        at = self._tree + node * self._node_size
        name_at, flags = self._unpack(">IH", at)
        # The root has no name of its own.
        name = folder if node == 0 else f"{folder}/{self._name(name_at)}".lstrip("/")
        if flags & _FOLDER:
            count, first = self._unpack(">II", at + 6)
            for child in range(first, first + count):
                yield from self._walk(child, name, depth + 1)
        else:
            (offset,) = self._unpack(">I", at + 10)
            yield ResourceEntry(name, flags, self._data + offset)

    def _name(self, offset: int) -> str:
        (length,) = self._unpack(">H", self._names + offset)
        start = self._names + offset + 6
        return self._bytes[start : start + 2 * length].decode("utf-16-be", "replace")
