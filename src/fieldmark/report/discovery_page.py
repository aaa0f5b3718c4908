"""The page of a discovery: `OUT/report.html`, one file that needs nothing beside it.

It reads `OUT/run.json`, `OUT/discovery.json` and the pictures under `OUT/page/`, never a model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from fieldmark.core.atomic import write_text
from fieldmark.core.records import read_run
from fieldmark.discovery.candidates import Candidate, LabelGap
from fieldmark.report.discovery_parts import (
    MEND,
    RECORD,
    DiscoveryParts,
    Sight,
    Sights,
    read_discovery_parts,
)
from fieldmark.report.discovery_plot import draw_clusters
from fieldmark.report.discovery_words import (
    name_candidate,
    tell_classes,
    write_interval,
    write_lead,
    write_sentences,
    write_title,
    write_verdict,
)
from fieldmark.report.facts import Fact, list_facts
from fieldmark.report.html import render_page
from fieldmark.report.names import DASH, write_number
from fieldmark.report.pictures import embed_thumbnail
from fieldmark.report.stored import refusing_damage

PAGE = "report.html"
PAPER = (
    "Varma, Delbrouck, Chen, Chaudhari and Langlotz (2024). RaVL: Discovering and Mitigating "
    "Spurious Correlations in Fine-Tuned Vision-Language Models."
)
# Characters of all pictures together; the page stays below 5 MB.
BUDGET = 4_300_000
MOST_LABELS = 20
HEADINGS = ("", "Words near it", "Tied to", "Gap G", "By chance", "Influence H", "p", "Corrected p",
            "Regions", "Images", "--cluster")  # fmt: skip
CLASS_HEADINGS = ("Class", "Accuracy with it", "Without it", "Difference", "Images")


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One picture on the page; a picture that is missing is None.

    Attributes:
        crop: a `data:` URI of the region.
        whole: a `data:` URI of the whole image.
        has_crop: whether a region is shown at all.
        image: id of the image.
        name: the end of the id.
        words: its class, and what the model takes it for.
        right: whether the model is right.
    """

    crop: str | None
    whole: str | None
    has_crop: bool
    image: str
    name: str
    words: str
    right: bool


@dataclass(frozen=True, kw_only=True)
class Strip:
    """A row of pictures with its title."""

    title: str
    remark: str
    shots: tuple[Shot, ...]


@dataclass(frozen=True, kw_only=True)
class Card:
    """One candidate, in words and pictures.

    Attributes:
        rank: 1 for the first.
        heading: what it is.
        verdict: what its corrected p-value bears.
        passed: whether it is more than chance.
        sentences: on its class.
        strips: its pictures.
        labels: a line for each class.
        labels_left_out: how many classes have no line.
        words: the nearest words with their cosines.
    """

    rank: int
    heading: str
    verdict: str
    passed: bool
    sentences: tuple[str, ...]
    strips: tuple[Strip, ...]
    labels: tuple[tuple[str, ...], ...]
    labels_left_out: int
    words: str


def write_discovery_page(run_dir: Path) -> Path:
    """Write the page of a finished discovery and return its path.

    Args:
        run_dir: holds `run.json` and `discovery.json`; pictures may be missing.

    Raises:
        InputError: there is no finished run, or one of its files is not what it should be.

    Example:
        >>> write_discovery_page(Path("nowhere"))
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.InputError: nowhere: holds no run (no run.json)
    """
    manifest = read_run(run_dir)
    path = run_dir / PAGE
    with refusing_damage(run_dir / RECORD, mend=MEND):
        page = build_discovery_page(read_discovery_parts(run_dir), manifest=manifest)
        write_text(path, page)
    return path


def build_discovery_page(parts: DiscoveryParts, *, manifest: Mapping[str, Any]) -> str:
    """Build the page, without writing."""
    values = parts.values
    cards, left_out = _make_cards(parts)
    where = " \N{MIDDLE DOT} ".join(filter(None, (str(values["dataset"]), str(values["split"]))))
    context = {
        "eyebrow": f"fieldmark discover \N{MIDDLE DOT} {where}",
        "title": write_title(parts),
        "lead": write_lead(parts),
        "encoder": str(values["model"]),
        "sentences": write_sentences(parts),
        "notes": tuple(map(str, values["notes"])),
        "headings": HEADINGS,
        "lines": tuple(_list_lines(parts)),
        "plot": _draw(parts),
        "cards": cards,
        "class_headings": CLASS_HEADINGS,
        "pictures_left_out": left_out,
        "making": _list_making(parts, manifest=manifest),
        "citation": PAPER,
        "version": str((manifest.get("versions") or {}).get("fieldmark", "")),
    }
    return render_page("discovery.html.j2", context)


def _list_lines(parts: DiscoveryParts) -> Iterator[tuple[tuple[str, str], ...]]:
    """Yield the cells of a candidate: text, and a quieter text beside it."""
    for rank, one in enumerate(parts.candidates, start=1):
        words = ", ".join(word.word for word in one.words[:3]) or f"cluster {one.cluster}"
        numbers = (one.chance, one.influence, one.p_value, one.adjusted_p_value)
        chance, influence, p_value, corrected = (write_number(n, digits=3) for n in numbers)
        gap = write_number(one.gap, digits=2)
        yield (
            (str(rank), ""),
            (words, ""),
            (one.tied_class or DASH, ""),
            (gap, write_interval(one.interval)),
            (chance, ""),
            (influence, ""),
            (p_value, ""),
            (corrected, ""),
            (str(one.size), ""),
            (str(one.images), ""),
            (str(one.cluster), ""),
        )


def _draw(parts: DiscoveryParts) -> Markup:
    threshold = parts.values["selection"].get("threshold")
    return draw_clusters(
        parts.clusters,
        passed=[one.cluster for one in parts.significant],
        kept=[one.cluster for one in parts.candidates],
        threshold=None if threshold is None else float(threshold),
        identifier="clusters",
    )


def _make_cards(parts: DiscoveryParts) -> tuple[tuple[Card, ...], int]:
    """Return the cards, and how many pictures the page has no room for."""
    passed = {one.cluster for one in parts.significant}
    cards, room, left_out = [], BUDGET, 0
    for rank, one in enumerate(parts.candidates, start=1):
        sights = parts.sights.get(one.cluster)
        if sights is None:
            continue
        strips = []
        for name, (title, unit) in _title_strips(one).items():
            shots, used, dropped = _embed(sights.get(name, Sights()).pictures, room=room)
            room, left_out = room - used, left_out + dropped
            if shots:
                remark = f"{len(shots)} of {sights[name].count} {unit}"
                strips.append(Strip(title=title, remark=remark, shots=shots))
        cards.append(_make_card(one, rank=rank, passed=one.cluster in passed, strips=strips))
    return tuple(cards), left_out


def _title_strips(candidate: Candidate) -> dict[str, tuple[str, str]]:
    tied = candidate.tied_class
    taken = "named wrongly" if tied is None else f"wrongly taken for {tied}"
    return {
        "nearest": ("Images that have it, each by its region nearest to the middle", "images"),
        "misled": (f"Misled: images that have it and are {taken}", "images"),
        "missed": (f"Missed: images of {tied} that do not have it and are named wrongly", "images"),
    }


def _make_card(candidate: Candidate, *, rank: int, passed: bool, strips: Sequence[Strip]) -> Card:
    shown = sorted(candidate.classes, key=lambda one: -abs(one.gap))[:MOST_LABELS]
    return Card(
        rank=rank,
        heading=name_candidate(candidate),
        verdict=write_verdict(candidate, passed=passed),
        passed=passed,
        sentences=tell_classes(candidate),
        strips=tuple(strips),
        labels=tuple(_write_label(one) for one in candidate.classes if one in shown),
        labels_left_out=len(candidate.classes) - len(shown),
        words=", ".join(
            f"{word.word} ({write_number(word.similarity, digits=2)})" for word in candidate.words
        ),
    )


def _write_label(one: LabelGap) -> tuple[str, ...]:
    return (
        one.name,
        f"{write_number(one.accuracy_with, digits=2)} of {one.images_with}",
        f"{write_number(one.accuracy_without, digits=2)} of {one.images_without}",
        f"{write_number(one.gap, digits=2)} {write_interval(one.interval)}",
        str(one.images_with + one.images_without),
    )


def _embed(pictures: Sequence[Sight], *, room: int) -> tuple[tuple[Shot, ...], int, int]:
    """Return pictures as long as there is room, the characters they take, and how many are not."""
    shots: list[Shot] = []
    used = 0
    for number, one in enumerate(pictures):
        crop = None if one.crop is None else embed_thumbnail(one.crop, side=144, quality=78)
        whole = embed_thumbnail(one.whole, side=224, quality=72)
        size = len(crop or "") + len(whole or "")
        if used + size > room:
            return tuple(shots), used, len(pictures) - number
        used += size
        right = one.label == one.predicted
        words = one.label if right else f"{one.label}, taken for {one.predicted}"
        shots.append(
            Shot(
                crop=crop,
                whole=whole,
                has_crop=one.crop is not None,
                image=one.image,
                name=one.image.rsplit("/", 1)[-1],
                words=words,
                right=right,
            )
        )
    return tuple(shots), used, 0


def _list_making(
    parts: DiscoveryParts, *, manifest: Mapping[str, Any]
) -> tuple[tuple[str, tuple[Fact, ...]], ...]:
    keys = ("verb", "started", "seconds", "commit", "dirty", "seeds")
    kinds = {
        "Run": {key: manifest[key] for key in keys if key in manifest},
        "Regions": parts.values["regions"],
        "Clustering": parts.values["clustering"],
        "Selection": parts.values["selection"],
        "Arguments": manifest.get("arguments"),
        "Data": manifest.get("data"),
        "Weights": manifest.get("weights"),
        "Versions": manifest.get("versions"),
        "Notes": manifest.get("notes"),
    }
    return tuple((kind, list_facts(value)) for kind, value in kinds.items() if value)
