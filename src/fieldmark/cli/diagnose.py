"""`fieldmark diagnose`: did the object drive a prediction, or the background?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fieldmark.cli import options
from fieldmark.cli.progress import say, show_progress

if TYPE_CHECKING:
    from rich.table import Table

    from fieldmark.report.diagnosis_parts import DiagnosisParts

app = typer.Typer(add_completion=False)

Split = Annotated[
    str | None,
    typer.Option(
        help="Split to look at. Default: val, or all images of a table without splits.",
        show_default=False,
    ),
]
MaskSource = Annotated[
    Literal["given", "img-focus", "grabcut", "grounded-sam"],
    typer.Option(
        help="given, or masks that are made: by saliency (img-focus), from boxes in the table "
        "(grabcut: columns x0, y0, x1, y1 or box), or from class names (grounded-sam)."
    ),
]
OtherMasks = Annotated[
    Path | None,
    typer.Option(
        help="Folder of masks of other objects, so that they are not taken for background.",
        show_default=False,
    ),
]
Rule = Annotated[
    str,
    typer.Option(
        help="causal (removes the tokens of object and background), density (mean of the map over "
        "each) and paper (larger IoU), with commas between them, or all."
    ),
]
Null = Annotated[
    Literal["clusters", "voronoi", "masks", "none"],
    typer.Option(
        help="Chance for rules on maps: shuffle the values of the image's clusters, random Voronoi "
        "cells, or swap masks between images."
    ),
]
CausalDraws = Annotated[
    int,
    typer.Option(
        min=0,
        help="Chance for the causal rule: this many random sets of patches of the same sizes, each "
        "about one forward an image.",
    ),
]
ScoreName = Annotated[
    Literal["cosine", "log-softmax", "margin"],
    typer.Option(help="What the causal rule takes the drop of."),
]
Similar = Annotated[
    Literal["wordnet", "none"],
    typer.Option(help="Who says which classes look alike, for fine-grained errors."),
]


@app.command()
def diagnose(
    model: options.Model,
    data: options.Data,
    out: options.Out,
    root: options.Root = None,
    split: Split = None,
    masks: options.Masks = None,
    mask_source: MaskSource = "given",
    other_masks: OtherMasks = None,
    method: Annotated[str, typer.Option(help="Attribution method of the maps.")] = "cci",
    rule: Rule = "all",
    score: ScoreName = "cosine",
    null: Null = "clusters",
    draws: Annotated[int, typer.Option(min=1, help="Of the null of the maps.")] = 200,
    causal_draws: CausalDraws = 2,
    similar: Similar = "wordnet",
    class_name: options.ClassNames = None,
    templates: options.Templates = "default",
    gallery: Annotated[int, typer.Option(min=0, help="Pictures on the page at most.")] = 24,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    skip_unreadable: options.SkipUnreadable = False,
    resume: options.Resume = False,
) -> None:
    """Say of each prediction whether the object or the background drove it, against chance.

    Writes OUT/report.html, OUT/diagnosis.json, OUT/maps.safetensors and OUT/results.jsonl.
    """
    from fieldmark.benchmarks.attribution.diagnosis import run_diagnosis
    from fieldmark.benchmarks.attribution.diagnosis_request import DiagnosisRequest, parse_rules

    request = DiagnosisRequest(
        model=model,
        data=data,
        out=out,
        root=root,
        split=split,
        masks=masks,
        mask_source=mask_source,
        other_masks=other_masks,
        method=method,
        rules=parse_rules(rule),
        score=score,
        null=null,
        draws=draws,
        causal_draws=causal_draws,
        similar=similar,
        class_names=tuple(class_name or ()),
        templates=templates,
        gallery=gallery,
        seed=seed,
        batch_size=batch_size,
        device=device,
        skip_unreadable=skip_unreadable,
        resume=resume,
    )
    with show_progress() as report:
        run_diagnosis(request, report=report)
    print_diagnosis(out)


def print_diagnosis(out: Path) -> None:
    """Print the headline and the shares of a finished run, and where its page is."""
    from rich.console import Console

    from fieldmark.report.diagnosis_page import PAGE
    from fieldmark.report.diagnosis_parts import read_diagnosis_parts
    from fieldmark.report.diagnosis_words import write_title

    parts = read_diagnosis_parts(out)
    say(write_title(parts))
    terminal = Console() if Console().is_terminal else Console(width=120)
    terminal.print(_tabulate(parts))
    for note in parts.values["notes"]:
        say(f"note: {note}")
    say(f"page: {out / PAGE}")


def _tabulate(parts: DiagnosisParts) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from fieldmark.report.diagnosis_page import HEADINGS
    from fieldmark.report.diagnosis_words import list_source_lines

    table = Table(title="Sources of errors")
    for place, heading in enumerate(HEADINGS):
        table.add_column(heading, justify="left" if place < 2 else "right")
    for line in list_source_lines(parts, kind="errors"):
        (rule, _), *rest = line
        cells = [rule.partition(":")[0], *(f"{text} {more}".strip() for text, more in rest)]
        table.add_row(*map(escape, cells))
    return table
