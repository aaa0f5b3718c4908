"""Which pixels a map names first, and images with these deleted or inserted.

A map lies on the tower's grid over the model's input. Over a native image it lies where the
preprocessing put that input, so a centre crop's map is not stretched over the whole image; pixels
that the crop leaves out come last.

Shape letters: h and w rows and columns of the grid, H and W pixels, S the side of the model's
input.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from fieldmark.attribution.protocols import Fill, Protocol
from fieldmark.core.errors import InputError
from fieldmark.core.seeds import generator
from fieldmark.models.encoder import Encoder, EncoderSpec

Floats = NDArray[np.float64]
# RISE's blur (facts section 2), in pixels whatever the size of the image.
BLUR_SIZE, BLUR_SIGMA = 11, 5.0
# Two values of a map closer than this share of its range are one value.
_DECIMALS = 9


class Window(NamedTuple):
    """Where the model's input lies on an image, in shares of the image's sides.

    Attributes:
        left: where its left border is; below 0 if the input was padded.
        top: where its upper border is.
        width: how wide it is.
        height: how high it is.
    """

    left: float = 0.0
    top: float = 0.0
    width: float = 1.0
    height: float = 1.0


def find_window(size: tuple[int, int], *, spec: EncoderSpec) -> Window:
    """Return what part of an image its model sees.

    Args:
        size: rows and columns of the image.
        spec: how it is resized and cropped.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> import dataclasses
        >>> spec = dataclasses.replace(FakeEncoder().spec, resize="shortest")
        >>> find_window((8, 16), spec=spec)
        Window(left=0.25, top=0.0, width=0.5, height=1.0)
    """
    if spec.resize in ("squash", "naflex"):
        return Window()
    side = min(size) if spec.resize == "shortest" else max(size)
    height, width = side / size[0], side / size[1]
    return Window(left=(1 - width) / 2, top=(1 - height) / 2, width=width, height=height)


def place_map(values: Floats, *, size: tuple[int, int], window: Window = Window()) -> Floats:
    """Enlarge a map bilinearly to where it lies on an image, cell centres on pixel centres.

    Args:
        values: (h,w).
        size: H and W of the image.
        window: what part of it the map covers.

    Returns:
        (H,W), minus infinity outside the window. Values are scaled to [0, 1].

    Example:
        >>> place_map(np.array([[0.0, 1.0]]), size=(1, 4)).tolist()
        [[0.0, 0.25, 0.75, 1.0]]
        >>> place_map(np.array([[0.0, 1.0]]), size=(1, 4), window=Window(left=0.5, width=0.5))
        array([[-inf, -inf,   0.,   1.]])
    """
    low, span = values.min(), np.ptp(values)
    scaled = (values - low) / span if span > 0 else np.zeros_like(values)
    rows, inside_rows = _weigh(values.shape[0], size[0], start=window.top, span=window.height)
    columns, inside_columns = _weigh(values.shape[1], size[1], start=window.left, span=window.width)
    # Rounded, since interpolating between equal values must not tell them apart.
    large = np.round(rows @ scaled @ columns.T, _DECIMALS)
    return np.where(inside_rows[:, None] & inside_columns, large, -np.inf)


def _weigh(
    cells: int, pixels: int, *, start: float, span: float
) -> tuple[Floats, NDArray[np.bool_]]:
    """Return the weight of each cell at each pixel of an axis, and which pixels lie inside."""
    share = ((np.arange(pixels) + 0.5) / pixels - start) / span
    place = np.clip(share * cells - 0.5, 0, cells - 1)
    weights = np.clip(1 - np.abs(place[:, None] - np.arange(cells)), 0, 1)
    return weights, (share >= 0) & (share <= 1)


def rank_pixels(
    values: Floats,
    *,
    size: tuple[int, int],
    identity: str,
    seed: int = 0,
    ties: Floats | None = None,
    shuffle: bool = True,
    window: Window = Window(),
) -> NDArray[np.int64]:
    """Say when each pixel has its turn, the highest value first.

    Pixels that are equal after enlargement are ordered by `ties`, then by chance: seeded by the
    image, so alike for all methods (facts section 2).

    Args:
        values: (h,w) map.
        size: H and W.
        identity: of the image, for chance.
        seed: for chance.
        ties: (h,w) another map that tells equal pixels apart.
        shuffle: whether chance orders what is still equal, or else the place: from the upper left.
        window: what part of the image the map covers.

    Returns:
        (H,W) ranks from 0.

    Raises:
        InputError: a value is not finite.

    Example:
        >>> rank_pixels(np.array([[1.0, 3.0], [2.0, 0.0]]), size=(2, 2), identity="a").tolist()
        [[2, 0], [1, 3]]
    """
    if not np.isfinite(values).all():
        raise InputError(
            "the map holds values that are not finite", where=f"image {identity}",
            mend="leave the method out, or report it",
        )  # fmt: skip
    count = size[0] * size[1]
    keys = [-place_map(np.asarray(values, np.float64), size=size, window=window).ravel()]
    if ties is not None:
        keys.append(-place_map(np.asarray(ties, np.float64), size=size, window=window).ravel())
    if shuffle:
        keys.append(generator(seed, "ties", identity).permutation(count).astype(np.float64))
    ranks = np.empty(count, np.int64)
    ranks[np.lexsort(keys[::-1])] = np.arange(count)
    return ranks.reshape(size)


def make_fill(pixels: Tensor, kind: Fill, *, identity: str, seed: int, spec: EncoderSpec) -> Tensor:
    """Return what takes the place of an image's pixels: uint8 (3,H,W).

    Args:
        pixels: uint8 (3,H,W).
        kind: `noise`, `mean`, `blur` or `black`; see `Protocol`.
        identity: of the image; its noise is the same for all methods.
        seed: of the noise.
        spec: gives the mean colour.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> image, spec = torch.full((3, 4, 4), 9, dtype=torch.uint8), FakeEncoder().spec
        >>> int(make_fill(image, "blur", identity="a", seed=0, spec=spec).min())
        9
    """
    if kind == "noise":
        drawn = generator(seed, "noise", identity).integers(0, 256, pixels.shape, dtype=np.uint8)
        return torch.from_numpy(drawn)
    if kind == "black":
        return torch.zeros_like(pixels)
    if kind == "mean":
        colour = torch.tensor(spec.mean).mul(255).round().to(torch.uint8)
        return colour.view(3, 1, 1).expand_as(pixels).clone()
    return blur_image(pixels)


def blur_image(pixels: Tensor) -> Tensor:
    """Blur uint8 (3,H,W) by RISE's Gaussian; beyond the border the border goes on."""
    away = torch.arange(BLUR_SIZE, dtype=torch.float32) - BLUR_SIZE // 2
    kernel = torch.exp(-(away**2) / (2 * BLUR_SIGMA**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    half = BLUR_SIZE // 2
    framed = functional.pad(pixels[None].float(), (half,) * 4, mode="replicate")
    along = functional.conv2d(framed, kernel, groups=3)
    both = functional.conv2d(along, kernel.transpose(2, 3), groups=3)
    return both[0].round().clamp(0, 255).to(torch.uint8)


def read_native(image: Image.Image, *, most: int) -> Tensor:
    """Return the pixels of an image whose shorter side is at most `most`: uint8 (3,H,W).

    Example:
        >>> read_native(Image.new("RGB", (40, 20)), most=10).shape
        torch.Size([3, 10, 20])
    """
    shorter = min(image.size)
    if shorter > most:
        width, height = (round(side * most / shorter) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).contiguous()


def to_input(pixels: Tensor, *, encoder: Encoder, protocol: Protocol) -> Tensor:
    """Return what the model gets of pixels in the protocol's space: uint8 (3,S,S)."""
    if protocol.space == "model_input":
        return pixels
    return encoder.preprocess(Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy()))


def replace_pixels(pixels: Tensor, other: Tensor, *, ranks: Tensor, share: float) -> Tensor:
    """Replace the pixels of lowest rank, this share of all of them, by those of another image.

    Example:
        >>> image = torch.zeros(3, 1, 4, dtype=torch.uint8)
        >>> ranks = torch.tensor([[3, 0, 1, 2]])
        >>> replace_pixels(image, image + 7, ranks=ranks, share=0.5)[0].tolist()
        [[0, 7, 7, 0]]
    """
    return torch.where(ranks < round(share * ranks.numel()), other, pixels)
