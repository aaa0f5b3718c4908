"""Who of some labelled images gets the spurious feature (RaVL section 3.2, appendix B).

Shape letters: n images.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.core.errors import NotApplicableError, UsageError
from fieldmark.core.seeds import generator

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]
# Rounding takes a perfect tie a hair above 1.
_TOLERANCE = 1e-9


def tie_feature(labels: ArrayLike, *, target: int, correlation: float, seed: int) -> Flags:
    """Draw who has the feature so that Cramer's V of feature and class falls to `correlation`.

    The design of the published settings: at first all images of the target class have the feature
    and nobody else. Then presence is swapped in one image after the other, equally often in classes
    of one size, until V is `correlation` or just below: one swap fewer and it is above. Which
    images are swapped is drawn at random. Where classes differ in size, so do their swaps: a swap
    is as likely in each image.

    Kept: the size of each class, and one rate of swaps in all classes, to within one image. Not
    kept is how many images have the feature: at a rate r, it is in a share 1 - r of the target
    class and in a share r of each other class. Ten classes of one size and a V of 0.9 come to a
    rate of about 0.02, a V of 0.7 to one of 0.07.

    Args:
        labels: (n,) class codes.
        target: the class that the feature is tied to.
        correlation: Cramer's V, in (0, 1].
        seed: of the draw.

    Returns:
        (n,) whether an image has the feature.

    Raises:
        UsageError: a correlation out of its range, or labels that are no list of codes.
        NotApplicableError: no image of the target class, none of another, or too few of them for a
            V as low; the message says how low it gets.

    Example:
        >>> from fieldmark.metrics.association import cramers_v
        >>> labels = np.repeat([0, 1], 100)
        >>> feature = tie_feature(labels, target=1, correlation=0.9, seed=0)
        >>> int(feature[labels == 0].sum()), int(feature[labels == 1].sum())
        (5, 95)
        >>> round(cramers_v(labels, feature), 4)
        0.9
    """
    codes = _check_labels(labels)
    if not 0 < correlation <= 1:
        raise UsageError(f"a correlation of {correlation:g} is not in (0, 1]")
    feature = codes == target
    if feature.all() or not feature.any():
        raise NotApplicableError(
            f"{feature.sum()} of {len(codes)} images are of class {target}: a feature cannot be "
            "tied to it"
        )
    order = _spread(codes, generator(seed, "tie feature"))
    values = _follow_swaps(codes[order], feature[order])
    low_enough = np.flatnonzero(values <= correlation + _TOLERANCE)
    if not len(low_enough):
        raise NotApplicableError(
            f"with {feature.sum()} images of class {target} among {len(codes)}, Cramer's V gets "
            f"no lower than {np.nanmin(values):.3f}, and {correlation:g} is asked for"
        )
    swapped = order[: int(low_enough[0])]
    feature[swapped] = ~feature[swapped]
    return np.asarray(feature)


def balance_feature(labels: ArrayLike, *, share: float = 0.5, seed: int) -> Flags:
    """Draw who has the feature so that it says as little as possible of the class.

    Of all draws with as many features, this one has the least Cramer's V that the class sizes
    allow; within a class it is drawn at random.

    Kept: round(share n) images have the feature, half rounded up; each class has its share of
    them to within one, unless classes differ much in size.

    Args:
        labels: (n,) class codes.
        share: of the images with the feature, in (0, 1).
        seed: of the draw.

    Returns:
        (n,) whether an image has the feature.

    Raises:
        UsageError: a share out of its range, or labels that are no list of codes.

    Example:
        >>> labels = np.repeat([0, 1], [10, 20])
        >>> feature = balance_feature(labels, seed=0)
        >>> int(feature[labels == 0].sum()), int(feature[labels == 1].sum())
        (5, 10)
    """
    codes = _check_labels(labels)
    if not 0 < share < 1:
        raise UsageError(f"a share of {share:g} is not in (0, 1)")
    feature = np.zeros(len(codes), np.bool_)
    order = _spread(codes, generator(seed, "balance feature"))
    feature[order[: int(share * len(codes) + 0.5)]] = True
    return feature


def _spread(codes: Ints, random: np.random.Generator) -> Ints:
    """Order images so that the first k of them, for any k, are as evenly of all classes as can be.

    The j-th image of a class of n_c has the place (j + 1/2) / n_c. Taking one more of class c adds
    2 ((j + 1/2) / n_c - p) to the sum of (a_c - n_c p)^2 / n_c, and that sum is chi2 but for a
    constant; the terms grow with j, so the k least places give the least chi2.
    """
    shuffled = random.permutation(len(codes))
    _, inverse, counts = np.unique(codes[shuffled], return_inverse=True, return_counts=True)
    by_class = np.argsort(inverse, kind="stable")
    first = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
    rank = np.empty(len(codes), np.int64)
    rank[by_class] = np.arange(len(codes)) - first[inverse[by_class]]
    place = (rank + 0.5) / counts[inverse]
    # A stable sort of shuffled images breaks ties between classes at random.
    return np.asarray(shuffled[np.argsort(place, kind="stable")])


def _follow_swaps(codes: Ints, feature: Flags) -> NDArray[np.float64]:
    """Return Cramer's V of feature and class after presence is swapped in the first 0, 1, ... rows.

    Two or more classes; (n + 1,), NaN where all images have the feature or none.
    """
    _, inverse, counts = np.unique(codes, return_inverse=True, return_counts=True)
    changes = np.zeros((len(codes) + 1, len(counts)))
    # The first row holds the counts, each other one a change.
    changes[0] = np.bincount(inverse, weights=feature)
    changes[np.arange(1, len(codes) + 1), inverse] = np.where(feature, -1, 1)
    present = np.cumsum(changes, axis=0)
    share = present.sum(1) / len(codes)
    squares = ((present - counts * share[:, None]) ** 2 / counts).sum(1)
    scale = len(codes) * share * (1 - share)
    undefined = np.full(len(scale), np.nan)
    return np.asarray(np.sqrt(np.divide(squares, scale, out=undefined, where=scale > 0)))


def _check_labels(labels: ArrayLike) -> Ints:
    codes = np.asarray(labels)
    if codes.ndim != 1 or not codes.size or codes.dtype.kind not in "biu":
        raise UsageError(
            f"the labels have the shape {codes.shape} and the type {codes.dtype}",
            mend="give one list of class codes",
        )
    return codes.astype(np.int64)
