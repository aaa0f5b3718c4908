"""How closely two categorical variables go together."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.core.errors import UsageError


def cramers_v(first: ArrayLike, second: ArrayLike) -> float:
    """Return Cramer's V of two variables, without a correction of its bias.

    V = sqrt(chi2 / (n (min(r, c) - 1))) of the r x c table of the values that occur, chi2 being
    Pearson's without a correction for continuity (Cramer 1946, 21.9). RaVL ties a spurious feature
    to a class by it (section 3.2).

    Args:
        first: (n,) codes, integers or booleans.
        second: (n,) codes, integers or booleans.

    Returns:
        From 0 (independent) to 1 (one variable says the other); NaN when a variable is constant or
        there is no row.

    Raises:
        UsageError: the variables are not two lists of codes of one length.

    Example:
        >>> round(cramers_v([0, 0, 0, 1, 1, 1], [1, 1, 0, 0, 0, 0]), 4)
        0.7071
        >>> cramers_v([0, 0], [0, 1])
        nan
    """
    left, right = _code(first), _code(second)
    if len(left) != len(right):
        raise UsageError(f"the variables have {len(left)} and {len(right)} rows, not the same")
    if not len(left):
        return float("nan")
    rows, columns = int(left.max()) + 1, int(right.max()) + 1
    if min(rows, columns) < 2:
        return float("nan")
    table = np.bincount(left * columns + right, minlength=rows * columns).reshape(rows, columns)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    chi2 = float(((table - expected) ** 2 / expected).sum())
    # Rounding takes a perfect tie a hair above 1.
    return min(1.0, float(np.sqrt(chi2 / (len(left) * (min(rows, columns) - 1)))))


def _code(values: ArrayLike) -> NDArray[np.int64]:
    """Number the values that occur, so that no row or column of the table is empty."""
    given = np.asarray(values)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "biu"):
        raise UsageError(
            f"a variable has the shape {given.shape} and the type {given.dtype}",
            mend="give one list of integer codes",
        )
    return np.unique(given, return_inverse=True)[1].astype(np.int64)
