"""Read what a run leaves beside its figures for its page: the folder `OUT/page/`.

Every file is optional; the page says what is missing. Paths are relative to `OUT/page/`. The verb
that makes the run writes these files; nothing here does:

`composites/*.png` (or .jpg, .webp)
    What the encoder was shown in training. Drawn in the order of their names, at most 24.
`composites.json`
    `{"FILE NAME": "caption", ...}`, a few words for each file of `composites/` ("woodpecker on a
    lake"). A file without a caption gets a number.
`loss.jsonl`
    One row a step: `{"method": "bap", "step": 10, "epoch": 0, "loss": 0.31, "learning_rate":
    2e-6}`, and `"seed": 0` where there are several. A loss of null is undefined.
`map.json`
    `[{"encoder": "before", "points": [{"x": 0.1, "y": 2.0, "label": "bird", "attribute": "land",
    "split": "test_unseen"}, ...]}, {"encoder": "after", ...}]`. `attribute` and `split` may be
    left out.
`neighbours.json`
    `[{"query": {"image": "thumbs/3.png", "label": "bird", "attribute": "land"},
    "before": [{"image": ..., "label": ..., "attribute": ..., "similarity": 0.83}, ...],
    "after": [...]}, ...]`. Any other list beside `query` is drawn as well, under its key.
`summary.json`
    `{"title": "birds v mammals", "lead": "One sentence on what was asked.",
    "sentences": ["More that is worth saying, with its numbers."],
    "rare_groups": ["y:bird_background:water"], "not_tested": ["Other encoders."]}`, all optional.
    `rare_groups` are the groups that training never or seldom showed.
`card.json`
    The `card.json` of the data set as it was built: sources, licences, citation, counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fieldmark.core.errors import InputError
from fieldmark.core.json_text import parse_json
from fieldmark.report.figures import Curve

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp"})


@dataclass(frozen=True, kw_only=True)
class Composite:
    """One training image: its file and a few words on it."""

    path: Path
    caption: str


@dataclass(frozen=True, kw_only=True)
class Point:
    """One image on a map."""

    x: float
    y: float
    label: str
    attribute: str = ""
    split: str = ""


@dataclass(frozen=True, kw_only=True)
class Map:
    """The embeddings of one encoder in two dimensions."""

    encoder: str
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class Neighbour:
    """One image beside a query, or the query itself."""

    path: Path
    label: str
    attribute: str = ""
    similarity: float = math.nan


@dataclass(frozen=True, kw_only=True)
class Neighbourhood:
    """A query and its nearest neighbours under each encoder, nearest first."""

    query: Neighbour
    found: Mapping[str, tuple[Neighbour, ...]]


@dataclass(frozen=True, kw_only=True)
class Words:
    """What the writer of the run has to say about it."""

    title: str = ""
    lead: str = ""
    sentences: tuple[str, ...] = ()
    rare_groups: tuple[str, ...] = ()
    not_tested: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Everything under `OUT/page/`; an empty part was not there."""

    composites: tuple[Composite, ...] = ()
    losses: Mapping[str, tuple[Curve, ...]] = field(default_factory=dict)
    maps: tuple[Map, ...] = ()
    neighbours: tuple[Neighbourhood, ...] = ()
    words: Words = Words()
    card: Mapping[str, Any] = field(default_factory=dict)


def read_parts(folder: Path) -> Parts:
    """Read the parts of a page.

    Args:
        folder: `OUT/page`; it need not exist.

    Raises:
        InputError: a file is there and is not what it should be.

    Example:
        >>> read_parts(Path("nowhere")).maps
        ()
    """
    return Parts(
        composites=_read_composites(folder),
        losses=_read_losses(folder / "loss.jsonl"),
        maps=_read_maps(folder / "map.json"),
        neighbours=_read_neighbours(folder / "neighbours.json"),
        words=_read_words(folder / "summary.json"),
        card=_read_json(folder / "card.json", kind=dict) or {},
    )


def _read_composites(folder: Path) -> tuple[Composite, ...]:
    captions = _read_json(folder / "composites.json", kind=dict) or {}
    paths = sorted(p for p in folder.glob("composites/*") if p.suffix.lower() in SUFFIXES)
    return tuple(
        Composite(path=path, caption=str(captions.get(path.name, f"composite {number}")))
        for number, path in enumerate(paths, start=1)
    )


def _read_losses(path: Path) -> dict[str, tuple[Curve, ...]]:
    gathered: dict[str, dict[int, list[tuple[float, float, float]]]] = {}
    for number, line in _read_lines(path):
        where = f"{path}, row {number}"
        row = _expect(_parse(line, where=where), kind=dict, where=where)
        method = str(_take(row, "method", where=where))
        seed = _take_seed(row, where=where)
        step = _take_number(row, "step", where=where)
        loss = _take_number(row, "loss", where=where)
        rate = _take_number({"learning_rate": None, **row}, "learning_rate", where=where)
        gathered.setdefault(method, {}).setdefault(seed, []).append((step, loss, rate))
    return {m: tuple(_to_curve(rows) for rows in by.values()) for m, by in gathered.items()}


def _take_seed(row: Mapping[str, Any], *, where: str) -> int:
    seed = row.get("seed") or 0
    if not isinstance(seed, int):
        raise InputError(f"seed should be a whole number, not {seed!r}", where=where)
    return seed


def _to_curve(rows: list[tuple[float, float, float]]) -> Curve:
    # A resumed run writes the steps after its last checkpoint again; the later row is the true one.
    latest = {step: (loss, rate) for step, loss, rate in rows}
    steps = sorted(step for step in latest if math.isfinite(step))
    return Curve(
        steps=tuple(steps),
        losses=tuple(latest[step][0] for step in steps),
        rates=tuple(latest[step][1] for step in steps),
    )


def _read_maps(path: Path) -> tuple[Map, ...]:
    maps = []
    for number, entry in enumerate(_read_json(path, kind=list) or [], start=1):
        where = f"{path}, map {number}"
        entry = _expect(entry, kind=dict, where=where)
        points = _expect(_take(entry, "points", where=where), kind=list, where=where)
        maps.append(
            Map(
                encoder=str(_take(entry, "encoder", where=where)),
                points=tuple(
                    _to_point(point, where=f"{where}, point {index}")
                    for index, point in enumerate(points, start=1)
                ),
            )
        )
    return tuple(maps)


def _to_point(value: Any, *, where: str) -> Point:
    row = _expect(value, kind=dict, where=where)
    return Point(
        x=_take_number(row, "x", where=where),
        y=_take_number(row, "y", where=where),
        label=str(_take(row, "label", where=where)),
        attribute=str(row.get("attribute") or ""),
        split=str(row.get("split") or ""),
    )


def _read_neighbours(path: Path) -> tuple[Neighbourhood, ...]:
    found = []
    for number, entry in enumerate(_read_json(path, kind=list) or [], start=1):
        where = f"{path}, query {number}"
        entry = _expect(entry, kind=dict, where=where)
        query = _to_neighbour(_take(entry, "query", where=where), folder=path.parent, where=where)
        strips = {
            str(key): tuple(_to_neighbour(v, folder=path.parent, where=where) for v in values)
            for key, values in entry.items()
            if key != "query" and isinstance(values, list)
        }
        found.append(Neighbourhood(query=query, found=strips))
    return tuple(found)


def _to_neighbour(value: Any, *, folder: Path, where: str) -> Neighbour:
    row = _expect(value, kind=dict, where=where)
    name = str(_take(row, "image", where=where))
    try:
        path = (folder / name).resolve()
    except (OSError, ValueError) as error:
        raise InputError(f"{name[:80]!r} is no path", where=where, mend="name a file") from error
    if not path.is_relative_to(folder.resolve()):
        raise InputError(
            f"{name} lies outside {folder}", where=where, mend="copy it into that folder"
        )
    return Neighbour(
        path=path,
        label=str(_take(row, "label", where=where)),
        attribute=str(row.get("attribute") or ""),
        similarity=_take_number({"similarity": None, **row}, "similarity", where=where),
    )


def _read_words(path: Path) -> Words:
    row = _read_json(path, kind=dict) or {}
    lists = {key: row.get(key) or [] for key in ("sentences", "rare_groups", "not_tested")}
    for key, value in lists.items():
        _expect(value, kind=list, where=f"{path}, {key}")
    return Words(
        title=str(row.get("title") or ""),
        lead=str(row.get("lead") or ""),
        sentences=tuple(map(str, lists["sentences"])),
        rare_groups=tuple(map(str, lists["rare_groups"])),
        not_tested=tuple(map(str, lists["not_tested"])),
    )


def _read_lines(path: Path) -> list[tuple[int, str]]:
    if not path.is_file():
        return []
    lines = _read_text(path).split("\n")
    return [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]


def _read_json(path: Path, *, kind: type) -> Any:
    if not path.is_file():
        return None
    value = _parse(_read_text(path), where=str(path))
    return _expect(value, kind=kind, where=str(path))


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InputError(f"cannot be read ({reason})", where=path, mend="write it again") from error


def _parse(text: str, *, where: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise InputError(f"is not JSON ({error})", where=where, mend="write it again") from error


def _expect(value: Any, *, kind: type, where: str) -> Any:
    if not isinstance(value, kind):
        wanted = "an object" if kind is dict else "a list"
        raise InputError(f"should be {wanted}, not {type(value).__name__}", where=where)
    return value


def _take(row: Mapping[str, Any], key: str, *, where: str) -> Any:
    if key not in row:
        raise InputError(f"has no {key!r}", where=where, mend=f"it has {', '.join(sorted(row))}")
    return row[key]


def _take_number(row: Mapping[str, Any], key: str, *, where: str) -> float:
    value = _take(row, key, where=where)
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{key} should be a number, not {value!r}", where=where)
    try:
        return float(value)
    except OverflowError as error:
        raise InputError(f"{key} is larger than any number here", where=where) from error
