"""Data sets by name. A new one is a file with an `INFO` in it and a line in `_MODULES`."""

from __future__ import annotations

import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fieldmark.core.atomic import hash_json
from fieldmark.core.errors import FieldmarkError, UsageError
from fieldmark.core.registry import look_up

if TYPE_CHECKING:
    from fieldmark.data.backgrounds import Backgrounds
    from fieldmark.data.datasets.info import DatasetInfo
    from fieldmark.data.foregrounds import Foregrounds
    from fieldmark.data.tasks import Task

_MODULES: Mapping[str, str] = {
    "stamps": "stamps",
    "gcompris": "gcompris",
    "synthetic": "synthetic",
    "waterbirds": "waterbirds",
    "coco-gender": "coco_gender",
    "counteranimal": "counteranimal",
    "nico++": "nico",
    "metashift": "metashift",
    "celeba": "celeba",
    "cub": "cub",
    "coco": "coco",
    "imagenet-s": "imagenet_s",
    "places365": "places365",
    "dtd": "dtd",
}


class _Datasets(Mapping[str, "DatasetInfo"]):
    """Data sets by name, imported when asked for, so that a broken one hides no other."""

    def __init__(self) -> None:
        self.added: dict[str, DatasetInfo] = {}

    def __getitem__(self, name: str) -> DatasetInfo:
        if name in self.added:
            return self.added[name]
        module = f"{__name__}.{_MODULES[name]}"
        try:
            info: DatasetInfo = importlib.import_module(module).INFO
        except (ImportError, AttributeError, SyntaxError) as error:
            raise FieldmarkError(
                f"data set {name!r} cannot be loaded: {error}", where=module, mend="mend that file"
            ) from error
        return info

    def __iter__(self) -> Iterator[str]:
        return iter((*_MODULES, *self.added))

    def __len__(self) -> int:
        return len(_MODULES) + len(self.added)

    def __contains__(self, name: object) -> bool:
        return name in _MODULES or name in self.added


_KNOWN = _Datasets()
DATASETS: Mapping[str, DatasetInfo] = _KNOWN


def add_dataset(info: DatasetInfo) -> None:
    """Add a data set of a user's own for this process.

    Raises:
        UsageError: its name is taken.
    """
    if info.name in _KNOWN and _KNOWN.added.get(info.name) is not info:
        raise UsageError(f"the name {info.name!r} is taken", mend="choose another")
    _KNOWN.added[info.name] = info


def find_dataset(name: str) -> DatasetInfo:
    """Return a data set by its name.

    Raises:
        UnknownNameError: there is none; the message lists those there are.

    Example:
        >>> find_dataset("synthetic").licence
        'CC0-1.0'
    """
    return look_up(DATASETS, name, kind="data set")


def open_dataset(
    name: str, root: Path, *, options: Mapping[str, Any] | None = None
) -> Task | Foregrounds | Backgrounds:
    """Read a data set where it is.

    Args:
        name: a key of `DATASETS`.
        root: where its files are.
        options: what to change of its own options.

    Raises:
        UsageError: an option that it does not have; the known ones are listed.
        TableError: what is missing or off.
    """
    info = find_dataset(name)
    return info.open(root, **_choose_options(info, info.open, options or {}))


def build_dataset(
    name: str,
    out: Path,
    *,
    options: Mapping[str, Any],
    root: Path | None = None,
    build: Callable[..., Path] | None = None,
) -> Path:
    """Build a data set into `out`.

    Args:
        name: a key of `DATASETS`.
        out: the folder; must not exist or be empty.
        options: what to change of the data set's own options.
        root: where the files are that it is made of, where it is made of files.
        build: what builds it, in place of its own builder.

    Raises:
        UsageError: nothing of it is built, a root too few or too many, or an option that it does
            not have; the known ones are listed.
        FetchError: what it is made of cannot be had.
    """
    info = find_dataset(name)
    builder = build or info.build
    if builder is None:
        raise UsageError(
            f"{name} is used as it is published, nothing is built",
            mend=f"give its folder with --root (`fieldmark data info {name}` shows the layout)",
        )
    chosen = _choose_options(info, builder, options)
    roots = inspect.signature(builder).parameters.get("root")
    if root is not None and roots is None:
        raise UsageError(
            f"{name} is not built out of one folder", mend="leave --root out, name folders by --set"
        )
    if root is None and roots is not None and roots.default is inspect.Parameter.empty:
        raise UsageError(f"{name} needs --root", mend=f"see `fieldmark data info {name}`")
    return builder(out, **chosen) if root is None else builder(out, root=root, **chosen)


def _choose_options(
    info: DatasetInfo, function: Callable[..., Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Check options against what a function takes; a path may be given as a string."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    parameters = [p for p in parameters if p.name != "root"]
    kinds = {p.name: str(p.annotation) for p in parameters}
    for key, value in options.items():
        if key not in kinds:
            raise UsageError(
                f"{info.name} has no option {key!r}", mend=f"known: {', '.join(kinds) or 'none'}"
            )
        choices = info.choices.get(key, ())
        if choices and isinstance(value, str) and value not in choices:
            raise UsageError(f"{key} {value!r} is none of {', '.join(choices)}")
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise UsageError(f"{info.name} needs --set {parameter.name}=...")
    return {
        key: Path(value) if isinstance(value, str) and "Path" in kinds[key] else value
        for key, value in options.items()
    }


def find_recipe(name: str) -> str:
    """Return a short digest of the files that say how a data set is built, to key a cache by.

    Example:
        >>> find_recipe("stamps") == find_recipe("synthetic")
        False
    """
    own = look_up(_MODULES, name, kind="data set")
    folder = resources.files(__package__)
    parts = [
        folder / f"{stem}"
        for stem in (f"{own}.py", f"{own}_build.py", f"{own}.csv", "composites.py")
    ]
    digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in parts if p.is_file()]
    return hash_json(digests)[:12]


def check_dataset(
    root: Path, *, name: str = "", options: Mapping[str, Any] | None = None
) -> list[str]:
    """Return what is missing or off in a data set, in a line each; nothing if it is whole.

    Args:
        root: the folder of the published data, or one that was built.
        name: the data set that it should be; a built folder says itself what it is.
        options: what to change of its own options.

    Raises:
        UsageError: an option that it does not have; the known ones are listed.
    """
    from fieldmark.data.datasets.built import check_built, find_name

    name = name or find_name(root)
    if not name:
        return check_built(root)
    info = find_dataset(name)
    return info.check(root, **_choose_options(info, info.check, options or {}))
