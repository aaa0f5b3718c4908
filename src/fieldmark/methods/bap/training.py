"""The training loop that BAP's phase 2 and its controls share: plain torch and resumable.

They differ in nothing but the loss, which is what makes the data-matched control data-matched.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fieldmark.core.seeds import derive_seed
from fieldmark.data.compositing import Compositor
from fieldmark.methods.bap.checkpoint import (
    LossRow,
    append_loss,
    load_checkpoint,
    read_losses,
    save_checkpoint,
    write_losses,
)
from fieldmark.methods.bap.config import BapConfig
from fieldmark.methods.bap.plan import Plan, compute_learning_rate, draw_epoch
from fieldmark.methods.prefetch import prefetch
from fieldmark.methods.processes import Processes
from fieldmark.models.device import pick_dtype, training_autocast
from fieldmark.models.encoder import EncoderSpec, normalise

# Losses of a batch from its unit embeddings (B,D) and the indices of its objects (B,): (B,).
Loss = Callable[[Tensor, Tensor], Tensor]


class TrainingProgress(NamedTuple):
    """Where a training run is.

    Attributes:
        step: steps taken.
        total: steps in all.
        epoch: number of the epoch, from 0.
        loss: mean loss of the last batch.
        rate: composites a second since the start or the resumption.
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


@dataclass
class _Session:
    modules: nn.ModuleDict
    optimizer: torch.optim.AdamW
    folder: Path
    steps_an_epoch: int
    config: BapConfig
    losses: list[LossRow] = field(default_factory=list)
    step: int = 0

    @property
    def total(self) -> int:
        return self.steps_an_epoch * self.config.epochs


def train(
    tower: nn.Module,
    compositor: Compositor,
    *,
    spec: EncoderSpec,
    loss: Loss,
    config: BapConfig,
    seed: int,
    folder: Path,
    head: nn.Module | None = None,
    processes: Processes | None = None,
    progress: Callable[[TrainingProgress], None] | None = None,
) -> Trained:
    """Train an image tower on composites, going on from a checkpoint in `folder` if there is one.

    Args:
        tower: module from normalised float (B,3,S,S) to embeddings (B,D); trained in place,
            float32.
        compositor: objects and backgrounds.
        spec: how the tower's images are normalised.
        loss: losses (B,) of unit embeddings (B,D) and object indices (B,).
        config: settings.
        seed: seed of the run.
        folder: where the checkpoint and the log of losses are.
        head: more parameters that `loss` uses, trained at `head_learning_rate`.
        processes: the processes that train together; alone if None.
        progress: called after each step, in the first process.

    Returns:
        The tower and its losses. On the CPU a killed run that is resumed ends with the same bits
        as one that ran through.
    """
    processes = processes or Processes()
    session = _open_session(tower, head, compositor=compositor, config=config, folder=folder)
    processes.wait()
    if processes.first:
        write_losses(folder, session.losses)
    freeze_batch_norm(session.modules)
    batches = _draw_batches(session, compositor, processes=processes, seed=seed)
    saved = started = time.monotonic()
    seen = 0
    for plan, image, count in prefetch(batches):
        # Dropout, where a tower has any: the same masks whether or not the run was resumed here.
        torch.manual_seed(derive_seed(seed, "step", session.step, processes.rank))
        row = _take_step(
            session, plan, image, count=count, spec=spec, loss=loss, processes=processes
        )
        seen += count
        finished = session.step == session.total or _has_converged(session)
        if processes.first:
            append_loss(folder, row)
            if finished or time.monotonic() - saved >= config.checkpoint_seconds:
                save_checkpoint(
                    folder, session.modules, optimizer=session.optimizer, step=session.step
                )
                saved = time.monotonic()
            if progress:
                rate = seen / (time.monotonic() - started)
                progress(TrainingProgress(session.step, session.total, row.epoch, row.loss, rate))
        if finished:
            break
    processes.wait()
    return Trained(tower.eval(), session.losses, session.step < session.total)


def _open_session(
    tower: nn.Module,
    head: nn.Module | None,
    *,
    compositor: Compositor,
    config: BapConfig,
    folder: Path,
) -> _Session:
    modules = nn.ModuleDict({"tower": tower} if head is None else {"tower": tower, "head": head})
    groups = [{"params": tower.parameters(), "peak": config.learning_rate}]
    if head is not None:
        groups.append({"params": head.parameters(), "peak": config.head_learning_rate})
    optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=config.weight_decay)
    composites = compositor.n_objects * config.contexts
    steps = -(-composites // config.batch_size)
    session = _Session(modules, optimizer, folder, steps, config)
    folder.mkdir(parents=True, exist_ok=True)
    session.step = load_checkpoint(folder, modules, optimizer=optimizer)
    session.losses = read_losses(folder, before=session.step)
    return session


def freeze_batch_norm(modules: nn.Module) -> None:
    """Put a module in training mode with the statistics of its batch norms frozen.

    Composites on random backgrounds are not the images that the statistics belong to.
    """
    modules.train()
    for module in modules.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _draw_batches(
    session: _Session, compositor: Compositor, *, processes: Processes, seed: int
) -> Iterator[tuple[Plan, Tensor, int]]:
    config, device = session.config, next(session.modules.parameters()).device
    plan, drawn = None, -1
    # A run that had converged before it was killed has nothing left to do.
    steps = range(0) if _has_converged(session) else range(session.step, session.total)
    for step in steps:
        epoch, position = divmod(step, session.steps_an_epoch)
        if plan is None or epoch != drawn:
            drawn = epoch
            plan = draw_epoch(
                compositor.labels,
                contexts=config.contexts,
                n_backgrounds=compositor.n_backgrounds,
                n_scales=compositor.n_scales,
                seed=seed,
                epoch=epoch,
                balanced=config.class_balanced,
                redraw=config.redraw_contexts,
            )
        batch = plan.rows(slice(position * config.batch_size, (position + 1) * config.batch_size))
        mine = batch.rows(slice(processes.rank, None, processes.world))
        composites = compositor.composite(
            mine.objects, mine.backgrounds, mine.scales, device=device
        )
        yield mine, composites.image, len(batch)


def _take_step(
    session: _Session,
    plan: Plan,
    image: Tensor,
    *,
    count: int,
    spec: EncoderSpec,
    loss: Loss,
    processes: Processes,
) -> LossRow:
    config, tower = session.config, session.modules["tower"]
    for group in session.optimizer.param_groups:
        group["lr"] = compute_learning_rate(
            session.step,
            total=session.total,
            peak=group["peak"],
            minimum=config.minimum_learning_rate,
            warmup=config.warmup,
        )
    objects = torch.from_numpy(plan.objects).to(image.device)
    summed = image.new_zeros((), dtype=torch.float64)
    session.optimizer.zero_grad(set_to_none=True)
    size = max(-(-len(image) // config.accumulation), 1)
    for part, index in zip(image.split(size), objects.split(size), strict=True):
        if not len(part):  # more processes than images in the last batch of an epoch
            continue
        with training_autocast(image.device, pick_dtype(config.precision)):
            embedding = tower(normalise(part, spec=spec, dtype=torch.float32))
        losses = loss(functional.normalize(embedding.float(), dim=-1), index)
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
    epochs = sorted({row.epoch for row in losses})
    return [float(np.mean([row.loss for row in losses if row.epoch == epoch])) for epoch in epochs]


def _has_converged(session: _Session) -> bool:
    config = session.config
    if config.patience is None or session.step == 0 or session.step % session.steps_an_epoch:
        return False
    means = average_epochs(session.losses)
    if len(means) <= config.patience:
        return False
    best_before = min(means[: -config.patience])
    return min(means[-config.patience :]) > best_before - config.minimum_improvement
