"""`fieldmark mitigate`: fine-tune an encoder so that it ignores what `fieldmark discover` found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fieldmark.cli import options
from fieldmark.cli.progress import say, show_progress
from fieldmark.cli.settings import read_settings

if TYPE_CHECKING:
    from rich.table import Table

    from fieldmark.report.mitigation_parts import Evaluation

app = typer.Typer(add_completion=False)

DiscoveryRun = Annotated[
    Path,
    typer.Option("--discovery", help="Folder of a finished `discover`.", show_default=False),
]
Method = Annotated[
    str,
    typer.Option(
        help="ravl, ravl-balanced (groups drawn as often), or a rival: standard, upsampled, "
        "vl-erm, vl-gdro, spurious-aware."
    ),
]
Clusters = Annotated[
    list[int] | None,
    typer.Option(
        "--cluster",
        help="Id of a cluster to train away; may be repeated. Default: the first candidate.",
        show_default=False,
    ),
]
TrainSplit = Annotated[str, typer.Option(help="Split to train on.")]
Splits = Annotated[
    list[str] | None,
    typer.Option(
        "--split",
        help="Split to measure on; may be repeated. Default: those that start with test, else val.",
        show_default=False,
    ),
]
CaptionColumn = Annotated[
    str | None,
    typer.Option(
        help="Column of the table that holds captions. Default: caption where there is one, else "
        "captions are 'a photo of a CLASS'.",
        show_default=False,
    ),
]
SeveralLabels = Annotated[
    Literal["skip", "first", "random", "all"],
    typer.Option(
        "--several", help="What a caption that names several classes gives: no label, one, or all."
    ),
]
UnnamedLabels = Annotated[
    Literal["skip", "table"],
    typer.Option(
        "--unnamed", help="What a caption that names no class gives: no label, or the table's."
    ),
]
AllowOtherModel = Annotated[
    bool,
    typer.Option(
        "--allow-other-model", help="Train another model than the one that was discovered on."
    ),
]


@app.command()
def mitigate(
    model: options.Model,
    data: options.Data,
    discovery: DiscoveryRun,
    out: options.Out,
    root: options.Root = None,
    method: Method = "ravl",
    cluster: Clusters = None,
    train_split: TrainSplit = "train",
    split: Splits = None,
    caption_column: CaptionColumn = None,
    several: SeveralLabels = "skip",
    unnamed: UnnamedLabels = "skip",
    config: options.ConfigFile = None,
    set_: options.Set = None,
    gallery: Annotated[
        int, typer.Option(min=0, help="Pictures of each cluster on the page at most.")
    ] = 12,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    allow_other_model: AllowOtherModel = False,
    resume: options.Resume = False,
) -> None:
    """Fine-tune an encoder so that it ignores a discovered cluster of regions (RaVL).

    Trains the image tower against the text tower as it is, and measures before and after. Writes
    OUT/encoder, which the encoder's own library loads, OUT/report.html, OUT/mitigation.json and
    OUT/results.jsonl. Settings are those of the paper: up to 100 epochs in batches of 128, which
    --set batch_size=32 or --set epochs=10 change.
    """
    from fieldmark.methods.mitigation.config import MitigationConfig

    settings = read_settings(MitigationConfig(), file=config, given=set_ or [])
    from fieldmark.benchmarks.mitigation import run_mitigation
    from fieldmark.benchmarks.mitigation_request import MitigationRequest

    request = MitigationRequest(
        model=model,
        data=data,
        discovery=discovery,
        out=out,
        root=root,
        method=method,
        clusters=tuple(cluster or ()),
        train_split=train_split,
        splits=tuple(split or ()),
        caption_column=caption_column,
        several=several,
        unnamed=unnamed,
        config=settings,
        seed=seed,
        gallery=gallery,
        batch_size=batch_size,
        device=device,
        allow_other_model=allow_other_model,
        resume=resume,
    )
    with show_progress() as report:
        run_mitigation(request, report=report)
    print_mitigation(out)


def print_mitigation(out: Path) -> None:
    """Print what a finished run changed, what limits it, and where its encoder and its page are."""
    from rich.console import Console

    from fieldmark.report.discovery_page import PAGE
    from fieldmark.report.mitigation_parts import read_mitigation_parts
    from fieldmark.report.mitigation_words import write_sentences, write_title

    parts = read_mitigation_parts(out)
    say(write_title(parts))
    terminal = Console() if Console().is_terminal else Console(width=120)
    for one in parts.evaluations:
        terminal.print(_tabulate(one))
    for line in (*write_sentences(parts)[-2:], *map(str, parts.values["notes"])):
        say(line)
    say(f"encoder: {out / 'encoder'}")
    say(f"page: {out / PAGE}")


def _tabulate(one: Evaluation) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from fieldmark.report.mitigation_words import METRICS, name_change, write_ends
    from fieldmark.report.names import write_number

    table = Table(title=escape(f"Split {one.split}"))
    for heading in ("figure", "before", "after", "difference", "95 % interval"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for change in one.changes:
        if change.metric in METRICS:
            numbers = (change.before.value, change.after.value, change.difference)
            table.add_row(
                name_change(change),
                *(write_number(value, digits=3) for value in numbers),
                escape(write_ends(change.interval)),
            )
    return table
