"""Read back the JSON files that a run left, for its page and for the verbs that go on from it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import UndefinedError

from fieldmark.core.errors import InputError
from fieldmark.core.json_text import parse_json
from fieldmark.core.sealed import open_seal

# What a page runs into where a record holds another kind of value than the verb writes.
_UNFIT = (
    KeyError,
    IndexError,
    TypeError,
    ValueError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    OSError,
    UndefinedError,
)


@contextlib.contextmanager
def refusing_damage(path: Path, *, mend: str) -> Iterator[None]:
    """Turn what a damaged record makes a page run into to one line that names the record.

    Args:
        path: the record.
        mend: what to do about it.

    Raises:
        InputError: the block raised an error that a value of another kind raises.

    Example:
        >>> with refusing_damage(Path("a.json"), mend="run it again"):
        ...     {}["images"]
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: a.json: is damaged (KeyError: 'images'); run it again
    """
    try:
        yield
    except _UNFIT as error:
        reason = f"{type(error).__name__}: {str(error)[:200]}"
        raise InputError(f"is damaged ({reason})", where=path, mend=mend) from error


def load_object(path: Path, *, mend: str) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Args:
        path: the file.
        mend: what to do where it is damaged.

    Raises:
        InputError: it cannot be read, or holds no object.
    """
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"cannot be read as JSON ({error})", where=path, mend=mend) from error
    if not isinstance(values, dict):
        raise InputError("is no JSON object", where=path, mend=mend)
    return values


def load_record(folder: Path, *, name: str, schema: int, mend: str) -> dict[str, Any]:
    """Return a run's own record.

    Args:
        folder: of the run.
        name: of the file.
        schema: the one that this version reads.
        mend: what to do where it is missing or damaged.

    Raises:
        InputError: it is missing, damaged or of another schema.

    Example:
        >>> load_record(Path("nowhere"), name="a.json", schema=1, mend="run it again")
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: nowhere: holds no a.json; run it again
    """
    path = folder / name
    if not path.is_file():
        raise InputError(f"holds no {name}", where=folder, mend=mend)
    values = open_seal(load_object(path, mend=mend), where=path, mend=mend)
    if values.get("schema") != schema:
        problem = f"has schema {values.get('schema')!r}, this fieldmark reads {schema}"
        raise InputError(problem, where=path, mend=mend)
    return values
