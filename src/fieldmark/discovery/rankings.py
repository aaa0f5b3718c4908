"""What a way of discovering gives: one group of regions, the most suspect first.

RaVL and its rivals are compared on the same regions, embeddings and, where they need one, the same
clustering (RaVL section 3.3): each names the one group of regions that it suspects most, and the
share of the first K that show the spurious feature is its Precision@K.

Shape letters: R regions, C clusters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fieldmark.discovery.evidence import Evidence


@dataclass(frozen=True, eq=False, kw_only=True)
class Clustered:
    """A clustering of regions, shared by the methods that need one.

    Attributes:
        labels: (R,) cluster of each region, 0 to C - 1, none empty.
        medoids: (C,) row of the region in the middle of each.
    """

    labels: NDArray[np.int64]
    medoids: NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class RankedRegions:
    """The regions that a method suspects.

    Attributes:
        rows: rows of the regions, the most suspect first; empty where nothing is found.
        reason: what the group is, or why there is none, in a line.
    """

    rows: NDArray[np.int64]
    reason: str


# From the evidence, a clustering of its regions and a seed.
Discoverer = Callable[[Evidence, Clustered, int], RankedRegions]
