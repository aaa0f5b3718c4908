"""Studies of what BAP costs: recognition of scenes, and what fine-tuning after it undoes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fieldmark.benchmarks.jobs import NATIVE, Job
from fieldmark.benchmarks.study_material import name_category
from fieldmark.benchmarks.suite import Exhibit, Found, Request, Suite
from fieldmark.benchmarks.suites.exhibits import (
    Key,
    group_rows,
    list_rows,
    look_up_reference,
    show_reference,
)
from fieldmark.benchmarks.suites.plans import list_places, plan_measure
from fieldmark.core.records import ResultRow
from fieldmark.report.curves import Axis, draw_sweep
from fieldmark.report.names import METHODS, SPLITS, name, name_metric
from fieldmark.report.published import Reference, find_reference
from fieldmark.report.sweeps import Series, read_sweep
from fieldmark.report.tables import Line, Summary, Table, summarise

SCENE = "acc_scene:"
COMPARED = (NATIVE, "bap")


def plan_scenes(request: Request) -> list[Job]:
    """Plan zero-shot recognition of classes and of scenes, natively and after BAP (Table 16)."""
    arguments = {"backgrounds": int(request.budget.study.get("backgrounds", 100_000))}
    return [
        plan_measure(
            request,
            ref,
            seed=seed,
            measure="scene-recognition",
            recipe=recipe,
            arguments=arguments,
        )
        for ref, seed in list_places(request)
        for recipe in COMPARED
    ]


def draw_scenes(found: Sequence[Found]) -> list[Exhibit]:
    """Draw Table 16: a line for each class and category, native beside BAP."""
    rows = [row for _, one in found for row in one.rows if not _is_average(row)]
    exhibits = []
    for number, ((dataset, encoder), part) in enumerate(
        group_rows(rows, by=("dataset", "encoder")).items()
    ):
        title = f"Zero-shot accuracy on classes and scenes (Table 16): {dataset}, {encoder}"
        table = _lay_out(summarise(part), caption=title)
        exhibits.append(Exhibit(name=f"scenes-{number}", title=title, table=table))
    return exhibits


def _is_average(row: ResultRow) -> bool:
    return row.metric == "acc_avg"


def _lay_out(summaries: Sequence[Summary], *, caption: str) -> Table:
    grid: dict[tuple[str, str], dict[str, Summary]] = {}
    for summary in summaries:
        place = (summary.key["metric"], summary.key["split"])
        grid.setdefault(place, {})[summary.key["method"]] = summary
    printed = {
        (place, method): _find_scene(summary.key)
        for place, line in grid.items()
        for method, summary in line.items()
    }
    methods = [name(method, known=METHODS) for method in COMPARED]
    with_paper = any(printed.values())
    lines = []
    for place, line in grid.items():
        figures: list[Summary | None] = [line.get(method) for method in COMPARED]
        if with_paper:
            references = [printed.get((place, method)) for method in COMPARED]
            figures += [None if r is None else show_reference(r) for r in references]
        lines.append(Line(names=_write_names(*place), figures=tuple(figures)))
    return Table(
        caption=caption,
        headings=("What", "Split"),
        measures=(*methods, *(f"{m}, paper" for m in methods if with_paper)),
        lines=tuple(lines),
        notes=("A scene is named among all categories of scenes, by the same 40 templates.",),
    )


def _write_names(metric: str, split: str) -> tuple[str, str]:
    if metric.startswith(SCENE):
        return name_category(metric.removeprefix(SCENE)), split
    what = "mean of categories" if metric == "acc_scenes" else name_metric(metric)
    return what, name(split, known=SPLITS)


def _find_scene(key: Key) -> Reference | None:
    """Find the paper's figure; its scenes are those of Places365, by their plain names."""
    if not key["metric"].startswith(SCENE):
        return look_up_reference(key)
    category = key["metric"].removeprefix(SCENE).rpartition("/")[2]
    return find_reference(
        encoder=key["encoder"],
        metric=f"acc_y:{category}",
        dataset="places365",
        method=key["method"],
        head=key["head"],
    )


def plan_fine_tuning(request: Request) -> list[Job]:
    """Plan the loss of BAP, a probe after it and fine-tuning after it (Figure 7)."""
    arguments: dict[str, Any] = {"fine_tuning": request.settings("lp-ft").get("lp-ft", {})}
    if "probe_epochs" in request.budget.study:
        arguments["probe_epochs"] = list(request.budget.study["probe_epochs"])
    return [
        plan_measure(
            request,
            ref,
            seed=seed,
            measure="fine-tuning-curve",
            recipe="bap",
            arguments=arguments,
        )
        for ref, seed in list_places(request)
    ]


def draw_fine_tuning(found: Sequence[Found]) -> list[Exhibit]:
    """Draw Figure 7: the loss, accuracies of the probe, accuracies of fine-tuning."""
    exhibits = []
    losses = list_rows(found, "loss")
    for number, ((dataset, encoder), part) in enumerate(
        group_rows(losses, by=("dataset", "encoder")).items()
    ):
        exhibits.append(
            _draw_epochs(
                read_sweep(part, "loss"),
                up="loss",
                name=f"alignment-loss-{number}",
                title=f"Alignment loss of BAP (Figure 7, left): {dataset}, {encoder}",
            )
        )
    for stage, title in (
        ("probe", "A linear probe after BAP"),
        ("fine_tuning", "Fine-tuning after BAP"),
    ):
        metrics = (f"acc_avg_{stage}", f"acc_wg_{stage}")
        rows = list_rows(found, *metrics)
        for number, (place, part) in enumerate(group_rows(rows).items()):
            lines = [
                Series(label=label, points=one.points)
                for metric, label in zip(metrics, ("average", "worst group"), strict=True)
                for one in read_sweep(part, metric)
            ]
            exhibits.append(
                _draw_epochs(
                    lines,
                    up="accuracy",
                    name=f"{stage.replace('_', '-')}-{number}",
                    title=f"{title} (Figure 7, right): {', '.join(filter(None, place))}",
                )
            )
    return exhibits


def _draw_epochs(series: Sequence[Series], *, up: str, name: str, title: str) -> Exhibit:
    svg = draw_sweep(
        series, across=Axis(label="epoch"), up=Axis(label=up), identifier=name, title=title
    )
    return Exhibit(name=name, title=title, svg=str(svg))


SUITES = (
    Suite(
        name="scenes",
        summary="recognition of scenes that BAP costs (Table 16)",
        plan=plan_scenes,
        draw=draw_scenes,
        datasets=("waterbirds",),
        correlations=(1.0,),
    ),
    Suite(
        name="fine-tuning-after-bap",
        summary="the loss of BAP, a probe after it, and fine-tuning that undoes it (Figure 7)",
        plan=plan_fine_tuning,
        draw=draw_fine_tuning,
        datasets=("waterbirds",),
        correlations=(1.0,),
    ),
)
