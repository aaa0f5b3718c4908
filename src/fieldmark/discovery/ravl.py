"""Discover what a model spuriously ties to a class (RaVL, Varma et al. 2024, section 3.1).

Regions are clustered by their embeddings; a cluster is a candidate when the model's errors rest on
it (influence) and ranks by how far accuracy goes with its presence (performance gap). Each
candidate says how far chance alone would take it. A p-value says that accuracy goes with the
cluster, not that the cluster is spurious: that is for the user to see in its regions.

Shape letters: n images, R regions, C clusters that have a region, Y labels, D embedding dimensions.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning

from fieldmark.core.errors import InputError, UsageError
from fieldmark.discovery.candidates import Candidate, Discovery, LabelGap
from fieldmark.discovery.evidence import Evidence, Ints, Vocabulary, note_limits
from fieldmark.discovery.members import check_vocabulary, find_medoids, find_words, rank_members
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
    take_larger,
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


class Clusterer(Protocol):
    """What is asked of a clusterer; those of scikit-learn fit.

    `medoid_indices_`, where it has one, gives the region in the middle of each cluster.
    """

    @property
    def labels_(self) -> ArrayLike:
        """The cluster of each region, once it is fitted."""
        ...

    def fit(self, X: NDArray[np.float32], /) -> object:
        """Cluster (R,D) unit vectors; a label below 0 means no cluster."""
        ...


@dataclass(frozen=True, kw_only=True)
class DiscoveryConfig:
    """How clusters are judged.

    Attributes:
        selection: which clusters are kept.
        nearest: how many regions and words each candidate names at most.
        seed: of the permutations.
        permutations: behind each p-value, 1 or more.
        confidence: of the intervals, in (0, 1).

    Raises:
        UsageError: a number is out of its range.
    """

    selection: Selection = PAPER
    nearest: int = 10
    seed: int = 0
    permutations: int = PERMUTATIONS
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.nearest < 0 or self.permutations < 1 or not 0 < self.confidence < 1:
            raise UsageError(
                f"nearest {self.nearest}, permutations {self.permutations} or confidence "
                f"{self.confidence:g} is out of its range",
                mend="give 0 or more, 1 or more, and a share between 0 and 1",
            )


def discover(
    evidence: Evidence,
    clusterer: Clusterer,
    *,
    vocabulary: Vocabulary | None = None,
    config: DiscoveryConfig = DiscoveryConfig(),
) -> Discovery:
    """Find and rank clusters of regions that mislead a model.

    Args:
        evidence: embeddings, predictions and labels.
        clusterer: is fitted to the regions' unit vectors.
        vocabulary: words to describe clusters by.
        config: how clusters are judged.

    Returns:
        The candidates, none where nothing is found, and the reason why the others were left out.
        What the clusterer warns of (`ConvergenceWarning`) is among the notes.

    Raises:
        InputError: the clusterer gives no cluster, or it cannot fit these regions.

    Example:
        >>> from sklearn.cluster import KMeans
        >>> from fieldmark.discovery.evidence import gather_evidence
        >>> evidence = gather_evidence(
        ...     regions=np.tile(np.eye(2), (20, 1)), owners=np.repeat(np.arange(20), 2),
        ...     labels=np.repeat([0, 1], 10), predictions=np.repeat([0, 1], 10),
        ...     prototypes=np.eye(2), classes=("cat", "dog"),
        ... )
        >>> found = discover(evidence, KMeans(2, n_init=1, random_state=0))
        >>> found.candidates, found.reason
        ((), 'of 2 clusters 2 left out: no label has images both with and without it (2)')
    """
    notes = _fit(clusterer, evidence.regions)
    found = judge_clusters(
        evidence,
        clusterer.labels_,
        medoids=getattr(clusterer, "medoid_indices_", None),
        vocabulary=vocabulary,
        config=config,
    )
    return replace(found, notes=(*found.notes, *notes))


def _fit(clusterer: Clusterer, regions: NDArray[np.float32]) -> tuple[str, ...]:
    """Fit the clusterer and return what it warns of, a line each."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", ConvergenceWarning)
        try:
            clusterer.fit(regions)
        except ValueError as error:
            raise InputError(
                f"{len(regions)} regions cannot be clustered ({error})",
                mend="ask for fewer clusters or give more regions",
            ) from error
    notes = []
    for warning in caught:
        if issubclass(warning.category, ConvergenceWarning):
            notes.append("clustering: " + " ".join(str(warning.message).split()))
        else:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    return tuple(dict.fromkeys(notes))


def judge_clusters(
    evidence: Evidence,
    clusters: ArrayLike,
    *,
    medoids: ArrayLike | None = None,
    vocabulary: Vocabulary | None = None,
    config: DiscoveryConfig = DiscoveryConfig(),
) -> Discovery:
    """Rank clusters that are there already, such as another method's.

    Args:
        evidence: embeddings, predictions and labels.
        clusters: (R,) cluster of each region, below 0 for none; ids without a region may lie
            between.
        medoids: region in the middle of each cluster, by cluster id; by default the member with
            the least sum of cosine distances to the others.
        vocabulary: words to describe clusters by.
        config: how clusters are judged.

    Raises:
        InputError: the clusters, their medoids or the words do not fit the regions, or no region
            is in a cluster.
    """
    of = np.asarray(clusters, np.int64)
    ids, codes = _number(of, count=len(evidence.regions))
    figures = _measure(evidence, codes, width=len(ids), config=config)
    ranking = rank_clusters(
        figures.totals, figures.influence.scores, gaps=figures.gaps, selection=config.selection
    )
    words = vocabulary and check_vocabulary(vocabulary, width=evidence.regions.shape[1])
    middles = _place_medoids(medoids, evidence.regions, codes=codes, ids=ids)
    candidates = tuple(
        _describe(
            code,
            cluster=int(ids[code]),
            members=np.flatnonzero(codes == code),
            medoid=int(middles[code]),
            figures=figures,
            evidence=evidence,
            vocabulary=words,
            nearest=config.nearest,
        )
        for code in ranking.order.tolist()
    )
    return Discovery(
        candidates=candidates,
        reason=_explain(ranking, clustered=len(ids)),
        notes=note_limits(evidence),
        clusters=of,
        clustered=len(ids),
        accuracy=float((evidence.predictions == evidence.labels).mean()),
        permutations=config.permutations,
        confidence=config.confidence,
    )


class _Figures(NamedTuple):
    """All scores of C clusters."""

    table: GapTable
    gaps: Floats
    totals: Floats
    influence: Influence
    tied: Ints
    chance: Chance
    bounds: Bounds
    by_label: Bounds


def _measure(
    evidence: Evidence, clusters: Ints, *, width: int, config: DiscoveryConfig
) -> _Figures:
    selection, confidence = config.selection, config.confidence
    labels, count, classes = evidence.labels, len(evidence.labels), len(evidence.classes)
    correct = evidence.predictions == labels
    presence = mark_presence(evidence.owners, clusters, count=count, width=width)
    table = tabulate_gaps(presence, labels, correct=correct, width=classes)
    gaps = label_gaps(table)
    scores = evidence.regions @ evidence.prototypes.T
    rows = find_strongest_regions(scores, evidence.owners, predictions=evidence.predictions)
    per_image = np.bincount(evidence.owners, minlength=count)
    influence = measure_influence(
        presence,
        np.where(rows >= 0, clusters[rows], -1),
        labels=labels,
        predictions=evidence.predictions,
        gaps=gaps,
        skip=per_image == 1 if selection.skip_single_regions else None,
    )
    return _Figures(
        table=table,
        gaps=gaps,
        totals=cluster_gaps(table, weighted=selection.weighted),
        influence=influence,
        tied=find_tied_labels(label_weights(table) * gaps, influence.misled),
        chance=_test(evidence, presence, config=config),
        bounds=bound_cluster_gaps(table, weighted=selection.weighted, confidence=confidence),
        by_label=bound_label_gaps(table, confidence=confidence),
    )


def _test(evidence: Evidence, presence: NDArray[np.bool_], *, config: DiscoveryConfig) -> Chance:
    """Test the gaps with images changing places and, where they share something, with that."""
    return take_larger(
        [
            permute_gaps(
                presence,
                evidence.labels,
                correct=evidence.predictions == evidence.labels,
                width=len(evidence.classes),
                seed=config.seed,
                permutations=config.permutations,
                weighted=config.selection.weighted,
                units=units,
            )
            for units in (None, *evidence.shared)
        ]
    )


def _number(clusters: Ints, *, count: int) -> tuple[Ints, Ints]:
    """Return the ids that occur, and each region's place among them, -1 for none."""
    if clusters.shape != (count,):
        raise InputError(f"clusters of shape {clusters.shape} do not fit {count} regions")
    ids = np.unique(clusters[clusters >= 0])
    if not len(ids):
        raise InputError(
            "no region is in a cluster", mend="use another clusterer or other settings"
        )
    return ids, np.where(clusters >= 0, np.searchsorted(ids, clusters), -1)


def _place_medoids(
    medoids: ArrayLike | None, regions: NDArray[np.float32], *, codes: Ints, ids: Ints
) -> Ints:
    if medoids is None:
        return find_medoids(regions, codes, width=len(ids))
    given = np.asarray(medoids, np.int64)
    if len(given) <= ids[-1] or (codes[given[ids]] != np.arange(len(ids))).any():
        raise InputError(
            "a medoid is missing or lies in another cluster", mend="give one for each cluster id"
        )
    return np.asarray(given[ids])


def _describe(
    code: int,
    *,
    cluster: int,
    members: Ints,
    medoid: int,
    figures: _Figures,
    evidence: Evidence,
    vocabulary: Vocabulary | None,
    nearest: int,
) -> Candidate:
    near = rank_members(evidence.regions, members, medoid=medoid)
    tied = int(figures.tied[code])
    return Candidate(
        cluster=cluster,
        tied_class=evidence.classes[tied] if tied >= 0 else None,
        influence=float(figures.influence.scores[code]),
        gap=float(figures.totals[code]),
        interval=Interval(float(figures.bounds.low[code]), float(figures.bounds.high[code])),
        chance=float(figures.chance.expected[code]),
        p_value=float(figures.chance.p_values[code]),
        adjusted_p_value=float(figures.chance.adjusted[code]),
        size=len(members),
        images=int(figures.table.totals_in[code].sum()),
        medoid=medoid,
        nearest=tuple(near[:nearest].tolist()),
        words=find_words(evidence.regions[medoid], vocabulary, count=nearest) if vocabulary else (),
        classes=_list_gaps(figures, code, names=evidence.classes),
    )


def _list_gaps(figures: _Figures, code: int, *, names: tuple[str, ...]) -> tuple[LabelGap, ...]:
    gaps, table = figures.gaps[code], figures.table
    order = np.argsort(-gaps, kind="stable")
    return tuple(
        LabelGap(
            name=names[label],
            accuracy_with=float(table.hits_in[code, label] / table.totals_in[code, label]),
            accuracy_without=float(table.hits_out[code, label] / table.totals_out[code, label]),
            gap=float(gaps[label]),
            interval=Interval(
                float(figures.by_label.low[code, label]), float(figures.by_label.high[code, label])
            ),
            images_with=int(table.totals_in[code, label]),
            images_without=int(table.totals_out[code, label]),
        )
        for label in order.tolist()
        if not np.isnan(gaps[label])
    )


def _explain(ranking: Ranking, *, clustered: int) -> str:
    dropped = sum(ranking.dropped.values())
    if not dropped:
        return f"all {clustered} clusters are candidates"
    reasons = ", ".join(f"{reason} ({count})" for reason, count in ranking.dropped.items())
    return f"of {clustered} clusters {dropped} left out: {reasons}"
