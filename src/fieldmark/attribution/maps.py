"""What goes into an attribution method and what comes out of one.

Shape letters: B images, T texts, h and w rows and columns of the tower's grid, H and W pixels of
its input, K clusters, D embedding dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fieldmark.attribution.config import AttributionConfig
from fieldmark.models.encoder import Encoder


@dataclass(frozen=True, eq=False, kw_only=True)
class Subject:
    """What a method explains: a batch of images for some texts.

    Attributes:
        encoder: any encoder, in evaluation.
        images: (B,3,H,W), uint8 or normalised float, as `encoder.preprocess` gives them.
        texts: (T,D) float32 of unit norm.
        config: settings.
        ids: (B,) names that chance is drawn by, so that an image gets the same draws whatever else
            is in its batch.
        empty_text: (D,) unit embedding of a text that says nothing, for methods that compare with
            it; None where there is none.
        cache: folder that CCI keeps its embeddings in, free of texts; None keeps nothing.
    """

    encoder: Encoder
    images: Tensor
    texts: Tensor
    config: AttributionConfig
    ids: tuple[str, ...]
    empty_text: Tensor | None = None
    cache: Path | None = None

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False, kw_only=True)
class Maps:
    """What a method says of a batch.

    Attributes:
        values: (B,T,h,w) float32, signed where the method has a sign: the higher, the more a patch
            speaks for the text. Only the order matters to deletion and insertion.
        similarity: (B,T) cosine of image and text, where the method came by it; else None.
        no_support: (B,T) whether nothing in the image speaks for the text, so that the map is all
            zero or below.
        clusters: (B,h,w) int64 cluster of each patch, of methods that have clusters.
        drops: (B,T,K) what each cluster is worth, signed; NaN where an image has fewer clusters.
        forwards: image-tower forwards spent on each image and all its texts, tokens that were
            removed counted out.
        backwards: backward passes spent, in the same unit.
    """

    values: Tensor
    similarity: Tensor | None = None
    no_support: Tensor | None = None
    clusters: Tensor | None = None
    drops: Tensor | None = None
    forwards: float = 0.0
    backwards: float = 0.0


@dataclass(frozen=True, eq=False, kw_only=True)
class Attributions:
    """Maps of some images for some texts, as numpy arrays.

    Attributes:
        method: name of the method.
        values: (B,T,h,w) float32, signed; see `Maps`.
        similarity: (B,T) cosine of image and text.
        no_support: (B,T) whether nothing in the image speaks for the text.
        clusters: (B,h,w) int64 cluster of each patch, or None.
        drops: (B,T,K) what each cluster is worth, or None.
        forwards: image-tower forwards spent on each image, on average.
        backwards: backward passes spent on each image, on average.
    """

    method: str
    values: NDArray[np.float32]
    similarity: NDArray[np.float32]
    no_support: NDArray[np.bool_]
    clusters: NDArray[np.int64] | None = field(default=None, repr=False)
    drops: NDArray[np.float32] | None = field(default=None, repr=False)
    forwards: float = 0.0
    backwards: float = 0.0

    def display(self) -> NDArray[np.float32]:
        """Return the maps to look at, (B,T,h,w) in [0, 1]: what is below 0 cut off, the top at 1.

        A map without support is all zero.
        """
        return clip_maps(self.values)


def clip_maps(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cut off what is below 0 and divide each map by its maximum; a map with none stays zero.

    Example:
        >>> clip_maps(np.array([[[-1.0, 2.0], [1.0, 0.0]]], np.float32)).tolist()
        [[[0.0, 1.0], [0.5, 0.0]]]
    """
    positive = np.clip(values, 0, None)
    top = positive.max(axis=(-2, -1), keepdims=True)
    shown: NDArray[np.float32] = np.divide(
        positive, top, out=np.zeros_like(positive), where=top > 0
    )
    return shown


def enlarge_maps(values: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Enlarge maps (...,h,w) to pixels (...,H,W), bilinearly, cell centres on pixel centres.

    Clusters are not to be enlarged by this: what lies between two of them is none.

    Example:
        >>> import torch
        >>> enlarge_maps(torch.tensor([[0.0, 1.0]]), size=(1, 4)).tolist()
        [[0.0, 0.25, 0.75, 1.0]]
    """
    flat = values.reshape(-1, 1, *values.shape[-2:]).float()
    large = functional.interpolate(flat, size=size, mode="bilinear", align_corners=False)
    return large.reshape(*values.shape[:-2], *size)


def find_grid(encoder: Encoder, images: Tensor) -> tuple[int, int]:
    """Return rows and columns of the token grid of (B,3,H,W), which NaFlex lets vary.

    Example:
        >>> import torch
        >>> from fieldmark.testing import FakeEncoder
        >>> find_grid(FakeEncoder(), torch.zeros(1, 3, 8, 8))
        (4, 4)
    """
    (rows, columns), side = encoder.spec.grid, encoder.spec.image_size
    return round(images.shape[2] * rows / side), round(images.shape[3] * columns / side)
