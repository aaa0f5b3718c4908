"""Splits of natural photographs in which every class has one usual background."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fieldmark.core.errors import UsageError
from fieldmark.core.seeds import generator


def split_correlated(
    labels: NDArray[np.int64],
    attributes: NDArray[np.int64],
    *,
    usual: Mapping[int, int],
    test_share: float = 0.2,
    val_share: float = 0.0,
    seed: int,
) -> NDArray[np.str_]:
    """Train on each class in its usual background alone, test on the rest of it and on all swaps.

    BAP M.5.4 and M.6.3: "a random 20% subset of this strictly correlated data is reserved", and
    the test is that subset and the inverted pairings. The subset is drawn within each class, so
    that its size does not vary with the seed; the paper does not say. Rows are drawn by position:
    give them in an order that does not depend on the machine.

    Args:
        labels: (n,) class of each row.
        attributes: (n,) background of each row, -1 where it is not known.
        usual: the background that each class of the task is trained on.
        test_share: share of a class on its usual background that is kept for the test, in [0, 1).
        val_share: share of what is then left that becomes `val`, as correlated as `train`, in
            [0, 1).
        seed: of the draw.

    Returns:
        (n,) `train`, `val`, `test`, or "" for a row of another class or another background. Where
        a share is above 0 and there are rows enough, each part gets at least one.

    Raises:
        UsageError: a share that cannot be, or `usual` gives fewer than two classes.

    Example:
        >>> labels, attributes = np.array([0] * 5 + [1] * 3), np.array([0] * 5 + [1, 1, 0])
        >>> split_correlated(labels, attributes, usual={0: 0, 1: 1}, seed=0).tolist()
        ['train', 'test', 'train', 'train', 'train', 'train', 'test', 'test']
    """
    if len(usual) < 2:
        raise UsageError(f"{len(usual)} class cannot be told from another", mend="give two or more")
    for name, share in (("test_share", test_share), ("val_share", val_share)):
        if not 0 <= share < 1:
            raise UsageError(f"{name} {share} is not in [0, 1)")
    splits = np.full(len(labels), "", dtype="<U5")
    in_task = np.isin(labels, list(usual)) & np.isin(attributes, list(usual.values()))
    splits[in_task] = "test"
    for label, attribute in usual.items():
        rows = np.flatnonzero((labels == label) & (attributes == attribute))
        order = rows[generator(seed, "correlated split", label).permutation(rows.size)]
        n_test = _count(rows.size, share=test_share)
        n_val = _count(rows.size - n_test, share=val_share)
        splits[order[n_test:]] = "train"
        splits[order[n_test : n_test + n_val]] = "val"
    return splits


def _count(total: int, *, share: float) -> int:
    """Round a share to rows, taking none of a single row and leaving at least one otherwise."""
    if share == 0 or total < 2:
        return 0
    return min(max(1, round(share * total)), total - 1)
