"""The one training loop: plain torch, data-parallel, and resumable to the same bits.

BAP's phase 2, its controls and every kind of fine-tuning use it. They differ in where their images
come from (`BatchSource`) and in their loss.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldmark.core.seeds import derive_seed
from fieldmark.methods.checkpoints import (
    LossRow,
    append_loss,
    load_checkpoint,
    read_losses,
    save_checkpoint,
    write_losses,
)
from fieldmark.methods.prefetch import prefetch
from fieldmark.methods.processes import Processes
from fieldmark.methods.training_config import TrainingConfig
from fieldmark.models.device import pick_dtype, training_autocast
from fieldmark.models.encoder import EncoderSpec, normalise

# Losses (B,) of a batch from its unit embeddings (B,D) and its targets (B,...).
Loss = Callable[[Tensor, Tensor], Tensor]
# Embeddings (E,D) of a batch from the tower, its normalised images (B,3,S,S) and its targets. E is
# B, or more where parts of the images are embedded too.
Embed = Callable[[nn.Module, Tensor, Tensor], Tensor]
# Learning rate from the number of a step, of all steps, and the highest rate.
Schedule = Callable[[int, int, float], float]


class Batch(NamedTuple):
    """A process's part of the images of one step.

    Attributes:
        image: uint8 (B,3,S,S), on the device to train on.
        target: (B,...), what the loss is told of each image, on the same device.
        total: how many images the step has over all processes.
    """

    image: Tensor
    target: Tensor
    total: int


class BatchSource(Protocol):
    """Where the images of a run come from: a pure function of the step, so a run can resume."""

    @property
    def steps_an_epoch(self) -> int:
        """How many steps an epoch has."""
        ...

    def draw(self, step: int, *, processes: Processes, device: torch.device) -> Batch:
        """Return this process's part of step `step`, counted from 0 over all epochs."""
        ...


class TrainingProgress(NamedTuple):
    """Where a training run is.

    Attributes:
        step: steps taken.
        total: steps in all.
        epoch: number of the epoch, from 0.
        loss: mean loss of the last batch.
        rate: images a second since the start or the resumption.
    """

    step: int
    total: int
    epoch: int
    loss: float
    rate: float


@dataclass(frozen=True)
class Trained:
    """What a training run came to.

    Attributes:
        tower: the trained image tower, in float32 and in evaluation mode.
        losses: one row a step.
        stopped_early: whether the loss stopped falling before the last epoch.
    """

    tower: nn.Module
    losses: list[LossRow]
    stopped_early: bool


def embed_images(tower: nn.Module, image_BCHW: Tensor, target: Tensor) -> Tensor:
    """Embed whole images, whatever their targets: (B,D), any length."""
    embedded: Tensor = tower(image_BCHW)
    return embedded


def _never(epochs: int) -> bool:
    return False


@dataclass
class _Session:
    modules: nn.ModuleDict
    optimizer: torch.optim.AdamW
    folder: Path
    steps_an_epoch: int
    config: TrainingConfig
    stop: Callable[[int], bool]
    losses: list[LossRow] = field(default_factory=list)
    step: int = 0

    @property
    def total(self) -> int:
        return self.steps_an_epoch * self.config.epochs

    @property
    def finished(self) -> bool:
        return self.step >= self.total or _has_converged(self) or self._is_stopped

    @property
    def _is_stopped(self) -> bool:
        epochs, rest = divmod(self.step, self.steps_an_epoch)
        return epochs > 0 and not rest and self.stop(epochs)


def train(
    tower: nn.Module,
    batches: BatchSource,
    *,
    spec: EncoderSpec,
    loss: Loss,
    config: TrainingConfig,
    schedule: Schedule,
    seed: int,
    folder: Path,
    head: nn.Module | None = None,
    processes: Processes | None = None,
    progress: Callable[[TrainingProgress], None] | None = None,
    on_epoch: Callable[[int], None] | None = None,
    embed: Embed = embed_images,
    stop: Callable[[int], bool] = _never,
    freeze_norms: bool = True,
) -> Trained:
    """Train an image tower, going on from a checkpoint in `folder` if there is one.

    Args:
        tower: module from normalised float (B,3,S,S) to embeddings (B,D); trained in place,
            float32. Parameters that need no gradient stay as they are.
        batches: where images and targets come from.
        spec: how the tower's images are normalised.
        loss: losses (B,) of unit embeddings (B,D) and targets (B,...).
        config: settings.
        schedule: the learning rate of each step.
        seed: seed of the run.
        folder: where the checkpoint and the log of losses are.
        head: more parameters that `loss` uses, trained at `head_learning_rate`.
        processes: the processes that train together; alone if None.
        progress: called after each step, in the first process.
        on_epoch: called with the number of each epoch that has ended, before its checkpoint, in
            the first process; after a resumption perhaps a second time.
        embed: what the loss is given of a batch; the whole images' embeddings by default.
        stop: called with how many epochs have ended, after `on_epoch` and again at a resumption;
            true ends the run. Every process must get the same answer.
        freeze_norms: keep the statistics of batch norms as they are.

    Returns:
        The tower and its losses. On the CPU a killed run that is resumed ends with the same bits
        as one that ran through.
    """
    processes = processes or Processes()
    steps = batches.steps_an_epoch
    session = _open_session(
        tower, head, steps_an_epoch=steps, config=config, folder=folder, stop=stop
    )
    processes.wait()
    if processes.first:
        write_losses(folder, session.losses)
    prepare = freeze_batch_norm if freeze_norms else nn.Module.train
    prepare(session.modules)
    device = next(session.modules.parameters()).device
    saved = started = time.monotonic()
    seen = 0
    for batch in prefetch(_draw_batches(session, batches, processes=processes, device=device)):
        # Dropout, where a tower has any: the same masks whether or not the run was resumed here.
        torch.manual_seed(derive_seed(seed, "step", session.step, processes.rank))
        _set_rates(session, schedule)
        row = _take_step(session, batch, spec=spec, embed=embed, loss=loss, processes=processes)
        seen += batch.total
        if processes.first:
            append_loss(folder, row)
            if on_epoch is not None and session.step % steps == 0:
                on_epoch(row.epoch)
                prepare(session.modules)
            if session.finished or time.monotonic() - saved >= config.checkpoint_seconds:
                optimizer = session.optimizer
                save_checkpoint(folder, session.modules, optimizer=optimizer, step=session.step)
                saved = time.monotonic()
            if progress:
                rate = seen / (time.monotonic() - started)
                progress(TrainingProgress(session.step, session.total, row.epoch, row.loss, rate))
        if session.finished:
            break
    processes.wait()
    return Trained(tower.eval(), session.losses, session.step < session.total)


def _open_session(
    tower: nn.Module,
    head: nn.Module | None,
    *,
    steps_an_epoch: int,
    config: TrainingConfig,
    folder: Path,
    stop: Callable[[int], bool],
) -> _Session:
    modules = nn.ModuleDict({"tower": tower} if head is None else {"tower": tower, "head": head})
    groups = [{"params": tower.parameters(), "peak": config.learning_rate}]
    if head is not None:
        groups.append({"params": head.parameters(), "peak": config.head_learning_rate})
    optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=config.weight_decay)
    session = _Session(modules, optimizer, folder, steps_an_epoch, config, stop)
    folder.mkdir(parents=True, exist_ok=True)
    session.step = load_checkpoint(folder, modules, optimizer=optimizer)
    session.losses = read_losses(folder, before=session.step)
    return session


def freeze_batch_norm(modules: nn.Module) -> None:
    """Put a module in training mode with the statistics of its batch norms frozen.

    The few images of a task, or composites on random backgrounds, are not the images that the
    statistics belong to.
    """
    modules.train()
    for module in modules.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _draw_batches(
    session: _Session, batches: BatchSource, *, processes: Processes, device: torch.device
) -> Iterator[Batch]:
    # A run that had converged before it was killed has nothing left to do.
    for step in range(0) if session.finished else range(session.step, session.total):
        yield batches.draw(step, processes=processes, device=device)


def _set_rates(session: _Session, schedule: Schedule) -> None:
    for group in session.optimizer.param_groups:
        group["lr"] = schedule(session.step, session.total, group["peak"])


def _take_step(
    session: _Session,
    batch: Batch,
    *,
    spec: EncoderSpec,
    embed: Embed,
    loss: Loss,
    processes: Processes,
) -> LossRow:
    config, tower = session.config, session.modules["tower"]
    image, target, count = batch
    summed = image.new_zeros((), dtype=torch.float64)
    session.optimizer.zero_grad(set_to_none=True)
    size = max(-(-len(image) // config.accumulation), 1)
    for part, wanted in zip(image.split(size), target.split(size), strict=True):
        if not len(part):  # more processes than images in the last batch of an epoch
            continue
        with training_autocast(image.device, pick_dtype(config.precision)):
            embedding = embed(tower, normalise(part, spec=spec, dtype=torch.float32), wanted)
        losses = loss(functional.normalize(embedding.float(), dim=-1), wanted)
        (losses.sum() / count).backward()
        summed += losses.detach().double().sum()
    processes.sum_gradients(session.modules.parameters())
    session.optimizer.step()
    mean = float(processes.sum(summed)) / count
    epoch = session.step // session.steps_an_epoch
    row = LossRow(session.step, epoch, mean, session.optimizer.param_groups[0]["lr"])
    session.losses.append(row)
    session.step += 1
    return row


def average_epochs(losses: Sequence[LossRow]) -> list[float]:
    """Return the mean loss of each epoch.

    Example:
        >>> average_epochs([LossRow(0, 0, 1.0, 0.1), LossRow(1, 0, 3.0, 0.1)])
        [2.0]
    """
    by_epoch: dict[int, list[float]] = {}
    for row in losses:
        by_epoch.setdefault(row.epoch, []).append(row.loss)
    return [float(np.mean(by_epoch[epoch])) for epoch in sorted(by_epoch)]


def _has_converged(session: _Session) -> bool:
    config = session.config
    if config.patience is None or session.step == 0 or session.step % session.steps_an_epoch:
        return False
    means = average_epochs(session.losses)
    if len(means) <= config.patience:
        return False
    best_before = min(means[: -config.patience])
    return min(means[-config.patience :]) > best_before - config.minimum_improvement
