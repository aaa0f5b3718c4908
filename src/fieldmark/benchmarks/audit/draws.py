"""Which images an audit draws: evenly over groups and objects, and halves by object."""

from __future__ import annotations

import numpy as np

from fieldmark.core.seeds import derive_seed
from fieldmark.data.tables import ImageTable

TRAIN, TEST = "train", "test"


def draw_evenly(table: ImageTable, most: int, *, seed: int) -> list[int]:
    """Draw rows so that groups take turns, and objects within each: at most `most`, in order.

    Args:
        table: the images.
        most: how many.
        seed: of the draw; more rows contain those of fewer.
    """
    groups, objects = table.group_ids().tolist(), name_objects(table)
    drawn = sorted(
        range(len(table)), key=lambda row: (derive_seed(seed, "audit", table.ids[row]), row)
    )
    again: dict[tuple[int, str], int] = {}
    rounds = []
    for row in drawn:
        key = (groups[row], objects[row])
        again[key] = again.get(key, -1) + 1
        rounds.append((again[key], row))
    turns: dict[int, int] = {}
    ranked = []
    for place, (_, row) in enumerate(sorted(rounds, key=lambda one: one[0])):
        turns[groups[row]] = turns.get(groups[row], -1) + 1
        ranked.append((turns[groups[row]], place, row))
    return sorted(row for _, _, row in sorted(ranked)[:most])


def name_objects(table: ImageTable) -> tuple[str, ...]:
    """Return the object of each image; one without an id stands for itself."""
    return tuple(of or own for of, own in zip(table.objects or table.ids, table.ids, strict=True))


def split_halves(table: ImageTable, *, seed: int) -> tuple[str, ...]:
    """Split objects into `train` and `test`, half of each class; images of an object stay together.

    Example:
        >>> from pathlib import Path
        >>> table = ImageTable(
        ...     name="t", root=Path(), ids=("a", "b", "c", "d"), paths=(Path(),) * 4,
        ...     labels=np.zeros(4, np.int64), classes=("bird",), objects=("owl", "owl", "hen", ""),
        ... )
        >>> halves = split_halves(table, seed=0)
        >>> halves[0] == halves[1], sorted(set(halves))
        (True, ['test', 'train'])
    """
    objects = name_objects(table)
    side: dict[str, str] = {}
    for label in range(len(table.classes)):
        rows = np.flatnonzero(table.labels == label).tolist()
        fresh = {objects[row] for row in rows} - side.keys()
        order = sorted(fresh, key=lambda name: (derive_seed(seed, "halves", name), name))
        for place, name in enumerate(order):
            side[name] = (TRAIN, TEST)[place % 2]
    return tuple(side[name] for name in objects)
