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
    measure_residual_variance,
    summarise_additivity,
)
from fieldmark.models.embed import embed_batches
from fieldmark.models.encoder import Encoder

BATCH = 64
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
    objects = rng.integers(compositor.n_objects, size=count)
    scenes = rng.integers(compositor.n_backgrounds, size=count)
    scales = rng.integers(compositor.n_scales, size=count)
    starts = range(0, count, BATCH // 2)

    def pairs() -> Iterator[Tensor]:
        for start in starts:
            rows = slice(start, start + BATCH // 2)
            made = compositor.composite(objects[rows], scenes[rows], scales[rows])
            yield torch.cat([made.image, isolate_objects(made.image, made.mask)])

    halves = [
        np.split(both, 2)
        for both in np.split(embed_batches(encoder, pairs()), [2 * start for start in starts[1:]])
    ]
    whole, alone = (np.concatenate(half) for half in zip(*halves, strict=True))
    used, where = np.unique(scenes, return_inverse=True)
    background = _embed_scenes(encoder, compositor, used)
    score = summarise_additivity(whole, alone, background[where])
    draws = rng.integers(len(used), size=(SEQUENCES, max(SIZES)))
    residual = measure_residual_variance(background[draws], background.mean(axis=0), sizes=SIZES)
    return [
        _fill(blank, "additivity", score),
        *(
            dataclasses.replace(
                blank, metric=f"residual_variance:{size}", value=value, count=residual.count
            )
            for size, value in zip(residual.sizes, residual.values, strict=True)
        ),
    ]


def measure_texts(
    encoder: Encoder, pairs: Sequence[tuple[str, str]] = WORD_PAIRS, *, blank: ResultRow
) -> list[ResultRow]:
    """Measure additivity S of a text tower over word pairs (BAP appendix A).

    Args:
        encoder: what is measured.
        pairs: an object's and a background's word each ("bird", "swamp").
        blank: a row that says what was run.
    """
    words = sorted({word for pair in pairs for word in pair})
    single = {word: f"a photo of a {word}" for word in words}
    both = [f"a photo of a {first}, {second}" for first, second in pairs]
    with torch.inference_mode():
        alone = encoder.encode_text(list(single.values())).cpu().numpy()
        whole = encoder.encode_text(both).cpu().numpy()
    place = {word: index for index, word in enumerate(words)}
    first, second = ([place[pair[side]] for pair in pairs] for side in (0, 1))
    return [
        _fill(blank, "text_additivity", summarise_additivity(whole, alone[first], alone[second]))
    ]


def _embed_scenes(
    encoder: Encoder, compositor: Compositor, used: NDArray[np.int64]
) -> NDArray[np.float32]:
    def batches() -> Iterator[Tensor]:
        for start in range(0, len(used), BATCH):
            pictures = [
                np.asarray(fit_background(compositor.backgrounds.read(i), side=compositor.side))
                for i in used[start : start + BATCH].tolist()
            ]
            yield torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)

    return embed_batches(encoder, batches())


def _fill(blank: ResultRow, metric: str, score: Additivity) -> ResultRow:
    error = 1.96 * score.deviation / math.sqrt(max(score.count, 1))
    return dataclasses.replace(
        blank,
        metric=metric,
        value=score.mean,
        ci_low=score.mean - error,
        ci_high=score.mean + error,
        count=score.count,
    )
