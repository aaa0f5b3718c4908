"""RoboShot: remove what concept pairs span from embeddings, and add what class pairs span.

Adila et al. 2024, algorithm 1; bap.txt M.2. Every pair of texts gives a direction, the difference
of their embeddings. The published procedure walks over an orthonormal basis of the directions to
reject, each time subtracting the projection and renormalising, then over one of those to accept,
adding the projection. Renormalising only rescales, so all of it is one linear map,

    x (I - Qs Qs^T) (I + Qt Qt^T),

after which x is normalised once. Where this differs from the published code:

- Bases come from a singular value decomposition with a cut of rank. The QR that the code uses
  returns arbitrary unit directions for pairs that depend on one another.
- The code takes differences of raw text embeddings. `Encoder.encode_text` returns unit vectors, so
  here they are differences of those. The two span slightly different lines where the texts of a
  pair differ in norm.

The map does not depend on images: nothing is trained and there is no seed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.core.errors import UsageError
from fieldmark.methods.head import HeadData, HeadKind
from fieldmark.methods.zero_shot import ZeroShotClassifier

Floats = NDArray[np.float64]
RANK_TOLERANCE = 1e-4


def find_basis(pairs: ArrayLike, *, rank_tolerance: float = RANK_TOLERANCE) -> Floats:
    """Return an orthonormal basis (D,r) of the differences of pairs (P,2,D).

    Args:
        pairs: embeddings of texts two by two; P may be 0.
        rank_tolerance: directions with a singular value of at most this share of the largest are
            left out, in [0, 1).

    Raises:
        UsageError: no (P,2,D) array, a value that is not finite, or pairs without any difference.

    Example:
        >>> twice = [[[1.0, 0.0], [0.0, 0.0]], [[3.0, 0.0], [1.0, 0.0]]]
        >>> np.abs(find_basis(twice)).tolist()
        [[1.0], [0.0]]
    """
    values = np.asarray(pairs, dtype=np.float64)
    if values.ndim != 3 or values.shape[1] != 2:
        raise UsageError(f"concept pairs of shape {values.shape} are no (pairs, 2, dimensions)")
    if not np.isfinite(values).all():
        raise UsageError("a concept pair has an embedding that is not finite")
    if not len(values):
        return np.zeros((values.shape[2], 0))
    _, sizes, directions = np.linalg.svd(values[:, 0] - values[:, 1], full_matrices=False)
    if sizes[0] <= 1e-12:
        raise UsageError(
            "the two texts of every concept pair have one embedding", mend="name texts that differ"
        )
    return np.asarray(directions[sizes > rank_tolerance * sizes[0]].T)


def build_projection(
    reject: ArrayLike, accept: ArrayLike, *, rank_tolerance: float = RANK_TOLERANCE
) -> Floats:
    """Return RoboShot's map (D,D) for rows: mapped = embeddings @ map, up to their norm.

    After the accepts, mapped embeddings may have a part along the rejected directions again,
    where those are not orthogonal to the accepted ones.

    Args:
        reject: (P,2,D), two values of something spurious each; P may be 0.
        accept: (Q,2,D), two classes each; Q may be 0.
        rank_tolerance: see `find_basis`.

    Raises:
        UsageError: pairs that cannot be used, or of different width.

    Example:
        >>> land_or_water, bird = [[[0.0, 1.0], [0.0, -1.0]]], [[[1.0, 0.0], [-1.0, 0.0]]]
        >>> build_projection(land_or_water, bird).tolist()
        [[2.0, 0.0], [0.0, 0.0]]
    """
    bad = find_basis(reject, rank_tolerance=rank_tolerance)
    good = find_basis(accept, rank_tolerance=rank_tolerance)
    if len(bad) != len(good):
        raise UsageError(f"pairs to reject have width {len(bad)}, those to accept {len(good)}")
    unit = np.eye(len(bad))
    return (unit - bad @ bad.T) @ (unit + good @ good.T)


class RoboShotClassifier:
    """Zero-shot classification of mapped embeddings; the prototypes stay as they are.

    Args:
        prototypes: (C,D), one for each class in the order of its label.
        projection: (D,D) from `build_projection`.

    Raises:
        UsageError: prototypes that cannot be used, or of another width than the projection.

    Example:
        >>> projection = build_projection([[[0.0, 1.0], [0.0, -1.0]]], np.zeros((0, 2, 2)))
        >>> head = RoboShotClassifier([[1.0, 0.0], [-1.0, 0.5]], projection=projection)
        >>> head.predict([[0.1, 0.9], [-0.1, 0.9]]).tolist()
        [0, 1]
    """

    def __init__(self, prototypes: ArrayLike, *, projection: ArrayLike) -> None:
        self.classifier = ZeroShotClassifier(prototypes)
        self.projection = np.asarray(projection, dtype=np.float64)
        width = np.shape(self.classifier.prototypes)[1]
        if self.projection.shape != (width, width):
            raise UsageError(
                f"a projection of shape {self.projection.shape} does not fit prototypes of width "
                f"{width}",
                mend="embed concepts and prompts with one encoder",
            )

    def transform(self, X: ArrayLike) -> Floats:
        """Map embeddings (n,D) and normalise them: (n,D), zero where nothing is left of one.

        Raises:
            UsageError: the embeddings have another width than the projection.
        """
        embeddings = np.asarray(X, dtype=np.float64)
        if embeddings.ndim != 2 or embeddings.shape[1] != len(self.projection):
            raise UsageError(
                f"embeddings of shape {embeddings.shape} do not fit a projection of width "
                f"{len(self.projection)}",
                mend="embed images and concepts with one encoder",
            )
        mapped = embeddings @ self.projection
        norms = np.linalg.norm(mapped, axis=1, keepdims=True)
        return np.asarray(np.divide(mapped, norms, out=np.zeros_like(mapped), where=norms > 0))

    def decision_function(self, X: ArrayLike) -> Floats:
        """Return the cosine of each mapped embedding with each prototype: (n,C) in [-1, 1]."""
        return self.classifier.decision_function(self.transform(X))

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Return the label of the prototype nearest to each mapped embedding: (n,)."""
        return self.classifier.predict(self.transform(X))

    def describe(self) -> dict[str, object]:
        """Return what this head is, as JSON values for a record."""
        return {**self.classifier.describe(), "head": "roboshot"}


def _make(data: HeadData) -> RoboShotClassifier:
    assert data.prototypes is not None
    assert data.concepts is not None
    projection = build_projection(data.concepts.reject, data.concepts.accept)
    return RoboShotClassifier(data.prototypes, projection=projection)


HEAD = HeadKind(
    name="roboshot",
    make=_make,
    needs=frozenset({"prototypes", "concepts"}),
    seeded=False,
    source="Adila et al. 2024, algorithm 1; bap.txt M.2",
)
