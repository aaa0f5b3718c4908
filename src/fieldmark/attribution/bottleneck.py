"""M2IB: how much of each patch must pass a noisy bottleneck inside the tower to keep the score.

Formulas: facts/attribution.md section 3. Shape letters as in maps.py, and L blocks, N tokens,
C channels, P pairs of an image and a text, S noise samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.maps import Maps, Subject
from fieldmark.attribution.methods import find_method, require_support
from fieldmark.core.errors import NotApplicableError
from fieldmark.core.seeds import derive_seed
from fieldmark.models.adapter import take_apart
from fieldmark.models.blocks import Block, run_block
from fieldmark.models.encoder import Encoder, Tokens
from fieldmark.models.towers import Tower

# The published optimiser and start: nearly everything passes at first.
LEARNING_RATE = 1.0
START = 5.0


@dataclass(frozen=True, eq=False, kw_only=True)
class _Top:
    """The tower above the bottleneck; `tokens` has the grid and the prefix."""

    encoder: Encoder
    blocks: tuple[Block, ...]
    tokens: Tokens

    def embed(self, values: Tensor) -> Tensor:
        for block in self.blocks:
            values, _ = run_block(block, values)
        return self.encoder.pool(self.tokens._replace(values=values))


def explain_by_bottleneck(subject: Subject) -> Maps:
    """Map the information that must pass the bottleneck behind an inner block.

    Every number of every token is mixed with noise by a share of its own. The shares are learned
    for each image and text: as much noise as the cosine to the text bears. The map is the
    information that is left in each patch, in nats, summed over channels, behind the last step.

    Everything below the bottleneck is computed once; noise is drawn by `subject.ids` and the
    number of the text, so an image has the same map whatever else is in its batch and however
    `config.batch_size` splits it, up to the rounding that the optimiser enlarges. At most
    `config.batch_size` samples are in memory at once.

    Returns:
        Maps from 0 up, each with support. Forwards and backwards above the bottleneck are counted
        by their share of the blocks.

    Raises:
        NotApplicableError: `config.bottleneck_block` is not in the tower, or nothing behind it
            lets the embedding read the patches.
        UnsupportedEncoderError: the tower has no blocks, or cannot be taken apart.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> images, texts = torch.zeros(1, 3, 8, 8), torch.eye(6)[:1]
        >>> subject = Subject(
        ...     encoder=FakeEncoder(), images=images, texts=texts, config=AttributionConfig(),
        ...     ids=("a",),
        ... )
        >>> explain_by_bottleneck(subject)
        Traceback (most recent call last):
        fieldmark.core.errors.UnsupportedEncoderError: ... m2ib needs a tower that can be taken...
    """
    encoder, config = subject.encoder, subject.config
    require_support(encoder, find_method("m2ib"))
    tower = take_apart(encoder)
    layer = choose_block(tower, block=config.bottleneck_block, uri=encoder.spec.uri)
    # Callers may be in inference mode, whose tensors cannot be differentiated through.
    with torch.inference_mode(False), torch.no_grad():
        tokens = encoder.tokens(subject.images.clone())
        values = tokens.values.clone()
        for block in tower.blocks[: layer + 1]:
            values, _ = run_block(block, values)
        top = _Top(encoder=encoder, blocks=tower.blocks[layer + 1 :], tokens=tokens)
        embedded = top.embed(values)
        texts = subject.texts.clone().to(embedded.device)
        information = _squeeze(top, values, texts=texts, config=config, ids=subject.ids)
        patches = information[..., tokens.prefix :].float()
    share = len(top.blocks) / len(tower.blocks) * config.bottleneck_samples
    spent = share * config.bottleneck_steps * len(texts)
    return Maps(
        values=patches.unflatten(-1, tokens.grid),
        similarity=embedded @ texts.T,
        forwards=1 + spent,
        backwards=spent,
    )


def choose_block(tower: Tower, *, block: int | None, uri: str) -> int:
    """Return the number of the block behind which the bottleneck is, 0 the first.

    Args:
        tower: with L blocks.
        block: what is asked for; None is three quarters of the way up, 9 of 12, but at least one
            block below the last where the embedding is CLS.
        uri: of the encoder, for messages.

    Raises:
        NotApplicableError: there is no such block, or behind it CLS reads no patch any more.
    """
    count = len(tower.blocks)
    highest = count - 2 if tower.pooling == "cls" else count - 1
    chosen = min(3 * count // 4, highest) if block is None else block
    if 0 <= chosen <= highest:
        return chosen
    last = "below the last block, behind which CLS reads no patch" if highest < count - 1 else ""
    if highest < 0:
        raise NotApplicableError(f"m2ib needs a block {last}; this tower has one block", where=uri)
    raise NotApplicableError(
        f"m2ib cannot squeeze behind block {chosen} of {count} (0 the first)",
        where=uri,
        mend=f"set `bottleneck_block` to 0 to {highest}" + (f", {last}" if last else ""),
    )


def measure_information(values: Tensor, *, alpha: Tensor) -> Tensor:
    """Return the information of a noisy value over pure noise, KL(N(l x, (1-l)^2) || N(0, 1)).

    Args:
        values: (...) what enters the bottleneck, x.
        alpha: (...) logits of the shares that pass, l = sigmoid(alpha).

    Returns:
        (...) nats, 0 or more.

    Example:
        >>> information = measure_information(torch.tensor([0.0, 2.0]), alpha=torch.zeros(2))
        >>> information.tolist()  # ln 2 - 3/8, and half of l^2 x^2 more
        [0.318..., 0.818...]
    """
    # 1 - sigmoid(a) = sigmoid(-a), whose logarithm stays finite however much passes.
    log_variance = 2 * functional.logsigmoid(-alpha)
    mean = alpha.sigmoid() * values
    return -0.5 * (1 + log_variance - mean**2 - log_variance.exp())


def _squeeze(
    top: _Top, values: Tensor, *, texts: Tensor, config: AttributionConfig, ids: tuple[str, ...]
) -> Tensor:
    """Learn the bottlenecks of all pairs: (B,N,C) and (T,D) to the information (B,T,N)."""
    pairs = torch.cartesian_prod(torch.arange(len(values)), torch.arange(len(texts))).view(-1, 2)
    found = []
    for part in pairs.split(max(1, config.batch_size // config.bottleneck_samples)):
        images, labels = part.to(values.device).unbind(1)
        noise = [
            torch.Generator().manual_seed(derive_seed(config.seed, "m2ib", ids[image], text))
            for image, text in part.tolist()
        ]
        found.append(_learn(top, values[images], texts=texts[labels], config=config, noise=noise))
    return torch.cat(found).view(len(values), len(texts), -1)


def _learn(
    top: _Top,
    values: Tensor,
    *,
    texts: Tensor,
    config: AttributionConfig,
    noise: list[torch.Generator],
) -> Tensor:
    """Learn the bottlenecks of P pairs: (P,N,C) and (P,D) to the information (P,N)."""
    exact = values.to(torch.promote_types(values.dtype, torch.float32))
    alpha = torch.full_like(exact, START)
    optimizer = torch.optim.Adam([alpha], lr=LEARNING_RATE)
    for _ in range(config.bottleneck_steps):
        alpha.grad = torch.zeros_like(alpha)
        for samples in _split_samples(config, pairs=len(values)):
            drawn = torch.stack([_draw(exact, sources=noise) for _ in range(samples)], dim=1)
            alpha.grad += _differentiate(
                top,
                exact,
                alpha=alpha,
                drawn=drawn,
                texts=texts,
                beta=config.bottleneck_beta,
                dtype=values.dtype,
            ) * (samples / config.bottleneck_samples)
        optimizer.step()
    return measure_information(exact, alpha=alpha).sum(-1)


def _split_samples(config: AttributionConfig, *, pairs: int) -> Iterator[int]:
    """Split the noise samples of a step so that at most `batch_size` samples run at once."""
    most = max(1, config.batch_size // pairs)
    for start in range(0, config.bottleneck_samples, most):
        yield min(most, config.bottleneck_samples - start)


def _draw(values: Tensor, *, sources: list[torch.Generator]) -> Tensor:
    """Draw one sample of noise (P,N,C), each pair's from its own source.

    One at a time, so that the draws do not depend on how samples are split.
    """
    drawn = [torch.randn(values.shape[1:], generator=source) for source in sources]
    return torch.stack(drawn).to(values)


def _differentiate(
    top: _Top,
    values: Tensor,
    *,
    alpha: Tensor,
    drawn: Tensor,
    texts: Tensor,
    beta: float,
    dtype: torch.dtype,
) -> Tensor:
    """Return the gradient of the loss by `alpha` (P,N,C), the mean over the samples (P,S,N,C)."""
    pairs, samples = drawn.shape[:2]
    with torch.enable_grad():
        leaf = alpha.detach().clone().requires_grad_()
        passing = leaf.sigmoid()
        mixed = (passing * values)[:, None] + (1 - passing)[:, None] * drawn
        embedded = top.embed(mixed.flatten(0, 1).to(dtype)).unflatten(0, (pairs, samples))
        fit = (embedded * texts[:, None]).sum(-1).mean(1)
        information = measure_information(values, alpha=leaf).mean((1, 2))
        (gradient,) = torch.autograd.grad((beta * information - fit).sum(), leaf)
    return gradient
