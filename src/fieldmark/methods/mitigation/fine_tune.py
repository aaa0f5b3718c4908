"""Fine-tune an image tower by one mitigation, over the training loop of `methods.training`.

The text tower is frozen and stands in as embeddings (locked text, ravl.txt D.2). A killed run goes
on where it was, to the same bits on a CPU. One process trains: a contrastive loss is of whole
batches.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from fieldmark.core.atomic import hash_json, write_json
from fieldmark.core.errors import FieldmarkError, InputError, NotApplicableError, RunExistsError
from fieldmark.core.json_text import parse_json
from fieldmark.core.registry import look_up
from fieldmark.data.pixels import PixelSource
from fieldmark.methods.checkpoints import LossRow
from fieldmark.methods.fine_tuning import split_holdout
from fieldmark.methods.mitigation.config import MitigationConfig, make_schedule
from fieldmark.methods.mitigation.groups import RowBatches, weigh_rows
from fieldmark.methods.mitigation.held_out import EpochKeeper
from fieldmark.methods.mitigation.material import Material, MitigationData, prepare_material
from fieldmark.methods.mitigation.objectives import (
    MITIGATIONS,
    Embedded,
    Mitigation,
    Objective,
    Task,
)
from fieldmark.methods.training import Embed, TrainingProgress, embed_images, train
from fieldmark.models.adapter import DualEncoder, replace_image_tower
from fieldmark.models.encoder import Encoder, normalise
from fieldmark.models.regions import encode_image_and_boxes

RECORD = "mitigation.json"
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False, kw_only=True)
class Mitigated:
    """What a mitigation came to.

    Attributes:
        encoder: with its trained image tower; its text tower is untouched.
        losses: one row a step.
        validation: loss of each epoch on the held-out images; empty where there are none.
        epoch: the epoch that was kept, from 0.
        stopped_early: whether it ended before the last epoch.
        counts: `images` trained on, `held_out`, `unlabelled` and `without_plain_region` (labelled,
            all regions spurious or none): those that are no part of the region terms; and `groups`.
    """

    encoder: Encoder
    losses: list[LossRow]
    validation: list[float]
    epoch: int
    stopped_early: bool
    counts: dict[str, int]


def mitigate(
    encoder: Encoder,
    data: MitigationData,
    *,
    method: str,
    config: MitigationConfig,
    seed: int,
    folder: Path,
    progress: Callable[[TrainingProgress], None] | None = None,
) -> Mitigated:
    """Fine-tune an encoder's image tower so that it ignores a spurious feature.

    Args:
        encoder: to start from, on the device to train on; it is not changed.
        data: images with captions, labels and regions.
        method: one of `objectives.MITIGATIONS`: `standard`, `upsampled`, `vl-erm`, `vl-gdro`,
            `spurious-aware` or `ravl`.
        config: settings.
        seed: seed of the run.
        folder: of this run alone; keeps checkpoints, and an ended run is read from it.
        progress: called after each step.

    Raises:
        UnknownNameError: no such method.
        InputError: arrays that do not fit together, or a box outside of its image.
        NotApplicableError: the data lack what the method needs: a label, two groups, or an image
            with a region that is not spurious.
        RunExistsError: the folder holds a run of another method, seed, encoder, data or settings.
        FieldmarkError: the loss is no longer finite.

    Example:
        >>> import tempfile
        >>> from fieldmark.data.pixels import PixelArray
        >>> from fieldmark.testing import FakeEncoder
        >>> images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
        >>> images[:2, 0], images[2:, 2] = 255, 255
        >>> words = FakeEncoder().encode_text(["red on red", "blue on blue"]).numpy()
        >>> data = MitigationData(
        ...     pixels=PixelArray(images), captions=words[[0, 0, 1, 1]], labels=[0, 0, 1, 1],
        ...     prototypes=words, owners=[0, 2], boxes=[[0, 0, 8, 8]] * 2, spurious=[False] * 2)
        >>> config = MitigationConfig(epochs=2, validation_share=0)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = mitigate(FakeEncoder(), data, method="ravl", config=config, seed=0,
        ...                    folder=Path(folder))
        >>> run.epoch, run.counts["images"]
        (1, 4)
    """
    kind = look_up(MITIGATIONS, method, kind="mitigation")
    start = encoder.place(dtype=torch.float32)
    trainee = start.place()
    tower = trainee.image_tower
    if config.channels_last:
        tower.to(memory_format=torch.channels_last)
    device = next(tower.parameters()).device
    material = prepare_material(data).to(device)
    rows, held_out = split_rows(len(material), share=config.validation_share, seed=seed)
    chosen = torch.from_numpy(rows).to(device)
    task = Task(material=material, rows=chosen, spec=start.spec, config=config)
    kind.check(task)
    key = {"method": method, "seed": seed, "encoder": encoder.spec.fingerprint}
    _claim_folder(folder, {**key, "data": material.fingerprint()}, config)
    objective, state = kind.make(task)
    run = _Run(
        encoder=start,
        tower=tower,
        pixels=data.pixels,
        rows=rows,
        held_out=held_out,
        material=material,
        kind=kind,
        objective=objective,
        embed=_make_embed(trainee, material, way=config.regions) if kind.regions else embed_images,
        state=state,
    )
    return _train(run, config=config, seed=seed, folder=folder, progress=progress)


def split_rows(count: int, *, share: float, seed: int) -> tuple[Ints, Ints]:
    """Split images at random into those to train on and those to hold out.

    Args:
        count: n.
        share: of the images to hold out, rounded to whole images.
        seed: seed of the run.

    Raises:
        NotApplicableError: there are fewer than two images to train on.

    Example:
        >>> [len(part) for part in split_rows(40, share=0.05, seed=0)]
        [38, 2]
    """
    rows, held_out = split_holdout(count, share=share, seed=seed)
    if len(rows) < 2:
        raise NotApplicableError(
            f"a contrastive objective needs 2 images, and {len(rows)} of {count} are left to train"
        )
    return rows, held_out


@dataclass(frozen=True, eq=False, kw_only=True)
class _Run:
    encoder: Encoder
    tower: nn.Module
    pixels: PixelSource
    rows: Ints
    held_out: Ints
    material: Material
    kind: Mitigation
    objective: Objective
    embed: Embed
    state: nn.Module | None


def _make_embed(encoder: Encoder, material: Material, *, way: str) -> Embed:
    """Return what embeds images, then their regions: (B + R, D)."""
    pieces = None
    if way == "auto" and isinstance(encoder, DualEncoder):
        pieces = encoder.library.take_apart(encoder.model)

    def embed(tower: nn.Module, image: Tensor, rows: Tensor) -> Tensor:
        found = material.find_regions(rows)
        sizes = torch.bincount(found.places, minlength=len(rows)).tolist()
        boxes = list(material.boxes[found.regions].split(sizes))
        images, regions = encode_image_and_boxes(tower, pieces, image, boxes)
        return torch.cat([images.float(), *regions])

    return embed


def _unpack(run: _Run, embedding: Tensor, rows: Tensor) -> Embedded:
    images, rest = embedding[: len(rows)], embedding[len(rows) :]
    if not run.kind.regions:
        none = rows[:0]
        return Embedded(rows, images, rest, none, none.bool())
    found = run.material.find_regions(rows)
    return Embedded(rows, images, rest, found.places, run.material.spurious[found.regions])


def _train(
    run: _Run,
    *,
    config: MitigationConfig,
    seed: int,
    folder: Path,
    progress: Callable[[TrainingProgress], None] | None,
) -> Mitigated:
    keeper = EpochKeeper(
        tower=run.tower,
        measure=lambda: _measure(run, config.batch_size),
        folder=folder,
        patience=config.patience,
        minimum_improvement=config.minimum_improvement,
    )
    judged = len(run.held_out) > 0
    trained = train(
        run.tower,
        _open_batches(run, config, seed=seed),
        spec=run.encoder.spec,
        loss=lambda embedding, rows: run.objective(_unpack(run, embedding, rows), True),
        # Held-out images, where there are any, stop the run in place of the training loss.
        config=config.model_copy(update={"patience": None}) if judged else config,
        schedule=make_schedule(config),
        seed=seed,
        folder=folder,
        head=run.state,
        progress=progress,
        on_epoch=keeper.judge if judged else None,
        embed=run.embed,
        stop=keeper.has_converged,
        freeze_norms=config.freeze_norms,
    )
    last = trained.losses[-1]
    if not math.isfinite(last.loss):
        problem = f"the loss is {last.loss} at step {last.step}"
        raise FieldmarkError(problem, where=folder, mend="lower learning_rate")
    epoch = keeper.restore() if judged else last.epoch
    return Mitigated(
        encoder=replace_image_tower(run.encoder, run.tower.state_dict()),
        losses=trained.losses,
        validation=keeper.read_scores(),
        epoch=epoch,
        stopped_early=trained.stopped_early,
        counts=_count(run),
    )


def _open_batches(run: _Run, config: MitigationConfig, *, seed: int) -> RowBatches:
    groups = run.material.groups.cpu().numpy()[run.rows]
    return RowBatches(
        run.pixels,
        run.rows,
        chances=weigh_rows(groups) if run.kind.balanced else None,
        batch_size=config.batch_size,
        seed=seed,
    )


def _measure(run: _Run, size: int) -> float:
    device = run.material.groups.device
    losses = []
    for start in range(0, len(run.held_out), size):
        rows = run.held_out[start : start + size]
        target = torch.from_numpy(rows).to(device)
        image = run.pixels.read(rows).to(device)
        pixels = normalise(image, spec=run.encoder.spec, dtype=torch.float32)
        embedding = functional.normalize(run.embed(run.tower, pixels, target).float(), dim=-1)
        losses.append(run.objective(_unpack(run, embedding, target), False))
    return float(torch.cat(losses).double().mean())


def _count(run: _Run) -> dict[str, int]:
    material = run.material
    chosen = torch.from_numpy(run.rows).to(material.groups.device)
    labelled = material.labels[chosen].any(1)
    found = material.find_regions(chosen)
    plain = found.places[~material.spurious[found.regions]]
    has_plain = torch.bincount(plain, minlength=len(chosen)) > 0
    return {
        "images": len(run.rows),
        "held_out": len(run.held_out),
        "unlabelled": int((~labelled).sum()),
        "without_plain_region": int((labelled & ~has_plain).sum()),
        "groups": len(torch.unique(material.groups[chosen])),
    }


def _claim_folder(folder: Path, key: dict[str, object], config: MitigationConfig) -> None:
    path = folder / RECORD
    record = {**key, "config": config.model_dump(mode="json")}
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, record)
        return
    try:
        claimed = hash_json(parse_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise InputError("this is no JSON", where=path, mend="delete the folder") from error
    if claimed != hash_json(record):
        raise RunExistsError(
            "the folder holds a mitigation with another method, seed, encoder, data or settings",
            where=folder,
            mend="choose another folder, or delete this one",
        )
