"""The one `Encoder` over any library; what differs between libraries is in its `Library`."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from fieldmark.core.errors import UnsupportedEncoderError
from fieldmark.models.encoder import Attention, Encoder, EncoderSpec, Tokens, normalise
from fieldmark.models.regions import encode_boxes
from fieldmark.models.towers import Tower, read_last_attention


class Library(Protocol):
    """What an adapter of one library supplies, given the whole model."""

    def image_tower(self, model: nn.Module) -> nn.Module:
        """Return the module from pixels to raw embeddings, sharing the model's weights."""
        ...

    def take_apart(self, model: nn.Module) -> Tower:
        """Return the image tower in pieces."""
        ...

    def preprocess(self, image: Image.Image, *, spec: EncoderSpec) -> Tensor:
        """Resize and crop one image."""
        ...

    def encode_text(self, model: nn.Module, texts: list[str]) -> Tensor:
        """Tokenise and embed texts: (T,D), not of unit norm."""
        ...

    def save(self, model: nn.Module, folder: Path, *, spec: EncoderSpec) -> None:
        """Write model, configuration and tokenizer."""
        ...


@dataclass(frozen=True, eq=False)
class DualEncoder:
    """A whole dual encoder of one checkpoint: both towers, its tokenizer, its preprocessing.

    Attributes:
        model: the library's model; both towers come out of it and are never exchanged alone.
        library: how its library wants it used.
        spec: what it is.
    """

    model: nn.Module
    library: Library
    spec: EncoderSpec

    @property
    def image_tower(self) -> nn.Module:
        """The trainable module; it shares its weights with this encoder."""
        return self.library.image_tower(self.model)

    def preprocess(self, image: Image.Image) -> Tensor:
        """Resize and crop one RGB image as this checkpoint wants it: uint8 (3,S,S)."""
        return self.library.preprocess(image, spec=self.spec)

    def _pixels(self, image_BCHW: Tensor) -> Tensor:
        weight = next(self.model.parameters())
        return normalise(image_BCHW.to(weight.device), spec=self.spec, dtype=weight.dtype)

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        """Embed images, differentiably: (B,3,S,S) to float32 (B,D) of unit norm."""
        return unit(self.image_tower(self._pixels(image_BCHW)))

    def encode_text(self, texts: list[str]) -> Tensor:
        """Embed T texts: float32 (T,D) of unit norm."""
        return unit(self.library.encode_text(self.model, texts))

    def tokens(self, image_BCHW: Tensor) -> Tokens:
        """Embed patches."""
        return self.library.take_apart(self.model).tokens(self._pixels(image_BCHW))

    def run(self, tokens: Tokens) -> Tokens:
        """Run all blocks over whatever tokens are left."""
        return self.library.take_apart(self.model).run(tokens)

    def pool(self, tokens: Tokens) -> Tensor:
        """Pool the tokens after the last block: float32 (B,D) of unit norm."""
        return unit(self.library.take_apart(self.model).pool(tokens))

    def last_attention(self, tokens: Tokens) -> Attention:
        """Return the attention that forms the embedding."""
        return read_last_attention(self.library.take_apart(self.model), tokens)

    def encode_regions(self, image_BCHW: Tensor, boxes: list[Tensor]) -> list[Tensor]:
        """Embed boxes of each image: a list of unit (R_i,D)."""
        tower = self.library.take_apart(self.model)
        return encode_boxes(self.image_tower, tower, self._pixels(image_BCHW), boxes)

    def place(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> DualEncoder:
        """Return an independent copy on a device, its weights cast to `dtype`."""
        model = copy.deepcopy(self.model).to(device=device)
        if dtype is None:
            return dataclasses.replace(self, model=model)
        cast_weights(model, dtype)
        return rebuild(self, model)

    def save(self, folder: Path) -> None:
        """Write the whole model so that its own library loads it without fieldmark."""
        self.library.save(self.model, folder, spec=self.spec)


def take_apart(encoder: Encoder) -> Tower:
    """Return the image tower of an encoder in pieces.

    Raises:
        UnsupportedEncoderError: the encoder is none of a library that fieldmark can take apart.
    """
    if isinstance(encoder, DualEncoder):
        return encoder.library.take_apart(encoder.model)
    raise UnsupportedEncoderError(
        f"a {type(encoder).__name__} cannot be taken apart",
        where=encoder.spec.uri,
        mend="use a method that needs images or tokens alone (cci, occlusion, rise)",
    )


def unit(values: Tensor) -> Tensor:
    """Return float32 rows of unit norm.

    Example:
        >>> unit(torch.tensor([[3.0, 4.0]])).tolist()
        [[0.6..., 0.8...]]
    """
    return functional.normalize(values.float(), dim=-1)


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Cast a model's weights in place; batch norms stay float32 where `dtype` is a half type.

    Their statistics lose what they are for in 8 bits: on 48 smooth images EfficientNet-Lite0 has a
    mean 1 - cosine to float32 of 2.4e-3 with them in bfloat16 and of 1.5e-3 without.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))
        >>> cast_weights(net, torch.bfloat16)
        >>> net[0].weight.dtype, net[1].weight.dtype
        (torch.bfloat16, torch.float32)
    """
    is_half = dtype.itemsize < 4
    norms = [module for module in model.modules() if is_half and isinstance(module, _BatchNorm)]
    exact = [copy.deepcopy(module.state_dict()) for module in norms]
    model.to(dtype=dtype)
    for module, state in zip(norms, exact, strict=True):
        module.float().load_state_dict(state)


def rebuild(encoder: DualEncoder, model: nn.Module) -> DualEncoder:
    """Return the encoder with another model in it and the fingerprint of that."""
    spec = dataclasses.replace(encoder.spec, fingerprint=fingerprint(model))
    return dataclasses.replace(encoder, model=model, spec=spec)


def replace_image_tower(encoder: Encoder, state: dict[str, Tensor]) -> Encoder:
    """Return an independent copy of an encoder that holds trained weights in its image tower.

    Args:
        encoder: any encoder; it is not changed.
        state: `state_dict()` of a module that was trained as a copy of `encoder.image_tower`.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> state = FakeEncoder(background=0.0).image_tower.state_dict()
        >>> mended = replace_image_tower(FakeEncoder(), state)
        >>> mended.spec.fingerprint == FakeEncoder(background=0.0).spec.fingerprint
        True
    """
    copied = encoder.place()
    copied.image_tower.load_state_dict(state)
    return rebuild(copied, copied.model) if isinstance(copied, DualEncoder) else copied


def fingerprint(model: nn.Module) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of all weights and saved buffers.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> fingerprint(layer) == fingerprint(copy.deepcopy(layer))
        True
    """
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()
