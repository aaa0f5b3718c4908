"""Data sets by name: what each is, how it is built, what is missing."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from fieldmark.core.atomic import hash_json
from fieldmark.core.errors import TableError, UsageError
from fieldmark.core.registry import look_up


@dataclass(frozen=True, kw_only=True)
class DatasetInfo:
    """One data set.

    Attributes:
        name: what users call it.
        summary: what it is, in a line.
        licence: of its images.
        citation: what to cite.
        builder: module and function that build it.
        options: what the builder can be told, with the defaults.
        choices: the values of an option that has few.
    """

    name: str
    summary: str
    licence: str
    citation: str
    builder: tuple[str, str]
    options: Mapping[str, Any]
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


DATASETS: Mapping[str, DatasetInfo] = {
    "stamps": DatasetInfo(
        name="stamps",
        summary="cut-out photographs of animals and things on real landscapes, land or water",
        licence="as its Debian packages say: GPL-2, CC-BY, CC-BY-SA, CC0 (see card.json)",
        citation="Tux Paint stamps, MATE, Lomiri, KDE Plasma and GCompris, from Debian",
        builder=("fieldmark.data.datasets.stamps", "build_stamps"),
        options={
            "task": "birds-mammals",
            "correlation": 1.0,
            "seed": 0,
            "size": 224,
            "per_class": 200,
            "per_group": 100,
        },
        choices={"task": ("birds-mammals", "waterbirds", "plants-artefacts")},
    ),
    "synthetic": DatasetInfo(
        name="synthetic",
        summary="drawn fish and beetles on drawn land and water, exact masks, any size",
        licence="CC0-1.0",
        citation="fieldmark",
        builder=("fieldmark.data.datasets.synthetic", "build_synthetic"),
        options={
            "correlation": 1.0,
            "seed": 0,
            "size": 224,
            "n_objects": 40,
            "n_scenes": 12,
            "per_class": 200,
            "per_group": 100,
        },
    ),
}


def find_dataset(name: str) -> DatasetInfo:
    """Return a data set by its name.

    Raises:
        UnknownNameError: there is none; the message lists those there are.

    Example:
        >>> find_dataset("synthetic").licence
        'CC0-1.0'
    """
    return look_up(DATASETS, name, kind="data set")


def build_dataset(name: str, out: Path, *, options: Mapping[str, Any]) -> Path:
    """Build a data set into `out`.

    Args:
        name: a key of `DATASETS`.
        out: the folder; must not exist or be empty.
        options: what to change of the data set's own options.

    Raises:
        UsageError: an option that it does not have; the known ones are listed.
        FetchError: what it is made of cannot be had.
    """
    info = find_dataset(name)
    for key in options:
        if key not in info.options:
            known = ", ".join(info.options)
            raise UsageError(f"{name} has no option {key!r}", mend=f"known: {known}")
    module, function = info.builder
    build: Callable[..., Path] = getattr(importlib.import_module(module), function)
    return build(out, **{**info.options, **options})


def find_recipe(name: str) -> str:
    """Return a short digest of the files that say how a data set is built, to key a cache by.

    Example:
        >>> find_recipe("stamps") == find_recipe("synthetic")
        False
    """
    module, _ = find_dataset(name).builder
    own = module.rpartition(".")[2]
    folder = resources.files(__package__)
    parts = [folder / f"{stem}" for stem in (f"{own}.py", f"{own}.csv", "composites.py")]
    digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in parts if p.is_file()]
    return hash_json(digests)[:12]


def check_dataset(root: Path, *, name: str = "") -> list[str]:
    """Return what is missing or off in a built folder, in a line each; nothing if it is whole.

    Args:
        root: the folder.
        name: the data set that it should be; any if empty.
    """
    from fieldmark.data.backgrounds import read_backgrounds
    from fieldmark.data.foregrounds import read_foregrounds
    from fieldmark.data.tables import read_table

    found = [
        f"{root / name} is missing"
        for name in (
            "metadata.csv",
            "card.json",
            "foregrounds/foregrounds.csv",
            "backgrounds/backgrounds.csv",
        )
        if not (root / name).is_file()
    ]
    if found:
        return found
    card = json.loads((root / "card.json").read_text(encoding="utf-8"))
    if name and card.get("name") != name:
        found.append(f"{root / 'card.json'} says that this is {card.get('name')!r}")
    readers: tuple[Callable[[Path], Any], ...] = (read_table, read_foregrounds, read_backgrounds)
    for read, place in zip(
        readers, (root, root / "foregrounds", root / "backgrounds"), strict=True
    ):
        try:
            read(place)
        except TableError as error:
            found.append(str(error))
    return found
