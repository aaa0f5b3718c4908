"""Methods that change pixels and watch the score: RISE and occlusion.

A pixel that is masked becomes 0 after normalisation, the mean colour of the checkpoint's training
images. Masks are the same for all images of a run, so that a chunk of them is made once, and no
more than `batch_size` masked images are in memory. Formulas: facts/attribution.md section 3;
Petsiuk, Das and Saenko 2018 for RISE; Zeiler and Fergus 2014 for occlusion.

Shape letters: B images, T texts, M masks, H and W pixels, h and w rows and columns of the grid.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.maps import Maps, Subject, find_grid
from fieldmark.core.errors import UsageError
from fieldmark.core.seeds import generator
from fieldmark.models.encoder import normalise


def explain_by_random_masks(subject: Subject) -> Maps:
    """Average random masks, each weighed by the score of what it leaves of the image (RISE).

    The mean score is taken off first. A cosine varies by hundredths around a large constant, and
    unweighted masks of that constant would be all that one sees; the expectation stays the same
    but for that constant. What is left is the covariance of a patch being seen and the score,
    divided by the chance of being seen.

    Args:
        subject: `config.rise_masks`, `rise_grid` and `rise_share` say how many masks there are, how
            coarse, and how much they keep; they follow from `config.seed` alone.

    Returns:
        Signed maps; `forwards` is the number of masks.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> encoder, image = FakeEncoder(), torch.zeros(1, 3, 8, 8)
        >>> image[:, 2], image[:, :, 2:6, 2:6] = 1, torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
        >>> maps = explain_by_random_masks(Subject(
        ...     encoder=encoder, images=image, texts=encoder.encode_text(["red"]), ids=("a",),
        ...     config=AttributionConfig(rise_masks=400, rise_grid=4)))
        >>> bool(maps.values[0, 0, 1:3, 1:3].min() > maps.values[0, 0, 0].max())
        True
    """
    config, grid = subject.config, find_grid(subject.encoder, subject.images)
    size = (subject.images.shape[2], subject.images.shape[3])
    shape = (len(subject), len(subject.texts), *grid)
    seen = torch.zeros(grid, dtype=torch.float64)
    score = torch.zeros(*shape[:2], 1, 1, dtype=torch.float64)
    product = torch.zeros(shape, dtype=torch.float64)
    for mask in draw_masks(config, size=size):
        part = functional.adaptive_avg_pool2d(mask, grid)[:, 0].double()
        scores = _score_masked(subject, mask)
        seen += part.sum(0)
        score += scores.sum(1)[..., None, None]
        product += torch.einsum("bmt,mhw->bthw", scores, part)
    values = (product - score * seen / config.rise_masks) / (config.rise_masks * config.rise_share)
    return Maps(values=values.float(), forwards=float(config.rise_masks))


def draw_masks(config: AttributionConfig, *, size: tuple[int, int]) -> Iterator[Tensor]:
    """Draw the masks of RISE in chunks of `config.batch_size`: float32 (M,1,H,W) in [0, 1].

    Each cell of a coarse grid is kept or not; the grid is enlarged bilinearly by one cell more than
    the image has, and the image's size is cut out of it at a random shift below one cell. How the
    masks are divided into chunks does not change them.

    Args:
        config: `rise_masks`, `rise_grid`, `rise_share`, `seed` and `batch_size`.
        size: H and W.

    Example:
        >>> config = AttributionConfig(rise_masks=5, rise_grid=2, batch_size=3)
        >>> [tuple(mask.shape) for mask in draw_masks(config, size=(8, 6))]
        [(3, 1, 8, 6), (2, 1, 8, 6)]
    """
    random, side, (height, width) = generator(config.seed, "rise"), config.rise_grid, size
    cell = (-(-height // side), -(-width // side))
    large = ((side + 1) * cell[0], (side + 1) * cell[1])
    for start in range(0, config.rise_masks, config.batch_size):
        count = min(config.batch_size, config.rise_masks - start)
        # One row of numbers a mask, so that the stream does not depend on the chunks.
        drawn = random.random((count, side * side + 2))
        kept = torch.from_numpy((drawn[:, 2:] < config.rise_share).astype(np.float32))
        enlarged = functional.interpolate(
            kept.view(count, 1, side, side), size=large, mode="bilinear", align_corners=False
        )
        shifts = (drawn[:, :2] * cell).astype(np.int64).tolist()
        yield torch.stack(
            [
                mask[:, top : top + height, left : left + width]
                for mask, (top, left) in zip(enlarged, shifts, strict=True)
            ]
        )


def explain_by_occlusion(subject: Subject) -> Maps:
    """Grey out one square after another; a patch is worth the mean drop of those that cover it.

    Args:
        subject: `config.occlusion_window` and `occlusion_stride`, in patches. A window larger than
            the grid is the whole grid; the last one of a row ends at the border, so that every
            patch is covered.

    Returns:
        Signed maps, and the similarities of the whole images.

    Raises:
        UsageError: the stride is larger than the window, so that patches are never covered.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> encoder, image = FakeEncoder(), torch.zeros(1, 3, 8, 8)
        >>> image[:, 0, 2:6, 2:6] = 1
        >>> maps = explain_by_occlusion(Subject(
        ...     encoder=encoder, images=image, texts=encoder.encode_text(["red"]), ids=("a",),
        ...     config=AttributionConfig(occlusion_window=4)))
        >>> maps.values.unique().tolist(), maps.forwards
        ([1.0], 2.0)
    """
    config, grid = subject.config, find_grid(subject.encoder, subject.images)
    cover = cover_grid(grid, window=config.occlusion_window, stride=config.occlusion_stride)
    with torch.inference_mode():
        similarity = subject.encoder.encode_image(subject.images) @ subject.texts.T
    clean = similarity.double().cpu()
    total = torch.zeros(len(subject), len(subject.texts), *grid, dtype=torch.float64)
    size = (subject.images.shape[2], subject.images.shape[3])
    for part in cover.split(config.batch_size):
        scores = _score_masked(subject, 1 - _spread(part, size=size))
        total += torch.einsum("bmt,mhw->bthw", clean[:, None] - scores, part.double())
    values = total / cover.sum(0)
    return Maps(values=values.float(), similarity=similarity, forwards=float(len(cover) + 1))


def cover_grid(grid: tuple[int, int], *, window: int, stride: int) -> Tensor:
    """Return which patches each window covers: float32 (M,h,w) of 0 and 1.

    Raises:
        UsageError: the stride is larger than the window.

    Example:
        >>> cover_grid((1, 3), window=2, stride=2).tolist()
        [[[1.0, 1.0, 0.0]], [[0.0, 1.0, 1.0]]]
    """
    if stride > window:
        raise UsageError(
            f"an occlusion stride of {stride} patches passes over some that a window of {window} "
            "does not reach",
            mend="let occlusion_stride be at most occlusion_window",
        )
    rows, columns = (_place_windows(side, window=window, stride=stride) for side in grid)
    return torch.einsum("ih,jw->ijhw", rows, columns).flatten(0, 1)


def _place_windows(side: int, *, window: int, stride: int) -> Tensor:
    """Return which of `side` patches each window covers: (windows, side)."""
    last = max(0, side - window)
    starts = torch.tensor(sorted({*range(0, last, stride), last}))[:, None]
    where = torch.arange(side)
    return ((where >= starts) & (where < starts + window)).float()


def _spread(cells: Tensor, *, size: tuple[int, int]) -> Tensor:
    """Give each pixel the value of its patch: (M,h,w) to (M,1,H,W)."""
    rows, columns = (
        torch.arange(pixels) * patches // pixels
        for pixels, patches in zip(size, cells.shape[1:], strict=True)
    )
    return cells[:, None, rows][..., columns]


def _score_masked(subject: Subject, mask_M1HW: Tensor) -> Tensor:
    """Return the scores of all images under all masks of a chunk for all texts: float64 (B,M,T)."""
    spec, texts = subject.encoder.spec, subject.texts
    mask, scores = mask_M1HW.to(subject.images.device), []
    with torch.inference_mode():
        for image in subject.images:
            pixels = normalise(image[None], spec=spec, dtype=torch.float32)
            embedded = subject.encoder.encode_image(pixels * mask)
            scores.append((embedded @ texts.T.to(embedded.device)).double().cpu())
    return torch.stack(scores)
