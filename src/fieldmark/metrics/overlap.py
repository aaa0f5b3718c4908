"""Which part of an image a map speaks for: the object, another object, or the background.

A map is given by regions, patches that share a value: its value on each, and how many patches of
each part of the image lie in each. Where every patch has a value of its own, patches are the
regions. Parts are the foreground first, the background last, and any other object between them.

Sources: the CCI paper, section 3.1 (the larger of two IoUs; how the map is made binary, and ties,
are not stated there), and facts/attribution.md section 5 (half of the maximum; the area-neutral
rule). Shape letters: P parts, R regions.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
MapRule = Literal["paper", "density"]

# What is not a part: two parts come to the same, or a part without which nothing can be said.
UNDECIDED, UNRESOLVABLE = -1, -2
SHARE_OF_TOP = 0.5
# Scores that differ by less are equal: sums of the same numbers in another order do.
_TOLERANCE = 1e-9


def measure_iou(values: ArrayLike, parts: ArrayLike, *, share: float = SHARE_OF_TOP) -> Floats:
    """Return the IoU of each part with the map made binary: the paper's rule.

    Args:
        values: (...,R) the map; what is at most 0 is never in.
        parts: (...,P,R) patches of each part in each region.
        share: of the map's maximum that a region must reach.

    Returns:
        (...,P) in [0, 1]; 0 for all parts where no value is above 0.

    Example:
        >>> measure_iou([1.0, 0.6, 0.1], [[1, 1, 0], [0, 2, 4]]).round(3).tolist()
        [0.5, 0.25]
    """
    maps, counts = np.asarray(values, np.float64), np.asarray(parts, np.float64)
    top = maps.max(axis=-1, keepdims=True)
    chosen = ((maps > 0) & (maps >= share * top)).astype(np.float64)
    shared = _inner(counts, chosen)
    size = (chosen * counts.sum(axis=-2)).sum(axis=-1)
    union = size[..., None] + counts.sum(axis=-1) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))


def measure_density(values: ArrayLike, parts: ArrayLike) -> Floats:
    """Return the map's mean over each part, what is below 0 taken for 0: the area-neutral rule.

    Args:
        values: (...,R) the map.
        parts: (...,P,R) patches of each part in each region.

    Returns:
        (...,P), 0 or more; NaN for a part without a patch.

    Example:
        >>> measure_density([1.0, 0.5, -1.0], [[1, 1, 0], [0, 1, 4]]).tolist()
        [0.75, 0.1]
    """
    maps = np.clip(np.asarray(values, np.float64), 0, None)
    counts = np.asarray(parts, np.float64)
    total, size = _inner(counts, maps), counts.sum(axis=-1)
    size = np.broadcast_to(size, total.shape)
    return np.asarray(np.divide(total, size, out=np.full_like(total, math.nan), where=size > 0))


def score_parts(values: ArrayLike, parts: ArrayLike, *, rule: MapRule) -> Floats:
    """Return what each part scores by a rule: (...,P), see `measure_iou` and `measure_density`."""
    if rule == "paper":
        return measure_iou(values, parts)
    return measure_density(values, parts)


def find_source(scores: ArrayLike, *, resolvable: ArrayLike = True) -> Ints:
    """Return the part with the largest score.

    Args:
        scores: (...,P); a part that is NaN is not there and cannot win.
        resolvable: (...) whether the image has both foreground and background.

    Returns:
        (...) index of the part, `UNDECIDED` where the two largest scores are equal or none is
        defined, `UNRESOLVABLE` where an image is not resolvable.

    Example:
        >>> find_source([[0.2, 0.1], [0.1, 0.1], [0.0, 0.3]], resolvable=[1, 1, 0]).tolist()
        [0, -1, -2]
    """
    known = np.asarray(scores, np.float64)
    known = np.where(np.isnan(known), -np.inf, known)
    ordered = np.sort(known, axis=-1)
    with np.errstate(invalid="ignore"):
        lead = ordered[..., -1] - ordered[..., -2]
    # No part at all leaves -inf - -inf, which is NaN and no lead either.
    clear = lead > _TOLERANCE * np.maximum(1e-3, np.abs(np.nan_to_num(ordered[..., -1])))
    found = np.where(clear, known.argmax(axis=-1), UNDECIDED)
    return np.asarray(np.where(np.asarray(resolvable, bool), found, UNRESOLVABLE), np.int64)


def is_resolvable(parts: ArrayLike) -> NDArray[np.bool_]:
    """Tell whether foreground and background have a patch each: (...,P,R) to (...).

    Example:
        >>> is_resolvable([[[0, 0], [2, 2]], [[1, 0], [1, 2]]]).tolist()
        [False, True]
    """
    sizes = np.asarray(parts).sum(axis=-1)
    return np.asarray((sizes[..., 0] > 0) & (sizes[..., -1] > 0))


def count_regions(clusters: ArrayLike, parts: ArrayLike, *, regions: int) -> Floats:
    """Count the patches of each part in each cluster.

    Args:
        clusters: (...,N) cluster of each patch, 0 to `regions` - 1.
        parts: (...,P,N) whether a patch belongs to a part.
        regions: how many clusters there are.

    Returns:
        (...,P,regions).

    Example:
        >>> count_regions([0, 0, 1], [[1, 0, 0], [0, 1, 1]], regions=2).tolist()
        [[1.0, 0.0], [1.0, 1.0]]
    """
    member = np.asarray(clusters)[..., None] == np.arange(regions)
    return np.asarray(np.asarray(parts, np.float64) @ member.astype(np.float64))


def correct_for_chance(observed: ArrayLike, null: ArrayLike, *, ceiling: ArrayLike = 1.0) -> Floats:
    """Return (observed - null) / (ceiling - null), NaN where chance leaves no room.

    Args:
        observed: a share.
        null: the share that chance gives.
        ceiling: the largest share there can be, below 1 where some images are not resolvable.

    Example:
        >>> correct_for_chance([0.9, 1.0], [0.8, 1.0]).round(3).tolist()
        [0.5, nan]
    """
    share, chance = np.asarray(observed, np.float64), np.asarray(null, np.float64)
    room = np.asarray(ceiling, np.float64) - chance
    share, room = np.broadcast_arrays(share - chance, room)
    undefined = np.full(room.shape, math.nan)
    return np.asarray(np.divide(share, room, out=undefined, where=room > _TOLERANCE))


def _inner(counts: Floats, values: Floats) -> Floats:
    return np.asarray((counts * values[..., None, :]).sum(axis=-1))
