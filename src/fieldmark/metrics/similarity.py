"""How alike classes are by their prototypes: cosines of all pairs, and how far out a pair lies.

Shape letters: C classes, D dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Spread(NamedTuple):
    """Mean and standard deviation of the cosines of class pairs, and how many pairs those were."""

    mean: float
    deviation: float
    pairs: int


def pair_cosines(prototypes_CD: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the cosine of every two prototypes: (C,D) to (C,C) in [-1, 1].

    A row that holds a NaN or is all zero has no direction; its cosines are NaN.

    Example:
        >>> pair_cosines(np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 0.0]])).round(2).tolist()
        [[1.0, 0.71, nan], [0.71, 1.0, nan], [nan, nan, nan]]
    """
    rows = np.asarray(prototypes_CD, np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = np.divide(rows, norms, out=np.full_like(rows, np.nan), where=norms > 0)
    cosines: NDArray[np.float64] = np.clip(unit @ unit.T, -1, 1)
    return cosines


def measure_spread(cosines_CC: NDArray[np.floating]) -> Spread:
    """Return mean and deviation over pairs of two different classes, those that are NaN left out.

    Example:
        >>> measure_spread(np.array([[1.0, 0.0, 0.5], [0.0, 1.0, 1.0], [0.5, 1.0, 1.0]]))
        Spread(mean=0.5, deviation=0.40..., pairs=3)
    """
    pairs = cosines_CC[np.triu_indices(len(cosines_CC), k=1)]
    known = pairs[np.isfinite(pairs)]
    if not known.size:
        return Spread(float("nan"), float("nan"), 0)
    return Spread(float(known.mean()), float(known.std()), int(known.size))


def standardise_pairs(
    cosines_CC: NDArray[np.floating], *, spread: Spread | None = None
) -> NDArray[np.float64]:
    """Return z-scores of pair cosines, (C,C); NaN where the pairs do not differ.

    Args:
        cosines_CC: from `pair_cosines`.
        spread: of the pairs to compare with; by default of these pairs themselves (facts section
            5), which says little when all classes given are alike.

    Example:
        >>> standardise_pairs(np.array([[1.0, 0.5], [0.5, 1.0]]), spread=Spread(0.1, 0.2, 99))[0, 1]
        np.float64(2.0)
    """
    mean, deviation, _ = spread or measure_spread(cosines_CC)
    # Cosines that differ by rounding alone have no spread.
    if not deviation > 1e-9:
        return np.full(cosines_CC.shape, np.nan)
    return (np.asarray(cosines_CC, np.float64) - mean) / deviation
