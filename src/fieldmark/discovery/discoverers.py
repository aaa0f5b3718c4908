"""All ways of discovering that are compared with each other, by name (RaVL, Tables 1 and 2)."""

from __future__ import annotations

import numpy as np

from fieldmark.discovery.distilling_failures import find_failure_direction
from fieldmark.discovery.domino import find_worst_slice
from fieldmark.discovery.evidence import Evidence
from fieldmark.discovery.george import find_worst_subclass
from fieldmark.discovery.rankings import Clustered, Discoverer, RankedRegions
from fieldmark.discovery.shuffled import shuffle_regions
from fieldmark.discovery.spurious_aware import find_largest_gap, rank_cluster, tabulate_clusters
from fieldmark.metrics.cluster_gaps import cluster_gaps, label_gaps
from fieldmark.metrics.influence import (
    PAPER,
    Selection,
    find_strongest_regions,
    measure_influence,
    rank_clusters,
)


def make_ravl(selection: Selection = PAPER) -> Discoverer:
    """Make a discoverer of RaVL's measures (section 3.1) that keeps the clusters of a selection.

    It gives the regions of the first cluster, the nearest to its medoid first. The order is that of
    `ravl.judge_clusters` without the p-values, which take most of its time.

    Example:
        >>> from fieldmark.discovery.evidence import gather_evidence
        >>> evidence = gather_evidence(
        ...     regions=np.eye(2)[[0, 1, 0, 1]], owners=[0, 1, 2, 3], labels=[0, 0, 1, 1],
        ...     predictions=[0, 1, 0, 1], prototypes=np.eye(2), classes=("cat", "dog"),
        ... )
        >>> clusters = Clustered(labels=np.array([0, 1, 0, 1]), medoids=np.array([0, 1]))
        >>> make_ravl()(evidence, clusters, 0).rows.tolist()
        [0, 2]
    """

    def discover_top(evidence: Evidence, clustered: Clustered, seed: int) -> RankedRegions:
        return _find_top_cluster(evidence, clustered, selection=selection)

    return discover_top


def _find_top_cluster(
    evidence: Evidence, clustered: Clustered, *, selection: Selection
) -> RankedRegions:
    presence, table = tabulate_clusters(evidence, clustered)
    gaps = label_gaps(table)
    predictions, owners = evidence.predictions, evidence.owners
    cosines = evidence.regions @ evidence.prototypes.T
    rows = find_strongest_regions(cosines, owners, predictions=predictions)
    single = np.bincount(owners, minlength=len(predictions)) == 1
    influence = measure_influence(
        presence,
        np.where(rows >= 0, clustered.labels[rows], -1),
        labels=evidence.labels,
        predictions=predictions,
        gaps=gaps,
        skip=single if selection.skip_single_regions else None,
    ).scores
    totals = cluster_gaps(table, weighted=selection.weighted)
    ranking = rank_clusters(totals, influence, gaps=gaps, selection=selection)
    if not len(ranking.order):
        why = ", ".join(f"{reason} ({count})" for reason, count in ranking.dropped.items())
        return RankedRegions(rows=np.zeros(0, np.int64), reason=f"no cluster is left: {why}")
    top = int(ranking.order[0])
    pull = "undefined" if np.isnan(influence[top]) else f"{influence[top]:.2f}"
    return RankedRegions(
        rows=rank_cluster(evidence, clustered, top),
        reason=f"cluster {top}: gap {totals[top]:.2f}, influence {pull}",
    )


DISCOVERERS: dict[str, Discoverer] = {
    "ravl": make_ravl(),
    "gap-only": make_ravl(Selection(threshold=None)),
    "unweighted-gap-only": make_ravl(Selection(threshold=None, weighted=False)),
    "spurious-aware": find_largest_gap,
    "domino": find_worst_slice,
    "george": find_worst_subclass,
    "distilling-failures": find_failure_direction,
    "random": shuffle_regions,
}
