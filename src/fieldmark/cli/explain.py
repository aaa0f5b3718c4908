"""`fieldmark explain`: which parts of an image speak for a text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fieldmark.cli import options
from fieldmark.cli.progress import say, show_progress

app = typer.Typer(add_completion=False)

Images = Annotated[
    list[Path] | None,
    typer.Option("--image", help="Image to explain; may be repeated.", show_default=False),
]
DrawnFrom = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="Draw the images from labelled ones instead: a CSV or Parquet table, a folder of "
        "folders, a built data set, or the name of a data set.",
        show_default=False,
    ),
]
Texts = Annotated[
    list[str] | None,
    typer.Option(
        "--text",
        help="Text to explain the images by; may be repeated. Default: the class names, each in "
        "many prompts.",
        show_default=False,
    ),
]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        help="all, or one of cci, raw-attention, rollout, grad-cam, game, maskclip, clip-surgery, "
        "m2ib, rise, grad-eclip, legrad, occlusion, integrated-gradients and the nulls random and "
        "centre; may be repeated. Default: cci.",
        show_default=False,
    ),
]
Masks = Annotated[
    list[str] | None,
    typer.Option(
        "--mask",
        help="Mask of the object in each --image, in order, - for one without; may be repeated.",
        show_default=False,
    ),
]
Split = Annotated[
    str | None,
    typer.Option(help="Split to draw from. Default: all images.", show_default=False),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Setting of the methods (clusters=4, rise_masks=200), key=value; may be repeated.",
        show_default=False,
    ),
]


@app.command()
def explain(
    model: options.Model,
    out: options.Out,
    image: Images = None,
    data: DrawnFrom = None,
    root: options.Root = None,
    split: Split = None,
    limit: Annotated[int, typer.Option(min=1, help="Images to draw from --data.")] = 10,
    text: Texts = None,
    class_name: options.ClassNames = None,
    templates: options.Templates = "default",
    method: Methods = None,
    mask: Masks = None,
    settings: Settings = None,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    resume: options.Resume = False,
) -> None:
    """Show which parts of an image speak for a text, by one method or by all.

    Writes OUT/report.html, OUT/explanation.json, OUT/maps.safetensors, OUT/results.jsonl and the
    overlays in OUT/pictures. Of all methods those that the encoder does not bear are left out with
    the reason.
    """
    from fieldmark.attribution.config import AttributionConfig
    from fieldmark.benchmarks.attribution.explain import run_explanation
    from fieldmark.benchmarks.attribution.explain_request import ExplanationRequest
    from fieldmark.cli.settings import read_settings

    request = ExplanationRequest(
        model=model,
        out=out,
        images=tuple(image or ()),
        data=data,
        root=root,
        split=split,
        limit=limit,
        texts=tuple(text or ()),
        class_names=tuple(class_name or ()),
        templates=templates,
        methods=tuple(method or ("cci",)),
        masks=tuple(mask or ()),
        config=read_settings(AttributionConfig(), file=None, given=settings or []),
        seed=seed,
        batch_size=batch_size,
        device=device,
        resume=resume,
    )
    with show_progress() as report:
        run_explanation(request, report=report)
    print_explanation(out)


def print_explanation(out: Path) -> None:
    """Print the headline of a finished run, what was left out, and where its page is."""
    from fieldmark.report.explain_page import PAGE
    from fieldmark.report.explain_parts import read_explanation_parts
    from fieldmark.report.explain_words import write_sentences, write_title

    parts = read_explanation_parts(out)
    say(write_title(parts))
    for sentence in write_sentences(parts):
        say(sentence)
    for name, reason in parts.values["skipped"].items():
        say(f"left out: {name}: {reason}")
    say(f"page: {out / PAGE}")
