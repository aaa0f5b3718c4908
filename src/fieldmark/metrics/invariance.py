"""How much of a background an embedding carries: BSI, additivity and residual variance.

Source: bap.txt Equation 1 and appendix A (additivity), D.1 (BSI), G.4 (residual variance).

D.1 does not say what the variance of a set of vectors is. Read as the mean variance of one
dimension, BSI of unit vectors is about 30, as the paper prints; read as total variance it is about
1. The first is exactly sqrt(D) times the second, so only the second compares encoders of different
width. Both are reported.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray


class ClassSensitivity(NamedTuple):
    """BSI of one class between two backgrounds.

    Attributes:
        label: the class.
        backgrounds: the attributes of set A and of set B.
        per_dimension: BSI with the mean variance of one dimension, NaN when undefined.
        total: BSI with the total variance, NaN when undefined.
        counts: images in A and in B.
    """

    label: int
    backgrounds: tuple[int, int]
    per_dimension: float
    total: float
    counts: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class BackgroundSensitivity:
    """BSI averaged over the classes where it is defined.

    Attributes:
        per_dimension: variance read as the mean over dimensions (the paper's figures of about 30).
        total: variance read as the sum over dimensions (about 1).
        defined: how many (class, pair of backgrounds) cells were averaged; both values are NaN when
            0.
        count: images in those cells.
        by_class: every cell, also the undefined ones.
    """

    per_dimension: float
    total: float
    defined: int
    count: int
    by_class: tuple[ClassSensitivity, ...]


@dataclass(frozen=True, kw_only=True)
class Additivity:
    """Linear additivity S over n composites (or phrases).

    Attributes:
        mean: mean of S in [-1, 1], NaN without composites.
        deviation: standard deviation with n - 1, NaN with fewer than two composites.
        parts: mean cosine between the two parts (Sim of T1, T2 in Table 7).
        parts_deviation: its standard deviation with n - 1, NaN with fewer than two.
        count: composites with a defined S.
    """

    mean: float
    deviation: float
    parts: float
    parts_deviation: float
    count: int


@dataclass(frozen=True, kw_only=True)
class ResidualVariance:
    """Residual variance as K grows.

    Attributes:
        sizes: the values of K.
        values: (len(sizes),) mean squared distance to the population mean, NaN where K exceeds what
            there is.
        count: how many sequences were averaged.
    """

    sizes: tuple[int, ...]
    values: tuple[float, ...]
    count: int


def measure_sensitivity(
    embeddings: ArrayLike, labels: ArrayLike, attributes: ArrayLike
) -> BackgroundSensitivity:
    """Measure how far a change of background moves the embeddings of a class (BSI, bap.txt D.1).

    Variances divide by n - 1. With more than two backgrounds every pair counts once.

    Args:
        embeddings: (n,D), unit norm.
        labels: (n,) classes.
        attributes: (n,) backgrounds.

    Raises:
        ValueError: the arrays differ in length.

    Example:
        >>> result = measure_sensitivity([[0.0, 1], [0, 3], [4, 1], [4, 3]], [0] * 4, [0, 0, 1, 1])
        >>> result.total, round(result.per_dimension / result.total, 4)
        (2.0, 1.4142)
    """
    vectors = np.asarray(embeddings, dtype=np.float64)
    label, attribute = np.asarray(labels), np.asarray(attributes)
    if vectors.ndim != 2 or not len(vectors) == len(label) == len(attribute):
        raise ValueError(
            f"embeddings {vectors.shape}, labels {label.shape} and attributes "
            f"{attribute.shape} differ in n"
        )
    pairs = list(itertools.combinations(np.unique(attribute).tolist(), 2))
    cells = tuple(
        _compare(vectors, label == c, attribute, label=c, backgrounds=pair)
        for c in np.unique(label).tolist()
        for pair in pairs
    )
    defined = [cell for cell in cells if not math.isnan(cell.total)]
    return BackgroundSensitivity(
        per_dimension=_mean([cell.per_dimension for cell in defined]),
        total=_mean([cell.total for cell in defined]),
        defined=len(defined),
        count=sum(sum(cell.counts) for cell in defined),
        by_class=cells,
    )


def _compare(
    vectors: NDArray[np.float64],
    chosen: NDArray[np.bool_],
    attribute: NDArray[np.int64],
    *,
    label: int,
    backgrounds: tuple[int, int],
) -> ClassSensitivity:
    sets = [vectors[chosen & (attribute == background)] for background in backgrounds]
    counts = (len(sets[0]), len(sets[1]))
    if min(counts) < 2:
        return ClassSensitivity(label, backgrounds, math.nan, math.nan, counts)
    variance = sum(float(part.var(axis=0, ddof=1).sum()) for part in sets)
    distance = float(np.linalg.norm(sets[0].mean(axis=0) - sets[1].mean(axis=0)))
    total = distance / math.sqrt(variance) if variance > 0 else math.nan
    return ClassSensitivity(label, backgrounds, total * math.sqrt(vectors.shape[1]), total, counts)


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def score_additivity(whole: ArrayLike, first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Score how near each whole is to the sum of its two parts (S, bap.txt Equation 1).

    The same for images (composite, object, background) and for texts (phrase, word, word; appendix
    A.1).

    Args:
        whole: (n,D) embeddings of the composites.
        first: (n,D) embeddings of one part.
        second: (n,D) embeddings of the other part.

    Returns:
        (n,) cosines in [-1, 1], NaN where the parts cancel out.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> score_additivity([[1.0, 1.0]], [[1.0, 0.0]], [[0.0, 1.0]]).round(6).tolist()
        [1.0]
    """
    return _cosines(np.asarray(whole), _unit(first) + _unit(second))


def summarise_additivity(whole: ArrayLike, first: ArrayLike, second: ArrayLike) -> Additivity:
    """Summarise S over n composites, as in Tables 1 and 7 of bap.txt.

    Args:
        whole: (n,D) embeddings of the composites.
        first: (n,D) embeddings of one part.
        second: (n,D) embeddings of the other part.

    Example:
        >>> summary = summarise_additivity([[1.0, 1.0]], [[1.0, 0.0]], [[0.0, 1.0]])
        >>> round(summary.mean, 6), summary.deviation, summary.parts, summary.count
        (1.0, nan, 0.0, 1)
    """
    parts = compare_parts(first, second)
    return summarise_scores(score_additivity(whole, first, second), parts)


def compare_parts(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """Return the cosine of each pair of parts (n,D): (n,) in [-1, 1], NaN where one is zero.

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> compare_parts([[2.0, 0.0]], [[3.0, 0.0]]).tolist()
        [1.0]
    """
    return _cosines(np.asarray(first), np.asarray(second))


def summarise_scores(scores: ArrayLike, parts: ArrayLike) -> Additivity:
    """Summarise scores S that were gathered part by part.

    Args:
        scores: (n,) from `score_additivity`.
        parts: (n,) from `compare_parts`.

    Example:
        >>> summarise_scores([0.8, 0.9], [0.5, 0.7]).count
        2
    """
    (mean, deviation, count), (between, spread, _) = map(_describe, (scores, parts))
    return Additivity(
        mean=mean, deviation=deviation, parts=between, parts_deviation=spread, count=count
    )


def _describe(values: ArrayLike) -> tuple[float, float, int]:
    every = np.asarray(values, np.float64)
    defined = every[~np.isnan(every)]
    deviation = float(defined.std(ddof=1)) if len(defined) > 1 else math.nan
    return _mean(defined.tolist()), deviation, len(defined)


def _unit(vectors: ArrayLike) -> NDArray[np.float64]:
    values = np.asarray(vectors, dtype=np.float64)
    norms = np.linalg.norm(values, axis=-1, keepdims=True)
    out = np.full_like(values, np.nan)
    np.divide(values, norms, out=out, where=norms > 0)
    return out


def _cosines(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    if left.ndim != 2 or left.shape != right.shape:
        raise ValueError(f"embeddings {left.shape} and {right.shape} must both be (n,D)")
    return np.asarray((_unit(left) * _unit(right)).sum(axis=1))


def measure_residual_variance(
    embeddings: ArrayLike, population_mean: ArrayLike, *, sizes: Sequence[int]
) -> ResidualVariance:
    """Measure how fast a mean of K backgrounds nears the mean of all (bap.txt G.4).

    For each K: the squared L2 distance between the mean of the first K embeddings of a sequence and
    the population mean, averaged over sequences. For independent backgrounds it falls as 1/K
    (Equation 6).

    Args:
        embeddings: (R,K_max,D), R sequences of background embeddings.
        population_mean: (D,), the mean embedding of many backgrounds, not renormalised.
        sizes: the values of K, each at least 1.

    Raises:
        ValueError: the shapes do not fit, or a K is below 1.

    Example:
        >>> measure_residual_variance([[[1.0], [-1.0]]], [0.0], sizes=[1, 2]).values
        (1.0, 0.0)
    """
    values = np.asarray(embeddings, dtype=np.float64)
    mean = np.asarray(population_mean, dtype=np.float64)
    if values.ndim != 3 or mean.shape != values.shape[2:]:
        raise ValueError(
            f"embeddings {values.shape} must be (R,K,D) and the mean {mean.shape} (D,)"
        )
    if min(sizes, default=1) < 1:
        raise ValueError(f"every K must be at least 1, got {list(sizes)}")
    result = [math.nan] * len(sizes)
    for i, size in enumerate(sizes):
        if len(values) and size <= values.shape[1]:
            residual = values[:, :size].mean(axis=1) - mean
            result[i] = float((residual**2).sum(axis=1).mean())
    return ResidualVariance(sizes=tuple(sizes), values=tuple(result), count=len(values))
