"""Maps that know nothing: noise, and a bump in the middle. Every method must beat both."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fieldmark.attribution.maps import Maps, Subject, find_grid
from fieldmark.core.seeds import generator

# Standard deviation of the bump, as a share of each side: objects in photographs fill about half.
SPREAD = 0.25


def explain_at_random(subject: Subject) -> Maps:
    """Return normal noise, drawn by seed and image id and the same for all texts.

    Example:
        >>> from fieldmark.attribution.config import AttributionConfig
        >>> from fieldmark.testing import FakeEncoder
        >>> encoder, images = FakeEncoder(), torch.ones(2, 3, 8, 8)
        >>> maps = explain_at_random(Subject(
        ...     encoder=encoder, images=images, texts=encoder.encode_text(["red", "blue"]),
        ...     config=AttributionConfig(), ids=("a", "a")))
        >>> maps.values.shape, bool((maps.values == maps.values[0, 0]).all())
        (torch.Size([2, 2, 4, 4]), True)
    """
    grid = find_grid(subject.encoder, subject.images)
    drawn = [
        generator(subject.config.seed, "random map", name).standard_normal(grid)
        for name in subject.ids
    ]
    return _share(torch.from_numpy(np.stack(drawn)), texts=len(subject.texts))


def explain_by_centre(subject: Subject) -> Maps:
    """Return a Gaussian in the middle of the image, a quarter of each side wide.

    Example:
        >>> from fieldmark.attribution.config import AttributionConfig
        >>> from fieldmark.testing import FakeEncoder
        >>> encoder, images = FakeEncoder(), torch.ones(1, 3, 8, 8)
        >>> maps = explain_by_centre(Subject(
        ...     encoder=encoder, images=images, texts=encoder.encode_text(["red"]),
        ...     config=AttributionConfig(), ids=("a",)))
        >>> [round(value, 3) for value in maps.values[0, 0, 0].tolist()]
        [0.105, 0.287, 0.287, 0.105]
    """
    rows, columns = (
        torch.exp(-0.5 * (((torch.arange(side) + 0.5) / side - 0.5) / SPREAD) ** 2)
        for side in find_grid(subject.encoder, subject.images)
    )
    bump = torch.outer(rows, columns).expand(len(subject), -1, -1)
    return _share(bump, texts=len(subject.texts))


def _share(maps_Bhw: Tensor, *, texts: int) -> Maps:
    """Give every text the map of its image; no forward was spent."""
    return Maps(values=maps_Bhw[:, None].expand(-1, texts, -1, -1).float().contiguous())
