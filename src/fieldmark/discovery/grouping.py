"""Sums of a matrix's columns by cluster, which swaps and silhouettes are made of.

Shape letters: B rows, N columns, K clusters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Indices = NDArray[np.intp]

# From here on adding up sorted columns beats a product with one column a cluster.
_MANY_CLUSTERS = 128


class Grouping(NamedTuple):
    """Adds up columns by cluster: labels (N,), how many clusters, and what speeds it up."""

    labels: Indices
    n_clusters: int
    one_hot_NK: Floats | None
    order: Indices | None


def group_columns(labels: Indices, n_clusters: int, *, dtype: np.dtype[Any]) -> Grouping:
    """Prepare `sum_by_cluster` for labels (N,) from 0 to `n_clusters` - 1."""
    if n_clusters > _MANY_CLUSTERS:
        return Grouping(labels, n_clusters, None, np.argsort(labels, kind="stable"))
    one_hot = np.zeros((len(labels), n_clusters), dtype=dtype)
    one_hot[np.arange(len(labels)), labels] = 1
    return Grouping(labels, n_clusters, one_hot, None)


def sum_by_cluster(values_BN: Floats, grouping: Grouping) -> Floats:
    """Add up the columns of each cluster: (B,K); 0 where a cluster is empty.

    Example:
        >>> grouping = group_columns(np.array([1, 0, 1]), 2, dtype=np.dtype(float))
        >>> sum_by_cluster(np.array([[1.0, 2.0, 3.0]]), grouping).tolist()
        [[2.0, 4.0]]
    """
    if grouping.one_hot_NK is not None:
        return np.asarray(values_BN @ grouping.one_hot_NK)
    assert grouping.order is not None
    counts = np.bincount(grouping.labels, minlength=grouping.n_clusters)
    starts = np.cumsum(counts) - counts
    sums = np.zeros((len(values_BN), grouping.n_clusters), dtype=values_BN.dtype)
    # reduceat would give an empty cluster its neighbour's first column.
    filled = counts > 0
    sums[:, filled] = np.add.reduceat(values_BN[:, grouping.order], starts[filled], axis=1)
    return sums
