"""What a model does with labelled images and their regions, and words for what it sees.

Shape letters: n images, R regions, Y labels, V words, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.core.errors import InputError

Ints = NDArray[np.int64]
_SHOWN = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class Vocabulary:
    """Words to describe clusters by.

    Attributes:
        words: V words.
        embeddings: (V,D) of the text tower, any length.
    """

    words: tuple[str, ...]
    embeddings: ArrayLike


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """What a model does with labelled images and their regions; `gather_evidence` makes it.

    Attributes:
        regions: (R,D) embeddings of the regions, of unit norm.
        owners: (R,) image of each region, 0 to n - 1.
        labels: (n,) true label, 0 to Y - 1.
        predictions: (n,) predicted label.
        prototypes: (Y,D) text embedding of each class, of unit norm.
        classes: Y names.
        shared: names of what images show in common, such as objects or scenes, one (n,) array
            each; p-values allow for it.
    """

    regions: NDArray[np.float32]
    owners: Ints
    labels: Ints
    predictions: Ints
    prototypes: NDArray[np.float32]
    classes: tuple[str, ...]
    shared: tuple[NDArray[np.str_], ...] = ()


def gather_evidence(
    *,
    regions: ArrayLike,
    owners: ArrayLike,
    labels: ArrayLike,
    predictions: ArrayLike,
    prototypes: ArrayLike,
    classes: Sequence[str],
    shared: Sequence[Sequence[str]] = (),
) -> Evidence:
    """Put together what a discovery needs, and check that it holds something.

    Args:
        regions: (R,D) embeddings of the regions, any length.
        owners: (R,) image of each region, 0 to n - 1.
        labels: (n,) true label, 0 to Y - 1.
        predictions: (n,) predicted label, such as `predict_zero_shot` gives.
        prototypes: (Y,D) text embedding of each class, any length.
        classes: Y names.
        shared: names of what images show in common, such as the object or the scene of each, n
            names each.

    Raises:
        InputError: they do not fit together; there is no region or only one class; an embedding is
            zero or not finite, or all are equal; a label has no prompt.

    Example:
        >>> evidence = gather_evidence(
        ...     regions=[[3, 4], [1, 0]], owners=[0, 1], labels=[0, 1], predictions=[0, 0],
        ...     prototypes=np.eye(2), classes=("cat", "dog"),
        ... )
        >>> evidence.regions.round(2).tolist()
        [[0.6..., 0.8...], [1.0, 0.0]]
    """
    evidence = Evidence(
        regions=normalise_rows(regions, what="region"),
        owners=np.asarray(owners, np.int64),
        labels=np.asarray(labels, np.int64),
        predictions=np.asarray(predictions, np.int64),
        prototypes=normalise_rows(prototypes, what="prototype of a class"),
        classes=tuple(classes),
        shared=tuple(np.asarray(names, np.str_) for names in shared),
    )
    _check_shapes(evidence)
    _check_content(evidence)
    return evidence


def predict_zero_shot(embeddings: ArrayLike, prototypes: ArrayLike) -> Ints:
    """Return the label of the nearest prototype of each image: (n,), the first of those that tie.

    Args:
        embeddings: (n,D) of images, any length.
        prototypes: (Y,D) of classes, such as `models.prompts.ensemble_prompts` makes.

    Raises:
        InputError: they differ in width, or a row is zero or not finite.

    Example:
        >>> predict_zero_shot([[0.9, 0.1], [0.2, 0.8]], [[1.0, 0.0], [0.0, 1.0]]).tolist()
        [0, 1]
    """
    image = normalise_rows(embeddings, what="image")
    prototype = normalise_rows(prototypes, what="prototype of a class")
    if image.shape[1] != prototype.shape[1]:
        raise InputError(
            f"images of {image.shape[1]} dimensions do not fit prototypes of {prototype.shape[1]}",
            mend="embed images and prompts with one encoder",
        )
    return np.asarray((image @ prototype.T).argmax(axis=1), np.int64)


def normalise_rows(values: ArrayLike, *, what: str) -> NDArray[np.float32]:
    """Return float32 rows of unit norm.

    Args:
        values: (m,D).
        what: a row is, for the message.

    Raises:
        InputError: it is no (m,D), or a row is zero or not finite.

    Example:
        >>> normalise_rows([[3.0, 4.0]], what="word").tolist()
        [[0.6..., 0.8...]]
        >>> normalise_rows([[np.nan, 1.0]], what="word")
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: word 0 has an embedding that is zero or not finite...
    """
    rows = np.asarray(values, np.float32)
    if rows.ndim != 2:
        raise InputError(f"embeddings of shape {rows.shape} are not one row for each {what}")
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    bad = ~(np.isfinite(norms[:, 0]) & (norms[:, 0] > 0))
    if bad.any():
        raise InputError(
            f"{what} {int(np.flatnonzero(bad)[0])} has an embedding that is zero or not finite "
            f"({int(bad.sum())} of {len(rows)} have)",
            mend="leave it out or embed it again",
        )
    return np.asarray(rows / norms, np.float32)


def note_limits(evidence: Evidence) -> tuple[str, ...]:
    """Say what in the data limits a finding, a line each.

    Example:
        >>> evidence = gather_evidence(
        ...     regions=np.eye(2), owners=[0, 1], labels=[0, 0, 1], predictions=[0, 0, 1],
        ...     prototypes=np.eye(2), classes=("cat", "dog"),
        ... )
        >>> for line in note_limits(evidence): print(line)
        one image only, so no gap: dog
        1 of 3 images have no region and count as without every cluster
        every image is predicted right, so no cluster has influence
    """
    counts = np.bincount(evidence.labels, minlength=len(evidence.classes))
    regionless = len(evidence.labels) - len(np.unique(evidence.owners))
    lines = {
        f"no image: {_list(evidence.classes, counts == 0)}": (counts == 0).any(),
        f"one image only, so no gap: {_list(evidence.classes, counts == 1)}": (counts == 1).any(),
        f"{regionless} of {len(evidence.labels)} images have no region and count as without every "
        "cluster": regionless > 0,
        "every image is predicted right, so no cluster has influence": bool(
            (evidence.labels == evidence.predictions).all()
        ),
    }
    return tuple(line for line, holds in lines.items() if holds)


def _list(names: Sequence[str], chosen: NDArray[np.bool_]) -> str:
    found = [name for name, is_chosen in zip(names, chosen, strict=True) if is_chosen]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more


def _check_shapes(evidence: Evidence) -> None:
    if not len(evidence.regions):
        raise InputError("there is no region", mend="give boxes, or cut images into a grid")
    pairs = {
        "regions and their images": (len(evidence.regions), len(evidence.owners)),
        "labels and predictions": (len(evidence.labels), len(evidence.predictions)),
        "classes and prototypes": (len(evidence.classes), len(evidence.prototypes)),
        "dimensions of regions and prototypes": (
            evidence.regions.shape[1],
            evidence.prototypes.shape[1],
        ),
        **{
            f"images and names {number} of what they share": (len(evidence.labels), len(names))
            for number, names in enumerate(evidence.shared)
        },
    }
    for what, (first, second) in pairs.items():
        if first != second:
            raise InputError(f"{what} differ in number: {first} and {second}")


def _check_content(evidence: Evidence) -> None:
    width, count = len(evidence.classes), len(evidence.labels)
    if width < 2 or len(np.unique(evidence.labels)) < 2:
        raise InputError("all images are of one class", mend="give images of two classes at least")
    prompts, rows = "classes with a prompt", "images"
    for what, codes, limit, kind, mend in (
        ("label", evidence.labels, width, prompts, "give a prompt for every class"),
        ("predicted label", evidence.predictions, width, prompts, "predict with these prompts"),
        ("image of a region", evidence.owners, count, rows, "make regions of these images"),
    ):
        outside = codes[(codes < 0) | (codes >= limit)]
        if len(outside):
            raise InputError(f"{what} {int(outside[0])} is none of the {limit} {kind}", mend=mend)
    if len(evidence.regions) > 1 and np.ptp(evidence.regions, axis=0).max() < 1e-6:
        raise InputError(
            f"all {len(evidence.regions)} regions have the same embedding",
            mend="look at the images, the boxes and the weights",
        )
