"""George on regions: the hidden subclass with the highest loss.

Sohoni et al. 2020 (NeurIPS), sections 4 and 5.2: within each class the features are reduced to few
dimensions and clustered into more clusters than there are likely subclasses. RaVL (section 3.3)
gives it regions in place of images: a region has its image's label and its own zero-shot scores,
whose cross-entropy is its loss. The cluster with the highest mean loss is the most suspect.

What their code decides or the paper leaves open:
- Two dimensions and ten clusters of a Gaussian mixture with full covariances, the best of three
  starts, with a fixed number of clusters (`search_k` off). Fewer where fewer regions are distinct.
- They reduce by UMAP. The default here is PCA, which they offer too, since umap-learn is an extra
  and a result must not hang on what happens to be installed; `reduction="umap"` takes their
  settings (10 neighbours, least distance 0).
- A cluster of fewer than 10 regions is left out as long as there is one that is larger. Their
  over-clustering leaves out those below 25.
- Regions are ranked by their likelihood in the cluster, which is their distance to its centre in
  units of its covariance.

Shape letters: m regions of a class, d dimensions after the reduction.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture
from threadpoolctl import threadpool_limits

from fieldmark.core.errors import MissingExtraError, UsageError
from fieldmark.core.seeds import derive_seed
from fieldmark.discovery.domino import Outputs, score_regions
from fieldmark.discovery.evidence import Evidence
from fieldmark.discovery.rankings import Clustered, RankedRegions

Floats = NDArray[np.float64]
Reduction = Literal["pca", "umap"]


@dataclass(frozen=True, kw_only=True)
class GeorgeConfig:
    """How subclasses are looked for.

    Attributes:
        outputs: the loss is that of a region's own zero-shot scores, or 1 where its image is
            predicted wrong and 0 where it is right.
        reduction: to few dimensions, within each class.
        dimensions: d.
        clusters: in each class.
        starts: of each mixture; the likeliest is kept.
        least: regions of a cluster that counts.

    Raises:
        UsageError: a number is below 1.
    """

    outputs: Outputs = "region"
    reduction: Reduction = "pca"
    dimensions: int = 2
    clusters: int = 10
    starts: int = 3
    least: int = 10

    def __post_init__(self) -> None:
        if min(self.dimensions, self.clusters, self.starts, self.least) < 1:
            raise UsageError("dimensions, clusters, starts or least below 1", mend="give 1 or more")


class _Subclass(NamedTuple):
    """A cluster of regions of a class, the likeliest first."""

    label: int
    rows: NDArray[np.int64]
    loss: float


def find_worst_subclass(
    evidence: Evidence,
    clustered: Clustered,
    seed: int,
    *,
    config: GeorgeConfig = GeorgeConfig(),
) -> RankedRegions:
    """Return the regions of the subclass with the highest mean loss, the likeliest in it first.

    Args:
        evidence: regions, labels and predictions.
        clustered: not used; each class is clustered for itself.
        seed: of the clusterings.
        config: how subclasses are looked for.

    Raises:
        MissingExtraError: UMAP is asked for and not installed.

    Example:
        >>> from fieldmark.discovery.evidence import gather_evidence
        >>> evidence = gather_evidence(
        ...     regions=np.eye(2)[[0, 1, 0, 1]], owners=[0, 1, 2, 3], labels=[0, 1, 1, 1],
        ...     predictions=[0, 1, 0, 1], prototypes=np.eye(2), classes=("cat", "dog"),
        ... )
        >>> none = np.zeros(4, np.int64)
        >>> find_worst_subclass(evidence, Clustered(labels=none, medoids=none[:1]), 0).rows.tolist()
        [2]
    """
    if (evidence.predictions == evidence.labels).all():
        return RankedRegions(rows=np.zeros(0, np.int64), reason="every image is predicted right")
    losses = _measure_losses(evidence, outputs=config.outputs)
    owned = evidence.labels[evidence.owners]
    found = []
    # On data this small a second thread costs more than it brings.
    with threadpool_limits(1):
        for label in np.unique(owned).tolist():
            rows = np.flatnonzero(owned == label)
            parts = _split_class(evidence.regions, rows, seed=seed, label=label, config=config)
            found += [_Subclass(label, part, float(losses[part].mean())) for part in parts]
    large = [subclass for subclass in found if len(subclass.rows) >= config.least] or found
    # The first of those that tie, which is that of the lowest class.
    worst = max(large, key=lambda subclass: subclass.loss)
    return RankedRegions(
        rows=worst.rows,
        reason=f"a cluster of {len(worst.rows)} regions of {evidence.classes[worst.label]} with "
        f"mean loss {worst.loss:.2f}, of {len(found)} clusters ({config.reduction})",
    )


def _measure_losses(evidence: Evidence, *, outputs: Outputs) -> Floats:
    labels = evidence.labels[evidence.owners]
    own = score_regions(evidence, outputs=outputs)[np.arange(len(labels)), labels]
    return 1 - own if outputs == "image" else -np.log(np.maximum(own, np.finfo(np.float64).tiny))


def _split_class(
    regions: NDArray[np.float32],
    rows: NDArray[np.int64],
    *,
    seed: int,
    label: int,
    config: GeorgeConfig,
) -> list[NDArray[np.int64]]:
    """Cluster the regions of a class; the rows of each cluster, the likeliest in it first."""
    state = derive_seed(seed, "george", label) % 2**32
    distinct = len(np.unique(regions[rows], axis=0))
    if distinct < 2:
        return [rows]
    values = _reduce(regions[rows].astype(np.float64), seed=state, config=config)
    mixture = GaussianMixture(
        min(config.clusters, distinct), n_init=config.starts, random_state=state
    )
    with warnings.catch_warnings():
        # Too few distinct rows or rounds only leave a cluster empty or less than the best.
        warnings.simplefilter("ignore", ConvergenceWarning)
        members = mixture.fit_predict(values)
    found = []
    for cluster in np.unique(members).tolist():
        inside = np.flatnonzero(members == cluster)
        offset = (values[inside] - mixture.means_[cluster]) @ mixture.precisions_cholesky_[cluster]
        order = np.argsort(np.square(offset).sum(axis=1), kind="stable")
        found.append(rows[inside[order]])
    return found


def _reduce(values: Floats, *, seed: int, config: GeorgeConfig) -> Floats:
    count, width = values.shape
    dimensions = min(config.dimensions, width)
    if config.reduction == "pca":
        kept = min(dimensions, count)
        return np.asarray(PCA(kept, svd_solver="covariance_eigh").fit_transform(values))
    try:
        from umap import UMAP
    except ImportError as error:
        raise MissingExtraError("umap-learn", extra="viz") from error
    # Its spectral start needs more rows than dimensions, and fewer neighbours than rows.
    if count <= dimensions + 1:
        return values
    reducer = UMAP(
        n_components=dimensions,
        n_neighbors=min(10, count - 1),
        min_dist=0.0,
        random_state=seed,
        n_jobs=1,
    )
    return np.asarray(reducer.fit_transform(values), np.float64)
