"""Methods and data sets of a user's own, out of one file, compared with all others.

A plugin is a Python file that the user names on the command line; it is executed. Whatever it
holds at its top level of the types `HeadKind`, `Recipe`, `Method` and `DatasetInfo` is added under
its name. A head needs no `Method` of its own: it is compared on the native encoder.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any, cast

from fieldmark.benchmarks.jobs import NATIVE
from fieldmark.benchmarks.methods import METHODS, Method
from fieldmark.core.errors import InputError, UsageError
from fieldmark.core.user_files import run_user_file
from fieldmark.data.datasets import add_dataset
from fieldmark.data.datasets.info import DatasetInfo
from fieldmark.methods.head import HeadKind
from fieldmark.methods.heads import HEADS
from fieldmark.methods.recipe import Recipe
from fieldmark.methods.recipes import RECIPES

# Digest of each plugin that was loaded: what it computes may change with the file.
LOADED: dict[str, str] = {}


def load_plugin(path: Path) -> tuple[str, ...]:
    """Execute a user's file and add what it holds to the registries of this process.

    Args:
        path: a Python file that the user trusts.

    Returns:
        The names of the methods that it adds.

    Raises:
        InputError: it cannot be read or fails, or holds nothing of the known types.
        UsageError: a name in it is taken.
    """
    held, digest = run_user_file(path)
    mine = {id(value): value for name, value in held.items() if not name.startswith("_")}
    for info in _choose(mine.values(), DatasetInfo):
        add_dataset(info)
    _add(HEADS, _choose(mine.values(), HeadKind), path=path)
    _add(RECIPES, _choose(mine.values(), Recipe), path=path)
    named = [*_choose(mine.values(), Method)]
    read = {method.head for method in named}
    heads = [kind.name for kind in _choose(mine.values(), HeadKind) if kind.name not in read]
    methods = [*named, *(Method(name, NATIVE, name) for name in heads)]
    _add(METHODS, methods, path=path)
    if not any(isinstance(v, HeadKind | Recipe | Method | DatasetInfo) for v in mine.values()):
        raise InputError(
            "holds no HeadKind, Recipe, Method or DatasetInfo",
            where=path,
            mend="docs/howto/bench.md shows one",
        )
    LOADED[path.name] = digest
    return tuple(method.name for method in methods)


def _choose(values: Any, kind: type[Any]) -> Iterator[Any]:
    return (value for value in values if isinstance(value, kind))


def _add(table: Any, found: Any, *, path: Path) -> None:
    registry = cast("MutableMapping[str, Any]", table)
    for value in found:
        if registry.get(value.name) not in (None, value):
            raise UsageError(f"the name {value.name!r} is taken", where=path, mend="choose another")
        registry[value.name] = value
