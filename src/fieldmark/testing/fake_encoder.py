"""An encoder whose every output can be worked out by hand.

An image of 8 x 8 pixels is a grid of 4 x 4 patches. Its embedding is the mean colour of the four
patches in the middle (the "object"), then the mean colour of the twelve around them (the
"background", weighted by `background`): six numbers, made a unit vector. A text names the two
colours: "red on blue" is the embedding of a red square on a blue ground. An encoder of this kind is
misled by backgrounds exactly as far as `background` says, and training can mend it.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import re
from pathlib import Path

import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from fieldmark.models.checkpoint import replacing_folder, write_weights
from fieldmark.models.encoder import Attention, EncoderSpec, Tokens, normalise
from fieldmark.models.preprocess import preprocess_image

COLOURS = {
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
    "yellow": (1.0, 1.0, 0.0),
    "cyan": (0.0, 1.0, 1.0),
    "magenta": (1.0, 0.0, 1.0),
    "white": (1.0, 1.0, 1.0),
}
SIDE, PATCH, GRID = 8, 2, (4, 4)


class FakeTower(nn.Module):
    """The image tower: patch colours, their two means, one 6 x 6 matrix.

    Args:
        background: factor of the background's colour, 0 for an encoder that does not see it.
    """

    def __init__(self, *, background: float = 1.0) -> None:
        super().__init__()
        self.mix = nn.Linear(6, 6, bias=False)
        nn.init.zeros_(self.mix.weight)
        with torch.no_grad():
            self.mix.weight += torch.diag(torch.tensor([1.0] * 3 + [background] * 3))
        where = torch.zeros(GRID)
        where[1:3, 1:3] = 1
        self.register_buffer("where", where.reshape(1, -1, 1))

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Embed normalised images (B,3,8,8): (B,6), not of unit norm."""
        return self.pool(self.tokens(image_BCHW))

    def tokens(self, image_BCHW: Tensor) -> Tensor:
        """Return (B,16,4): red, green, blue, and 1 for a patch of the object or 0."""
        patches = functional.avg_pool2d(image_BCHW, PATCH).flatten(2).transpose(1, 2)
        where = self.get_buffer("where").to(patches.dtype).expand(len(patches), -1, -1)
        return torch.cat([patches, where], dim=-1)

    def pool(self, values: Tensor) -> Tensor:
        """Average what is left of the object and of the background: (B,N,4) to (B,6)."""
        colour, where = values[..., :3], values[..., 3:]
        means = [(colour * part).sum(1) / part.sum(1).clamp(min=1) for part in (where, 1 - where)]
        mixed: Tensor = self.mix(torch.cat(means, dim=-1))
        return mixed


class FakeEncoder:
    """A dual encoder over colours that fits the `Encoder` contract.

    Args:
        background: factor of the background's colour in the image embedding.

    Example:
        >>> image = Image.new("RGB", (8, 8), "blue")
        >>> image.paste("red", (2, 2, 6, 6))
        >>> encoder = FakeEncoder()
        >>> encoder.encode_image(encoder.preprocess(image)[None]).detach().numpy().round(3).tolist()
        [[0.707..., 0.0, 0.0, 0.0, 0.0, 0.707...]]
        >>> encoder.encode_text(["a photo of a red square on blue"]).numpy().round(3).tolist()
        [[0.707..., 0.0, 0.0, 0.0, 0.0, 0.707...]]
    """

    def __init__(self, *, background: float = 1.0, tower: FakeTower | None = None) -> None:
        self._tower = tower if tower is not None else FakeTower(background=background)

    @property
    def spec(self) -> EncoderSpec:
        """What it is; the fingerprint follows the weights."""
        weights = self._tower.mix.weight.detach().cpu()
        text = f"{weights.dtype}{weights.flatten().tolist()}"
        return EncoderSpec(
            uri="fake:colours",
            dim=6,
            image_size=SIDE,
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
            interpolation="bilinear",
            resize="squash",
            grid=GRID,
            pooling="mean",
            logit_scale=10.0,
            logit_bias=0.0,
            fingerprint=hashlib.sha256(text.encode()).hexdigest(),
        )

    @property
    def image_tower(self) -> FakeTower:
        """The trainable module."""
        return self._tower

    def preprocess(self, image: Image.Image) -> Tensor:
        """Squash one image to uint8 (3,8,8)."""
        return preprocess_image(image, spec=self.spec)

    def _pixels(self, image_BCHW: Tensor) -> Tensor:
        weight = self._tower.mix.weight
        return normalise(image_BCHW.to(weight.device), spec=self.spec, dtype=weight.dtype)

    def encode_image(self, image_BCHW: Tensor) -> Tensor:
        """Embed images (B,3,8,8), uint8 or float in [0, 1]: unit (B,6), zero for a black image."""
        return functional.normalize(self._tower(self._pixels(image_BCHW)).float(), dim=-1)

    def encode_text(self, texts: list[str]) -> Tensor:
        """Embed texts by the first two colours they name: unit (T,6).

        The first is the object's, the second the background's; black where none is named, and all
        six numbers equal where a text names no colour at all.
        """
        rows = torch.ones(len(texts), 6)
        for row, text in zip(rows, texts, strict=True):
            named = [COLOURS[word] for word in re.findall(r"\w+", text.lower()) if word in COLOURS]
            if named:
                black = (0.0, 0.0, 0.0)
                first, second = [*named, black][:2]
                row.copy_(torch.tensor(first + second))
        return functional.normalize(rows, dim=-1).to(self._tower.mix.weight.device)

    def tokens(self, image_BCHW: Tensor) -> Tokens:
        """Return the patches: their mean colour, and 1 where the patch is the object's."""
        return Tokens(self._tower.tokens(self._pixels(image_BCHW)), 0, GRID)

    def run(self, tokens: Tokens) -> Tokens:
        """Return the tokens as they are; this tower has no blocks."""
        return tokens

    def pool(self, tokens: Tokens) -> Tensor:
        """Average the tokens that are left: unit (B,6)."""
        return functional.normalize(self._tower.pool(tokens.values).float(), dim=-1)

    def last_attention(self, tokens: Tokens) -> Attention:
        """Return two heads, one evenly over the object, one evenly over the background."""
        colour, where = tokens.values[..., :3], tokens.values[..., 3:]
        key = torch.stack([where, where], dim=1)
        # exp(-1e4) is 0 in every float type, so each head sees its own patches and no other.
        sign = key.new_tensor([1e4, -1e4]).view(1, 2, 1, 1)
        query = sign.expand(len(key), 2, 1, 1)
        weight = (query @ key.transpose(-1, -2)).softmax(dim=-1)
        value = torch.stack([colour, colour], dim=1)
        mixed = (weight @ value).transpose(1, 2).flatten(2)
        return Attention(query, key, value, weight, self._tower.mix(mixed))

    def encode_regions(self, image_BCHW: Tensor, boxes: list[Tensor]) -> list[Tensor]:
        """Cut the boxes out, enlarge them to 8 x 8 and embed them: a list of unit (R_i,6)."""
        pixels = self._pixels(image_BCHW)
        found = []
        for image, rows in zip(pixels, boxes, strict=True):
            crops = [
                functional.interpolate(image[None, :, y0:y1, x0:x1], (SIDE, SIDE), mode="nearest")
                for x0, y0, x1, y1 in rows.round().long().tolist()
            ]
            found.append(self.encode_image(torch.cat(crops)) if crops else pixels.new_zeros(0, 6))
        return found

    def place(
        self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> FakeEncoder:
        """Return an independent copy on a device, its weights cast to `dtype`."""
        return FakeEncoder(tower=copy.deepcopy(self._tower).to(device=device, dtype=dtype))

    def with_image_tower(self, state: dict[str, Tensor]) -> FakeEncoder:
        """Return a copy that holds trained tower weights."""
        tower = copy.deepcopy(self._tower)
        tower.load_state_dict(state)
        return FakeEncoder(tower=tower)

    def save(self, folder: Path) -> None:
        """Write `fake_encoder.safetensors` and `fake_encoder.json` into a folder."""
        with replacing_folder(folder) as part:
            write_weights(self._tower, part / "fake_encoder.safetensors")
            (part / "fake_encoder.json").write_text(json.dumps(dataclasses.asdict(self.spec)))

    @classmethod
    def load(cls, folder: Path) -> FakeEncoder:
        """Read an encoder that `save` wrote."""
        state = safetensors.torch.load_file(folder / "fake_encoder.safetensors")
        return cls().with_image_tower(state)
