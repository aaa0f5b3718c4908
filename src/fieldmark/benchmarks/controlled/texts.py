"""Embed the captions and the classes of a setting, each distinct text once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fieldmark.models.encoder import Encoder
from fieldmark.models.prompts import ensemble_prompts

Floats = NDArray[np.float32]
_BATCH = 256


def embed_captions(encoder: Encoder, captions: Sequence[str]) -> Floats:
    """Return unit embeddings (n,D) of n captions.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> embed_captions(FakeEncoder(), ["a red cat", "a red cat"]).shape
        (2, 6)
    """
    distinct = list(dict.fromkeys(captions))
    place = {text: row for row, text in enumerate(distinct)}
    parts = []
    with torch.inference_mode():
        for start in range(0, len(distinct), _BATCH):
            part = encoder.encode_text(distinct[start : start + _BATCH])
            parts.append(part.float().cpu().numpy())
    return np.concatenate(parts)[[place[text] for text in captions]]


def embed_classes(encoder: Encoder, classes: Sequence[str], prompts: Sequence[str]) -> Floats:
    """Return the prompt ensemble of each class, unit (Y,D)."""
    with torch.inference_mode():
        made = ensemble_prompts(encoder, classes, prompts)
    return np.asarray(made.float().cpu().numpy())
