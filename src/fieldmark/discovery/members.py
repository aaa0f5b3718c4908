"""What is in a cluster of regions: the one in its middle, those nearest to it, and words for it.

Shape letters: R regions, C clusters, V words, D embedding dimensions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.core.errors import InputError
from fieldmark.discovery.candidates import Word
from fieldmark.discovery.evidence import Ints, Vocabulary, normalise_rows


def find_medoids(regions: NDArray[np.float32], clusters: ArrayLike, *, width: int) -> Ints:
    """Find the member of each cluster with the least sum of cosine distances to the others.

    Args:
        regions: (R,D) unit vectors.
        clusters: (R,) cluster of each region, 0 to `width` - 1; below 0 it is in none.
        width: C.

    Returns:
        (C,) row of the medoid, the first of those that tie; -1 for an empty cluster.

    Example:
        >>> find_medoids(np.array([[1, 0], [0.6, 0.8], [0, 1]]), [0, 0, 0], width=2).tolist()
        [1, -1]
    """
    of = np.asarray(clusters, np.int64)
    inside = np.flatnonzero(of >= 0)
    sums = np.zeros((width, regions.shape[1]))
    np.add.at(sums, of[inside], regions[inside])
    # The sum of cosines of x with all members is the product of x with their sum.
    closeness = np.einsum("rd,rd->r", regions[inside], sums[of[inside]])
    order = np.lexsort((-closeness, of[inside]))
    owners, first = np.unique(of[inside][order], return_index=True)
    medoids = np.full(width, -1, np.int64)
    medoids[owners] = inside[order[first]]
    return medoids


def rank_members(regions: NDArray[np.float32], members: Ints, *, medoid: int) -> Ints:
    """Return regions by falling similarity to the medoid; ties go by row.

    Args:
        regions: (R,D) unit vectors.
        members: rows of the cluster.
        medoid: row in its middle.

    Example:
        >>> rank_members(np.eye(2), np.array([0, 1]), medoid=1).tolist()
        [1, 0]
    """
    similarity = regions[members] @ regions[medoid]
    return np.asarray(members[np.argsort(-similarity, kind="stable")])


def check_vocabulary(vocabulary: Vocabulary, *, width: int) -> Vocabulary:
    """Return a vocabulary with embeddings of unit norm.

    Args:
        vocabulary: words with their text embeddings.
        width: D, of the regions.

    Raises:
        InputError: words and embeddings differ in number, the embeddings have another width than
            the regions, or one is zero or not finite.

    Example:
        >>> check_vocabulary(Vocabulary(words=("sea",), embeddings=[[3, 4]]), width=2).embeddings
        array([[0.6, 0.8]], dtype=float32)
    """
    rows = normalise_rows(vocabulary.embeddings, what="word")
    if rows.shape != (len(vocabulary.words), width):
        raise InputError(
            f"{len(vocabulary.words)} words with embeddings of shape {rows.shape} do not fit "
            f"regions of {width} dimensions",
            mend="embed the words with the regions' encoder",
        )
    return replace(vocabulary, embeddings=rows)


def find_words(
    region: NDArray[np.float32], vocabulary: Vocabulary, *, count: int
) -> tuple[Word, ...]:
    """Find the words nearest to a region, the nearest first; ties go by place.

    Args:
        region: (D,) unit vector.
        vocabulary: from `check_vocabulary`.
        count: how many at most.

    Example:
        >>> words = Vocabulary(words=("grass", "sea"), embeddings=np.eye(2))
        >>> find_words(np.array([0.6, 0.8]), words, count=1)
        (Word(word='sea', similarity=0.8),)
    """
    similarity = np.asarray(vocabulary.embeddings) @ region
    order = np.argsort(-similarity, kind="stable")[:count].tolist()
    return tuple(
        Word(word=vocabulary.words[row], similarity=float(similarity[row])) for row in order
    )
