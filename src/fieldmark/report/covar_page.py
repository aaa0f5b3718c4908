"""The page of `covar evaluate`: `OUT/report.html`, one file that needs nothing beside it.

It reads `OUT/run.json`, `OUT/covar.json` and the pictures under `OUT/page/`, never a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldmark.core.atomic import write_text
from fieldmark.core.records import read_run
from fieldmark.report.covar_parts import MEND, RECORD, CovarParts, read_covar_parts
from fieldmark.report.covar_plot import Panel, draw_class_panels, draw_panels
from fieldmark.report.covar_tables import (
    CovarTable,
    list_comparison_tables,
    list_source_tables,
    make_accuracy_table,
    make_background_table,
    make_class_table,
    make_drop_table,
    make_factorial_table,
    make_scale_table,
    make_suffering_table,
)
from fieldmark.report.covar_words import (
    name_subset,
    write_comparisons,
    write_points,
    write_sentences,
    write_title,
)
from fieldmark.report.facts import Fact, list_facts
from fieldmark.report.html import render_page
from fieldmark.report.pictures import embed_thumbnail
from fieldmark.report.stored import refusing_damage

PAGE = "report.html"
PAPER = "Concept Regions Matter (2025), arXiv 2511.12978, sections 4 and 5."
SOURCE_NOTE = (
    "Shares are of the errors that were explained. By chance: what the rule says of the same masks "
    "when the map, or the set of patches removed, says nothing. Beyond chance: (share - chance) / "
    "(resolvable - chance). A small object makes the paper's rule say background for any map, so "
    "its shares cannot be compared between scales without chance beside them."
)


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page."""

    identifier: str
    title: str
    short: str
    sentences: tuple[str, ...] = ()
    panels: tuple[Panel, ...] = ()
    tables: tuple[CovarTable, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One picture of the strip; `uri` is None where the file is missing."""

    uri: str | None
    title: str
    remark: str
    said: tuple[tuple[str, str, bool], ...]


def write_covar_page(run_dir: Path) -> Path:
    """Write the page of a finished run and return its path.

    Args:
        run_dir: holds `run.json` and `covar.json`; pictures may be missing.

    Raises:
        InputError: there is no finished run, or one of its files is not what it should be.

    Example:
        >>> write_covar_page(Path("nowhere"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: nowhere: holds no run (no run.json)
    """
    manifest = read_run(run_dir)
    path = run_dir / PAGE
    with refusing_damage(run_dir / RECORD, mend=MEND):
        page = build_covar_page(read_covar_parts(run_dir), manifest=manifest)
        write_text(path, page)
    return path


def build_covar_page(parts: CovarParts, *, manifest: Mapping[str, Any]) -> str:
    """Build the page, without writing."""
    values = parts.values
    failed = (f"left out: {uri}: {reason}" for uri, reason in values["failed"].items())
    context = {
        "eyebrow": f"fieldmark covar evaluate \N{MIDDLE DOT} {values['dataset']}",
        "title": write_title(parts),
        "lead": "One thing about an image changes at a time, the object's mask exact: what does "
        "each change cost, and is the object or the background to blame?",
        "sentences": write_sentences(parts),
        "notes": (*map(str, values["notes"]), *failed),
        "sections": tuple(_list_sections(parts)),
        "shots": tuple(_list_shots(parts)),
        "making": _list_making(manifest),
        "citation": PAPER,
        "version": str((manifest.get("versions") or {}).get("fieldmark", "")),
    }
    return render_page("covar.html.j2", context)


def _list_sections(parts: CovarParts) -> Iterator[Section]:
    main = (make_accuracy_table(parts), make_scale_table(parts), make_drop_table(parts))
    yield Section(
        identifier="accuracy",
        title="Accuracy and drops",
        short="Accuracy",
        panels=draw_panels(parts),
        tables=tuple(table for table in main if table is not None),
    )
    if parts.values["comparisons"]:
        yield Section(
            identifier="comparison",
            title="Which drops were removed",
            short="Comparison",
            sentences=write_comparisons(parts),
            tables=tuple(list_comparison_tables(parts)),
        )
    sources = tuple(list_source_tables(parts))
    if sources:
        yield Section(
            identifier="sources",
            title="What drove the errors",
            short="Errors",
            sentences=(SOURCE_NOTE,),
            tables=sources,
        )
    yield Section(
        identifier="classes",
        title="By class",
        short="Classes",
        panels=draw_class_panels(parts),
        tables=tuple(make_class_table(one) for one in parts.encoders),
    )
    tables = tuple(_list_background_tables(parts))
    if tables:
        yield Section(
            identifier="backgrounds", title="By background", short="Backgrounds", tables=tables
        )


def _list_background_tables(parts: CovarParts) -> Iterator[CovarTable]:
    for one in parts.encoders:
        for table in (
            make_background_table(parts, one),
            make_suffering_table(parts, one),
            make_factorial_table(parts, one),
        ):
            if table is not None:
                yield table


def _list_shots(parts: CovarParts) -> Iterator[Shot]:
    for one in parts.values["strip"]:
        area = write_points(float(one["area"]))
        yield Shot(
            uri=embed_thumbnail(parts.folder / "page" / str(one["file"]), side=192),
            title=name_subset(str(one["subset"])),
            remark=f"{one['label']}, {area} % of the image",
            said=tuple(
                (parts.label(said["uri"]), str(said["class"]), bool(said["right"]))
                for said in one["said"]
            ),
        )


def _list_making(manifest: Mapping[str, Any]) -> tuple[tuple[str, tuple[Fact, ...]], ...]:
    keys = ("verb", "started", "seconds", "commit", "dirty", "seeds")
    kinds = {
        "Run": {key: manifest[key] for key in keys if key in manifest},
        "Arguments": manifest.get("arguments"),
        "Data": manifest.get("data"),
        "Weights": manifest.get("weights"),
        "Versions": manifest.get("versions"),
        "Notes": manifest.get("notes"),
    }
    return tuple((kind, list_facts(value)) for kind, value in kinds.items() if value)
