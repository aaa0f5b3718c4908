"""Matryoshka sparse autoencoder on embeddings (Zaigrajew, Baniecki, Biecek, ICML 2025).

One encoder and one decoder serve several levels of sparsity k_1 < ... < k_m, by default 64, 128,
... doubling up to the number of latents L = expansion x D (fewer in the first level where L is
below 1,024). With x the embedding less the mean of the training embeddings, over their root mean
square length:

    z_k(x) = TopK_k(ReLU(E x + b)),   reconstruction at level k = z_k(x) W,   |W_i| = 1
    loss   = sum_k w_k NMSE_k / sum_k w_k,   NMSE_k = mean |x - z_k(x) W|^2 / mean |x|^2

The published program decodes every sample at every level, which costs m + 1 times what one level
does: for 4,795 x 512 about 100 MFLOP a sample, 14 TFLOP in 30 epochs. Here each sample of a batch
is decoded at one level, drawn with probability w_k / sum w, so the loss of a step is an unbiased
estimate of the loss above at 21 MFLOP a sample; `every_level=True` computes it in full.

Other differences from that program, by decision: batches of 256 and not 4,096, since a downstream
task has thousands of images and not millions; NMSE over the batch's own mean square rather than
sample by sample, which a sample near the mean would dominate; a step size of 1e-3 that falls to
zero linearly; rows of W are put back to unit length after each step and not before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor
from torch.nn import functional

from fieldmark.core.atomic import write_json
from fieldmark.core.errors import InputError, UsageError
from fieldmark.core.json_text import parse_json
from fieldmark.core.sealed import SEAL, judge, sealing
from fieldmark.core.seeds import generator

Floats = NDArray[np.float32]
Weighting = Literal["uniform", "reverse"]
FIRST_LEVEL = 64
# The error is a summary for the record; over all samples it would cost half an epoch.
ERROR_SAMPLES = 512
WEIGHTS, RECORD = "autoencoder.safetensors", "autoencoder.json"
ARRAYS = ("mean_", "encoder_", "bias_", "decoder_", "frequency_")


def choose_levels(latents: int) -> tuple[int, ...]:
    """Return levels that double from 64, or from a 16th of the latents, up to all latents.

    Raises:
        UsageError: there is no latent.

    Example:
        >>> choose_levels(3072)
        (64, 128, 256, 512, 1024, 2048, 3072)
        >>> choose_levels(48)
        (3, 6, 12, 24, 48)
    """
    if latents < 1:
        raise UsageError(f"an autoencoder needs at least 1 latent, got {latents}")
    levels = [min(FIRST_LEVEL, max(1, latents // 16))]
    while 2 * levels[-1] < latents:
        levels.append(2 * levels[-1])
    return (*levels, latents) if levels[-1] < latents else tuple(levels)


def weigh_levels(count: int, weighting: Weighting = "uniform") -> tuple[float, ...]:
    """Return the weight of each level, the sparsest first; they add up to 1.

    `reverse` weighs them count, ..., 2, 1, so it favours the sparsest, as the published program
    does (a comment there says the opposite).

    Raises:
        UsageError: another weighting.

    Example:
        >>> weigh_levels(3, "reverse")
        (0.5, 0.3333333333333333, 0.16666666666666666)
    """
    if weighting not in ("uniform", "reverse"):
        raise UsageError(f"weighting must be 'uniform' or 'reverse', got {weighting!r}")
    raw = range(count, 0, -1) if weighting == "reverse" else [1] * count
    return tuple(value / sum(raw) for value in raw)


def keep_largest(scores: Tensor, k: int) -> Tensor:
    """Return ReLU of the k largest scores of each row and 0 elsewhere: (n,L), not negative.

    Example:
        >>> keep_largest(torch.tensor([[3.0, -1.0, 2.0, 1.0]]), 2)
        tensor([[3., 0., 2., 0.]])
    """
    if k >= scores.shape[1]:
        return scores.relu()
    values, places = scores.topk(k, dim=1, sorted=False)
    return torch.zeros_like(scores).scatter(1, places, values.relu())


def nested_loss(
    scores: Tensor, inputs: Tensor, *, decoder: Tensor, levels: Sequence[int], weights: Tensor
) -> Tensor:
    """Return the weighted mean over levels of the normalised squared error.

    Args:
        scores: (n,L) before ReLU.
        inputs: (n,D) centred.
        decoder: (L,D).
        levels: m numbers of latents to keep.
        weights: (m,) that add up to 1.

    Example:
        >>> x = torch.tensor([[2.0, 1.0]])
        >>> nested_loss(x, x, decoder=torch.eye(2), levels=(1, 2), weights=torch.tensor([0.5, 0.5]))
        tensor(0.1000)
    """
    errors = [(keep_largest(scores, k) @ decoder - inputs).square().sum() for k in levels]
    return (torch.stack(errors) * weights).sum() / inputs.square().sum().clamp_min(1e-12)


def drawn_loss(scores: Tensor, inputs: Tensor, *, decoder: Tensor, drawn: Sequence[int]) -> Tensor:
    """Return the normalised squared error with each row kept to a level of its own.

    Args:
        scores: (n,L) before ReLU.
        inputs: (n,D) centred.
        decoder: (L,D).
        drawn: n numbers of latents to keep, ascending, so that equal ones lie together.

    Example:
        >>> x = torch.tensor([[2.0, 1.0], [2.0, 1.0]])
        >>> drawn_loss(x, x, decoder=torch.eye(2), drawn=(1, 2))
        tensor(0.1000)
    """
    kept, counts = np.unique(np.asarray(drawn), return_counts=True)
    parts = scores.split(counts.tolist())
    latents = torch.cat([keep_largest(part, int(k)) for part, k in zip(parts, kept, strict=True)])
    error = (latents @ decoder - inputs).square().sum()
    return error / inputs.square().sum().clamp_min(1e-12)


class MatryoshkaAutoencoder(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A sparse autoencoder with nested levels of sparsity.

    Args:
        expansion: latents for each dimension of the embedding, 1 or more.
        levels: ascending numbers of latents to keep; None chooses them by `choose_levels`.
        weighting: of the levels in the loss: `uniform`, or `reverse` for the sparsest most.
        epochs: passes over the data.
        batch_size: samples a step; fewer where there are fewer samples.
        learning_rate: of AdamW in the first step; it falls to 0 linearly.
        clip: greatest norm of a step's gradient.
        every_level: decode each sample at every level and not at one drawn level.
        random_state: seed of the start, of the order of samples and of the levels, 0 or more.

    Attributes:
        mean_: (D,) subtracted from embeddings.
        scale_: root mean square length of the centred training embeddings.
        encoder_: (L,D) weights on centred embeddings over `scale_`.
        bias_: (L,).
        decoder_: (L,D), rows of unit norm.
        levels_: the levels used.
        frequency_: (L,) share of training samples for which a latent is above 0, in [0, 1].
        dead_: how many latents are never above 0.
        error_: normalised squared error at each level on up to 512 training samples, 0 is perfect.

    Example:
        >>> X = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
        >>> autoencoder = MatryoshkaAutoencoder(epochs=5).fit(X)
        >>> autoencoder.encode(X, level=2).shape, autoencoder.reconstruct(X).shape
        ((200, 32), (200, 4))
    """

    mean_: Floats
    scale_: float
    encoder_: Floats
    bias_: Floats
    decoder_: Floats
    levels_: tuple[int, ...]
    frequency_: Floats
    dead_: int
    error_: tuple[float, ...]

    def __init__(
        self,
        *,
        expansion: int = 8,
        levels: Sequence[int] | None = None,
        weighting: Weighting = "uniform",
        epochs: int = 30,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        clip: float = 1.0,
        every_level: bool = False,
        random_state: int = 0,
    ) -> None:
        self.expansion = expansion
        self.levels = levels
        self.weighting: Weighting = weighting
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.clip = clip
        self.every_level = every_level
        self.random_state = random_state

    def fit(self, X: ArrayLike, y: object = None) -> MatryoshkaAutoencoder:
        """Train on embeddings (n,D); labels are not used.

        Raises:
            ValueError: the embeddings are no finite (n,D) with 2 samples or more.
            UsageError: a setting is out of its range, or all embeddings are one point.
        """
        values = validate_data(self, X, dtype=np.float32, ensure_min_samples=2)
        self.levels_ = self._check_settings(latents=self.expansion * values.shape[1])
        self.mean_ = values.mean(axis=0, dtype=np.float64).astype(np.float32)
        centred = values - self.mean_
        self.scale_ = float(np.sqrt(np.square(centred, dtype=np.float64).sum(axis=1).mean()))
        if self.scale_ < 1e-6:
            raise UsageError("every embedding is the same point; there is nothing to learn")
        self._train(torch.from_numpy(centred / np.float32(self.scale_)))
        self._summarise(values)
        return self

    def _check_settings(self, *, latents: int) -> tuple[int, ...]:
        for name in ("expansion", "epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be 1 or more, got {getattr(self, name)}")
        weigh_levels(1, self.weighting)
        levels = choose_levels(latents) if self.levels is None else tuple(self.levels)
        if not levels or list(levels) != sorted({int(k) for k in levels if 1 <= k <= latents}):
            raise UsageError(
                f"levels must be ascending numbers from 1 to {latents} latents, got {levels}"
            )
        return levels

    def _start(self, dim: int) -> list[Tensor]:
        """Return encoder, bias and decoder; the first is tied to the last at the start."""
        random = generator(self.random_state, "sparse-autoencoder", "start")
        rows = random.standard_normal((self.expansion * dim, dim), dtype=np.float32)
        decoder = functional.normalize(torch.from_numpy(rows), dim=1)
        return [decoder.clone(), torch.zeros(len(decoder)), decoder]

    def _train(self, values: Tensor) -> None:
        encoder, bias, decoder = parameters = self._start(values.shape[1])
        for parameter in parameters:
            parameter.requires_grad_()
        random = generator(self.random_state, "sparse-autoencoder", "steps")
        optimiser = torch.optim.AdamW(
            parameters, lr=self.learning_rate, weight_decay=0.0, fused=True
        )
        steps = self.epochs * -(-len(values) // self.batch_size)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
        for _ in range(self.epochs):
            order = torch.from_numpy(random.permutation(len(values)))
            for batch in order.split(self.batch_size):
                optimiser.zero_grad()
                inputs = values[batch]
                scores = functional.linear(inputs, encoder, bias)
                self._loss(scores, inputs, decoder=decoder, random=random).backward()
                _drop_radial_gradient(decoder)
                torch.nn.utils.clip_grad_norm_(parameters, self.clip)
                optimiser.step()
                schedule.step()
                with torch.no_grad():
                    decoder.copy_(functional.normalize(decoder, dim=1))
        self.encoder_, self.bias_, self.decoder_ = (p.detach().numpy() for p in parameters)

    def _loss(
        self, scores: Tensor, inputs: Tensor, *, decoder: Tensor, random: np.random.Generator
    ) -> Tensor:
        weights = weigh_levels(len(self.levels_), self.weighting)
        if self.every_level:
            return nested_loss(
                scores,
                inputs,
                decoder=decoder,
                levels=self.levels_,
                weights=torch.tensor(weights),
            )
        drawn = np.sort(random.choice(self.levels_, size=len(scores), p=weights))
        return drawn_loss(scores, inputs, decoder=decoder, drawn=drawn.tolist())

    def _summarise(self, values: Floats) -> None:
        active = np.zeros(len(self.bias_))
        for part in np.array_split(values, -(-len(values) // 1024)):
            active += (self._score(part) > 0).sum(dim=0).numpy()
        self.frequency_ = (active / len(values)).astype(np.float32)
        self.dead_ = int((active == 0).sum())
        some = values[:: -(-len(values) // ERROR_SAMPLES)]
        scores, decoder = self._score(some), torch.from_numpy(self.decoder_)
        inputs = torch.from_numpy((some - self.mean_) / np.float32(self.scale_))
        errors = [(keep_largest(scores, k) @ decoder - inputs).square().sum() for k in self.levels_]
        self.error_ = tuple(float(error / inputs.square().sum()) for error in errors)

    def _score(self, values: Floats) -> Tensor:
        inputs = torch.from_numpy((values - self.mean_) / np.float32(self.scale_))
        return functional.linear(
            inputs, torch.from_numpy(self.encoder_), torch.from_numpy(self.bias_)
        )

    def encode(self, X: ArrayLike, *, level: int | None = None) -> Floats:
        """Return the latents of embeddings (n,D): (n,L), not negative.

        Args:
            X: embeddings.
            level: at most so many latents of a sample are above 0; None keeps all of them.

        Raises:
            ValueError: the embeddings do not fit.
            UsageError: the level is below 1.
        """
        check_is_fitted(self, "decoder_")
        if level is not None and level < 1:
            raise UsageError(f"level must be 1 or more, got {level}")
        values = validate_data(self, X, reset=False, dtype=np.float32)
        latents = keep_largest(self._score(values), level or len(self.bias_))
        return np.asarray(latents.numpy())

    def decode(self, latents: ArrayLike) -> Floats:
        """Return the embeddings (n,D) of latents (n,L).

        Raises:
            UsageError: the latents have another width.
        """
        check_is_fitted(self, "decoder_")
        values = np.asarray(latents, np.float32)
        if values.ndim != 2 or values.shape[1] != len(self.bias_):
            raise UsageError(f"latents of shape {values.shape} are no (n, {len(self.bias_)})")
        return np.asarray(self.mean_ + np.float32(self.scale_) * (values @ self.decoder_))

    def reconstruct(self, X: ArrayLike, *, level: int | None = None) -> Floats:
        """Return what is left of embeddings (n,D) at a level: (n,D)."""
        return self.decode(self.encode(X, level=level))


def _drop_radial_gradient(decoder: Tensor) -> None:
    """Leave only the part of the gradient that turns a row: its length is fixed."""
    gradient = decoder.grad
    assert gradient is not None
    with torch.no_grad():
        gradient -= (gradient * decoder).sum(dim=1, keepdim=True) * decoder


def save_autoencoder(autoencoder: MatryoshkaAutoencoder, folder: Path) -> None:
    """Write `autoencoder.safetensors` and, last, `autoencoder.json`.

    Raises:
        NotFittedError: it has not been fitted.
        FieldmarkError: the folder cannot be written.
    """
    check_is_fitted(autoencoder, "decoder_")
    tensors = {name: getattr(autoencoder, name) for name in ARRAYS}
    with sealing(folder / WEIGHTS) as part:
        save_file(tensors, part, metadata=dict(SEAL))
    fitted = {name: getattr(autoencoder, name) for name in ("scale_", "levels_", "dead_", "error_")}
    write_json(folder / RECORD, {"params": autoencoder.get_params(), "fitted": fitted})


def load_autoencoder(folder: Path) -> MatryoshkaAutoencoder:
    """Read an autoencoder that `save_autoencoder` wrote; nothing in it is executed.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        record = parse_json((folder / RECORD).read_text(encoding="utf-8"))
        if judge(folder / WEIGHTS) == "damaged":
            raise ValueError("its checksum does not fit its bytes")
        tensors = load_file(folder / WEIGHTS)
        autoencoder = MatryoshkaAutoencoder(**record["params"])
        for name in ARRAYS:
            setattr(autoencoder, name, tensors[name])
        autoencoder.scale_ = float(record["fitted"]["scale_"])
        autoencoder.dead_ = int(record["fitted"]["dead_"])
        autoencoder.levels_ = tuple(record["fitted"]["levels_"])
        autoencoder.error_ = tuple(record["fitted"]["error_"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError, SafetensorError) as error:
        raise InputError(
            f"holds no whole autoencoder ({RECORD} and {WEIGHTS})",
            where=folder,
            mend="save it again",
        ) from error
    autoencoder.n_features_in_ = autoencoder.decoder_.shape[1]
    return autoencoder
