"""Deletion and insertion: how a score falls or rises with the pixels that a map names first.

Every image has a curve of its own, so methods can be compared on the same images. The image as it
is, the image wholly deleted and the start of insertion are the same for all methods and are
embedded once (`embed_ends`). Perturbed images are batched across images and steps.

Shape letters: B images, P points of a curve, C classes, T captions, n images of the gallery, D
embedding dimensions, m perturbed images of one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fieldmark.attribution.perturbing import (
    Window,
    find_window,
    make_fill,
    rank_pixels,
    replace_pixels,
    to_input,
)
from fieldmark.attribution.protocols import CURVES, Curve, Protocol
from fieldmark.models.encoder import Encoder

Floats = NDArray[np.float64]
# Embeddings (m,D) and which image each belongs to (m,) in, scores (m,) by name out.
Score = Callable[[Tensor, Tensor], Mapping[str, Tensor]]


@dataclass(frozen=True, eq=False, kw_only=True)
class Ends:
    """Embeddings that all methods share, (B,D) each, of unit norm.

    Attributes:
        whole: the images as they are.
        deleted: nothing left but the fill of deletion.
        start: what insertion starts from.
    """

    whole: Tensor
    deleted: Tensor
    start: Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Curves:
    """The curves of one method.

    Attributes:
        deletion: (B,P) by the name of the score; x is `protocol.grid("deletion")`.
        insertion: likewise.
        forwards: image-tower forwards spent on each image, the shared ends left out.
    """

    deletion: Mapping[str, Floats]
    insertion: Mapping[str, Floats]
    forwards: float

    def of(self, curve: Curve) -> Mapping[str, Floats]:
        """Return the curves of one kind."""
        return self.deletion if curve == "deletion" else self.insertion


def score_classes(prototypes: Tensor, targets: Tensor, *, scale: float) -> Score:
    """Return a score of images against one text for each class.

    Top-k accuracy counts a class before those after it that score the same, as `argmax` does.

    Args:
        prototypes: (C,D) of unit norm.
        targets: (B,) class that each image is watched for.
        scale: of the logits.

    Returns:
        accuracy@1, accuracy@5 (where C is above 5), probability and cosine.

    Example:
        >>> score = score_classes(torch.eye(2), torch.tensor([0, 1]), scale=1.0)
        >>> found = score(torch.eye(2)[:1].expand(2, 2), torch.tensor([0, 1]))
        >>> found["accuracy@1"].tolist(), found["cosine"].tolist()
        ([1.0, 0.0], [1.0, 0.0])
    """
    texts = prototypes.float().cpu()

    def score(embeddings: Tensor, rows: Tensor) -> dict[str, Tensor]:
        cosines = embeddings @ texts.T
        target = targets[rows][:, None]
        own = cosines.gather(1, target)
        before = torch.arange(len(texts)) < target
        rank = ((cosines > own) | ((cosines == own) & before)).sum(1)
        found = {"accuracy@1": (rank < 1).float()}
        if len(texts) > 5:
            found["accuracy@5"] = (rank < 5).float()
        probability = (scale * cosines).softmax(1).gather(1, target)[:, 0]
        return {**found, "probability": probability, "cosine": own[:, 0]}

    return score


def score_retrieval(
    captions: Tensor,
    gallery: Tensor,
    *,
    owners: Tensor,
    places: Tensor,
    scale: float,
) -> Score:
    """Return a score of images among captions, and of captions among images.

    Image retrieval perturbs one image at a time and leaves the others of the gallery whole, so that
    an image's curve is its own; the paper (CCI, Table 2) does not say what it does, and no code of
    it exists. Images of the same caption do not compete.

    Args:
        captions: (T,D) distinct captions, of unit norm.
        gallery: (n,D) all images as they are, of unit norm.
        owners: (n,) caption of each image of the gallery.
        places: (B,) place in the gallery of each image that is perturbed.
        scale: of the logits.

    Returns:
        text-retrieval@1 and @5, image-retrieval@1 and @5, probability (over captions) and cosine.
    """
    texts, images = captions.float().cpu(), gallery.float().cpu()
    classes = score_classes(texts, owners[places], scale=scale)
    cosines = images @ texts.T

    def score(embeddings: Tensor, rows: Tensor) -> dict[str, Tensor]:
        found = dict(classes(embeddings, rows))
        own = owners[places[rows]]
        rivals = cosines[:, own] > found["cosine"]
        rank = (rivals & (owners[:, None] != own)).sum(0)
        scores = {"text-retrieval@1": found.pop("accuracy@1")}
        if "accuracy@5" in found:
            scores["text-retrieval@5"] = found.pop("accuracy@5")
        ranks = {f"image-retrieval@{k}": (rank < k).float() for k in (1, 5)}
        return {**scores, **ranks, **found}

    return score


def embed_ends(
    encoder: Encoder,
    images: Sequence[Tensor],
    *,
    ids: Sequence[str],
    protocol: Protocol,
    whole: Tensor | None = None,
    batch_size: int = 64,
) -> Ends:
    """Embed what all methods share: images whole, wholly deleted, and before insertion.

    Args:
        encoder: any encoder.
        images: B images, uint8 (3,H,W), in the protocol's space.
        ids: B names that chance is drawn by.
        protocol: gives the fills.
        whole: (B,D) embeddings of the images as they are, where they are known.
        batch_size: images in one forward.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> images = [torch.full((3, 8, 8), 200, dtype=torch.uint8)]
        >>> ends = embed_ends(FakeEncoder(), images, ids=["a"], protocol=Protocol())
        >>> ends.whole.shape
        torch.Size([1, 6])
    """

    def embed(kind: str) -> Tensor:
        made = (
            pixels if kind == "whole" else _fill(pixels, kind, identity, encoder, protocol)
            for pixels, identity in zip(images, ids, strict=True)
        )
        inputs = (to_input(pixels, encoder=encoder, protocol=protocol) for pixels in made)
        return torch.cat(list(_embed(encoder, inputs, batch_size=batch_size)))

    return Ends(
        whole=embed("whole") if whole is None else whole,
        deleted=embed("deletion"),
        start=embed("insertion"),
    )


def _fill(
    pixels: Tensor, curve: str, identity: str, encoder: Encoder, protocol: Protocol
) -> Tensor:
    kind = protocol.delete_fill if curve == "deletion" else protocol.insert_start
    return make_fill(pixels, kind, identity=identity, seed=protocol.seed, spec=encoder.spec)


def _embed(encoder: Encoder, images: Iterator[Tensor], *, batch_size: int) -> Iterator[Tensor]:
    """Yield the embeddings of batches: float32 (m,D) on the CPU."""
    device = next(encoder.image_tower.parameters()).device
    while batch := list(islice(images, batch_size)):
        with torch.inference_mode():
            found = encoder.encode_image(torch.stack(batch).to(device))
        yield torch.nn.functional.normalize(found.float(), dim=-1).cpu().clone()


def measure_curves(
    encoder: Encoder,
    images: Sequence[Tensor],
    maps: NDArray[np.float32],
    *,
    ids: Sequence[str],
    score: Score,
    protocol: Protocol,
    ends: Ends | None = None,
    ties: NDArray[np.float32] | None = None,
    batch_size: int = 64,
) -> Curves:
    """Measure deletion and insertion curves of each image.

    Args:
        encoder: any encoder.
        images: B images, uint8 (3,H,W), in the protocol's space.
        maps: (B,h,w), the higher the earlier.
        ids: B names that noise and ties are drawn by.
        score: what is watched, such as `score_classes`.
        protocol: what is taken away, and in which steps.
        ends: of `embed_ends`, to spare them where several methods are measured.
        ties: (B,h,w) maps that tell equal pixels apart.
        batch_size: perturbed images in one forward.

    Returns:
        Curves of every score that `score` gives.

    Raises:
        InputError: a map holds a value that is not finite.
        ValueError: images, maps and ids differ in number.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> encoder, image = FakeEncoder(), torch.zeros(3, 8, 8, dtype=torch.uint8)
        >>> image[2], image[0, 2:6, 2:6], image[2, 2:6, 2:6] = 255, 255, 0
        >>> score = score_classes(
        ...     encoder.encode_text(["red on blue", "green"]), torch.tensor([0]), scale=10.0
        ... )
        >>> protocol = Protocol(points=4, delete_fill="black")
        >>> maps = np.pad(np.ones((1, 2, 2), np.float32), ((0, 0), (1, 1), (1, 1)))
        >>> found = measure_curves(
        ...     encoder, [image], maps, ids=["a"], score=score, protocol=protocol
        ... )
        >>> found.deletion["cosine"].round(2).tolist(), found.forwards
        ([[1.0, 0.71, 0.71, 0.71, 0.0]], 6.0)
    """
    if not len(images) == len(maps) == len(ids):
        raise ValueError(f"{len(images)} images, {len(maps)} maps, {len(ids)} ids")
    shared = ends or embed_ends(encoder, images, ids=ids, protocol=protocol, batch_size=batch_size)
    ranks = [
        _rank(encoder, images[row], maps[row], None if ties is None else ties[row],
              identity=ids[row], protocol=protocol)
        for row in range(len(images))
    ]  # fmt: skip
    found, spent = [], 0
    for curve in CURVES:
        inner = [share for share in protocol.grid(curve).tolist() if 0 < share < 1]
        variants = _vary(
            encoder, images, ranks, ids=ids, protocol=protocol, curve=curve, shares=inner
        )
        parts = list(_embed(encoder, variants, batch_size=batch_size))
        spent += len(inner)
        found.append(_follow(parts, shared, curve=curve, score=score, protocol=protocol))
    return Curves(deletion=found[0], insertion=found[1], forwards=float(spent))


def _rank(
    encoder: Encoder,
    pixels: Tensor,
    values: NDArray[np.float32],
    ties: NDArray[np.float32] | None,
    *,
    identity: str,
    protocol: Protocol,
) -> Tensor:
    size = (int(pixels.shape[1]), int(pixels.shape[2]))
    whole = protocol.space == "model_input"
    ranks = rank_pixels(
        values.astype(np.float64),
        size=size,
        identity=identity,
        seed=protocol.seed,
        ties=None if ties is None else ties.astype(np.float64),
        shuffle=protocol.tie_break != "none",
        window=Window() if whole else find_window(size, spec=encoder.spec),
    )
    return torch.from_numpy(ranks)


def _vary(
    encoder: Encoder,
    images: Sequence[Tensor],
    ranks: Sequence[Tensor],
    *,
    ids: Sequence[str],
    protocol: Protocol,
    curve: Curve,
    shares: Sequence[float],
) -> Iterator[Tensor]:
    """Yield the perturbed images of a curve, image by image and step by step."""
    for pixels, order, identity in zip(images, ranks, ids, strict=True):
        other = _fill(pixels, curve, identity, encoder, protocol)
        before, after = (pixels, other) if curve == "deletion" else (other, pixels)
        for share in shares:
            changed = replace_pixels(before, after, ranks=order, share=share)
            yield to_input(changed, encoder=encoder, protocol=protocol)


def _follow(
    parts: Sequence[Tensor], ends: Ends, *, curve: Curve, score: Score, protocol: Protocol
) -> dict[str, Floats]:
    """Score every point of every image: (B,P) by name."""
    grid, count = protocol.grid(curve), len(ends.whole)
    first, last = (ends.whole, ends.deleted) if curve == "deletion" else (ends.start, ends.whole)
    inner = torch.cat(list(parts)) if parts else first[:0]
    points = list(inner.reshape(count, -1, first.shape[1]).unbind(1))
    points = [first] * int(grid[0] == 0) + points + [last] * int(grid[-1] == 1)
    rows, found = torch.arange(count), []
    for point in points:
        found.append({name: value.double() for name, value in score(point, rows).items()})
    return {name: torch.stack([one[name] for one in found], dim=1).numpy() for name in found[0]}
