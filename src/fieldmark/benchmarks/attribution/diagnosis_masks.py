"""Find the masks of a table's images, and bring image and masks onto the encoder's input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fieldmark.attribution.foreground import prepare_mask
from fieldmark.core.errors import MaskError, NotApplicableError
from fieldmark.data.images import list_images, read_grey
from fieldmark.data.masks import threshold_mask
from fieldmark.data.tables import ImageTable
from fieldmark.models.encoder import Encoder


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
            mend="name a folder with --masks, or add a column 'mask' to the table",
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
