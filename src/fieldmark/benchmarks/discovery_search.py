"""One clustering of regions, judged by RaVL or by a rival of it.

Shape letters: n images, R regions, C clusters, Y labels.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fieldmark.core.errors import UsageError
from fieldmark.core.registry import look_up
from fieldmark.discovery.candidates import Candidate, Discovery
from fieldmark.discovery.clustering import CosineMedoids, Range
from fieldmark.discovery.discoverers import DISCOVERERS
from fieldmark.discovery.evidence import Evidence, Vocabulary
from fieldmark.discovery.rankings import Clustered, RankedRegions
from fieldmark.discovery.ravl import DiscoveryConfig, discover, judge_clusters
from fieldmark.metrics.cluster_gaps import cluster_gaps, label_gaps, mark_presence, tabulate_gaps
from fieldmark.metrics.influence import (
    PAPER,
    REFERENCE,
    Selection,
    find_strongest_regions,
    measure_influence,
)

# Above this many regions the matrix of distances is too large, and CLARA takes a fixed K.
MOST_SWEPT = 8000
SELECTIONS: Mapping[str, Selection] = {"paper": PAPER, "reference": REFERENCE}
# Those that keep clusters by the scores of RaVL itself; the others name one group of regions.
SCORED = ("ravl", "gap-only", "unweighted-gap-only")
# The id of a group of regions that is no cluster.
NO_CLUSTER = -1


class Figures(NamedTuple):
    """Scores of all C clusters, without a test.

    Attributes:
        gaps: (C,) G, NaN where undefined.
        influence: (C,) H, NaN where undefined.
        sizes: (C,) regions.
        images: (C,) images with a region.
    """

    gaps: NDArray[np.float64]
    influence: NDArray[np.float64]
    sizes: NDArray[np.int64]
    images: NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Search:
    """A clustering and what was found in it.

    Attributes:
        discovery: the candidates and why the others were left out.
        medoids: (C,) row of the region in the middle of each cluster.
        asked: how many clusters were asked for.
        silhouette: mean silhouette of the clustering, NaN where it was not measured.
        figures: of all clusters.
        members: rows of the regions of each candidate, by its id.
    """

    discovery: Discovery
    medoids: NDArray[np.int64]
    asked: Range
    silhouette: float
    figures: Figures
    members: Mapping[int, NDArray[np.int64]]


def choose_selection(name: str, *, method: str, threshold: float | None) -> Selection:
    """Return which clusters a method keeps.

    Args:
        name: `paper`, or `reference` for the filters of RaVL's published code.
        method: a name out of `DISCOVERERS`; those without influence have no threshold.
        threshold: least influence in [0, 1], in place of the selection's own.

    Raises:
        UnknownNameError: no such selection or method.
        UsageError: the threshold is out of its range, or the method has none.

    Example:
        >>> choose_selection("paper", method="ravl", threshold=0.5).threshold
        0.5
    """
    chosen = look_up(SELECTIONS, name, kind="selection")
    look_up(DISCOVERERS, method, kind="method")
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"threshold {threshold:g} is not in [0, 1]", mend="give a share of errors")
    if method == "ravl":
        return chosen if threshold is None else replace(chosen, threshold=threshold)
    if threshold is not None or name != "paper":
        raise UsageError(
            f"method {method} has no threshold and no selection", mend="leave them out, or use ravl"
        )
    return Selection(threshold=None, weighted=method != "unweighted-gap-only")


def choose_clusters(asked: Range | None, *, regions: int, classes: int) -> Range:
    """Return how many clusters to look for: from 2|Y| to 5|Y| (RaVL, appendix D.1).

    Above 8,000 regions it is 2|Y|, as no range can be tried there.

    Args:
        asked: what the user asked for, or None.
        regions: R.
        classes: |Y|.

    Raises:
        UsageError: a range was asked for and there are too many regions.

    Example:
        >>> choose_clusters(None, regions=500, classes=2), choose_clusters(9, regions=50, classes=2)
        ((4, 10), 9)
    """
    if asked is None:
        return (2 * classes, 5 * classes) if regions <= MOST_SWEPT else 2 * classes
    if not isinstance(asked, int) and asked[0] < asked[1] and regions > MOST_SWEPT:
        raise UsageError(
            f"{regions} regions are too many to try {asked[0]} to {asked[1]} clusters",
            where="--clusters",
            mend=f"give one number, or at most {MOST_SWEPT} regions",
        )
    return asked


def search(
    evidence: Evidence,
    *,
    method: str,
    clusters: Range,
    config: DiscoveryConfig,
    vocabulary: Vocabulary | None = None,
) -> Search:
    """Cluster regions and find those that mislead the model.

    A rival names one group of regions. Where that is a cluster, its p-value is corrected over all
    clusters as for RaVL; where it is not, it has none, since the method chose it by the very errors
    that a test would look at.

    Args:
        evidence: embeddings, predictions and labels.
        method: a name out of `DISCOVERERS`.
        clusters: how many, or the lowest and the highest number.
        config: how clusters are judged; `choose_selection` gives its selection.
        vocabulary: words to describe clusters by.

    Raises:
        InputError: the regions cannot be clustered.
        NotApplicableError: the method cannot run on this evidence.
    """
    clusterer = CosineMedoids(clusters, sample_above=MOST_SWEPT, random_state=config.seed)
    found = discover(evidence, clusterer, vocabulary=vocabulary, config=config)
    medoids = np.asarray(clusterer.medoid_indices_, np.int64)
    members = {
        one.cluster: np.flatnonzero(found.clusters == one.cluster) for one in found.candidates
    }
    if method not in SCORED:
        shared = Clustered(labels=found.clusters, medoids=medoids)
        ranked = look_up(DISCOVERERS, method, kind="method")(evidence, shared, config.seed)
        judge = functools.partial(judge_clusters, vocabulary=vocabulary, config=config)
        found = _keep_group(found, ranked, evidence=evidence, judge=judge)
        members = {one.cluster: ranked.rows for one in found.candidates}
    return Search(
        discovery=found,
        medoids=medoids,
        asked=clusters,
        silhouette=float(clusterer.silhouette_),
        figures=measure_clusters(evidence, found.clusters, selection=config.selection),
        members=members,
    )


def _keep_group(
    found: Discovery,
    ranked: RankedRegions,
    *,
    evidence: Evidence,
    judge: functools.partial[Discovery],
) -> Discovery:
    """Replace the candidates of a discovery by the one group that a rival names."""
    if not len(ranked.rows):
        return replace(found, candidates=(), reason=ranked.reason)
    first = int(found.clusters[ranked.rows[0]])
    same = np.array_equal(np.sort(ranked.rows), np.flatnonzero(found.clusters == first))
    if same:
        kept = [one for one in found.candidates if one.cluster == first]
        return replace(found, candidates=_name_nearest(kept, ranked), reason=ranked.reason)
    group = np.full(len(evidence.regions), NO_CLUSTER)
    group[ranked.rows] = 0
    judged = judge(evidence, group)
    if not judged.candidates:
        return replace(found, candidates=(), reason=f"{ranked.reason}; {judged.reason}")
    note = "the regions found are no cluster of the clustering, so they have no p-value"
    blank = float("nan")
    kept = [
        replace(one, cluster=NO_CLUSTER, p_value=blank, adjusted_p_value=blank)
        for one in judged.candidates
    ]
    candidates = _name_nearest(kept, ranked)
    return replace(found, candidates=candidates, reason=ranked.reason, notes=(*found.notes, note))


def _name_nearest(kept: list[Candidate], ranked: RankedRegions) -> tuple[Candidate, ...]:
    return tuple(
        replace(one, nearest=tuple(ranked.rows[: len(one.nearest)].tolist())) for one in kept
    )


def measure_clusters(
    evidence: Evidence, clusters: NDArray[np.int64], *, selection: Selection = PAPER
) -> Figures:
    """Measure the gap and the influence of every cluster, kept or not (RaVL, Definitions 1, 2).

    Args:
        evidence: embeddings, predictions and labels.
        clusters: (R,) cluster of each region, 0 to C - 1, none empty.
        selection: whether gaps are weighted and images of one region count.
    """
    count, width = len(evidence.labels), int(clusters.max()) + 1
    presence = mark_presence(evidence.owners, clusters, count=count, width=width)
    table = tabulate_gaps(
        presence,
        evidence.labels,
        correct=evidence.predictions == evidence.labels,
        width=len(evidence.classes),
    )
    rows = find_strongest_regions(
        evidence.regions @ evidence.prototypes.T, evidence.owners, predictions=evidence.predictions
    )
    single = np.bincount(evidence.owners, minlength=count) == 1
    influence = measure_influence(
        presence,
        np.where(rows >= 0, clusters[rows], -1),
        labels=evidence.labels,
        predictions=evidence.predictions,
        gaps=label_gaps(table),
        skip=single if selection.skip_single_regions else None,
    )
    return Figures(
        gaps=cluster_gaps(table, weighted=selection.weighted),
        influence=influence.scores,
        sizes=np.bincount(clusters[clusters >= 0], minlength=width).astype(np.int64),
        images=presence.sum(axis=0).astype(np.int64),
    )
