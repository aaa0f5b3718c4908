"""Every reader that is fuzzed, by name."""

from __future__ import annotations

from tests.fuzz import binary, external, kept, lists, objects, pages, pictures, runs, tables, words
from tests.fuzz.run import Reader

PARTS = (pictures, tables, lists, external, objects, pages, binary, kept, runs, words)


def list_readers() -> dict[str, Reader]:
    """Return the readers by name."""
    return {reader.name: reader for part in PARTS for reader in part.list_readers()}


def list_long_readers() -> dict[str, Reader]:
    """Return those that only the long run feeds.

    They load libraries that take seconds, and a crash in native code would end the whole suite.
    """
    from tests.fuzz import encoders

    parts = (external.list_long_readers(), runs.list_long_readers(), words.list_long_readers())
    readers = [reader for part in (*parts, encoders.list_readers()) for reader in part]
    return {reader.name: reader for reader in readers}
