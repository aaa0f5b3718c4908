"""Training on composites, which BAP's phase 2 and its controls share.

They differ in nothing but the loss, which is what makes the data-matched control data-matched.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from fieldmark.data.compositing import Compositor
from fieldmark.methods import training
from fieldmark.methods.bap.config import BapConfig
from fieldmark.methods.bap.plan import Plan, draw_epoch
from fieldmark.methods.processes import Processes
from fieldmark.methods.training import (
    Batch,
    Loss,
    Trained,
    TrainingProgress,
    average_epochs,
    freeze_batch_norm,
)
from fieldmark.methods.training_config import compute_learning_rate
from fieldmark.models.encoder import EncoderSpec

__all__ = [
    "CompositeBatches",
    "Loss",
    "Trained",
    "TrainingProgress",
    "average_epochs",
    "freeze_batch_norm",
    "train",
]


class CompositeBatches:
    """A source of batches of composites; the target of an image is the index of its object.

    Args:
        compositor: objects and backgrounds.
        config: gives M, the batch, class balance and whether each epoch draws anew.
        seed: seed of the run.
    """

    def __init__(self, compositor: Compositor, *, config: BapConfig, seed: int) -> None:
        self._compositor, self._config, self._seed = compositor, config, seed
        self._epoch = -1
        self._plan: Plan | None = None

    @property
    def steps_an_epoch(self) -> int:
        """How many steps an epoch has."""
        composites = self._compositor.n_objects * self._config.contexts
        return -(-composites // self._config.batch_size)

    def _draw_epoch(self, epoch: int) -> Plan:
        if self._plan is None or epoch != self._epoch:
            self._epoch = epoch
            self._plan = draw_epoch(
                self._compositor.labels,
                contexts=self._config.contexts,
                n_backgrounds=self._compositor.n_backgrounds,
                n_scales=self._compositor.n_scales,
                seed=self._seed,
                epoch=epoch,
                balanced=self._config.class_balanced,
                redraw=self._config.redraw_contexts,
            )
        return self._plan

    def draw(self, step: int, *, processes: Processes, device: torch.device) -> Batch:
        """Return this process's part of a step."""
        epoch, position = divmod(step, self.steps_an_epoch)
        size = self._config.batch_size
        batch = self._draw_epoch(epoch).rows(slice(position * size, (position + 1) * size))
        mine = batch.rows(slice(processes.rank, None, processes.world))
        image = self._compositor.composite(
            mine.objects, mine.backgrounds, mine.scales, device=device
        ).image
        return Batch(image, torch.from_numpy(mine.objects).to(device), len(batch))


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
        The tower and its losses; see `methods.training.train`.
    """

    def schedule(step: int, total: int, peak: float) -> float:
        minimum, warmup = config.minimum_learning_rate, config.warmup
        return compute_learning_rate(step, total=total, peak=peak, minimum=minimum, warmup=warmup)

    return training.train(
        tower,
        CompositeBatches(compositor, config=config, seed=seed),
        spec=spec,
        loss=loss,
        config=config,
        schedule=schedule,
        seed=seed,
        folder=folder,
        head=head,
        processes=processes,
        progress=progress,
    )
