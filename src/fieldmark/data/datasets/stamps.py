"""`stamps`: real cut-outs on real landscapes, from Debian packages, without root.

Cut-outs come from Tux Paint, scenes from the wallpapers of MATE, Lomiri and KDE Plasma and from
GCompris, natural photographs of animals from GCompris. `stamps.csv` lists every file that is used
and what it shows, chosen and labelled by eye; files that a package no longer has are an error that
names them. A scene is land, water, or `other`, which stands behind objects in training alone.

A photograph named for its water may show a deck in its lower half, so the list says of each scene
in which region of it land or water is what one sees: left, top, right and bottom in hundredths of
its sides, then how many rows of square crops that do not overlap are cut from there. An `other`
scene has no region and is cut as in `CROPS`.
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fieldmark.core.errors import FetchError
from fieldmark.core.fetch import fetch_debian, read_manifest
from fieldmark.core.registry import look_up
from fieldmark.data.datasets.built import check_built, open_built
from fieldmark.data.datasets.composites import Cutout, Recipe, Scene, build_composites
from fieldmark.data.datasets.info import DatasetInfo
from fieldmark.data.datasets.rcc import ResourceFile
from fieldmark.data.foregrounds import extend_colours
from fieldmark.data.images import read_cutout, read_image
from fieldmark.data.masks import find_box
from fieldmark.data.tasks import Task

ATTRIBUTES = ("land", "water")
NATURAL = "test_natural"
# A wide photograph must not make up the whole pool.
MOST_CROPS = 6
# Crops of an `other` scene as shares of its height and of what is left beside them: lower left,
# lower right, and the whole height in the middle.
CROPS = ((0.75, 0.0), (0.75, 1.0), (1.0, 0.5))


@dataclass(frozen=True, kw_only=True)
class Question:
    """What cut-outs can be asked: which of them make up a class.

    Attributes:
        classes: name of a class -> what `stamps.csv` calls its members. The first class is usually
            on land, the second on water.
    """

    classes: Mapping[str, tuple[str, ...]]


TASKS: Mapping[str, Question] = {
    "birds-mammals": Question(classes={"bird": ("land bird", "water bird"), "mammal": ("mammal",)}),
    "waterbirds": Question(classes={"land bird": ("land bird",), "water bird": ("water bird",)}),
    "plants-artefacts": Question(classes={"plant": ("plant",), "artefact": ("artefact",)}),
}


@dataclass(frozen=True)
class _File:
    role: str
    package: str
    file: str
    label: str
    region: str = ""

    @property
    def id(self) -> str:
        """The file's name without what all names share."""
        return self.file.removeprefix("usr/share/").partition("/")[2]


def build_stamps(
    out: Path,
    *,
    task: str = "birds-mammals",
    correlation: float = 1.0,
    seed: int = 0,
    size: int = 224,
    per_class: int = 200,
    per_group: int = 100,
) -> Path:
    """Build the data set into `out`; the same arguments give the same bytes.

    Args:
        out: the folder; must not exist or be empty.
        task: a key of `TASKS`.
        correlation: share of training composites of a class on its usual scenes, in [0.5, 1].
        seed: of splits and composites.
        size: side of the composites in pixels.
        per_class: training composites of a class.
        per_group: composites of a group in each test split.

    Raises:
        UnknownNameError: there is no such task.
        FetchError: a package cannot be had, or lacks files.
        UsageError: an argument that cannot be.
        RunExistsError: `out` holds files.
    """
    classes = look_up(TASKS, task, kind="task").classes
    recipe = Recipe(
        name="stamps",
        task=task,
        classes=tuple(classes),
        attributes=ATTRIBUTES,
        correlation=correlation,
        seed=seed,
        size=size,
        per_class=per_class,
        per_group=per_group,
    )
    labels = {member: name for name, members in classes.items() for member in members}
    files = read_list()
    folders = {package: fetch_debian(package) for package in sorted({f.package for f in files})}
    check_files(files, folders)
    cutouts = [
        Cutout(
            id=file.id,
            label=labels[file.label],
            read=functools.partial(_read_cutout, folders[file.package] / file.file),
        )
        for file in files
        if file.role == "cutout" and file.label in labels
    ]
    photographs = [f for f in files if f.role == "photograph" and f.label in labels]
    return build_composites(
        out,
        recipe,
        cutouts=cutouts,
        scenes=[_open_scene(f, folders) for f in files if f.role == "scene"],
        card=_write_card(folders),
        extra=functools.partial(_write_photographs, photographs, folders, labels, size),
    )


def read_list() -> list[_File]:
    """Return the files of `stamps.csv`."""
    text = resources.files(__package__).joinpath("stamps.csv").read_text(encoding="utf-8")
    return [
        _File(row["role"], row["package"], row["file"], row["label"], row["region"])
        for row in csv.DictReader(io.StringIO(text))
    ]


def check_files(files: Sequence[_File], folders: Mapping[str, Path]) -> None:
    """Check that every listed file is in its package.

    Raises:
        FetchError: some are not; the first few are named.
    """
    missing = []
    for file in files:
        place, _, inside = file.file.partition("!")
        path = folders[file.package] / place
        if not path.is_file() or (inside and inside not in _open_resource(path).names()):
            missing.append(f"{file.package}: {file.file}")
    if missing:
        raise FetchError(
            f"{len(missing)} of {len(files)} files are not in their packages: "
            f"{', '.join(missing[:3])}",
            where="stamps",
            mend="use Debian 12, whose packages the list was made from, or the data set synthetic",
        )


@functools.lru_cache(maxsize=8)
def _open_resource(path: Path) -> ResourceFile:
    return ResourceFile(path)


def _read_cutout(path: Path) -> Image.Image:
    cutout = read_cutout(path)
    cutout = cutout.crop(find_box(np.asarray(cutout.getchannel("A"))))
    filled = extend_colours(cutout)
    filled.putalpha(cutout.getchannel("A"))
    return filled


def _open_photograph(file: _File, folders: Mapping[str, Path]) -> Path | io.BytesIO:
    place, _, inside = file.file.partition("!")
    path = folders[file.package] / place
    return io.BytesIO(_open_resource(path).read(inside)) if inside else path


def _measure(file: _File, folders: Mapping[str, Path]) -> tuple[int, int]:
    with Image.open(_open_photograph(file, folders)) as image:
        return image.size


def _read_photograph(file: _File, folders: Mapping[str, Path]) -> Image.Image:
    source = _open_photograph(file, folders)
    if isinstance(source, Path):
        return read_image(source)
    with Image.open(source) as image:
        return image.convert("RGB")


def _open_scene(file: _File, folders: Mapping[str, Path]) -> Scene:
    # One decoding serves all crops, which are read one after the other.
    read = functools.lru_cache(maxsize=1)(functools.partial(_read_photograph, file, folders))
    if not file.region:
        crops = tuple(functools.partial(_crop, read, share, place) for share, place in CROPS)
        return Scene(id=file.id, kind=file.label, crops=crops)
    *box, rows = map(int, file.region.split())
    boxes = tile_region(_measure(file, folders), box=box, rows=rows)
    return Scene(
        id=file.id,
        kind=file.label,
        crops=tuple(functools.partial(_crop_box, read, box) for box in boxes),
    )


def tile_region(
    sides: tuple[int, int], *, box: Sequence[int], rows: int
) -> tuple[tuple[int, int, int, int], ...]:
    """Lay square crops that do not overlap over a region of a photograph.

    Args:
        sides: width and height of the photograph in pixels.
        box: left, top, right and bottom of the region in hundredths of the sides.
        rows: how many crops stand above each other.

    Returns:
        Left, top, right and bottom of each crop in pixels; at most `MOST_CROPS`, evenly chosen.

    Example:
        >>> tile_region((300, 200), box=(0, 50, 100, 100), rows=1)
        ((0, 100, 100, 200), (100, 100, 200, 200), (200, 100, 300, 200))
    """
    left, top, right, bottom = (
        share * sides[number % 2] // 100 for number, share in enumerate(box)
    )
    side = min((bottom - top) // rows, right - left)
    columns = (right - left) // side
    gap = (right - left - columns * side) // max(1, columns - 1)
    start = left + (right - left - columns * side - gap * (columns - 1)) // 2
    tiles = [
        (x, y, x + side, y + side)
        for y in (top + row * side for row in range(rows))
        for x in (start + column * (side + gap) for column in range(columns))
    ]
    count = min(len(tiles), MOST_CROPS)
    return tuple(tiles[number * len(tiles) // count] for number in range(count))


def _crop_box(read: Any, box: tuple[int, int, int, int]) -> Image.Image:
    image: Image.Image = read()
    return image.crop(box)


def _crop(read: Any, share: float, place: float) -> Image.Image:
    image: Image.Image = read()
    side = round(share * min(image.size))
    left = round(place * (image.width - side))
    return image.crop((left, image.height - side, left + side, image.height))


def _write_photographs(
    files: Sequence[_File],
    folders: Mapping[str, Path],
    labels: Mapping[str, str],
    size: int,
    folder: Path,
) -> list[dict[str, str]]:
    """Write natural photographs whole, their shorter side no longer than twice the composites'."""
    rows = []
    for file in files:
        name = f"{NATURAL}/{Path(file.file).parent.parent.name}-{Path(file.file).stem}"
        path = folder / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = _read_photograph(file, folders)
        factor = 2 * size / min(image.size)
        if factor < 1:
            sides = (round(side * factor) for side in image.size)
            image = image.resize((next(sides), next(sides)), Image.Resampling.LANCZOS)
        image.save(path, compress_level=1)
        rows.append(
            {
                "id": name,
                "path": f"images/{name}.png",
                "label": labels[file.label],
                "attribute": "",
                "split": NATURAL,
                "mask": "",
                "object": file.id,
                "scene": file.id,
            }
        )
    return rows


def _write_card(folders: Mapping[str, Path]) -> dict[str, Any]:
    return {
        "licences": [
            "tuxpaint-stamps-default: GPL-2",
            "mate-backgrounds: GPL-2 or later, some CC-BY-SA-4.0",
            "lomiri-wallpapers: CC-BY-4.0, CC-BY-SA-3.0, CC-BY-SA-4.0, CC0, file by file",
            "plasma-workspace-wallpapers: LGPL-3 or CC-BY-SA-4.0, file by file",
            "gcompris-qt-data: GPL-3 or later, photographs CC-BY, CC-BY-SA, public domain",
        ],
        "citation": "Tux Paint stamps; wallpapers of MATE, Lomiri, KDE Plasma; GCompris; by Debian",
        "sources": [read_manifest(folder) for folder in folders.values()],
    }


def open_stamps(root: Path) -> Task:
    """Read a built folder; the task's name says which question it asks.

    Raises:
        TableError: a file is missing or off.
    """
    task = open_built(root)
    name = f"stamps/{task.card.get('task', '')}".rstrip("/")
    return replace(task, name=name, table=replace(task.table, name=name))


def check_stamps(root: Path) -> list[str]:
    """Return what is missing or off in a built folder, in a line each."""
    return check_built(root, name="stamps")


INFO = DatasetInfo(
    name="stamps",
    summary="cut-out photographs of animals and things on real landscapes, land or water",
    licence="as its Debian packages say: GPL-2, CC-BY, CC-BY-SA, CC0 (see card.json)",
    citation="Tux Paint stamps, MATE, Lomiri, KDE Plasma and GCompris, from Debian",
    open=open_stamps,
    build=build_stamps,
    check=check_stamps,
    options={
        "task": "birds-mammals",
        "correlation": 1.0,
        "seed": 0,
        "size": 224,
        "per_class": 200,
        "per_group": 100,
    },
    choices={"task": tuple(TASKS)},
)
