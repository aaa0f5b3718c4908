"""`gcompris`: real photographs as they were taken, from a Debian package, without root.

`gcompris.csv` lists every photograph of the package GCompris that is one: no drawing, painting,
cut-out or detail of another, and one of those that show the same picture in two sizes. Its label,
a finer name and what lies around the subject were chosen by eye; a monument has its own name, so
that several photographs of one are one object. Nothing is composed and nothing is balanced:
surroundings go with classes as they do in the world.
"""

from __future__ import annotations

import csv
import functools
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from fieldmark.core.errors import FetchError, ImageError, UsageError
from fieldmark.core.fetch import fetch_debian, read_manifest
from fieldmark.core.registry import look_up
from fieldmark.core.seeds import generator
from fieldmark.data.datasets.built import (
    building,
    check_built,
    count_groups,
    open_built,
    write_rows,
)
from fieldmark.data.datasets.info import DatasetInfo
from fieldmark.data.datasets.rcc import ResourceFile
from fieldmark.data.tables import read_table
from fieldmark.data.tasks import Task

PACKAGE = "gcompris-qt-data"
SPLITS = ("val", "test")
COLUMNS = ("id", "path", "label", "attribute", "split", "object", "name")
_ANIMALS = ("bird", "mammal", "fish", "reptile", "invertebrate")
_THINGS = ("tool", "household object", "solar device", "musical instrument")
_BUILDINGS = ("monument", "windmill", "other building")
_OTHERS = ("musicians", "landscape")

# Name of a task -> name of a class -> what `gcompris.csv` calls its members.
TASKS: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "kinds": {
        name: (name,)
        for name in ("mammal", "fish", "monument", "windmill", "tool", "household object")
    },
    "coarse": {"animal": _ANIMALS, "building": _BUILDINGS, "object": _THINGS},
    "animals": {"bird": ("bird",), "mammal": ("mammal",), "fish": ("fish",)},
    "all": {name: (name,) for name in (*_ANIMALS, *_BUILDINGS, *_THINGS, *_OTHERS)},
}


@dataclass(frozen=True)
class Photograph:
    """A row of `gcompris.csv`.

    Attributes:
        file: path of a resource file in the package, `!`, and the path inside.
        label: what it shows.
        name: the same more finely.
        surroundings: what most of the rest of it shows, "" where that is not plain to see.
    """

    file: str
    label: str
    name: str
    surroundings: str

    @property
    def id(self) -> str:
        """Its activity in GCompris and its file's name, unique in the list."""
        return f"{Path(self.file.partition('!')[0]).stem}-{Path(self.file).stem}"

    @property
    def object(self) -> str:
        """What is shown; only monuments are shown more than once."""
        return self.name if self.label == "monument" else self.id


def build_gcompris(
    out: Path, *, task: str = "kinds", val_share: float = 0.5, seed: int = 0, size: int = 224
) -> Path:
    """Build the data set into `out`; the same arguments give the same bytes.

    Nothing is trained on, so there is no training split: what is found on `val` can be confirmed
    on `test`, which no object is shared with. With a `val_share` of 0 all is in `test`.

    Args:
        out: the folder; must not exist or be empty.
        task: a key of `TASKS`.
        val_share: share of each class's objects in `val`, in [0, 1); the rest is in `test`.
        seed: of the splits.
        size: the shorter side of a photograph is no longer than twice this, in pixels.

    Raises:
        UnknownNameError: there is no such task.
        FetchError: the package cannot be had, or lacks files.
        ImageError: a listed photograph cannot be read.
        UsageError: an argument that cannot be.
        RunExistsError: `out` holds files.
    """
    classes = look_up(TASKS, task, kind="task")
    if not 0 <= val_share < 1 or size < 1:
        raise UsageError(
            f"val_share {val_share:g} is not in [0, 1), or size {size} is below 1",
            mend="give a share below 1, so that something is left to test on, and a size of 1 up",
        )
    labels = {member: name for name, members in classes.items() for member in members}
    chosen = [row for row in read_photographs() if row.label in labels]
    folder = fetch_debian(PACKAGE)
    check_photographs(chosen, folder)
    splits = split_objects(chosen, labels, share=val_share, seed=seed)
    arguments = {"task": task, "val_share": val_share, "seed": seed, "size": size}
    with building(out) as part:
        rows = [
            _write(row, folder, part, label=labels[row.label], split=split, side=2 * size)
            for row, split in zip(chosen, splits, strict=True)
        ]
        write_rows(part / "metadata.csv", COLUMNS, rows)
        card = _write_card(folder, classes=tuple(classes), arguments=arguments)
        card["groups"] = count_groups(read_table(part))
        text = json.dumps(card, indent=2, sort_keys=True) + "\n"
        (part / "card.json").write_text(text, encoding="utf-8")
    return out


def read_photographs() -> list[Photograph]:
    """Return the rows of `gcompris.csv`."""
    text = resources.files(__package__).joinpath("gcompris.csv").read_text(encoding="utf-8")
    return [Photograph(**row) for row in csv.DictReader(io.StringIO(text))]


def check_photographs(photographs: Sequence[Photograph], folder: Path) -> None:
    """Check that every photograph is in the package.

    Args:
        photographs: those to look for.
        folder: where the package lies unpacked.

    Raises:
        FetchError: some are not there; the first few are named.
        InputError: a resource file cannot be read.
    """
    missing = [row.file for row in photographs if not _has(folder, row.file)]
    if missing:
        raise FetchError(
            f"{len(missing)} of {len(photographs)} photographs are not in {PACKAGE}: "
            f"{', '.join(missing[:3])}",
            where="gcompris",
            mend="use Debian 12, whose package the list was made from",
        )


def split_objects(
    photographs: Sequence[Photograph],
    labels: Mapping[str, str],
    *,
    share: float,
    seed: int,
) -> list[str]:
    """Return `val` or `test` for each photograph; those of one object stay together.

    Args:
        photographs: in any order.
        labels: label of a photograph -> its class.
        share: of each class's objects that go to `val`, rounded down.
        seed: of the choice, class by class, so that other classes do not change it.

    Example:
        >>> rows = [Photograph(f"a.rcc!{name}.webp", "fish", name, "") for name in "abcd"]
        >>> sorted(split_objects(rows, {"fish": "animal"}, share=0.5, seed=0))
        ['test', 'test', 'val', 'val']
    """
    kinds = {row.object: labels[row.label] for row in photographs}
    chosen: set[str] = set()
    for kind in sorted(set(kinds.values())):
        names = sorted(name for name, own in kinds.items() if own == kind)
        order = generator(seed, "gcompris", kind).permutation(len(names))
        chosen |= {names[place] for place in order[: int(share * len(names))].tolist()}
    return [SPLITS[row.object not in chosen] for row in photographs]


@functools.lru_cache(maxsize=16)
def _open_resource(path: Path) -> ResourceFile:
    return ResourceFile(path)


def _has(folder: Path, file: str) -> bool:
    place, _, inside = file.partition("!")
    path = folder / place
    return path.is_file() and inside in _open_resource(path).names()


def _read(row: Photograph, folder: Path) -> Image.Image:
    place, _, inside = row.file.partition("!")
    try:
        with Image.open(io.BytesIO(_open_resource(folder / place).read(inside))) as image:
            return image.convert("RGB")
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise ImageError(
            f"{inside} cannot be read as an image ({error})",
            where=folder / place,
            mend=f"remove {folder} and build again, so that it is fetched anew",
        ) from error


def _write(
    row: Photograph, folder: Path, out: Path, *, label: str, split: str, side: int
) -> tuple[str, ...]:
    """Write a photograph whole, its shorter side `side` pixels at most, and return its row."""
    image = _read(row, folder)
    factor = side / min(image.size)
    if factor < 1:
        width, height = (max(1, round(length * factor)) for length in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    path = f"images/{split}/{row.id}.png"
    (out / path).parent.mkdir(parents=True, exist_ok=True)
    image.save(out / path, compress_level=1)
    return (row.id, path, label, row.surroundings, split, row.object, row.name)


def _write_card(
    folder: Path, *, classes: tuple[str, ...], arguments: Mapping[str, Any]
) -> dict[str, Any]:
    # Surroundings are what discovery may find; which go with which is not known beforehand.
    return {
        "name": "gcompris",
        **arguments,
        "classes": list(classes),
        "licences": [
            f"{PACKAGE}: GPL-3 or later; photographs CC-BY, CC-BY-SA, CC0, GFDL, Free Art or "
            "public domain, file by file in the package's copyright file",
        ],
        "citation": "GCompris (KDE), from Debian",
        "sources": [read_manifest(folder)],
    }


def open_gcompris(root: Path) -> Task:
    """Read a built folder; the task's name says which question it asks.

    Raises:
        TableError: a file is missing or off.
    """
    task = open_built(root)
    name = f"gcompris/{task.card.get('task', '')}".rstrip("/")
    return replace(task, name=name, table=replace(task.table, name=name))


def check_gcompris(root: Path) -> list[str]:
    """Return what is missing or off in a built folder, in a line each.

    Photographs as they were taken lack most groups (no fish on grass), which is not off.
    """
    lines = check_built(root, name="gcompris", pools=())
    return [line for line in lines if " has no image of " not in line]


INFO = DatasetInfo(
    name="gcompris",
    summary="272 real photographs of animals, buildings and things, with their surroundings",
    licence="photographs CC-BY, CC-BY-SA, CC0, GFDL, Free Art, public domain, as card.json says",
    citation="GCompris (KDE), from Debian",
    open=open_gcompris,
    build=build_gcompris,
    check=check_gcompris,
    options={"task": "kinds", "val_share": 0.5, "seed": 0, "size": 224},
    choices={"task": tuple(TASKS)},
)
