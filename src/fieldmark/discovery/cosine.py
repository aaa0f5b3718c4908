"""Cosine distance between embeddings: 1 - cosine, from 0 to 2.

- It may be clipped to 1, as RaVL's code does, so that all rows more than a right angle apart tie.
- A row of zeros has no direction. It is at distance 1 from all others and at 0 from its like.
- Distances below 1e-6, the error of a product in single precision, are 0: such rows are duplicates.

Shape letters: N rows, D coordinates, K centers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fieldmark.discovery.grouping import Floats, Indices

_SAME = 1e-6
# Rows of a matrix of distances that are worked on at once hold this many numbers.
_BLOCK = 2**20


class Nearest(NamedTuple):
    """Each row's nearest medoid, as a place in the list of medoids, and how far it is."""

    labels: Indices
    distances: Floats

    @property
    def inertia(self) -> float:
        """Sum of the distances."""
        return float(self.distances.sum(dtype=np.float64))


def iterate_blocks(rows: int, columns: int) -> Iterator[slice]:
    """Cut the rows of a matrix into blocks that stay small in memory; at least a row each.

    Example:
        >>> list(iterate_blocks(3, 2**19))
        [slice(0, 2, None), slice(2, 4, None)]
    """
    size = max(1, _BLOCK // columns)
    return (slice(start, start + size) for start in range(0, rows, size))


def to_directions(X_ND: Floats) -> Floats:
    """Scale rows to length 1 in float32; one more coordinate is 1 for rows of zeros, else 0.

    Example:
        >>> to_directions(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929, 0.0], [0.0, 0.0, 1.0]]
    """
    largest = np.abs(X_ND).max(axis=1, keepdims=True)
    zero = largest[:, 0] == 0
    # Dividing by the largest first keeps huge and tiny rows within range.
    scaled = X_ND.astype(np.float64) / np.where(largest == 0, 1, largest)
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    directions = scaled / np.where(lengths == 0, 1, lengths)
    return np.column_stack([directions, zero]).astype(np.float32)


def _to_distances(cosines: Floats, *, clip: bool) -> None:
    """Turn cosines into distances in place, a block of rows at a time."""
    for rows in iterate_blocks(len(cosines), cosines.shape[1]):
        block = cosines[rows]
        np.subtract(1, block, out=block)
        block *= block >= _SAME
        np.minimum(block, 1 if clip else 2, out=block)


def compute_cosine_distances(X_ND: ArrayLike, *, clip: bool = False) -> Floats:
    """Return 1 - cosine of all pairs of rows, (N,N) float32, in one matrix without a copy.

    Args:
        X_ND: embeddings of any length; rows of zeros and duplicates as the module says.
        clip: at most 1, as in RaVL's code, instead of at most 2.

    Example:
        >>> compute_cosine_distances([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]).tolist()
        [[0.0, 1.0, 2.0], [1.0, 0.0, 1.0], [2.0, 1.0, 0.0]]
    """
    directions = to_directions(np.atleast_2d(np.asarray(X_ND)))
    distances = directions @ directions.T
    _to_distances(distances, clip=clip)
    np.fill_diagonal(distances, 0)
    return distances


def find_nearest(X_ND: ArrayLike, centers_KD: ArrayLike, *, clip: bool = False) -> Nearest:
    """Assign rows to the nearest of given centers by cosine distance; of equals the first.

    Example:
        >>> find_nearest([[3.0, 1.0], [0.0, 2.0]], [[0.0, 1.0], [1.0, 0.0]]).labels.tolist()
        [1, 0]
    """
    rows_ND = to_directions(np.atleast_2d(np.asarray(X_ND)))
    centers_KD = to_directions(np.atleast_2d(np.asarray(centers_KD)))
    labels = np.empty(len(rows_ND), dtype=np.intp)
    distances = np.empty(len(rows_ND), dtype=np.float32)
    for rows in iterate_blocks(len(rows_ND), len(centers_KD)):
        block = rows_ND[rows] @ centers_KD.T
        _to_distances(block, clip=clip)
        labels[rows] = block.argmin(axis=1)
        distances[rows] = np.take_along_axis(block, labels[rows, None], axis=1)[:, 0]
    return Nearest(labels, distances)
