"""Studies of the space of embeddings: additivity, anchors over K scenes, maps before and after."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from fieldmark.benchmarks.jobs import NATIVE, Job
from fieldmark.benchmarks.structure import SIZES as CONTEXTS
from fieldmark.benchmarks.suite import Exhibit, Found, Request, Suite
from fieldmark.benchmarks.suites.exhibits import group_rows, list_rows, tabulate_beside
from fieldmark.benchmarks.suites.panels import Panel, draw_panels
from fieldmark.benchmarks.suites.plans import (
    ENCODERS,
    choose_models,
    list_places,
    plan_measure,
)
from fieldmark.core.records import ResultRow
from fieldmark.report.curves import Axis, draw_sweep
from fieldmark.report.sweeps import PowerLaw, Series, fit_power_law, read_sweep
from fieldmark.report.tables import summarise

ACROSS = Axis(label="K, scenes averaged over", log=True)
SIMILAR = {
    "anchor_class_similarity": "text of its class",
    "anchor_scene_similarity": "nearest text of a scene",
}
# More kinds of scene than this cannot be told apart on a map.
MOST_KINDS = 4


def plan_additivity(request: Request) -> list[Job]:
    """Plan S of images on every data set, and once S of texts, for every encoder."""
    study = request.budget.study
    composites = int(study.get("composites", 300_000))
    pairs = int(study.get("word_pairs", min(5_000, composites)))
    models = choose_models(request, ENCODERS)
    jobs = []
    for model in models:
        places = list(list_places(request))
        for ref, seed in places:
            arguments = {"composites": composites}
            jobs.append(
                plan_measure(
                    request, ref, seed=seed, measure="additivity", model=model, arguments=arguments
                )
            )
        ref, seed = places[0]
        jobs.append(
            plan_measure(
                request,
                ref,
                seed=seed,
                measure="text-additivity",
                model=model,
                arguments={"pairs": pairs},
            )
        )
    return jobs


def draw_additivity(found: Sequence[Found]) -> list[Exhibit]:
    """Draw Tables 1 and 7, the deviation over composites or pairs in a column of its own."""
    images = ("additivity", "additivity_deviation")
    texts = (
        "word_similarity",
        "word_similarity_deviation",
        "text_additivity",
        "text_additivity_deviation",
    )
    parts = (
        ("additivity-images", "Additivity S of image towers over composites (Table 1)", images),
        ("additivity-texts", "Additivity of text towers over word pairs (Table 7)", texts),
    )
    note = "The paper's ± is over composites or word pairs; ours is the column of deviations."
    exhibits = []
    for name, title, metrics in parts:
        rows = list_rows(found, *metrics)
        if rows:
            keys = ("encoder", "dataset") if metrics is images else ("encoder",)
            table = tabulate_beside(rows, caption=title, keys=keys, metrics=metrics)
            exhibits.append(Exhibit(name=name, title=title, table=table, note=note))
    return exhibits


def plan_anchors(request: Request) -> list[Job]:
    """Plan the study of K for every encoder."""
    study = request.budget.study
    composites = int(study.get("composites", 300_000))
    arguments = {
        # As many objects as the composites are enough for at 40 each; a dozen at least.
        "objects": int(study.get("anchor_objects", max(12, composites // max(CONTEXTS)))),
        "backgrounds": int(study.get("backgrounds", 100_000)),
        "sequences": int(study.get("sequences", 2_000)),
    }
    # Of the figure's two encoders (G.1), or whatever is asked for.
    models = choose_models(request, (ENCODERS[0], ENCODERS[3]))
    return [
        plan_measure(
            request, ref, seed=seed, measure="anchor-study", model=model, arguments=arguments
        )
        for model in models
        for ref, seed in list_places(request)
    ]


def draw_anchors(found: Sequence[Found]) -> list[Exhibit]:
    """Draw Figure 1: similarities against K, residual variance against K, and its slope."""
    rows = list_rows(found, *SIMILAR, "residual_variance", "residual_slope")
    exhibits = []
    for number, (place, part) in enumerate(group_rows(rows, by=("dataset", "encoder")).items()):
        words = ", ".join(place)
        exhibits.append(_draw_similarities(part, words=words, name=f"anchors-similarity-{number}"))
        exhibits.append(_draw_variance(part, words=words, name=f"anchors-variance-{number}"))
    if rows:
        title = "Slope of log residual variance on log K: -1 is 1/K (Equation 6)"
        table = tabulate_beside(
            rows, caption=title, keys=("encoder", "dataset"), metrics=("residual_slope",)
        )
        exhibits.append(Exhibit(name="anchors-slope", title=title, table=table))
    return exhibits


def _draw_similarities(rows: Sequence[ResultRow], *, words: str, name: str) -> Exhibit:
    lines = [
        dataclasses.replace(series, label=label)
        for metric, label in SIMILAR.items()
        for series in read_sweep(rows, metric)
    ]
    title = f"Cosine of an anchor with texts (Figure 1, left): {words}"
    svg = draw_sweep(lines, across=ACROSS, up=Axis(label="cosine"), identifier=name, title=title)
    return Exhibit(name=name, title=title, svg=str(svg))


def _draw_variance(rows: Sequence[ResultRow], *, words: str, name: str) -> Exhibit:
    lines = read_sweep(rows, "residual_variance")
    title = f"Residual variance of a mean of K scenes (Figure 1, right): {words}"
    svg = draw_sweep(
        lines,
        across=ACROSS,
        up=Axis(label="squared distance", log=True),
        identifier=name,
        title=title,
        laws=_find_laws(lines, rows),
    )
    return Exhibit(name=name, title=title, svg=str(svg))


def _find_laws(series: Sequence[Series], rows: Sequence[ResultRow]) -> dict[str, PowerLaw]:
    """Fit the line; its interval is that of the bootstrap over sequences, not of the residuals."""
    slopes = summarise(row for row in rows if row.metric == "residual_slope")
    if len(slopes) != 1:
        return {}
    laws = {}
    for one in series:
        if all(point.mean > 0 for point in one.points) and len(one.points) > 1:
            laws[one.label] = dataclasses.replace(
                fit_power_law(one.points), ci_low=slopes[0].ci_low, ci_high=slopes[0].ci_high
            )
    return laws


def plan_maps(request: Request) -> list[Job]:
    """Plan the maps of the native encoder and of BAP's."""
    points = int(request.budget.study.get("map_points", min(1_000, _count(request))))
    return [
        plan_measure(
            request, ref, seed=seed, measure="map", recipe=recipe, arguments={"points": points}
        )
        for ref, seed in list_places(request)
        for recipe in (NATIVE, "bap")
    ]


def _count(request: Request) -> int:
    return int(request.budget.study.get("composites", 1_000))


def draw_maps(found: Sequence[Found]) -> list[Exhibit]:
    """Draw Figure 4 of the first seed: three sets, before and after; and the silhouettes."""
    places: dict[str, list[Found]] = {}
    for job, one in found:
        if one.artifact is not None:
            dataset = one.rows[0].dataset if one.rows else job.task.dataset
            places.setdefault(f"{dataset}, {job.model}", []).append((job, one))
    exhibits = []
    for number, (words, members) in enumerate(places.items()):
        seed = members[0][0].seed
        first = [(job, one) for job, one in members if job.seed == seed]
        for view in ("scenes", "objects", "composites"):
            title = f"{view}, before and after BAP (Figure 4): {words}"
            name = f"map-{view}-{number}"
            panels = [_make_panel(job, one.artifact["views"][view]) for job, one in first]
            svg = draw_panels(panels, identifier=name, title=title)
            note = f"{first[0][1].artifact['reduction']}, seed {seed}."
            exhibits.append(Exhibit(name=name, title=title, svg=str(svg), note=note))
    rows = list_rows(found, "silhouette_class", "silhouette_scene")
    if rows:
        title = "How far composites group by class and by scene: silhouette, cosine"
        table = tabulate_beside(
            rows,
            caption=title,
            keys=("method",),
            metrics=("silhouette_class", "silhouette_scene"),
        )
        exhibits.append(Exhibit(name="map-silhouettes", title=title, table=table))
    return exhibits


def _make_panel(job: Job, view: dict[str, Any]) -> Panel:
    kinds = [key for key in ("class", "scene") if key in view]
    if "class" in kinds and len(set(view.get("scene", ()))) > MOST_KINDS:
        kinds = ["class"]
    labels = [" on ".join(words) for words in zip(*(view[key] for key in kinds), strict=True)]
    return Panel(
        title=job.recipe, points=tuple((x, y) for x, y in view["points"]), labels=tuple(labels)
    )


SUITES = (
    Suite(
        name="additivity",
        summary="is a scene's embedding the sum of its parts'? images and texts (Tables 1, 7)",
        plan=plan_additivity,
        draw=draw_additivity,
        many_encoders=True,
        datasets=("waterbirds",),
    ),
    Suite(
        name="anchors",
        summary="what averaging over K scenes keeps and loses, and its 1/K decay (Figure 1)",
        plan=plan_anchors,
        draw=draw_anchors,
        many_encoders=True,
        datasets=("waterbirds",),
    ),
    Suite(
        name="maps",
        summary="maps of scenes, objects and composites, before and after BAP (Figure 4)",
        plan=plan_maps,
        draw=draw_maps,
        datasets=("waterbirds",),
        correlations=(1.0,),
    ),
)
