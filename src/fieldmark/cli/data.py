"""`fieldmark data`: list, describe, build and check data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from fieldmark.cli import options
from fieldmark.cli.progress import say
from fieldmark.core.errors import InputError, UsageError

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="List, describe, build and check data sets."
)
Name = Annotated[str, typer.Argument(help="Name of a data set (`fieldmark data list`).")]


@app.command("list")
def list_datasets() -> None:
    """List the data sets."""
    from fieldmark.data.datasets import DATASETS

    for info in DATASETS.values():
        typer.echo(f"{info.name:<10}  {info.summary}")


@app.command()
def info(name: Name) -> None:
    """Say what a data set is, its licence and citation, and what its builder can be told."""
    from fieldmark.data.datasets import find_dataset

    found = find_dataset(name)
    typer.echo(f"{found.name}: {found.summary}")
    typer.echo(f"licence: {found.licence}")
    typer.echo(f"citation: {found.citation}")
    typer.echo("options of build (--set key=value), with their defaults:")
    for key, value in found.options.items():
        choices = found.choices.get(key)
        typer.echo(f"  {key} = {value}" + (f" (of: {', '.join(choices)})" if choices else ""))


@app.command()
def build(
    name: Name,
    out: options.Out,
    root: Annotated[
        Path | None,
        typer.Option(
            help="Folder of fetched packages, in place of the cache (sets FIELDMARK_CACHE)."
        ),
    ] = None,
    set_: options.Set = None,
) -> None:
    """Build a data set into a folder that every other verb takes as --data."""
    import os

    from fieldmark.data.datasets import build_dataset

    if root is not None:
        os.environ["FIELDMARK_CACHE"] = str(root)
    chosen = dict(map(_split, set_ or []))
    folder = build_dataset(name, out, options=chosen)
    say(f"done: {folder}")
    say(f"objects {folder / 'foregrounds'}, backgrounds {folder / 'backgrounds'}")


@app.command()
def check(
    root: Annotated[Path, typer.Option(help="Folder of a built data set.", show_default=False)],
    name: Annotated[str, typer.Argument(help="Name of the data set, if it should be that.")] = "",
) -> None:
    """Say what is missing or off in a built folder; exit with 1 if anything is."""
    from fieldmark.data.datasets import check_dataset, find_dataset

    found = check_dataset(root, name=find_dataset(name).name if name else "")
    for line in found:
        typer.echo(line)
    if found:
        raise InputError(f"{len(found)} things are off", where=root, mend="build it again")
    typer.echo(f"{root}: whole")


def _split(word: str) -> tuple[str, Any]:
    key, equals, value = word.partition("=")
    if not equals:
        raise UsageError(f"--set {word!r} is not key=value")
    return key, yaml.safe_load(value)
