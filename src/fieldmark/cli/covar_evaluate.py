"""`fieldmark covar evaluate`: what each single change of an image costs an encoder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fieldmark.cli import options
from fieldmark.cli.progress import say, show_progress

if TYPE_CHECKING:
    from rich.table import Table

    from fieldmark.report.covar_tables import CovarTable

Models = Annotated[
    list[str],
    typer.Option(
        "--model",
        help="Encoder, as elsewhere; may be repeated. The others are compared with the first.",
        show_default=False,
    ),
]
Candidates = Annotated[
    str,
    typer.Option(
        help="Names to choose among: own (the classes of the COVAR), imagenet (1,000 names, as in "
        "the paper) or a file with one name a line."
    ),
]
Rules = Annotated[
    str,
    typer.Option(
        help="Who says what drove an error: causal, density, paper, with commas, all or none."
    ),
]
Errors = Annotated[
    int,
    typer.Option(
        min=0,
        help="Errors of each subset that are explained at most, drawn by the seed; 0 for all.",
    ),
]


def evaluate(
    model: Models,
    data: Annotated[
        Path,
        typer.Option(help="Folder of a COVAR, by `fieldmark covar build`.", show_default=False),
    ],
    out: options.Out,
    candidates: Candidates = "own",
    templates: options.Templates = "default",
    head: Annotated[
        Literal["zero-shot", "class-means"],
        typer.Option(
            help="How images are named: by texts, or by the nearest class mean, for encoders "
            "whose texts are of no use."
        ),
    ] = "zero-shot",
    fit_objects: Annotated[
        int, typer.Option(min=1, help="Objects of each class that class means are made of.")
    ] = 1,
    rules: Rules = "all",
    limit: Annotated[
        int | None,
        typer.Option(
            min=1, help="Images of each subset at most. Default: all.", show_default=False
        ),
    ] = None,
    errors: Errors = 200,
    draws: Annotated[int, typer.Option(min=1, help="Of the null of the maps.")] = 200,
    causal_draws: Annotated[
        int,
        typer.Option(min=0, help="Of the null of the causal rule, about one forward each."),
    ] = 2,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    resume: options.Resume = False,
) -> None:
    """Name every image of a COVAR, and say what each change costs and what drove the errors.

    Writes OUT/report.html, OUT/covar.json, OUT/predictions.csv and OUT/results.jsonl.
    """
    from fieldmark.benchmarks.covar.evaluate import run_covar_evaluation
    from fieldmark.benchmarks.covar.request import CovarRequest

    request = CovarRequest(
        models=tuple(model),
        data=data,
        out=out,
        candidates=candidates,
        templates=templates,
        head=head,
        fit_objects=fit_objects,
        rules=rules,
        limit=limit,
        errors=errors,
        draws=draws,
        causal_draws=causal_draws,
        seed=seed,
        batch_size=batch_size,
        device=device,
        resume=resume,
    )  # fmt: skip
    with show_progress() as report:
        run_covar_evaluation(request, report=report)
    print_evaluation(out)


def print_evaluation(out: Path) -> None:
    """Print the headline, accuracies and drops of a finished run, and where its page is."""
    from rich.console import Console

    from fieldmark.report.covar_page import PAGE
    from fieldmark.report.covar_parts import read_covar_parts
    from fieldmark.report.covar_tables import make_accuracy_table, make_drop_table
    from fieldmark.report.covar_words import write_comparisons, write_title

    parts = read_covar_parts(out)
    say(write_title(parts))
    terminal = Console() if Console().is_terminal else Console(width=140)
    for table in (make_accuracy_table(parts), make_drop_table(parts)):
        terminal.print(_tabulate(table))
    for line in write_comparisons(parts):
        say(line)
    for uri, reason in parts.values["failed"].items():
        say(f"left out: {uri}: {reason}")
    for note in parts.values["notes"]:
        say(f"note: {note}")
    say(f"page: {out / PAGE}")


def _tabulate(made: CovarTable) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=made.caption)
    for place, heading in enumerate(made.headings):
        numbers = bool(made.lines) and made.lines[0][place].sort is not None
        table.add_column(heading, justify="right" if numbers else "left")
    for line in made.lines:
        table.add_row(*(escape(f"{cell.text}\n{cell.more}".strip()) for cell in line))
    return table
