"""Any kind of number gives what its exact type gives: files and tables hold codes as floats.

Codes come as floats, flags as counts (2 regions are "some"), figures in single precision. What
comes out has the documented type and is worked in double precision throughout.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from fieldmark.metrics.aligned_gap import find_usual, measure_aligned_gap
from fieldmark.metrics.averaging import average_first, fit_decay, measure_residuals
from fieldmark.metrics.background_gap import estimate_mean, flip_signs, tabulate_objects
from fieldmark.metrics.cluster_gaps import mark_presence, permute_gaps, tabulate_gaps
from fieldmark.metrics.curves import area_under, contrast_means, draw_means, estimate_means
from fieldmark.metrics.error_shares import split_null, split_sources, summarise_sources
from fieldmark.metrics.groups import count_groups, summarise_groups
from fieldmark.metrics.influence import (
    find_strongest_regions,
    find_tied_labels,
    measure_influence,
    measure_precision,
)
from fieldmark.metrics.intervals import (
    compare_worst_groups,
    correct_bias,
    estimate_groups,
    mean_and_deviation,
)
from fieldmark.metrics.invariance import (
    measure_residual_variance,
    measure_sensitivity,
    summarise_additivity,
)
from fieldmark.metrics.localisation import correlate_ranks, measure_localisation
from fieldmark.metrics.overlap import (
    correct_for_chance,
    count_regions,
    find_source,
    measure_density,
    measure_iou,
)
from fieldmark.metrics.regions import number_image_groups, summarise_images, summarise_regions
from fieldmark.metrics.resampling import (
    Draws,
    compute_figures,
    draw_counts,
    tabulate_units,
)
from fieldmark.metrics.similarity import Spread, pair_cosines, standardise_pairs

RANDOM = np.random.default_rng(11)
CODES = np.array([0, 1, 1, 0, 2, 2, 0, 1])
FLAGS = np.array([1, 0, 1, 1, 0, 0, 1, 0], bool)
OTHERS = np.array([0, 0, 1, 0, 1, 1, 1, 0], bool)
BITS = np.array([[1, 0], [0, 1], [1, 1], [0, 0], [1, 0], [0, 1], [1, 1], [0, 0]], bool)
ROWS = RANDOM.normal(size=(3, 8))
CUBE = RANDOM.normal(size=(3, 4, 2))
MASKS = np.array([[[1, 0], [0.3, 0.6], [0, 0], [0.1, 1]]] * 3)
SHARES = np.abs(ROWS[:, :8].T) / 9
COUNTS = np.array([[[2, 0, 1, 3], [1, 1, 4, 0]]] * 3, float)
MAPS = np.abs(ROWS[:, :4])
GAPS = np.array([[0.5, -0.25, 0.0], [-0.5, 0.125, -0.25]])
NAMES = list("aabbccdd")

CASES: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "usual": (find_usual, [np.repeat([0, 1], 9), np.repeat([1, 0], [8, 10])]),
    "aligned gap": (
        lambda f, c, s: measure_aligned_gap(f, c, s, resamples=50),
        [BITS[:, 0], CODES * 0, OTHERS * 1],
    ),
    "residuals": (
        lambda v, d: measure_residuals(v, d, sizes=[1, 2]),
        [ROWS.T, CODES.reshape(2, 4)],
    ),
    "decay": (lambda r: fit_decay(r, sizes=[1, 2, 4]), [np.abs(ROWS.T)]),
    "average first": (lambda e: average_first(e, sizes=[1, 3]), [CUBE]),
    "objects": (
        lambda p, o, k: tabulate_objects(p, other=o, objects=NAMES, labels=k),
        [CODES, OTHERS, np.repeat([0, 1], 4)],
    ),
    "object mean": (
        lambda v, k: estimate_mean(v, k, share=False, resamples=50),
        [ROWS[0] / 4, CODES],
    ),
    "sign flips": (flip_signs, [ROWS[0]]),
    "presence": (lambda i, c: mark_presence(i, c, count=8, width=3), [np.arange(8), CODES - 1]),
    "gap table": (lambda p, k, r: tabulate_gaps(p, k, correct=r, width=3), [BITS, CODES, FLAGS]),
    "gap chance": (
        lambda p, k, r: permute_gaps(p, k, correct=r, width=3, permutations=9),
        [BITS, CODES, FLAGS],
    ),
    "area": (area_under, [ROWS[:, :3], np.array([0.0, 0.3, 1.0])]),
    "drawn means": (lambda v: draw_means(v, NAMES, size=20), [ROWS]),
    "means": (lambda v: estimate_means(v, NAMES, size=20), [ROWS]),
    "contrasts": (lambda v: contrast_means(v, NAMES, pairs=[(0, 1), (1, 2)], size=20), [ROWS]),
    "sources": (lambda v, s: split_sources(v, parts=3, similar=s), [CODES - 1, FLAGS]),
    "null": (lambda n, s: split_null(n, similar=s), [SHARES, FLAGS]),
    "shares": (
        lambda v, c, n, s: summarise_sources(v, c, parts=3, null=n, similar=s, resamples=50),
        [CODES, OTHERS, SHARES, FLAGS],
    ),
    "group counts": (count_groups, [FLAGS, CODES]),
    "group summary": (summarise_groups, [FLAGS, CODES]),
    "strongest regions": (
        lambda s, i, p: find_strongest_regions(s, i, predictions=p),
        [ROWS.T, CODES, CODES[:3]],
    ),
    "influence": (
        lambda b, s, k, p, o: measure_influence(b, s, labels=k, predictions=p, gaps=GAPS, skip=o),
        [BITS, CODES % 2, CODES, CODES[::-1].copy(), OTHERS],
    ),
    "tied labels": (
        lambda g, m: find_tied_labels(g, np.asarray(m)),
        [GAPS, np.array([[1, 0, 2], [0, 3, 1]])],
    ),
    "precision": (measure_precision, [FLAGS]),
    "group estimates": (lambda f, g: estimate_groups(f, g, resamples=50), [FLAGS, CODES]),
    "difference": (
        lambda f, s, g: compare_worst_groups(f, s, g, resamples=50),
        [FLAGS, OTHERS, CODES],
    ),
    "bias": (lambda v: correct_bias(v, 0.1), [ROWS[0]]),
    "deviation": (mean_and_deviation, [ROWS[0]]),
    "sensitivity": (lambda v: measure_sensitivity(v, [0] * 8, [0, 1] * 4), [ROWS.T]),
    "additivity": (summarise_additivity, [ROWS, ROWS[::-1].copy(), ROWS**2]),
    "residual variance": (
        lambda e, m: measure_residual_variance(e, m, sizes=[1, 2]),
        [CUBE, CUBE[0, 0]],
    ),
    "localisation": (measure_localisation, [CUBE, MASKS]),
    "rank correlation": (correlate_ranks, [CUBE, CUBE[::-1].copy() ** 2]),
    "iou": (measure_iou, [MAPS, COUNTS]),
    "density": (measure_density, [MAPS, COUNTS]),
    "source": (lambda s, f: find_source(s, resolvable=f), [ROWS.T, FLAGS]),
    "regions": (lambda p: count_regions([0, 1, 0, 1], p, regions=2), [COUNTS[0] + 0.5]),
    "beyond chance": (
        lambda o, n, c: correct_for_chance(o, n, ceiling=c),
        [SHARES[0], SHARES[1] / 3, SHARES[2]],
    ),
    "image groups": (number_image_groups, [CODES, FLAGS]),
    "images": (
        lambda p, k, s: summarise_images(p, k, spurious=s, classes=3),
        [CODES, CODES[::-1].copy(), FLAGS],
    ),
    "region accuracy": (
        lambda p, k, o, i: summarise_regions(p, k, owners=o, image_labels=i, classes=3),
        [CODES, CODES[::-1].copy(), CODES, CODES[:3]],
    ),
    "counts drawn": (
        lambda h, t: draw_counts(h, t, size=9, random=np.random.default_rng(0)),
        [np.array([1, 2]), np.array([3, 2])],
    ),
    "units": (
        lambda r, c: tabulate_units(r, c, width=3, clusters=NAMES, strata=CODES),
        [np.stack([FLAGS, OTHERS]) * 1, CODES],
    ),
    "figures": (
        lambda w: compute_figures(Draws(np.array([[1.0, 2.0]]), np.array([[2.0, 3.0]])), weights=w),
        [np.array([1.0, 3.0]) / 8],
    ),
    "cosines": (pair_cosines, [ROWS]),
    "standardised": (lambda c: standardise_pairs(c, spread=Spread(0.1, 0.7, 3)), [ROWS[:, :3]]),
}


def flatten(found: Any) -> list[Any]:
    if dataclasses.is_dataclass(found):
        return flatten([getattr(found, field.name) for field in dataclasses.fields(found)])
    if isinstance(found, Mapping):
        return flatten([*found.keys(), *found.values()])
    if isinstance(found, list | tuple):
        return [leaf for part in found for leaf in flatten(part)]
    return [found]


def loosen(values: np.ndarray) -> Any:
    """Write flags as counts, codes as floats, figures in single precision."""
    if values.dtype == bool:
        return (2 * values).tolist()
    if values.dtype.kind == "i":
        return values.astype(float).tolist()
    return values.astype(np.float32)


@pytest.mark.parametrize("case", CASES)
def test_codes_as_floats_flags_as_counts_and_single_precision_give_the_same(case):
    measure, given = CASES[case]
    loose = flatten(measure(*map(loosen, given)))
    # Figures are rounded to single precision here too, so that both ways are given the same.
    exact = flatten(measure(*(np.asarray(loosen(part)).astype(part.dtype) for part in given)))
    assert len(exact) == len(loose) > 0
    for one, other in zip(exact, loose, strict=True):
        if isinstance(one, np.ndarray):
            assert one.dtype == other.dtype
            assert one.dtype in (np.int64, np.float64, np.bool_)
            assert np.array_equal(one, other, equal_nan=one.dtype == np.float64)
        else:
            assert type(one) is type(other)
            assert one == other or (one != one and other != other)
