"""Sections on single things: regions that RaVL found, sources of errors, images, changes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from fieldmark.report.audit_blocks import (
    AuditTable,
    Axis,
    Card,
    Cell,
    Gallery,
    Line,
    Remark,
    Section,
    Shot,
    cell_points,
    cell_share,
)
from fieldmark.report.audit_contract import (
    AuditDiscovery,
    AuditParts,
    AuditSources,
    Figure,
    Finding,
    Prediction,
    Region,
    TellingImage,
)
from fieldmark.report.audit_figures import (
    capitalise,
    name_encoder,
    write_count,
    write_p_value,
    write_percent,
    write_plain,
    write_plain_figure,
    write_prefix,
)
from fieldmark.report.audit_words import name_finding
from fieldmark.report.names import DASH

PLACES = {
    "background": "They lie on the background",
    "object": "They lie on the object",
    "mixed": "They lie partly on the object, partly on the background",
    "unknown": "Where they lie cannot be told without masks",
}
WORDS = (
    "Each is headed by the words that the model puts nearest to it, out of a list: trust the "
    "pictures more. It goes with the class that the model leans to where it sees such a region."
)
RULES = {
    "causal": "It was the background where the score of the answer falls more without the "
    "background than without the object."
}
SHOWN = (
    "Below stands what it answered by the names of the classes (zero-shot), and the score: the "
    "cosine of image and name, 1 at most. What drove the answer is told by taking object and "
    "background away, so it may differ from what is bright."
)
# Sources that have a line even where no error is theirs.
CORE = ("background", "foreground")
# Regions to show where few are more than chance, and at most.
FEW, MOST = 4, 12
FATES = {
    "vanished": "Vanished",
    "shrank": "Smaller, beyond chance; what is left cannot be told",
    "stayed": "Stayed",
    "new": "New",
    "undecided": "Cannot be told",
}


def list_case_sections(parts: AuditParts) -> Iterator[Section]:
    """Yield the sections on regions, sources, images and what changed, as far as there are any."""
    if parts.discovery:
        yield _show_regions(parts)
    if parts.sources:
        yield _show_sources(parts)
    if parts.telling:
        yield _show_images(parts)
    if parts.changes is not None and len(parts.encoders) > 1:
        yield _show_changes(parts)


def _show_regions(parts: AuditParts) -> Section:
    galleries = tuple(
        Gallery(
            kind="regions",
            title=name_encoder(parts, one.encoder),
            cards=tuple(_make_region(region) for region in choose_regions(one)),
        )
        for one in parts.discovery
        if one.findings
    )
    return Section(
        name="regions",
        title="Regions that go with errors",
        brief="Regions",
        sentences=(
            *(_tell_discovery(parts, one) for one in parts.discovery),
            *((WORDS,) if galleries else ()),
        ),
        blocks=galleries,
    )


def _tell_discovery(parts: AuditParts, one: AuditDiscovery) -> str:
    start = write_prefix(parts, one.encoder)
    seen = (
        f"{start}{write_count(one.images, 'images')} were cut into regions (RaVL), and those that "
        f"look alike put together ({write_count(one.clusters, 'clusters')}). Does accuracy change "
        "with one of them"
    )
    passed = sum(region.significant for region in one.findings)
    if not one.findings:
        return f"{seen}? None was kept{f' ({one.reason})' if one.reason else ''}."
    shown = len(choose_regions(one))
    rest = "" if shown == len(one.findings) else f" Here are {shown} of them."
    return (
        f"{seen}? {write_count(len(one.findings), 'clusters')} stood out, {passed} of them more "
        f"than chance explains.{rest}"
    )


def choose_regions(one: AuditDiscovery) -> tuple[Region, ...]:
    """Return the regions to show: what is more than chance, then a few others, in their order."""
    passed = [region for region in one.findings if region.significant]
    others = [region for region in one.findings if not region.significant]
    return tuple((*passed, *others[: max(0, FEW - len(passed))])[:MOST])


def _make_region(region: Region) -> Card:
    words = ", ".join(region.words)
    share = write_percent(region.background_share)
    place = PLACES[region.place]
    if not math.isnan(region.background_share):
        place += f" ({share} of their area is off the masks)"
    p_value = write_p_value(region.adjusted_p_value)
    chance = "more than chance explains" if region.significant else "may be chance"
    return Card(
        title=words or f"Cluster {region.cluster}",
        remark=f"goes with {region.tied_class}" if region.tied_class else "",
        state="found" if region.significant else "undecided",
        sentences=(
            f"Accuracy differs by {write_plain_figure(region.gap)} with it, summed over classes "
            f"({write_count(region.gap.count, 'images')}): {chance}"
            f"{f' ({p_value}, corrected)' if p_value else ''}.",
            f"{place}.",
        ),
        shots=tuple(Shot(picture=one, title="") for one in region.pictures),
        label=region.tied_class,
    )


def _show_sources(parts: AuditParts) -> Section:
    return Section(
        name="sources",
        title="What drove the errors",
        brief="Errors",
        sentences=(
            "Of each image that is named wrong: was it the object that drove the answer, or the "
            "background? Answers are by the names of the classes (zero-shot), with weights in full "
            "precision, so an image on the edge may count here and not above.",
            *(
                RULES[rule]
                for rule in dict.fromkeys(s.rule for s in parts.sources)
                if rule in RULES
            ),
            "Chance would lay some errors to the background too, so that share stands beside each. "
            "What is beyond chance is given as a part of all that chance leaves.",
        ),
        blocks=tuple(
            _tabulate_sources(parts, one, number=number) for number, one in enumerate(parts.sources)
        ),
    )


def _tabulate_sources(parts: AuditParts, sources: AuditSources, *, number: int) -> AuditTable:
    name = name_encoder(parts, sources.encoder)
    told = f"{write_count(sources.errors, 'errors')} of {write_count(sources.images, 'images')}"
    rule = "" if sources.rule in RULES else f", by the rule {sources.rule}"
    return AuditTable(
        name=f"sources-{number}",
        caption=f"{f'{name}, ' if name else ''}{told}{rule}",
        headings=("Source", "Of the errors", "By chance", "Beyond chance"),
        lines=tuple(
            Line(
                cells=(
                    Cell(text=one.title),
                    cell_share(one.share),
                    Cell(text=write_percent(one.null.value), order=one.null.value),
                    _cell_beyond(one.corrected),
                ),
                dots=(one.null, one.share) if one.null.is_defined else (one.share,),
            )
            for one in sources.shares
            if one.share.value != 0 or one.source in CORE
        ),
        axis=Axis(low=0, high=1, legend=("by chance", "of the errors")),
    )


def _cell_beyond(figure: Figure) -> Cell:
    # Below 0 it has no lower bound and is a share of nothing.
    if figure.value < 0:
        told = "less than chance" if figure.high < 0 else "not told from chance"
        return Cell(text=told, order=figure.value)
    return cell_share(figure)


def _show_images(parts: AuditParts) -> Section:
    maps = any(one.maps for one in parts.telling)
    shown = " and, beside it, what spoke for the answer (bright)" if maps else ""
    return Section(
        name="images",
        title="The most telling images",
        brief="Images",
        sentences=(f"The image as the model sees it, the object outlined{shown}. {SHOWN}",),
        blocks=(
            Gallery(
                kind="images",
                title="",
                cards=tuple(_make_image(parts, one) for one in parts.telling),
            ),
        ),
    )  # fmt: skip


def _make_image(parts: AuditParts, image: TellingImage) -> Card:
    area = ""
    if not math.isnan(image.object_area):
        area = f"object {write_percent(image.object_area)} of the image"
    mapped = {one.encoder for one in image.maps} if len(parts.encoders) > 1 else set()
    whole = [
        _write_answer(parts, one, encoder=name_encoder(parts, one.encoder))
        for one in image.said
        if one.encoder not in mapped
    ]
    shots = [Shot(picture=image.picture, title=image.label, remarks=tuple(whole))]
    for one in image.maps:
        said = [_write_answer(parts, answer, encoder="") for answer in image.said
                if answer.encoder == one.encoder and one.encoder in mapped]  # fmt: skip
        title = name_encoder(parts, one.encoder) or "what spoke for it"
        shots.append(Shot(picture=one, title=title, remarks=tuple(said)))
    return Card(
        title=image.id.rsplit("/", 1)[-1] or image.id,
        remark=area,
        # The first encoder chose the images.
        sentences=(capitalise(f"{write_prefix(parts, 0)}{image.why}"),) if image.why else (),
        shots=tuple(shots),
        label=image.label,
    )


def _write_answer(parts: AuditParts, said: Prediction, *, encoder: str) -> Remark:
    score = "" if math.isnan(said.score) else f" {write_plain(said.score)}"
    titles = {one.source: one.title for part in parts.sources for one in part.shares}
    driver = titles.get(said.source, said.source)
    source = f"; what drove it: {driver}" if driver else ""
    start = f"{encoder}: " if encoder else ""
    return Remark(text=f"{start}{said.predicted}{score}{source}", right=said.right)


def _show_changes(parts: AuditParts) -> Section:
    first, second = (one.label for one in parts.encoders[:2])
    found = {(one.id, one.encoder): one for one in parts.findings}
    lines = []
    for fate, ids in parts.changes or ():
        for name in ids:
            pair = found.get((name, 0)), found.get((name, 1))
            title = next(name_finding(one) for one in reversed(pair) if one is not None)
            cells = map(_make_cell, pair)
            lines.append(Line(cells=(Cell(text=capitalise(title)), Cell(text=FATES[fate]), *cells)))
    table = AuditTable(
        name="changes-table",
        caption=f"Findings {first} and {second}, effects in points, of regions as a sum of shares",
        headings=("Finding", "What became of it", first, second),
        lines=tuple(lines),
        texts=2,
    )
    return Section(
        name="changes",
        title=f"What changed from {first} to {second}",
        brief="What changed",
        sentences=() if lines else ("Nothing was found in either, so nothing changed.",),
        blocks=(table,) if lines else (),
    )


def _make_cell(finding: Finding | None) -> Cell:
    if finding is None:
        return Cell(text=DASH, order=math.nan)
    if finding.kind == "region":
        count = f"{finding.figure.count:,}"
        return Cell(
            text=write_plain_figure(finding.figure), count=count, order=finding.figure.value
        )
    return cell_points(finding.figure)
