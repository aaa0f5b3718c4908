"""Discover what a model spuriously ties to a class (RaVL, Varma et al. 2024, section 3.1).

Regions are clustered by their embeddings; a cluster is a candidate when the model's errors rest on
it (influence) and ranks by how far accuracy goes with its presence (performance gap). Each
candidate says how far chance alone would take it. A p-value says that accuracy goes with the
cluster, not that the cluster is spurious: that is for the user to see in its regions.

Shape letters: n images, R regions, C clusters, Y labels, V words, D embedding dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.core.errors import InputError
from fieldmark.metrics.cluster_gaps import (
    PERMUTATIONS,
    Bounds,
    Chance,
    Floats,
    GapTable,
    bound_cluster_gaps,
    bound_label_gaps,
    cluster_gaps,
    label_gaps,
    label_weights,
    mark_presence,
    permute_gaps,
    tabulate_gaps,
)
from fieldmark.metrics.influence import (
    PAPER,
    Influence,
    Ranking,
    Selection,
    find_strongest_regions,
    find_tied_labels,
    measure_influence,
    rank_clusters,
)
from fieldmark.metrics.intervals import Interval

Ints = NDArray[np.int64]


class Clusterer(Protocol):
    """What is asked of a clusterer; those of scikit-learn fit.

    `medoid_indices_`, where it has one, gives the region in the middle of each cluster.
    """

    labels_: ArrayLike

    def fit(self, X: NDArray[np.float32], /) -> object:
        """Cluster (R,D) unit vectors; a label below 0 means no cluster."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Vocabulary:
    """Words to describe clusters by.

    Attributes:
        words: V words.
        embeddings: (V,D) of the text tower, any length.
    """

    words: tuple[str, ...]
    embeddings: ArrayLike


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
        accuracy_with: on its images that have the cluster, NaN without any.
        accuracy_without: on its images that have not, NaN without any.
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
    clusters: Ints
    clustered: int
    accuracy: float
    permutations: int
    confidence: float

    def significant(self, level: float = 0.05) -> tuple[Candidate, ...]:
        """Return the candidates whose corrected p-value is at most `level`."""
        return tuple(found for found in self.candidates if found.adjusted_p_value <= level)


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """What a model does with labelled images and their regions; checked when it is made.

    Attributes:
        regions: (R,D) embeddings of the regions, any length.
        owners: (R,) image of each region, 0 to n - 1.
        labels: (n,) true label, 0 to Y - 1.
        predictions: (n,) predicted label, such as `predict_zero_shot` gives.
        prototypes: (Y,D) text embedding of each class.
        classes: Y names.

    Raises:
        InputError: there is nothing to discover from these, or they do not fit together.
    """

    regions: NDArray[np.float32]
    owners: Ints
    labels: Ints
    predictions: Ints
    prototypes: NDArray[np.float32]
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        _set(self, "regions", normalise_rows(self.regions, what="region"))
        _set(self, "prototypes", normalise_rows(self.prototypes, what="prototype of a class"))
        for name in ("owners", "labels", "predictions"):
            _set(self, name, np.asarray(getattr(self, name), np.int64))
        _check_shapes(self)
        _check_content(self)


def discover(
    evidence: Evidence,
    clusterer: Clusterer,
    *,
    selection: Selection = PAPER,
    vocabulary: Vocabulary | None = None,
    nearest: int = 10,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    confidence: float = 0.95,
) -> Discovery:
    """Find and rank clusters of regions that mislead a model.

    Args:
        evidence: embeddings, predictions and labels.
        clusterer: is fitted to the regions' unit vectors.
        selection: which clusters are kept.
        vocabulary: words to describe clusters by.
        nearest: how many regions and words each candidate names at most.
        seed: of the permutations.
        permutations: behind each p-value.
        confidence: of the intervals, in (0, 1).

    Raises:
        InputError: the clusterer gives no cluster, or it cannot fit these regions.

    Example:
        >>> from sklearn.cluster import KMeans
        >>> evidence = Evidence(
        ...     regions=np.tile(np.eye(2), (20, 1)), owners=np.repeat(np.arange(20), 2),
        ...     labels=np.repeat([0, 1], 10), predictions=np.repeat([0, 1], 10),
        ...     prototypes=np.eye(2), classes=("cat", "dog"),
        ... )
        >>> found = discover(evidence, KMeans(2, n_init=1, random_state=0))
        >>> found.candidates, found.reason
        ((), 'of 2 clusters 2 left out: no label has images both with and without it (2)')
    """
    try:
        clusterer.fit(evidence.regions)
    except ValueError as error:
        raise InputError(
            f"{len(evidence.regions)} regions cannot be clustered ({error})",
            mend="ask for fewer clusters or give more regions",
        ) from error
    medoids = getattr(clusterer, "medoid_indices_", None)
    return judge_clusters(
        evidence,
        clusterer.labels_,
        medoids=medoids,
        selection=selection,
        vocabulary=vocabulary,
        nearest=nearest,
        seed=seed,
        permutations=permutations,
        confidence=confidence,
    )


def judge_clusters(
    evidence: Evidence,
    clusters: ArrayLike,
    *,
    medoids: ArrayLike | None = None,
    selection: Selection = PAPER,
    vocabulary: Vocabulary | None = None,
    nearest: int = 10,
    seed: int = 0,
    permutations: int = PERMUTATIONS,
    confidence: float = 0.95,
) -> Discovery:
    """Rank clusters that are there already, such as another method's.

    Args:
        evidence: embeddings, predictions and labels.
        clusters: (R,) cluster of each region, below 0 for none; empty clusters may lie between.
        medoids: (C,) region in the middle of each cluster; by default the member with the least
            sum of cosine distances to the others.
        selection: as in `discover`, like all that follow.
        vocabulary: words.
        nearest: how many.
        seed: of the permutations.
        permutations: how many.
        confidence: of the intervals.

    Raises:
        InputError: the clusters do not fit the regions, or there is none.
    """
    of = _check_clusters(clusters, evidence)
    presence, table, influence, ranking = _score(evidence, of, selection=selection)
    labels, correct = evidence.labels, evidence.predictions == evidence.labels
    chance = permute_gaps(
        presence,
        labels,
        correct,
        width=len(evidence.classes),
        seed=seed,
        permutations=permutations,
        weighted=selection.weighted,
    )
    figures = _Figures(
        table=table,
        influence=influence,
        chance=chance,
        totals=cluster_gaps(table, weighted=selection.weighted),
        bounds=bound_cluster_gaps(table, weighted=selection.weighted, confidence=confidence),
        by_label=bound_label_gaps(table, confidence=confidence),
        tied=find_tied_labels(label_gaps(table) * label_weights(table), influence.misled),
    )
    middles = find_medoids(evidence.regions, of) if medoids is None else np.asarray(medoids)
    return Discovery(
        candidates=tuple(
            _describe(
                cluster,
                evidence=evidence,
                members=np.flatnonzero(of == cluster),
                medoid=int(middles[cluster]),
                images=int(presence[:, cluster].sum()),
                figures=figures,
                vocabulary=vocabulary,
                nearest=nearest,
            )
            for cluster in ranking.order.tolist()
        ),
        reason=_explain(ranking, clustered=len(np.unique(of[of >= 0])), width=presence.shape[1]),
        notes=_note(evidence),
        clusters=of,
        clustered=len(np.unique(of[of >= 0])),
        accuracy=float(correct.mean()),
        permutations=permutations,
        confidence=confidence,
    )
