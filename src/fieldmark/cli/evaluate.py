"""`fieldmark evaluate`: zero-shot and probe accuracy by group, with intervals."""

from __future__ import annotations

from typing import Annotated

import typer

from fieldmark.cli import options
from fieldmark.cli.progress import print_results, show_progress

app = typer.Typer(add_completion=False)


@app.command()
def evaluate(
    model: options.Model,
    data: options.Data,
    out: options.Out,
    root: options.Root = None,
    head: Annotated[
        list[str] | None,
        typer.Option(
            help="zero-shot, linear-probe (30 epochs of AdamW, as in the BAP paper), convex-probe "
            "(logistic regression), dfr, dfr-rest, afr, group-dro, roboshot or dial; may be "
            "repeated. Default: the first two.",
            show_default=False,
        ),
    ] = None,
    seeds: options.Seeds = 1,
    train_split: Annotated[str, typer.Option(help="Split that probes are fitted on.")] = "train",
    split: Annotated[
        list[str] | None,
        typer.Option(
            help="Split to evaluate; may be repeated. Default: all whose name starts with test.",
            show_default=False,
        ),
    ] = None,
    class_name: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a class for the prompts, once for each class in order. "
            "Default: the table's.",
            show_default=False,
        ),
    ] = None,
    templates: options.Templates = "default",
    batch_size: options.BatchSize = 64,
    precision: options.PrecisionName = "auto",
    device: options.Device = "auto",
    skip_unreadable: options.SkipUnreadable = False,
    resume: options.Resume = False,
) -> None:
    """Measure accuracy by group, the worst group, and how far backgrounds move embeddings (BSI)."""
    from fieldmark.benchmarks.runs import run_evaluation

    with show_progress() as report:
        run_evaluation(
            model=model,
            data=data,
            out=out,
            root=root,
            heads=head or ("zero-shot", "linear-probe"),
            seeds=range(seeds),
            train_split=train_split,
            splits=split or (),
            class_names=class_name or (),
            templates=templates,
            batch_size=batch_size,
            precision=precision,
            device=device,
            skip_unreadable=skip_unreadable,
            resume=resume,
            report=lambda done, total: report("embed", done, total, ""),
        )
    print_results(out)
