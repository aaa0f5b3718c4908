"""k-medoids on a matrix of dissimilarities by FasterPAM (Schubert and Rousseeuw 2021).

A medoid is the row of a cluster with the least sum of dissimilarities to the others, so that unlike
a mean it is always something that can be looked at. The objective is the sum over rows of the
dissimilarity to the nearest medoid.

`find_medoids` seeds with k-medoids++, moves every medoid within its cluster until none moves
(`alternate`, which is all that RaVL's code does), and then swaps a medoid for a row outside
wherever that lowers the objective, until no single swap does (`swap`). So it is never worse than
`alternate` from the same seeds. Swaps are eager, as in FasterPAM: each is made when it is found.
What differs from the paper: a whole block of candidate rows is screened at once in the precision of
the matrix, and only those that look better are weighed one by one, in double precision.

With nearest and second nearest dissimilarity d1 and d2, replacing medoid i by row c changes the
objective by

    sum_o min(d_oc, d1_o) - d1_o   +   sum_{o of i} min(d_oc, d2_o) - min(d_oc, d1_o).

Shape letters: N rows, K medoids, B candidate rows of a block.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np

from fieldmark.core.errors import InputError
from fieldmark.discovery.grouping import Floats, Grouping, Indices, group_columns, sum_by_cluster

# A block of candidates stays in the cache at this many numbers.
_BLOCK = 2**18
# A swap that gains less of the objective may be nothing but rounding.
_GAIN = 1e-10


class Assignment(NamedTuple):
    """Each row's two nearest medoids, as places in the list of medoids, and how far they are.

    With one medoid the second is the first again, at infinity.
    """

    nearest: Indices
    second: Indices
    first_distance: Floats
    second_distance: Floats


class Medoids(NamedTuple):
    """Medoids (K,) as row numbers, ascending; the objective; and how many swaps it took."""

    indices: Indices
    objective: float
    swaps: int


def _check(distances_NN: Floats, n_clusters: int) -> None:
    shape = distances_NN.shape
    if len(shape) != 2 or shape[0] != shape[1]:
        raise InputError(f"dissimilarities have shape {shape}, expected a square matrix")
    if not 1 <= n_clusters <= shape[0]:
        raise InputError(f"{n_clusters} clusters of {shape[0]} rows", mend="ask for 1 to all rows")
    # One number tells of any NaN or infinity without a matrix of booleans.
    if not np.isfinite(distances_NN.sum(dtype=np.float64)) or distances_NN.min() < 0:
        raise InputError("dissimilarities must be finite and not negative")


def _extend(
    distances_NN: Floats, nearest_N: Floats, *, trials: int, random: np.random.Generator
) -> int | None:
    """Draw rows with probability by squared dissimilarity; return the one that helps most."""
    weights = np.square(nearest_N, dtype=np.float64)
    total = weights.sum()
    if total <= 0:
        return None
    drawn = np.searchsorted(np.cumsum(weights), random.random(trials) * total, side="right")
    drawn = np.minimum(drawn, np.flatnonzero(weights)[-1])
    left = np.minimum(distances_NN[drawn], nearest_N).sum(axis=1, dtype=np.float64)
    return int(drawn[left.argmin()])


def initialise(distances_NN: Floats, n_clusters: int, *, random: np.random.Generator) -> Indices:
    """Choose medoids by k-medoids++: k-means++ (Arthur and Vassilvitskii 2007) on dissimilarities.

    The first is drawn evenly, each further one with probability by the squared dissimilarity to the
    nearest so far, the best of 2 + floor(ln K) draws.

    Args:
        distances_NN: symmetric, not negative, zero on the diagonal.
        n_clusters: K, from 1 to N.
        random: draws the seeds.

    Returns:
        Row numbers in the order of choice: K, or fewer where fewer rows are distinct.

    Raises:
        InputError: a bad matrix or number of clusters.

    Example:
        >>> apart = np.abs(np.subtract.outer([0.0, 0.0, 5.0], [0.0, 0.0, 5.0]))
        >>> len(initialise(apart, 3, random=np.random.default_rng(0)))
        2
    """
    _check(distances_NN, n_clusters)
    first = int(random.integers(len(distances_NN)))
    return extend(distances_NN, np.array([first]), n_clusters, random=random)


def extend(
    distances_NN: Floats, medoids_K: Indices, n_clusters: int, *, random: np.random.Generator
) -> Indices:
    """Go on with k-medoids++ from given medoids until there are `n_clusters`.

    Args:
        distances_NN: as for `initialise`, not checked again.
        medoids_K: at least one row number.
        n_clusters: how many there shall be.
        random: draws the seeds.

    Returns:
        The medoids given and the further ones; fewer where fewer rows are distinct.

    Example:
        >>> apart = np.abs(np.subtract.outer([0.0, 1.0, 9.0], [0.0, 1.0, 9.0]))
        >>> extend(apart, np.array([0]), 2, random=np.random.default_rng(0)).tolist()
        [0, 2]
    """
    medoids = [int(medoid) for medoid in medoids_K]
    nearest = distances_NN[medoids].min(axis=0)
    trials = 2 + int(np.log(n_clusters))
    while len(medoids) < n_clusters:
        further = _extend(distances_NN, nearest, trials=trials, random=random)
        if further is None:
            break
        medoids.append(further)
        nearest = np.minimum(nearest, distances_NN[further])
    return np.array(medoids, dtype=np.intp)


def assign(distances_NN: Floats, medoids_K: Indices) -> Assignment:
    """Return each row's nearest and second nearest medoid; of equals the first.

    Example:
        >>> apart = np.abs(np.subtract.outer([0.0, 1.0, 9.0], [0.0, 1.0, 9.0]))
        >>> assign(apart, np.array([0, 2])).nearest.tolist()
        [0, 0, 1]
    """
    return _find_two_nearest(distances_NN[medoids_K])


def _find_two_nearest(apart_KN: Floats) -> Assignment:
    apart_KN, rows = apart_KN.copy(), np.arange(apart_KN.shape[1])
    nearest = apart_KN.argmin(axis=0)
    first = apart_KN[nearest, rows]
    apart_KN[nearest, rows] = np.inf
    second = apart_KN.argmin(axis=0)
    return Assignment(nearest, second, first, apart_KN[second, rows])


def compute_objective(distances_NN: Floats, medoids_K: Indices) -> float:
    """Return the sum over rows of the dissimilarity to the nearest medoid.

    Example:
        >>> apart = np.abs(np.subtract.outer([0.0, 1.0, 9.0], [0.0, 1.0, 9.0]))
        >>> compute_objective(apart, np.array([0, 2]))
        1.0
    """
    return float(distances_NN[medoids_K].min(axis=0).sum(dtype=np.float64))


def alternate(distances_NN: Floats, medoids_K: Indices, *, max_iterations: int = 300) -> Indices:
    """Assign all rows, move each medoid within its cluster, and so on until none moves.

    The Voronoi iteration of Park and Jun (2009). A medoid moves only to a row that is strictly
    better; a cluster left empty by duplicates keeps its medoid.

    Example:
        >>> apart = np.abs(np.subtract.outer([0.0, 1.0, 2.0], [0.0, 1.0, 2.0]))
        >>> alternate(apart, np.array([0])).tolist()
        [1]
    """
    medoids = np.array(medoids_K)
    for _ in range(max_iterations):
        labels = distances_NN[medoids].argmin(axis=0)
        clusters = np.split(
            np.argsort(labels, kind="stable"),
            np.cumsum(np.bincount(labels, minlength=len(medoids)))[:-1],
        )
        moved = [
            _recentre(distances_NN, int(medoid), members)
            for medoid, members in zip(medoids, clusters, strict=True)
        ]
        if (medoids == moved).all():
            break
        medoids = np.array(moved, dtype=np.intp)
    return medoids


def _recentre(distances_NN: Floats, medoid: int, members: Indices) -> int:
    if not len(members):
        return medoid
    costs = distances_NN[np.ix_(members, members)].sum(axis=1, dtype=np.float64)
    now = distances_NN[medoid, members].sum(dtype=np.float64)
    best = int(costs.argmin())
    return int(members[best]) if costs[best] < now else medoid


def _screen(rows_BN: Floats, assignment: Assignment, grouping: Grouping) -> Floats:
    """Return for each candidate the change of the objective by its best swap: (B,).

    Works in the rows given, a copy of the matrix's.
    """
    kept = np.minimum(rows_BN, assignment.first_distance)
    saved = kept.sum(axis=1) - assignment.first_distance.sum()
    lost = np.minimum(rows_BN, assignment.second_distance, out=rows_BN)
    lost -= kept
    return np.asarray(saved + sum_by_cluster(lost, grouping).min(axis=1))


def _weigh(row_N: Floats, assignment: Assignment, n_clusters: int) -> tuple[int, float]:
    """Return the medoid that a candidate would best replace, and by how much that changes."""
    kept = np.minimum(row_N, assignment.first_distance).astype(np.float64)
    lost = np.minimum(row_N, assignment.second_distance) - kept
    lost_K = np.bincount(assignment.nearest, weights=lost, minlength=n_clusters)
    place = int(lost_K.argmin())
    saved = kept.sum() - assignment.first_distance.sum(dtype=np.float64)
    return place, float(saved + lost_K[place])


def _replace(
    distances_NN: Floats, medoids_K: Indices, assignment: Assignment, *, place: int
) -> Assignment:
    """Update an assignment after the medoid at `place` was replaced."""
    nearest, second = assignment.nearest.copy(), assignment.second.copy()
    first, next_first = assignment.first_distance.copy(), assignment.second_distance.copy()
    row = distances_NN[medoids_K[place]]
    orphans = (nearest == place) | (second == place)
    closer = ~orphans & (row < first)
    between = ~orphans & ~closer & (row < next_first)
    second[closer], next_first[closer] = nearest[closer], first[closer]
    nearest[closer], first[closer] = place, row[closer]
    second[between], next_first[between] = place, row[between]
    found = _find_two_nearest(distances_NN[np.ix_(medoids_K, np.flatnonzero(orphans))])
    nearest[orphans], second[orphans] = found.nearest, found.second
    first[orphans], next_first[orphans] = found.first_distance, found.second_distance
    return Assignment(nearest, second, first, next_first)


class _Search:
    """Medoids under way, and all that is kept up to date with them."""

    def __init__(self, distances_NN: Floats, medoids_K: Indices) -> None:
        self.distances = distances_NN
        self.medoids = np.array(medoids_K, dtype=np.intp)
        self.is_medoid = np.zeros(len(distances_NN), dtype=bool)
        self.is_medoid[self.medoids] = True
        self.assignment = assign(distances_NN, self.medoids)
        self.swaps = 0
        self._group()

    def _group(self) -> None:
        nearest, count = self.assignment.nearest, len(self.medoids)
        self.grouping = group_columns(nearest, count, dtype=self.distances.dtype)

    def visit(self, block: Indices) -> bool:
        """Make the swaps that these candidates are worth, best first; tell if there were any."""
        before = self.swaps
        changes = _screen(self.distances[block], self.assignment, self.grouping)
        changes[self.is_medoid[block]] = np.inf
        for candidate in block[_find_promising(changes, self.assignment)]:
            row = self.distances[candidate]
            place, change = _weigh(row, self.assignment, len(self.medoids))
            if change < -_GAIN * self.assignment.first_distance.sum(dtype=np.float64):
                self._swap(place, int(candidate))
        if self.swaps > before:
            self._group()
        return self.swaps > before

    def _swap(self, place: int, candidate: int) -> None:
        self.is_medoid[[self.medoids[place], candidate]] = False, True
        self.medoids[place] = candidate
        self.assignment = _replace(self.distances, self.medoids, self.assignment, place=place)
        self.swaps += 1

    def finish(self) -> Medoids:
        objective = compute_objective(self.distances, self.medoids)
        return Medoids(np.sort(self.medoids), objective, self.swaps)


def _find_promising(changes_B: Floats, assignment: Assignment) -> Indices:
    """Return which candidates may help, best first, allowing for the error of the screening."""
    slack = 8 * np.finfo(changes_B.dtype).eps * assignment.first_distance.sum()
    order = np.argsort(changes_B, kind="stable")
    return np.asarray(order[changes_B[order] < slack])


def _split(candidates: Indices, count: int) -> list[Indices]:
    return np.array_split(candidates, -(-len(candidates) * count // _BLOCK))


def swap(distances_NN: Floats, medoids_K: Indices) -> Medoids:
    """Swap medoids for other rows until no single swap lowers the objective.

    Candidates are visited round and round; it stops after all in a row of which none helped.
    "Lowers" means by more than 1e-10 of the objective.

    Args:
        distances_NN: as for `initialise`, not checked again.
        medoids_K: distinct row numbers to start from.

    Returns:
        The medoids, a local optimum.

    Example:
        >>> apart = np.abs(np.subtract.outer([0.0, 1.0, 8.0, 9.0], [0.0, 1.0, 8.0, 9.0]))
        >>> swap(apart, np.array([0, 1])).objective
        2.0
    """
    search, unchanged = _Search(distances_NN, medoids_K), 0
    blocks = _split(np.arange(len(distances_NN)), len(distances_NN))
    for block in itertools.cycle(blocks):
        unchanged = 0 if search.visit(block) else unchanged + 1
        if unchanged == len(blocks):
            break
    return search.finish()


def swap_nearby(distances_NN: Floats, medoids_K: Indices, *, share: float) -> Medoids:
    """Swap once through the share of rows nearest to the last medoid, the one newly added.

    Where the others are a local optimum, nearly all swaps that a new medoid makes worthwhile are
    for rows near it.

    Args:
        distances_NN: as for `initialise`, not checked again.
        medoids_K: distinct row numbers to start from, the newest last.
        share: of the rows, above 0 up to 1.

    Example:
        >>> apart = np.abs(np.subtract.outer([0.0, 1.0, 8.0, 9.0], [0.0, 1.0, 8.0, 9.0]))
        >>> swap_nearby(apart, np.array([0, 1]), share=1.0).indices.tolist()
        [1, 2]
    """
    search, count = _Search(distances_NN, medoids_K), len(distances_NN)
    order = np.argsort(distances_NN[medoids_K[-1]], kind="stable")
    for block in _split(order[: max(1, round(share * count))], count):
        search.visit(block)
    return search.finish()


def find_medoids(distances_NN: Floats, n_clusters: int, *, random: np.random.Generator) -> Medoids:
    """Find medoids: k-medoids++, then the Voronoi iteration, then FasterPAM's swaps.

    Args:
        distances_NN: symmetric, finite, not negative, zero on the diagonal; symmetry is not
            checked.
        n_clusters: K, from 1 to N.
        random: draws the seeds.

    Returns:
        K medoids, or fewer where fewer rows are distinct. No single swap lowers the objective, and
        it is never above that of the Voronoi iteration from the same seeds.

    Raises:
        InputError: a bad matrix or number of clusters.

    Example:
        >>> apart = np.abs(np.subtract.outer([0.0, 1.0, 2.0, 9.0], [0.0, 1.0, 2.0, 9.0]))
        >>> find_medoids(apart, 2, random=np.random.default_rng(0)).indices.tolist()
        [1, 3]
    """
    seeds = initialise(distances_NN, n_clusters, random=random)
    return swap(distances_NN, alternate(distances_NN, seeds))
