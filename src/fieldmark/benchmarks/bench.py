"""`fieldmark bench`: plan a suite, run its jobs, compare, draw."""

from __future__ import annotations

import dataclasses
import functools
import math
import resource
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fieldmark import __version__
from fieldmark.benchmarks.jobs import TaskRef
from fieldmark.benchmarks.paired import compare_with_rivals
from fieldmark.benchmarks.plugins import LOADED
from fieldmark.benchmarks.runner import Outcome, gather, run_jobs
from fieldmark.benchmarks.store import Store
from fieldmark.benchmarks.suite import Exhibit, Found, Request, Suite
from fieldmark.benchmarks.suites import SUITES
from fieldmark.core.atomic import write_json, write_text
from fieldmark.core.errors import UsageError
from fieldmark.core.records import start_run
from fieldmark.core.registry import look_up
from fieldmark.methods.recipe import Report
from fieldmark.models.engine import LOCAL, Engine
from fieldmark.report.comparison import Comparison
from fieldmark.report.comparison_formats import (
    render_comparison_csv,
    render_comparison_latex,
    render_comparison_markdown,
)
from fieldmark.report.formats import render_csv, render_latex, render_markdown
from fieldmark.report.sections import Panel
from fieldmark.report.sweep_page import compare_run, write_sweep_page

# What a suite of published data runs on where there are none.
STAND_INS = ("stamps", "synthetic")


def choose_datasets(suite: Suite, *, given: Sequence[str], root: Path | None) -> tuple[str, ...]:
    """Return what a suite runs on: what is given, the published data, or what packages carry.

    Raises:
        UsageError: none of these.

    Example:
        >>> choose_datasets(SUITES["waterbirds"], given=(), root=None)
        ('stamps', 'synthetic')
    """
    if given:
        return tuple(given)
    if suite.datasets and (root is not None or suite.packaged):
        return suite.datasets
    built = tuple(name for name in suite.datasets if name in STAND_INS)
    return built or STAND_INS


def run_bench(
    request: Request,
    *,
    out: Path,
    store: Path | None = None,
    device: str = "auto",
    batch_size: int = 64,
    keep_encoders: bool = True,
    resume: bool = False,
    engine: Engine = LOCAL,
    plugins: Sequence[Path] = (),
    report: Report = lambda phase, done, total, note: None,
) -> Path:
    """Run a suite and write its figures, tables, drawings, page and manifest into `out`.

    Args:
        request: what to run.
        out: folder of the run.
        store: folder of finished work, to share between runs; OUT/store by default.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        batch_size: images in one forward.
        keep_encoders: False deletes an adapted encoder once no job needs it.
        resume: go on with the unfinished run in `out`.
        engine: where the jobs run; their store and cache must be shared with its workers.
        plugins: files that `load_plugin` has read, for workers to read too.
        report: called with what is being done, units done, units in all and a note.

    Raises:
        FieldmarkError: the request or the data are off; nothing that was finished is lost.
    """
    suite = look_up(SUITES, request.suite, kind="suite")
    jobs = suite.plan(request)
    if not jobs:
        raise UsageError(f"suite {suite.name} has nothing to do with what it was given")
    run = start_run(out, "bench", arguments=_describe(request), seeds=request.seeds, resume=resume)
    shelf = Store(store or out / "store")
    outcomes = (suite.run or run_jobs)(
        jobs,
        store=shelf,
        device=device,
        batch_size=batch_size,
        keep_encoders=keep_encoders,
        code=" ".join([__version__, *LOADED.values()]),
        engine=engine,
        plugins=plugins,
        report=report,
    )
    found = [(job, dataclasses.replace(one, correct={})) for job, one in gather(outcomes, shelf)]
    for _, one in found:
        run.add(one.rows)
    report("compare", 0, 1, "")
    comparisons = compare_with_rivals(outcomes, shelf) if suite.methods else []
    report("compare", 1, 1, "")
    exhibits = suite.draw(found)
    _write_exhibits(out, exhibits)
    run.data = {"tasks": [shelf.read_task(ref) for ref in _list_tasks(outcomes)]}
    run.notes = {
        "budget": {"name": request.budget.name, "summary": request.budget.summary},
        "refused": list(_list_refusals(found)),
        "comparisons": [_null_nans(one) for one in comparisons],
        "selection": list(_list_selections(found)),
        "jobs": len(jobs),
        # Kilobytes on Linux.
        "peak memory in GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }
    _write_comparisons(out, compare_run(run.rows, run.notes))
    return run.finish(functools.partial(_write_page, exhibits=exhibits))


def _write_page(out: Path, *, exhibits: Sequence[Exhibit]) -> None:
    drawn = [one for one in exhibits if one.svg]
    panels = [Panel(caption=e.title, drawing=Markup(e.svg), remark=e.note) for e in drawn]
    tables = [one.table for one in exhibits if one.table is not None]
    write_sweep_page(out, panels=panels, tables=tables)


def _describe(request: Request) -> dict[str, Any]:
    return {
        "suite": request.suite,
        "models": list(request.models),
        "datasets": list(request.datasets),
        "root": None if request.root is None else str(request.root),
        "options": dict(request.options),
        "correlations": list(request.correlations),
        "methods": list(request.methods),
        "seeds": list(request.seeds),
        "budget": dataclasses.asdict(request.budget),
        "variants": [dict(variant) for variant in request.variants],
        "published": {name: dict(values) for name, values in request.published.items()},
        "head_settings": {name: dict(v) for name, v in request.head_settings.items()},
    }


def _list_tasks(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    refs: dict[str, TaskRef] = {str(o.job.task.to_json()): o.job.task for o in outcomes}
    return [ref.to_json() for ref in refs.values()]


def _list_refusals(found: Sequence[Found]) -> Iterator[dict[str, Any]]:
    """Yield each refusal once, whatever the number of seeds."""
    seen = set()
    for job, one in found:
        record = {
            "method": job.recipe,
            "head": job.head,
            "measure": job.measure,
            **one.notes,
            "setting": job.setting,
            "reason": one.refused,
        }
        if one.refused and str(record) not in seen:
            seen.add(str(record))
            yield record


def _list_selections(found: Sequence[Found]) -> Iterator[dict[str, Any]]:
    """Yield what each head and recipe chose, and on which split."""
    for job, one in found:
        if job.measure == "accuracy" and not one.refused:
            yield {
                "method": job.recipe,
                "head": job.head,
                "task": job.task.to_json(),
                "setting": job.setting,
                "seed": job.seed,
                "selected on": one.notes.get("selected on"),
                "chosen": one.notes.get("head"),
            }


def _null_nans(record: Mapping[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in record.items()}


def _write_comparisons(out: Path, comparisons: Sequence[Comparison]) -> None:
    for one in comparisons:
        name = "-".join(part for part in (one.dataset, one.split) if part).replace("/", "-")
        write_text(out / "tables" / f"{name}.md", render_comparison_markdown(one))
        write_text(out / "tables" / f"{name}.tex", render_comparison_latex(one))
    if comparisons:
        write_text(out / "tables" / "comparison.csv", render_comparison_csv(comparisons))


def _write_exhibits(out: Path, exhibits: Sequence[Exhibit]) -> None:
    renderers: dict[str, Callable[[Any], str]] = {
        "md": render_markdown,
        "tex": render_latex,
        "csv": render_csv,
    }
    for exhibit in exhibits:
        if exhibit.table is not None:
            for ending, render in renderers.items():
                write_text(out / "tables" / f"{exhibit.name}.{ending}", render(exhibit.table))
        if exhibit.svg:
            write_text(out / "figures" / f"{exhibit.name}.svg", exhibit.svg)
    listing = [{"name": e.name, "title": e.title, "note": e.note} for e in exhibits]
    if listing:
        write_json(out / "exhibits.json", listing)
