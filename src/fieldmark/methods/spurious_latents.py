"""Which latents of a sparse autoencoder tell two poles apart: the mathematics of DIAL.

`methods.dial` says which step of the method each function is, and what was decided.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import erfc

from fieldmark.core.errors import NotApplicableError

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
BLOCK = 1024


def split_scores(scores: ArrayLike) -> NDArray[np.bool_]:
    """Return which of n scores are above the split in two with the least variance within (Otsu).

    Raises:
        NotApplicableError: all scores are equal.

    Example:
        >>> split_scores([0.1, 0.9, 0.2, 0.8, 0.15]).tolist()
        [False, True, False, True, False]
    """
    values = np.asarray(scores, np.float64)
    ordered = np.sort(values)
    if len(ordered) < 2 or ordered[0] == ordered[-1]:
        raise NotApplicableError("all images score alike on the pair of texts; they have no poles")
    low = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)
    means = sums[:-1] / low, (sums[-1] - sums[:-1]) / (len(ordered) - low)
    between = low * (len(ordered) - low) * (means[1] - means[0]) ** 2
    # Equal scores lie on one side.
    between[ordered[1:] == ordered[:-1]] = -1
    return np.asarray(values > ordered[between.argmax()])


def find_neighbours(X: NDArray[np.float32], k: int) -> Indices:
    """Return the k most similar other rows of each unit row (n,D): (n,k), in no order.

    Raises:
        NotApplicableError: there are no k others.

    Example:
        >>> rows = np.array([[1, 0], [0.8, 0.6], [0, 1]], np.float32)
        >>> find_neighbours(rows, 1).ravel().tolist()
        [1, 0, 1]
    """
    if len(X) < k + 1:
        raise NotApplicableError(
            f"DIAL looks at {k} neighbours of each image and needs at least {k + 1} images, "
            f"got {len(X)}"
        )
    found = []
    for start in range(0, len(X), BLOCK):
        similarity = X[start : start + BLOCK] @ X.T
        own = np.arange(len(similarity))
        similarity[own, own + start] = -np.inf
        found.append(np.argpartition(-similarity, k - 1, axis=1)[:, :k])
    return np.concatenate(found).astype(np.int64)


def select_candidates(
    classes: Indices, poles: NDArray[np.bool_], *, neighbours: Indices, alpha: float
) -> Indices:
    """Return the samples of greatest influence in each combination of pseudo-class and pole.

    Influence is the share of a sample's neighbours that have its pole but not its class.

    Args:
        classes: (n,) pseudo-classes.
        poles: (n,).
        neighbours: (n,k) rows.
        alpha: share kept of each combination, in (0, 1], rounded up.

    Example:
        >>> select_candidates(np.array([0, 0, 1, 1]), np.array([True, True, True, True]),
        ...     neighbours=np.array([[1], [2], [3], [2]]), alpha=0.5).tolist()
        [1, 2]
    """
    around = poles[neighbours] == poles[:, None]
    around &= classes[neighbours] != classes[:, None]
    influence = around.mean(axis=1)
    cells = 2 * classes + poles
    kept = []
    for cell in np.unique(cells):
        rows = np.flatnonzero(cells == cell)
        order = np.argsort(-influence[rows], kind="stable")
        kept.append(rows[order[: int(np.ceil(alpha * len(rows)))]])
    return np.sort(np.concatenate(kept))


def discover(z: ArrayLike, *, rate: float = 0.05) -> NDArray[np.bool_]:
    """Return which z scores are no chance, two-sided (Benjamini and Hochberg 1995).

    Args:
        z: (L,) standard normal where there is nothing; NaN counts as nothing.
        rate: false discovery rate in (0, 1).

    Example:
        >>> discover([5.0, 0.1, -4.0, 1.5]).tolist()
        [True, False, True, False]
    """
    p = np.nan_to_num(erfc(np.abs(np.asarray(z, np.float64)) / np.sqrt(2)), nan=1.0)
    ordered = np.sort(p)
    passed = np.flatnonzero(ordered <= rate * np.arange(1, len(p) + 1) / len(p))
    return np.asarray(p <= ordered[passed[-1]]) if len(passed) else np.zeros(len(p), bool)


@dataclass(frozen=True, eq=False, kw_only=True)
class Moments:
    """Summary of F features over G cells of samples.

    Attributes:
        count: (G,) samples.
        total: (G,F) sums.
        square: (G,F) sums of squares.
    """

    count: Floats
    total: Floats
    square: Floats

    def pool(self) -> Moments:
        """Return the two poles over all classes: from cells 2 c and 2 c + 1 to cells 0 and 1."""
        return Moments(
            count=self.count.reshape(-1, 2).sum(axis=0),
            total=self.total.reshape(-1, 2, self.total.shape[1]).sum(axis=0),
            square=self.square.reshape(-1, 2, self.square.shape[1]).sum(axis=0),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class PoleGap:
    """How two poles differ.

    Attributes:
        gap: (F,) mean of the second pole less that of the first.
        z: (F,) gap over its standard error; 0 where nothing varies.
        confounded: whether it was taken over all classes together.
    """

    gap: Floats
    z: Floats
    confounded: bool


def measure_cells(
    X: NDArray[np.float32],
    cells: Indices,
    *,
    number: int,
    features: Callable[[NDArray[np.float32]], NDArray[np.float32]],
) -> Moments:
    """Sum features over the samples of each cell, a block of samples at a time.

    Args:
        X: (n,D) samples.
        cells: (n,) in [0, number).
        number: G, cells in all.
        features: from (b,D) to (b,F). All n at once would take as much memory as n F numbers.

    Example:
        >>> samples = np.array([[1.0], [3.0], [5.0]], np.float32)
        >>> moments = measure_cells(samples, np.array([0, 1, 1]), number=2, features=lambda x: x)
        >>> moments.count.tolist(), moments.total.ravel().tolist()
        ([1.0, 2.0], [1.0, 8.0])
    """
    total, square = [], []
    for start in range(0, len(X), BLOCK):
        values = features(X[start : start + BLOCK])
        inside = np.eye(number, dtype=np.float32)[:, cells[start : start + BLOCK]]
        total.append((inside @ values).astype(np.float64))
        square.append((inside @ np.square(values)).astype(np.float64))
    return Moments(
        count=np.bincount(cells, minlength=number).astype(np.float64),
        total=np.sum(total, axis=0),
        square=np.sum(square, axis=0),
    )


def compare_poles(moments: Moments, *, least: int) -> PoleGap:
    """Compare the poles within classes, each class weighted by n_1 n_2 / (n_1 + n_2).

    Args:
        moments: cell 2 c is the first pole of class c, cell 2 c + 1 the second.
        least: a class with fewer samples of either pole is left out. If every class is, the poles
            are compared over all classes together.

    Example:
        >>> moments = Moments(count=np.array([2.0, 2.0]), total=np.array([[2.0], [6.0]]),
        ...                   square=np.array([[4.0], [20.0]]))
        >>> found = compare_poles(moments, least=2)
        >>> found.gap.tolist(), found.z.tolist(), found.confounded
        ([2.0], [2.0], False)
    """
    both = np.minimum(moments.count[0::2], moments.count[1::2]) >= least
    confounded = not both.any()
    if confounded:
        moments, both = moments.pool(), np.array([True])
    count = np.maximum(moments.count, 1)[:, None]
    mean = moments.total / count
    noise = np.maximum(moments.square / count - mean**2, 0) / count
    first, second = count[0::2][both], count[1::2][both]
    weights = first * second / (first + second)
    weights /= weights.sum()
    gap = (weights * (mean[1::2] - mean[0::2])[both]).sum(axis=0)
    spread = np.sqrt((weights**2 * (noise[1::2] + noise[0::2])[both]).sum(axis=0))
    z = np.divide(gap, spread, out=np.zeros_like(gap), where=spread > 0)
    return PoleGap(gap=gap, z=z, confounded=bool(confounded))


def align_classes(decoder: Floats, prototypes: Floats, *, contrast: Floats) -> Floats:
    """Return how far each decoder row goes with the classes, `contrast` set aside: (L,) in [0, 1].

    Args:
        decoder: (L,D) unit rows.
        prototypes: (C,D). Each less their mean is a class's own direction.
        contrast: (D,) unit.

    Example:
        >>> align_classes(np.eye(3), np.eye(3)[:2], contrast=np.eye(3)[2]).round(2).tolist()
        [0.71, 0.71, 0.0]
    """
    centred = prototypes - prototypes.mean(axis=0)
    centred = scale_to_unit(centred - np.outer(centred @ contrast, contrast))
    return np.asarray(np.abs(decoder @ centred.T).max(axis=1))


def scale_to_unit(rows: Floats) -> Floats:
    """Return rows (...,D) at unit length; a zero row stays zero.

    Example:
        >>> scale_to_unit(np.array([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6, 0.8], [0.0, 0.0]]
    """
    norms = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0))
