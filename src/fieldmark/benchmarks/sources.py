"""Find what a user names: a table, a folder, a data set by its name or of another library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldmark.core.errors import UsageError
from fieldmark.core.fetch import cache_dir
from fieldmark.core.registry import look_up
from fieldmark.data.datasets import (
    DATASETS,
    build_dataset,
    find_dataset,
    find_recipe,
    open_dataset,
)
from fieldmark.data.datasets.built import (
    describe_empty_groups,
    find_name,
    find_tests,
    is_built,
    open_built,
    pair_up,
)
from fieldmark.data.datasets.info import DatasetInfo
from fieldmark.data.external import is_external, open_external
from fieldmark.data.tables import ImageTable, read_table
from fieldmark.data.tasks import Task

if TYPE_CHECKING:
    from fieldmark.data.group_dataset import GroupDataset, Source


def open_table(data: str, *, root: Path | None = None) -> ImageTable:
    """Read the images that `--data` names.

    Args:
        data: a CSV or Parquet table, a folder of folders, a folder that `fieldmark data build`
            made, the name of a data set whose files are in `root`, or one of another library:
            `hf-dataset:PATH_OR_NAME[:SPLIT]`, `torchvision:CLASS`, `wds:PATTERN`.
        root: folder that a table's paths, or a named data set's files, lie in.

    Raises:
        UsageError: neither a path nor the name of a data set, or a name without a root.
        TableError: the table is off.
    """
    if is_external(data):
        return open_external(data, root=root)
    path = Path(data)
    if exists(path):
        return read_table(path, root=root)
    return open_task(data, root=root).table


def load_dataset(
    name_or_path: str | Path,
    *,
    root: str | Path | None = None,
    split: str | None = None,
    transform: Callable[[Any], Any] | None = None,
    target_transform: Callable[[Any], Any] | None = None,
    download: bool = False,
    options: Mapping[str, Any] | None = None,
) -> GroupDataset:
    """Return a torch data set of `(image, y, metadata)`, with the names of WILDS and torchvision.

    Args:
        name_or_path: any name of `fieldmark data list`, or a table, a folder or a data set of
            another library, as in `open_table`.
        root: where the files of a named data set, or a table's paths, are.
        split: keep this split only.
        transform: from an upright PIL image to what a row gives.
        target_transform: from the label, an int, to what a row gives.
        download: build the data set, where fieldmark builds it out of packages or draws it: in
            `root` if that is empty, else in the cache. Nothing is made twice.
        options: what to change of a named data set's own options ("task", "correlation").

    Returns:
        The data set. Objects to pre-train on are RGBA cut-outs; the `y` of scenes is their kind.

    Raises:
        UsageError: no such name or path, a name without its files, or options of a path.
        TableError: what is missing or off, or there is no such split.
        FetchError: what it is built of cannot be had.

    Example:
        >>> import tempfile
        >>> small = {"size": 16, "n_objects": 3, "n_scenes": 2, "per_class": 4, "per_group": 1}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = Path(folder) / "s"
        ...     train = load_dataset("synthetic", root=root, split="train", download=True,
        ...                          options=small)
        ...     image, y, metadata = train[0]
        >>> train.metadata_fields, train.metadata_array.shape, image.size
        (['background', 'y'], torch.Size([8, 2]), (16, 16))
    """
    from fieldmark.data.group_dataset import GroupDataset

    data, place = str(name_or_path), None if root is None else Path(root)
    if data in DATASETS and (place is not None or not exists(Path(data))):
        source = _open_named(DATASETS[data], place, download=download, options=options or {})
    else:
        _refuse_options(options or {}, where=data)
        source = open_table(data, root=place)
    dataset = GroupDataset(source, transform=transform, target_transform=target_transform)
    return dataset if split is None else dataset.get_subset(split)


def _open_named(
    info: DatasetInfo, root: Path | None, *, download: bool, options: Mapping[str, Any]
) -> Source:
    if download and (info.layout or info.build is None):
        raise UsageError(
            f"fieldmark downloads no published data, {info.name} neither", mend=_say_how(info)
        )
    if root is None:
        if not download:
            raise UsageError(
                f"data set {info.name!r} needs root=",
                mend=_say_how(info) if info.layout else "or download=True to have it built once",
            )
        root = find_copy(info.name, options=options)
    if download and not (root.is_dir() and any(root.iterdir())):
        build_dataset(info.name, root, options=options)
    # What was built already has its options in it.
    found = open_dataset(info.name, root, options={} if is_built(root) else options)
    return found.table if isinstance(found, Task) else found


def find_copy(name: str, *, options: Mapping[str, Any]) -> Path:
    """Return where in the cache a data set that fieldmark builds is, or would be.

    Example:
        >>> find_copy("synthetic", options={"size": 16}).name.startswith("synthetic-16-")
        True
    """
    words = map(str, (name, *options.values(), find_recipe(name)))
    return cache_dir() / "datasets" / "-".join(words)


def open_task(
    data: str, *, root: Path | None = None, options: Mapping[str, Any] | None = None
) -> Task:
    """Read the task that a data set's name, a built folder or a table stands for.

    Args:
        data: the name of a data set whose files are in `root`, a folder that `fieldmark data build`
            made, a table or folder of folders with a test split, or such a data set of another
            library, as in `open_table`. With a root a name goes before a folder of that name.
        root: where the files of a named data set, or a table's paths, are.
        options: what to change of the data set's own options ("seed", "pair").

    Raises:
        UsageError: neither a path nor the name of a data set, a name without a root, a data set
            with nothing to classify, or an option that it does not have.
        TableError: what is missing or off.
    """
    if is_external(data):
        _refuse_options(options or {}, where=data)
        return _make_task(open_external(data, root=root))
    path = Path(data)
    if exists(path) and (root is None or data not in DATASETS):
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
    _refuse_options(options, where=path)
    if is_built(path):
        return open_built(path)
    return _make_task(read_table(path, root=root))


def _refuse_options(options: Mapping[str, Any], *, where: object) -> None:
    if options:
        raise UsageError(f"it has no option {next(iter(options))!r}", where=where)


def _make_task(table: ImageTable) -> Task:
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


def exists(path: Path) -> bool:
    """Say whether there is such a file; a name that no file system takes is none.

    Example:
        >>> exists(Path("a" * 100_000))
        False
    """
    try:
        return path.exists()
    except OSError:
        return False
