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
    engine: options.EngineName = "local",
    workers: options.Workers = None,
) -> None:
    """Embed every image of a table or folder.

    Writes OUT/embeddings.safetensors (unit vectors, float32) in the order of OUT/index.csv, and the
    record of the run. What was embedded before with the same weights comes from the cache.
    Webdataset shards (wds:PATTERN) are read as a stream, in memory that does not grow, and written
    to OUT/embeddings/shard-*.safetensors.
    """
    from fieldmark.benchmarks.runs import run_embedding
    from fieldmark.benchmarks.streams import is_stream, require_local, run_stream_embedding
    from fieldmark.models.engine import open_engine

    if is_stream(data):
        require_local(engine)
        with show_progress() as report:
            run_stream_embedding(
                model=model,
                data=data,
                out=out,
                root=root,
                batch_size=batch_size,
                precision=precision,
                device=device,
                skip_unreadable=skip_unreadable,
                resume=resume,
                report=lambda done, total, note: report("embed", done, total, note),
            )
        say(f"done: {out / 'embeddings'}")
        return
    with open_engine(engine, workers=workers) as chosen, show_progress() as report:
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
            engine=chosen,
            report=lambda done, total: report("embed", done, total, ""),
        )
    say(f"done: {out / 'embeddings.safetensors'}")
