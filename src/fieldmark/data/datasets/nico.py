"""NICO++: pairs of vehicles, each trained on in one context alone (Zhang et al., 2023; BAP M.6).

M.6.3: "all training cars on grass, all training trucks on water, with a 20% split reserved for
testing", and the swapped sets in the test. The paper gives the two contexts as an example and
names none for the other pairs: here the first class of every pair is on the first context, grass,
the second on the second, water, and both can be set. Group numbers are label * 2 + context.

The published test part has no labels, so the train part of track 1 is all there is. The official
lists of NICO_DG divide it for domain generalisation; they are not used to split, only to check.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from fieldmark.core.errors import TableError, UnknownNameError, UsageError
from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.columns import Columns, resolve_paths
from fieldmark.data.datasets.built import count_groups, describe_empty_groups, pair_up
from fieldmark.data.datasets.coco import open_coco
from fieldmark.data.datasets.dtd import open_dtd
from fieldmark.data.datasets.info import DatasetInfo
from fieldmark.data.datasets.places365 import open_places365
from fieldmark.data.images import list_images
from fieldmark.data.layout import describe_missing, list_missing, read_lines
from fieldmark.data.splits import split_correlated
from fieldmark.data.tables import ImageTable
from fieldmark.data.tasks import Task

# BAP Table 5. What it calls bike and motorbike are bicycle and motorcycle (M.6.1).
PAIRS: Mapping[str, tuple[str, str]] = {
    "car-truck": ("car", "truck"),
    "car-bus": ("car", "bus"),
    "ship-sailboat": ("ship", "sailboat"),
    "bicycle-motorcycle": ("bicycle", "motorcycle"),
}
ALIASES = {"bike": "bicycle", "motorbike": "motorcycle"}
CONTEXTS = ("autumn", "dim", "grass", "outdoor", "rock", "water")
USUAL = ("grass", "water")
# Where an archive was unpacked varies, and so does how much of its own path is kept.
PARENTS = ("", "track_1", "nicopp", "nico_plus_plus", "nicopp/track_1", "nico_plus_plus/track_1")
HOLDERS = ("", "public_dg_0416/train", "train", "NICO_DG")
TRACK_2 = "public_ood_0412_nodomainlabel"
TEST_SHARE = 0.2
# Of Places365, with all its categories: 36,500 scenes, beside the 5,640 of DTD.
SCENES_PER_CATEGORY = 100
LICENCE = "none is stated with the download; published for research, photographs from the web"
CITATION = (
    "Zhang, He, Xu, Yu, Shen, Cui: NICO++: Towards Better Benchmarking for Domain Generalization, "
    "CVPR 2023, arXiv:2204.08040"
)
LAYOUT = """one of, below --root, track_1, nicopp or nico_plus_plus
public_dg_0416/train/CONTEXT/CLASS/*.jpg   (track 1)
NICO_DG/CONTEXT/CLASS/*.jpg                (with NICO_DG_official/CONTEXT_{train,test}.txt)"""


def open_nico(
    root: Path,
    *,
    pair: str = "car-truck",
    contexts: str | Sequence[str] = USUAL,
    seed: int = 0,
    val_share: float = 0.0,
    coco: Path | None = None,
    places: Path | None = None,
    dtd: Path | None = None,
) -> Task:
    """Read a pair as a task with a correlation of 1.0 (BAP M.6.3).

    Args:
        root: the folder, in any of the layouts; see `find_base`.
        pair: a key of `PAIRS` (bike and motorbike may be said), or two classes with a slash
            between them ("hot air balloon/umbrella").
        contexts: the context that the first class is trained on, then that of the second; with a
            comma between them in a string.
        seed: of the 80/20 split.
        val_share: share of the training images that become `val`, in [0, 1). They are as
            correlated as the others: what is selected on them is selected without a minority
            group. The paper names no validation images.
        coco: COCO 2017, for its six vehicles to pre-train on (M.6.1).
        places: Places365, for backgrounds.
        dtd: DTD, for more backgrounds.

    Returns:
        A task with the splits `train`, `val` and `test`: a fifth of each class on its own context
        and all of it on the other's.

    Raises:
        UnknownNameError: an unknown pair.
        UsageError: contexts that are not two, or a share that cannot be.
        TableError: a class or a context is missing, or a training group is empty.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for group in ("grass/car", "grass/truck", "water/car", "water/truck"):
        ...         for name in "abcde":
        ...             path = Path(folder) / "NICO_DG" / group / f"{name}.jpg"
        ...             path.parent.mkdir(parents=True, exist_ok=True)
        ...             path.touch()
        ...     task = open_nico(Path(folder), val_share=0)
        >>> len(task.table.select("train")), len(task.table.select("test"))
        (8, 12)
    """
    classes, usual = choose_pair(pair), choose_contexts(contexts)
    base = find_base(root)
    table = read_groups(base, classes, usual)
    assert table.attributes is not None
    splits = split_correlated(
        table.labels,
        table.attributes,
        usual={0: 0, 1: 1},
        test_share=TEST_SHARE,
        val_share=val_share,
        seed=seed,
    )
    name = f"nico++/{'-'.join(classes)}"
    table = replace(table, name=name, splits=tuple(splits.tolist()))
    pools = [open_places365(places, per_category=SCENES_PER_CATEGORY, seed=seed)] if places else []
    pools += [open_dtd(dtd)] if dtd else []
    return Task(
        name=name,
        table=table,
        foregrounds=open_coco(coco) if coco else None,
        backgrounds=join_backgrounds(pools) if pools else None,
        class_words=classes,
        reject=pair_up([f"{context} background" for context in usual]),
        accept=pair_up(classes),
        correlation=1.0,
        card={
            "name": "nico++",
            "task": "-".join(classes),
            "licences": [LICENCE],
            "citation": CITATION,
            "sources": ["NICO++, the train part of track 1"],
            "contexts": list(usual),
            "seed": seed,
            "counts": count_groups(table),
        },
        notes=(*describe_empty_groups(table, ("test",)), *_describe_pools(coco, pools)),
    )


def choose_pair(pair: str) -> tuple[str, str]:
    """Return the two classes of a pair.

    Raises:
        UnknownNameError: it is no pair; the known ones are listed.

    Example:
        >>> choose_pair("bike-motorbike"), choose_pair("hot air balloon/umbrella")
        (('bicycle', 'motorcycle'), ('hot air balloon', 'umbrella'))
    """
    divider = "/" if "/" in pair else "-"
    names = tuple(name.strip() for name in pair.split(divider))
    names = tuple(ALIASES.get(name, name) for name in names)
    known = "-".join(names)
    if divider == "-" and known not in PAIRS:
        raise UnknownNameError("pair", pair, PAIRS)
    if len(names) != 2 or names[0] == names[1] or not all(names):
        raise UnknownNameError("pair", pair, PAIRS)
    return names[0], names[1]


def choose_contexts(contexts: str | Sequence[str]) -> tuple[str, str]:
    """Return the two contexts, the first class's first.

    Raises:
        UsageError: they are not two.

    Example:
        >>> choose_contexts("rock, dim")
        ('rock', 'dim')
    """
    words = contexts.split(",") if isinstance(contexts, str) else contexts
    names = tuple(word.strip() for word in words if word.strip())
    if len(names) != 2 or names[0] == names[1]:
        raise UsageError(
            f"contexts {', '.join(names) or 'none'}",
            mend=f"name two of {', '.join(CONTEXTS)}, the first class's first",
        )
    return names[0], names[1]


def find_base(root: Path) -> Path:
    """Return the folder that holds a folder for each context.

    Raises:
        TableError: there is none under any of the known roots.
    """
    for parent in PARENTS:
        for holder in HOLDERS:
            base = root / parent / holder
            if any((base / context).is_dir() for context in CONTEXTS):
                return base
    others = (root / parent / TRACK_2 for parent in PARENTS)
    if root.name == TRACK_2 or any(folder.is_dir() for folder in others):
        raise TableError(
            "holds track 2 of NICO++, whose images have no context",
            where=root,
            mend="unpack track 1 (public_dg_0416)",
        )
    raise TableError(
        f"has no folder of contexts ({', '.join(CONTEXTS)}), nor has public_dg_0416/train or "
        "NICO_DG below it",
        where=root,
        mend="unpack track 1 of NICO++ there, or check the path of --root",
    )


def read_groups(base: Path, classes: Sequence[str], contexts: Sequence[str]) -> ImageTable:
    """Read the images of some classes in some contexts, sorted, without splits.

    Raises:
        TableError: no folder of a context or of a class at all, or no image of a class in the
            context that stands in the same place.
    """
    folders = {context: _list_classes(base, context) for context in contexts}
    for number, name in enumerate(classes):
        if not any(normalise_class(name) in found for found in folders.values()):
            known = sorted(set().union(*folders.values()))
            raise TableError(
                f"has no class {name!r} in {' or '.join(contexts)}",
                where=base,
                mend=f"choose among {', '.join(known)}" if known else "unpack NICO++ again",
            )
        folder = folders[contexts[number]].get(normalise_class(name))
        if folder is None or not list_images(folder):
            raise TableError(
                f"has no image of {name} in {contexts[number]}, which it is to be trained on",
                where=base,
                mend="choose other --set contexts",
            )
    groups = [
        (label, attribute, path)
        for attribute, context in enumerate(contexts)
        for label, name in enumerate(classes)
        for path in list_images(folders[context].get(normalise_class(name), base / "absent"))
    ]
    paths = [path for _, _, path in groups]
    names = [path.relative_to(base).as_posix() for path in paths]
    found = resolve_paths(Columns(base, {}, names), names, root=base)
    return ImageTable(
        name="nico++",
        root=base.resolve(),
        ids=tuple(names),
        paths=found,
        labels=np.array([label for label, _, _ in groups], np.int64),
        classes=tuple(classes),
        attributes=np.array([attribute for _, attribute, _ in groups], np.int64),
        attribute_names=tuple(contexts),
    )


def normalise_class(name: str) -> str:
    """Return a class's name in one spelling: some copies have spaces, some underscores.

    Example:
        >>> normalise_class("hot_air_balloon"), normalise_class("Fishing rod")
        ('hot air balloon', 'fishing rod')
    """
    return " ".join(name.lower().replace("_", " ").replace("-", " ").split())


def _list_classes(base: Path, context: str) -> dict[str, Path]:
    folder = base / context
    if not folder.is_dir():
        known = sorted(p.name for p in base.iterdir() if p.is_dir() and p.name in CONTEXTS)
        raise TableError(
            f"has no context {context!r}", where=base, mend=f"choose among {', '.join(known)}"
        )
    return {normalise_class(p.name): p for p in sorted(folder.iterdir()) if p.is_dir()}


def join_backgrounds(pools: Sequence[Backgrounds]) -> Backgrounds:
    """Return some pools as one, each id after the name of its pool.

    Args:
        pools: one or more, each with a name of its own.

    Returns:
        A pool whose root is the folder above all of theirs.
    """
    categories = tuple(dict.fromkeys(name for pool in pools for name in pool.categories))
    place = {name: number for number, name in enumerate(categories)}
    codes = [np.array([place[name] for name in pool.categories], np.int64) for pool in pools]
    return Backgrounds(
        name="+".join(pool.name for pool in pools),
        root=Path(os.path.commonpath([pool.root for pool in pools])),
        ids=tuple(f"{pool.name}/{name}" for pool in pools for name in pool.ids),
        paths=tuple(path for pool in pools for path in pool.paths),
        category_ids=np.concatenate(
            [code[pool.category_ids] for code, pool in zip(codes, pools, strict=True)]
        ),
        categories=categories,
    )


def _describe_pools(coco: Path | None, pools: Sequence[Backgrounds]) -> Iterator[str]:
    if not coco:
        yield "no objects to pre-train on: give COCO 2017 as option coco (BAP M.6.1)"
    if not pools:
        yield "no scenes to pre-train on: give Places365 and DTD as options places and dtd"


def check_nico(
    root: Path, *, pair: str = "car-truck", contexts: str | Sequence[str] = USUAL
) -> list[str]:
    """Return what is missing or off, a line each: folders, groups, files of the official lists.

    Args:
        root: the folder, in any of the layouts.
        pair: as in `open_nico`.
        contexts: as in `open_nico`.
    """
    classes, usual = choose_pair(pair), choose_contexts(contexts)
    try:
        base = find_base(root)
        table = open_nico(root, pair=pair, contexts=usual).table
        listed = [
            path
            for context in usual
            for path in _read_lists(base, context)
            if normalise_class(path.parent.name) in map(normalise_class, classes)
        ]
    except TableError as error:
        return [str(error)]
    missing = list_missing(listed)
    lines = [f"{base}: {describe_missing(missing, root=base)}"] if missing else []
    return lines + list(describe_empty_groups(table, ("test",)))


def _read_lists(base: Path, context: str) -> Iterator[Path]:
    """Yield the files that the official lists name, whatever folder their paths start at."""
    for part in ("train", "test"):
        source = base.parent / "NICO_DG_official" / f"{context}_{part}.txt"
        lines = read_lines(source, mend="fetch the list again") if source.is_file() else []
        for row, line in enumerate(lines, 1):
            name = line.strip().rpartition(" ")[0]
            parts = name.replace("\\", "/").split("/")
            if line.strip() and len(parts) < 3:
                raise TableError(
                    f"{line.strip()!r} is no path and label",
                    where=f"{source}, row {row}",
                    mend="fetch the list again",
                )
            if line.strip():
                yield base / context / parts[-2] / parts[-1]


INFO = DatasetInfo(
    name="nico++",
    summary="vehicles in contexts of NICO++: car-truck, car-bus, ship-sailboat, bicycle-motorcycle",
    licence=LICENCE,
    citation=CITATION,
    layout=LAYOUT,
    open=open_nico,
    check=check_nico,
    options={
        "pair": "car-truck",
        "contexts": USUAL,
        "seed": 0,
        "val_share": 0.0,
        "coco": None,
        "places": None,
        "dtd": None,
    },
)
