"""The linear maps that ship with fieldmark and give an image tower words (`heads/`).

`recipes/distil_text_head.py` makes them; what out of is in the JSON file beside each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from torch import Tensor

from fieldmark.core.atomic import hash_file
from fieldmark.core.errors import ChecksumError


@dataclass(frozen=True, kw_only=True)
class Head:
    """The linear map from image features to the space of the sentence encoder.

    Attributes:
        projection: (features, D).
        bias: (D,).
        logit_scale: natural logarithm of the scale of the logits, as open_clip keeps it.
        facts: what is in the head's JSON file: how it was made and out of what.
    """

    projection: Tensor
    bias: Tensor
    logit_scale: float
    facts: Mapping[str, Any] = field(repr=False)


def read_head(name: str) -> Head:
    """Read the shipped text head of a packaged encoder.

    Raises:
        ChecksumError: the head is not the one that its JSON file describes.

    Example:
        >>> read_head("dinov2-small").projection.shape
        torch.Size([384, 384])
    """
    from safetensors.torch import load

    folder = resources.files("fieldmark.models") / "heads"
    facts = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    with resources.as_file(folder / f"{name}.safetensors") as path:
        if hash_file(path) != facts["sha256"]:
            raise ChecksumError(
                f"is not the head that {name}.json describes",
                where=path,
                mend="install fieldmark again",
            )
        tensors = load(path.read_bytes())
    return Head(
        projection=tensors["projection"].float(),
        bias=tensors["bias"].float(),
        logit_scale=float(tensors["logit_scale"]),
        facts=facts,
    )
