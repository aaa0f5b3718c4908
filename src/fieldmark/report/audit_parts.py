"""Read what an audit leaves for its page: `OUT/audit.json` and the pictures that it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from fieldmark.core.errors import InputError
from fieldmark.report.audit_contract import AuditParts
from fieldmark.report.audit_texts import clean
from fieldmark.report.stored import load_record

RECORD, SCHEMA = "audit.json", 1
MEND = "run `fieldmark audit` again"


def read_audit(out: Path) -> AuditParts:
    """Read and check the record of a finished audit.

    Args:
        out: the run's directory; it holds `audit.json` and the pictures that this names.

    Raises:
        InputError: the record is missing, damaged, of another schema or not to the contract, speaks
            of an encoder that it does not list, or names a file outside of the directory.

    Example:
        >>> read_audit(Path("nowhere"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: nowhere: holds no audit.json; run `fieldmark audit` again
    """
    values = load_record(out, name=RECORD, schema=SCHEMA, mend=MEND)
    try:
        parts = AuditParts.model_validate({**values, "folder": out})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise InputError(f"{place}: {first['msg']}", where=out / RECORD, mend=MEND) from error
    for problem in _list_problems(parts, values=values):
        raise InputError(problem, where=out / RECORD, mend=MEND)
    return parts


def _list_problems(parts: AuditParts, *, values: Mapping[str, Any]) -> Iterator[str]:
    count = len(parts.encoders)
    for place, one in _walk(values):
        encoder = one.get("encoder", 0)
        if isinstance(encoder, int) and encoder >= count:
            yield f"{place}: speaks of encoder {encoder}, but lists {count}"
        for key in ("src", "page"):
            path = one.get(key)
            if isinstance(path, str) and path and not _is_inside(parts.folder, path):
                yield f"{place}: names a file outside of the directory ({clean(path)})"
    told = {one.encoder for one in parts.verdict}
    for encoder in range(count):
        if encoder not in told:
            yield f"verdict: has none for encoder {encoder}"
    known = {one.id for one in parts.findings}
    for kind, ids in parts.changes or ():
        for missing in sorted(set(ids) - known):
            yield f"changes.{kind}: no finding is called {missing}"


def _walk(value: Any, place: str = "audit") -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(value, dict):
        yield place, value
        for key, one in value.items():
            yield from _walk(one, f"{place}.{key}")
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from _walk(one, f"{place}.{index}")


def _is_inside(folder: Path, path: str) -> bool:
    try:
        return (folder / path).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):
        return False
