"""The page of a faithfulness run: `OUT/report.html`, one file that needs nothing beside it.

It reads `OUT/run.json` and `OUT/faithfulness.json`, never a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldmark.core.atomic import write_text
from fieldmark.core.records import read_run
from fieldmark.report.facts import Fact, list_facts
from fieldmark.report.faithfulness_parts import (
    MEND,
    RECORD,
    FaithfulnessParts,
    Figure,
    read_faithfulness_parts,
    to_figure,
)
from fieldmark.report.faithfulness_plot import draw_methods, draw_overview
from fieldmark.report.faithfulness_words import write_lead, write_sentences, write_title
from fieldmark.report.html import render_page
from fieldmark.report.stored import refusing_damage

PAGE = "report.html"
PAPER = "Concept Regions Matter: Benchmarking CLIP with a New Cluster-Importance Approach (2025)."
_PLACES = {
    "energy": "Energy in the mask",
    "pointing": "Pointing game",
    "iou": "IoU at the mask's area",
    "average_precision": "Average precision",
    "auroc": "AUROC",
    "area": "Area of the mask",
}


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of a table: names, then figures; None for an empty cell."""

    names: tuple[str, ...]
    figures: tuple[Figure | None, ...]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """A table that can be sorted."""

    caption: str
    headings: tuple[str, ...]
    measures: tuple[str, ...]
    lines: tuple[Line, ...]


def write_faithfulness_page(run_dir: Path) -> Path:
    """Write the page of a finished run and return its path.

    Args:
        run_dir: holds `run.json` and `faithfulness.json`.

    Raises:
        InputError: there is no finished run, or its record is not what it should be.

    Example:
        >>> write_faithfulness_page(Path("nowhere"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: nowhere: holds no run (no run.json)
    """
    manifest = read_run(run_dir)
    path = run_dir / PAGE
    with refusing_damage(run_dir / RECORD, mend=MEND):
        page = build_faithfulness_page(read_faithfulness_parts(run_dir), manifest=manifest)
        write_text(path, page)
    return path


def build_faithfulness_page(parts: FaithfulnessParts, *, manifest: Mapping[str, Any]) -> str:
    """Build the page, without writing."""
    values = parts.values
    dot = " \N{MIDDLE DOT} "
    words = ("fieldmark faithfulness", values["dataset"], values["split"])
    context = {
        "eyebrow": dot.join(filter(None, map(str, words))),
        "title": write_title(parts),
        "lead": write_lead(parts),
        "encoder": str(values["model"]),
        "sentences": write_sentences(parts),
        "ranking": rank_methods(parts),
        "overview": draw_overview(parts),
        "panels": draw_methods(parts),
        "sheets": tuple(filter(None, (compare(parts), locate(parts), time_methods(parts)))),
        "scores": tabulate_scores(parts),
        "checks": tabulate_checks(parts),
        "skipped": tuple(values["skipped"].items()),
        "making": _list_making(parts, manifest=manifest),
        "citation": PAPER,
        "version": str((manifest.get("versions") or {}).get("fieldmark", "")),
    }
    return render_page("faithfulness.html.j2", context)


def rank_methods(parts: FaithfulnessParts) -> Sheet:
    """Tabulate the areas by the headline score, the largest gap first."""
    return _tabulate_score(parts, str(parts.values["headline"]))


def tabulate_scores(parts: FaithfulnessParts) -> tuple[Sheet, ...]:
    """Tabulate the areas by every other score."""
    others = [score for score in parts.values["scores"] if score != parts.values["headline"]]
    return tuple(_tabulate_score(parts, score) for score in others)


def _tabulate_score(parts: FaithfulnessParts, score: str) -> Sheet:
    kinds = ("deletion", "insertion", "gap")
    return Sheet(
        caption=f"Areas under the curves of {score}",
        headings=("Method",),
        measures=("deletion, lower is better", "insertion", "gap"),
        lines=tuple(
            Line(
                names=(_name(one),),
                figures=tuple(to_figure(one["areas"][score][kind]) for kind in kinds),
            )
            for one in parts.methods
        ),
    )


def _name(one: Mapping[str, Any]) -> str:
    return str(one["title"]) if one["uses_text"] or one["is_null"] else f"{one['title']} (no text)"


def compare(parts: FaithfulnessParts) -> Sheet | None:
    """Tabulate how far each method is from CCI and from the better null."""
    reference, nulls = parts.values["reference"], parts.values["best_null"]
    columns = [(kind, nulls[kind], "the better null") for kind in ("deletion", "insertion", "gap")]
    if reference is not None:
        kinds = ("deletion", "insertion", "gap")
        columns = [(kind, reference, "CCI") for kind in kinds] + columns
    return Sheet(
        caption="Differences on the same images, paired, with 95 % intervals",
        headings=("Method",),
        measures=tuple(f"{kind} less {words}" for kind, _, words in columns),
        lines=tuple(
            Line(
                names=(_name(one),),
                figures=tuple(
                    to_figure(parts.contrast(one["name"], against=against, kind=kind))
                    for kind, against, _ in columns
                ),
            )
            for one in parts.methods
        ),
    )


def locate(parts: FaithfulnessParts) -> Sheet | None:
    """Tabulate how well maps find the object, where there are masks."""
    names = [name for name in _PLACES if any(name in one["localisation"] for one in parts.methods)]
    if not names:
        return None
    return Sheet(
        caption="Where the maps are, against the masks of the objects",
        headings=("Method",),
        measures=tuple(_PLACES[name] for name in names),
        lines=tuple(
            Line(
                names=(_name(one),),
                figures=tuple(to_figure(one["localisation"].get(name)) for name in names),
            )
            for one in parts.methods
        ),
    )


def time_methods(parts: FaithfulnessParts) -> Sheet:
    """Tabulate what a map costs."""
    names = {
        "images_per_second": "images a second",
        "seconds_per_image": "seconds an image",
        "forwards": "forwards an image",
        "backwards": "backwards an image",
        "curve_forwards": "forwards of the curves",
    }
    return Sheet(
        caption="What a map costs",
        headings=("Method",),
        measures=tuple(names.values()),
        lines=tuple(
            Line(
                names=(_name(one),),
                figures=tuple(to_figure({"value": one["cost"][name]}) for name in names),
            )
            for one in parts.methods
        ),
    )


def tabulate_checks(parts: FaithfulnessParts) -> tuple[Sheet, ...]:
    """Tabulate the sanity checks, one table a check."""
    checks = parts.values.get("sanity") or []
    titles = {one["name"]: one["title"] for one in parts.methods}
    return tuple(
        Sheet(
            caption=f"{name}: {quantity}",
            headings=("Method", "Weights shuffled"),
            measures=("mean",),
            lines=tuple(_list_checks(checks, name=name, titles=titles)),
        )
        for name, quantity in {one["check"]: one["quantity"] for one in checks}.items()
    )


def _list_checks(
    checks: Sequence[Mapping[str, Any]], *, name: str, titles: Mapping[str, str]
) -> Iterator[Line]:
    for one in checks:
        if one["check"] == name:
            share = "" if one["share"] is None else f"{100 * one['share']:g} %"
            method = titles.get(one["method"], one["method"])
            yield Line(names=(method, share), figures=(to_figure(one),))


def _list_making(
    parts: FaithfulnessParts, *, manifest: Mapping[str, Any]
) -> tuple[tuple[str, tuple[Fact, ...]], ...]:
    keys = ("verb", "started", "seconds", "commit", "dirty", "seeds")
    kinds = {
        "Run": {key: manifest[key] for key in keys if key in manifest},
        "Protocol": parts.values["protocol"],
        "Settings of the methods": parts.values["attribution"],
        "Arguments": manifest.get("arguments"),
        "Data": manifest.get("data"),
        "Weights": manifest.get("weights"),
        "Versions": manifest.get("versions"),
        "Notes": manifest.get("notes"),
    }
    return tuple((kind, list_facts(value)) for kind, value in kinds.items() if value)
