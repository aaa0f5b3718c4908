"""One recorded pre-training run: from what a user names to an encoder on disk."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldmark.core.fetch import cache_dir
from fieldmark.core.records import ResultRow, Run, start_run
from fieldmark.core.registry import look_up
from fieldmark.data.backgrounds import Backgrounds, read_backgrounds
from fieldmark.data.foregrounds import Foregrounds, read_foregrounds, require_per_class
from fieldmark.data.leakage import check_leakage
from fieldmark.data.masks import Degradation
from fieldmark.data.tables import read_table
from fieldmark.methods.bap.config import BapConfig
from fieldmark.methods.bap.pretrain import (
    METHODS,
    Pretrained,
    Pretraining,
    build_compositor,
    pretrain,
)
from fieldmark.methods.bap.training import TrainingProgress, average_epochs
from fieldmark.methods.processes import join_processes
from fieldmark.models.device import pick_device
from fieldmark.models.encoder import Encoder
from fieldmark.models.engine import LOCAL, Engine
from fieldmark.models.load import load_encoder

Report = Callable[[str, int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a pre-training run is asked to do; everything that decides its weights.

    Attributes:
        model: URI of the encoder.
        foregrounds: objects (`read_foregrounds`).
        backgrounds: scenes (`read_backgrounds`).
        images: folder of the images that a COCO file names, or None.
        guard: table of evaluation images that training material must not occur in, or None.
        guard_splits: its splits; by default all whose name does not start with "train".
        method: a key of `METHODS`.
        masks: `none`, or how masks are spoilt (BAP I.2).
        config: settings.
        seed: seed of the run.
    """

    model: str
    foregrounds: Path
    backgrounds: Path
    images: Path | None = None
    guard: Path | None = None
    guard_splits: tuple[str, ...] = ()
    method: str = "bap"
    masks: Degradation = "none"
    config: BapConfig
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the request as JSON values."""
        paths = {
            name: None if path is None else str(path)
            for name, path in (
                ("foregrounds", self.foregrounds),
                ("backgrounds", self.backgrounds),
                ("images", self.images),
                ("guard", self.guard),
            )
        }
        return {
            "model": self.model,
            **paths,
            "guard_splits": list(self.guard_splits),
            "method": self.method,
            "masks": self.masks,
            "config": self.config.model_dump(mode="json"),
            "seed": self.seed,
        }


def run_request(
    request: Request,
    *,
    out: Path,
    device: str = "auto",
    resume: bool = False,
    engine: Engine = LOCAL,
    report: Report = lambda phase, done, total, note: None,
) -> Path:
    """Pre-train as asked and write OUT/encoder, OUT/results.jsonl and OUT/run.json.

    Args:
        request: what to do.
        out: folder of the run.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        resume: go on with the unfinished run in `out`.
        engine: where the anchors are made.
        report: called with the phase, units done, units in all and a note.

    Raises:
        FieldmarkError: anything that is wrong with the request, before anything is written.
    """
    look_up(METHODS, request.method, kind="method")
    foregrounds, backgrounds = _read(request)
    with join_processes() as processes:
        place = processes.place(pick_device(device))
        encoder = load_encoder(request.model, device=place)
        run = None
        if processes.first:
            run = start_run(
                out, "bap", arguments=request.to_json(), seeds=[request.seed], resume=resume
            )
        processes.wait()
        compositor = build_compositor(
            foregrounds,
            backgrounds,
            side=encoder.spec.image_size,
            config=request.config,
            seed=request.seed,
            cache=cache_dir() / "composites",
        )
        pretrained = pretrain(
            Pretraining(
                encoder=encoder,
                compositor=compositor,
                config=request.config,
                seed=request.seed,
                folder=out / "training",
                cache=cache_dir() / "anchors",
                processes=processes,
                engine=engine,
                on_anchor=lambda done, total: report("anchors", done, total, ""),
                on_step=functools.partial(report_step, report, "training"),
            ),
            method=request.method,
        )
        if run is not None:
            pretrained.encoder.save(out / "encoder")
            _record(run, request, encoder, pretrained=pretrained)
    return out


def _read(request: Request) -> tuple[Foregrounds, Backgrounds]:
    foregrounds = read_foregrounds(request.foregrounds, root=request.images).with_degradation(
        request.masks
    )
    backgrounds = read_backgrounds(request.backgrounds)
    if request.config.class_balanced:
        require_per_class(foregrounds)
    if request.guard is not None:
        table = read_table(request.guard)
        names = request.guard_splits or tuple(
            name for name in dict.fromkeys(table.splits or ()) if not name.startswith("train")
        )
        for split in [table.select(name) for name in names] if table.splits else [table]:
            check_leakage(foregrounds, split, what="foreground")
            check_leakage(backgrounds, split, what="background")
    return foregrounds, backgrounds


def report_step(report: Report, phase: str, at: TrainingProgress) -> None:
    """Report where training is, with loss and rate."""
    report(phase, at.step, at.total, f"loss {at.loss:.4f}, {at.rate:.1f} images/s")


def _record(run: Run, request: Request, encoder: Encoder, *, pretrained: Pretrained) -> None:
    losses = pretrained.trained.losses
    epochs = average_epochs(losses)
    run.add(
        ResultRow(
            suite="bap",
            dataset=request.foregrounds.name,
            split="train",
            encoder=request.model,
            method=request.method,
            metric=f"loss_epoch:{epoch}",
            seed=request.seed,
            value=value,
            count=sum(row.epoch == epoch for row in losses),
        )
        for epoch, value in enumerate(epochs)
    )
    run.weights = {
        "before": encoder.spec.fingerprint,
        "after": pretrained.encoder.spec.fingerprint,
    }
    run.notes = {"steps": len(losses), "stopped_early": pretrained.trained.stopped_early}
    run.finish()
