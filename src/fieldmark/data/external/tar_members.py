"""Members of tar files in a stream, in memory that does not grow with the file.

Python's `tarfile` ends quietly where a header is damaged, or where a file was cut off between two
members. Here a file counts as read only if nothing but zeros follows the last member, as the format
demands.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, cast

from fieldmark.core.errors import TableError

# Larger than any image that is taken for safe; a member is held in memory whole.
MAX_MEMBER = 2**28
_BLOCK = 512
_BUFFER = 256 * _BLOCK
_DAMAGED = (tarfile.TarError, OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)


class Member(NamedTuple):
    """A file in a tar: its name there, and its bytes if they were asked for, else None."""

    name: str
    data: bytes | None


class _Watched:
    """A stream that remembers where it ended and where its last byte was that is not zero."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream
        self.size = self.last = 0

    def read(self, count: int = -1) -> bytes:
        """Read on."""
        data = self.stream.read(count)
        used = len(data.rstrip(b"\0"))
        if used:
            self.last = self.size + used
        self.size += len(data)
        return data


def read_members(path: Path, *, wanted: frozenset[str]) -> Iterator[Member]:
    """Yield the files of a tar file in their order; folders are passed over.

    Args:
        path: a tar file, or one that is compressed by gzip, bzip2 or xz.
        wanted: what follows the first full stop of a name, in lower case ("jpg", "mask.png"), of
            the members whose bytes are read. Of all others only the name is.

    Raises:
        TableError: no such file, damaged or cut off, a link or a device, a name that climbs out of
            the folder, or a member larger than `MAX_MEMBER`.
    """
    try:
        with _open_plain(path) as stream:
            yield from _read_stream(path, _Watched(stream), wanted=wanted)
    except _DAMAGED as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        problem = "no such file" if isinstance(error, FileNotFoundError) else (
            f"is not a whole tar file ({reason.rstrip('.')})"
        )  # fmt: skip
        raise TableError(problem, where=path, mend="fetch or write it again") from error


def _open_plain(path: Path) -> IO[bytes]:
    """Open a file for reading, unpacked if it is packed."""
    with path.open("rb") as stream:
        head = stream.read(6)
    if head.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.open(path))
    if head.startswith(b"BZh"):
        return bz2.open(path)
    return lzma.open(path) if head == b"\xfd7zXZ\0" else path.open("rb")


def _read_stream(path: Path, watched: _Watched, *, wanted: frozenset[str]) -> Iterator[Member]:
    with tarfile.open(fileobj=watched, mode="r|", bufsize=_BUFFER) as tar:  # type: ignore[call-overload]
        while (info := tar.next()) is not None:
            # The list of members would grow with the file.
            tar.members.clear()
            if info.isdir():
                continue
            _check_member(info, path=path)
            data = None
            if split_key(info.name)[1] in wanted:
                file = tar.extractfile(info)
                data = file.read() if file else b""
                if len(data) != info.size:
                    raise TableError("is cut off", where=f"{path}, member {info.name}")
            yield Member(info.name, data)
        end = tar.offset
        while watched.read(2**20):
            pass
    if watched.last > end:
        raise TableError(f"is damaged after byte {end}", where=path, mend="fetch or write it again")
    if watched.size < end + _BLOCK:
        raise TableError("is cut off: its end mark is missing", where=path, mend="write it again")


def _check_member(info: tarfile.TarInfo, *, path: Path) -> None:
    where = f"{path}, member {info.name!r}"
    parts = info.name.replace("\\", "/").split("/")
    if info.name.startswith(("/", "\\")) or ".." in parts or "\0" in info.name:
        raise TableError("its name leads out of the folder", where=where, mend="write it anew")
    if not info.isreg():
        raise TableError(
            "is a link or a device, no file", where=where, mend="write the file itself"
        )
    if info.size > MAX_MEMBER:
        raise TableError(
            f"has {info.size} bytes; more than {MAX_MEMBER} are not taken for safe", where=where
        )


def split_key(name: str) -> tuple[str, str]:
    """Split a member's name into the key of its sample and its extension, as webdataset does.

    Example:
        >>> split_key("birds/0001.mask.PNG"), split_key("birds/.hidden"), split_key("README")
        (('birds/0001', 'mask.png'), ('', ''), ('', ''))
    """
    folder, slash, file = name.rpartition("/")
    stem, dot, extension = file.partition(".")
    return (f"{folder}{slash}{stem}", extension.lower()) if stem and dot else ("", "")
