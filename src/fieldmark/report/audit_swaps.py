"""Sections on the user's own objects: background swaps, controlled changes, embeddings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

from fieldmark.report.audit_blocks import (
    AuditTable,
    Axis,
    Card,
    Cell,
    Gallery,
    Line,
    Listing,
    Remark,
    Section,
    Shot,
    cell_points,
    cell_share,
    span_points,
)
from fieldmark.report.audit_contract import AuditParts, Drops, SwapPictures, Swaps, Tile
from fieldmark.report.audit_figures import (
    capitalise,
    name_change,
    name_encoder,
    name_head,
    write_count,
    write_p_value,
    write_plain,
    write_plain_figure,
    write_range,
)
from fieldmark.report.names import DASH

KINDS = {
    "original": "As it is",
    "same": "On a scene of its own class",
    "other": "On a scene of another class",
}


def list_swap_sections(parts: AuditParts) -> Iterator[Section]:
    """Yield what the swaps bear: answers on other backgrounds, drops, what embeddings carry."""
    swaps = parts.swaps
    if swaps is None:
        return
    if swaps.results:
        yield _show_swaps(parts, swaps)
    if swaps.drops:
        yield _show_drops(parts, swaps)
    sentences = tuple(_tell_embeddings(parts, swaps))
    if sentences:
        yield Section(
            name="embedding",
            title="How much background the embedding carries",
            brief="Embedding",
            sentences=("An embedding is the list of numbers that the model makes of an image; its "
                       "answers rest on that alone.", *sentences),
        )  # fmt: skip


def _show_swaps(parts: AuditParts, swaps: Swaps) -> Section:
    source = f" ({swaps.scene_source})" if swaps.scene_source else ""
    drawn = ""
    if parts.mask_source not in ("", "given", "none"):
        drawn = f" They were cut out along masks that {parts.mask_source} drew and nobody checked."
    sentences = (
        f"{write_count(swaps.objects, 'objects')} were cut out and put on "
        f"{write_count(swaps.scenes, 'scenes')}{source}, "
        f"{write_count(swaps.composites, 'composites')} in all. Nothing but the background "
        f"differs. If the model looks at the object, it says the same on all of them.{drawn}",
    )
    cards = tuple(_make_card(parts, one) for one in swaps.pictures if one.tiles)
    blocks = (
        _tabulate_results(parts, swaps),
        *_tabulate_differences(parts, swaps),
        *_tabulate_classes(parts, swaps),
        *((Gallery(kind="tiles", title="The same object on other backgrounds", cards=cards),)
          if cards else ()),
        *((Listing(items=swaps.notes),) if swaps.notes else ()),
    )  # fmt: skip
    return Section(
        name="swaps",
        title="The same objects on other backgrounds",
        brief="Other backgrounds",
        sentences=sentences,
        blocks=blocks,
    )


def _name_result(parts: AuditParts, encoder: int, head: str) -> str:
    return ", ".join(filter(None, (name_encoder(parts, encoder), head and name_head(head))))


def _tabulate_results(parts: AuditParts, swaps: Swaps) -> AuditTable:
    lines = tuple(
        Line(
            cells=(
                Cell(text=_name_result(parts, one.encoder, one.head)),
                cell_share(one.same),
                cell_share(one.other),
                cell_points(one.gap),
                Cell(text=write_p_value(one.gap_p_value) or DASH, order=one.gap_p_value),
                cell_share(one.flip_rate),
            ),
            dots=(one.other, one.same),
        )
        for one in swaps.results
    )
    return AuditTable(
        name="swap-results",
        caption="Named right, by where the object was put",
        headings=("By", "Own class's scene", "Another class's scene", "Difference, points",
                  "By chance", "Answer changes"),
        lines=lines,
        axis=Axis(low=0, high=1, legend=("another class's scene", "own class's scene")),
    )  # fmt: skip


def _tabulate_differences(parts: AuditParts, swaps: Swaps) -> Iterator[AuditTable]:
    if swaps.differences:
        first, second = (one.label for one in (*parts.encoders, *parts.encoders)[:2])
        yield AuditTable(
            name="swap-differences",
            caption=f"What changes from {first} to {second}, object by object",
            headings=("By", "Difference moves by, points", "Changed answers move by, points"),
            lines=tuple(
                Line(
                    cells=(
                        Cell(text=name_head(one.head)),
                        cell_points(one.gap),
                        cell_points(one.flip_rate),
                    )
                )
                for one in swaps.differences
            ),
        )


def _tabulate_classes(parts: AuditParts, swaps: Swaps) -> Iterator[AuditTable]:
    axis = span_points([one.gap for result in swaps.results for one in result.by_class])
    for number, head in enumerate(dict.fromkeys(one.head for one in swaps.results)):
        results = [one for one in swaps.results if one.head == head and one.by_class]
        if not results:
            continue
        legend = tuple(filter(None, (name_encoder(parts, one.encoder) for one in results)))
        gaps = [{one.name: one.gap for one in result.by_class} for result in results]
        names = dict.fromkeys(name for one in gaps for name in one)
        lines = tuple(
            Line(
                cells=(Cell(text=name), *(cell_points(one[name]) if name in one else Cell(text="")
                                          for one in gaps)),
                label=name,
                dots=tuple(one[name] for one in gaps if name in one),
            )
            for name in names
        )  # fmt: skip
        yield AuditTable(
            name=f"swap-classes-{number}",
            caption=f"What another class's background costs, by class, {name_head(head)}",
            headings=("Class", *(f"{label}, points" for label in legend or ("Difference",))),
            lines=lines,
            axis=replace(axis, legend=legend),
        )


def _make_card(parts: AuditParts, shown: SwapPictures) -> Card:
    return Card(
        title=shown.label,
        remark=shown.object,
        shots=tuple(
            Shot(picture=tile, title=KINDS[tile.kind], remarks=tuple(_tell_tile(parts, tile)))
            for tile in shown.tiles
        ),
        label=shown.label,
    )


def _tell_tile(parts: AuditParts, tile: Tile) -> Iterator[Remark]:
    """Yield what each encoder said, heads of one encoder together where they agree."""
    for encoder in dict.fromkeys(one.encoder for one in tile.said):
        said = [one for one in tile.said if one.encoder == encoder]
        agree = len({(one.predicted, one.right) for one in said}) == 1
        for one in said[:1] if agree else said:
            start = _name_result(parts, encoder, "" if agree else one.head)
            text = f"{start}: {one.predicted}" if start else one.predicted
            yield Remark(text=text, right=one.right)


def _show_drops(parts: AuditParts, swaps: Swaps) -> Section:
    return Section(
        name="drops",
        title="Under controlled changes",
        brief="Controlled changes",
        sentences=(
            "The same objects, laid on other scenes and then changed one way at a time (COVAR). "
            "The drop is the accuracy lost below the original photographs; what the new "
            "background alone does not explain stands beside it.",
        ),
        blocks=tuple(_tabulate_drops(parts, swaps)),
    )


def _tabulate_drops(parts: AuditParts, swaps: Swaps) -> Iterator[AuditTable]:
    # One axis for all, so that tables can be compared by eye.
    axis = span_points([change.drop for one in swaps.drops for change in one.changes])
    for number, drops in enumerate(swaps.drops):
        reference = drops.reference.accuracy
        told = " ".join(filter(None, (cell_share(reference).text, write_range(reference))))
        yield AuditTable(
            name=f"drops-{number}",
            caption=f"{_name_result(parts, drops.encoder, drops.head)}; originals {told}",
            headings=("Change", "Named right", "Drop, points", "Beyond the background, points"),
            lines=_list_drops(drops),
            axis=axis,
        )


def _list_drops(drops: Drops) -> tuple[Line, ...]:
    return tuple(
        Line(
            cells=(
                Cell(text=capitalise(name_change(one.change))),
                cell_share(one.accuracy),
                cell_points(one.drop),
                Cell(text=DASH, order=math.nan)
                if one.drop_background is None
                else cell_points(one.drop_background),
            ),
            dots=(one.drop,),
        )
        for one in drops.changes
    )


def _tell_embeddings(parts: AuditParts, swaps: Swaps) -> Iterator[str]:
    known = [one for one in swaps.sensitivity if not math.isnan(one.total)]
    if known:
        values = _join((name_encoder(parts, one.encoder), write_plain(one.total)) for one in known)
        yield (
            f"A change of background moves the embeddings of a class by {values} of the spread "
            f"that they have on one background (BSI; {write_count(known[0].defined, 'comparisons')}"
            f" of {write_count(known[0].count, 'composites')}). 0 would mean that the embedding "
            "holds no background. This says how much is there, not whether the answer uses it."
        )
    additive = [one for one in swaps.additivity if one.figure.is_defined]
    if additive:
        values = _join(
            (name_encoder(parts, one.encoder), write_plain_figure(one.figure)) for one in additive
        )
        alike = [one for one in additive if not math.isnan(one.parts)]
        beside = _join((name_encoder(parts, one.encoder), write_plain(one.parts)) for one in alike)
        yield (
            "The embedding of a whole picture, beside the sum of those of its object and of its "
            f"scene: cosine {values} over {write_count(additive[0].figure.count, 'objects')} "
            f"(additivity S); 1 is exactly the sum"
            f"{f', and the two alone have a cosine of {beside}' if alike else ''}. The nearer to "
            "1, the more the background is a part of its own, which can be taken out."
        )


def _join(values: Iterable[tuple[str, str]]) -> str:
    return " and ".join(f"{value} ({name})" if name else value for name, value in values)
