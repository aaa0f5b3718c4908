"""Write files whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from fieldmark.core.errors import FieldmarkError

# What to do where a file cannot be written: one of a run, or one of a cache.
MEND_OUT = "free some space or choose another --out"
MEND_CACHE = "free some space or set FIELDMARK_CACHE to another folder"


@contextlib.contextmanager
def replacing(path: Path, *, mend: str = MEND_OUT) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place when the block ends well.

    The temporary file carries the suffix of `path`, is flushed to disk before the rename, and is
    removed when the block raises, so `path` is either what it was or the whole new file.

    Args:
        path: of the file.
        mend: what the error says to do.

    Raises:
        FieldmarkError: the file cannot be written (a full disk, no permission).

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(Path(folder) / "a.txt") as part:
        ...         _ = part.write_text("whole")
        ...     (Path(folder) / "a.txt").read_text()
        'whole'
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".part-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise _unwritable(path, error, mend) from error
    part = Path(name)
    try:
        yield part
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    except (OSError, SafetensorError) as error:
        raise _unwritable(path, error, mend) from error
    finally:
        part.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _unwritable(path: Path, error: Exception, mend: str) -> FieldmarkError:
    reason = getattr(error, "strerror", None) or str(error)
    return FieldmarkError(f"cannot be written ({reason})", where=path, mend=mend)


def drop_parts(folder: Path) -> None:
    """Remove the temporary files that a killed process left in a folder and below.

    Nothing else may be writing there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / ".part-x.txt").touch()
        ...     drop_parts(Path(folder))
        ...     list(Path(folder).iterdir())
        []
    """
    for part in sorted(folder.rglob(".part-*"), reverse=True):
        with contextlib.suppress(OSError):
            shutil.rmtree(part) if part.is_dir() else part.unlink()


def write_text(path: Path, text: str, *, mend: str = MEND_OUT) -> None:
    """Write UTF-8 `text` to `path`, whole or not at all."""
    with replacing(path, mend=mend) as part:
        part.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any, *, mend: str = MEND_OUT) -> None:
    """Write `value` as indented strict JSON to `path`, whole or not at all."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    write_text(path, text + "\n", mend=mend)


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def hash_json(value: Any) -> str:
    """Return the SHA-256 of a JSON value, independent of the order of keys.

    Example:
        >>> hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1})
        True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
