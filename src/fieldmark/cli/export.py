"""`fieldmark export`: write an encoder for the library that a user already has."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from fieldmark.cli import options
from fieldmark.cli.progress import say
from fieldmark.core.errors import RunExistsError, UnsupportedEncoderError

app = typer.Typer(add_completion=False)


@app.command()
def export(
    model: Annotated[
        str, typer.Argument(help="Folder of a run, or any encoder that --model takes.")
    ],
    out: options.Out,
    to: Annotated[
        Literal["open_clip", "hf"],
        typer.Option(help="open_clip (`local-dir:OUT`) or hf (transformers, `from_pretrained`)."),
    ] = "open_clip",
) -> None:
    """Write weights, configuration and tokenizer; the library opens them without fieldmark."""
    from fieldmark.models.load import load_encoder, name_library

    if out.exists() and any(out.iterdir()):
        raise RunExistsError("holds other files", where=out, mend="choose an empty --out")
    encoder = load_encoder(model, device="cpu")
    library = name_library(encoder)
    if library != to:
        raise UnsupportedEncoderError(
            f"comes from {library} and is not rewritten for {to}",
            where=model,
            mend=f"use --to {library}",
        )
    encoder.save(out)
    call = {
        "open_clip": f"open_clip.create_model_and_transforms('local-dir:{out}')",
        "hf": f"transformers.AutoModel.from_pretrained('{out}')",
    }[to]
    say(f"done: {call}")
