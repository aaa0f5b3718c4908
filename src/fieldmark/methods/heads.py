"""The heads that turn embeddings into classes, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.methods.linear_probe import ConvexProbe, LinearProbe
from fieldmark.methods.zero_shot import ZeroShotClassifier


class Head(Protocol):
    """What is asked of a head once it is made."""

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Return the label of each embedding (n,D): (n,)."""
        ...

    def describe(self) -> dict[str, object]:
        """Return which head this is and how it is set, as JSON values."""
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class HeadData:
    """What a head is made from; a head reads what its kind needs.

    Attributes:
        embeddings: (n,D) of the training split.
        labels: (n,) of the training split.
        prototypes: (C,D) prompt-ensemble embeddings of the classes.
        seed: 0 or more.
    """

    embeddings: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    prototypes: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    seed: int = 0


@dataclass(frozen=True)
class HeadKind:
    """A way to make a head.

    Attributes:
        make: from the data to the head.
        needs: `training` for a training split, `prompts` for class names.
        seeded: whether another seed gives another head.
    """

    make: Callable[[HeadData], Head]
    needs: Literal["training", "prompts"]
    seeded: bool


def _make_zero_shot(data: HeadData) -> Head:
    return ZeroShotClassifier(data.prototypes)


def _make_linear_probe(data: HeadData) -> Head:
    return LinearProbe(random_state=data.seed).fit(data.embeddings, data.labels)


def _make_convex_probe(data: HeadData) -> Head:
    return ConvexProbe().fit(data.embeddings, data.labels)


HEADS: dict[str, HeadKind] = {
    "zero-shot": HeadKind(_make_zero_shot, "prompts", seeded=False),
    "linear-probe": HeadKind(_make_linear_probe, "training", seeded=True),
    "convex-probe": HeadKind(_make_convex_probe, "training", seeded=False),
}
