"""Silhouettes (Rousseeuw 1987) from sums of distances by cluster.

With a the mean distance of a row to the others of its cluster and b the least mean distance to
another cluster, its silhouette is (b - a) / max(a, b).

Shape letters: N rows, D coordinates, K clusters, B rows of a block.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.discovery.cosine import iterate_blocks, to_directions
from fieldmark.discovery.grouping import Floats, Indices, group_columns, sum_by_cluster


def compute_silhouettes(distances_NN: Floats, labels_N: ArrayLike) -> NDArray[np.float64]:
    """Return each row's silhouette (Rousseeuw 1987) by one product with one-hot labels.

    Args:
        distances_NN: symmetric, zero on the diagonal.
        labels_N: clusters from 0 on.

    Returns:
        Values in [-1,1]; 0 for a row alone in its cluster; all NaN where there is one cluster.

    Example:
        >>> apart = np.abs(np.subtract.outer([0.0, 1.0, 9.0], [0.0, 1.0, 9.0]))
        >>> compute_silhouettes(apart, [0, 0, 1]).round(3).tolist()
        [0.889, 0.875, 0.0]
    """
    labels = np.asarray(labels_N, dtype=np.intp)
    counts = np.bincount(labels)
    if np.count_nonzero(counts) < 2:
        return np.full(len(labels), np.nan)
    grouping = group_columns(labels, len(counts), dtype=distances_NN.dtype)
    silhouettes = np.empty(len(labels))
    for rows in iterate_blocks(*distances_NN.shape):
        sums = sum_by_cluster(distances_NN[rows], grouping).astype(np.float64)
        silhouettes[rows] = _compare(sums, labels[rows], counts)
    return silhouettes


def compute_cosine_silhouettes(X_ND: ArrayLike, labels_N: ArrayLike) -> NDArray[np.float64]:
    """Return silhouettes under unclipped cosine distance without a matrix of distances.

    The distances from a row e to the n rows of a cluster add up to n minus the product of e with
    the sum of those rows, which takes N D K steps instead of N N K.

    Args:
        X_ND: embeddings of any length.
        labels_N: clusters from 0 on.

    Returns:
        As `compute_silhouettes`.

    Example:
        >>> X = [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]
        >>> compute_cosine_silhouettes(X, [0, 0, 1]).round(3).tolist()
        [1.0, 1.0, 0.0]
    """
    directions = to_directions(np.atleast_2d(np.asarray(X_ND)))
    return compute_from_directions(directions, np.asarray(labels_N, dtype=np.intp))


def compute_from_directions(directions_ND: Floats, labels: Indices) -> NDArray[np.float64]:
    """Return `compute_cosine_silhouettes` of rows that `to_directions` has prepared."""
    counts = np.bincount(labels)
    if np.count_nonzero(counts) < 2:
        return np.full(len(labels), np.nan)
    grouping = group_columns(labels, len(counts), dtype=directions_ND.dtype)
    sums_KD = sum_by_cluster(directions_ND.T, grouping).T.astype(np.float64)
    silhouettes = np.empty(len(labels))
    for rows in iterate_blocks(len(labels), sum(sums_KD.shape)):
        block = directions_ND[rows].astype(np.float64)
        sums = counts - block @ sums_KD.T
        # In single precision a row is not quite at distance 0 from itself.
        sums[np.arange(len(block)), labels[rows]] -= 1 - np.square(block).sum(axis=1)
        silhouettes[rows] = _compare(sums, labels[rows], counts)
    return silhouettes


def compute_clipped_silhouettes(
    X_ND: ArrayLike, labels_N: ArrayLike, *, rows: ArrayLike
) -> NDArray[np.float64]:
    """Return silhouettes of some rows under cosine distance clipped to 1, by blocks.

    Args:
        X_ND: embeddings of any length.
        labels_N: clusters from 0 on.
        rows: (M,) row numbers; their distances to all N rows count.

    Returns:
        (M,) as `compute_silhouettes`.

    Example:
        >>> X = [[1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]]
        >>> compute_clipped_silhouettes(X, [0, 0, 1], rows=[0, 2]).tolist()
        [1.0, 0.0]
    """
    directions = to_directions(np.atleast_2d(np.asarray(X_ND)))
    labels, chosen = np.asarray(labels_N, dtype=np.intp), np.asarray(rows, dtype=np.intp)
    counts = np.bincount(labels)
    if np.count_nonzero(counts) < 2:
        return np.full(len(chosen), np.nan)
    grouping = group_columns(labels, len(counts), dtype=directions.dtype)
    silhouettes = np.empty(len(chosen))
    for part in iterate_blocks(len(chosen), len(labels)):
        block = chosen[part]
        distances = np.clip(1 - directions[block] @ directions.T, 0, 1)
        distances[np.arange(len(block)), block] = 0
        sums = sum_by_cluster(distances, grouping).astype(np.float64)
        silhouettes[part] = _compare(sums, labels[block], counts)
    return silhouettes


def _compare(sums_BK: NDArray[np.float64], own: Indices, counts_K: Indices) -> NDArray[np.float64]:
    """Return (b - a) / max(a, b) from each row's sum of distances to every cluster."""
    rows = np.arange(len(own))
    within = sums_BK[rows, own] / np.maximum(counts_K[own] - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = sums_BK / counts_K
    means[:, counts_K == 0] = np.inf
    means[rows, own] = np.inf
    between = means.min(axis=1)
    larger = np.maximum(within, between)
    # Alone, or all at distance 0: 0 by definition.
    undefined = (counts_K[own] == 1) | (larger == 0)
    return np.where(undefined, 0, (between - within) / np.where(larger == 0, 1, larger))
