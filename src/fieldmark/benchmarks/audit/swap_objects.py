"""Which of the user's objects are laid on other scenes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fieldmark.core.errors import InputError
from fieldmark.core.seeds import generator
from fieldmark.data.covar.objects import open_actor
from fieldmark.data.covar.settings import CovarSettings
from fieldmark.data.foregrounds import Foregrounds, Outline
from fieldmark.data.images import read_grey
from fieldmark.data.masks import THRESHOLD
from fieldmark.data.tables import ImageTable

# An object that is the whole image leaves nothing to swap.
MOST_COVERED = 0.9


@dataclass(frozen=True, eq=False, kw_only=True)
class ChosenObjects:
    """Objects to lay on scenes.

    Attributes:
        foregrounds: U objects, each with its photograph and mask; the first so many of them are
            spread evenly over the groups too.
        rows: of the table.
        faults: how many images were left out, by reason.
    """

    foregrounds: Foregrounds
    rows: tuple[int, ...]
    faults: Mapping[str, int]


def choose_objects(
    table: ImageTable,
    masks: Sequence[Path | None],
    *,
    count: int,
    settings: CovarSettings,
    seed: int,
) -> ChosenObjects:
    """Choose objects evenly over the groups, each id once, and leave out what cannot be used.

    Args:
        table: the images.
        masks: of the images, None where there is none.
        count: objects at most.
        settings: sizes at which an object must be visible.
        seed: of the draw.
    """
    rows: list[int] = []
    faults: Counter[str] = Counter()
    held: set[str] = set()
    # In order, so that a group whose images are bad gives way to the others.
    for row in order_evenly(table, seed=seed):
        item = name_object(table, row)
        if len(rows) == count:
            break
        if item in held:
            continue
        fault = _find_fault(table, masks[row], row=row, settings=settings)
        if fault:
            faults[fault] += 1
            continue
        held.add(item)
        rows.append(row)
    return ChosenObjects(
        foregrounds=_take_foregrounds(table, masks, rows), rows=tuple(rows), faults=faults
    )


def name_object(table: ImageTable, row: int) -> str:
    """Return the id of an image's object; where it has none, the image's own."""
    return (table.objects[row] if table.objects else "") or table.ids[row]


def order_evenly(table: ImageTable, *, seed: int) -> list[int]:
    """Return all rows in an order drawn by seed: classes take turns, and in each its groups do.

    Example:
        >>> table = ImageTable(name="t", root=Path(), ids=("a", "b", "c"), paths=(Path(),) * 3,
        ...     labels=np.array([0, 0, 1]), classes=("x", "y"))
        >>> sorted(table.labels[order_evenly(table, seed=0)[:2]].tolist())
        [0, 1]
    """
    groups, lines = table.group_ids(), dict[int, list[list[int]]]()
    for label in np.unique(table.labels).tolist():
        for group in np.unique(groups[table.labels == label]).tolist():
            rows = np.flatnonzero((table.labels == label) & (groups == group))
            drawn = generator(seed, "swap objects", label, group).permutation(rows).tolist()
            lines.setdefault(label, []).append(drawn)
    classes = generator(seed, "swap classes").permutation(sorted(lines)).tolist()
    return _take_turns([_take_turns(lines[label]) for label in classes])


def _take_turns(lines: Sequence[Sequence[int]]) -> list[int]:
    ranked = [(turn, k, row) for k, line in enumerate(lines) for turn, row in enumerate(line)]
    return [row for _, _, row in sorted(ranked)]


def _find_fault(table: ImageTable, mask: Path | None, *, row: int, settings: CovarSettings) -> str:
    """Return why an object cannot be used, nothing where it can."""
    if mask is None:
        return "have no mask"
    try:
        covered = float((np.asarray(read_grey(mask)) > THRESHOLD).mean())
    except InputError:
        return "have a mask that cannot be read"
    if not covered:
        return "have an empty mask"
    if covered > MOST_COVERED:
        return f"show the object on more than {MOST_COVERED:.0%} of the image"
    try:
        open_actor(_take_foregrounds(table, {row: mask}, [row]), 0, settings=settings)
    except InputError:
        return "cannot be read, or have a mask of another size or too small"
    return ""


def _take_foregrounds(
    table: ImageTable, masks: Sequence[Path | None] | Mapping[int, Path], rows: Sequence[int]
) -> Foregrounds:
    return Foregrounds(
        name=table.name,
        root=table.root,
        ids=tuple(name_object(table, row) for row in rows),
        paths=tuple(table.paths[row] for row in rows),
        outlines=tuple(Outline(mask=masks[row]) for row in rows),
        labels=table.labels[list(rows)],
        classes=table.classes,
    )
