"""Spurious-Aware Detection: the feature whose presence goes most with accuracy on one class.

Yang et al. 2023 (ICML) annotate features with an object detector and compare, for each class, the
accuracy of images with a feature and without it. Here a feature is a cluster of the clustering
that RaVL uses too (RaVL, section 3.3), and an image has it when one of its regions is in it.

What their code decides (`tools/detect_spurious_imagenet.py`), and what is open:
- The gap has a sign: a spurious feature helps its class. It is not weighted by how many images
  there are, but a feature that fewer than 10 images of the class show is left out.
- Their code keeps the five features of each class with the most mutual information with being wrong
  before it looks at gaps. That is to spare human readers and is left out here.
- Of equal gaps the one with more images on its rarer side goes first, then the lower cluster, then
  the lower class.
- Regions are ranked as RaVL's, by similarity to the medoid.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fieldmark.core.errors import InputError
from fieldmark.discovery.evidence import Evidence
from fieldmark.discovery.members import rank_members
from fieldmark.discovery.rankings import Clustered, RankedRegions
from fieldmark.metrics.cluster_gaps import GapTable, label_gaps, mark_presence, tabulate_gaps


def find_largest_gap(
    evidence: Evidence, clustered: Clustered, seed: int, *, least: int = 10
) -> RankedRegions:
    """Return the regions of the cluster that helps one class most, the nearest to its medoid first.

    Args:
        evidence: regions, labels and predictions.
        clustered: the features.
        seed: not used.
        least: images of a class that must show a feature.

    Raises:
        InputError: the clustering does not fit the regions.

    Example:
        >>> from fieldmark.discovery.evidence import gather_evidence
        >>> evidence = gather_evidence(
        ...     regions=np.eye(2)[[0, 1, 0, 1]], owners=[0, 1, 2, 3], labels=[0, 0, 1, 1],
        ...     predictions=[0, 1, 1, 1], prototypes=np.eye(2), classes=("cat", "dog"),
        ... )
        >>> clusters = Clustered(labels=np.array([0, 1, 0, 1]), medoids=np.array([0, 1]))
        >>> found = find_largest_gap(evidence, clusters, 0, least=1)
        >>> found.rows.tolist(), found.reason
        ([0, 2], 'cluster 0: accuracy on cat is 100 points higher with it')
    """
    _, table = tabulate_clusters(evidence, clustered)
    gaps = np.where(table.totals_in >= least, label_gaps(table), np.nan)
    found = np.argwhere(gaps > 0)
    if not len(found):
        none = np.isnan(gaps).all()
        why = f"no class has {least} images with a cluster and one without it"
        return RankedRegions(
            rows=np.zeros(0, np.int64),
            reason=why if none else "no class is predicted better with a cluster than without it",
        )
    clusters, labels = found.T
    rarer = np.minimum(table.totals_in, table.totals_out)[clusters, labels]
    size = gaps[clusters, labels]
    first = int(np.lexsort((labels, clusters, -rarer, -size))[0])
    cluster, name = int(clusters[first]), evidence.classes[int(labels[first])]
    return RankedRegions(
        rows=rank_cluster(evidence, clustered, cluster),
        reason=f"cluster {cluster}: accuracy on {name} is {100 * size[first]:.0f} points higher "
        "with it",
    )


def tabulate_clusters(
    evidence: Evidence, clustered: Clustered
) -> tuple[NDArray[np.bool_], GapTable]:
    """Mark which image has a region in which cluster (n,C), and count right predictions by it.

    Raises:
        InputError: the clustering does not fit the regions.
    """
    labels, medoids = clustered.labels, clustered.medoids
    count, width = len(evidence.regions), len(medoids)
    fits = labels.shape == (count,) and medoids.shape == (width,) and width > 0
    fits = fits and labels.min() >= 0 and labels.max() < width
    fits = fits and medoids.min() >= 0 and medoids.max() < count
    if not (fits and (labels[medoids] == np.arange(width)).all()):
        raise InputError(
            f"a clustering of {len(labels)} regions with {width} medoids does not fit {count} "
            "regions, or a medoid lies in another cluster",
            mend="cluster these regions and give a medoid for each cluster",
        )
    presence = mark_presence(evidence.owners, labels, count=len(evidence.labels), width=width)
    correct = evidence.predictions == evidence.labels
    classes = len(evidence.classes)
    return presence, tabulate_gaps(presence, evidence.labels, correct=correct, width=classes)


def rank_cluster(evidence: Evidence, clustered: Clustered, cluster: int) -> NDArray[np.int64]:
    """Return the regions of a cluster, the nearest to its medoid first."""
    members = np.flatnonzero(clustered.labels == cluster)
    return rank_members(evidence.regions, members, medoid=int(clustered.medoids[cluster]))
