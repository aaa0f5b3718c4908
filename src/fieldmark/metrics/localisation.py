"""How well a map finds the object: energy in the mask, pointing game, IoU, precision, AUROC.

Everything is per image, and NaN where it says nothing: where the mask is empty or full, and where
the map is not finite. A map may tie, as those of clusters do, so that whatever would pick one of
several equal cells is given as the expectation over a random pick; counting a hit if any of them
hits, as is common, favours maps with few values (facts/attribution.md section 1).

Shape letters: n images, h and w rows and columns, N cells.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import hypergeom, rankdata

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
# Share of a cell from which on it counts as the object's.
LEAST_SHARE = 0.5


class Localisation(NamedTuple):
    """How well maps find objects, (n,) each; NaN where undefined.

    Attributes:
        energy: share of the positive map inside the mask, in [0, 1].
        pointing: chance that the highest cell is the object's.
        iou: of the object and as many of the highest cells, in [0, 1].
        average_precision: of the cells ranked by the map.
        auroc: chance that a cell of the object is higher than one of the rest.
        area: share of the image that the mask covers, in [0, 1]: what energy, pointing and average
            precision are for a map that knows nothing. Never NaN.
    """

    energy: Floats
    pointing: Floats
    iou: Floats
    average_precision: Floats
    auroc: Floats
    area: Floats


def measure_localisation(maps: ArrayLike, masks: ArrayLike) -> Localisation:
    """Measure everything of this module.

    Args:
        maps: (n,h,w), the higher the more important.
        masks: (n,h,w) in [0, 1]. `energy` takes shares as they are; for the rest a cell is the
            object's from 0.5 on.

    Raises:
        ValueError: the shapes differ, or a mask is not in [0, 1].

    Example:
        >>> found = measure_localisation([[[3.0, 1.0], [0.0, -1.0]]], [[[1, 0], [0, 0]]])
        >>> float(found.energy[0]), float(found.pointing[0]), float(found.iou[0])
        (0.75, 1.0, 1.0)
        >>> float(found.area[0])
        0.25
    """
    return Localisation(
        energy=energy_in_mask(maps, masks),
        pointing=pointing_game(maps, masks),
        iou=iou_at_area(maps, masks),
        average_precision=average_precision(maps, masks),
        auroc=auroc(maps, masks),
        area=_read(maps, masks)[1].mean(axis=1),
    )


def energy_in_mask(maps: ArrayLike, masks: ArrayLike) -> Floats:
    """Return the share of the positive part of each map that is inside its mask (n,).

    Args:
        maps: (n,h,w). NaN where nothing is positive.
        masks: (n,h,w) in [0, 1], soft or hard.

    Raises:
        ValueError: the shapes differ, or a mask is not in [0, 1].

    Example:
        >>> energy_in_mask([[[3.0, 1.0]], [[-1.0, 0.0]]], [[[1, 0]], [[1, 0]]]).tolist()
        [0.75, nan]
    """
    values, mask, finite = _read(maps, masks)
    positive = np.clip(np.where(np.isfinite(values), values, 0), 0, None)
    # Divided by the top first, so that the sum of large values does not overflow.
    top = positive.max(axis=1, initial=0)
    positive = np.divide(
        positive, top[:, None], out=np.zeros_like(positive), where=top[:, None] > 0
    )
    mass = positive.sum(axis=1)
    partly = (mask.max(axis=1, initial=0) > 0) & (mask.min(axis=1, initial=1) < 1)
    defined = finite & partly & (mass > 0)
    inside = (positive * mask).sum(axis=1)
    return np.asarray(np.divide(inside, mass, out=np.full(len(mass), np.nan), where=defined))


def pointing_game(maps: ArrayLike, masks: ArrayLike) -> Floats:
    """Return the chance that a cell picked among the highest of each map is the object's (n,).

    Example:
        >>> pointing_game([[[2.0, 2.0, 1.0]]], [[[1, 0, 0]]]).tolist()
        [0.5]
    """
    result = []
    for values, hits in _rows(maps, masks):
        result.append(math.nan if hits is None else float(hits[values == values.max()].mean()))
    return np.array(result)


def iou_at_area(maps: ArrayLike, masks: ArrayLike) -> Floats:
    """Return the IoU of each mask and as many of the highest cells of its map (n,).

    No threshold has to be chosen. Where equal cells compete for the last places, it is the
    expectation over which of them get in.

    Example:
        >>> iou_at_area([[[2.0, 1.0, 1.0, 0.0]]], [[[1, 1, 0, 0]]]).round(4).tolist()
        [0.6667]
    """
    return np.array(
        [
            math.nan if hits is None else _expect_iou(values, hits)
            for values, hits in _rows(maps, masks)
        ]
    )


def _expect_iou(values: Floats, hits: Flags) -> float:
    size = int(hits.sum())
    cut = np.partition(values, -size)[-size]
    above, tied = values > cut, values == cut
    sure, among = int(hits[above].sum()), int(hits[tied].sum())
    ties, places = int(tied.sum()), size - int(above.sum())
    more = np.arange(max(0, places - ties + among), min(places, among) + 1)
    shared = sure + more
    chance = hypergeom.pmf(more, ties, among, places) if len(more) > 1 else np.ones(1)
    return float((chance * shared / (2 * size - shared)).sum() / chance.sum())


def average_precision(maps: ArrayLike, masks: ArrayLike) -> Floats:
    """Return the average precision of finding the object's cells by the map (n,).

    Equal cells are found together: AP = sum (R_i - R_i-1) P_i over the distinct values. A constant
    map has the object's share of the cells.

    Example:
        >>> average_precision([[[3.0, 2.0, 1.0]]], [[[1, 0, 1]]]).round(4).tolist()
        [0.8333]
    """
    result = []
    for values, hits in _rows(maps, masks):
        if hits is None:
            result.append(math.nan)
            continue
        _, level, sizes = np.unique(-values, return_inverse=True, return_counts=True)
        found = np.bincount(level, weights=hits, minlength=len(sizes))
        precision = found.cumsum() / sizes.cumsum()
        result.append(float((found * precision).sum() / hits.sum()))
    return np.array(result)


def auroc(maps: ArrayLike, masks: ArrayLike) -> Floats:
    """Return the chance that one of the object's cells is higher than one of the rest (n,).

    Equal cells count half.

    Example:
        >>> auroc([[[3.0, 2.0, 2.0]]], [[[0, 1, 0]]]).tolist()
        [0.25]
    """
    result = []
    for values, hits in _rows(maps, masks):
        if hits is None:
            result.append(math.nan)
            continue
        inside, outside = int(hits.sum()), int((~hits).sum())
        above = float(rankdata(values)[hits].sum()) - inside * (inside + 1) / 2
        result.append(above / (inside * outside))
    return np.array(result)


def correlate_ranks(first: ArrayLike, second: ArrayLike) -> Floats:
    """Return Spearman's rank correlation of each pair of maps (n,), equal cells at their mean rank.

    Args:
        first: (n,h,w). NaN where a map is constant or not finite.
        second: (n,h,w).

    Raises:
        ValueError: the shapes differ.

    Example:
        >>> correlate_ranks([[[1.0, 2.0, 4.0]]] * 2, [[[0.1, 0.2, 9.0]], [[1.0, 1.0, 1.0]]])
        array([ 1., nan])
    """
    left, right = np.asarray(first, np.float64), np.asarray(second, np.float64)
    if left.shape != right.shape or left.ndim != 3:
        raise ValueError(f"maps {left.shape} and maps {right.shape} must both be (n,h,w)")
    finite = np.isfinite(left).all(axis=(1, 2)) & np.isfinite(right).all(axis=(1, 2))
    cells = math.prod(left.shape[1:])
    ranks = [rankdata(part.reshape(len(part), cells), axis=1) for part in (left, right)]
    centred = [part - part.mean(axis=1, keepdims=True) for part in ranks]
    norms = np.prod([np.sqrt((part**2).sum(axis=1)) for part in centred], axis=0)
    product = (centred[0] * centred[1]).sum(axis=1)
    out = np.full(len(left), np.nan)
    return np.asarray(np.divide(product, norms, out=out, where=finite & (norms > 0)).clip(-1, 1))


def _read(maps: ArrayLike, masks: ArrayLike) -> tuple[Floats, Floats, Flags]:
    """Return maps and masks as (n,N), and which maps are finite (n,)."""
    values, mask = np.asarray(maps, np.float64), np.asarray(masks, np.float64)
    if values.shape != mask.shape or values.ndim != 3:
        raise ValueError(f"maps {values.shape} and masks {mask.shape} must both be (n,h,w)")
    if not ((mask >= 0) & (mask <= 1)).all():
        raise ValueError("a mask is not in [0, 1]")
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    return flat, mask.reshape(flat.shape), np.asarray(np.isfinite(flat).all(axis=1))


def _rows(maps: ArrayLike, masks: ArrayLike) -> list[tuple[Floats, Flags | None]]:
    """Return each map with its object's cells, None where these or the map say nothing."""
    values, mask, finite = _read(maps, masks)
    hits = mask >= LEAST_SHARE
    defined = finite & hits.any(axis=1) & ~hits.all(axis=1)
    return [
        (row, hit if good else None) for row, hit, good in zip(values, hits, defined, strict=True)
    ]
