"""CounterAnimal: photographs of 45 animals on common and counter backgrounds (Wang et al., 2024).

The published folder has one folder a class, named by its ImageNet index, and in it `common-*` and
`counter-*`. What follows the prefix is the background ("common-snow"); only the prefix is relied
on.

Pairs (BAP appendix M.5.4): class A is trained on its context A, class B on its context B, which are
their common backgrounds. The test is the 20 % that are kept back and the swapped pairings, which
are the counter photographs: one of A stands for context B, one of B for context A. The paper does
not say which background of a class is its context A. Where the folders' names show that the two
classes swap backgrounds (snow and grass, grass and snow), the attribute bears these names; where
they do not, it is named after the classes and a note says so.

Smart crop (M.5.2): images are cropped when the data set is built, not when it is read, since a
table reads its files as they are. `build` writes them without loss into the published layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fieldmark.core.atomic import write_json
from fieldmark.core.errors import TableError, UsageError
from fieldmark.core.registry import look_up
from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.columns import Columns, relative_names, resolve_paths
from fieldmark.data.datasets.animal_folders import (
    CONTEXTS,
    NAMES,
    AnimalFolder,
    find_base,
    read_names,
    scan_folders,
)
from fieldmark.data.datasets.built import (
    building,
    count_groups,
    describe_empty_groups,
    is_built,
    pair_up,
    read_card,
    write_rows,
)
from fieldmark.data.datasets.cub import open_cub
from fieldmark.data.datasets.info import DatasetInfo
from fieldmark.data.datasets.places365 import PRETRAINING, open_places365
from fieldmark.data.splits import split_correlated
from fieldmark.data.tables import ImageTable, find_unreadable
from fieldmark.data.tasks import Task

# ImageNet indices of the classes of the two pairs of BAP Table 4.
PAIRS = {"brambling-bulbul": (10, 16), "ptarmigan-prairie-chicken": (81, 83)}
ALL = "all"
FIRST = "ptarmigan-prairie-chicken"
# How much M.5.2 takes off each of two opposite sides.
MARGIN = 50
# Scenes of a category, as in `open_waterbirds`; the paper does not say how many.
PER_CATEGORY = 100
LICENCE = (
    "none is stated with the download; the photographs come from iNaturalist, each under the "
    "licence that its author chose"
)
CITATION = (
    "Wang, Lin, Chen, Schmidt, Han, Zhang: A Sober Look at the Robustness of CLIPs to Spurious "
    "Features, NeurIPS 2024, arXiv:2403.11497"
)
LAYOUT = """LAION-final/<ImageNet index> <class>/common-<background>/*.jpg
LAION-final/<ImageNet index> <class>/counter-<background>/*.jpg
LAION-final/imagenet_names.txt (index, tab, names; for candidates=imagenet only)"""


def smart_crop(image: Image.Image) -> Image.Image:
    """Take 50 pixels off both ends of the longer side (BAP M.5.2); a square image stays as it is.

    The paper's images are larger; one whose longer side has no more than 100 pixels, of which
    nothing would be left, stays as it is too.

    Example:
        >>> smart_crop(Image.new("RGB", (300, 200))).size
        (200, 200)
        >>> smart_crop(Image.new("RGB", (200, 300))).size, smart_crop(Image.new("L", (9, 9))).size
        ((200, 200), (9, 9))
    """
    width, height = image.size
    if width == height or max(width, height) <= 2 * MARGIN:
        return image
    if width > height:
        return image.crop((MARGIN, 0, width - MARGIN, height))
    return image.crop((0, MARGIN, width, height - MARGIN))


def open_counteranimal(
    root: Path,
    *,
    pair: str | None = None,
    seed: int | None = None,
    val_share: float = 0.0,
    candidates: str = "present",
    cub: Path | None = None,
    places: Path | None = None,
) -> Task:
    """Read a pair as a task, or all classes as a zero-shot test.

    Args:
        root: folder that holds `LAION-final`, that folder itself, or a built folder.
        pair: a key of `PAIRS`, or `all`; by default what the folder was built for, else
            ptarmigan-prairie-chicken.
        seed: of the 80/20 split; the paper takes ten. By default that of the build, else 0.
        val_share: share of the training photographs that become `val`, in [0, 1); the paper
            has none.
        candidates: for `all`: `present` are the classes that there are photographs of (45),
            `imagenet` the 1,000 names of imagenet_names.txt.
        cub: CUB-200-2011, to pre-train on, as landbirds and waterbirds (M.5.1).
        places: Places365, to pre-train on: 100 scenes of each of 50 categories.

    Raises:
        UnknownNameError: an unknown pair.
        UsageError: `candidates` or a share that cannot be.
        TableError: a class or one of its contexts is missing.
    """
    card = read_card(root) if is_built(root) else {}
    pair = pair or str(card.get("pair", FIRST))
    look_up({**PAIRS, ALL: ()}, pair, kind="pair")
    base = find_base(root)
    if pair == ALL:
        task = _open_all(base, candidates=candidates)
    else:
        chosen = int(card.get("seed", 0)) if seed is None else seed
        task = _open_pair(base, pair, seed=chosen, val_share=val_share)
    cropped = card.get("crop") == "smart"
    how = "photographs are whole; `fieldmark data build counteranimal` crops them (BAP M.5.2)"
    if cropped:
        table = replace(task.table, ids=tuple(i.removesuffix(".png") for i in task.table.ids))
        task = replace(task, table=table)
    return replace(
        task,
        notes=(*task.notes, *(() if cropped else (how,))),
        foregrounds=open_cub(cub, labels="official") if cub else None,
        backgrounds=_open_scenes(places) if places else None,
    )


def _open_pair(base: Path, pair: str, *, seed: int, val_share: float) -> Task:
    folders = scan_folders(base, PAIRS[pair])
    names = tuple(next((f.name for f in folders if f.index == index), "") for index in PAIRS[pair])
    _require_contexts(folders, PAIRS[pair], base=base)
    labels = np.array([PAIRS[pair].index(f.index) for f in folders for _ in f.paths], np.int64)
    contexts = np.array([f.context for f in folders for _ in f.paths], np.int64)
    # The counter photographs of a class stand for the other class's context.
    attributes = labels ^ contexts
    splits = split_correlated(
        labels, attributes, usual={0: 0, 1: 1}, test_share=0.2, val_share=val_share, seed=seed
    )
    attribute_names, notes = _name_contexts(folders, names, PAIRS[pair])
    table = _make_table(
        f"counteranimal/{pair}", base, folders, labels=labels, classes=names, splits=splits.tolist()
    )
    table = replace(table, attributes=attributes, attribute_names=attribute_names)
    return Task(
        name=table.name,
        table=table,
        class_words=names,
        reject=() if notes else pair_up([f"{name} background" for name in attribute_names]),
        accept=pair_up(names),
        correlation=1.0,
        card=_write_card(table, pair=pair, seed=seed),
        notes=(*notes, *describe_empty_groups(table, ("test",))),
    )


def _open_all(base: Path, *, candidates: str) -> Task:
    if candidates not in ("present", "imagenet"):
        raise UsageError(f"candidates {candidates!r} is none of present, imagenet")
    folders = scan_folders(base, None)
    present = {f.index: f.name for f in folders}
    names = read_names(base) if candidates == "imagenet" else present
    position = {index: number for number, index in enumerate(sorted(names))}
    lacking = sorted(set(present) - set(names))
    if lacking:
        raise TableError(f"has no name of index {lacking[0]}", where=base / NAMES, mend="mend it")
    labels = np.array([position[f.index] for f in folders for _ in f.paths], np.int64)
    words = tuple(names[index] for index in sorted(names))
    # Two classes of ImageNet are called crane, and two maillot.
    classes = tuple(
        name if words.count(name) == 1 else f"{name} {index}"
        for index, name in zip(sorted(names), words, strict=True)
    )
    table = _make_table(
        "counteranimal/all",
        base,
        folders,
        labels=labels,
        classes=classes,
        splits=["test"] * len(labels),
    )
    contexts = np.array([f.context for f in folders for _ in f.paths], np.int64)
    table = replace(table, attributes=contexts, attribute_names=CONTEXTS)
    notes = describe_empty_groups(table, ("test",)) if candidates == "present" else ()
    card = _write_card(table, pair=ALL, seed=0)
    return Task(name=table.name, table=table, class_words=words, card=card, notes=notes)


def _require_contexts(
    folders: Sequence[AnimalFolder], indices: Sequence[int], *, base: Path
) -> None:
    present = {(f.index, f.context) for f in folders if f.paths}
    lacking = [
        f"class {index}, {CONTEXTS[context]}-*"
        for index in indices
        for context in (0, 1)
        if (index, context) not in present
    ]
    if lacking:
        raise TableError(
            f"has no photographs of {'; '.join(lacking)}", where=base, mend="unpack it again"
        )


def _name_contexts(
    folders: Sequence[AnimalFolder], names: Sequence[str], indices: Sequence[int]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Name the two contexts after the backgrounds where those are truly swapped."""
    of = {
        (indices.index(f.index), f.context): {
            g.background for g in folders if (g.index, g.context) == (f.index, f.context)
        }
        for f in folders
    }
    if of[0, 0] == of[1, 1] and of[0, 1] == of[1, 0] and of[0, 0].isdisjoint(of[0, 1]):
        return tuple("/".join(sorted(of[label, 0])) for label in (0, 1)), ()
    told = ", ".join(
        f"{names[label]} {CONTEXTS[context]} {'/'.join(sorted(of[label, context])) or '(unnamed)'}"
        for label in (0, 1)
        for context in (0, 1)
    )
    note = f"backgrounds are not swapped pairwise ({told}): a counter photograph stands for the"
    return tuple(f"of {name}" for name in names), (f"{note} context of the other class",)


def _make_table(
    name: str,
    base: Path,
    folders: Sequence[AnimalFolder],
    *,
    labels: NDArray[np.int64],
    classes: tuple[str, ...],
    splits: Sequence[str],
) -> ImageTable:
    ids = relative_names((path for folder in folders for path in folder.paths), root=base)
    return ImageTable(
        name=name,
        root=base,
        ids=tuple(ids),
        paths=resolve_paths(Columns(base, {}, ids), ids, root=base),
        labels=labels,
        classes=classes,
        splits=tuple(splits),
    )


def _open_scenes(places: Path) -> Backgrounds:
    """Read the scenes that BAP is pre-trained on for Waterbirds too (M.5.1)."""
    return open_places365(places, categories=PRETRAINING, per_category=PER_CATEGORY)


def _write_card(table: ImageTable, *, pair: str, seed: int) -> dict[str, Any]:
    return {
        "name": "counteranimal",
        "pair": pair,
        "seed": seed,
        "classes": list(table.classes),
        "attributes": list(table.attribute_names),
        "correlation": 1.0 if pair != ALL else None,
        "counts": count_groups(table),
        "licences": [LICENCE],
        "citation": CITATION,
    }


def build_counteranimal(out: Path, *, root: Path, pair: str = FIRST, seed: int = 0) -> Path:
    """Crop the photographs of a pair, or of all classes, into `out` (BAP M.5.2), without loss.

    The folder has the published layout, so that any seed can be opened from it, and a metadata.csv
    with the split of `seed`.

    Args:
        out: the folder; must not exist or be empty.
        root: the published folder.
        pair: a key of `PAIRS`, or `all`.
        seed: of the split in metadata.csv.

    Raises:
        RunExistsError: `out` holds files.
        TableError: what is missing.
        ImageError: a photograph that cannot be read.
    """
    task = open_counteranimal(root, pair=pair, seed=seed)
    table = task.table
    assert table.attributes is not None
    assert table.splits is not None
    with building(out) as part:
        names = [f"{name}.png" for name in table.ids]

        def crop(index: int) -> None:
            path = part / names[index]
            path.parent.mkdir(parents=True, exist_ok=True)
            smart_crop(table.read(index)).save(path, compress_level=1)

        with ThreadPoolExecutor() as pool:
            for _ in pool.map(crop, range(len(table))):
                pass
        labels = [table.classes[label] for label in table.labels]
        attributes = [table.attribute_names[attribute] for attribute in table.attributes]
        rows = zip(table.ids, names, labels, attributes, table.splits, strict=True)
        columns = ("id", "path", "label", "attribute", "split")
        write_rows(part / "metadata.csv", columns, rows)
        write_json(part / "card.json", {**task.card, "crop": "smart"})
    return out


def check_counteranimal(root: Path, *, pair: str | None = None) -> list[str]:
    """Return what is missing or off, in a line each: classes, contexts, unreadable photographs.

    Args:
        root: the published or a built folder.
        pair: a key of `PAIRS`, or `all`, as in `open_counteranimal`.
    """
    try:
        task = open_counteranimal(root, pair=pair)
    except TableError as error:
        return [str(error)]
    empty = describe_empty_groups(task.table, ("test",))
    return [*empty, *(image.reason for image in find_unreadable(task.table))]


INFO = DatasetInfo(
    name="counteranimal",
    summary="photographs of animals on common and counter backgrounds: two pairs, or 45 classes",
    licence=LICENCE,
    citation=CITATION,
    layout=LAYOUT,
    open=open_counteranimal,
    build=build_counteranimal,
    check=check_counteranimal,
    options={
        "pair": FIRST,
        "seed": 0,
        "val_share": 0.0,
        "candidates": "present",
        "cub": None,
        "places": None,
    },
    choices={"pair": (*PAIRS, ALL), "candidates": ("present", "imagenet")},
)
