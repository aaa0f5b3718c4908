"""Draw group counts again and again: from the counts, or by foreground object within a class.

An object carries its images of all groups of its class along. From m objects m - 1 are drawn and
weigh m / (m - 1) each (Rao and Wu 1988), since drawing m makes the variance of few objects too
small by (m - 1) / m. A class with one object is not resampled: nothing is known of its spread.

Shape letters: U units (objects), G groups, V sets of predictions, B resamples.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
# Bounds the memory of one block of weights to some tens of MB at ten thousand units.
_BLOCK = 250


class Draws(NamedTuple):
    """Correct predictions and images by group, (B,G) each."""

    hits: Floats
    totals: Floats


class Design(NamedTuple):
    """What each drawn unit adds to each group.

    Attributes:
        hits: (V,U,G) correct predictions, for each set of predictions.
        totals: (U,G) images.
        strata: (U,) the stratum within which the unit is drawn.
    """

    hits: Floats
    totals: Floats
    strata: NDArray[np.int64]


class Figures(NamedTuple):
    """Figures of B resamples: `groups` (B,G), the others (B,)."""

    groups: Floats
    average: Floats
    worst: Floats
    groups_mean: Floats
    adjusted: Floats


def draw_counts(
    hits: ArrayLike, totals: ArrayLike, *, size: int, random: np.random.Generator
) -> Draws:
    """Draw the correct predictions of each group from Binomial(n_g, p_g).

    Args:
        hits: (G,) correct predictions.
        totals: (G,) images, 0 for an absent group.
        size: B.
        random: where chance comes from.

    Example:
        >>> draws = draw_counts([5, 0], [5, 0], size=2, random=np.random.default_rng(0))
        >>> draws.hits.tolist(), draws.totals.tolist()
        ([[5.0, 0.0], [5.0, 0.0]], [[5.0, 0.0], [5.0, 0.0]])
    """
    count = np.asarray(totals, dtype=np.int64)
    share = np.divide(hits, count, out=np.zeros(count.shape), where=count > 0)
    drawn = random.binomial(count, share, size=(size, len(count))).astype(np.float64)
    return Draws(drawn, np.broadcast_to(count.astype(np.float64), drawn.shape))


def tabulate_units(
    correct: ArrayLike, columns: ArrayLike, *, width: int, clusters: ArrayLike, strata: ArrayLike
) -> Design:
    """Count what each object adds to each group.

    Args:
        correct: (V,n) booleans of V sets of predictions on the same images.
        columns: (n,) the column, 0 to `width` - 1, of each image's group.
        width: G.
        clusters: (n,) the object of each image.
        strata: (n,) the class of each image. An object filed under two classes is two units, so
            that the classes stay independent.

    Raises:
        ValueError: the arrays differ in length.

    Example:
        >>> design = tabulate_units(
        ...     [[1, 0, 1]], [0, 1, 1], width=2, clusters=["a", "a", "b"], strata=[0, 0, 0]
        ... )
        >>> design.hits.tolist(), design.totals.tolist()
        ([[[1.0, 0.0], [0.0, 1.0]]], [[1.0, 1.0], [0.0, 1.0]])
    """
    right, column = np.asarray(correct, dtype=np.float64), np.asarray(columns, dtype=np.int64)
    _, cluster = np.unique(np.asarray(clusters), return_inverse=True)
    _, stratum = np.unique(np.asarray(strata), return_inverse=True)
    if not right.shape[1] == len(column) == len(cluster) == len(stratum):
        raise ValueError(
            f"predictions {right.shape[1]}, groups {len(column)}, clusters {len(cluster)} and "
            f"strata {len(stratum)} differ in number"
        )
    many = int(cluster.max(initial=0)) + 1
    keys, unit = np.unique(stratum * many + cluster, return_inverse=True)
    cell, cells = unit * width + column, len(keys) * width
    totals = np.bincount(cell, minlength=cells).reshape(-1, width)
    hits = [np.bincount(cell, weights=row, minlength=cells).reshape(-1, width) for row in right]
    return Design(np.stack(hits), totals.astype(np.float64), keys // many)


def draw_units(design: Design, *, size: int, random: np.random.Generator) -> list[Draws]:
    """Draw units within strata; every set of predictions gets the same draws.

    Args:
        design: from `tabulate_units`.
        size: B.
        random: where chance comes from.

    Returns:
        V items, one for each set of predictions.

    Example:
        >>> design = tabulate_units([[1, 0]], [0, 0], width=1, clusters=[0, 1], strata=[0, 0])
        >>> [draws] = draw_units(design, size=3, random=np.random.default_rng(0))
        >>> set(draws.hits.ravel().tolist()) <= {0.0, 2.0}, draws.totals.ravel().tolist()
        (True, [2.0, 2.0, 2.0])
    """
    totals: list[Floats] = []
    hits: list[list[Floats]] = [[] for _ in design.hits]
    for weights in _draw_weights(design.strata, size=size, random=random):
        totals.append(weights @ design.totals)
        for part, table in zip(hits, design.hits, strict=True):
            part.append(weights @ table)
    return [Draws(np.concatenate(part), np.concatenate(totals)) for part in hits]


def _draw_weights(
    strata: NDArray[np.int64], *, size: int, random: np.random.Generator
) -> Iterator[Floats]:
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata).tolist()]
    for start in range(0, size, _BLOCK):
        block = min(_BLOCK, size - start)
        weights = np.ones((block, len(strata)))
        for units in members:
            m = len(units)
            if m > 1:
                picks = random.integers(m, size=(block, m - 1)) + m * np.arange(block)[:, None]
                times = np.bincount(picks.ravel(), minlength=block * m).reshape(block, m)
                weights[:, units] = times * (m / (m - 1))
        yield weights


def swap_units(design: Design, *, size: int, random: np.random.Generator) -> list[Draws]:
    """Swap two sets of predictions unit by unit with probability one half.

    Under the hypothesis that the two are exchangeable this is how both are distributed.

    Args:
        design: from `tabulate_units`, with V of 2.
        size: B.
        random: where chance comes from.

    Example:
        >>> design = tabulate_units([[1], [0]], [0], width=1, clusters=[0], strata=[0])
        >>> first, second = swap_units(design, size=50, random=np.random.default_rng(0))
        >>> set((first.hits + second.hits).ravel().tolist())
        {1.0}
    """
    change = design.hits[1] - design.hits[0]
    totals = np.broadcast_to(design.totals.sum(axis=0), (size, design.totals.shape[1]))
    moved = [
        random.integers(2, size=(min(_BLOCK, size - start), len(change))) @ change
        for start in range(0, size, _BLOCK)
    ]
    move = np.concatenate(moved)
    return [
        Draws(design.hits[0].sum(axis=0) + move, totals),
        Draws(design.hits[1].sum(axis=0) - move, totals),
    ]


def compute_figures(draws: Draws, *, weights: ArrayLike) -> Figures:
    """Compute the group figures of every resample.

    Args:
        draws: correct predictions and images, (B,G).
        weights: (G,) training images of each group, for the adjusted average; all 0 makes it NaN.

    Example:
        >>> draws = Draws(np.array([[1.0, 3.0, 0.0]]), np.array([[2.0, 3.0, 0.0]]))
        >>> figures = compute_figures(draws, weights=[1, 0, 0])
        >>> figures.worst.tolist(), figures.groups_mean.tolist(), figures.adjusted.tolist()
        ([0.5], [0.75], [0.5])
    """
    hits, totals = draws
    weight = np.asarray(weights, dtype=np.float64)
    present = totals > 0
    groups = _divide(hits, totals)
    used = weight > 0
    adjusted = np.full(len(hits), np.nan)
    if used.any():
        adjusted = groups[:, used] @ (weight[used] / weight.sum())
    worst = np.where(present, groups, np.inf).min(axis=1, initial=np.inf)
    return Figures(
        groups=groups,
        average=_divide(hits.sum(axis=1), totals.sum(axis=1)),
        worst=np.where(np.isinf(worst), np.nan, worst),
        groups_mean=_divide(np.where(present, groups, 0).sum(axis=1), present.sum(axis=1)),
        adjusted=adjusted,
    )


def _divide(numerator: Floats, denominator: NDArray[Any]) -> Floats:
    out = np.full(numerator.shape, np.nan)
    np.divide(numerator, denominator, out=out, where=denominator > 0)
    return out
