"""What each section of a page shows, made ready for the template."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from fieldmark.report import names
from fieldmark.report.figures import Cloud, draw_bars, draw_losses, draw_map, draw_mark
from fieldmark.report.headline import Focus
from fieldmark.report.parts import Composite, Map, Neighbour, Neighbourhood, Parts, Point
from fieldmark.report.pictures import embed_thumbnail
from fieldmark.report.tables import Summary, Table, tabulate

MOST_COMPOSITES = 24
MOST_QUERIES = 8
MOST_NEIGHBOURS = 6
MOST_KINDS = 8
OTHERS = "others"


@dataclass(frozen=True, kw_only=True)
class Panel:
    """A drawing with its caption.

    Attributes:
        caption: a few words above it.
        remark: a few more in a quieter voice.
        drawing: the SVG.
    """

    caption: str
    drawing: Markup
    remark: str = ""


@dataclass(frozen=True, kw_only=True)
class Block:
    """Panels that belong together; `open` ones show without a click."""

    heading: str
    panels: tuple[Panel, ...]
    open: bool = True


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A thumbnail, or the words that stand in its place.

    Attributes:
        uri: a `data:` URI, or None where the image could not be read.
        alt: what it shows.
        words: lines of text below it.
        right: whether it is of the same class as the query; None where that is no question.
    """

    uri: str | None
    alt: str
    words: tuple[str, ...] = ()
    right: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Strip:
    """The neighbours of one query under one encoder."""

    encoder: str
    score: str
    pictures: tuple[Picture, ...]


@dataclass(frozen=True, kw_only=True)
class Query:
    """One query and its strips."""

    picture: Picture
    strips: tuple[Strip, ...]


@dataclass(frozen=True, kw_only=True)
class MapRow:
    """The maps coloured in one way, with their legend."""

    heading: str
    panels: tuple[Panel, ...]
    legend: tuple[tuple[Markup, str], ...]


def draw_worst(summaries: Sequence[Summary], *, focus: Focus) -> tuple[Panel, ...]:
    """Draw the worst group of each method, a panel for each split."""
    worst = [s for s in summaries if s.key["metric"] == "acc_wg" and focus.is_beside(s)]
    splits = names.sort_known((s.key["split"] for s in worst), order=names.SPLIT_ORDER)
    panels = []
    for index, split in enumerate(splits):
        caption = _capitalise(names.name(split, known=names.SPLITS)) or "Test"
        figures = _sort_figures(s for s in worst if s.key["split"] == split)
        drawing = draw_bars(figures, identifier=f"worst-{index}", title=f"Worst group: {caption}")
        panels.append(Panel(caption=caption, drawing=drawing, remark="worst group"))
    return tuple(panels)


def draw_groups(
    summaries: Sequence[Summary], *, focus: Focus | None, rare: Sequence[str]
) -> tuple[Block, ...]:
    """Draw the accuracy of each group, a block for each split and head; the focus stands open."""
    groups = [s for s in summaries if names.parse_group(s.key["metric"]) is not None]
    heads = list(dict.fromkeys(s.key["head"] for s in groups))
    splits = names.sort_known((s.key["split"] for s in groups), order=names.SPLIT_ORDER)
    if focus is not None:
        heads = names.sort_known(heads, order=[focus.head])
    rare_texts = {group.text for text in rare if (group := names.parse_group(text))}
    blocks: list[Block] = []
    for head in heads:
        for split in splits:
            chosen = [s for s in groups if s.key["head"] == head and s.key["split"] == split]
            for heading, part in _separate(chosen, head=head, split=split):
                panels = _draw_group_panels(part, rare=rare_texts, prefix=f"group-{len(blocks)}")
                is_open = not blocks or (focus is not None and all(map(focus.holds, part)))
                blocks.append(Block(heading=heading, panels=panels, open=is_open))
    return tuple(blocks)


def _separate(
    chosen: Sequence[Summary], *, head: str, split: str
) -> list[tuple[str, list[Summary]]]:
    """Keep data sets and correlations apart, naming them where there are several."""
    words = (names.name(split, known=names.SPLITS), names.name(head, known=names.HEADS))
    heading = _capitalise(", ".join(filter(None, words))) or "Test"
    kinds: dict[tuple[str, str], list[Summary]] = {}
    for s in chosen:
        kind = (s.key["dataset"], names.write_number(s.key["correlation"], digits=2))
        kinds.setdefault(kind, []).append(s)
    if len(kinds) == 1:
        return [(heading, part) for part in kinds.values()]
    return [(f"{heading}; {d}, correlation {c}", part) for (d, c), part in kinds.items()]


def _draw_group_panels(
    chosen: Sequence[Summary], *, rare: Iterable[str], prefix: str
) -> tuple[Panel, ...]:
    panels = []
    for index, metric in enumerate(dict.fromkeys(s.key["metric"] for s in chosen)):
        figures = _sort_figures(s for s in chosen if s.key["metric"] == metric)
        text = names.name_metric(metric)
        remark = figures[0].count + (", not or seldom in training" if text in rare else "")
        drawing = draw_bars(figures, identifier=f"{prefix}-{index}", title=f"Accuracy: {text}")
        panels.append(Panel(caption=_capitalise(text), drawing=drawing, remark=remark))
    return tuple(panels)


def _sort_figures(summaries: Iterable[Summary]) -> list[Summary]:
    found = list(summaries)
    methods = names.sort_methods(s.key["method"] for s in found)
    return sorted(found, key=lambda s: methods.index(s.key["method"]))


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]


def list_tables(summaries: Sequence[Summary]) -> tuple[Table, ...]:
    """Lay out the main accuracies, a table for each split, then the measures of embeddings.

    What is left out here stands in the table of all figures.
    """
    whole = [s for s in summaries if names.parse_group(s.key["metric"]) is None]
    accuracies = [s for s in whole if "acc_" in s.key["metric"]]
    others = [s for s in whole if "acc_" not in s.key["metric"] and ":" not in s.key["metric"]]
    order = ("acc_wg", "acc_avg", "adj_acc_avg")
    tables = []
    for split in names.sort_known((s.key["split"] for s in accuracies), order=names.SPLIT_ORDER):
        chosen = [s for s in accuracies if s.key["split"] == split]
        caption = _capitalise(names.name(split, known=names.SPLITS)) or "Accuracy"
        tables.append(tabulate(chosen, caption=caption, keys=("method", "head"), metrics=order))
    if others:
        tables.append(tabulate(others, caption="Other measures", keys=("method",)))
    return tuple(tables)


def explain_measures(tables: Iterable[Table]) -> tuple[tuple[str, str], ...]:
    """Return what the headings of tables mean, each once."""
    headings = dict.fromkeys(measure for table in tables for measure in table.measures)
    return tuple((h, names.explain(h)) for h in headings if names.explain(h))


def show_composites(composites: Sequence[Composite]) -> tuple[Picture, ...]:
    """Make thumbnails of the first composites."""
    return tuple(
        Picture(uri=embed_thumbnail(item.path), alt=item.caption)
        for item in composites[:MOST_COMPOSITES]
    )


def show_losses(parts: Parts) -> tuple[Panel, ...]:
    """Draw the loss of each method."""
    panels = []
    for index, method in enumerate(names.sort_methods(parts.losses)):
        words = _capitalise(names.name(method, known=names.METHODS)) or "Loss"
        curves = parts.losses[method]
        drawing = draw_losses(curves, identifier=f"loss-{index}", title=f"Loss: {words}")
        remark = f"{len(curves)} seeds" if len(curves) > 1 else ""
        if drawing:
            panels.append(Panel(caption=words, drawing=drawing, remark=remark))
    return tuple(panels)


def show_queries(neighbourhoods: Sequence[Neighbourhood]) -> tuple[Query, ...]:
    """Make the strips of the first queries."""
    return tuple(
        Query(
            picture=_show_neighbour(item.query, query=None),
            strips=tuple(
                _show_strip(encoder, found[:MOST_NEIGHBOURS], query=item.query)
                for encoder, found in item.found.items()
            ),
        )
        for item in neighbourhoods[:MOST_QUERIES]
    )


def _show_strip(encoder: str, found: Sequence[Neighbour], *, query: Neighbour) -> Strip:
    right = sum(item.label == query.label for item in found)
    return Strip(
        encoder=_capitalise(encoder),
        score=f"{right} of {len(found)} the same class",
        pictures=tuple(_show_neighbour(item, query=query) for item in found),
    )


def _show_neighbour(item: Neighbour, *, query: Neighbour | None) -> Picture:
    words = f"{item.label} on {item.attribute}" if item.attribute else item.label
    if query is None:
        return Picture(uri=embed_thumbnail(item.path), alt=f"Query: {words}", words=(words,))
    right = item.label == query.label
    alt = f"{words}, {'same' if right else 'other'} object"
    if not math.isnan(item.similarity):
        alt += f", similarity {names.write_number(item.similarity, digits=2)}"
    uri = embed_thumbnail(item.path, side=144)
    return Picture(uri=uri, alt=alt, words=(words,), right=right)


def count_neighbours(neighbourhoods: Sequence[Neighbourhood]) -> tuple[str, ...]:
    """Say of each encoder how many neighbours share the object, and how many the scene."""
    sentences = []
    for encoder in dict.fromkeys(key for item in neighbourhoods for key in item.found):
        pairs = [(item.query, n) for item in neighbourhoods for n in item.found.get(encoder, ())]
        objects = sum(query.label == n.label for query, n in pairs)
        text = f"{_capitalise(encoder)}, {objects} of {len(pairs)} neighbours show the same class"
        known = [(query, n) for query, n in pairs if query.attribute and n.attribute]
        if known:
            scenes = sum(query.attribute == n.attribute for query, n in known)
            text += f" and {scenes} of {len(known)} the same scene"
        sentences.append(f"{text}.")
    return tuple(sentences)


def show_maps(maps: Sequence[Map]) -> tuple[MapRow, ...]:
    """Draw each map twice: by object, and by scene where that is known."""
    if not any(one.points for one in maps):
        return ()
    ways: list[tuple[str, Callable[[Point], str]]] = [("object", lambda point: point.label)]
    if any(point.attribute for one in maps for point in one.points):
        ways.append(("scene", lambda point: point.attribute or "unknown"))
    shown = []
    for way, read in ways:
        kinds = _rank_kinds(read(point) for one in maps for point in one.points)
        panels = tuple(
            Panel(
                caption=_capitalise(one.encoder),
                remark=f"by {way}",
                drawing=draw_map(
                    _sort_clouds(one.points, read=read, kinds=kinds),
                    identifier=f"map-{way}-{index}",
                    title=f"Embeddings {one.encoder}, by {way}",
                ),
            )
            for index, one in enumerate(maps)
        )
        legend = tuple((draw_mark(index), kind) for index, kind in enumerate(kinds))
        shown.append(MapRow(heading=f"By {way}", panels=panels, legend=legend))
    return tuple(shown)


def _rank_kinds(values: Iterable[str]) -> list[str]:
    kinds = sorted(set(values))
    return kinds if len(kinds) <= MOST_KINDS else [*kinds[: MOST_KINDS - 1], OTHERS]


def _sort_clouds(
    points: Sequence[Point], *, read: Callable[[Point], str], kinds: Sequence[str]
) -> list[Cloud]:
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    for point in points:
        kind = read(point)
        found[kind if kind in found else OTHERS].append((point.x, point.y))
    return [
        Cloud(label=kind, points=tuple(places), mark=index)
        for index, (kind, places) in enumerate(found.items())
    ]
