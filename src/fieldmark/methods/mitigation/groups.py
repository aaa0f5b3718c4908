"""Groups of images for mitigation, and batches that draw them evenly.

The paper's rivals upsample "minority subgroups; class and subgroup labels are derived from stage 1"
(ravl.txt D.2). Here a group is a set of labels, most often one class, with or without a spurious
region. Images without a label are two groups of their own.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fieldmark.core.seeds import generator
from fieldmark.methods.processes import Processes
from fieldmark.methods.training import Batch

Ints = NDArray[np.int64]


class _Reads(Protocol):
    def read(self, indices: Ints) -> Tensor: ...


def group_images(labels: NDArray[np.bool_], spurious: NDArray[np.bool_]) -> Ints:
    """Number the groups of images that occur, from 0.

    Args:
        labels: (n,Y) the labels of each image.
        spurious: (n,) whether an image has any spurious region.

    Returns:
        (n,) the group of each image.

    Example:
        >>> labels = np.array([[True, False], [False, True], [True, False], [False, True]])
        >>> group_images(labels, np.array([True, False, True, True])).tolist()
        [2, 0, 2, 1]
    """
    kinds = np.column_stack([labels, spurious])
    _, numbers = np.unique(kinds, axis=0, return_inverse=True)
    return np.asarray(numbers.reshape(-1), np.int64)


def weigh_rows(groups: Ints) -> NDArray[np.float64]:
    """Return the chance of each image where each group is as likely as any other: 1 / (G n_g).

    Args:
        groups: (n,) group ids, at least one.

    Example:
        >>> weigh_rows(np.array([0, 0, 0, 0, 1])).tolist()
        [0.125, 0.125, 0.125, 0.125, 0.5]
    """
    _, numbers, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return np.asarray(1 / (len(sizes) * sizes[numbers]))


class RowBatches:
    """A source of batches of images; the target of an image is its row.

    Args:
        pixels: of all images.
        rows: (n,) the rows to draw from.
        chances: (n,) chance of each to be drawn, with replacement; None shuffles them.
        batch_size: images a step; the last step of an epoch may have fewer.
        seed: seed of the run.
    """

    def __init__(
        self,
        pixels: _Reads,
        rows: Ints,
        *,
        chances: NDArray[np.float64] | None,
        batch_size: int,
        seed: int,
    ) -> None:
        self._pixels, self._rows, self._chances = pixels, rows, chances
        self._size, self._seed = batch_size, seed
        self._drawn: tuple[int, Ints] | None = None

    @property
    def steps_an_epoch(self) -> int:
        """How many steps an epoch has."""
        return -(-len(self._rows) // self._size)

    def order(self, epoch: int) -> Ints:
        """Return the rows (n,) of an epoch, which follow from the seed and its number alone."""
        if self._drawn is None or self._drawn[0] != epoch:
            random = generator(self._seed, "mitigation", epoch)
            if self._chances is None:
                drawn = random.permutation(self._rows)
            else:
                drawn = random.choice(self._rows, len(self._rows), p=self._chances)
            self._drawn = epoch, drawn
        return self._drawn[1]

    def draw(self, step: int, *, processes: Processes, device: torch.device) -> Batch:
        """Return a step, all of it: a contrastive loss is of whole batches."""
        epoch, position = divmod(step, self.steps_an_epoch)
        rows = self.order(epoch)[position * self._size : (position + 1) * self._size]
        image = self._pixels.read(rows)
        return Batch(image.to(device), torch.from_numpy(rows).to(device), len(rows))
