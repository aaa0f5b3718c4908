"""Files that carry their own checksum, so that a flipped bit is found and never used.

A safetensors file keeps the SHA-256 of its bytes in its metadata, counted with zeros in the place
of the digest; a JSON object keeps that of its other members. What is kept only to save work is made
again when it is damaged; what belongs to a user is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Literal

from fieldmark.core.atomic import MEND_OUT, hash_json, replacing, write_json
from fieldmark.core.errors import InputError

log = logging.getLogger("fieldmark")

KEY = "fieldmark_sha256"
_ZEROS = "0" * 64
# What a caller puts among the metadata of a safetensors file that it writes inside `sealing`.
SEAL: Mapping[str, str] = {KEY: _ZEROS}
Verdict = Literal["whole", "damaged", "unsealed"]

_PATTERN = re.compile(rb'"' + KEY.encode() + rb'":"([0-9a-f]{64})"')
# safetensors itself refuses a longer header.
_LONGEST_HEADER = 100_000_000
_CHUNK = 1 << 20


@contextlib.contextmanager
def sealing(path: Path, *, mend: str = MEND_OUT) -> Iterator[Path]:
    """As `core.atomic.replacing`, for a safetensors file that is sealed before it takes its place.

    The block writes the file with `SEAL` among its metadata; others read it as any safetensors
    file.

    Args:
        path: of the file.
        mend: what the error says to do.

    Raises:
        FieldmarkError: the file cannot be written (a full disk, no permission).

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from safetensors.numpy import save_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.safetensors"
        ...     with sealing(path) as part:
        ...         save_file({"a": np.ones(2)}, part, metadata={**SEAL, "made": "here"})
        ...     judge(path)
        'whole'
    """
    with replacing(path, mend=mend) as part:
        yield part
        seal(part)


def seal(path: Path) -> None:
    """Write a safetensors file's digest into its metadata, which must hold `SEAL`.

    The metadata are put in order, so that equal contents give equal bytes.

    Raises:
        InputError: the file has no place for a digest.
    """
    with path.open("rb+") as stream:
        header = _read_header(stream)
        if header is None or not _PATTERN.search(header):
            raise InputError("has no place for a checksum", where=path, mend="write it with SEAL")
        header = _sort_metadata(header)
        place = _PATTERN.search(header)
        assert place is not None
        digest = _hash_bytes(stream, header)
        stream.seek(8)
        stream.write(header[: place.start(1)] + digest.encode() + header[place.end(1) :])


def judge(path: Path) -> Verdict:
    """Say whether a safetensors file is what was sealed, is not, or never was sealed.

    Reads the whole file, at the rate of SHA-256: 1 to 2 GB a second where the processor has
    instructions for it, about 0.4 where not.

    Example:
        >>> judge(Path("/nowhere"))
        'damaged'
    """
    try:
        with path.open("rb") as stream:
            header = _read_header(stream)
            if header is None:
                return "damaged"
            places = list(_PATTERN.finditer(header))
            if not places:
                return "unsealed"
            found = _hash_bytes(stream, _PATTERN.sub(f'"{KEY}":"{_ZEROS}"'.encode(), header))
            stated = places[0][1].decode()
    except OSError:
        return "damaged"
    return "whole" if len(places) == 1 and found == stated else "damaged"


def is_whole(path: Path) -> bool:
    """Say whether a safetensors file is sealed and as it was written."""
    return judge(path) == "whole"


def check(path: Path, *, mend: str) -> None:
    """Refuse a safetensors file that is not as it was sealed; one without a seal passes.

    Raises:
        InputError: the checksum does not fit.
    """
    if judge(path) == "damaged":
        raise InputError("is damaged (its checksum does not fit its bytes)", where=path, mend=mend)


def report_damage(path: Path, *, instead: str) -> None:
    """Warn that a file of a cache is damaged.

    Args:
        path: of the file.
        instead: what becomes of what it held, such as "its images are embedded again".
    """
    log.warning("%s: is damaged or of an older fieldmark, and is not used; %s", path, instead)


def discard(path: Path, *, instead: str) -> None:
    """Warn that a file of a cache is damaged and remove it, if the cache can be written."""
    report_damage(path, instead=instead)
    with contextlib.suppress(OSError):
        path.unlink()


def write_sealed_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write an object as strict JSON with the checksum of its members.

    Raises:
        FieldmarkError: the file cannot be written.
    """
    write_json(path, {**values, KEY: hash_json(dict(values))})


def read_sealed_json(path: Path) -> dict[str, Any]:
    """Return what `write_sealed_json` wrote.

    Raises:
        InputError: the file cannot be read, has no checksum, or is not as it was written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_sealed_json(Path(folder) / "a.json", {"a": 1})
        ...     read_sealed_json(Path(folder) / "a.json")
        {'a': 1}
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        values[KEY]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError("is no sealed JSON object", where=path) from error
    return open_seal(values, where=path)


def open_seal(values: Mapping[str, Any], *, where: Path, mend: str = "") -> dict[str, Any]:
    """Return the members of an object without its checksum, which is checked where there is one.

    Raises:
        InputError: the checksum does not fit the members.

    Example:
        >>> open_seal({"a": 1, KEY: "0" * 64}, where=Path("a.json"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: a.json: is damaged (its checksum does not fit its members)
    """
    members = {name: value for name, value in values.items() if name != KEY}
    try:
        fits = KEY not in values or values[KEY] == hash_json(members)
    except ValueError:
        fits = False
    if not fits:
        problem = "is damaged (its checksum does not fit its members)"
        raise InputError(problem, where=where, mend=mend)
    return members


def _read_header(stream: BinaryIO) -> bytes | None:
    first = stream.read(8)
    length = int.from_bytes(first, "little")
    left = os.fstat(stream.fileno()).st_size - 8
    if len(first) < 8 or length > min(left, _LONGEST_HEADER):
        return None
    return stream.read(length)


def _sort_metadata(header: bytes) -> bytes:
    values = json.loads(header)
    values["__metadata__"] = dict(sorted(values["__metadata__"].items()))
    plain = json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode()
    return plain.ljust(len(header)) if len(plain) <= len(header) else header


def _hash_bytes(stream: BinaryIO, header: bytes) -> str:
    """Hash a file whose header, digest zeroed, is given; the stream stands behind the header."""
    digest = hashlib.sha256(len(header).to_bytes(8, "little"))
    digest.update(header)
    while chunk := stream.read(_CHUNK):
        digest.update(chunk)
    return digest.hexdigest()
