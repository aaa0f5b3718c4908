"""Waterbirds: birds of CUB on scenes of Places365 (Sagawa et al., 2020), as published.

The folder `waterbird_complete95_forest2water2/`, the one of WILDS and SubpopBench's table are read
alike. Its training images are on the background of their class in 95 % of cases; the validation
and test images are balanced over backgrounds within each class. At correlation 1.0 the minority
groups are left out of training and validation (BAP 4.1: "no minority-group examples are present in
training or validation"). Other correlations are built, see `waterbirds_build`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fieldmark.core.errors import InputError, TableError, UsageError
from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.columns import Columns, check_unique, read_columns
from fieldmark.data.datasets.built import check_built, describe_empty_groups, is_built, open_built
from fieldmark.data.datasets.cub import (
    CLASSES,
    MISLABELLED,
    find_cub,
    name_species,
    open_cub,
    resolve_all,
)
from fieldmark.data.datasets.info import DatasetInfo
from fieldmark.data.datasets.places365 import open_places365
from fieldmark.data.datasets.waterbirds_build import CITATION, LICENCE, build_waterbirds
from fieldmark.data.foregrounds import Foregrounds
from fieldmark.data.tables import SPLIT_NUMBERS, ImageTable
from fieldmark.data.tasks import Task

PUBLISHED = "waterbird_complete95_forest2water2"
FOLDERS = (PUBLISHED, f"waterbirds/{PUBLISHED}", "waterbirds_v1.0", f"cub/data/{PUBLISHED}")
SUBPOPBENCH = "metadata_waterbirds.csv"
PLACES = ("land", "water")
LABELS = ("official", "fixed")
SCENES: Mapping[str, str] = {"disjoint": "pretraining", "paper": "pretraining-paper"}
CORRELATION = 0.95
HELD_OUT = ("val", "test")
# Published images of a group: landbirds on land and on water, then waterbirds.
COUNTS: Mapping[str, tuple[int, int, int, int]] = {
    "train": (3498, 184, 56, 1057),
    "val": (467, 466, 133, 133),
    "test": (2255, 2255, 642, 642),
}


class _Source(NamedTuple):
    """The table and the folder that its paths are below."""

    table: Path
    images: Path


def open_waterbirds(
    root: Path,
    *,
    labels: str = "official",
    correlation: float = CORRELATION,
    cub: Path | None = None,
    places: Path | None = None,
    scenes: str = "disjoint",
    per_category: int = 100,
    seed: int = 0,
) -> Task:
    """Read Waterbirds as a task, with what to pre-train on if CUB and Places365 are at hand.

    No bird of its validation and test images is in the foregrounds (BAP M.3.3), and none of their
    scenes in the backgrounds.

    Args:
        root: the published folder, WILDS' or SubpopBench's, one above it, or a folder that
            `build_waterbirds` wrote (whose labels, correlation and pools are then as built).
        labels: "official", or "fixed": the three landbirds that are waterbirds there put right.
        correlation: 0.95 as published, or 1.0 without the minority groups of train and val.
        cub: folder of CUB-200-2011; by default it is looked for at `root` and beside it.
        places: folder of Places365, looked for in the same way.
        scenes: "disjoint" for 50 categories that Waterbirds has not, "paper" for 50 with "ocean",
            which BAP's Table 16 names.
        per_category: most scenes of a category, 0 for all (some 5,000); the paper does not say.
        seed: of the draw of scenes.

    Raises:
        TableError: the table is missing or off, or images are missing: the first ten and their
            count.
        UsageError: labels, scenes or a correlation that there is not.
    """
    _check_options(labels, correlation, scenes)
    if is_built(root):
        return open_built(root)
    whole = read_waterbirds(root, labels=labels)
    table = drop_minority(whole) if correlation == 1 else whole
    held_out = whole.take(np.flatnonzero(np.isin(whole.splits or (), HELD_OUT)))
    birds, bird_note = _find_birds(root, cub, labels=labels, held_out=held_out)
    pool, pool_note = _find_scenes(
        root, places, scenes=scenes, per_category=per_category, seed=seed, held_out=held_out
    )
    notes = [*describe_empty_groups(table, ("test",)), bird_note, pool_note]
    return Task(
        name="waterbirds",
        table=table,
        foregrounds=birds,
        backgrounds=pool,
        class_words=CLASSES,
        reject=(("land background", "water background"),),
        accept=(CLASSES,),
        correlation=correlation,
        card=_describe(table, labels=labels, correlation=correlation),
        notes=tuple(note for note in notes if note),
    )


def _check_options(labels: str, correlation: float, scenes: str) -> None:
    for what, value, known in (("labels", labels, LABELS), ("scenes", scenes, tuple(SCENES))):
        if value not in known:
            raise UsageError(f"{what} {value!r} is none of {', '.join(known)}")
    if correlation not in (CORRELATION, 1):
        raise UsageError(
            f"Waterbirds is published at correlation {CORRELATION}, not {correlation}",
            mend="use 0.95 or 1.0, or build it anew with `fieldmark data build waterbirds`",
        )


def read_waterbirds(root: Path, *, labels: str = "official") -> ImageTable:
    """Read the whole published table; the columns `objects` and `scenes` are ids of CUB and Places.

    Args:
        root: as in `open_waterbirds`.
        labels: "official" or "fixed".

    Raises:
        TableError: as in `open_waterbirds`.
    """
    source = find_metadata(root)
    columns = read_columns(source.table)
    names = columns.require("img_filename", "filename")
    codes = {"0": 0, "1": 1}
    label = _encode(columns, columns.require("y"), codes, what="class")
    place = _encode(columns, columns.require("place", "a"), codes, what="place")
    splits = {number: int(number) for number in SPLIT_NUMBERS}
    split = _encode(columns, columns.require("split"), splits, what="split")
    if labels == "fixed":
        label[[name_species(name) in MISLABELLED for name in names]] = 0
    scenes = columns.find("place_filename")
    return ImageTable(
        name="waterbirds",
        root=source.images.resolve(),
        ids=check_unique(columns, columns.find("img_id", "id") or names),
        paths=resolve_all(columns, names, root=source.images),
        labels=label,
        classes=CLASSES,
        attributes=place,
        attribute_names=PLACES,
        splits=tuple(SPLIT_NUMBERS[str(code)] for code in split.tolist()),
        objects=tuple(names),
        scenes=None if scenes is None else tuple(name.lstrip("/") for name in scenes),
    )


def find_metadata(root: Path) -> _Source:
    """Find the table and the images.

    WILDS' RELEASE text is not asked for; SubpopBench's table lies above the published folder and
    is read only where that has none of its own, since it lacks the scenes.

    Raises:
        TableError: there is neither table.
    """
    for folder in (root, *(root / name for name in FOLDERS)):
        if (folder / "metadata.csv").is_file():
            return _Source(folder / "metadata.csv", folder)
    for folder in (root, root / "waterbirds", root.parent):
        if (folder / SUBPOPBENCH).is_file():
            below = folder / PUBLISHED
            return _Source(folder / SUBPOPBENCH, below if below.is_dir() else folder)
    raise TableError(
        f"has no metadata.csv, nor has one of {', '.join(FOLDERS)} below it",
        where=root,
        mend=f"unpack {PUBLISHED}.tar.gz there",
    )


def _encode(
    columns: Columns, column: Sequence[str], codes: Mapping[str, int], *, what: str
) -> NDArray[np.int64]:
    wrong = next((i for i, code in enumerate(column) if code not in codes), None)
    if wrong is not None:
        raise TableError(
            f"the {what} code {column[wrong]!r} is none of {', '.join(codes)}",
            where=columns.where(wrong),
            mend="mend the row or unpack Waterbirds again",
        )
    return np.array([codes[code] for code in column], np.int64)


def drop_minority(table: ImageTable) -> ImageTable:
    """Leave out the training and validation images that are not on the background of their class.

    Args:
        table: of Waterbirds, whose attributes are numbered as its classes are.
    """
    tested = np.array(table.splits or ()) == "test"
    return table.take(np.flatnonzero(tested | (table.labels == table.attributes)))


def _find_birds(
    root: Path, cub: Path | None, *, labels: str, held_out: ImageTable
) -> tuple[Foregrounds | None, str]:
    found = cub or find_cub(_list_near(root))
    lack = "no foregrounds to pre-train on"
    if found is None:
        return None, f"{lack}: CUB-200-2011 was not found; give its folder with the option cub"
    try:
        return open_cub(found, labels=labels, exclude=held_out), ""
    except InputError as error:
        if cub is not None:
            raise
        return None, f"{lack}: {error}"


def _find_scenes(
    root: Path,
    places: Path | None,
    *,
    scenes: str,
    per_category: int,
    seed: int,
    held_out: ImageTable,
) -> tuple[Backgrounds | None, str]:
    for place in [places] if places is not None else _list_near(root):
        try:
            pool = open_places365(
                place, categories=SCENES[scenes], per_category=per_category, seed=seed
            )
        except TableError:
            if places is not None:
                raise
            continue
        return exclude_scenes(pool, held_out.scenes or ()), ""
    return (
        None,
        "no backgrounds to pre-train on: Places365 was not found; give its folder with places",
    )


def _list_near(root: Path) -> list[Path]:
    above = root.resolve()
    return [above, *list(above.parents)[:2]]


def exclude_scenes(pool: Backgrounds, scenes: Sequence[str]) -> Backgrounds:
    """Leave out the scenes of some ids."""
    unwanted = frozenset(scenes)
    kept = [index for index, name in enumerate(pool.ids) if name not in unwanted]
    return pool if len(kept) == len(pool) else pool.take(kept)


def _describe(table: ImageTable, *, labels: str, correlation: float) -> dict[str, object]:
    groups, names, splits = table.group_ids(), table.group_names(), np.array(table.splits or ())
    counts = {
        split: {
            name: int((groups[splits == split] == group).sum()) for group, name in names.items()
        }
        for split in SPLIT_NUMBERS.values()
    }
    return {
        "name": "waterbirds",
        "labels": labels,
        "correlation": correlation,
        "licences": [LICENCE],
        "citation": CITATION,
        "sources": [str(table.root)],
        "counts": counts,
    }


def check_waterbirds(
    root: Path,
    *,
    labels: str = "official",
    correlation: float = CORRELATION,
    cub: Path | None = None,
    places: Path | None = None,
    scenes: str = "disjoint",
) -> list[str]:
    """Return what is missing or off, a line each; a count other than the published is a warning.

    Args:
        root: as in `open_waterbirds`, as are the others.
        labels: the published counts are those of the official ones.
        correlation: 0.95 or 1.0.
        cub: checked if given.
        places: checked if given.
        scenes: categories to look for in `places`.

    Raises:
        UsageError: as in `open_waterbirds`.
    """
    _check_options(labels, correlation, scenes)
    if is_built(root):
        return check_built(root, name="waterbirds")
    try:
        table = read_waterbirds(root, labels=labels)
        found = [*describe_empty_groups(table, ("test",))]
        held_out = replace(table, objects=(), scenes=())
        if cub is not None:
            _find_birds(root, cub, labels=labels, held_out=held_out)
        if places is not None:
            _find_scenes(root, places, scenes=scenes, per_category=1, seed=0, held_out=held_out)
    except TableError as error:
        return [str(error)]
    return found + (_compare_counts(table) if labels == "official" else [])


def _compare_counts(table: ImageTable) -> list[str]:
    groups, splits = table.group_ids(), np.array(table.splits or ())
    names = table.group_names()
    lines = []
    for split, expected in COUNTS.items():
        counts = np.bincount(groups[splits == split], minlength=len(names)).tolist()
        lines += [
            f"warning: {split} has {count} images of {names[group]}, as published {known}"
            for group, (count, known) in enumerate(zip(counts, expected, strict=True))
            if count != known
        ]
    return lines


INFO = DatasetInfo(
    name="waterbirds",
    summary="birds of CUB on land and water scenes of Places365, 95 % or all on their own",
    kind="task",
    licence=LICENCE,
    citation=CITATION,
    layout=f"""{PUBLISHED}/metadata.csv and NNN.Species/*.jpg
or waterbirds_v1.0/ (WILDS), or metadata_waterbirds.csv above {PUBLISHED}/ (SubpopBench)
to pre-train: CUB-200-2011 and Places365, here or beside it (options cub, places)""",
    open=open_waterbirds,
    build=build_waterbirds,
    check=check_waterbirds,
    options={
        "labels": "official",
        "correlation": CORRELATION,
        "cub": None,
        "places": None,
        "scenes": "disjoint",
        "per_category": 100,
        "seed": 0,
    },
    choices={"labels": LABELS, "scenes": tuple(SCENES)},
)
