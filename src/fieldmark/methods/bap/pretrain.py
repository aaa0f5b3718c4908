"""Background-invariant anchor pre-training from an encoder, objects and backgrounds to an encoder.

`METHODS` holds BAP (BAP section 3) and the controls that it is judged against: the data-matched
control (M.3.1) and random orthogonal anchors (appendix F). All see the same composites in the same
order for as many steps; only the loss differs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fieldmark.core.registry import look_up
from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.compositing import Compositor
from fieldmark.data.foregrounds import Foregrounds
from fieldmark.methods.bap.anchors import Progress, make_anchors
from fieldmark.methods.bap.config import BapConfig
from fieldmark.methods.bap.objectives import (
    align_to,
    classify_with,
    draw_orthogonal_anchors,
)
from fieldmark.methods.bap.plan import sample_objects
from fieldmark.methods.bap.training import Loss, Trained, TrainingProgress, train
from fieldmark.methods.classifier import ClassifierHead
from fieldmark.methods.processes import Processes
from fieldmark.models.adapter import replace_image_tower
from fieldmark.models.device import pick_extraction_dtype
from fieldmark.models.encoder import Encoder
from fieldmark.models.engine import LOCAL, Engine


@dataclass(frozen=True)
class Pretraining:
    """One pre-training run, as its methods see it.

    Attributes:
        encoder: the encoder to start from, float32, on the device to train on.
        compositor: objects and backgrounds.
        config: settings.
        seed: seed of the run.
        folder: keeps checkpoints and the log of losses.
        processes: the processes that train together.
        engine: where the anchors are made.
        on_anchor: called with composites done and in all while anchors are made.
        on_step: called after each training step.
    """

    encoder: Encoder
    compositor: Compositor
    config: BapConfig
    seed: int
    folder: Path
    cache: Path
    processes: Processes
    engine: Engine = LOCAL
    on_anchor: Progress | None = None
    on_step: Callable[[TrainingProgress], None] | None = None


@dataclass(frozen=True)
class Pretrained:
    """What pre-training returns.

    Attributes:
        encoder: the encoder with its trained image tower; its text tower is untouched.
        trained: the losses and whether training stopped early.
        anchors: the anchors of the objects (n,D), None for the data-matched control.
    """

    encoder: Encoder
    trained: Trained
    anchors: Tensor | None


def build_compositor(
    foregrounds: Foregrounds,
    backgrounds: Backgrounds,
    *,
    side: int,
    config: BapConfig,
    seed: int,
    cache: Path,
) -> Compositor:
    """Choose N objects and prepare them and the backgrounds for compositing.

    Args:
        foregrounds: all training objects.
        backgrounds: all training backgrounds.
        side: S of the encoder.
        config: gives N, sizes and class balance.
        seed: seed of the run; chooses the objects.
        cache: folder for decoded pixels.
    """
    chosen = sample_objects(
        foregrounds.labels, config.objects, seed=seed, balanced=config.class_balanced
    )
    return Compositor(
        foregrounds.take(chosen),
        backgrounds,
        side=side,
        scales=config.scale,
        scale_steps=config.scale_steps,
        cache=cache,
    )


def pretrain(run: Pretraining, *, method: str = "bap") -> Pretrained:
    """Run BAP or a control of it.

    Args:
        run: encoder, data and settings.
        method: a key of `METHODS`.

    Raises:
        UnknownNameError: there is no such method.
    """
    return look_up(METHODS, method, kind="method")(run)


def run_bap(run: Pretraining) -> Pretrained:
    """Make anchors with the frozen encoder, then align a copy of it to them (Eq. 2 and 3)."""
    device = next(run.encoder.image_tower.parameters()).device
    teacher = run.encoder.place(dtype=pick_extraction_dtype(device))
    if not run.processes.first:
        run.processes.wait()  # the first process makes the anchors, the others read them
    anchors = make_anchors(
        teacher,
        run.compositor,
        contexts=run.config.anchor_contexts,
        seed=run.seed,
        batch_size=run.config.batch_size,
        cache=run.cache,
        engine=run.engine,
        progress=run.on_anchor,
    )
    if run.processes.first:
        run.processes.wait()
    return _train(run, loss=align_to(anchors.to(device)), anchors=anchors)


def run_orthogonal(run: Pretraining) -> Pretrained:
    """Align to one random orthogonal vector a class instead of to anchors (appendix F)."""
    device = next(run.encoder.image_tower.parameters()).device
    labels = run.compositor.labels
    anchors = draw_orthogonal_anchors(labels, dim=run.encoder.spec.dim, seed=run.seed)
    return _train(run, loss=align_to(anchors.to(device)), anchors=anchors)


def run_control(run: Pretraining) -> Pretrained:
    """Train with cross-entropy on the labels of the very same composites (M.3.1)."""
    device = next(run.encoder.image_tower.parameters()).device
    labels = torch.from_numpy(np.asarray(run.compositor.labels)).to(device)
    head = ClassifierHead(run.encoder.spec.dim, int(labels.max()) + 1).to(device)
    return _train(run, loss=classify_with(head, labels), head=head)


def _train(
    run: Pretraining,
    *,
    loss: Loss,
    anchors: Tensor | None = None,
    head: ClassifierHead | None = None,
) -> Pretrained:
    trained = train(
        copy.deepcopy(run.encoder.image_tower).float(),
        run.compositor,
        spec=run.encoder.spec,
        loss=loss,
        config=run.config,
        seed=run.seed,
        folder=run.folder,
        head=head,
        processes=run.processes,
        progress=run.on_step,
    )
    encoder = replace_image_tower(run.encoder, trained.tower.state_dict())
    return Pretrained(encoder, trained, anchors)


METHODS: Mapping[str, Callable[[Pretraining], Pretrained]] = {
    "bap": run_bap,
    "data-matched-control": run_control,
    "random-orthogonal-anchors": run_orthogonal,
}
