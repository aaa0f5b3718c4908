"""DIAL: disentangle, identify, and label-free removal (Yalavarthi, Ratha, Govindaraju, ICLR 2026).

No official code exists, and of the paper only the abstract (openreview NHOLsaHuFv) was at hand:
minority representations are filtered "using distributional analysis", a sparse autoencoder finds
"the feature directions associated with spurious features", and "the subspace spanned by these
spurious directions" is removed; the number of directions is found "in a principled way". bap.txt
M.2 adds a Matryoshka autoencoder of 8 x D latents, the selection fraction alpha = 0.65, the
projection scaling lambda = 0.9, k = 10 neighbours, and "target text prompts (e.g. water
background)". The rest was decided here, so these are not the authors' numbers. Labels and
groups are never read. With x (n,D) unit embeddings, W_i the decoder's unit rows, z_i(x) its
latents, and t = the unit difference of the two texts of a pair:

1. Disentangle. Fit `MatryoshkaAutoencoder` on x.
2. Filter. The pseudo-class of x is its zero-shot class. Its pole, the text of the pair it looks
   like, is the side of the threshold that splits the scores x . t into two parts with the least
   variance within (Otsu). Its influence is the share of its k nearest neighbours that have its
   pole but not its pseudo-class: near to it, then, is what shares its background. The candidates
   are the alpha of each (pseudo-class, pole) with the greatest influence. The minority-looking
   combinations, rare ones, are thus kept beside those majority samples that are most like them.
3. Identify. The gap of latent i is the mean of z_i over candidates of one pole less that of the
   other, within each pseudo-class, averaged over pseudo-classes by n_1 n_2 / (n_1 + n_2), so that
   what goes with the class cancels. Spurious are the latents whose gap is no chance: two-sided z
   test, false discovery rate 5 % (Benjamini and Hochberg). This fixes their number. The
   attribution of latent i is gap_i (W_i . t): over all latents these add up to the gap of the
   reconstructions along t; it ranks them. To ask for a positive one as well left more of a planted
   direction behind (2026-11-22: D = 16, probe at 0.55 to 0.59, without it 0.53 to 0.54).
4. Remove. The spurious direction of a pair is sum gap_i W_i over its spurious latents, plus the
   gap of what the autoencoder does not reconstruct (else that much of it would stay): the gap of
   the embeddings less what other latents account for. It
   and not the span of all the W_i is removed: hundreds of rows would span the core features too,
   and a linear probe can tell two poles with equal means no better than a constant. The directions
   of all pairs span U (R,D). x becomes x - lambda (x U^T) U, back to unit length.

Step 4 maps every embedding, although the abstract says "the affected representations": a map that
leaves some alone would show in the space which ones, and could not be used on a single image.
Where no pseudo-class has k candidates at both poles (correlation 1.0), class and background cannot
be told apart by step 3. The gap is then taken over all candidates together, only latents count
whose attribution is positive and whose W_i is more along t than along any class prototype less
their mean, and what is not reconstructed is left alone; `confounded` says so.
At lambda = 0.9 a tenth of the direction stays by design, which a linear probe can still read;
what falls is its weight in zero-shot scores.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.core.errors import NotApplicableError, UsageError
from fieldmark.methods.head import HeadData, HeadKind
from fieldmark.methods.sparse_autoencoder import MatryoshkaAutoencoder
from fieldmark.methods.spurious_latents import (
    Floats,
    Indices,
    PoleGap,
    align_classes,
    compare_poles,
    discover,
    find_neighbours,
    measure_cells,
    scale_to_unit,
    select_candidates,
    split_scores,
)
from fieldmark.methods.zero_shot import ZeroShotClassifier

# A pair whose direction has less than this of the largest singular value repeats other pairs.
RANK_CUT = 0.1


@dataclass(frozen=True, kw_only=True)
class DialSettings:
    """How DIAL is set; the first four are bap.txt M.2's.

    Attributes:
        alpha: share of each combination of pseudo-class and pole that is kept, in (0, 1].
        strength: lambda, the share of the spurious part that is removed, in [0, 1].
        neighbours: k, 1 or more.
        expansion: latents of the autoencoder for each dimension.
        epochs: of the autoencoder. 4 take about 7 s for 4,795 x 512 on one core.
        batch_size: of the autoencoder.
        learning_rate: of the autoencoder, in its first step.
    """

    alpha: float = 0.65
    strength: float = 0.9
    neighbours: int = 10
    expansion: int = 8
    epochs: int = 4
    batch_size: int = 128
    learning_rate: float = 3e-3

    def __post_init__(self) -> None:
        if not 0 < self.alpha <= 1 or not 0 <= self.strength <= 1 or self.neighbours < 1:
            raise UsageError(
                f"alpha must be in (0, 1], strength in [0, 1], neighbours 1 or more, got "
                f"{self.alpha}, {self.strength}, {self.neighbours}"
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class SpuriousDirection:
    """What was found for one pair of texts.

    Attributes:
        vector: (D,) of unit norm, from the first text of the pair to the second.
        latents: the spurious latents, by attribution, the greatest first.
        attribution: of those latents: gap_i (W_i . t).
        candidates: how many samples it was found on.
        confounded: whether no pseudo-class had enough candidates of both poles.
    """

    vector: Floats
    latents: Indices
    attribution: Floats
    candidates: int
    confounded: bool


@dataclass(frozen=True, eq=False, kw_only=True)
class SpuriousRemoval:
    """The map that DIAL makes on unit embeddings.

    Attributes:
        basis: (R,D) orthonormal rows that span the spurious subspace.
        strength: lambda in [0, 1].
        directions: what each pair of texts gave.
        autoencoder: the fitted autoencoder.
    """

    basis: Floats
    strength: float
    directions: tuple[SpuriousDirection, ...]
    autoencoder: MatryoshkaAutoencoder

    def remove(self, X: ArrayLike) -> NDArray[np.float32]:
        """Return embeddings (n,D) less the spurious subspace, of unit norm: (n,D)."""
        return remove_subspace(X, self.basis, strength=self.strength)


def remove_subspace(X: ArrayLike, basis: ArrayLike, *, strength: float) -> NDArray[np.float32]:
    """Return x - strength (x U^T) U at unit length; a row that nothing is left of stays 0.

    Args:
        X: (n,D).
        basis: U (R,D), orthonormal rows.
        strength: in [0, 1]; 1 removes the subspace wholly.

    Raises:
        UsageError: the widths differ.

    Example:
        >>> remove_subspace([[0.6, 0.8]], [[1.0, 0.0]], strength=1.0)
        array([[0., 1.]], dtype=float32)
    """
    values, rows = np.asarray(X, np.float64), np.asarray(basis, np.float64)
    if values.ndim != 2 or rows.ndim != 2 or values.shape[1] != rows.shape[1]:
        raise UsageError(
            f"embeddings of shape {values.shape} do not fit a subspace of shape {rows.shape}",
            mend="use embeddings of the encoder that the subspace was found with",
        )
    return scale_to_unit(values - strength * (values @ rows.T) @ rows).astype(np.float32)


def fit_dial(
    X: ArrayLike,
    *,
    prototypes: ArrayLike,
    reject: ArrayLike,
    settings: DialSettings | None = None,
    seed: int = 0,
) -> SpuriousRemoval:
    """Find what to remove, without labels or groups.

    Args:
        X: (n,D) unit embeddings of images.
        prototypes: (C,D) text embeddings of the classes.
        reject: (P,2,D) text embeddings of the two values of a spurious attribute.
        settings: None for the paper's.
        seed: of the autoencoder, 0 or more.

    Raises:
        NotApplicableError: no pair, no more images than neighbours, or no latent that tells the
            values of a pair apart.
        UsageError: shapes that do not fit, a value that is not finite, equal texts in a pair.

    Example:
        >>> random = np.random.default_rng(0)
        >>> signs = random.choice([-1.0, 1.0], size=(400, 2))
        >>> images = np.hstack([signs, 0.1 * random.normal(size=(400, 4))])
        >>> images /= np.linalg.norm(images, axis=1, keepdims=True)
        >>> texts = np.eye(6)[:2]
        >>> removal = fit_dial(images, prototypes=[-texts[0], texts[0]],
        ...                    reject=[[-texts[1], texts[1]]])
        >>> bool(abs(removal.basis[0, 1]) > 0.99)
        True
    """
    settings = settings or DialSettings()
    values, classes, pairs = _check(X, prototypes, reject)
    neighbours = find_neighbours(values, settings.neighbours)
    poles = [split_scores(values @ _contrast(pair)) for pair in pairs]
    autoencoder = MatryoshkaAutoencoder(
        expansion=settings.expansion,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        random_state=seed,
    ).fit(values)
    pseudo = ZeroShotClassifier(classes).predict(values)
    found = []
    for pair, pole in zip(pairs, poles, strict=True):
        rows = select_candidates(pseudo, pole, neighbours=neighbours, alpha=settings.alpha)
        cells = 2 * pseudo[rows] + pole[rows]
        moments = measure_cells(
            values[rows],
            cells,
            number=2 * len(classes),
            features=lambda block: _describe_samples(autoencoder, block),
        )
        gap = compare_poles(moments, least=settings.neighbours)
        direction = _find_direction(
            gap, autoencoder, contrast=_contrast(pair), prototypes=classes, candidates=len(rows)
        )
        found.append(direction)
    return SpuriousRemoval(
        basis=_span(np.stack([direction.vector for direction in found])),
        strength=settings.strength,
        directions=tuple(found),
        autoencoder=autoencoder,
    )


def _describe_samples(
    autoencoder: MatryoshkaAutoencoder, X: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return the latents beside what they do not reconstruct: (n,L+D)."""
    latents = autoencoder.encode(X)
    return np.hstack([latents, (X - autoencoder.decode(latents)) / np.float32(autoencoder.scale_)])


def _find_direction(
    poles: PoleGap,
    autoencoder: MatryoshkaAutoencoder,
    *,
    contrast: Floats,
    prototypes: Floats,
    candidates: int,
) -> SpuriousDirection:
    decoder = autoencoder.decoder_.astype(np.float64)
    gap, rest = np.split(poles.gap, [len(decoder)])
    attribution = gap * (decoder @ contrast)
    chosen = discover(poles.z[: len(decoder)])
    if poles.confounded:
        along = np.abs(decoder @ contrast)
        chosen &= along > align_classes(decoder, prototypes, contrast=contrast)
        chosen &= attribution > 0
        rest = np.zeros_like(rest)
    latents = np.flatnonzero(chosen)
    if not len(latents):
        raise NotApplicableError("no latent of the autoencoder tells the pair of texts apart")
    latents = latents[np.argsort(-attribution[latents], kind="stable")]
    return SpuriousDirection(
        vector=scale_to_unit(gap[latents] @ decoder[latents] + rest),
        latents=latents,
        attribution=attribution[latents],
        candidates=candidates,
        confounded=poles.confounded,
    )


def _contrast(pair: Floats) -> Floats:
    return scale_to_unit(pair[1] - pair[0])


def _span(vectors: Floats) -> Floats:
    """Return orthonormal rows that span vectors (P,D): (R,D)."""
    _, sizes, rows = np.linalg.svd(vectors, full_matrices=False)
    return np.asarray(rows[sizes >= RANK_CUT * sizes[0]])


def _check(
    X: ArrayLike, prototypes: ArrayLike, reject: ArrayLike
) -> tuple[NDArray[np.float32], Floats, Floats]:
    values = np.asarray(X, np.float32)
    classes, pairs = np.asarray(prototypes, np.float64), np.asarray(reject, np.float64)
    if not pairs.size:
        raise NotApplicableError("DIAL needs at least one pair of texts of the spurious attribute")
    wanted = pairs.ndim == 3 and pairs.shape[1] == 2 and values.ndim == classes.ndim == 2
    if not wanted or not values.shape[1] == classes.shape[1] == pairs.shape[2]:
        raise UsageError(
            f"embeddings {values.shape}, prototypes {classes.shape} and pairs {pairs.shape} are "
            "no (n,D), (C,D) and (P,2,D) of one D"
        )
    for name, array in (("embeddings", values), ("prototypes", classes), ("pairs", pairs)):
        if not np.isfinite(array).all():
            raise UsageError(f"{name} hold a value that is not finite")
    if (np.linalg.norm(pairs[:, 1] - pairs[:, 0], axis=1) < 1e-8).any():
        raise UsageError("the two texts of a pair have equal embeddings; they must differ")
    return values, classes, pairs


@dataclass(frozen=True, eq=False, kw_only=True)
class DialClassifier:
    """Zero-shot classification of embeddings that DIAL has mapped.

    Attributes:
        removal: the map.
        zero_shot: the classifier behind it.
        settings: how DIAL was set.
    """

    removal: SpuriousRemoval
    zero_shot: ZeroShotClassifier
    settings: DialSettings

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Return the cosine of each mapped embedding (n,D) with each prototype: (n,C)."""
        return self.zero_shot.decision_function(self.removal.remove(X))

    def predict(self, X: ArrayLike) -> NDArray[np.int64]:
        """Return the label of the nearest prototype of each mapped embedding: (n,)."""
        return self.zero_shot.predict(self.removal.remove(X))

    def describe(self) -> dict[str, object]:
        """Return which head this is, how it is set and what it found, as JSON values."""
        autoencoder, found = self.removal.autoencoder, self.removal.directions
        return {
            "head": "dial",
            **vars(self.settings),
            "seed": autoencoder.random_state,
            "levels": list(autoencoder.levels_),
            "error": list(autoencoder.error_),
            "dead_latents": autoencoder.dead_,
            "rank": len(self.removal.basis),
            "spurious_latents": [len(direction.latents) for direction in found],
            "candidates": [direction.candidates for direction in found],
            "confounded": [direction.confounded for direction in found],
        }


def make_dial(data: HeadData, settings: DialSettings | None = None) -> DialClassifier:
    """Make the head from the training embeddings, prototypes and pairs; labels are not read.

    Raises:
        NotApplicableError: the data hold no pair, or see `fit_dial`.
    """
    if data.train is None or data.prototypes is None or data.concepts is None:
        raise NotApplicableError("DIAL needs training embeddings, prototypes and pairs of texts")
    settings = settings or DialSettings()
    removal = fit_dial(
        data.train.embeddings,
        prototypes=data.prototypes,
        reject=data.concepts.reject,
        settings=settings,
        seed=data.seed,
    )
    return DialClassifier(
        removal=removal, zero_shot=ZeroShotClassifier(data.prototypes), settings=settings
    )


HEAD = HeadKind(
    name="dial",
    make=make_dial,
    needs=frozenset({"train", "prototypes", "concepts"}),
    seeded=True,
    source="openreview NHOLsaHuFv; bap.txt M.2",
)
