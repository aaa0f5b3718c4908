"""Zero-shot classification: the class of the nearest prompt-ensemble prototype (bap.txt M.3.1)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.core.errors import UsageError
from fieldmark.methods.head import HeadData, HeadKind


@dataclass(frozen=True, eq=False)
class ZeroShotClassifier:
    """A linear head without bias whose rows are text embeddings.

    Args:
        prototypes: (C,D), one for each class in the order of its label, such as
            `models.prompts.ensemble_prompts` makes. Their length does not matter.

    Raises:
        UsageError: the prototypes are no (C,D) array, or one of them is zero or not finite.

    Example:
        >>> head = ZeroShotClassifier(np.eye(2))
        >>> head.predict([[0.9, 0.1], [0.2, 0.8]]).tolist()
        [0, 1]
    """

    prototypes: ArrayLike

    def __post_init__(self) -> None:
        values = np.asarray(self.prototypes, dtype=np.float64)
        if values.ndim != 2 or not len(values):
            raise UsageError(f"prototypes of shape {values.shape} are no (classes, dimensions)")
        norms = np.linalg.norm(values, axis=1, keepdims=True)
        if not (np.isfinite(norms) & (norms > 0)).all():
            raise UsageError("a class has a prototype that is zero or not finite")
        object.__setattr__(self, "prototypes", values / norms)

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the cosine of each embedding (n,D) with each prototype: (n,C) in [-1, 1].

        Raises:
            UsageError: the embeddings have another width than the prototypes.
        """
        embeddings = np.asarray(X, dtype=np.float64)
        prototypes = np.asarray(self.prototypes)
        if embeddings.ndim != 2 or embeddings.shape[1] != prototypes.shape[1]:
            raise UsageError(
                f"embeddings of shape {embeddings.shape} do not fit prototypes of shape "
                f"{prototypes.shape}",
                mend="embed images and prompts with one encoder",
            )
        norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
        unit = np.divide(embeddings, norms, out=np.zeros_like(embeddings), where=norms > 0)
        return np.asarray(unit @ prototypes.T)

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Return the label of the nearest prototype of each embedding: (n,)."""
        return np.asarray(self.decision_function(X).argmax(axis=1), dtype=np.int64)

    def describe(self) -> dict[str, object]:
        """Return what this head is, as JSON values for a record."""
        return {"head": "zero-shot", "classes": len(np.asarray(self.prototypes))}


def _make(data: HeadData) -> ZeroShotClassifier:
    assert data.prototypes is not None
    return ZeroShotClassifier(data.prototypes)


HEAD = HeadKind(
    name="zero-shot",
    make=_make,
    needs=frozenset({"prototypes"}),
    seeded=False,
    source="Radford et al. 2021; bap.txt M.3.1",
)
