"""MetaShift cats and dogs, indoors and outdoors (Liang and Zou, 2022).

The authors' script writes two folders. In the unmixed one folder names tell class and context:
`train/cat/cat(indoor)`. In the mixed one only `imageID_to_group.pkl` tells the context, and a
pickle runs code when it is opened, so it never is: the context of a mixed image is looked up by its
file name in the unmixed folder beside it, and where that is missing the attribute is unknown.

Classes and contexts are in alphabetical order (cat 0, dog 1; indoor 0, outdoor 1). SubpopBench
numbers them the other way round (cat 1, dog 0; indoor 1, outdoor 0): a group of ours is 3 less its
number there. It splits the unmixed images at random, 25 % test and 10 % validation of all, with
numpy's RandomState(42) over the order in which the disk lists them; `splits=random` takes the same
shares with a generator of ours over sorted names, so the rows differ.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fieldmark.core.errors import TableError, UsageError
from fieldmark.core.seeds import generator
from fieldmark.data.columns import Columns, encode_names, relative_names, resolve_paths
from fieldmark.data.datasets.built import count_groups, describe_empty_groups, pair_up
from fieldmark.data.datasets.info import DatasetInfo
from fieldmark.data.images import list_images
from fieldmark.data.tables import ImageTable, find_unreadable
from fieldmark.data.tasks import Task

CLASSES = ("cat", "dog")
CONTEXTS = ("indoor", "outdoor")
# What a class is usually seen in: in the unmixed folder always, in the mixed one mostly.
USUAL = {"cat": "indoor", "dog": "outdoor"}
UNMIXED, MIXED = "MetaShift-Cat-Dog-indoor-outdoor", "MetaShift-subpopulation-shift"
# Folder of a split -> the name it gets here.
SPLITS = {"train": "train", "test": "test", "val_out_of_domain": "test"}
# Shares of SubpopBench.
TEST_SHARE, VAL_SHARE = 0.25, 0.1
LAYOUTS = ("unmixed", "mixed")
SPLIT_CHOICES = ("published", "random")
LICENCE = "images of Visual Genome, CC-BY-4.0; MetaShift itself MIT"
CITATION = (
    "Liang, Zou: MetaShift: A Dataset of Datasets for Evaluating Contextual Distribution Shifts "
    "and Training Conflicts, ICLR 2022; images: Krishna et al., Visual Genome, IJCV 2017"
)
LAYOUT = f"""{UNMIXED}/train/cat/cat(indoor)/*.jpg
{UNMIXED}/train/dog/dog(outdoor)/*.jpg
{UNMIXED}/test/cat/cat(outdoor)/*.jpg
{UNMIXED}/test/dog/dog(indoor)/*.jpg
or, for layout=mixed, with the above beside it:
{MIXED}/train/(cat|dog)/*.jpg
{MIXED}/val_out_of_domain/(cat|dog)/*.jpg"""


def open_metashift(
    root: Path, *, layout: str = "unmixed", splits: str = "published", seed: int = 0
) -> Task:
    """Read the images of one of the two folders.

    Args:
        root: folder that holds either, or the one that is asked for.
        layout: `unmixed` (train: cats indoors, dogs outdoors; test: the reverse) or `mixed` (train:
            mostly so; test: every group equally often).
        splits: `published`, or `random` with SubpopBench's shares.
        seed: of `random`.

    Raises:
        UsageError: an unknown layout or kind of splits.
        TableError: what is missing.
    """
    for name, value, known in (("layout", layout, LAYOUTS), ("splits", splits, SPLIT_CHOICES)):
        if value not in known:
            raise UsageError(f"{name} {value!r} is none of {', '.join(known)}")
    base = _find_base(root, layout=layout)
    table, notes = _read_images(base, layout=layout, beside=_find_contexts(root, base))
    if splits == "random":
        table = replace(table, splits=_draw_splits(len(table), seed=seed))
    return Task(
        name=f"metashift/{layout}",
        table=table,
        class_words=CLASSES,
        reject=pair_up([f"{context} background" for context in CONTEXTS]),
        accept=pair_up(CLASSES),
        correlation=_measure_correlation(table),
        card={
            "name": "metashift",
            "counts": count_groups(table),
            "licences": [LICENCE],
            "citation": CITATION,
        },
        notes=(*notes, *describe_empty_groups(table, ("test",))),
    )


def _find_base(root: Path, *, layout: str) -> Path:
    wanted, other = (UNMIXED, "test") if layout == "unmixed" else (MIXED, "val_out_of_domain")
    for folder in (root, root / wanted, root / "metashift" / wanted, root / "MetaShift" / wanted):
        if (folder / other).is_dir() and (folder / "train").is_dir():
            return folder.resolve()
    raise TableError(
        f"has no folders train and {other}, nor has {wanted} below it",
        where=root,
        mend="check the path of --root",
    )


def _find_contexts(root: Path, base: Path) -> Mapping[str, str]:
    """Map the file names of the unmixed folder to their contexts, where it is to be found.

    A name that occurs in both contexts is left out: Visual Genome has images with cats and dogs.
    """
    found: dict[str, set[str]] = {}
    for folder in {base, base.parent / UNMIXED, root / UNMIXED}:
        for path in sorted(folder.glob("*/*/*(*)")):
            context = _parse_context(path.name)
            for image in list_images(path) if context else ():
                key = f"{path.parent.name.lower()}/{image.name}"
                found.setdefault(key, set()).add(str(context))
    return {key: contexts.pop() for key, contexts in found.items() if len(contexts) == 1}


def _parse_context(name: str) -> str | None:
    """Return the context that a folder is named after: "cat(indoor)" -> "indoor"."""
    match = re.fullmatch(r"\w+ ?\((indoor|outdoor)\)", name.strip().lower())
    return match[1] if match else None


def _read_images(
    base: Path, *, layout: str, beside: Mapping[str, str]
) -> tuple[ImageTable, tuple[str, ...]]:
    images = [
        (image, SPLITS[split], label)
        for split in SPLITS
        for label in CLASSES
        for image in list_images(base / split / label)
    ]
    ids = relative_names((image for image, _, _ in images), root=base)
    contexts = [
        _parse_context(image.parent.name) or beside.get(f"{label}/{image.name}", "")
        for image, _, label in images
    ]
    _require_classes(base, images)
    columns = Columns(base, {}, ids)
    unknown = contexts.count("")
    if unknown and layout == "unmixed":
        raise TableError(
            f"the image {ids[contexts.index('')]} is in no folder such as cat(indoor)",
            where=base,
            mend="give --set layout=mixed, or unpack it again",
        )
    known = unknown < len(ids)
    table = ImageTable(
        name=f"metashift/{layout}",
        root=base,
        ids=tuple(ids),
        paths=resolve_paths(columns, ids, root=base),
        labels=encode_names([label for *_, label in images], names=CLASSES).codes,
        classes=CLASSES,
        attributes=encode_names(contexts, names=CONTEXTS).codes if known else None,
        attribute_names=CONTEXTS if known else (),
        splits=tuple(split for _, split, _ in images),
    )
    note = (
        f"the context of {unknown} of {len(ids)} images is not known: only the pickle tells it, or "
        f"the folder {UNMIXED} beside this one"
    )
    return table, (note,) if unknown else ()


def _require_classes(base: Path, images: Sequence[tuple[Path, str, str]]) -> None:
    present = {(split, label) for _, split, label in images}
    lacking = [f"{s}/{c}" for s in ("train", "test") for c in CLASSES if (s, c) not in present]
    if lacking:
        raise TableError(
            f"has no image in {', '.join(lacking)}", where=base, mend="unpack it again"
        )


def _draw_splits(count: int, *, seed: int) -> tuple[str, ...]:
    order = generator(seed, "metashift", "splits").permutation(count)
    n_test, n_val = int(count * TEST_SHARE), int(count * VAL_SHARE)
    splits = np.full(count, "train", dtype="<U5")
    splits[order[:n_test]] = "test"
    splits[order[n_test : n_test + n_val]] = "val"
    return tuple(splits.tolist())


def _measure_correlation(table: ImageTable) -> float:
    """Return the share of training images in their class's usual context, of those with one."""
    if table.attributes is None:
        return float("nan")
    usual = np.array([CONTEXTS.index(USUAL[name]) for name in CLASSES])
    rows = (np.array(table.splits) == "train") & (table.attributes >= 0)
    if not rows.any():
        return float("nan")
    return float((table.attributes == usual[table.labels])[rows].mean())


def check_metashift(root: Path, *, layout: str = "unmixed") -> list[str]:
    """Return what is missing or off, in a line each: folders, contexts, unreadable images.

    Args:
        root: as in `open_metashift`.
        layout: as there.
    """
    try:
        task = open_metashift(root, layout=layout)
    except TableError as error:
        return [str(error)]
    # The unmixed test lacks two groups by design.
    notes = task.notes if layout == "mixed" else ()
    return [*notes, *(image.reason for image in find_unreadable(task.table))]


INFO = DatasetInfo(
    name="metashift",
    summary="photographs of cats and dogs, indoors and outdoors",
    licence=LICENCE,
    citation=CITATION,
    layout=LAYOUT,
    open=open_metashift,
    check=check_metashift,
    options={"layout": "unmixed", "splits": "published", "seed": 0},
    choices={"layout": LAYOUTS, "splits": SPLIT_CHOICES},
)
