"""Is a scene's embedding the sum of its object's and its background's?

Additivity S of images and of texts (BAP section 2, Eq. 1, and appendix A) and the residual variance
of a mean over K backgrounds (Eq. 6, appendix G), on composites whose parts are known exactly.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fieldmark.core.records import ResultRow
from fieldmark.core.seeds import generator
from fieldmark.data.backgrounds import fit_background
from fieldmark.data.compositing import Compositor
from fieldmark.metrics.invariance import (
    Additivity,
    compare_parts,
    measure_residual_variance,
    score_additivity,
    summarise_additivity,
    summarise_scores,
)
from fieldmark.models.embed import embed_batches
from fieldmark.models.encoder import Encoder

BATCH = 64
# Composites whose embeddings are in memory at once, and texts in one forward.
BLOCK, TEXT_BATCH = 4096, 256
# What stands behind an object that is shown alone (BAP L.1 uses the same grey).
GREY = 128
# The values of K of BAP G.3.
SIZES = (1, 2, 3, 5, 8, 10, 15, 20, 30, 40)
SEQUENCES = 200
# Objects and backgrounds that often come together, in images and in talk (BAP A.2).
OBJECTS = ("bird", "duck", "cow", "camel", "dog", "fish", "boat", "car", "guitar", "flower")
SCENES = (
    "forest",
    "lake",
    "desert",
    "meadow",
    "kitchen",
    "street",
    "beach",
    "snow",
    "swamp",
    "sky",
)
WORD_PAIRS = tuple(itertools.product(OBJECTS, SCENES))


def isolate_objects(image_BCHW: Tensor, mask_BHW: Tensor) -> Tensor:
    """Return composites with everything outside their masks grey.

    Args:
        image_BCHW: uint8 (B,3,S,S).
        mask_BHW: uint8 (B,S,S), 255 inside the object.

    Example:
        >>> image, mask = torch.full((1, 3, 1, 2), 9, dtype=torch.uint8), torch.tensor([[[0, 255]]])
        >>> isolate_objects(image, mask.to(torch.uint8))[0, 0].tolist()
        [[128, 9]]
    """
    share = mask_BHW.unsqueeze(1).float() / 255
    return (image_BCHW * share + GREY * (1 - share)).round().to(torch.uint8)


def measure_images(
    encoder: Encoder, compositor: Compositor, *, blank: ResultRow, count: int = 256, seed: int = 0
) -> list[ResultRow]:
    """Measure additivity S and the residual variance of an image tower.

    Args:
        encoder: what is measured.
        compositor: objects and backgrounds, at the encoder's image size.
        blank: a row that says what was run.
        count: composites to draw.
        seed: which ones.

    Returns:
        A row `additivity` and rows `residual_variance:K`, whose backgrounds are drawn with
        replacement from those that were embedded and whose population mean is over the same.
    """
    rng = generator(seed, "structure")
    score, background = _score(encoder, compositor, count=count, rng=rng)
    draws = rng.integers(len(background), size=(SEQUENCES, max(SIZES)))
    residual = measure_residual_variance(background[draws], background.mean(axis=0), sizes=SIZES)
    return [
        report_score(blank, "additivity", score),
        *(
            dataclasses.replace(
                blank, metric=f"residual_variance:{size}", value=value, count=residual.count
            )
            for size, value in zip(residual.sizes, residual.values, strict=True)
        ),
    ]


def score_images(
    encoder: Encoder, compositor: Compositor, *, count: int, seed: int = 0
) -> Additivity:
    """Score additivity S of an image tower over composites (BAP section 2, Eq. 1, Table 1).

    Memory holds the embeddings of the backgrounds and one block of composites, however many
    composites there are.

    Args:
        encoder: what is measured.
        compositor: objects and backgrounds, at the encoder's image size.
        count: composites to draw.
        seed: which ones.
    """
    return _score(encoder, compositor, count=count, rng=generator(seed, "structure"))[0]


def _score(
    encoder: Encoder, compositor: Compositor, *, count: int, rng: np.random.Generator
) -> tuple[Additivity, NDArray[np.float32]]:
    objects = rng.integers(compositor.n_objects, size=count)
    scenes = rng.integers(compositor.n_backgrounds, size=count)
    scales = rng.integers(compositor.n_scales, size=count)
    used, where = np.unique(scenes, return_inverse=True)
    background = embed_scenes(encoder, compositor, used)
    scores, parts = np.empty(count), np.empty(count)
    for first in range(0, count, BLOCK):
        block = slice(first, first + BLOCK)
        whole, alone = _embed_pairs(
            encoder, compositor, (objects[block], scenes[block], scales[block])
        )
        scores[block] = score_additivity(whole, alone, background[where[block]])
        parts[block] = compare_parts(alone, background[where[block]])
    return summarise_scores(scores, parts), background


def _embed_pairs(
    encoder: Encoder, compositor: Compositor, chosen: tuple[NDArray[np.int64], ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Embed composites, and their objects alone."""
    starts = range(0, len(chosen[0]), BATCH // 2)

    def pairs() -> Iterator[Tensor]:
        for start in starts:
            made = compositor.composite(*(part[start : start + BATCH // 2] for part in chosen))
            yield torch.cat([made.image, isolate_objects(made.image, made.mask)])

    both = np.split(embed_batches(encoder, pairs()), [2 * start for start in starts[1:]])
    halves = [np.split(part, 2) for part in both]
    return np.concatenate([a for a, _ in halves]), np.concatenate([b for _, b in halves])


def measure_texts(
    encoder: Encoder, pairs: Sequence[tuple[str, str]] = WORD_PAIRS, *, blank: ResultRow
) -> list[ResultRow]:
    """Measure additivity S of a text tower over word pairs (BAP appendix A).

    Args:
        encoder: what is measured.
        pairs: an object's and a background's word each ("bird", "swamp").
        blank: a row that says what was run.
    """
    return [report_score(blank, "text_additivity", score_texts(encoder, pairs))]


def score_texts(encoder: Encoder, pairs: Sequence[tuple[str, str]]) -> Additivity:
    """Score additivity S of a text tower, and how near the two words are (BAP A.2, Table 7).

    Args:
        encoder: what is measured.
        pairs: an object's and a background's word each ("bird", "swamp").
    """
    words = sorted({word for pair in pairs for word in pair})
    alone = _embed_texts(encoder, [f"a photo of a {word}" for word in words])
    whole = _embed_texts(encoder, [f"a photo of a {first}, {second}" for first, second in pairs])
    place = {word: index for index, word in enumerate(words)}
    first, second = ([place[pair[side]] for pair in pairs] for side in (0, 1))
    return summarise_additivity(whole, alone[first], alone[second])


def _embed_texts(encoder: Encoder, texts: list[str]) -> NDArray[np.float32]:
    starts = range(0, len(texts), TEXT_BATCH)
    with torch.inference_mode():
        parts = [encoder.encode_text(texts[start : start + TEXT_BATCH]).cpu() for start in starts]
    return np.asarray(torch.cat(parts).float().numpy())


def embed_scenes(
    encoder: Encoder, compositor: Compositor, used: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Embed backgrounds with nothing on them, cropped and resized as composites have them.

    Args:
        encoder: what embeds.
        compositor: has the backgrounds.
        used: (n,) which of them.

    Returns:
        (n,D) float32 of unit norm.
    """

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(used), BATCH):
            pictures = [
                np.asarray(fit_background(compositor.backgrounds.read(i), side=compositor.side))
                for i in used[start : start + BATCH].tolist()
            ]
            yield torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)

    return embed_batches(encoder, batches())


def report_score(blank: ResultRow, metric: str, score: Additivity) -> ResultRow:
    """Return the row of a mean S, with the normal interval of its mean over composites."""
    error = 1.96 * score.deviation / math.sqrt(max(score.count, 1))
    return dataclasses.replace(
        blank,
        metric=metric,
        value=score.mean,
        ci_low=score.mean - error,
        ci_high=score.mean + error,
        count=score.count,
    )
