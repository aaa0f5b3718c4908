"""Clusters of embeddings by k-medoids under cosine distance, as RaVL needs them (ravl.txt 3.1).

`CosineMedoids` is an estimator with the interface of scikit-learn. How many clusters: a number, or
a range of which the mean silhouette picks one (RaVL: 2|Y| to 5|Y| for |Y| classes, D.1). One matrix
of distances serves the whole range, each number of clusters starts from the medoids of the number
before, and the best fit is kept, not made again. Above some 8,000 rows the matrix is too large, and
medoids are found on samples instead (CLARA, Kaufman and Rousseeuw 1990, as RaVL does on SUN397).

Points that the paper leaves open, or that its code decides otherwise:
- The distance is 1 - cosine, from 0 to 2. RaVL's code clips it to 1, so that all rows more than a
  right angle apart tie. That is an option (`clip`), off by default: the paper does not say so, and
  embeddings of CLIP, where few cosines are negative, cluster alike either way.
- The range includes its upper end, as in the paper; RaVL's code leaves that out.
- Of equal silhouettes the smaller number of clusters wins. If no silhouette is above 0, the best of
  them still decides.
- A row of zeros has no direction. It is at distance 1 from all others and at 0 from its like.
- Distances below 1e-6, the error of a product in single precision, are 0: such rows are duplicates.
  Where fewer rows are distinct than there should be clusters, there are fewer clusters; none is
  empty.

Shape letters: N rows, D coordinates, K clusters.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from fieldmark.core.seeds import generator
from fieldmark.discovery.medoids import (
    Floats,
    Indices,
    Medoids,
    alternate,
    extend,
    find_medoids,
    group_columns,
    sum_by_cluster,
    swap,
)

Range = int | tuple[int, int]

_SAME = 1e-6
_TIE = 1e-6
_LEAST_SAMPLE = 2000
# Rows of a matrix of distances that are worked on at once hold this many numbers.
_BLOCK = 2**20


class Nearest(NamedTuple):
    """Each row's nearest medoid, as a place in the list of medoids, and how far it is."""

    labels: Indices
    distances: Floats


class Trial(NamedTuple):
    """One number of clusters: how many there are, their mean silhouette and their objective."""

    n_clusters: int
    silhouette: float
    inertia: float


class _Fit(NamedTuple):
    indices: Indices
    trials: tuple[Trial, ...]


def _iterate_blocks(rows: int, columns: int) -> Iterator[slice]:
    size = max(1, _BLOCK // columns)
    return (slice(start, start + size) for start in range(0, rows, size))


def _to_directions(X_ND: Floats) -> Floats:
    """Scale rows to length 1 in float32; one more coordinate is 1 for rows of zeros, else 0."""
    largest = np.abs(X_ND).max(axis=1, keepdims=True)
    zero = largest[:, 0] == 0
    # Dividing by the largest first keeps huge and tiny rows within range.
    scaled = X_ND.astype(np.float64) / np.where(largest == 0, 1, largest)
    lengths = np.linalg.norm(scaled, axis=1, keepdims=True)
    directions = scaled / np.where(lengths == 0, 1, lengths)
    return np.column_stack([directions, zero]).astype(np.float32)


def _to_distances(cosines: Floats, *, clip: bool) -> None:
    """Turn cosines into distances in place, a block of rows at a time."""
    for rows in _iterate_blocks(len(cosines), cosines.shape[1]):
        block = cosines[rows]
        np.subtract(1, block, out=block)
        block[block < _SAME] = 0
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
    directions = _to_directions(np.atleast_2d(np.asarray(X_ND)))
    distances = directions @ directions.T
    _to_distances(distances, clip=clip)
    np.fill_diagonal(distances, 0)
    return distances


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
    for rows in _iterate_blocks(*distances_NN.shape):
        sums = sum_by_cluster(distances_NN[rows], grouping).astype(np.float64)
        silhouettes[rows] = _compare(sums, labels[rows], counts)
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


def find_nearest(X_ND: ArrayLike, centers_KD: ArrayLike, *, clip: bool = False) -> Nearest:
    """Assign rows to the nearest of given centers by cosine distance; of equals the first.

    Example:
        >>> find_nearest([[3.0, 1.0], [0.0, 2.0]], [[0.0, 1.0], [1.0, 0.0]]).labels.tolist()
        [1, 0]
    """
    rows_ND = _to_directions(np.atleast_2d(np.asarray(X_ND)))
    centers_KD = _to_directions(np.atleast_2d(np.asarray(centers_KD)))
    labels = np.empty(len(rows_ND), dtype=np.intp)
    distances = np.empty(len(rows_ND), dtype=np.float32)
    for rows in _iterate_blocks(len(rows_ND), len(centers_KD)):
        block = rows_ND[rows] @ centers_KD.T
        _to_distances(block, clip=clip)
        labels[rows] = block.argmin(axis=1)
        distances[rows] = np.take_along_axis(block, labels[rows, None], axis=1)[:, 0]
    return Nearest(labels, distances)


def _try(distances_NN: Floats, found: Medoids) -> Trial:
    labels = distances_NN[found.indices].argmin(axis=0)
    silhouette = float(compute_silhouettes(distances_NN, labels).mean())
    return Trial(len(found.indices), silhouette, found.objective)


def _sweep(distances_NN: Floats, low: int, high: int, *, random: np.random.Generator) -> _Fit:
    """Fit every number of clusters from low to high; keep the one with the best silhouette."""
    found = find_medoids(distances_NN, low, random=random)
    trials, best = [_try(distances_NN, found)], found
    score = trials[0].silhouette
    while len(found.indices) < high:
        seeds = extend(distances_NN, found.indices, len(found.indices) + 1, random=random)
        if len(seeds) == len(found.indices):
            break
        found = swap(distances_NN, alternate(distances_NN, seeds))
        trials.append(_try(distances_NN, found))
        if trials[-1].silhouette > score + _TIE:
            best, score = found, trials[-1].silhouette
    return _Fit(best.indices, tuple(trials))


def _fit_samples(
    X_ND: Floats, n_clusters: int, *, samples: int, size: int, clip: bool, seed: int
) -> _Fit:
    """CLARA: find medoids of samples, keep those with the least objective over all rows.

    From the second on, a sample includes the best medoids so far.
    """
    best, least = np.empty(0, dtype=np.intp), np.inf
    for number in range(samples):
        random = generator(seed, "medoids", number)
        others = np.setdiff1d(np.arange(len(X_ND)), best)
        further = min(len(others), size - len(best))
        drawn = np.concatenate([best, random.choice(others, further, replace=False)])
        distances = compute_cosine_distances(X_ND[drawn], clip=clip)
        found = np.sort(drawn[find_medoids(distances, n_clusters, random=random).indices])
        inertia = find_nearest(X_ND, X_ND[found], clip=clip).distances.sum(dtype=np.float64)
        if inertia < least:
            best, least = found, inertia
    return _Fit(best, (Trial(len(best), float("nan"), float(least)),))


# scikit-learn has no types, and its checks and `clone` want its base classes.
class CosineMedoids(ClusterMixin, BaseEstimator):  # type: ignore[misc]
    """k-medoids of embeddings under cosine distance, with the interface of scikit-learn.

    Args:
        n_clusters: how many, or (lowest, highest) from which the mean silhouette chooses.
        clip: distances of at most 1, as in RaVL's code, instead of at most 2.
        sample_above: with more rows than this, medoids are found on samples (CLARA); then
            `n_clusters` must be one number. Up to it, a matrix of N x N float32 is held.
        samples: how many samples CLARA tries.
        sample_rows: rows of a sample, at least as many as clusters; None is 80 + 4 K as Schubert
            and Rousseeuw advise, but at least 2,000, which costs little here and finds better ones.
        random_state: seed, 0 or more.

    Attributes:
        labels_: (N,) clusters from 0 on, none empty.
        medoid_indices_: (K,) row numbers of the medoids, ascending.
        cluster_centers_: (K,D) those rows.
        inertia_: sum over rows of the distance to the nearest medoid.
        n_clusters_: K; below what was asked for where fewer rows are distinct.
        silhouette_: mean silhouette, NaN where there is one cluster or CLARA was used.
        trials_: what each number of clusters that was tried came to.

    Example:
        >>> X = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [-1.0, 0.0]])
        >>> found = CosineMedoids((2, 4)).fit(X)
        >>> found.labels_.tolist(), found.medoid_indices_.tolist()
        ([0, 0, 1, 1, 2], [0, 2, 4])
        >>> found.predict([[0.2, 3.0]]).tolist()
        [1]
    """

    labels_: Indices
    medoid_indices_: Indices
    cluster_centers_: NDArray[Any]
    inertia_: float
    n_clusters_: int
    silhouette_: float
    trials_: tuple[Trial, ...]

    def __init__(
        self,
        n_clusters: Range = 8,
        *,
        clip: bool = False,
        sample_above: int = 8000,
        samples: int = 5,
        sample_rows: int | None = None,
        random_state: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.clip = clip
        self.sample_above = sample_above
        self.samples = samples
        self.sample_rows = sample_rows
        self.random_state = random_state

    def _check_range(self, rows: int) -> tuple[int, int]:
        asked = self.n_clusters
        bounds = (asked, asked) if isinstance(asked, Integral) else tuple(asked)
        if len(bounds) != 2 or not all(isinstance(bound, Integral) for bound in bounds):
            raise ValueError(f"n_clusters must be a number or (lowest, highest), got {asked!r}")
        low, high = int(bounds[0]), int(bounds[1])
        if not 1 <= low <= high:
            raise ValueError(f"n_clusters must be 1 or more and ascend, got {asked!r}")
        if rows < low:
            raise ValueError(f"n_samples={rows} should be >= n_clusters={low}")
        if rows > self.sample_above and low < high:
            raise ValueError(
                f"n_samples={rows} is more than sample_above={self.sample_above}, where n_clusters "
                f"must be one number, got {asked!r}"
            )
        return low, min(high, rows)

    def _check_samples(self, low: int) -> None:
        if self.samples < 1:
            raise ValueError(f"samples must be 1 or more, got {self.samples!r}")
        if self.sample_rows is not None and self.sample_rows < low:
            raise ValueError(f"sample_rows={self.sample_rows} should be >= n_clusters={low}")

    def _find(self, values: Floats, low: int, high: int) -> _Fit:
        if len(values) > self.sample_above:
            size = self.sample_rows or max(_LEAST_SAMPLE, 80 + 4 * low)
            return _fit_samples(
                values,
                low,
                samples=self.samples,
                size=size,
                clip=self.clip,
                seed=self.random_state,
            )
        distances = compute_cosine_distances(values, clip=self.clip)
        return _sweep(distances, low, high, random=generator(self.random_state, "medoids"))

    def fit(self, X: ArrayLike, y: object = None) -> CosineMedoids:
        """Cluster embeddings (N,D).

        Args:
            X: embeddings of any length.
            y: not used; scikit-learn's interface wants it.

        Raises:
            ValueError: NaN or infinite values, fewer rows than clusters, a bad option.
        """
        values = validate_data(self, X, dtype=[np.float64, np.float32])
        low, high = self._check_range(len(values))
        self._check_samples(low)
        fit = self._find(values, low, high)
        self.medoid_indices_, self.trials_ = fit.indices, fit.trials
        self.cluster_centers_ = values[fit.indices]
        nearest = find_nearest(values, self.cluster_centers_, clip=self.clip)
        self.labels_ = nearest.labels
        self.inertia_ = float(nearest.distances.sum(dtype=np.float64))
        self.n_clusters_ = len(fit.indices)
        self.silhouette_ = next(
            trial.silhouette for trial in fit.trials if trial.n_clusters == self.n_clusters_
        )
        if self.n_clusters_ < low:
            warnings.warn(
                f"{self.n_clusters_} clusters instead of {low}: no more rows are distinct",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def predict(self, X: ArrayLike) -> Indices:
        """Return the nearest medoid of each embedding, (N,) from 0 on; of equals the first.

        Raises:
            NotFittedError: `fit` was not called.
            ValueError: NaN or infinite values, or another number of coordinates.
        """
        check_is_fitted(self)
        values = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return find_nearest(values, self.cluster_centers_, clip=self.clip).labels
