"""Chance as a rival of discovery: all regions in a random order (RaVL, section 3.3)."""

from __future__ import annotations

import numpy as np

from fieldmark.core.seeds import generator
from fieldmark.discovery.evidence import Evidence
from fieldmark.discovery.rankings import Clustered, RankedRegions


def shuffle_regions(evidence: Evidence, clustered: Clustered, seed: int) -> RankedRegions:
    """Return all regions in a random order.

    Args:
        evidence: gives the number of regions.
        clustered: not used.
        seed: of the order.

    Example:
        >>> from fieldmark.discovery.evidence import gather_evidence
        >>> evidence = gather_evidence(
        ...     regions=np.eye(2), owners=[0, 1], labels=[0, 1], predictions=[0, 0],
        ...     prototypes=np.eye(2), classes=("cat", "dog"),
        ... )
        >>> none = np.zeros(2, np.int64)
        >>> found = shuffle_regions(evidence, Clustered(labels=none, medoids=none[:1]), 0)
        >>> sorted(found.rows.tolist())
        [0, 1]
    """
    order = generator(seed, "shuffled").permutation(len(evidence.regions))
    return RankedRegions(rows=order.astype(np.int64), reason="all regions in a random order")
