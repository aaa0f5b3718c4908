"""Gradients of image-text scores with respect to what happens inside an image tower.

Only what lies behind the point of interest is recorded, so the price of a gradient is that part of
a backward pass. Weights are never asked for a gradient and keep none. Shape letters: B images,
T texts, N tokens, C channels, D embedding dimensions.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fieldmark.attribution.maps import Maps, Subject
from fieldmark.core.errors import InputError, UnsupportedEncoderError
from fieldmark.models.blocks import Block, run_block
from fieldmark.models.encoder import Encoder, Tokens
from fieldmark.models.towers import Tower

# A pooling attention projects keys and values of all patches and nothing else: 2 of the 12 d x d
# products that a block makes for each of them.
POOLER_SHARE = 1 / 6
# Gradients of a cosine are about 1e-4; float16 loses what is under 6e-8.
HALF_SCALE = 1024.0


@contextlib.contextmanager
def record_gradients() -> Iterator[None]:
    """Record operations for gradients, also where the caller is in `no_grad` or `inference_mode`.

    Example:
        >>> with torch.inference_mode(), record_gradients():
        ...     (torch.ones(1, requires_grad=True) * 2).requires_grad
        True
    """
    with torch.inference_mode(False), torch.enable_grad():
        yield


def make_leaf(values: Tensor) -> Tensor:
    """Return values that the graph starts at: detached, with a gradient to ask for."""
    return values.detach().clone().requires_grad_()


def differentiate(
    scores_BT: Tensor, inputs: Sequence[Tensor]
) -> Iterator[tuple[Tensor, tuple[Tensor, ...]]]:
    """Yield for one text after the other its scores and their gradients.

    One backward pass a text over one shared graph, which is freed with the last. The images of a
    batch do not know each other, so the gradient of their sum is that of each.

    Args:
        scores_BT: scores of B images for T texts.
        inputs: tensors of the graph; one that a score does not depend on has a gradient of zero.

    Yields:
        The text's scores (B,) and for each input its gradient, float32, of the input's shape.

    Example:
        >>> x = torch.tensor([[1.0, 2.0]], requires_grad=True)
        >>> scores = x @ torch.tensor([[1.0, 3.0], [5.0, 0.0]])
        >>> [gradients[0].tolist() for _, gradients in differentiate(scores, [x])]
        [[[1.0, 5.0]], [[3.0, 0.0]]]
    """
    scale = HALF_SCALE if any(each.dtype == torch.float16 for each in inputs) else 1.0
    texts = scores_BT.shape[1]
    for column in range(texts):
        gradients = torch.autograd.grad(
            scores_BT[:, column].sum() * scale,
            inputs,
            retain_graph=column < texts - 1,
            materialize_grads=True,
        )
        yield scores_BT[:, column].detach(), tuple(each.float() / scale for each in gradients)


def read_tokens(part: Subject) -> Tokens:
    """Embed the patches of a batch, unrecorded."""
    with torch.no_grad():
        tokens = part.encoder.tokens(release(part.images))
    return tokens._replace(values=tokens.values.detach())


def run_blocks(blocks: Sequence[Block], values: Tensor) -> Tensor:
    """Run blocks, unrecorded: (B,N,C) to (B,N,C)."""
    with torch.no_grad():
        for block in blocks:
            values, _ = run_block(block, values)
    return values


def release(values: Tensor) -> Tensor:
    """Return a tensor that can be recorded: a copy of one that was made in inference mode.

    Example:
        >>> with torch.inference_mode():
        ...     values = torch.ones(1)
        >>> release(values).is_inference()
        False
    """
    return values.clone() if values.is_inference() else values


def score(embedded: Tensor, texts: Tensor) -> Tensor:
    """Return cosines of unit images (B,D) and unit texts (T,D): (B,T)."""
    return embedded @ release(texts).to(embedded).T


def shape_maps(
    rows: Sequence[Tensor],
    *,
    similarity: Tensor,
    grid: tuple[int, int],
    forwards: float = 1.0,
    backwards: float,
) -> Maps:
    """Put the maps of T texts, each (B,h*w), side by side.

    Args:
        rows: of each text.
        similarity: (B,T).
        grid: h and w.
        forwards: full forward passes for each image.
        backwards: full backward passes for each image, of all texts.
    """
    values = torch.stack([row.detach().float() for row in rows], dim=1).unflatten(2, grid)
    return Maps(
        values=values, similarity=similarity.detach(), forwards=forwards, backwards=backwards
    )


def explain_in_batches(subject: Subject, explain: Callable[[Subject], Maps]) -> Maps:
    """Explain at most `config.batch_size` images at once, with gradients recorded.

    Args:
        subject: any number of images, at least one.
        explain: gives `values` and may give `similarity`.
    """
    size, parts = subject.config.batch_size, []
    for start in range(0, len(subject), size):
        rows = slice(start, start + size)
        part = dataclasses.replace(subject, images=subject.images[rows], ids=subject.ids[rows])
        with record_gradients():
            parts.append(explain(part))
    similarities = [part.similarity for part in parts if part.similarity is not None]
    return dataclasses.replace(
        parts[0],
        values=torch.cat([part.values for part in parts]),
        similarity=torch.cat(similarities) if similarities else None,
    )


def count_patches(tokens: Tokens) -> int:
    """Return how many patches the grid has.

    Example:
        >>> count_patches(Tokens(torch.zeros(1, 7, 2), 1, (2, 3)))
        6
    """
    return tokens.grid[0] * tokens.grid[1]


def require_blocks(tower: Tower, encoder: Encoder) -> tuple[Block, ...]:
    """Return the blocks of a tower.

    Raises:
        UnsupportedEncoderError: it has none, or of a kind that cannot be taken apart.
    """
    if not tower.blocks:
        raise UnsupportedEncoderError(
            "its tower has no blocks of a transformer",
            where=encoder.spec.uri,
            mend="use grad-cam, integrated-gradients, occlusion, rise or cci, or a ViT",
        )
    return tower.blocks


def find_first(count: int | None, *, default: int, most: int, setting: str) -> int:
    """Return a setting that counts blocks, or its default.

    Raises:
        InputError: the tower has fewer blocks.

    Example:
        >>> find_first(None, default=11, most=11, setting="game_start")
        11
    """
    if count is None:
        return default
    if count > most:
        raise InputError(
            f"{setting} is {count}, but this tower allows {most} at most",
            mend=f"give {setting} from 0 to {most}, or none",
        )
    return count
