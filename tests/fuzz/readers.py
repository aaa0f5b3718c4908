"""Every reader that is fuzzed, by name."""

from __future__ import annotations

from tests.fuzz import binary, objects, pages, pictures, tables, words
from tests.fuzz.run import Reader


def list_readers() -> dict[str, Reader]:
    """Return the readers by name."""
    parts = (pictures, tables, objects, pages, binary, words)
    return {reader.name: reader for part in parts for reader in part.list_readers()}
