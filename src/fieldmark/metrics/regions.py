"""Accuracies of images and of regions by group, as RaVL reports them (ravl.txt 4.2 and D.2).

Image groups are a class with or without the spurious feature. Region accuracy is that of zero-shot
classification of region embeddings against labels of the regions. The paper does not define the
groups of its region worst group. Here they are pairs of a region's label and its image's class, so
that a region which is read as its image's class shows; by the region's label alone is an option.
Shape letters: n images, R regions, Y classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.metrics.groups import GroupSummary, summarise_groups

Ints = NDArray[np.int64]
By = Literal["label and image", "label"]


@dataclass(frozen=True, kw_only=True)
class FineAccuracies:
    """Accuracies of images or regions.

    Attributes:
        groups: all figures by group: `average` is the overall accuracy, `worst` the worst group's;
            both NaN where nothing has a label.
        meanings: group id to a region's label and its image's class (or None), or to an image's
            class and whether it has the feature.
        unlabelled: how many were left out, since they have no label.
    """

    groups: GroupSummary
    meanings: Mapping[int, tuple[int, int | None]]
    unlabelled: int


def number_image_groups(labels: ArrayLike, spurious: ArrayLike) -> Ints:
    """Return the group of each image: 2 times its class, plus 1 with the spurious feature.

    Args:
        labels: (n,) class, 0 or more.
        spurious: (n,) bool, whether an image has the feature.

    Example:
        >>> number_image_groups([0, 1, 1], [True, False, True]).tolist()
        [1, 2, 3]
    """
    return np.asarray(2 * np.asarray(labels, np.int64) + np.asarray(spurious, bool), np.int64)


def summarise_images(
    predictions: ArrayLike, labels: ArrayLike, *, spurious: ArrayLike, classes: int
) -> FineAccuracies:
    """Return overall and worst-group accuracy of images.

    Args:
        predictions: (n,) predicted class.
        labels: (n,) class, 0 to `classes` - 1, or -1 for none.
        spurious: (n,) bool, whether an image has the spurious feature.
        classes: Y; each has two groups, also where one has no image.

    Raises:
        ValueError: shapes differ, or a label is out of range.

    Example:
        >>> found = summarise_images([0, 0, 1], [0, 1, 1], spurious=[True, True, False], classes=2)
        >>> found.groups.average, found.groups.worst, found.meanings[found.groups.worst_group]
        (0.6..., 0.0, (1, 1))
    """
    guess, label = _read_pair(predictions, labels, classes=classes)
    has = np.asarray(spurious, bool)
    if has.shape != label.shape:
        raise ValueError(f"spurious {has.shape} and labels {label.shape} must both be (n,)")
    known = label >= 0
    meanings = {2 * code + has: (code, has) for code in range(classes) for has in (0, 1)}
    groups = number_image_groups(label[known], has[known])
    summary = summarise_groups(guess[known] == label[known], groups, known=meanings)
    return FineAccuracies(groups=summary, meanings=meanings, unlabelled=int((~known).sum()))


def summarise_regions(
    predictions: ArrayLike,
    labels: ArrayLike,
    *,
    owners: ArrayLike,
    image_labels: ArrayLike,
    classes: int,
    by: By = "label and image",
) -> FineAccuracies:
    """Return overall and worst-group accuracy of regions.

    Args:
        predictions: (R,) class that each region's embedding is nearest to.
        labels: (R,) what each region shows, 0 to `classes` - 1, or -1 where that is no class or not
            known; such regions are left out.
        owners: (R,) image of each region, 0 to n - 1.
        image_labels: (n,) class of each image, or -1 for none, which is a group like the others.
        classes: Y.
        by: what makes a group. By `label` each class has a group, also without a region; by `label
            and image` each pair that occurs has one, with the id label (Y + 1) + image class + 1.

    Raises:
        ValueError: shapes differ, or a label or an owner is out of range.

    Example:
        >>> found = summarise_regions(
        ...     [0, 1, 1], [0, 0, 1], owners=[0, 1, 1], image_labels=[0, 1], classes=2)
        >>> found.groups.worst, found.meanings[found.groups.worst_group]
        (0.0, (0, 1))
    """
    guess, label = _read_pair(predictions, labels, classes=classes)
    owner = np.asarray(owners, np.int64)
    image = np.asarray(image_labels, np.int64)
    if owner.shape != label.shape or image.ndim != 1:
        raise ValueError(f"owners {owner.shape} and labels {label.shape} must both be (R,)")
    if ((owner < 0) | (owner >= len(image))).any():
        raise ValueError(f"an owner is not in [0, {len(image)})")
    if ((image < -1) | (image >= classes)).any():
        raise ValueError(f"the class of an image is not in [-1, {classes})")
    known = label >= 0
    meanings: dict[int, tuple[int, int | None]]
    if by == "label":
        groups = label[known]
        meanings = {code: (code, None) for code in range(classes)}
    else:
        groups = label[known] * (classes + 1) + image[owner[known]] + 1
        found = np.unique(groups).tolist()
        meanings = {g: (g // (classes + 1), g % (classes + 1) - 1) for g in found}
    summary = summarise_groups(guess[known] == label[known], groups, known=meanings)
    return FineAccuracies(groups=summary, meanings=meanings, unlabelled=int((~known).sum()))


def _read_pair(predictions: ArrayLike, labels: ArrayLike, *, classes: int) -> tuple[Ints, Ints]:
    guess, label = np.asarray(predictions, np.int64), np.asarray(labels, np.int64)
    if guess.ndim != 1 or guess.shape != label.shape:
        raise ValueError(f"predictions {guess.shape} and labels {label.shape} must both be (n,)")
    if ((label < -1) | (label >= classes)).any():
        raise ValueError(f"a label is not in [-1, {classes})")
    return guess, label
