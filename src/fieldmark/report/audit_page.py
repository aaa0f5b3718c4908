"""The page of an audit: `OUT/report.html`, one file that needs nothing beside it.

It reads `OUT/audit.json`, the pictures that this names and, where there is one, `OUT/run.json`;
never a model.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fieldmark.core.atomic import write_text
from fieldmark.core.records import read_run
from fieldmark.report.audit_blocks import AuditTable, Block, Gallery, Listing, Notes, Section, Steps
from fieldmark.report.audit_contract import AuditParts, Picture
from fieldmark.report.audit_glances import list_glances
from fieldmark.report.audit_making import PAPERS, describe_audit, list_pages
from fieldmark.report.audit_parts import MEND, RECORD, read_audit
from fieldmark.report.audit_plot import draw_axis, draw_key, draw_line_dots
from fieldmark.report.audit_sections import list_sections
from fieldmark.report.audit_words import write_advice, write_lead, write_title, write_verdict
from fieldmark.report.facts import Fact, list_facts
from fieldmark.report.html import render_page
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
        "lead": write_lead(parts),
        "advice": write_advice(parts),
        "glances": tuple(list_glances(parts)),
        "sections": tuple((one, tuple(map(_tag_block, one.blocks))) for one in sections),
        "labels": labels,
        "class_numbers": {label: number for number, label in enumerate(labels)},
        "uris": uris,
        "pictures_left_out": left_out,
        "pages": tuple(list_pages(parts)),
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


def _list_making(
    parts: AuditParts, *, manifest: Mapping[str, Any]
) -> tuple[tuple[str, tuple[Fact, ...]], ...]:
    kinds = {
        "This audit": describe_audit(parts),
        "Run": {
            key: manifest[key] for key in ("started", "commit", "dirty", "seeds") if key in manifest
        },
        "Arguments": manifest.get("arguments"),
        "Data": manifest.get("data"),
        "Weights": manifest.get("weights"),
        "Versions": manifest.get("versions"),
    }
    return tuple((kind, list_facts(value)) for kind, value in kinds.items() if value)
