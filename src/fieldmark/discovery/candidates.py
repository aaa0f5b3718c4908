"""Candidates: clusters of regions that a model may be misled by, with all that speaks for them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fieldmark.metrics.intervals import Interval


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word near a cluster: the cosine of its embedding with the medoid's."""

    word: str
    similarity: float


@dataclass(frozen=True, kw_only=True)
class LabelGap:
    """How accuracy on one class goes with a cluster.

    Attributes:
        name: of the class.
        accuracy_with: on its images that have the cluster.
        accuracy_without: on its images that have not.
        gap: the difference, in [-1, 1].
        interval: Newcombe's interval of the difference; not corrected for choosing the class.
        images_with: how many images have the cluster.
        images_without: how many have not.
    """

    name: str
    accuracy_with: float
    accuracy_without: float
    gap: float
    interval: Interval
    images_with: int
    images_without: int


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A cluster of regions that the model may be misled by.

    Attributes:
        cluster: its id.
        tied_class: the class that the model ties to it, None where nothing tells.
        influence: H, the share of errors that rest on it, in [0, 1]; NaN without an error.
        gap: G, the performance gap, in [0, Y].
        interval: of G, wide enough for the labels together.
        chance: the G that chance gives a cluster like this on average.
        p_value: of G, by permutation.
        adjusted_p_value: the same corrected over all clusters.
        size: regions in it.
        images: images with a region in it.
        medoid: the region in its middle.
        nearest: regions of it by similarity to the medoid, the nearest first.
        words: nearest words, the nearest first.
        classes: the gap of each class that has one, the class that gains most first.
    """

    cluster: int
    tied_class: str | None
    influence: float
    gap: float
    interval: Interval
    chance: float
    p_value: float
    adjusted_p_value: float
    size: int
    images: int
    medoid: int
    nearest: tuple[int, ...]
    words: tuple[Word, ...]
    classes: tuple[LabelGap, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class Discovery:
    """What was found.

    Attributes:
        candidates: the clusters kept, the largest gap first.
        reason: one line that says why the others were not kept.
        notes: what in the data limits the finding, a line each.
        clusters: (R,) the cluster of each region, below 0 for none.
        clustered: how many clusters have a region.
        accuracy: share of images predicted right.
        permutations: behind each p-value.
        confidence: of the intervals.
    """

    candidates: tuple[Candidate, ...]
    reason: str
    notes: tuple[str, ...]
    clusters: NDArray[np.int64]
    clustered: int
    accuracy: float
    permutations: int
    confidence: float

    def significant(self, level: float = 0.05) -> tuple[Candidate, ...]:
        """Return the candidates whose corrected p-value is at most `level`."""
        return tuple(found for found in self.candidates if found.adjusted_p_value <= level)
