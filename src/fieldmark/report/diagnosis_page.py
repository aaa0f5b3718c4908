"""The page of a diagnosis: `OUT/report.html`, one file that needs nothing beside it.

It reads `OUT/run.json`, `OUT/diagnosis.json` and the pictures under `OUT/page/`, never a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldmark.core.atomic import write_text
from fieldmark.core.records import read_run
from fieldmark.report.diagnosis_parts import (
    MEND,
    RECORD,
    DiagnosisParts,
    Example,
    read_diagnosis_parts,
)
from fieldmark.report.diagnosis_words import (
    MEANINGS,
    RULES,
    SOURCE_NAMES,
    STRIPS,
    list_group_lines,
    list_mask_lines,
    list_move_lines,
    list_source_lines,
    write_mask_sentences,
    write_sentences,
    write_title,
)
from fieldmark.report.facts import Fact, list_facts
from fieldmark.report.html import render_page
from fieldmark.report.pictures import embed_thumbnail
from fieldmark.report.stored import refusing_damage

PAGE = "report.html"
PAPER = "Concept Regions Matter (2025), arXiv 2511.12978, section 3.1 and appendix A.3."
# Characters of all pictures together; the page stays below 5 MB.
BUDGET = 4_300_000
MOST_GROUPS = 60
Lines = tuple[tuple[tuple[str, str], ...], ...]
HEADINGS = ("Rule", "Source", "Of the errors", "By chance", "Beyond chance", "Of all images",
            "Beyond chance", "Images")  # fmt: skip
HIT_HEADINGS = (*HEADINGS[:2], "Of the hits", *HEADINGS[3:])


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One picture on the page; `uri` is None where the file is missing."""

    uri: str | None
    image: str
    name: str
    words: str
    right: bool
    says: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A row of pictures with its title."""

    title: str
    remark: str
    shots: tuple[Shot, ...]


@dataclass(frozen=True, kw_only=True)
class GroupTable:
    """Shares by class or by attribute."""

    caption: str
    headings: tuple[str, ...]
    lines: tuple[tuple[tuple[str, str], ...], ...]
    left_out: int


def write_diagnosis_page(run_dir: Path) -> Path:
    """Write the page of a finished diagnosis and return its path.

    Args:
        run_dir: holds `run.json` and `diagnosis.json`; pictures may be missing.

    Raises:
        InputError: there is no finished run, or one of its files is not what it should be.

    Example:
        >>> write_diagnosis_page(Path("nowhere"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: nowhere: holds no run (no run.json)
    """
    manifest = read_run(run_dir)
    path = run_dir / PAGE
    with refusing_damage(run_dir / RECORD, mend=MEND):
        page = build_diagnosis_page(read_diagnosis_parts(run_dir), manifest=manifest)
        write_text(path, page)
    return path


def build_diagnosis_page(parts: DiagnosisParts, *, manifest: Mapping[str, Any]) -> str:
    """Build the page, without writing."""
    values = parts.values
    strips, left_out = _make_strips(parts)
    where = " \N{MIDDLE DOT} ".join(filter(None, (str(values["dataset"]), str(values["split"]))))
    rules = tuple(parts.groups)
    context = {
        "eyebrow": f"fieldmark diagnose \N{MIDDLE DOT} {where}",
        "title": write_title(parts),
        "lead": "Of each image, what drove the class that the model names: the object, another "
        "object or the background? Every share stands beside what chance would say of it.",
        "encoder": str(values["model"]),
        "sentences": write_sentences(parts),
        "notes": tuple(map(str, values["notes"])),
        "tables": tuple(_list_tables(parts)),
        "meanings": tuple((RULES[rule], MEANINGS[rule]) for rule in rules if rule in RULES),
        "groups": tuple(_make_groups(parts, kind=kind) for kind in ("class", "attribute")),
        "masks": _make_masks(parts),
        "strips": strips,
        "pictures_left_out": left_out,
        "making": _list_making(parts, manifest=manifest),
        "citation": PAPER,
        "version": str((manifest.get("versions") or {}).get("fieldmark", "")),
    }
    return render_page("diagnosis.html.j2", context)


def _list_tables(parts: DiagnosisParts) -> Iterator[tuple[str, str, tuple[str, ...], Lines]]:
    """Yield of errors and hits: an identifier, a caption, headings and lines."""
    captions = {"errors": "Sources of errors", "hits": "Sources of right answers"}
    for kind, headings in (("errors", HEADINGS), ("hits", HIT_HEADINGS)):
        yield kind, captions[kind], headings, tuple(list_source_lines(parts, kind=kind))


def _make_groups(parts: DiagnosisParts, *, kind: str) -> GroupTable:
    lines = tuple(list_group_lines(parts, kind=kind))
    headings = [kind.capitalize(), "Errors"]
    for rule in parts.groups:
        headings += [rule.capitalize(), "beyond chance"]
    return GroupTable(
        caption=f"Share of errors by the background, by {kind}",
        headings=tuple(headings),
        lines=lines[:MOST_GROUPS],
        left_out=max(0, len(lines) - MOST_GROUPS),
    )


def _make_masks(parts: DiagnosisParts) -> dict[str, Any]:
    moves = parts.masks.moves
    radii = moves[0].radii if moves else ()
    return {
        "automatic": parts.masks.automatic,
        "source": parts.masks.source,
        "sentences": write_mask_sentences(parts),
        "lines": tuple(list_mask_lines(parts)),
        "headings": ("Rule", "Background", *(f"{radius:+d} px" for radius in radii)),
        "moves": tuple(list_move_lines(parts)),
        "moved": parts.masks.moved,
        "side": parts.masks.side,
    }


def _make_strips(parts: DiagnosisParts) -> tuple[tuple[Strip, ...], int]:
    """Return the strips, and how many pictures the page has no room for."""
    strips, room, left_out = [], BUDGET, 0
    for one in parts.strips:
        title, remark = STRIPS.get(one.name, (one.name, ""))
        shots = []
        for picture in one.pictures:
            uri = embed_thumbnail(picture.file, side=454, quality=78)
            if len(uri or "") > room:
                left_out += 1
                continue
            room -= len(uri or "")
            shots.append(_make_shot(picture, uri=uri))
        shown = f"{len(shots)} of {one.count:,}"
        if shots:
            strips.append(
                Strip(
                    title=title,
                    remark=", ".join(filter(None, (remark, shown))),
                    shots=tuple(shots),
                )
            )
    return tuple(strips), left_out


def _make_shot(picture: Example, *, uri: str | None) -> Shot:
    right = picture.label == picture.predicted
    words = picture.label if right else f"{picture.label}, taken for {picture.predicted}"
    return Shot(
        uri=uri,
        image=picture.image,
        name=picture.image.rsplit("/", 1)[-1],
        words=words,
        right=right,
        says=tuple(
            (rule, SOURCE_NAMES.get(source, source)) for rule, source in picture.says.items()
        ),
    )


def _list_making(
    parts: DiagnosisParts, *, manifest: Mapping[str, Any]
) -> tuple[tuple[str, tuple[Fact, ...]], ...]:
    keys = ("verb", "started", "seconds", "commit", "dirty", "seeds")
    kinds = {
        "Run": {key: manifest[key] for key in keys if key in manifest},
        "Object": {"grid": parts.values["grid"], "area": parts.values["foreground_area"]},
        "Arguments": manifest.get("arguments"),
        "Data": manifest.get("data"),
        "Weights": manifest.get("weights"),
        "Versions": manifest.get("versions"),
        "Notes": manifest.get("notes"),
    }
    return tuple((kind, list_facts(value)) for kind, value in kinds.items() if value)
