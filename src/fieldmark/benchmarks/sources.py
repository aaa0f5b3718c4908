"""Find what a user names: a table, a folder, or a data set by its name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fieldmark.core.errors import UsageError
from fieldmark.core.registry import look_up
from fieldmark.data.datasets import DATASETS, find_dataset, open_dataset
from fieldmark.data.datasets.built import (
    describe_empty_groups,
    find_name,
    find_tests,
    is_built,
    open_built,
    pair_up,
)
from fieldmark.data.datasets.info import DatasetInfo
from fieldmark.data.tables import ImageTable, read_table
from fieldmark.data.tasks import Task


def open_table(data: str, *, root: Path | None = None) -> ImageTable:
    """Read the images that `--data` names.

    Args:
        data: a CSV or Parquet table, a folder of folders, a folder that `fieldmark data build`
            made, or the name of a data set whose files are in `root`.
        root: folder that a table's paths, or a named data set's files, lie in.

    Raises:
        UsageError: neither a path nor the name of a data set, or a name without a root.
        TableError: the table is off.
    """
    path = Path(data)
    if path.exists():
        return read_table(path, root=root)
    return open_task(data, root=root).table


def open_task(
    data: str, *, root: Path | None = None, options: Mapping[str, Any] | None = None
) -> Task:
    """Read the task that a data set's name, a built folder or a table stands for.

    Args:
        data: the name of a data set whose files are in `root`, a folder that `fieldmark data build`
            made, or a table or folder of folders with a test split. With a root a name goes before
            a folder of that name.
        root: where the files of a named data set, or a table's paths, are.
        options: what to change of the data set's own options ("seed", "pair").

    Raises:
        UsageError: neither a path nor the name of a data set, a name without a root, a data set
            with nothing to classify, or an option that it does not have.
        TableError: what is missing or off.
    """
    path = Path(data)
    if path.exists() and (root is None or data not in DATASETS):
        return _open_path(path, root=root, options=options or {})
    info = look_up(DATASETS, data, kind="path or data set")
    if root is None:
        raise UsageError(f"data set {info.name!r} needs --root", mend=_say_how(info))
    task = open_dataset(info.name, root, options=options)
    if not isinstance(task, Task):
        raise UsageError(
            f"{info.name} holds {info.kind} to pre-train on, no task",
            mend="name a data set of the kind task (`fieldmark data list`)",
        )
    return task


def _open_path(path: Path, *, root: Path | None, options: Mapping[str, Any]) -> Task:
    name = find_name(path)
    if name and find_dataset(name).kind == "task":
        return open_task(name, root=path, options=options)
    if options:
        raise UsageError(f"it has no option {next(iter(options))!r}", where=path)
    if is_built(path):
        return open_built(path)
    table = read_table(path, root=root)
    tests = find_tests(table)
    return Task(
        name=table.name,
        table=table,
        tests=tests,
        class_words=table.classes,
        reject=pair_up([f"{name} background" for name in table.attribute_names]),
        accept=pair_up(table.classes),
        notes=describe_empty_groups(table, tests),
    )


def _say_how(info: DatasetInfo) -> str:
    if info.layout:
        return f"`fieldmark data info {info.name}` shows what is expected there"
    return f"`fieldmark data build {info.name} --out DIR` makes one"
