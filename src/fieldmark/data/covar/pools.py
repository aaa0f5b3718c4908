"""Which objects and scenes of the pools a COVAR is built with."""

from __future__ import annotations

import numpy as np

from fieldmark.core.errors import InputError
from fieldmark.core.seeds import derive_seed
from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.covar.settings import CovarSettings
from fieldmark.data.foregrounds import Foregrounds


def choose_objects(foregrounds: Foregrounds, *, settings: CovarSettings) -> Foregrounds:
    """Return the objects to build with: of each class so many, drawn by their ids.

    Raises:
        InputError: there is none.
    """
    if not len(foregrounds):
        raise InputError("the foreground pool is empty", mend="put images into it")
    count = settings.objects_per_class
    if count is None:
        return foregrounds
    by_class: dict[int, list[int]] = {}
    for index, label in enumerate(foregrounds.labels.tolist()):
        by_class.setdefault(label, []).append(index)
    drawn: list[int] = []
    for indices in by_class.values():
        drawn += sorted(
            indices, key=lambda i: derive_seed(settings.seed, "object", foregrounds.ids[i])
        )[:count]
    return foregrounds.take(sorted(drawn))


def choose_scenes(backgrounds: Backgrounds, *, settings: CovarSettings) -> Backgrounds:
    """Return the scenes to build with, drawn by their ids, one of each category in turn.

    Raises:
        InputError: there are fewer than asked for.
    """
    count = settings.backgrounds_per_object
    if len(backgrounds) < count:
        raise InputError(
            f"the background pool has {len(backgrounds)} scenes, {count} are asked for",
            where=backgrounds.name,
            mend=f"add scenes, or give --backgrounds-per-object {len(backgrounds)} or fewer",
        )
    seeds = [derive_seed(settings.seed, "scene", name) for name in backgrounds.ids]
    turns = np.zeros(len(seeds), np.int64)
    taken: dict[int, int] = {}
    for index in np.argsort(np.array(seeds), kind="stable").tolist():
        category = int(backgrounds.category_ids[index])
        turns[index] = taken.get(category, 0)
        taken[category] = turns[index] + 1
    order = sorted(range(len(seeds)), key=lambda i: (turns[i], seeds[i]))
    return backgrounds.take(sorted(order[:count]))
