"""Distilling Failures on regions: the direction in which a class is predicted wrong.

Jain et al. 2023 (ICLR), section 2: for each class a linear support vector machine on embeddings of
unit norm tells the examples that the model predicts right from those that it predicts wrong; its
normal is the class's failure direction, and the balanced accuracy in cross-validation tells how
well one direction sums up the failures. RaVL (section 3.3) gives it regions in place of images: a
region has its image's label and its own zero-shot prediction.

What their code decides or the paper leaves open:
- Classes are weighted as if right and wrong were equally many; C is the best of 1e-6, 1e-5, .., 1
  by two-fold cross-validation, the least of those that tie.
- Regions of one image are kept in one fold, and folds are drawn by the seed.
- A class with fewer than two images that have a wrong region, or with too few right ones for both
  folds, has no direction. One with a balanced accuracy of at most one half, chance, does not count.
- The class with the best balanced accuracy is taken, the first of those that tie. Of its regions
  those on the wrong side are ranked by how far they lie on it.
- Embeddings are not whitened; their code does that only where training data are given.

Shape letters: m regions of a class.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.svm import SVC
from threadpoolctl import threadpool_limits

from fieldmark.core.errors import UsageError
from fieldmark.core.seeds import generator
from fieldmark.discovery.domino import Outputs, score_regions
from fieldmark.discovery.evidence import Evidence
from fieldmark.discovery.rankings import Clustered, RankedRegions

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_PENALTIES = tuple(10.0**power for power in range(-6, 1))


@dataclass(frozen=True, kw_only=True)
class FailureConfig:
    """How failure directions are found.

    Attributes:
        outputs: a region is right by its own zero-shot prediction, or when its image is.
        penalties: values of C to choose from, above 0, in the order of preference.

    Raises:
        UsageError: there is no penalty, or one is 0 or less.
    """

    outputs: Outputs = "region"
    penalties: tuple[float, ...] = _PENALTIES

    def __post_init__(self) -> None:
        if not self.penalties or min(self.penalties) <= 0:
            raise UsageError("no penalty, or one of 0 or less", mend="give values of C above 0")


class _Direction(NamedTuple):
    """What the machine of a class says: decisions are below 0 on the wrong side."""

    label: int
    accuracy: float
    rows: NDArray[np.int64]
    decisions: Floats


def find_failure_direction(
    evidence: Evidence,
    clustered: Clustered,
    seed: int,
    *,
    config: FailureConfig = FailureConfig(),
) -> RankedRegions:
    """Return the regions furthest along the clearest failure direction, the furthest first.

    Args:
        evidence: regions, labels and predictions.
        clustered: not used.
        seed: of the folds.
        config: how directions are found.

    Example:
        >>> from fieldmark.discovery.evidence import gather_evidence
        >>> evidence = gather_evidence(
        ...     regions=np.eye(2)[[0, 1, 0, 1, 0]], owners=[0, 1, 2, 3, 4], labels=[0, 1, 1, 1, 1],
        ...     predictions=[0, 1, 0, 1, 0], prototypes=np.eye(2), classes=("cat", "dog"),
        ... )
        >>> none = np.zeros(5, np.int64)
        >>> found = find_failure_direction(evidence, Clustered(labels=none, medoids=none[:1]), 0)
        >>> found.rows.tolist()
        [2, 4]
    """
    nothing = np.zeros(0, np.int64)
    if (evidence.predictions == evidence.labels).all():
        return RankedRegions(rows=nothing, reason="every image is predicted right")
    owned = evidence.labels[evidence.owners]
    right = score_regions(evidence, outputs=config.outputs).argmax(axis=1) == owned
    # On matrices this small a second thread costs more than it brings.
    with threadpool_limits(1):
        judged = [
            _find_direction(evidence, right, label=label, seed=seed, config=config)
            for label in np.unique(owned).tolist()
        ]
    found = [direction for direction in judged if direction]
    if not found:
        return RankedRegions(
            rows=nothing, reason="no class has right and wrong regions for two folds"
        )
    best = max(found, key=lambda direction: direction.accuracy)
    wrong = np.flatnonzero(best.decisions < 0)
    if best.accuracy <= 0.5 or not len(wrong):
        return RankedRegions(
            rows=nothing,
            reason="no direction tells right from wrong regions better than chance "
            f"(balanced accuracy {best.accuracy:.2f})",
        )
    order = np.argsort(best.decisions[wrong], kind="stable")
    return RankedRegions(
        rows=best.rows[wrong[order]],
        reason=f"the failure direction of {evidence.classes[best.label]} "
        f"(balanced accuracy {best.accuracy:.2f})",
    )


def _find_direction(
    evidence: Evidence, right: Flags, *, label: int, seed: int, config: FailureConfig
) -> _Direction | None:
    rows = np.flatnonzero(evidence.labels[evidence.owners] == label)
    truth, owners = right[rows], evidence.owners[rows]
    first = _draw_fold(owners, truth, random=generator(seed, "folds", label))
    parts = [truth[first], truth[~first]]
    if any(part.all() or not part.any() for part in parts):
        return None
    values = evidence.regions[rows].astype(np.float64)
    # All machines of a class share one matrix of products.
    products = values @ values.T
    score, penalty = max(
        (
            (_cross_validate(products, truth, first=first, penalty=penalty), penalty)
            for penalty in config.penalties
        ),
        key=lambda pair: pair[0],
    )
    return _Direction(label, score, rows, _decide(products, truth, penalty=penalty))


def _draw_fold(owners: NDArray[np.int64], right: Flags, *, random: np.random.Generator) -> Flags:
    """Put every other image with a wrong region, and every other without one, into a fold: (m,)."""
    images, position = np.unique(owners, return_inverse=True)
    faulty = np.zeros(len(images), np.bool_)
    faulty[position[~right]] = True
    drawn = np.zeros(len(images), np.bool_)
    for kind in (faulty, ~faulty):
        drawn[random.permutation(np.flatnonzero(kind))[::2]] = True
    return np.asarray(drawn[position])


def _cross_validate(products: Floats, right: Flags, *, first: Flags, penalty: float) -> float:
    """Return the mean balanced accuracy over two folds."""
    scores = []
    for fitted in (first, ~first):
        decisions = _decide(products, right, penalty=penalty, fitted=fitted)
        said, truth = decisions[~fitted] > 0, right[~fitted]
        scores.append((said[truth].mean() + (~said[~truth]).mean()) / 2)
    return float(np.mean(scores))


def _decide(
    products: Floats, right: Flags, *, penalty: float, fitted: Flags | None = None
) -> Floats:
    """Return the decision of a machine for all m regions, above 0 where it says right."""
    inside = np.ones(len(right), np.bool_) if fitted is None else fitted
    machine = SVC(C=penalty, kernel="precomputed", class_weight="balanced")
    machine.fit(products[np.ix_(inside, inside)], right[inside])
    return np.asarray(machine.decision_function(products[:, inside]), np.float64)
