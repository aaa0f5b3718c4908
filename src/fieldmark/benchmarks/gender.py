"""Label the people of COCO with a larger CLIP and build COCO gender (BAP appendix L.2).

The margin is M = C_man - C_woman (equation 8), the softmax over two similarities times the
encoder's own scale of logits. The paper names no scale, but without one the margins of a CLIP stay
within some hundredths of 0, and bounds of 0.20 to 0.99 could never be met.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldmark.core.errors import InputError
from fieldmark.core.fetch import cache_dir
from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.datasets.coco_gender import build_coco_gender
from fieldmark.data.datasets.people import BINS, BOUNDS, Labeller, People
from fieldmark.models.embed import Precision, embed_images
from fieldmark.models.encoder import Encoder
from fieldmark.models.load import load_encoder
from fieldmark.models.prompts import ensemble_prompts

Progress = Callable[[str, int, int], None]

LABELLER = "open_clip:ViT-H-14/laion2b_s32b_b79k"
WORDS = ("man", "woman")
# L.2 names the first two; the rest says the same of one person alone.
TEMPLATES = (
    "a photo of a {}.",
    "a portrait of a {}.",
    "a picture of a {}.",
    "an image of a {}.",
    "a cropped photo of a {}.",
    "a close-up photo of a {}.",
    "a full-length photo of a {}.",
    "a photo of a {} on a grey background.",
)


def compare_to_prototypes(
    embeddings: NDArray[np.floating[Any]],
    prototypes: NDArray[np.floating[Any]],
    *,
    logit_scale: float,
) -> NDArray[np.float64]:
    """Return the margins M = C_man - C_woman (BAP equation 8).

    A softmax over two is a logistic function of their difference, so M is the hyperbolic tangent
    of half of it, which does not overflow.

    Args:
        embeddings: (n,D) unit vectors of images; NaN where there is none.
        prototypes: (2,D) unit vectors of man and woman.
        logit_scale: what cosines are multiplied by, already exponentiated.

    Returns:
        (n,) in [-1, 1], above 0 for a man, NaN where the embedding is.

    Example:
        >>> compare_to_prototypes(np.eye(2), np.eye(2), logit_scale=1.0).round(3).tolist()
        [0.462, -0.462]
    """
    man, woman = np.asarray(prototypes, np.float64)
    difference = np.asarray(embeddings, np.float64) @ (man - woman)
    return np.asarray(np.tanh(logit_scale * difference / 2), np.float64)


def label_people(
    people: People,
    encoder: Encoder,
    *,
    cache: Path | None = None,
    batch_size: int = 64,
    precision: Precision = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float64]:
    """Measure the margin of each person alone on grey (BAP L.2).

    Args:
        people: n people.
        encoder: the labeller.
        cache: folder to keep embeddings in, by content of person, weights and preprocessing.
        batch_size: people embedded at once.
        precision: of the weights, as in `models.embed.embed_images`.
        progress: called with how many people are done and how many there are.

    Returns:
        (n,) in [-1, 1], NaN where a photograph or a mask cannot be used.

    Raises:
        InputError: none of the people can be used; the first reason is given.
    """
    prototypes = ensemble_prompts(encoder, WORDS, TEMPLATES).cpu().numpy()
    embedded = embed_images(
        encoder,
        people,
        cache=cache,
        batch_size=batch_size,
        precision=precision,
        skip_unreadable=True,
        progress=progress,
    )
    if len(embedded.unreadable) == len(people):
        reason = embedded.unreadable[0].reason if embedded.unreadable else "there is no person"
        raise InputError(f"nobody can be labelled: {reason}", where=people.foregrounds.name)
    scale = encoder.spec.logit_scale
    return compare_to_prototypes(embedded.values, prototypes, logit_scale=scale)


def build_gender(
    out: Path,
    *,
    root: Path,
    places: Backgrounds | Path,
    margins: Path | None = None,
    encoder: Encoder | str = LABELLER,
    device: str = "auto",
    precision: Precision = "auto",
    batch_size: int = 64,
    cache: Path | None = None,
    seed: int = 0,
    correlation: float = 1.0,
    per_class: int = 4000,
    test_per_class: int = 1000,
    calibration: int = 100,
    bins: int = BINS,
    bounds: tuple[float, float] = BOUNDS,
    size: int = 224,
    per_category: int = 100,
    on_progress: Progress | None = None,
) -> Path:
    """Label people and build COCO gender.

    Args:
        out: the folder; must not exist or be empty.
        root: COCO 2017.
        places: scenes, or where Places365 lies.
        margins: a table of margins measured before (`margins.csv` of a built folder); then no
            encoder is loaded.
        encoder: the labeller or its name; the paper's by default. It should be a larger one than
            those that are tested (L.6).
        device: where a labeller that is given by name is put.
        precision: of its weights.
        batch_size: people embedded at once.
        cache: folder of embeddings, so that a killed run goes on and another seed costs none; one
            in fieldmark's own cache by default.
        seed: of the sample, the splits and the pairs.
        correlation: share of a class's training images on its usual scenes, in [0.5, 1].
        per_class: people of a class, the test's included.
        test_per_class: people of a class in the test.
        calibration: people of each group that only DFR may see (M.4.2).
        bins: of the flat sample.
        bounds: of the absolute margin.
        size: side of the composites in pixels.
        per_category: most scenes of a neutral category that are kept.
        on_progress: called with what is done ("people", "composites"), how many are and how many
            there are.

    Raises:
        UsageError: an argument that cannot be.
        InputError: too few people within the bounds, or too few scenes.
        FetchError: the labeller's weights cannot be had.
    """

    def report(what: str) -> Callable[[int, int], None]:
        return lambda done, total: on_progress(what, done, total) if on_progress else None

    def measure(people: People) -> NDArray[np.float64]:
        return label_people(
            people,
            labeller,
            cache=cache or cache_dir() / "embeddings",
            batch_size=batch_size,
            precision=precision,
            progress=report("people"),
        )

    label: Labeller | Path = measure if margins is None else margins
    facts: dict[str, Any] = {"margins": str(margins)}
    if margins is None:
        labeller = load_encoder(encoder, device=device) if isinstance(encoder, str) else encoder
        facts = _describe(labeller)
    return build_coco_gender(
        out,
        root=root,
        places=places,
        margins=label,
        seed=seed,
        correlation=correlation,
        per_class=per_class,
        test_per_class=test_per_class,
        calibration=calibration,
        bins=bins,
        bounds=bounds,
        size=size,
        per_category=per_category,
        labeller=facts,
        on_progress=report("composites"),
    )


def _describe(encoder: Encoder) -> dict[str, Any]:
    return {
        "encoder": encoder.spec.uri,
        "fingerprint": encoder.spec.fingerprint,
        "logit_scale": encoder.spec.logit_scale,
        "words": list(WORDS),
        "templates": list(TEMPLATES),
    }
