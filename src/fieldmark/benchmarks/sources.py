"""Find the images that a user names: a table, a folder, or a data set by its name."""

from __future__ import annotations

from pathlib import Path

from fieldmark.core.errors import UsageError
from fieldmark.core.registry import look_up
from fieldmark.data.datasets import DATASETS
from fieldmark.data.tables import ImageTable, read_table


def open_table(data: str, *, root: Path | None = None) -> ImageTable:
    """Read the images that `--data` names.

    Args:
        data: a CSV or Parquet table, a folder of folders, a folder that `fieldmark data build`
            made, or the name of a data set whose built folder is `root`.
        root: folder that a table's paths, or a named data set's files, lie in.

    Raises:
        UsageError: neither a path nor the name of a data set, or a name without a root.
        TableError: the table is off.
    """
    path = Path(data)
    if path.exists():
        return read_table(path, root=root)
    info = look_up(DATASETS, data, kind="path or data set")
    if root is None:
        raise UsageError(
            f"data set {info.name!r} needs --root",
            mend=f"`fieldmark data build {info.name} --out DIR` makes one",
        )
    return read_table(root)
