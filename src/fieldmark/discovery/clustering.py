"""Clusters of embeddings by k-medoids under cosine distance, as RaVL needs them (ravl.txt 3.1).

`CosineMedoids` is an estimator with the interface of scikit-learn. How many clusters: a number, or
a range of which the mean silhouette picks one (RaVL: 2|Y| to 5|Y| for |Y| classes, D.1). One matrix
of distances serves the whole range, each number of clusters starts from the medoids of the number
before, and the best fit is kept and swapped to its local optimum, not made again. Above some 8,000
rows the matrix is too large, and medoids are found on samples instead (CLARA, Kaufman and
Rousseeuw 1990, as RaVL does on SUN397).

Points that the paper leaves open, or that its code decides otherwise:
- RaVL's code clips the distance to 1. That is an option (`clip`), off by default: the paper does
  not say so, and embeddings of CLIP, where few cosines are negative, cluster alike either way.
- The range includes its upper end, as in the paper; RaVL's code leaves that out.
- Of equal silhouettes (to 1e-6) the smaller number of clusters wins. If none is above 0, the best
  still decides.
- Where fewer rows are distinct than there should be clusters, there are fewer clusters; none is
  empty. What is distinct, and rows of zeros: `cosine.py`.

Shape letters: N rows, D coordinates, K clusters.
"""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted, validate_data

from fieldmark.core.seeds import generator
from fieldmark.discovery.cosine import (
    Nearest,
    compute_cosine_distances,
    find_nearest,
    to_directions,
)
from fieldmark.discovery.grouping import Floats, Indices
from fieldmark.discovery.medoids import Medoids, extend, find_medoids, swap, swap_nearby
from fieldmark.discovery.silhouettes import (
    compute_clipped_silhouettes,
    compute_cosine_silhouettes,
    compute_from_directions,
    compute_silhouettes,
)

Range = int | tuple[int, int]

_TIE = 1e-6
_LEAST_SAMPLE = 2000
# Clipped distances do not add up by cluster without forming them, so above this many rows the mean
# silhouette of CLARA is that of a sample of rows.
_SILHOUETTES = 2000
# One round through this share instead of swaps to the end takes a third of the time and left the
# objective 0.03 % higher (4,000 rows, k 31 to 37).
_NEARBY = 0.5


class Trial(NamedTuple):
    """One number of clusters: how many there are, their mean silhouette and their objective."""

    n_clusters: int
    silhouette: float
    inertia: float


class _Fit(NamedTuple):
    indices: Indices
    trials: tuple[Trial, ...]


def _try(distances_NN: Floats, found: Medoids, *, directions_ND: Floats | None) -> Trial:
    labels = distances_NN[found.indices].argmin(axis=0)
    if directions_ND is None:
        silhouettes = compute_silhouettes(distances_NN, labels)
    else:
        silhouettes = compute_from_directions(directions_ND, labels)
    return Trial(len(found.indices), float(silhouettes.mean()), found.objective)


def _sweep(X_ND: Floats, low: int, high: int, *, clip: bool, random: np.random.Generator) -> _Fit:
    """Fit every number of clusters from low to high; swap to the end at the best silhouette."""
    distances = compute_cosine_distances(X_ND, clip=clip)
    clipped = clip and distances.max() >= 1
    directions = None if clipped else to_directions(X_ND)
    found = find_medoids(distances, low, random=random)
    trials, best = [_try(distances, found, directions_ND=directions)], found
    score = trials[0].silhouette
    while len(found.indices) < high:
        seeds = extend(distances, found.indices, len(found.indices) + 1, random=random)
        if len(seeds) == len(found.indices):
            break
        found = swap_nearby(distances, seeds, share=_NEARBY)
        trials.append(_try(distances, found, directions_ND=directions))
        if np.isnan(score) or trials[-1].silhouette > score + _TIE:
            best, score = found, trials[-1].silhouette
    if len(best.indices) > low:
        best = swap(distances, best.indices)
        trials[len(best.indices) - low] = _try(distances, best, directions_ND=directions)
    return _Fit(best.indices, tuple(trials))


def _fit_samples(
    X_ND: Floats, n_clusters: int, *, samples: int, size: int, clip: bool, seed: int
) -> _Fit:
    """CLARA: find medoids of samples, keep those with the least objective over all rows.

    From the second on, a sample includes the best medoids so far.
    """
    best, least = np.empty(0, dtype=np.intp), Nearest(np.empty(0, np.intp), np.array([np.inf]))
    for number in range(samples):
        random = generator(seed, "medoids", number)
        others = np.setdiff1d(np.arange(len(X_ND)), best)
        further = min(len(others), size - len(best))
        drawn = np.concatenate([best, random.choice(others, further, replace=False)])
        distances = compute_cosine_distances(X_ND[drawn], clip=clip)
        found = np.sort(drawn[find_medoids(distances, n_clusters, random=random).indices])
        nearest = find_nearest(X_ND, X_ND[found], clip=clip)
        if nearest.inertia < least.inertia:
            best, least = found, nearest
    if clip:
        random = generator(seed, "silhouettes")
        size = min(len(X_ND), _SILHOUETTES)
        rows = np.sort(random.choice(len(X_ND), size, replace=False))
        silhouettes = compute_clipped_silhouettes(X_ND, least.labels, rows=rows)
    else:
        silhouettes = compute_cosine_silhouettes(X_ND, least.labels)
    silhouette = float(silhouettes.mean())
    return _Fit(best, (Trial(len(best), silhouette, least.inertia),))


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
        silhouette_: mean silhouette, NaN with one cluster; with CLARA and clipped distances over
            2,000 rows drawn at random.
        trials_: what each number of clusters that was tried came to. The lowest and the chosen one
            are local optima; the others were swapped once among the half of the rows nearest to
            the medoid that they added.

    Example:
        >>> X = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9], [-1.0, 0.0]])
        >>> found = CosineMedoids((2, 4)).fit(X)
        >>> found.labels_.tolist(), found.n_clusters_
        ([0, 0, 1, 1, 2], 3)
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
        bounds = asked if isinstance(asked, tuple | list) else (asked, asked)
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
        random = generator(self.random_state, "medoids")
        return _sweep(values, low, high, clip=self.clip, random=random)

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
        self.trials_ = fit.trials
        self.silhouette_ = next(
            trial.silhouette for trial in fit.trials if trial.n_clusters == len(fit.indices)
        )
        self._keep(values, fit.indices)
        if self.n_clusters_ < low:
            warnings.warn(
                f"{self.n_clusters_} clusters instead of {low}: no more rows are distinct",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def _keep(self, values: Floats, indices: Indices) -> None:
        """Set what belongs to these medoids, less those whose rows are all as near to another.

        That takes medoids within 1e-6 of each other, whose other distances differ.
        """
        labels = find_nearest(values, values[indices], clip=self.clip).labels
        self.medoid_indices_ = indices[np.unique(labels)]
        self.cluster_centers_ = values[self.medoid_indices_]
        nearest = find_nearest(values, self.cluster_centers_, clip=self.clip)
        self.labels_, self.inertia_ = nearest.labels, nearest.inertia
        self.n_clusters_ = len(self.medoid_indices_)

    def predict(self, X: ArrayLike) -> Indices:
        """Return the nearest medoid of each embedding, (N,) from 0 on; of equals the first.

        Raises:
            NotFittedError: `fit` was not called.
            ValueError: NaN or infinite values, or another number of coordinates.
        """
        check_is_fitted(self)
        values = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        return find_nearest(values, self.cluster_centers_, clip=self.clip).labels
