"""Images, masks and texts of an explanation, on the encoder's input.

Shape letters: n images, T texts, D embedding dimensions, H and W pixels of the input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fieldmark.attribution.foreground import prepare_mask
from fieldmark.benchmarks.attribution.explain_request import NO_MASK, ExplanationPlan
from fieldmark.benchmarks.sources import open_table
from fieldmark.core.errors import ImageError, MaskError, TableError
from fieldmark.core.seeds import generator
from fieldmark.data.images import read_grey, read_image
from fieldmark.data.tables import ImageTable
from fieldmark.models.encoder import Encoder
from fieldmark.models.prompts import ensemble_prompts
from fieldmark.models.text_length import require_short_texts


@dataclass(frozen=True, eq=False, kw_only=True)
class Picture:
    """One image.

    Attributes:
        identity: unlike that of any other image of the run.
        path: its file.
        pixels: uint8 (3,H,W), the encoder's own input.
        mask: (H,W) in [0, 1], 1 on the object, or None.
        truth: number of the text that is its class, or None.
    """

    identity: str
    path: Path
    pixels: Tensor
    mask: Tensor | None = None
    truth: int | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Material:
    """All that methods are run on.

    Attributes:
        encoder: that is explained.
        name: of the data set, empty for single files.
        pictures: n images.
        texts: T texts, or names of classes.
        embeddings: (T,D) of unit norm.
        has_words: whether a text is embedded as it is, not as a class in many prompts.
        similarity: (n,T) cosines.
        shown: for each image the texts to explain it by.
    """

    encoder: Encoder
    name: str
    pictures: tuple[Picture, ...]
    texts: tuple[str, ...]
    embeddings: Tensor
    has_words: bool
    similarity: NDArray[np.float32]
    shown: tuple[tuple[int, ...], ...]

    @property
    def predictions(self) -> tuple[int, ...]:
        """The most similar text of each image."""
        return tuple(self.similarity.argmax(axis=1).tolist())


def open_images(plan: ExplanationPlan) -> ImageTable | None:
    """Return the images that are drawn from data, before a model is loaded; None for single files.

    Raises:
        UsageError: class names do not fit.
        TableError: there is no such split, or no image.
    """
    request = plan.request
    if request.data is None:
        return None
    table = open_table(request.data, root=request.root)
    part = table if request.split is None else table.select(request.split)
    if not len(part):
        raise TableError("has no image", where=table.name, mend="choose another split")
    table.name_classes(request.class_names)
    if request.limit >= len(part):
        return part
    chosen = generator(request.seed, "explain", "images").permutation(len(part))[: request.limit]
    return part.take(np.sort(chosen))


def gather_material(plan: ExplanationPlan, encoder: Encoder, table: ImageTable | None) -> Material:
    """Read images and masks, embed the texts, and say which texts each image is explained by.

    With texts, or the class names of single files, each image is explained by all of them; else by
    the class it is taken for, and by its own where that is another.

    Raises:
        InputError: a text is empty or too long.
        ImageError: an image cannot be read, or is smaller than a patch.
        MaskError: a mask cannot be read, or is of another size.
    """
    request = plan.request
    names = request.texts or request.class_names or (table.classes if table is not None else ())
    texts = tuple(dict.fromkeys(names)) if request.texts else tuple(names)
    has_words = bool(request.texts)
    embeddings = _embed_texts(encoder, texts, templates=() if has_words else plan.templates)
    has_truth = table is not None and not has_words
    pictures = tuple(_read_pictures(plan, encoder, table, has_truth=has_truth))
    similarity = _compare(encoder, pictures, texts=embeddings)
    every = tuple(range(len(texts)))
    taken_for = similarity.argmax(axis=1).tolist()
    shown = tuple(
        tuple(dict.fromkeys((taken, picture.truth))) if picture.truth is not None else every
        for taken, picture in zip(taken_for, pictures, strict=True)
    )
    return Material(
        encoder=encoder,
        name="" if table is None else table.name,
        pictures=pictures,
        texts=texts,
        embeddings=embeddings,
        has_words=has_words,
        similarity=similarity,
        shown=shown,
    )


def _embed_texts(encoder: Encoder, texts: Sequence[str], *, templates: Sequence[str]) -> Tensor:
    require_short_texts(encoder, texts)
    with torch.inference_mode():
        if not templates:
            return encoder.encode_text(list(texts)).float().clone()
        for template in templates:
            require_short_texts(encoder, [template.replace("{}", text) for text in texts])
        return ensemble_prompts(encoder, texts, templates).float().clone()


def _read_pictures(
    plan: ExplanationPlan, encoder: Encoder, table: ImageTable | None, *, has_truth: bool
) -> Iterator[Picture]:
    request = plan.request
    if table is None:
        masks = request.masks or (NO_MASK,) * len(request.images)
        for path, mask in zip(request.images, masks, strict=True):
            yield read_picture(path, encoder=encoder, mask=None if mask == NO_MASK else Path(mask))
        return
    for row, path in enumerate(table.paths):
        yield read_picture(
            path,
            encoder=encoder,
            mask=table.masks[row] if table.masks else None,
            identity=table.ids[row],
            truth=int(table.labels[row]) if has_truth else None,
        )


def read_picture(
    path: Path,
    *,
    encoder: Encoder,
    mask: Path | None = None,
    identity: str | None = None,
    truth: int | None = None,
) -> Picture:
    """Read an image and its mask onto the encoder's input.

    Args:
        path: the image.
        encoder: whose preprocessing both go through.
        mask: of the image's size, or None.
        identity: its path by default.
        truth: number of the text that is its class.

    Raises:
        ImageError: it cannot be read, or is smaller than a patch.
        MaskError: the mask cannot be read, or is of another size.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> read_picture(Path("nowhere.png"), encoder=FakeEncoder())
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.ImageError: nowhere.png: ...
    """
    image = read_image(path)
    patch = encoder.spec.image_size // encoder.spec.grid[0]
    if min(image.size) < patch:
        raise ImageError(
            f"an image of {image.width} x {image.height} pixels is smaller than a patch "
            f"({patch} pixels)",
            where=path,
            mend="give a larger one",
        )
    return Picture(
        identity=str(path) if identity is None else identity,
        path=path,
        pixels=encoder.preprocess(image),
        mask=None if mask is None else _read_mask(mask, image=image, encoder=encoder),
        truth=truth,
    )


def _read_mask(path: Path, *, image: Image.Image, encoder: Encoder) -> Tensor:
    try:
        mask = read_grey(path)
        return prepare_mask(mask, image=image, encoder=encoder)
    except ImageError as error:
        raise MaskError(error.problem, where=path, mend=error.mend) from error
    except MaskError as error:
        raise MaskError(error.problem, where=path, mend=error.mend) from error


def _compare(
    encoder: Encoder, pictures: Sequence[Picture], *, texts: Tensor
) -> NDArray[np.float32]:
    with torch.inference_mode():
        rows = [encoder.encode_image(one.pixels[None]) @ texts.T for one in pictures]
    found: NDArray[np.float32] = torch.cat(rows).float().cpu().numpy()
    return found
