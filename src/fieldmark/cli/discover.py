"""`fieldmark discover`: clusters of regions that a model spuriously ties to a class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fieldmark.cli import options
from fieldmark.cli.progress import say, show_progress

if TYPE_CHECKING:
    from rich.table import Table

    from fieldmark.discovery.candidates import Candidate

app = typer.Typer(add_completion=False)

Regions = Annotated[
    str | None,
    typer.Option(
        help="Where regions come from: quadrants, grid:ROWSxCOLUMNS, scales:1,2,3, boxes:FILE, "
        "coco:FILE, detector:NAME (of torchvision) or function:FILE.py:NAME (executed). Default: "
        "the boxes of the table where it has any, else scales:2,3.",
        show_default=False,
    ),
]
WayName = Annotated[
    Literal["align", "crop", "tokens", "pool"] | None,
    typer.Option(
        help="How regions are embedded: aligned on the feature map (ResNet CLIP), cropped and "
        "encoded, by their tokens alone, or pooled from the tokens of the whole image (both ViT). "
        "Default: align where the encoder can, else crop.",
        show_default=False,
    ),
]
Clusters = Annotated[
    str | None,
    typer.Option(
        help="How many clusters: 12, or 4-10 for the best silhouette of a range. Default: two to "
        "five times the classes; above 8,000 regions twice the classes.",
        show_default=False,
    ),
]
Method = Annotated[
    str,
    typer.Option(
        help="ravl, its ablations gap-only and unweighted-gap-only, or a rival: spurious-aware, "
        "domino, george, distilling-failures, random."
    ),
]
SelectionName = Annotated[
    Literal["paper", "reference"],
    typer.Option(help="Which clusters RaVL keeps: as in the paper, or as in its published code."),
]
Threshold = Annotated[
    float | None,
    typer.Option(help="Least influence of a candidate. Default: 0.25.", show_default=False),
]
Split = Annotated[
    str | None,
    typer.Option(
        help="Split to look at. Default: val, or all images of a table without splits.",
        show_default=False,
    ),
]
Words = Annotated[
    Path | None,
    typer.Option(
        "--vocabulary",
        help="Words to describe clusters by, one a line. Default: fieldmark's own.",
        show_default=False,
    ),
]


@app.command()
def discover(
    model: options.Model,
    data: options.Data,
    out: options.Out,
    root: options.Root = None,
    split: Split = None,
    regions: Regions = None,
    way: WayName = None,
    clusters: Clusters = None,
    method: Method = "ravl",
    selection: SelectionName = "paper",
    threshold: Threshold = None,
    vocabulary: Words = None,
    class_name: options.ClassNames = None,
    templates: options.Templates = "default",
    level: Annotated[float, typer.Option(help="At which a cluster is more than chance.")] = 0.05,
    permutations: Annotated[int, typer.Option(min=1, help="Behind each p-value.")] = 999,
    nearest: Annotated[
        int, typer.Option(min=0, help="Regions and words that each candidate names.")
    ] = 10,
    gallery: Annotated[
        int, typer.Option(min=0, help="Pictures in a row of the page at most.")
    ] = 12,
    seed: options.Seed = 0,
    batch_size: options.BatchSize = 64,
    precision: options.PrecisionName = "auto",
    device: options.Device = "auto",
    skip_unreadable: options.SkipUnreadable = False,
    resume: options.Resume = False,
    engine: options.EngineName = "local",
    workers: options.Workers = None,
) -> None:
    """Find clusters of regions that a model spuriously ties to a class, with pictures.

    Writes OUT/report.html, OUT/discovery.json, OUT/regions.safetensors and OUT/results.jsonl. What
    was embedded before with the same weights comes from the cache.
    """
    from fieldmark.benchmarks.discovery import run_discovery
    from fieldmark.benchmarks.discovery_request import DiscoveryRequest, parse_clusters
    from fieldmark.models.engine import open_engine

    request = DiscoveryRequest(
        model=model,
        data=data,
        out=out,
        root=root,
        split=split,
        regions=regions,
        way=way,
        clusters=None if clusters is None else parse_clusters(clusters),
        method=method,
        selection=selection,
        threshold=threshold,
        vocabulary=vocabulary,
        class_names=tuple(class_name or ()),
        templates=templates,
        level=level,
        permutations=permutations,
        seed=seed,
        nearest=nearest,
        gallery=gallery,
        batch_size=batch_size,
        precision=precision,
        device=device,
        skip_unreadable=skip_unreadable,
        resume=resume,
    )
    with open_engine(engine, workers=workers) as chosen, show_progress() as report:
        run_discovery(
            request,
            engine=chosen,
            report=report,
        )
    print_discovery(out)


def print_discovery(out: Path) -> None:
    """Print the headline and the candidates of a finished run, and where its page is."""
    from rich.console import Console

    from fieldmark.report.discovery_page import PAGE
    from fieldmark.report.discovery_parts import read_discovery_parts
    from fieldmark.report.discovery_words import write_sentences, write_title

    parts = read_discovery_parts(out)
    say(write_title(parts))
    if parts.candidates:
        terminal = Console() if Console().is_terminal else Console(width=120)
        passed = {one.cluster for one in parts.significant}
        terminal.print(_tabulate(parts.candidates, passed=passed))
    else:
        say(write_sentences(parts)[-1])
    say(f"page: {out / PAGE}")


def _tabulate(candidates: tuple[Candidate, ...], *, passed: set[int]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from fieldmark.report.names import DASH, write_number

    table = Table(title="Candidates, the largest gap first")
    left = ("words", "tied to")
    for heading in ("No.", "--cluster", *left, "G", "95 % interval", "H", "corrected p", "regions"):
        table.add_column(heading, justify="left" if heading in left else "right")
    for rank, one in enumerate(candidates, start=1):
        words = ", ".join(word.word for word in one.words[:3]) or f"cluster {one.cluster}"
        low, high = (write_number(end, digits=2) for end in one.interval)
        table.add_row(
            str(rank),
            str(one.cluster),
            escape(words),
            escape(one.tied_class or DASH),
            write_number(one.gap, digits=2),
            f"[{low}, {high}]".replace("[", r"\["),
            write_number(one.influence, digits=2),
            write_number(one.adjusted_p_value, digits=3),
            str(one.size),
            style="bold" if one.cluster in passed else "",
        )
    return table
