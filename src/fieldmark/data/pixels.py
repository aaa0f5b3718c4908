"""Images that are ready for an encoder, wherever they lie.

Shape letters: n images, b of them at a time, S the side of an image in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Ints = NDArray[np.int64]


class PixelSource(Protocol):
    """Square images of one size, such as `methods.images.TaskImages`."""

    def __len__(self) -> int:
        """How many there are, n."""
        ...

    def read(self, indices: Ints, /) -> Tensor:
        """Return some of them: uint8 (b,3,S,S)."""
        ...


@dataclass(frozen=True, eq=False)
class PixelArray:
    """Images in memory.

    Attributes:
        values: uint8 (n,3,S,S).

    Example:
        >>> images = PixelArray(torch.zeros(5, 3, 8, 8, dtype=torch.uint8))
        >>> len(images), tuple(images.read(np.array([1, 3])).shape)
        (5, (2, 3, 8, 8))
    """

    values: Tensor

    def __len__(self) -> int:
        return len(self.values)

    def read(self, indices: Ints, /) -> Tensor:
        """Return some of them: uint8 (b,3,S,S)."""
        return self.values[torch.from_numpy(indices)]
