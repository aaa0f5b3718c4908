"""Domino on regions: a mixture model that looks for slices of one kind of error.

Eyuboglu et al. 2022 (ICLR), section 5: a slice S has a share, a Gaussian of the embedding Z and
categorical distributions of the label Y and the prediction Y^; the three are independent given S.
Expectation-maximisation fits

    l = sum_i log sum_s P(S=s) P(z_i | s) P(y_i | s)^g P(y^_i | s)^g^

and the slice in which some class is predicted most above its share of labels is the worst. RaVL
(section 3.3) gives it regions in place of images: a region has its image's label and its own
zero-shot scores.

What their code decides or the paper leaves open:
- 25 slices, 128 principal components, weights g and g^ of 1, diagonal covariances with 1e-6 added,
  an end where the mean log-likelihood changes by less than 1e-3, or after 100 rounds.
- Slices start from the cells of the confusion matrix where there are at least as many slices as
  cells, and from k-means otherwise; their code raises an error there in one version and always
  takes k-means in the next.
- Many slices can hold nothing but one kind of error, and rounding would choose among them: of
  slices whose excess differs by less than 0.001 the one with the most regions is the worst.
- Regions of a slice are those more likely in it than in any other. They are ranked by log-odds,
  the same order as by probability, which rounds to 1 for many.

Shape letters: R regions, D dimensions, Y labels, S slices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, softmax
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from threadpoolctl import threadpool_limits

from fieldmark.core.errors import UsageError
from fieldmark.core.seeds import derive_seed, generator
from fieldmark.discovery.evidence import Evidence
from fieldmark.discovery.rankings import Clustered, RankedRegions

Floats = NDArray[np.float64]
Outputs = Literal["region", "image"]

_TEMPERATURE = 0.07
_TIE = 1e-3
_TINY = float(np.finfo(np.float64).eps)


@dataclass(frozen=True, kw_only=True)
class DominoConfig:
    """How slices are fitted.

    Attributes:
        outputs: a region's prediction is its own zero-shot scores, or its image's prediction.
        slices: S; fewer where there are fewer regions.
        components: principal components kept; fewer where regions or dimensions are fewer.
        label_weight: g, 0 or more.
        prediction_weight: g^, 0 or more.
        rounds: of expectation-maximisation at most.
        tolerance: the change of the mean log-likelihood that ends it.
        ridge: added to each variance.
        noise: largest random share added to the start from the confusion matrix.

    Raises:
        UsageError: a number is out of its range.
    """

    outputs: Outputs = "region"
    slices: int = 25
    components: int = 128
    label_weight: float = 1
    prediction_weight: float = 1
    rounds: int = 100
    tolerance: float = 1e-3
    ridge: float = 1e-6
    noise: float = 1e-3

    def __post_init__(self) -> None:
        counts = min(self.slices, self.components, self.rounds)
        weights = min(self.label_weight, self.prediction_weight, self.tolerance, self.noise)
        if counts < 1 or weights < 0 or self.ridge <= 0:
            raise UsageError(
                "slices, components or rounds below 1, a ridge of 0 or less, or a weight, "
                "tolerance or noise below 0",
                mend="give numbers in their range",
            )


class Observations(NamedTuple):
    """What the mixture models, by region.

    Attributes:
        embeddings: (R,D) after the reduction.
        labels: (R,Y) one-hot labels.
        predictions: (R,Y) probabilities.
    """

    embeddings: Floats
    labels: Floats
    predictions: Floats


class Mixture(NamedTuple):
    """The parameters of S slices.

    Attributes:
        shares: (S,) they add up to 1.
        means: (S,D) of the embeddings.
        variances: (S,D) of the embeddings, above 0.
        labels: (S,Y) distribution of labels.
        predictions: (S,Y) distribution of predictions.
    """

    shares: Floats
    means: Floats
    variances: Floats
    labels: Floats
    predictions: Floats


def find_worst_slice(
    evidence: Evidence,
    clustered: Clustered,
    seed: int,
    *,
    config: DominoConfig = DominoConfig(),
) -> RankedRegions:
    """Return the regions of the slice that errs most, by falling probability of being in it.

    Args:
        evidence: regions, labels and predictions.
        clustered: not used.
        seed: of the start.
        config: how slices are fitted.

    Example:
        >>> from fieldmark.discovery.evidence import gather_evidence
        >>> evidence = gather_evidence(
        ...     regions=np.eye(2)[[0, 1, 0, 1]], owners=[0, 1, 2, 3], labels=[0, 1, 1, 1],
        ...     predictions=[0, 1, 0, 1], prototypes=np.eye(2), classes=("cat", "dog"),
        ... )
        >>> none = np.zeros(4, np.int64)
        >>> find_worst_slice(evidence, Clustered(labels=none, medoids=none[:1]), 0).rows.tolist()
        [2]
    """
    if (evidence.predictions == evidence.labels).all():
        return RankedRegions(rows=np.zeros(0, np.int64), reason="every image is predicted right")
    # On matrices this small a second thread costs more than it brings.
    with threadpool_limits(1):
        observed = _observe(evidence, config=config)
        slices = min(config.slices, len(evidence.regions))
        start = start_slices(observed, slices, seed=seed, noise=config.noise)
        mixture = fit_mixture(observed, start, config=config)
        joint = weigh_slices(observed, mixture, config=config)
    excess = mixture.predictions - mixture.labels
    members = joint.argmax(axis=1)
    sizes = np.bincount(members, minlength=slices)
    largest = np.where(sizes > 0, excess.max(axis=1), -np.inf)
    worst = int(np.where(largest >= largest.max() - _TIE, sizes, 0).argmax())
    rows = np.flatnonzero(members == worst)
    others = np.delete(joint[rows], worst, axis=1)
    odds = joint[rows, worst] - (logsumexp(others, axis=1) if slices > 1 else 0)
    return RankedRegions(
        rows=rows[np.argsort(-odds, kind="stable")],
        reason=f"a slice of {len(rows)} regions where "
        f"{evidence.classes[int(excess[worst].argmax())]} is predicted "
        f"{100 * excess[worst].max():.0f} points above its share of labels",
    )


def _observe(evidence: Evidence, *, config: DominoConfig) -> Observations:
    kept = min(config.components, *evidence.regions.shape)
    reducer = PCA(kept, svd_solver="covariance_eigh")
    return Observations(
        np.asarray(reducer.fit_transform(evidence.regions.astype(np.float64))),
        np.eye(len(evidence.classes))[evidence.labels[evidence.owners]],
        score_regions(evidence, outputs=config.outputs),
    )


def score_regions(evidence: Evidence, *, outputs: Outputs = "region") -> Floats:
    """Return what the model predicts for each region: (R,Y), rows add up to 1.

    Args:
        evidence: regions, prototypes and predictions.
        outputs: `region` for the softmax of a region's own cosines with the classes at temperature
            0.07 (RaVL, section 3.1), `image` for its image's prediction as 0 and 1.

    Example:
        >>> from fieldmark.discovery.evidence import gather_evidence
        >>> evidence = gather_evidence(
        ...     regions=[[1, 0], [3, 4]], owners=[0, 1], labels=[0, 1], predictions=[0, 0],
        ...     prototypes=np.eye(2), classes=("cat", "dog"),
        ... )
        >>> score_regions(evidence).round(2).tolist()
        [[1.0, 0.0], [0.05, 0.95]]
        >>> score_regions(evidence, outputs="image").tolist()
        [[1.0, 0.0], [1.0, 0.0]]
    """
    if outputs == "image":
        return np.eye(len(evidence.classes))[evidence.predictions[evidence.owners]]
    cosines = evidence.regions.astype(np.float64) @ evidence.prototypes.T.astype(np.float64)
    return np.asarray(softmax(cosines / _TEMPERATURE, axis=1))


def start_slices(observed: Observations, slices: int, *, seed: int, noise: float = 1e-3) -> Floats:
    """Return the first share of each slice in each region: (R,S), rows add up to 1.

    Args:
        observed: by region.
        slices: S, at most R. With at least Y squared of them each belongs to a cell of the
            confusion matrix, in turns; with fewer they are clusters of k-means.
        seed: of k-means and of the noise.
        noise: the most that is added at random, so that slices of one cell differ.

    Example:
        >>> sure = Observations(np.zeros((1, 1)), np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]]))
        >>> start_slices(sure, 4, seed=0, noise=0).tolist()
        [[0.0, 1.0, 0.0, 0.0]]
    """
    count, classes = observed.labels.shape
    if slices < classes**2:
        found = KMeans(slices, n_init=1, random_state=derive_seed(seed, "domino") % 2**32)
        return np.eye(slices)[np.asarray(found.fit_predict(observed.embeddings), np.int64)]
    cells = observed.labels[:, :, None] * observed.predictions[:, None, :]
    turns = np.arange(slices) % classes**2
    shares = cells.reshape(count, -1)[:, turns]
    shares /= shares.sum(axis=1, keepdims=True)
    shares += noise * generator(seed, "domino").random(shares.shape)
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def fit_mixture(
    observed: Observations, shares: Floats, *, config: DominoConfig = DominoConfig()
) -> Mixture:
    """Fit the slices by expectation-maximisation.

    Args:
        observed: by region.
        shares: (R,S) first share of each slice in each region.
        config: weights, ridge and when to end.

    Example:
        >>> observed = Observations(np.array([[0.0], [2.0]]), np.eye(2), np.eye(2))
        >>> fit_mixture(observed, np.eye(2)).means.round(2).tolist()
        [[0.0], [2.0]]
    """
    mixture = update_mixture(observed, shares, ridge=config.ridge)
    before = -np.inf
    for _ in range(config.rounds):
        joint = weigh_slices(observed, mixture, config=config)
        total = logsumexp(joint, axis=1)
        mixture = update_mixture(observed, np.exp(joint - total[:, None]), ridge=config.ridge)
        if abs(total.mean() - before) < config.tolerance:
            break
        before = float(total.mean())
    return mixture


def update_mixture(observed: Observations, shares: Floats, *, ridge: float = 1e-6) -> Mixture:
    """Return the likeliest slices for given shares (M-step).

    Args:
        observed: by region.
        shares: (R,S) share of each slice in each region.
        ridge: added to each variance.

    Example:
        >>> observed = Observations(np.array([[0.0], [2.0]]), np.eye(2), np.eye(2))
        >>> update_mixture(observed, np.ones((2, 1)), ridge=0.5).variances.tolist()
        [[1.5...]]
    """
    # A slice that has lost all its regions keeps a share above 0, so that its logarithm is finite.
    sizes = shares.sum(axis=0) + 10 * _TINY
    embeddings, labels, predictions = (shares.T @ part / sizes[:, None] for part in observed)
    squares = shares.T @ np.square(observed.embeddings) / sizes[:, None]
    # Rounding can leave a difference of two near numbers below 0.
    variances = np.maximum(squares - np.square(embeddings), 0) + ridge
    return Mixture(sizes / len(shares), embeddings, variances, labels, predictions)


def weigh_slices(
    observed: Observations, mixture: Mixture, *, config: DominoConfig = DominoConfig()
) -> Floats:
    """Return log P(s) P(z|s) P(y|s)^g P(y^|s)^g^ of each region and slice (E-step): (R,S).

    Less its logsumexp over slices it is the log-probability of each slice.

    Args:
        observed: by region.
        mixture: the slices.
        config: the weights.

    Example:
        >>> observed = Observations(np.array([[0.0], [2.0]]), np.eye(2), np.eye(2))
        >>> mixture = update_mixture(observed, np.ones((2, 1)))
        >>> weigh_slices(observed, mixture).round(3).tolist()
        [[-2.805], [-2.805]]
    """
    precision = 1 / mixture.variances
    scaled = mixture.means * precision
    # |z - m|^2 in units of the variances, as three products.
    distance = np.square(observed.embeddings) @ precision.T - 2 * observed.embeddings @ scaled.T
    distance += (mixture.means * scaled).sum(axis=1)
    volume = np.log(2 * np.pi * mixture.variances).sum(axis=1)
    joint = np.log(mixture.shares) - (distance + volume) / 2
    for weight, part, distribution in (
        (config.label_weight, observed.labels, mixture.labels),
        (config.prediction_weight, observed.predictions, mixture.predictions),
    ):
        joint += weight * np.log(part @ distribution.T + _TINY)
    return np.asarray(joint)
