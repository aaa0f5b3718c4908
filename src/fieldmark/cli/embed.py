"""`fieldmark embed`: embed images once, into safetensors."""

from __future__ import annotations

import typer

from fieldmark.cli import options
from fieldmark.cli.progress import say, show_progress

app = typer.Typer(add_completion=False)


@app.command()
def embed(
    model: options.Model,
    data: options.Data,
    out: options.Out,
    root: options.Root = None,
    batch_size: options.BatchSize = 64,
    precision: options.PrecisionName = "auto",
    device: options.Device = "auto",
    skip_unreadable: options.SkipUnreadable = False,
    resume: options.Resume = False,
) -> None:
    """Embed every image of a table or folder.

    Writes OUT/embeddings.safetensors (unit vectors, float32) in the order of OUT/index.csv, and the
    record of the run. What was embedded before with the same weights comes from the cache.
    """
    from fieldmark.benchmarks.runs import run_embedding

    with show_progress() as report:
        run_embedding(
            model=model,
            data=data,
            out=out,
            root=root,
            batch_size=batch_size,
            precision=precision,
            device=device,
            skip_unreadable=skip_unreadable,
            resume=resume,
            report=lambda done, total: report("embed", done, total, ""),
        )
    say(f"done: {out / 'embeddings.safetensors'}")
