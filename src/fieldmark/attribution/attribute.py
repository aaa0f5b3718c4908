"""One call for every method: images and texts in, maps, signed scores and flags out.

Shape letters: B images, T texts, h and w rows and columns of the tower's grid, D embedding
dimensions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.maps import Attributions, Maps, Subject
from fieldmark.attribution.methods import Method, find_method, require_support
from fieldmark.core.errors import InputError
from fieldmark.models.encoder import Encoder

Progress = Callable[[int, int], None]


def attribute(
    encoder: Encoder,
    images: Tensor,
    texts: Sequence[str] | Tensor,
    *,
    method: str = "cci",
    config: AttributionConfig | None = None,
    ids: Sequence[str] | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Attributions:
    """Say which parts of each image speak for each text.

    Args:
        encoder: any encoder; it is put into evaluation by its loader and not changed.
        images: (B,3,H,W), uint8 or normalised float, as `encoder.preprocess` gives them.
        texts: T texts, or their embeddings (T,D) of unit norm, such as prompt ensembles.
        method: a name out of `METHODS`.
        config: settings; `batch_size` bounds the memory.
        ids: B names that chance is drawn by; numbers by default.
        cache: folder that CCI keeps its embeddings in, so that other texts for the same images cost
            one matrix product; None keeps nothing.
        progress: called with how many images are done and how many there are.

    Returns:
        Maps on the tower's grid (B,T,h,w), similarities and flags.

    Raises:
        UnknownNameError: there is no such method.
        UnsupportedEncoderError: the tower lacks what the method needs; those it bears are named.
        InputError: a text is empty, or the images are not B x 3 x H x W.

    Example:
        >>> from PIL import Image
        >>> from fieldmark.testing import FakeEncoder
        >>> encoder, image = FakeEncoder(), Image.new("RGB", (8, 8), "blue")
        >>> image.paste("red", (2, 2, 6, 6))
        >>> found = attribute(
        ...     encoder, encoder.preprocess(image)[None], ["a red bird"], method="occlusion"
        ... )
        >>> found.values[0, 0].argmax() in (5, 6, 9, 10)  # a patch of the red square
        True
    """
    chosen, config = find_method(method), config or AttributionConfig()
    require_support(encoder, chosen)
    check_images(images, encoder=encoder)
    embedded, empty = _embed_texts(encoder, texts)
    names = tuple(map(str, ids if ids is not None else range(len(images))))
    explain, parts = chosen.load(), []
    for start in range(0, len(images), config.batch_size):
        rows = slice(start, start + config.batch_size)
        subject = Subject(
            encoder=encoder,
            images=images[rows],
            texts=embedded,
            config=config,
            ids=names[rows],
            empty_text=empty,
            cache=cache,
        )
        parts.append(_measure(explain, subject))
        if progress is not None:
            progress(min(start + config.batch_size, len(images)), len(images))
    return _join(chosen, parts, counts=[len(part.values) for part in parts])


def check_images(images: Tensor, *, encoder: Encoder) -> None:
    """Check that images are a batch that the encoder takes.

    Raises:
        InputError: they are not (B,3,H,W), there is none, or one is smaller than a patch.
    """
    if images.ndim != 4 or images.shape[1] != 3 or not len(images):
        raise InputError(
            f"images of shape {tuple(images.shape)} are no batch of RGB images",
            mend="give (B,3,H,W), as `encoder.preprocess` makes them",
        )
    side, rows = encoder.spec.image_size, encoder.spec.grid[0]
    if min(images.shape[-2:]) < side // rows:
        raise InputError(
            f"images of {images.shape[3]} x {images.shape[2]} pixels are smaller than a patch "
            f"({side // rows} pixels)",
            mend=f"let `encoder.preprocess` bring them to {side} x {side}",
        )


def _embed_texts(encoder: Encoder, texts: Sequence[str] | Tensor) -> tuple[Tensor, Tensor | None]:
    if isinstance(texts, Tensor):
        return texts.float(), None
    for index, text in enumerate(texts):
        if not text.strip():
            raise InputError("the text is empty", where=f"text {index + 1}", mend="write one")
    if not texts:
        raise InputError("there is no text", mend="give one at least")
    with torch.inference_mode():
        embedded = encoder.encode_text([*texts, ""])
    embedded = embedded.clone()
    return embedded[:-1], embedded[-1]


def _measure(explain: Callable[[Subject], Maps], subject: Subject) -> Maps:
    """Run a method; where it did not come by the similarities, embed the images for them."""
    maps = explain(subject)
    if maps.similarity is not None:
        return maps
    with torch.inference_mode():
        similarity = subject.encoder.encode_image(subject.images) @ subject.texts.T
    return dataclasses.replace(maps, similarity=similarity, forwards=maps.forwards + 1)


def _join(method: Method, parts: Sequence[Maps], *, counts: Sequence[int]) -> Attributions:
    values = _stack([part.values for part in parts]).astype(np.float32)
    similarity = _stack([part.similarity for part in parts if part.similarity is not None])
    flags = [
        (part.values <= 0).flatten(2).all(-1) if part.no_support is None else part.no_support
        for part in parts
    ]
    clusters = [part.clusters for part in parts if part.clusters is not None]
    drops = [part.drops for part in parts if part.drops is not None]
    return Attributions(
        method=method.name,
        values=values,
        similarity=similarity.astype(np.float32),
        no_support=_stack(flags).astype(bool),
        clusters=_stack(clusters).astype(np.int64) if clusters else None,
        drops=_stack(drops) if drops else None,
        forwards=float(np.average([part.forwards for part in parts], weights=counts)),
        backwards=float(np.average([part.backwards for part in parts], weights=counts)),
    )


def _stack(parts: Sequence[Tensor]) -> NDArray[np.float32]:
    joined: NDArray[np.float32] = torch.cat([part.detach().cpu() for part in parts]).numpy()
    return joined
