"""`fieldmark faithfulness`: which attribution method to believe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fieldmark.cli import options
from fieldmark.cli.progress import say, show_progress

if TYPE_CHECKING:
    from rich.table import Table

    from fieldmark.report.faithfulness_parts import FaithfulnessParts

app = typer.Typer(add_completion=False)

Methods = Annotated[
    str,
    typer.Option(
        help="all, or names with commas: cci, raw-attention, rollout, grad-cam, game, maskclip, "
        "clip-surgery, m2ib, rise, grad-eclip, legrad, occlusion, integrated-gradients. The nulls "
        "random and centre are always added."
    ),
]
Preset = Annotated[
    Literal["fieldmark", "cci", "gradeclip", "rise"],
    typer.Option(help="Protocol of deletion and insertion; --set changes single settings."),
]
TaskName = Annotated[
    Literal["classification", "retrieval"],
    typer.Option(
        help="Score images among class names, or retrieve captions (a column `caption` of the "
        "table, else the class names)."
    ),
]
LabelsName = Annotated[
    Literal["ground-truth", "prediction"], typer.Option(help="Which class the maps explain.")
]
Split = Annotated[
    str | None,
    typer.Option(
        help="Split to look at. Default: test or test_unseen, else val, else all images.",
        show_default=False,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(min=1, help="Look at this many images, drawn by the seed.", show_default=False),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Setting of the protocol (points=20) or of the methods (clusters=4), key=value; may "
        "be repeated. `protocol.score` and `attribution.score` tell two of one name apart.",
        show_default=False,
    ),
]


@app.command()
def faithfulness(
    model: options.Model,
    data: options.Data,
    out: options.Out,
    root: options.Root = None,
    split: Split = None,
    methods: Methods = "all",
    preset: Preset = "fieldmark",
    task: TaskName = "classification",
    labels: LabelsName = "ground-truth",
    limit: Limit = None,
    class_name: options.ClassNames = None,
    templates: options.Templates = "default",
    settings: Settings = None,
    sanity: Annotated[
        bool, typer.Option("--sanity", help="Also shuffle weights, texts and clusters.")
    ] = False,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    resume: options.Resume = False,
) -> None:
    """Measure which attribution method to believe, by deleting and inserting pixels.

    Writes OUT/report.html, OUT/faithfulness.json, OUT/results.jsonl, and under OUT/batches the maps
    and curves of each image. Methods that the encoder does not bear are listed with the reason.
    """
    from fieldmark.attribution.config import AttributionConfig
    from fieldmark.attribution.protocols import find_protocol
    from fieldmark.benchmarks.attribution.faithfulness import run_faithfulness
    from fieldmark.benchmarks.attribution.faithfulness_request import (
        FaithfulnessRequest,
        assign_settings,
    )
    from fieldmark.cli.settings import read_settings

    of_protocol, of_methods = assign_settings(settings or ())
    request = FaithfulnessRequest(
        model=model,
        data=data,
        out=out,
        root=root,
        split=split,
        methods=tuple(name.strip() for name in methods.split(",") if name.strip()),
        protocol=read_settings(find_protocol(preset), file=None, given=of_protocol),
        config=read_settings(AttributionConfig(), file=None, given=of_methods),
        task=task,
        labels=labels,
        limit=limit,
        class_names=tuple(class_name or ()),
        templates=templates,
        sanity=sanity,
        seed=seed,
        batch_size=batch_size,
        device=device,
        resume=resume,
    )
    with show_progress() as report:
        run_faithfulness(request, report=report)
    print_faithfulness(out)


def print_faithfulness(out: Path) -> None:
    """Print the headline and the ranking of a finished run, and where its page is."""
    from rich.console import Console

    from fieldmark.report.faithfulness_page import PAGE
    from fieldmark.report.faithfulness_parts import read_faithfulness_parts
    from fieldmark.report.faithfulness_words import write_title

    parts = read_faithfulness_parts(out)
    say(write_title(parts))
    terminal = Console() if Console().is_terminal else Console(width=120)
    terminal.print(_tabulate(parts))
    for name, reason in parts.values["skipped"].items():
        say(f"not measured: {name}: {reason}")
    say(f"page: {out / PAGE}")


def _tabulate(parts: FaithfulnessParts) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from fieldmark.report.faithfulness_page import rank_methods

    sheet = rank_methods(parts)
    table = Table(title=sheet.caption)
    for heading in (*sheet.headings, *sheet.measures, "images/s"):
        table.add_column(heading, justify="left" if heading == "Method" else "right")
    for line, one in zip(sheet.lines, parts.methods, strict=True):
        figures = [f"{cell.text} {escape(cell.interval)}" if cell else "" for cell in line.figures]
        speed = one["cost"]["images_per_second"]
        table.add_row(
            escape(line.names[0]),
            *figures,
            "" if speed is None else f"{speed:.3g}",
            style="dim" if one["is_null"] else "",
        )
    return table
