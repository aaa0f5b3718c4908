"""Which background does what: predictions it calls up, classes that suffer, and the object's size.

Table 7 of the paper lists the classes predicted most often on each background. An encoder that
likes a class predicts it everywhere, so beside that stands how much more often than on the other
backgrounds. Every object is laid on the same backgrounds, so class x background is a factorial:
what a cell lies below its class and its background alike is theirs together. Shape letters: n
images, C classes, S backgrounds, V encoders, B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.benchmarks.covar.figures import Figure, Floats, Tally, bound, tally

MOST = 3
# Edges of the object's share of the image, each twice the one before.
AREAS = (0.0, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.0)
RESAMPLES = 500


def list_predicted(
    predictions: ArrayLike,
    scenes: ArrayLike,
    *,
    count: int,
    labels: ArrayLike,
    objects: Sequence[str],
    candidates: Sequence[str],
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Return for each background what is predicted most, and what more than elsewhere.

    Args:
        predictions: (n,) candidate of each image.
        scenes: (n,) background of each image, 0 to `count` - 1.
        count: S.
        labels: (n,) class of each image.
        objects: n ids.
        candidates: their names.
        seed: of the resampling.

    Returns:
        By background: `images`; `frequent`, up to three classes with their share; `excess`, up to
        three classes whose share lies most above that on the other backgrounds, the difference
        with its interval by object. The largest of many is above its true value by chance.

    Example:
        >>> found = list_predicted([0, 1, 1, 1], [0, 0, 1, 1], count=2, labels=[0, 0, 0, 0],
        ...     objects=["a", "b", "a", "b"], candidates=["cat", "dog"])
        >>> [one["frequent"][0]["class"] for one in found]
        ['cat', 'dog']
    """
    found, scene = np.asarray(predictions, np.int64), np.asarray(scenes, np.int64)
    hits = np.zeros((count, len(candidates)))
    np.add.at(hits, (scene, found), 1)
    totals = hits.sum(axis=1)
    excess = _exceed(hits.T, totals).T
    chosen = [_rank(excess[s])[:MOST] if totals[s] else [] for s in range(count)]
    drawn = _draw_excess(
        found, scene, count=count, labels=labels, objects=objects,
        wanted=sorted({k for one in chosen for k in one}), seed=seed,
    )  # fmt: skip
    units = [len({objects[i] for i in np.flatnonzero(scene == s).tolist()}) for s in range(count)]
    records = []
    for s in range(count):
        share = hits[s] / totals[s] if totals[s] else hits[s]
        more = []
        for k in chosen[s]:
            value = float(excess[s, k])
            if value > 0:
                limits = bound(drawn[k][:, s], value, units=units[s])
                figure = Figure(value=value, interval=limits, count=int(totals[s]))
                more.append({"class": candidates[k], "share": float(share[k]), **figure.plain()})
        frequent = [k for k in _rank(share)[:MOST] if share[k] > 0]
        records.append(
            {
                "images": int(totals[s]),
                "frequent": [{"class": candidates[k], "share": float(share[k])} for k in frequent],
                "excess": more,
            }
        )
    return records


def measure_scenes(
    correct: ArrayLike,
    scenes: ArrayLike,
    *,
    count: int,
    labels: ArrayLike,
    objects: Sequence[str],
    classes: Sequence[str],
    seed: int = 0,
) -> dict[str, Any]:
    """Return the accuracy of one encoder by background, and by class x background.

    Args:
        correct: (n,) booleans.
        scenes: (n,) background of each image.
        count: S.
        labels: (n,) class of each image.
        objects: n ids.
        classes: their names.
        seed: of the resampling.

    Returns:
        `accuracy` by background with intervals; `cells` (C,S) accuracy and `images` (C,S);
        `suffering`: the ten cells that lie furthest below what their class and their background
        would say together, with the interval of that by object; none where some objects are not
        on all backgrounds. The largest of many is above its
        true value by chance.

    Example:
        >>> found = measure_scenes([1, 0], [0, 1], count=2, labels=[0, 0], objects=["a", "a"],
        ...     classes=["cat"])
        >>> found["cells"]
        [[1.0, 0.0]]
    """
    counted = tally(
        [np.asarray(correct, bool)], scenes, width=count, labels=labels, objects=objects,
        classes=len(classes), seed=seed, resamples=RESAMPLES,
    )  # fmt: skip
    cells = _share(counted.hits[0], counted.totals)
    drawn = _share(counted.drawn_hits[0], counted.drawn_totals)
    by_scene = _share(counted.hits[0].sum(axis=0), counted.totals.sum(axis=0))
    scene_draws = _share(counted.drawn_hits[0].sum(axis=1), counted.drawn_totals.sum(axis=1))
    units = counted.units.sum(axis=0)
    accuracy = [
        Figure(
            value=float(by_scene[s]),
            interval=bound(scene_draws[:, s], float(by_scene[s]), units=int(units[s]), share=True),
            count=int(counted.totals[:, s].sum()),
        ).plain()
        for s in range(count)
    ]
    return {
        "accuracy": accuracy,
        "cells": cells.tolist(),
        "images": counted.totals.astype(int).tolist(),
        "suffering": _find_suffering(cells, drawn, counted=counted, classes=classes),
    }


def measure_area(
    correct: ArrayLike,
    area: ArrayLike,
    *,
    labels: ArrayLike,
    objects: Sequence[str],
    classes: int,
    seed: int = 0,
) -> list[list[dict[str, Any]]]:
    """Return the accuracy of each encoder by the object's share of the image.

    Args:
        correct: (V,n) booleans.
        area: (n,) shares in [0, 1].
        labels: (n,) class of each image.
        objects: n ids.
        classes: how many there are.
        seed: of the resampling.

    Returns:
        V lists of the bins of `AREAS` that hold an image: `low_area`, `high_area`, `mean_area` and
        the accuracy with its interval by object.
    """
    right, share = np.asarray(correct, bool), np.asarray(area, np.float64)
    bins = np.clip(np.searchsorted(AREAS, share, side="right") - 1, 0, len(AREAS) - 2)
    counted = tally(
        right, bins, width=len(AREAS) - 1, labels=labels, objects=objects, classes=classes,
        seed=seed, resamples=RESAMPLES,
    )  # fmt: skip
    totals, drawn_totals = counted.totals.sum(axis=0), counted.drawn_totals.sum(axis=1)
    units = counted.units.sum(axis=0)
    found: list[list[dict[str, Any]]] = []
    for v in range(len(right)):
        values = _share(counted.hits[v].sum(axis=0), totals)
        drawn = _share(counted.drawn_hits[v].sum(axis=1), drawn_totals)
        line = []
        for k in np.flatnonzero(totals).tolist():
            limits = bound(drawn[:, k], float(values[k]), units=int(units[k]), share=True)
            figure = Figure(value=float(values[k]), interval=limits, count=int(totals[k]))
            area_mean = float(share[bins == k].mean())
            line.append({"low_area": AREAS[k], "high_area": AREAS[k + 1],
                         "mean_area": area_mean, **figure.plain()})  # fmt: skip
        found.append(line)
    return found


def _find_suffering(
    cells: Floats, drawn: Floats, *, counted: Tally, classes: Sequence[str]
) -> list[dict[str, Any]]:
    # With cells missing, as under a limit, effects of class and background cannot be taken apart.
    known = ~np.isnan(cells)
    if not known[known.any(axis=1)][:, known.any(axis=0)].all():
        return []
    residual, spread = _remove_effects(cells), _remove_effects(drawn)
    order = np.argsort(np.where(np.isnan(residual), np.inf, residual), axis=None)[:10]
    found = []
    for place in order.tolist():
        c, s = divmod(place, cells.shape[1])
        value = float(residual[c, s])
        if not value < 0:
            continue
        units = int(counted.units[c, s])
        figure = Figure(value=value, interval=bound(spread[:, c, s], value, units=units),
                        count=int(counted.totals[c, s]))  # fmt: skip
        found.append({"class": classes[c], "scene": s, "accuracy": float(cells[c, s]),
                      "objects": units, **figure.plain()})  # fmt: skip
    return found


def _remove_effects(cells: Floats) -> Floats:
    """Take class and background effects off (..., C, S): what is left is theirs together."""
    with np.errstate(invalid="ignore"):
        known = ~np.isnan(cells)
        filled = np.where(known, cells, 0.0)
        rows = _share(filled.sum(axis=-1), known.sum(axis=-1))[..., :, None]
        columns = _share(filled.sum(axis=-2), known.sum(axis=-2))[..., None, :]
        grand = _share(filled.sum(axis=(-2, -1)), known.sum(axis=(-2, -1)))[..., None, None]
        return np.asarray(cells - rows - columns + grand)


def _draw_excess(
    found: NDArray[np.int64],
    scene: NDArray[np.int64],
    *,
    count: int,
    labels: ArrayLike,
    objects: Sequence[str],
    wanted: Sequence[int],
    seed: int,
) -> dict[int, Floats]:
    if not wanted:
        return {}
    label = np.asarray(labels, np.int64)
    counted = tally(
        [found == k for k in wanted], scene, width=count, labels=label, objects=objects,
        classes=int(label.max()) + 1, seed=seed, resamples=RESAMPLES,
    )  # fmt: skip
    totals = counted.drawn_totals.sum(axis=1)
    return {k: _exceed(counted.drawn_hits[v].sum(axis=1), totals) for v, k in enumerate(wanted)}


def _exceed(hits: Floats, totals: Floats) -> Floats:
    """Return the share on each background (last axis) less the share on all others."""
    others = totals.sum(axis=-1, keepdims=True) - totals
    rest = hits.sum(axis=-1, keepdims=True) - hits
    excess = _share(hits, totals) - _share(rest, others)
    return np.asarray(np.nan_to_num(excess, nan=0.0))


def _rank(values: Floats) -> list[int]:
    return [int(k) for k in np.argsort(-values, kind="stable")]


def _share(hits: ArrayLike, totals: ArrayLike) -> Floats:
    above, below = np.broadcast_arrays(np.asarray(hits, np.float64), np.asarray(totals, np.float64))
    out = np.full(above.shape, np.nan)
    np.divide(above, below, out=out, where=below > 0)
    return out
