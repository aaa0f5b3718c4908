"""Towers to test attribution on: tiny models of every family, one worked by hand, a plain forward.

The plain forward is open_clip's ViT written again with a loop over heads, out of its weights alone.
"""

from __future__ import annotations

import functools
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.maps import Subject
from fieldmark.models.adapter import DualEncoder
from fieldmark.models.blocks import EVERY
from fieldmark.models.encoder import Attention, Encoder, EncoderSpec, Tokens
from fieldmark.models.load import load_encoder
from tests.models import tiny

HF = ("hf-clip", "hf-siglip", "hf-siglip2")
TRANSFORMERS = (*tiny.VITS, *HF)


@functools.cache
def load_tiny(family: str, *, double: bool = False) -> Encoder:
    """Load a tiny model, transformers' with `hf-` in front; tests must not change it."""
    if double:
        return load_tiny(family).place(dtype=torch.float64)
    with tempfile.TemporaryDirectory() as folder:
        if family in HF:
            name = family.removeprefix("hf-")
            written = tiny.write_transformers(Path(folder) / name, name)
            return load_encoder(f"hf:{written}", device="cpu")
        written = tiny.write_open_clip(Path(folder) / family, family)
        return load_encoder(f"local-dir:{written}", device="cpu")


def make_subject(
    encoder: Encoder,
    *,
    count: int = 2,
    texts: int = 3,
    config: AttributionConfig | None = None,
    images: Tensor | None = None,
    empty: bool = True,
) -> Subject:
    """Return random images and texts for an encoder."""
    images = tiny.images(encoder.spec.image_size, count=count) if images is None else images
    drawn = torch.randn(texts + 1, encoder.spec.dim, generator=torch.Generator().manual_seed(1))
    embedded = functional.normalize(drawn, dim=-1)
    return Subject(
        encoder=encoder,
        images=images,
        texts=embedded[:-1],
        config=config or AttributionConfig(),
        ids=tuple(f"image {index}" for index in range(len(images))),
        empty_text=embedded[-1] if empty else None,
    )


@dataclass(frozen=True)
class ColourBlock:
    """A block worked by hand: one head, even attention to all tokens, values as they are."""

    def normalise(self, values: Tensor) -> Tensor:
        return values

    def attend(self, normalised: Tensor, queries: slice = EVERY) -> Attention:
        heads = normalised[:, None]
        asking = heads[:, :, queries]
        count = normalised.shape[1]
        weight = torch.full((*asking.shape[:3], count), 1 / count) + 0 * asking[..., :1]
        return Attention(asking, heads, heads, weight, self.project((weight @ heads)[:, 0]))

    def project(self, mixed: Tensor) -> Tensor:
        return mixed

    def add(self, values: Tensor, output: Tensor) -> Tensor:
        return values + output


@dataclass(frozen=True)
class ColourTower:
    """2 x 2 patches of their mean colour and a CLS of zeros, through two blocks."""

    grid: tuple[int, int] = (2, 2)
    pooling: Any = "cls"
    pooler: Any = None
    blocks: tuple[ColourBlock, ...] = field(default=(ColourBlock(), ColourBlock()))

    def tokens(self, pixels_BCHW: Tensor) -> Tokens:
        cells = functional.adaptive_avg_pool2d(pixels_BCHW, self.grid).flatten(2).mT
        return Tokens(functional.pad(cells, (0, 0, 1, 0)), 1, self.grid)

    def run(self, tokens: Tokens) -> Tokens:
        values = tokens.values
        for block in self.blocks:
            values = block.add(values, block.attend(values).output)
        return tokens._replace(values=values)

    def pool(self, tokens: Tokens) -> Tensor:
        return tokens.values[:, 0]


class ColourLibrary:
    """Gives a `DualEncoder` the tower; nothing else of a library is needed here."""

    def take_apart(self, model: nn.Module) -> ColourTower:
        return ColourTower()


def make_colour_encoder() -> DualEncoder:
    """Return the encoder that is worked by hand; its embedding is a colour of unit norm."""
    spec = EncoderSpec(
        uri="test:colours",
        dim=3,
        image_size=4,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        interpolation="nearest",
        resize="squash",
        grid=(2, 2),
        pooling="cls",
        logit_scale=1.0,
        logit_bias=0.0,
        fingerprint="0" * 64,
    )
    library: Any = ColourLibrary()
    return DualEncoder(nn.Linear(1, 1), library, spec)


def make_planted_subject(*, config: AttributionConfig | None = None) -> Subject:
    """Return a blue image with a red patch at the lower left, for red, green and blue."""
    image = torch.zeros(1, 3, 4, 4)
    image[:, 2] = 1
    image[:, :, 2:, :2] = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    return Subject(
        encoder=make_colour_encoder(),
        images=image,
        texts=torch.eye(3),
        config=config or AttributionConfig(),
        ids=("planted",),
    )


@dataclass
class PlainBlock:
    """What went on in a block for one image: N tokens, h heads."""

    entered: Tensor
    weight: list[Tensor]
    value: list[Tensor]
    left: Tensor


def open_visual(encoder: Encoder) -> Any:
    """Return open_clip's image tower."""
    assert isinstance(encoder, DualEncoder)
    model: Any = encoder.model
    return model.visual


def split_plainly(layer: Any, normalised: Tensor) -> tuple[list[Tensor], ...]:
    """Return lists over heads of queries, keys and values, each (N,d)."""
    attention = layer.attn
    width, heads = attention.embed_dim, attention.num_heads
    size = width // heads
    parts: tuple[list[Tensor], ...] = ([], [], [])
    for kind in range(3):
        for head in range(heads):
            rows = slice(kind * width + head * size, kind * width + (head + 1) * size)
            weight, bias = attention.in_proj_weight[rows], attention.in_proj_bias[rows]
            parts[kind].append(normalised @ weight.T + bias)
    return parts


def run_plainly(layer: Any, values: Tensor) -> PlainBlock:
    """Run one block of open_clip's ViT for one image (N,C), head after head."""
    queries, keys, own = split_plainly(layer, layer.ln_1(values))
    weight = [
        torch.softmax(q @ k.T / q.shape[1] ** 0.5, dim=1)
        for q, k in zip(queries, keys, strict=True)
    ]
    mixed = torch.cat([a @ v for a, v in zip(weight, own, strict=True)], dim=1)
    return PlainBlock(values, weight, own, finish_plainly(layer, values, mixed))


def finish_plainly(layer: Any, values: Tensor, mixed: Tensor) -> Tensor:
    """Add the projected attention, then the MLP."""
    attention = layer.attn.out_proj
    values = values + mixed @ attention.weight.T + attention.bias
    left: Tensor = values + layer.mlp(layer.ln_2(values))
    return left


def embed_plainly(visual: Any, values: Tensor) -> Tensor:
    """Normalise, project and scale to unit norm: (...,C) to (...,D)."""
    embedded = visual.ln_post(values) @ visual.proj
    unit: Tensor = embedded / embedded.norm(dim=-1, keepdim=True)
    return unit


def run_all_plainly(encoder: Encoder, image: Tensor) -> list[PlainBlock]:
    """Run the blocks for one image (3,S,S)."""
    values, found = encoder.tokens(image[None]).values[0], []
    for layer in open_visual(encoder).transformer.resblocks:
        found.append(run_plainly(layer, values))
        values = found[-1].left
    return found
