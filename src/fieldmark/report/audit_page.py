"""The page of an audit: `OUT/report.html`, one file that needs nothing beside it.

It reads `OUT/audit.json`, the pictures that this names and, where there is one, `OUT/run.json`;
never a model.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fieldmark.core.atomic import write_text
from fieldmark.core.records import read_run
from fieldmark.report.audit_blocks import AuditTable, Block, Gallery, Listing, Notes, Section, Steps
from fieldmark.report.audit_contract import AuditParts, Figure, Picture
from fieldmark.report.audit_figures import (
    name_encoder,
    name_group,
    name_head,
    write_count,
    write_percent,
    write_points,
    write_range,
)
from fieldmark.report.audit_parts import MEND, RECORD, read_audit
from fieldmark.report.audit_plot import draw_axis, draw_key, draw_line_dots
from fieldmark.report.audit_sections import STATES, list_sections
from fieldmark.report.audit_words import LEAD, find_background, write_title, write_verdict
from fieldmark.report.facts import Fact, list_facts
from fieldmark.report.html import render_page
from fieldmark.report.names import DASH
from fieldmark.report.pictures import embed_thumbnail
from fieldmark.report.stored import refusing_damage

PAGE = "report.html"
# Characters of all pictures together; the page stays below 5 MB.
BUDGET = 4_300_000
# Bytes of a picture that is embedded as it is; a larger one is made smaller.
LARGEST = 60_000
_KINDS = {b"\xff\xd8\xff": "image/jpeg", b"\x89PNG\r\n\x1a\n": "image/png"}
_BLOCKS = {AuditTable: "table", Gallery: "gallery", Notes: "notes", Listing: "list", Steps: "steps"}
# Spaces before a unit, inside an interval, and around the sign of a p-value.
_BOUND = re.compile(
    r"(?<=\d) (?=%|points)|(?<=\d,) (?=[\d\N{MINUS SIGN}.]+\])|(?<=p) (?=[=<])|(?<=[=<]) (?=\d)"
)
PAPERS = (
    "Background swaps: Xiao, Engstrom, Ilyas and Madry, Noise or Signal (2020).",
    "Regions: Varma, Delbrouck, Chen, Chaudhari and Langlotz, RaVL (2024).",
)


@dataclass(frozen=True, kw_only=True)
class Glance:
    """One figure at a glance.

    Attributes:
        name: what it is.
        values: one an encoder: its label, the value, its interval and what it rests on.
    """

    name: str
    values: tuple[tuple[str, str, str, str], ...]


def write_audit_page(out: Path) -> Path:
    """Write the page of a finished audit and return its path.

    Args:
        out: holds `audit.json`; pictures and `run.json` may be missing.

    Raises:
        InputError: the record is missing or not what it should be.

    Example:
        >>> write_audit_page(Path("nowhere"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: nowhere: holds no audit.json; run `fieldmark audit` again
    """
    parts = read_audit(out)
    manifest = read_run(out) if (out / "run.json").is_file() else {}
    path = out / PAGE
    with refusing_damage(out / RECORD, mend=MEND):
        page = build_audit_page(parts, manifest=manifest)
    write_text(path, page)
    return path


def build_audit_page(parts: AuditParts, *, manifest: Mapping[str, Any]) -> str:
    """Build the page; of files only pictures are read."""
    sections = list_sections(parts)
    uris, left_out = _embed(parts, sections)
    labels = _list_labels(sections)
    where = ("fieldmark audit", parts.dataset, parts.split)
    context = {
        "eyebrow": " \N{MIDDLE DOT} ".join(filter(None, where)),
        "title": write_title(parts),
        "verdicts": tuple(write_verdict(parts, n) for n in range(len(parts.encoders))),
        "states": tuple(one.state for one in sorted(parts.verdict, key=lambda one: one.encoder)),
        "lead": LEAD,
        "glances": tuple(_list_glances(parts)),
        "sections": tuple((one, tuple(map(_tag_block, one.blocks))) for one in sections),
        "state_names": STATES,
        "labels": labels,
        "class_numbers": {label: number for number, label in enumerate(labels)},
        "uris": uris,
        "pictures_left_out": left_out,
        "pages": tuple(_list_pages(parts)),
        "making": _list_making(parts, manifest=manifest),
        "papers": PAPERS,
        "draw_line_dots": draw_line_dots,
        "draw_axis": draw_axis,
        "draw_key": draw_key,
        "bind": bind,
        "version": str((manifest.get("versions") or {}).get("fieldmark", "")),
    }
    return render_page("audit.html.j2", context, more_style="audit.css", more_script="audit.js")


def bind(text: str) -> str:
    """Keep a number on the line of its unit, and the ends of an interval together.

    Example:
        >>> bind("5.0 % [1.0, 9.0]").count(chr(160))
        2
    """
    return _BOUND.sub("\N{NO-BREAK SPACE}", text)


def _tag_block(block: Block) -> tuple[str, Block]:
    return _BLOCKS[type(block)], block


def _list_pictures(sections: Sequence[Section]) -> Iterator[Picture]:
    galleries = [one for section in sections for one in section.blocks if isinstance(one, Gallery)]
    # Tiles and images first: regions have a page of their own with all their pictures.
    for gallery in sorted(galleries, key=lambda one: one.kind == "regions"):
        for card in gallery.cards:
            yield from (shot.picture for shot in card.shots)


def _embed(parts: AuditParts, sections: Sequence[Section]) -> tuple[dict[str, str], int]:
    """Return pictures as `data:` URIs as long as there is room, and how many are left out."""
    found: dict[str, str] = {}
    room, left_out = BUDGET, 0
    for picture in _list_pictures(sections):
        if picture.src in found:
            continue
        uri = embed_picture(parts.folder / picture.src)
        if uri is None:
            continue
        if len(uri) > room:
            left_out += 1
            continue
        found[picture.src] = uri
        room -= len(uri)
    return found, left_out


def embed_picture(path: Path) -> str | None:
    """Return a small JPEG or PNG as it is, as a `data:` URI; another picture as a small copy.

    Args:
        path: any image that Pillow reads.

    Returns:
        The URI, or None where the file is missing or is no readable image.

    Example:
        >>> embed_picture(Path("nowhere.jpg")) is None
        True
    """
    copy = embed_thumbnail(path, side=448, quality=80)
    if copy is None:
        return None
    data = path.read_bytes() if path.stat().st_size <= LARGEST else b""
    for start, kind in _KINDS.items():
        if data.startswith(start):
            return f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return copy


def _list_labels(sections: Sequence[Section]) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for section in sections:
        for block in section.blocks:
            if isinstance(block, AuditTable):
                found |= dict.fromkeys(line.label for line in block.lines if line.label)
            elif isinstance(block, Gallery):
                found |= dict.fromkeys(card.label for card in block.cards if card.label)
    return tuple(sorted(found))


def choose_head(parts: AuditParts) -> str:
    """Return the head to show at a glance: that of the largest background gap found, or the first.

    Args:
        parts: of a finished audit.
    """
    found = [
        one
        for one in parts.findings
        if one.kind == "background_gap" and one.state == "found" and one.figure.is_defined
    ]
    if found:
        return max(found, key=lambda one: one.figure.value).head
    return parts.accuracy[0].head if parts.accuracy else ""


def _list_glances(parts: AuditParts) -> Iterator[Glance]:
    head = choose_head(parts)
    chosen = [one for one in parts.accuracy if one.head == head]
    if chosen:
        averages = [(one.encoder, one.average) for one in chosen]
        yield _make_glance(parts, f"Named right, {name_head(head)}", averages, unit="images")
        worst = [(one.encoder, one.worst_group) for one in chosen if one.worst_group.is_defined]
        if worst:
            group = name_group(chosen[0].worst_group_name)
            name = f"Worst group: {group}" if len(worst) == 1 and group else "Worst group"
            yield _make_glance(parts, name, worst, unit="images")
    swaps = parts.swaps.results if parts.swaps else ()
    gaps = [(one.encoder, one.gap) for one in swaps if one.head == head]
    if gaps:
        name = f"Lost on other backgrounds, {name_head(head)}"
        yield _make_glance(parts, name, gaps, unit="objects", is_difference=True)
    shares = [(one.encoder, found) for one in parts.sources if (found := find_background(one))]
    if shares:
        values = tuple(
            (
                name_encoder(parts, encoder),
                write_percent(share.share.value),
                write_range(share.share),
                f"{write_count(share.share.count, 'errors')}, by chance "
                f"{write_percent(share.null.value)}",
            )
            for encoder, share in shares
        )
        yield Glance(name="Errors that the background drove", values=values)


def _make_glance(
    parts: AuditParts,
    name: str,
    figures: Sequence[tuple[int, Figure]],
    *,
    unit: str,
    is_difference: bool = False,
) -> Glance:
    write = write_points if is_difference else write_percent
    return Glance(
        name=name,
        values=tuple(
            (
                name_encoder(parts, encoder),
                write(figure.value),
                write_range(figure),
                write_count(figure.count, unit),
            )
            for encoder, figure in figures
        ),
    )


def _list_pages(parts: AuditParts) -> Iterator[tuple[str, str]]:
    """Yield the pages of parts that are there: title and a relative address."""
    for one in parts.parts:
        if (parts.folder / one.page).is_file():
            yield one.title, f"./{quote(one.page)}"


def _list_making(
    parts: AuditParts, *, manifest: Mapping[str, Any]
) -> tuple[tuple[str, tuple[Fact, ...]], ...]:
    kinds = {
        "This audit": _describe(parts),
        "Run": {
            key: manifest[key] for key in ("started", "commit", "dirty", "seeds") if key in manifest
        },
        "Arguments": manifest.get("arguments"),
        "Data": manifest.get("data"),
        "Weights": manifest.get("weights"),
        "Versions": manifest.get("versions"),
    }
    return tuple((kind, list_facts(value)) for kind, value in kinds.items() if value)


def _describe(parts: AuditParts) -> dict[str, Any]:
    encoders = {
        f"encoder, {one.label}" if len(parts.encoders) > 1 else "encoder": {
            "model": one.uri,
            "fingerprint": one.fingerprint or DASH,
        }
        for one in parts.encoders
    }
    images = write_count(parts.images, "images")
    if parts.images_all > parts.images:
        images += f" of {parts.images_all:,}"
    return {
        **encoders,
        "data set": parts.dataset,
        "split": parts.split or DASH,
        "images": images,
        "looked at closely": DASH if parts.sample is None else parts.sample,
        "objects": DASH if parts.objects is None else parts.objects,
        "classes": list(parts.classes),
        "stand on": list(parts.attributes),
        "masks": parts.mask_source or DASH,
        "heads": [name_head(one) for one in parts.heads],
        "effect that matters": f"{100 * parts.margin:g} points",
        "level of the tests": parts.level,
        "seconds": DASH if math.isnan(parts.seconds) else round(parts.seconds, 1),
        "command": parts.command or DASH,
    }
