"""Shuffles that move whole units, for permutation tests on values that hang together.

Images of one object, or before one scene, are right or wrong together. A test that moves each image
by itself takes them for independent, and finds too much.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def shuffle_units(units: NDArray[np.generic], *, size: int, random: np.random.Generator) -> Ints:
    """Draw which value comes to which place when whole units change places.

    The values of a unit come in a random order. A smaller unit takes some of those of a larger, a
    larger one takes those of a smaller more than once, so that no unit is cut where its values go.
    With units of one value each it is a plain permutation.

    Args:
        units: (m,) the unit of each value.
        size: how many shuffles.
        random: where chance comes from.

    Returns:
        (size,m) index of the value that comes to each place.

    Example:
        >>> drawn = shuffle_units(np.array([0, 0, 5, 5]), size=9, random=np.random.default_rng(0))
        >>> {tuple(sorted(row[:2])) for row in drawn.tolist()} == {(0, 1), (2, 3)}
        True
    """
    count = len(units)
    order = random.permuted(np.tile(np.arange(count), (size, 1)), axis=1)
    _, own, sizes = np.unique(units, return_inverse=True, return_counts=True)
    if len(sizes) == count:
        return np.asarray(order, np.int64)
    place = np.argsort(own, kind="stable")
    starts = np.cumsum(sizes) - sizes
    # In each row the values of unit u stand at starts[u] and after, in a random order.
    grouped = np.take_along_axis(order, np.argsort(own[order], axis=1, kind="stable"), axis=1)
    at = own[place]
    donor = random.permuted(np.tile(np.arange(len(sizes)), (size, 1)), axis=1)[:, at]
    taken = starts[donor] + (np.arange(count) - starts[at]) * sizes[donor] // sizes[at]
    drawn = np.empty((size, count), np.int64)
    drawn[:, place] = np.take_along_axis(grouped, taken, axis=1)
    return drawn
