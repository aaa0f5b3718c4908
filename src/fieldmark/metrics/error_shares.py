"""Shares of error sources, each beside its null and corrected for it, with clustered intervals.

The published percentages are shares of the errors, not of the images (facts/attribution.md section
5); both are given here. What is not resolvable or not decided has a share of its own, so that the
shares of the errors sum to 1. Shape letters: n images, S sources.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.core.seeds import generator
from fieldmark.metrics.intervals import UNDEFINED, Interval, correct_bias, wilson_interval
from fieldmark.metrics.overlap import UNDECIDED, UNRESOLVABLE, Floats, Ints, correct_for_chance

BACKGROUND, FINE_GRAINED, FOREGROUND = "background", "fine-grained", "foreground"
OTHER_OBJECT, NOT_DECIDED, NOT_RESOLVED = "other object", "undecided", "unresolvable"
SOURCES = (BACKGROUND, FINE_GRAINED, FOREGROUND, OTHER_OBJECT, NOT_DECIDED, NOT_RESOLVED)
RESAMPLES = 2000
_CHUNK = 100


@dataclass(frozen=True, kw_only=True)
class SourceShare:
    """How often one source was found among some images.

    Attributes:
        source: its name.
        hits: images that have it.
        of: images behind the share, whether resolvable or not.
        share: hits / of; NaN without an image.
        interval: of the share, over objects.
        null: the share that chance gives; NaN where it was not measured.
        corrected: (share - null) / (resolvable share - null): how far beyond chance, 1 at most.
        corrected_interval: of that, over objects.
        of_images: share of all images instead of these; `corrected_of_images` is what of it is
            beyond chance.
        corrected_of_images: `corrected` times the share of all images that is here and resolvable.
    """

    source: str
    hits: int
    of: int
    share: float
    interval: Interval
    null: float
    corrected: float
    corrected_interval: Interval
    of_images: float
    corrected_of_images: float


def split_sources(
    verdicts: ArrayLike, *, parts: int, similar: ArrayLike | None = None
) -> Mapping[str, NDArray[np.bool_]]:
    """Split verdicts into sources, of which each image has exactly one.

    Args:
        verdicts: (n,) part of each image, or `UNDECIDED` or `UNRESOLVABLE`.
        parts: how many parts there are, the foreground first and the background last.
        similar: (n,) whether truth and prediction are alike; a foreground error of such a pair is
            fine-grained. None where nobody knows: then all stay foreground.

    Example:
        >>> found = split_sources([0, 0, 1, -2], parts=2, similar=[True, False, True, True])
        >>> [name for name in found if found[name][0]], int(found["background"].sum())
        (['fine-grained'], 1)
    """
    found = np.asarray(verdicts, np.int64)
    alike = np.zeros(found.shape, bool) if similar is None else np.asarray(similar, bool)
    return {
        BACKGROUND: found == parts - 1,
        FINE_GRAINED: (found == 0) & alike,
        FOREGROUND: (found == 0) & ~alike,
        OTHER_OBJECT: (found > 0) & (found < parts - 1),
        NOT_DECIDED: found == UNDECIDED,
        NOT_RESOLVED: found == UNRESOLVABLE,
    }


def split_null(null: ArrayLike, *, similar: ArrayLike | None = None) -> Mapping[str, Floats]:
    """Split what chance gives each part into what it gives each source.

    Args:
        null: (n,P) share of draws that each part wins; zero for an image that is not resolvable.
        similar: as for `split_sources`.

    Example:
        >>> {k: v.tolist() for k, v in split_null([[0.25, 0.75]], similar=[True]).items()}
        {'background': [0.75], 'fine-grained': [0.25], 'foreground': [0.0], 'other object': [0.0]}
    """
    drawn = np.asarray(null, np.float64)
    alike = np.zeros(len(drawn), bool) if similar is None else np.asarray(similar, bool)
    return {
        BACKGROUND: drawn[:, -1],
        FINE_GRAINED: np.where(alike, drawn[:, 0], 0.0),
        FOREGROUND: np.where(alike, 0.0, drawn[:, 0]),
        OTHER_OBJECT: drawn[:, 1:-1].sum(axis=1),
    }


def summarise_sources(
    verdicts: ArrayLike,
    chosen: ArrayLike,
    *,
    parts: int,
    null: ArrayLike | None = None,
    similar: ArrayLike | None = None,
    objects: Sequence[object] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> tuple[SourceShare, ...]:
    """Return the share of each source among the chosen images, such as the errors.

    Args:
        verdicts: (n,) of all images, see `split_sources`.
        chosen: (n,) whether an image counts.
        parts: how many parts there are.
        null: (n,P) what chance gives each part, by image; None where it was not measured.
        similar: (n,) whether truth and prediction are alike.
        objects: n ids of the object in each image, drawn together; None for one each.
        seed: of the resampling.
        resamples: how many are drawn.

    Returns:
        One for each of `SOURCES`; their shares sum to 1 where an image is chosen.

    Raises:
        ValueError: the arrays differ in length.

    Example:
        >>> found = summarise_sources([1, 0, 1, 1], [1, 1, 1, 0], parts=2, null=[[0.5, 0.5]] * 4)
        >>> found[0].source, found[0].hits, found[0].of, round(found[0].corrected, 3)
        ('background', 2, 3, 0.333)
    """
    found, inside = np.asarray(verdicts, np.int64), np.asarray(chosen, bool)
    units = np.arange(len(found)) if objects is None else _number(objects)
    if not len(found) == len(inside) == len(units):
        raise ValueError(f"{len(found)} verdicts, {len(inside)} choices, {len(units)} objects")
    sources = split_sources(found, parts=parts, similar=similar)
    chance = {} if null is None else split_null(null, similar=similar)
    columns = [inside, inside & (found != UNRESOLVABLE)]
    columns += [inside & part for part in sources.values()]
    columns += [np.where(inside, chance.get(name, math.nan), 0.0) for name in sources]
    table = np.stack([np.asarray(column, np.float64) for column in columns], axis=1)
    drawn = _resample(table, units, seed=seed, size=resamples)
    total, number = table.sum(axis=0), len(np.unique(units[inside]))
    return tuple(
        _make_share(name, place, total=total, drawn=drawn, units=number, images=len(found))
        for place, name in enumerate(sources)
    )


def _make_share(
    name: str, place: int, *, total: Floats, drawn: Floats, units: int, images: int
) -> SourceShare:
    share, null, corrected = (float(x) for x in _take(total, place))
    ceiling = float(total[1] / total[0]) if total[0] else math.nan
    shares, _, corrections = _take(drawn, place)
    beyond = corrected * total[1] / images if images else math.nan
    return SourceShare(
        source=name,
        hits=round(total[2 + place]),
        of=round(total[0]),
        share=share,
        interval=_bound(shares, share, units=units),
        null=null,
        corrected=corrected,
        corrected_interval=_bound_corrected(
            corrections, corrected, (share, null, ceiling), units=units
        ),
        of_images=float(total[2 + place] / images) if images else math.nan,
        corrected_of_images=float(beyond),
    )


def _take(sums: Floats, place: int) -> tuple[Floats, Floats, Floats]:
    """Return share, null and corrected share of a source from the sums of all columns."""
    of, resolvable = sums[..., 0], sums[..., 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = sums[..., 2 + place] / of
        null = sums[..., 2 + len(SOURCES) + place] / of
        ceiling = resolvable / of
    return share, null, correct_for_chance(share, null, ceiling=ceiling)


def _resample(table: Floats, units: Ints, *, seed: int, size: int) -> Floats:
    """Return the sums of each column over `size` draws of as many objects as there are."""
    if not len(table):
        return np.zeros((0, table.shape[1]))
    chosen = table[:, 0] > 0
    number = _number(units[chosen].tolist())
    count = int(number.max(initial=-1)) + 1
    sums = np.zeros((count, table.shape[1]))
    np.add.at(sums, number, table[chosen])
    random = generator(seed, "error sources")
    drawn = []
    for start in range(0, size if count else 0, _CHUNK):
        rows = min(_CHUNK, size - start)
        drawn.append(random.multinomial(count, np.full(count, 1 / count), size=rows) @ sums)
    return np.concatenate(drawn) if drawn else np.zeros((0, table.shape[1]))


def _bound(samples: Floats, value: float, *, units: int) -> Interval:
    if math.isnan(value) or not len(samples):
        return UNDEFINED
    if np.ptp(samples) == 0:
        return wilson_interval(value * units, units)
    return correct_bias(samples, value)


def _bound_corrected(
    samples: Floats, value: float, at: tuple[float, float, float], *, units: int
) -> Interval:
    """Bound a corrected share; where nothing varies, by Wilson's interval of the share.

    That is then the share of what is resolvable, `ceiling` of all: the rest has no say in it.
    """
    known = samples[~np.isnan(samples)]
    if math.isnan(value) or not len(known):
        return UNDEFINED
    if np.ptp(known) > _FLAT:
        return correct_bias(known, value)
    share, null, ceiling = at
    among = wilson_interval(share * units, ceiling * units)
    ends = correct_for_chance(list(among), null / ceiling)
    return Interval(*ends.tolist())


_FLAT = 1e-12


def _number(values: Sequence[object]) -> Ints:
    codes: dict[object, int] = {}
    return np.asarray([codes.setdefault(value, len(codes)) for value in values], np.int64)
