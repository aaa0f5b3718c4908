"""`fieldmark bench`: every method on every data set, and the studies, by one command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fieldmark.cli import options
from fieldmark.cli.progress import say, show_progress
from fieldmark.cli.settings import split_setting
from fieldmark.core.errors import UsageError

DEFAULT = "packaged:dinov2-small"
app = typer.Typer(add_completion=False)


def list_suites(wanted: bool) -> None:
    """Print the suites and stop."""
    if not wanted:
        return
    from fieldmark.benchmarks.suites import SUITES

    width = max(map(len, SUITES))
    for suite in SUITES.values():
        typer.echo(f"{suite.name:<{width}}  {suite.summary}")
    raise typer.Exit


@app.command()
def bench(
    suite: Annotated[str, typer.Argument(help="Name of a suite (`--list` lists them).")],
    out: options.Out,
    list_: Annotated[
        bool,
        typer.Option("--list", is_eager=True, callback=list_suites, help="List the suites."),
    ] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Encoder, as in the other verbs; may be repeated where a suite compares encoders. "
            f"Default: {DEFAULT}.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="Data set or built folder, may be repeated. Default: the suite's with --root, "
            "else stamps and synthetic.",
            show_default=False,
        ),
    ] = None,
    root: Annotated[Path | None, typer.Option(help="Folder of the published data.")] = None,
    methods: Annotated[
        str, typer.Option(help="Methods to compare, with commas between, or all.")
    ] = "all",
    correlation: Annotated[
        list[float] | None,
        typer.Option(
            min=0.5, max=1.0, help="Of class and background in training; may be repeated."
        ),
    ] = None,
    seeds: options.Seeds = 3,
    budget: Annotated[
        str, typer.Option(help="quick: two cores; full: the paper's settings, on a GPU.")
    ] = "quick",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="RECIPE.KEY=VALUE for a recipe's setting, data.KEY=VALUE for a data set's option, "
            "study.KEY=VALUE for an amount of a study; may be repeated.",
            show_default=False,
        ),
    ] = None,
    plugin: Annotated[
        list[Path] | None,
        typer.Option(help="Python file with a method or a data set of your own; it is executed."),
    ] = None,
    store: Annotated[
        Path | None,
        typer.Option(help="Folder of finished work, to share between runs. Default: OUT/store."),
    ] = None,
    keep_encoders: Annotated[
        bool, typer.Option(help="Keep the adapted encoders, for more heads later.")
    ] = True,
    batch_size: options.BatchSize = 64,
    device: options.Device = "auto",
    resume: options.Resume = False,
    engine: options.EngineName = "local",
    workers: options.Workers = None,
) -> None:
    """Run a suite: plan its jobs, run those that are not done, compare, and draw its tables.

    Finished jobs are kept one by one; after a kill the same command with --resume goes on. With the
    published data in --root the paper's figures stand beside ours.
    """
    from fieldmark.benchmarks.bench import choose_datasets, run_bench
    from fieldmark.benchmarks.budgets import change_budget, find_budget
    from fieldmark.benchmarks.methods import choose_methods
    from fieldmark.benchmarks.plugins import load_plugin
    from fieldmark.benchmarks.suite import make_request
    from fieldmark.benchmarks.suites import SUITES
    from fieldmark.core.registry import look_up
    from fieldmark.models.engine import open_engine

    for path in plugin or []:
        load_plugin(path)
    chosen = look_up(SUITES, suite, kind="suite")
    given = [_split(word) for word in set_ or []]
    request = make_request(
        chosen,
        models=model or ([] if chosen.many_encoders else [chosen.model or DEFAULT]),
        datasets=choose_datasets(chosen, given=data or (), root=root),
        root=root,
        options={key: value for (where, key), value in given if where == "data"},
        correlations=correlation or (),
        methods=choose_methods(methods.split(",")) if chosen.methods else (),
        seeds=range(seeds),
        budget=change_budget(find_budget(budget), given),
    )
    if not data and not set(request.datasets) & set(chosen.datasets):
        say(f"no published data (--root): {suite} runs on {', '.join(request.datasets)}")
    with open_engine(engine, workers=workers) as where, show_progress() as report:
        run_bench(
            request,
            out=out,
            store=store,
            device=device,
            batch_size=batch_size,
            keep_encoders=keep_encoders,
            resume=resume,
            engine=where,
            plugins=plugin or (),
            report=report,
        )
    _show(out)


def _split(word: str) -> tuple[tuple[str, str], Any]:
    name, value = split_setting(word)
    where, dot, key = name.rpartition(".")
    if not dot:
        raise UsageError(f"--set {word!r} is not RECIPE.KEY=VALUE")
    return (where, key), value


def _show(out: Path) -> None:
    """Print the tables and say where everything is."""
    from rich.console import Console

    from fieldmark.core.records import read_rows, read_run
    from fieldmark.report.comparison_formats import render_comparison_rich
    from fieldmark.report.sweep_page import PAGE, compare_run

    # A log has no width of its own.
    terminal = Console() if Console().is_terminal else Console(width=160)
    record = read_run(out)
    told = {f"{t['name']}: {n}" for t in record["data"]["tasks"] for n in t.get("notes", ())}
    for line in sorted(told):
        say(line)
    comparisons = compare_run(read_rows(out), record["notes"])
    for comparison in comparisons:
        terminal.print(render_comparison_rich(comparison))
    if not comparisons:
        for path in sorted((out / "tables").glob("*.md")):
            terminal.print(path.read_text(encoding="utf-8"), markup=False, highlight=False)
    say(f"tables: {out / 'tables'}, all figures: {out / 'results.jsonl'}")
    say(f"the page to look at: {out / PAGE}")
