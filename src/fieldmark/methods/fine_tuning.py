"""Fine-tuning: LP-FT (bap.txt M.3.1, after Kumar et al.), and AFR's first stage (M.2).

A linear head is probed on frozen embeddings; then head and image tower are trained together, with
cross-entropy weighted inversely to class frequency and random horizontal flips.

What the paper leaves open. The rate of the backbone: 5e-6, the only one that it names for
Waterbirds (Table 17); of the head: that of its probe, as M.5.3 does. The head's input is the unit
embedding times sqrt(D), as in the data-matched control; afterwards the scale is folded into the
head. A warm-up of 200 steps would be most of a short run, so it takes a quarter of the steps at the
most. Class weights have mean 1 over the training set instead of over each batch. The last epoch is
kept; `select` lets validation data choose an epoch.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fieldmark.core.errors import NotApplicableError, UsageError
from fieldmark.core.seeds import generator
from fieldmark.data.tables import ImageTable
from fieldmark.methods.classifier import ClassifierHead, fold_head, make_probe, open_head
from fieldmark.methods.epochs import EpochChoice, restore_best
from fieldmark.methods.fine_tuning_config import FineTuningConfig, HeldOutConfig, make_schedule
from fieldmark.methods.images import (
    ImageBatches,
    TaskImages,
    embed_task_images,
    make_targets,
    open_task_images,
    weigh_classes,
)
from fieldmark.methods.linear_probe import RECORD, LinearProbe, load_probe, save_probe
from fieldmark.methods.recipe import Adapted, Material, Recipe, Report
from fieldmark.methods.training import (
    Loss,
    Trained,
    TrainingProgress,
    average_epochs,
    train,
)
from fieldmark.models.adapter import replace_image_tower
from fieldmark.models.encoder import Encoder


@dataclass(frozen=True, eq=False, kw_only=True)
class FineTuning:
    """One fine-tuning run, as its stages see it.

    Attributes:
        encoder: the encoder to start from, float32, on the device to train on; it is not changed.
        images: what to train on.
        config: settings.
        seed: seed of the run.
        folder: keeps checkpoints and the log of losses.
        choice: what chooses an epoch on validation data, or None to keep the last.
        report: told about progress.
    """

    encoder: Encoder
    images: TaskImages
    config: FineTuningConfig
    seed: int
    folder: Path
    choice: EpochChoice | None = None
    report: Report = lambda phase, done, total, note: None


def open_run(
    start: Encoder,
    table: ImageTable,
    *,
    config: FineTuningConfig,
    seed: int,
    folder: Path,
    cache: Path,
    val: ImageTable | None = None,
    report: Report = lambda phase, done, total, note: None,
) -> FineTuning:
    """Make the images of a table ready for a fine-tuning run.

    Raises:
        NotApplicableError: fewer than two classes, or validation data are wanted and absent.
        UnsupportedEncoderError: the encoder makes images of different sizes.
        ImageError: an image cannot be read.
    """
    tell = functools.partial(_tell, report, "images")
    images = open_task_images(table, start, cache=cache, on_progress=tell)
    choice = None
    if config.select != "last":
        if val is None:
            raise NotApplicableError(f"select = {config.select!r} needs validation images")
        known = open_task_images(val, start, cache=cache, on_progress=tell)
        choice = EpochChoice(
            by=config.select,
            images=known,
            groups=val.group_ids(),
            classes=images.classes,
        )
    return FineTuning(
        encoder=start,
        images=images,
        config=config,
        seed=seed,
        folder=folder,
        choice=choice,
        report=report,
    )


def fine_tune(
    start: Encoder,
    table: ImageTable,
    *,
    config: FineTuningConfig,
    seed: int,
    folder: Path,
    cache: Path,
    val: ImageTable | None = None,
    report: Report = lambda phase, done, total, note: None,
) -> Adapted:
    """Run LP-FT from any encoder: the native one, or one after BAP (Figure 7).

    Args:
        start: the encoder to start from, float32, on the device to train on; it is not changed.
        table: labelled images to train on.
        config: settings.
        seed: seed of the run.
        folder: keeps checkpoints; a killed run goes on where it was.
        cache: folder for pixels that other runs can use again.
        val: validation images, read only where `config.select` asks for them.
        report: told about progress.

    Returns:
        The encoder with its trained tower, its head on unit embeddings, and the losses.

    Raises:
        NotApplicableError: fewer than two classes, or validation data are wanted and absent.
        UnsupportedEncoderError: the encoder makes images of different sizes.
        ImageError: an image cannot be read.
    """
    run = open_run(
        start,
        table,
        config=config,
        seed=seed,
        folder=folder,
        cache=cache,
        val=val,
        report=report,
    )
    return tune(run, head=probe_frozen(run))


def probe_frozen(run: FineTuning) -> LinearProbe:
    """Return the linear head of the first stage, on unit embeddings; made once (M.3.1)."""
    folder, config = run.folder / "probe", run.config
    if (folder / RECORD).is_file():
        found = load_probe(folder)
        assert isinstance(found, LinearProbe)
        return found
    tell = functools.partial(_tell, run.report, "embeddings")
    values = embed_task_images(run.encoder, run.images, on_progress=tell)
    scale = float(np.sqrt(values.shape[1]))
    fitted = LinearProbe(
        epochs=config.probe_epochs,
        learning_rate=config.probe_learning_rate,
        batch_size=config.batch_size,
        class_weight=config.class_weight,
        random_state=run.seed,
    ).fit(values * scale, run.images.classes[run.images.codes])
    probe = make_probe(fitted.coef_ * scale, fitted.intercept_, classes=fitted.classes_)
    save_probe(probe, folder)
    return probe


def tune(
    run: FineTuning,
    *,
    head: LinearProbe,
    phase: str = "fine-tuning",
    prepare: Callable[[nn.Module], None] | None = None,
) -> Adapted:
    """Train head and image tower together: the second stage of LP-FT (M.3.1).

    Args:
        run: encoder, images and settings.
        head: on unit embeddings, with the classes of the images.
        phase: what the run is called in reports.
        prepare: called with the copy of the tower that is to be trained.
    """
    tower = copy.deepcopy(run.encoder.image_tower).float()
    if prepare is not None:
        prepare(tower)
    classifier = open_head(head).to(next(tower.parameters()).device)
    trained = train_classifier(run, tower, head=classifier, phase=phase)
    notes: dict[str, object] = {
        "loss_by_epoch": average_epochs(trained.losses),
        "steps": len(trained.losses),
        "stopped_early": trained.stopped_early,
        "selected_on": "validation data" if run.choice else "nothing",
    }
    if run.choice is not None:
        notes["selected_epoch"], notes["score_by_epoch"] = restore_best(
            run.folder / "best", tower, classifier
        )
    return Adapted(
        encoder=replace_image_tower(run.encoder, tower.state_dict()),
        head=fold_head(classifier, classes=run.images.classes),
        notes=notes,
    )


def train_classifier(
    run: FineTuning, tower: nn.Module, *, head: ClassifierHead, phase: str
) -> Trained:
    """Train a tower and a head on the images of a run with cross-entropy, in place."""
    config, images = run.config, run.images
    even = np.ones(len(images.classes))
    weights = weigh_classes(images.codes) if config.class_weight else even
    target = make_targets(images.codes, weights=weights, smoothing=config.label_smoothing)
    batches = ImageBatches(
        images,
        target,
        batch_size=config.batch_size,
        flip=config.flip,
        mixup=config.mixup,
        seed=run.seed,
    )
    on_epoch = None
    if run.choice is not None:
        on_epoch = functools.partial(
            run.choice.score, run.folder / "best", run.encoder.spec, tower, head
        )
    return train(
        tower,
        batches,
        spec=run.encoder.spec,
        loss=classify_softly(head),
        config=config,
        schedule=make_schedule(config),
        seed=run.seed,
        folder=run.folder,
        head=head,
        progress=functools.partial(report_training, run.report, phase),
        on_epoch=on_epoch,
    )


def classify_softly(head: nn.Module) -> Loss:
    """Return the cross-entropy against soft targets: - sum over classes of t log p.

    Args:
        head: from unit embeddings (B,D) to logits (B,C).

    Example:
        >>> import torch
        >>> loss = classify_softly(nn.Identity())
        >>> round(float(loss(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]))), 2)
        1.39
    """

    def loss(embedding_BD: Tensor, target_BC: Tensor) -> Tensor:
        return -(target_BC * functional.log_softmax(head(embedding_BD), dim=-1)).sum(-1)

    return loss


def report_training(report: Report, phase: str, at: TrainingProgress) -> None:
    """Report where training is, with loss and rate."""
    report(phase, at.step, at.total, f"loss {at.loss:.4f}, {at.rate:.1f} images/s")


def _tell(report: Report, phase: str, done: int, total: int) -> None:
    report(phase, done, total, "")


def open_material(material: Material) -> FineTuning:
    """Make a recipe's training images ready for a fine-tuning run.

    Raises:
        NotApplicableError: there are no training images, and whatever `open_run` raises.
    """
    if material.train is None:
        raise NotApplicableError("fine-tuning needs labelled training images, and there are none")
    return open_run(
        material.encoder,
        material.train,
        config=material.config,
        seed=material.seed,
        folder=material.folder,
        cache=material.cache,
        val=material.val,
        report=material.report,
    )


def require_head(adapted: Adapted, *, name: str) -> LinearProbe:
    """Return the linear head that a recipe ended with.

    Raises:
        UsageError: it has none.
    """
    if not isinstance(adapted.head, LinearProbe):
        raise UsageError(f"the outcome of {name} has no linear head to start from")
    return adapted.head


def split_holdout(count: int, *, share: float, seed: int) -> tuple[NDArray[np.int64], ...]:
    """Split rows at random into those to train on and those to keep (AFR; facts 3.4).

    Args:
        count: n, how many rows there are.
        share: of the rows that are kept.
        seed: seed of the run.

    Returns:
        Rows to train on and rows to keep, each ascending, together all n.

    Example:
        >>> [len(part) for part in split_holdout(10, share=0.2, seed=0)]
        [8, 2]
    """
    order = generator(seed, "holdout").permutation(count)
    kept = round(share * count)
    return np.sort(order[: count - kept]), np.sort(order[count - kept :])


def _adapt(material: Material) -> Adapted:
    return tune(run := open_material(material), head=probe_frozen(run))


def _adapt_part(material: Material) -> Adapted:
    config: HeldOutConfig = material.config
    run = open_material(material)
    part, holdout = split_holdout(len(run.images), share=config.holdout, seed=material.seed)
    run = replace(run, images=run.images.take(part))
    adapted = tune(run, head=probe_frozen(run))
    return replace(adapted, holdout=holdout)


RECIPE = Recipe(
    name="lp-ft",
    adapt=_adapt,
    config=FineTuningConfig,
    uses="images",
    source="bap.txt M.3.1",
)
HELD_OUT_RECIPE = Recipe(
    name="erm-80",
    adapt=_adapt_part,
    config=HeldOutConfig,
    uses="images",
    source="bap.txt M.2 (AFR, first stage)",
)
