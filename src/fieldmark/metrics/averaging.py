"""What a mean of K embeddings keeps and what it loses: residual variance, its decay, anchors.

Source: bap.txt Equations 4 to 6 and appendix G.

Shape letters: R sequences (or objects), K contexts of each, D dimensions, N backgrounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.core.seeds import generator

# Bounds the memory of one block of gathered sequences to some tens of MB.
_BLOCK = 128
RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True)
class Decay:
    """How residual variance falls as K grows: its slope in log-log coordinates.

    Attributes:
        slope: -1 where the variance is proportional to 1/K; NaN when undefined.
        low: lower end of its 95 % interval, or NaN.
        high: upper end, or NaN.
        count: sequences.
    """

    slope: float
    low: float
    high: float
    count: int


def measure_residuals(
    population: ArrayLike, draws: ArrayLike, *, sizes: Sequence[int]
) -> NDArray[np.float64]:
    """Measure how far means of the first K draws are from the mean of the population (bap.txt G.4).

    Drawn with replacement from the very population whose mean is meant, the expectation is Var/K
    exactly, however small the population. The paper draws from as many as 100,000, where it makes
    no difference; from N without replacement the variance would fall by (N - K) / (N - 1) faster
    and reach 0 at K = N.

    Args:
        population: (N,D) embeddings; their mean is not renormalised.
        draws: (R,K_max) which of them each sequence draws, in order.
        sizes: the values of K, each at least 1.

    Returns:
        (R,len(sizes)) squared L2 distances, NaN where K exceeds K_max.

    Raises:
        ValueError: the shapes do not fit, or a K is below 1.

    Example:
        >>> measure_residuals([[1.0], [-1.0]], [[0, 1], [0, 0]], sizes=[1, 2]).tolist()
        [[1.0, 0.0], [1.0, 1.0]]
    """
    values, chosen = np.asarray(population, np.float64), np.asarray(draws, np.int64)
    if values.ndim != 2 or chosen.ndim != 2:
        raise ValueError(f"population {values.shape} must be (N,D), draws {chosen.shape} (R,K)")
    if min(sizes, default=1) < 1:
        raise ValueError(f"every K must be at least 1, got {list(sizes)}")
    centred = values - values.mean(axis=0)
    result = np.full((len(chosen), len(sizes)), np.nan)
    for start in range(0, len(chosen), _BLOCK):
        block = chosen[start : start + _BLOCK]
        sums, taken = np.zeros((len(block), values.shape[1])), 0
        for size in sorted(set(sizes)):
            if size > chosen.shape[1]:
                continue
            sums += centred[block[:, taken:size]].sum(axis=1)
            taken = size
            squared = ((sums / size) ** 2).sum(axis=1)
            result[start : start + _BLOCK, [i for i, s in enumerate(sizes) if s == size]] = squared[
                :, None
            ]
    return result


def fit_decay(residuals: ArrayLike, sizes: Sequence[int], *, seed: int = 0) -> Decay:
    """Fit the slope of log variance on log K by least squares, all K alike (bap.txt Equation 6).

    The interval is a percentile bootstrap over sequences: a sequence's residuals at different K
    share their draws and are resampled together.

    Args:
        residuals: (R,len(sizes)) from `measure_residuals`; a K with a NaN is left out.
        sizes: the values of K.
        seed: of the resampling.

    Raises:
        ValueError: the shapes do not fit.

    Example:
        >>> round(fit_decay([[1.0, 0.5, 0.25]] * 2, sizes=[1, 2, 4]).slope, 6)
        -1.0
    """
    values = np.asarray(residuals, np.float64)
    if values.ndim != 2 or values.shape[1] != len(sizes):
        raise ValueError(f"residuals {values.shape} must be (R,{len(sizes)})")
    defined = ~np.isnan(values).any(axis=0)
    kept, logs = values[:, defined], np.log(np.asarray(sizes, np.float64)[defined])
    count = len(kept)
    if not count or len(set(logs.tolist())) < 2 or not (kept.mean(axis=0) > 0).all():
        return Decay(slope=math.nan, low=math.nan, high=math.nan, count=count)
    weights = (logs - logs.mean()) / ((logs - logs.mean()) ** 2).sum()
    slope = float(np.log(kept.mean(axis=0)) @ weights)
    if count < 2:
        return Decay(slope=slope, low=math.nan, high=math.nan, count=count)
    drawn = generator(seed, "decay").multinomial(count, [1 / count] * count, size=RESAMPLES)
    means = drawn @ kept / count
    slopes = np.log(means[(means > 0).all(axis=1)]) @ weights
    low, high = np.quantile(slopes, [0.025, 0.975])
    return Decay(slope=slope, low=float(low), high=float(high), count=count)


def average_first(embeddings: ArrayLike, *, sizes: Sequence[int]) -> NDArray[np.float64]:
    """Average the first K embeddings of each object and make the mean a unit vector (Equation 2).

    Args:
        embeddings: (R,K_max,D), unit vectors.
        sizes: the values of K, from 1 to K_max.

    Returns:
        (R,len(sizes),D) purified vectors, NaN where the embeddings cancel out.

    Raises:
        ValueError: the shape does not fit, or a K is not among 1 to K_max.

    Example:
        >>> average_first([[[1.0, 0.0], [0.0, 1.0]]], sizes=[1, 2]).round(4).tolist()
        [[[1.0, 0.0], [0.7071, 0.7071]]]
    """
    values = np.asarray(embeddings, np.float64)
    if values.ndim != 3 or not all(1 <= size <= values.shape[1] for size in sizes):
        raise ValueError(f"embeddings {values.shape} must be (R,K,D) with K from {list(sizes)}")
    means = np.stack([values[:, :size].mean(axis=1) for size in sizes], axis=1)
    norms = np.linalg.norm(means, axis=-1, keepdims=True)
    return np.asarray(np.divide(means, norms, out=np.full_like(means, np.nan), where=norms > 0))
