"""The page of a mitigation: `OUT/report.html`, one file that needs nothing beside it.

It reads `OUT/run.json`, `OUT/mitigation.json` and the pictures under `OUT/page/`, never a model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldmark.core.atomic import write_text
from fieldmark.core.records import read_run
from fieldmark.report.discovery_page import BUDGET, PAGE, PAPER
from fieldmark.report.facts import Fact, list_facts
from fieldmark.report.html import render_page
from fieldmark.report.mitigation_parts import (
    MEND,
    RECORD,
    Change,
    Evaluation,
    Measured,
    MitigationParts,
    Picture,
    read_mitigation_parts,
)
from fieldmark.report.mitigation_words import (
    METRICS,
    list_counts,
    name_change,
    name_cluster,
    write_ends,
    write_lead,
    write_sentences,
    write_title,
)
from fieldmark.report.names import write_number
from fieldmark.report.pictures import embed_thumbnail
from fieldmark.report.stored import refusing_damage

MOST_GROUPS = 24
HEADINGS = ("Figure", "Before", "After", "Difference", "Rests on")
GROUP_HEADINGS = ("Group", "Before", "After", "Rests on")
# A cell: text, and a quieter text beside it.
Cell = tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One region on the page; a picture that is missing is None."""

    crop: str | None
    whole: str | None
    image: str
    name: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Card:
    """A cluster that was trained away."""

    heading: str
    sentence: str
    shots: tuple[Shot, ...]


@dataclass(frozen=True, kw_only=True)
class Block:
    """The tables of one split.

    Attributes:
        split: its name.
        lines: a line for each figure over groups and of each cluster.
        groups: a line for each group.
        left_out: how many groups have no line.
    """

    split: str
    lines: tuple[tuple[Cell, ...], ...]
    groups: tuple[tuple[Cell, ...], ...]
    left_out: int


def write_mitigation_page(run_dir: Path) -> Path:
    """Write the page of a finished mitigation and return its path.

    Args:
        run_dir: holds `run.json` and `mitigation.json`; pictures may be missing.

    Raises:
        InputError: there is no finished run, or one of its files is not what it should be.

    Example:
        >>> write_mitigation_page(Path("nowhere"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: nowhere: holds no run (no run.json)
    """
    manifest = read_run(run_dir)
    path = run_dir / PAGE
    with refusing_damage(run_dir / RECORD, mend=MEND):
        page = build_mitigation_page(read_mitigation_parts(run_dir), manifest=manifest)
        write_text(path, page)
    return path


def build_mitigation_page(parts: MitigationParts, *, manifest: Mapping[str, Any]) -> str:
    """Build the page, without writing."""
    values = parts.values
    cards, left_out = _make_cards(parts)
    context = {
        "eyebrow": f"fieldmark mitigate \N{MIDDLE DOT} {values['dataset']}",
        "title": write_title(parts),
        "lead": write_lead(parts),
        "encoder": str(values["model"]),
        "discovery": str(values["discovery"]),
        "sentences": write_sentences(parts),
        "notes": tuple(map(str, values["notes"])),
        "headings": HEADINGS,
        "group_headings": GROUP_HEADINGS,
        "blocks": tuple(map(_make_block, parts.evaluations)),
        "cards": cards,
        "pictures_left_out": left_out,
        "counts": list_counts(values),
        "captions": str(values["captions"]),
        "making": _list_making(parts, manifest=manifest),
        "citation": PAPER,
        "version": str((manifest.get("versions") or {}).get("fieldmark", "")),
    }
    return render_page("mitigation.html.j2", context)


def _make_block(one: Evaluation) -> Block:
    groups = [change for change in one.changes if change.metric not in METRICS]
    # Where there are more than fit, those that were worst to begin with are shown.
    kept = sorted(groups, key=lambda change: _rank(change.before.value))[:MOST_GROUPS]
    shown = [change for change in groups if change in kept]
    return Block(
        split=one.split,
        lines=tuple(_write_line(change) for change in one.changes if change.metric in METRICS),
        groups=tuple(_write_group(change) for change in shown),
        left_out=len(groups) - len(shown),
    )


def _rank(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _write_line(change: Change) -> tuple[Cell, ...]:
    difference = (write_number(change.difference, digits=3), write_ends(change.interval))
    return (
        (name_change(change), ""),
        _write_measured(change.before),
        _write_measured(change.after),
        difference,
        (_write_counts(change), ""),
    )


def _write_group(change: Change) -> tuple[Cell, ...]:
    return (
        (name_change(change), ""),
        _write_measured(change.before),
        _write_measured(change.after),
        (_write_counts(change), ""),
    )


def _write_measured(found: Measured) -> Cell:
    return write_number(found.value, digits=3), write_ends(found.interval)


def _write_counts(change: Change) -> str:
    before, after = change.before.count, change.after.count
    return f"{before:,}" if before == after else f"{before:,} / {after:,}"


def _make_cards(parts: MitigationParts) -> tuple[tuple[Card, ...], int]:
    """Return the cards, and how many pictures the page has no room for."""
    cards, room, left_out = [], BUDGET, 0
    for one in parts.values["clusters"]:
        pictures = parts.pictures.get(int(one["cluster"]), ())
        shots, used = _embed(pictures, room=room)
        room, left_out = room - used, left_out + len(pictures) - len(shots)
        heading = name_cluster(one)
        sentence = (
            "Training regions whose nearest medoid is that of this cluster: "
            f"{int(one['regions']):,}, in {int(one['images']):,} images."
        )
        if shots:
            sentence += " The nearest are shown, one of each image."
        cards.append(
            Card(heading=heading[:1].upper() + heading[1:], sentence=sentence, shots=shots)
        )
    return tuple(cards), left_out


def _embed(pictures: Sequence[Picture], *, room: int) -> tuple[tuple[Shot, ...], int]:
    """Return pictures as far as there is room for them, and the characters that they take."""
    shots: list[Shot] = []
    used = 0
    for one in pictures:
        crop = embed_thumbnail(one.crop, side=144, quality=78)
        whole = embed_thumbnail(one.whole, side=224, quality=72)
        size = len(crop or "") + len(whole or "")
        if used + size > room:
            break
        used += size
        name = one.image.rsplit("/", 1)[-1]
        shots.append(Shot(crop=crop, whole=whole, image=one.image, name=name, label=one.label))
    return tuple(shots), used


def _list_making(
    parts: MitigationParts, *, manifest: Mapping[str, Any]
) -> tuple[tuple[str, tuple[Fact, ...]], ...]:
    keys = ("verb", "started", "seconds", "commit", "dirty", "seeds")
    training = {key: parts.values["training"][key] for key in ("steps", "epochs", "stopped_early")}
    kinds = {
        "Run": {key: manifest[key] for key in keys if key in manifest},
        "Training": {**training, **(manifest.get("notes") or {})},
        "Settings": parts.values["config"],
        "Regions": parts.values["regions"],
        "Arguments": manifest.get("arguments"),
        "Data": manifest.get("data"),
        "Weights": manifest.get("weights"),
        "Versions": manifest.get("versions"),
    }
    return tuple((kind, list_facts(value)) for kind, value in kinds.items() if value)
