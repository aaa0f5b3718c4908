"""`fieldmark bap`: pre-train an encoder to ignore backgrounds, or train a control of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from fieldmark.cli import options
from fieldmark.cli.progress import say, show_progress
from fieldmark.cli.settings import read_settings
from fieldmark.data.masks import Degradation
from fieldmark.methods.bap.config import METHOD_NAMES, PRESETS, find_preset

app = typer.Typer(add_completion=False)


@app.command()
def bap(
    model: options.Model,
    foregrounds: Annotated[
        Path,
        typer.Option(
            help="Objects: RGBA files in a folder per class, a table (path, label, mask or box), "
            "or a COCO file.",
            show_default=False,
        ),
    ],
    backgrounds: Annotated[
        Path,
        typer.Option(
            help="Backgrounds: a folder per category, or a table (path, category).",
            show_default=False,
        ),
    ],
    out: options.Out,
    images: Annotated[
        Path | None,
        typer.Option(help="Folder that the paths of a table, or of a COCO file, lie in."),
    ] = None,
    guard: Annotated[
        Path | None,
        typer.Option(help="Table of evaluation images; training material found in it is refused."),
    ] = None,
    guard_split: Annotated[
        list[str] | None,
        typer.Option(
            help="A split of --guard; may be repeated. Default: all but train.", show_default=False
        ),
    ] = None,
    method: Annotated[str, typer.Option(help=", ".join(METHOD_NAMES))] = "bap",
    preset: Annotated[str, typer.Option(help=", ".join(PRESETS))] = "paper",
    masks: Annotated[Degradation, typer.Option(help="Spoil the masks (BAP I.2).")] = "none",
    config: options.ConfigFile = None,
    set_: options.Set = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    resume: options.Resume = False,
    engine: options.EngineName = "local",
    workers: options.Workers = None,
) -> None:
    """Pre-train an encoder so that an object's embedding stays put whatever is behind it (BAP).

    Writes OUT/encoder, which the encoder's own library loads, the log of losses and the record of
    the run. `torchrun -m fieldmark bap ...` trains on several processes.
    """
    settings = read_settings(find_preset(preset), file=config, given=set_ or [])
    from fieldmark.benchmarks.pretraining import Request, run_request
    from fieldmark.models.engine import open_engine

    request = Request(
        model=model,
        foregrounds=foregrounds,
        backgrounds=backgrounds,
        images=images,
        guard=guard,
        guard_splits=tuple(guard_split or ()),
        method=method,
        masks=masks,
        config=settings,
        seed=seed,
    )
    # Under torchrun the first process makes the anchors, and the others read them.
    if os.environ.get("RANK", "0") != "0":
        engine, workers = "local", None
    with open_engine(engine, workers=workers) as chosen, show_progress() as report:
        run_request(request, out=out, device=device, resume=resume, engine=chosen, report=report)
    say(f"done: {out / 'encoder'}")
    say(f"measure it with: fieldmark evaluate --model {out} --data ...")
