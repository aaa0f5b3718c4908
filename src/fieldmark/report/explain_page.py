"""The page of an explanation: `OUT/report.html`, one file that needs nothing beside it.

It reads `OUT/run.json`, `OUT/explanation.json` and the pictures that this names, never a model.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup
from PIL import Image

from fieldmark.core.atomic import write_text
from fieldmark.core.records import read_run
from fieldmark.report.explain_parts import (
    MEND,
    RECORD,
    Case,
    ExplanationParts,
    average,
    read_explanation_parts,
)
from fieldmark.report.explain_plot import draw_drops
from fieldmark.report.explain_words import (
    LEAD,
    UNRESOLVABLE,
    describe_case,
    list_flags,
    write_sentences,
    write_title,
)
from fieldmark.report.facts import Fact, list_facts
from fieldmark.report.heatmap import draw_legend
from fieldmark.report.html import render_page
from fieldmark.report.names import DASH, write_number
from fieldmark.report.pictures import embed_thumbnail
from fieldmark.report.stored import refusing_damage

PAGE = "report.html"
PAPER = "Concept Regions Matter: Benchmarking CLIP with a New Cluster-Importance Approach (2025)."
# Characters of all pictures together; the page stays below 5 MB.
BUDGET = 4_300_000
# Widths of a picture in rem, with many methods and with few.
_LEAST, _MOST, _ALL = 6.0, 14.0, 92.0


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One map on the page.

    Attributes:
        uri: what speaks for the text, as a `data:` URI; None where there is no room for it.
        signed: the same in the signed view, None where nothing speaks against the text.
        alt: what it shows.
        flags: what has to be said of it.
    """

    uri: str | None
    signed: str | None
    alt: str
    flags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """An image and one of its texts.

    Attributes:
        text: in quotation marks.
        score: cosine of both, as written.
        role: what the text is to the image.
        cells: one for each method.
        bars: what CCI's clusters are worth, empty without CCI.
    """

    text: str
    score: str
    role: str
    cells: tuple[Cell, ...]
    bars: Markup


@dataclass(frozen=True, kw_only=True)
class Block:
    """An image with its rows.

    Attributes:
        number: 1 for the first.
        name: the end of its id.
        identity: the whole id.
        uri: the encoder's input, the mask outlined.
        alt: what it shows.
        clusters: the clusters, or None.
        remarks: on its mask.
        rows: one for each text.
    """

    number: int
    name: str
    identity: str
    uri: str | None
    alt: str
    clusters: str | None
    remarks: tuple[str, ...]
    rows: tuple[Row, ...]


def write_explanation_page(run_dir: Path) -> Path:
    """Write the page of a finished explanation and return its path.

    Args:
        run_dir: holds `run.json` and `explanation.json`; pictures may be missing.

    Raises:
        InputError: there is no finished run, or its record is not what it should be.

    Example:
        >>> write_explanation_page(Path("nowhere"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: nowhere: holds no run (no run.json)
    """
    manifest = read_run(run_dir)
    path = run_dir / PAGE
    with refusing_damage(run_dir / RECORD, mend=MEND):
        page = build_explanation_page(read_explanation_parts(run_dir), manifest=manifest)
        write_text(path, page)
    return path


def build_explanation_page(parts: ExplanationParts, *, manifest: Mapping[str, Any]) -> str:
    """Build the page; of files only pictures are read."""
    values = parts.values
    methods = values["methods"]
    uris, left_out = _embed(parts)
    words = ("fieldmark explain", values["dataset"], values["split"])
    context = {
        "eyebrow": " \N{MIDDLE DOT} ".join(filter(None, map(str, words))),
        "title": write_title(parts),
        "lead": LEAD,
        "encoder": str(values["model"]),
        "sentences": write_sentences(parts),
        "methods": methods,
        "blocks": tuple(_list_blocks(parts, uris=uris)),
        "side": f"{min(_MOST, max(_LEAST, _ALL / (len(methods) + 1) - 0.4)):.2f}",
        "legend": _embed_legend(signed=False),
        "signed_legend": _embed_legend(signed=True),
        "has_signed": any(one["signed_picture"] for one in _list_maps(parts)),
        "has_masks": bool(parts.masks),
        "has_stretched": any(one["stretched"] for one in _list_maps(parts)),
        "costs": tuple(_list_costs(parts)),
        "skipped": tuple(values["skipped"].items()),
        "pictures_left_out": left_out,
        "making": _list_making(parts, manifest=manifest),
        "citation": PAPER,
        "version": str((manifest.get("versions") or {}).get("fieldmark", "")),
    }
    return render_page("explain.html.j2", context)


def _list_maps(parts: ExplanationParts) -> Iterator[Mapping[str, Any]]:
    for case in parts.cases:
        yield from case.text["maps"].values()


def _embed(parts: ExplanationParts) -> tuple[dict[str, str], int]:
    """Return the pictures as long as there is room, and how many are left out.

    The inputs come first, then maps, then what can be spared: the signed views.
    """
    images = parts.values["images"]
    names = [one["picture"] for one in images]
    names += [one["clusters_picture"] for one in images if one["clusters_picture"]]
    names += [one["picture"] for one in _list_maps(parts)]
    names += [one["signed_picture"] for one in _list_maps(parts) if one["signed_picture"]]
    found: dict[str, str] = {}
    room, left_out = BUDGET, 0
    for name in names:
        uri = embed_thumbnail(parts.folder / name, side=176, quality=74)
        if uri is None:
            continue
        if len(uri) > room:
            left_out += 1
            continue
        found[name] = uri
        room -= len(uri)
    return found, left_out


def _list_blocks(parts: ExplanationParts, *, uris: Mapping[str, str]) -> Iterator[Block]:
    for number, image in enumerate(parts.values["images"], start=1):
        remarks = []
        if image["mask"] is not None:
            remarks.append(f"mask: {100 * image['mask']['area']:.0f} % of the input")
            if not image["mask"]["resolvable"]:
                remarks.append(UNRESOLVABLE)
        cases = [Case(image, text) for text in image["texts"]]
        yield Block(
            number=number,
            name=image["id"].rsplit("/", 1)[-1],
            identity=image["id"],
            uri=uris.get(image["picture"]),
            alt=f"{image['id']}" + (", its mask outlined" if image["mask"] else ""),
            clusters=uris.get(image["clusters_picture"] or ""),
            remarks=tuple(remarks),
            rows=tuple(_make_row(parts, case, uris=uris, number=number) for case in cases),
        )


def _make_row(parts: ExplanationParts, case: Case, *, uris: Mapping[str, str], number: int) -> Row:
    text, score, role = describe_case(parts, case)
    maps = case.text["maps"]
    cells = []
    for method in parts.values["methods"]:
        one = maps[method["name"]]
        cells.append(
            Cell(
                uri=uris.get(one["picture"]),
                signed=uris.get(one["signed_picture"] or ""),
                alt=f"{method['title']}: what speaks for {text} in {case.image['id']}",
                flags=list_flags(one, method, case.image["mask"]),
            )
        )
    drops = (maps.get("cci") or {}).get("drops") or ()
    return Row(
        text=text,
        score=score,
        role=role,
        cells=tuple(cells),
        bars=draw_drops(
            [math.nan if drop is None else float(drop) for drop in drops],
            case.image["clusters"],
            identifier=f"drops-{number}-{case.text['text']}",
            title=f"What each cluster is worth for {text}",
        ),
    )


def _list_costs(parts: ExplanationParts) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield title, what a method does, and its figures as written."""
    for one in parts.values["methods"]:
        energies = parts.list_energies(one["name"])
        energy = write_number(average(energies), digits=2)
        figures = [f"{one[name]:.3g}" for name in ("forwards", "backwards", "seconds")]
        if parts.masks:
            figures.insert(0, f"{energy} of {len(energies)}" if energies else DASH)
        yield str(one["title"]), str(one["summary"]), tuple(figures)


def _embed_legend(*, signed: bool) -> str:
    stream = io.BytesIO()
    Image.fromarray(draw_legend(signed=signed)).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def _list_making(
    parts: ExplanationParts, *, manifest: Mapping[str, Any]
) -> Sequence[tuple[str, tuple[Fact, ...]]]:
    keys = ("verb", "started", "seconds", "commit", "dirty", "seeds")
    kinds = {
        "Run": {key: manifest[key] for key in keys if key in manifest},
        "Settings of the methods": parts.values["attribution"],
        "Arguments": manifest.get("arguments"),
        "Data": manifest.get("data"),
        "Weights": manifest.get("weights"),
        "Versions": manifest.get("versions"),
    }
    return tuple((kind, list_facts(value)) for kind, value in kinds.items() if value)
