"""`fieldmark data`: list, describe, build and check data sets."""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fieldmark.cli import options
from fieldmark.cli.progress import say
from fieldmark.cli.settings import split_setting
from fieldmark.core.errors import FieldmarkError, InputError, UsageError

if TYPE_CHECKING:
    from fieldmark.data.datasets.info import DatasetInfo
    from fieldmark.data.tables import ImageTable

app = typer.Typer(
    add_completion=False, no_args_is_help=True, help="List, describe, build and check data sets."
)
Name = Annotated[str, typer.Argument(help="Name of a data set (`fieldmark data list`).")]
HEADINGS = {
    "task": "tasks, to evaluate on",
    "foregrounds": "objects, to pre-train on",
    "backgrounds": "scenes, to pre-train on",
}
# Built with an encoder, which the data sets themselves know nothing of.
BUILDERS = {"coco-gender": ("fieldmark.benchmarks.gender", "build_gender")}
# Lines of `check` that are shown.
SHOWN = 10


@app.command("list")
def list_datasets() -> None:
    """List the data sets by kind."""
    from fieldmark.data.datasets import DATASETS

    lines: dict[str, list[str]] = {kind: [] for kind in HEADINGS}
    broken = []
    for name in DATASETS:
        try:
            found = DATASETS[name]
            lines[found.kind].append(f"  {name:<{max(map(len, DATASETS))}}  {found.summary}")
        except FieldmarkError as error:
            broken.append(str(error))
    for kind, heading in HEADINGS.items():
        typer.echo(f"{heading}:")
        typer.echo("\n".join(lines[kind]) or "  none")
    for line in broken:
        say(line)


@app.command()
def info(
    name: Name,
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of the data: counts its splits and groups.", show_default=False),
    ] = None,
    set_: options.Set = None,
) -> None:
    """Say what a data set is, its layout, licence and options, and with --root its groups."""
    from fieldmark.data.datasets import find_dataset, open_dataset
    from fieldmark.data.tasks import Task

    found = find_dataset(name)
    _describe(found)
    if root is None:
        return
    content = open_dataset(name, root, options=dict(map(split_setting, set_ or [])))
    if isinstance(content, Task):
        _count_groups(content.table)
        typer.echo("\n".join(f"note: {line}" for line in content.notes))
    else:
        typer.echo(f"{found.kind}: {len(content)} in {root}")


def _describe(found: DatasetInfo) -> None:
    typer.echo(f"{found.name}: {found.summary}")
    typer.echo(f"kind: {HEADINGS[found.kind]}")
    typer.echo(f"licence: {found.licence}")
    typer.echo(f"citation: {found.citation}")
    if found.layout:
        typer.echo("layout below --root:")
        typer.echo(textwrap.indent(textwrap.dedent(found.layout).strip(), "  "))
    else:
        typer.echo("layout: what `fieldmark data build` writes")
    if found.options:
        typer.echo("options (--set key=value), with their defaults:")
    for key, value in found.options.items():
        choices = found.choices.get(key)
        typer.echo(f"  {key} = {value}" + (f" (of: {', '.join(choices)})" if choices else ""))


def _count_groups(table: ImageTable) -> None:
    from collections import Counter

    names = table.group_names()
    splits = table.splits or ("all",) * len(table)
    counts = Counter(zip(splits, table.group_ids().tolist(), strict=True))
    typer.echo("images by split and group:")
    for (split, group), count in sorted(counts.items()):
        typer.echo(f"  {split:<14} {names.get(group, 'group not known'):<40} {count:>7}")


@app.command()
def build(
    name: Name,
    out: options.Out,
    root: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the published data it is made of; for stamps the folder of fetched "
            "packages, in place of the cache (sets FIELDMARK_CACHE)."
        ),
    ] = None,
    set_: options.Set = None,
) -> None:
    """Build a data set into a folder that every other verb takes as --data."""
    import os

    from fieldmark.data.datasets import build_dataset, find_dataset

    chosen = dict(map(split_setting, set_ or []))
    if root is not None and not find_dataset(name).layout:
        os.environ["FIELDMARK_CACHE"] = str(root)
        root = None
    folder = build_dataset(name, out, options=chosen, root=root, build=_find_builder(name))
    say(f"done: {folder}")
    pools = [p for p in ("foregrounds", "backgrounds") if (folder / p).is_dir()]
    if pools:
        say("to pre-train on: " + ", ".join(str(folder / pool) for pool in pools))


def _find_builder(name: str) -> Callable[..., Path] | None:
    if name not in BUILDERS:
        return None
    module, function = BUILDERS[name]
    builder: Callable[..., Path] = getattr(importlib.import_module(module), function)
    return builder


@app.command()
def check(
    root: Annotated[
        Path, typer.Option(help="Folder of a published or a built data set.", show_default=False)
    ],
    name: Annotated[
        str, typer.Argument(help="Name of the data set; a built folder says its own.")
    ] = "",
    set_: options.Set = None,
) -> None:
    """Say what is missing or off in a data set; exit with 1 if anything is."""
    from fieldmark.data.datasets import check_dataset

    chosen: Mapping[str, Any] = dict(map(split_setting, set_ or []))
    if chosen and not name:
        raise UsageError("--set needs the name of the data set", mend="name it before --root")
    found = check_dataset(root, name=name, options=chosen)
    for line in found[:SHOWN]:
        typer.echo(line)
    if len(found) > SHOWN:
        typer.echo(f"and {len(found) - SHOWN} more")
    if found:
        count = "1 thing is" if len(found) == 1 else f"{len(found)} things are"
        mend = "unpack or build it again"
        raise InputError(f"{count} off", where=root, mend=mend)
    typer.echo(f"{root}: whole")
