"""The one contract between fieldmark and the libraries that hold models.

It has the fewest primitives that every method needs (design section 3): embeddings of images and
of texts, the token stream taken apart (`tokens`, `run`, `pool`) so that token removal is plain
indexing, the queries, keys and values of the last attention, and the image tower as an ordinary
`torch.nn.Module` to train.

Shape letters: B images, C channels, H and W pixels, S the side of the model's input, T texts,
D embedding dimensions, N tokens, R regions.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from PIL import Image
from torch import Tensor, nn

Interpolation = Literal["bicubic", "bilinear", "lanczos", "nearest"]
Resize = Literal["shortest", "squash", "longest", "naflex"]
Pooling = Literal["cls", "map", "mean", "conv"]


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """What one checkpoint is and how its images are prepared.

    Attributes:
        uri: the name it was loaded by, loadable again.
        dim: D, the size of an embedding.
        image_size: S, the side of the square input in pixels (for NaFlex of its largest square).
        mean: channel means in [0, 1] that the checkpoint was trained with.
        std: channel standard deviations in [0, 1].
        interpolation: how pixels are resampled.
        resize: `shortest` side to S then centre crop, `squash` to S x S, `longest` side to S then
            pad, or `naflex`: its own aspect with no more patches than S x S has.
        grid: rows and columns of the token grid.
        pooling: `cls` token, attention pooling (`map`), `mean` of tokens, or a `conv` tower.
        logit_scale: the learned scale of the logits, already exponentiated.
        logit_bias: the learned bias of the logits (0 for CLIP).
        fingerprint: SHA-256 over the weights of both towers as they are now, type included,
            64 hexadecimal digits.
    """

    uri: str
    dim: int
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Interpolation
    resize: Resize
    grid: tuple[int, int]
    pooling: Pooling
    logit_scale: float
    logit_bias: float
    fingerprint: str


class Tokens(NamedTuple):
    """The token stream of a batch before the first block.

    Attributes:
        values: (B,N,C). The first `prefix` tokens belong to no patch. Position embeddings are
            already added (a conv tower may append a cell's row and column as two more channels),
            so a token can be removed by indexing before `run`.
        prefix: how many leading tokens are CLS or register tokens.
        grid: rows and columns of the full patch grid, whether or not tokens have been removed.
    """

    values: Tensor
    prefix: int
    grid: tuple[int, int]


class Attention(NamedTuple):
    """The last attention that forms the embedding.

    Of the CLS query, of the attention-pooling head, or of all patches where the tower averages.

    Attributes:
        query: (B,heads,Q,d), before scaling.
        key: (B,heads,N,d).
        value: (B,heads,N,d).
        weight: (B,heads,Q,N), softmax over N.
        output: (B,Q,C), after the output projection.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    weight: Tensor
    output: Tensor


@runtime_checkable
class Encoder(Protocol):
    """A dual encoder: images and texts into one space of unit vectors.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> isinstance(FakeEncoder(), Encoder)
        True
    """

    @property
    def spec(self) -> EncoderSpec:
        """What the checkpoint is."""
        ...

    @property
    def image_tower(self) -> nn.Module:
        """The trainable module: normalised float (B,3,S,S) to embeddings (B,D), not of unit norm.

        It shares its weights with the encoder. A deep copy of it can be trained by itself;
        `models.adapter.replace_image_tower` puts trained weights back.
        """
        ...

    def preprocess(self, image: Image.Image) -> Tensor:
        """Resize and crop one RGB image as this checkpoint wants it: uint8 (3,S,S).

        Where `spec.resize` is `naflex` an image that is no square gives (3,H,W), both sides whole
        patches, and a batch can hold only images of one such size.
        """
        ...

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        """Embed images, differentiably: uint8 or normalised float (B,3,S,S) to float32 (B,D)."""
        ...

    def encode_text(self, texts: list[str]) -> Tensor:
        """Embed T texts: float32 (T,D) of unit norm."""
        ...

    def tokens(self, image_BCHW: Tensor) -> Tokens:
        """Embed patches; `pool(run(tokens(x)))` equals `encode_image(x)`."""
        ...

    def run(self, tokens: Tokens) -> Tokens:
        """Run all blocks over whatever tokens are left."""
        ...

    def pool(self, tokens: Tokens) -> Tensor:
        """Pool the tokens after the last block into float32 embeddings (B,D) of unit norm."""
        ...

    def last_attention(self, tokens: Tokens) -> Attention:
        """Return the attention that forms the embedding, given the tokens before the first block.

        Raises:
            UnsupportedEncoderError: a conv tower has none; the message names what would work.
        """
        ...

    def encode_regions(self, image_BCHW: Tensor, boxes: list[Tensor]) -> list[Tensor]:
        """Embed boxes of each image: (R_i,4) x0 y0 x1 y1 in pixels of the input to unit (R_i,D)."""
        ...

    def place(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Encoder:
        """Return an independent copy on a device, its weights cast to `dtype`."""
        ...

    def save(self, folder: Path) -> None:
        """Write the whole model so that its own library loads it without fieldmark."""
        ...


def normalise(image_BCHW: Tensor, *, spec: EncoderSpec, dtype: torch.dtype) -> Tensor:
    """Turn uint8 pixels into the checkpoint's normalised floats; pass floats through.

    Args:
        image_BCHW: (B,3,H,W), uint8 in [0, 255] or already normalised float.
        spec: gives mean and standard deviation.
        dtype: of the result. The arithmetic is float32.
    """
    if image_BCHW.dtype == torch.uint8:
        mean = image_BCHW.new_tensor(spec.mean, dtype=torch.float32).view(1, 3, 1, 1)
        std = image_BCHW.new_tensor(spec.std, dtype=torch.float32).view(1, 3, 1, 1)
        image_BCHW = image_BCHW.float().div_(255).sub_(mean).div_(std)
    return image_BCHW.to(dtype)
