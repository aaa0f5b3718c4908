"""What a map or a removal that knows nothing of the image would be called: nulls of error sources.

By "the larger IoU" a map without any content is background in 33 % of images whose object covers
64 % of them and in 99 % where it covers 1.6 % (facts/attribution.md section 5), so that no share
of background errors can be read without its null. Each function returns, by image, the share of
draws that each part wins; the null of a set of images is their mean. Draws are keyed by the image's
id. Shape letters: B images, P parts, R regions, N patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fieldmark.core.seeds import generator
from fieldmark.metrics.overlap import Floats, Ints, MapRule, find_source, is_resolvable, score_parts

Null = Literal["clusters", "voronoi", "masks"]
DRAWS = 200
VORONOI_CELLS = 7


def shuffle_clusters(
    values: ArrayLike,
    parts: ArrayLike,
    *,
    rule: MapRule,
    ids: Sequence[str],
    draws: int = DRAWS,
    seed: int = 0,
) -> Floats:
    """Hand the values of each image's clusters out to its clusters at random.

    Mask, clusters and values stay what they are; only which cluster has which value is chance. A
    cluster that is not in the image has to be NaN, and takes no part.

    Args:
        values: (B,R) value of each cluster.
        parts: (B,P,R) patches of each part in each cluster.
        rule: of the map.
        ids: B names that chance is drawn by.
        draws: for each image.
        seed: of the run.

    Returns:
        (B,P) share of draws; zero for an image that is not resolvable. Draws that decide nothing
        are missing from the sum of 1.

    Example:
        >>> shuffle_clusters([[1.0, 0.0]], [[[1, 0], [0, 1]]], rule="density", ids=["a"]).sum()
        np.float64(1.0)
    """
    maps, counts = np.asarray(values, np.float64), np.asarray(parts, np.float64)
    shares = np.zeros(counts.shape[:2])
    for row in np.flatnonzero(is_resolvable(counts)).tolist():
        random = generator(seed, "error null", "clusters", rule, ids[row])
        known = ~np.isnan(maps[row])
        drawn = random.permuted(np.tile(maps[row, known], (draws, 1)), axis=1)
        shares[row] = _share_wins(drawn, counts[row][:, known], rule=rule)
    return shares


def draw_voronoi(
    parts: ArrayLike,
    *,
    grid: tuple[int, int],
    rule: MapRule,
    ids: Sequence[str],
    draws: int = DRAWS,
    seed: int = 0,
    cells: int = VORONOI_CELLS,
) -> Floats:
    """Judge random Voronoi cells with values from a flat Dirichlet distribution.

    Args:
        parts: (B,P,N) whether a patch belongs to a part.
        grid: rows and columns, N in all.
        rule: of the map.
        ids: B names that chance is drawn by.
        draws: for each image.
        seed: of the run.
        cells: of each map.

    Returns:
        (B,P) share of draws; zero for an image that is not resolvable.

    Example:
        >>> parts = np.array([[[1, 1, 0, 0], [0, 0, 1, 1]]])
        >>> float(draw_voronoi(parts, grid=(2, 2), rule="density", ids=["a"]).sum()) <= 1
        True
    """
    counts = np.asarray(parts, np.float64)
    shares = np.zeros(counts.shape[:2])
    for row in np.flatnonzero(is_resolvable(counts)).tolist():
        random = generator(seed, "error null", "voronoi", rule, ids[row])
        drawn = sample_maps(random, grid=grid, count=draws, cells=cells)
        shares[row] = _share_wins(drawn, counts[row], rule=rule)
    return shares


def sample_maps(
    random: np.random.Generator, *, grid: tuple[int, int], count: int, cells: int = VORONOI_CELLS
) -> Floats:
    """Draw maps that know nothing: Voronoi cells of random sites, Dirichlet values.

    Returns:
        (count,N), above 0; the values of the cells that a map could have sum to 1.

    Example:
        >>> maps = sample_maps(np.random.default_rng(0), grid=(4, 4), count=3)
        >>> maps.shape, bool((maps > 0).all())
        ((3, 16), True)
    """
    labels = sample_cells(random, grid=grid, count=count, cells=cells)
    values = random.dirichlet(np.ones(cells), size=count)
    return np.take_along_axis(values, labels, axis=1)


def sample_cells(
    random: np.random.Generator, *, grid: tuple[int, int], count: int, cells: int = VORONOI_CELLS
) -> Ints:
    """Draw which of some random sites is nearest to each patch: (count,N), 0 to `cells` - 1.

    Example:
        >>> sample_cells(np.random.default_rng(0), grid=(2, 2), count=1, cells=1).tolist()
        [[0, 0, 0, 0]]
    """
    rows, columns = grid
    sites = random.random((count, cells, 2)) * grid
    y = np.repeat(np.arange(rows), columns) + 0.5
    x = np.tile(np.arange(columns), rows) + 0.5
    distance = (sites[..., :1] - y) ** 2 + (sites[..., 1:] - x) ** 2
    return np.asarray(distance.argmin(axis=1), np.int64)


def swap_masks(
    maps: ArrayLike,
    parts: ArrayLike,
    *,
    rule: MapRule,
    ids: Sequence[str],
    draws: int = DRAWS,
    seed: int = 0,
) -> Floats:
    """Judge each map by the masks of other images.

    Args:
        maps: (B,N) a value for each patch.
        parts: (B,P,N) whether a patch belongs to a part.
        rule: of the map.
        ids: B names that chance is drawn by.
        draws: for each image.
        seed: of the run.

    Returns:
        (B,P) share of draws; zero for an image that is not resolvable, NaN where there is no other
        image to swap with.

    Example:
        >>> left, right = [[1, 0], [0, 1]], [[0, 1], [1, 0]]
        >>> swap_masks([[1, 0], [1, 0]], [left, right], rule="paper", ids=["a", "b"]).tolist()
        [[0.0, 1.0], [1.0, 0.0]]
    """
    values, counts = np.asarray(maps, np.float64), np.asarray(parts, np.float64)
    shares = np.zeros(counts.shape[:2])
    usable = np.flatnonzero(is_resolvable(counts))
    for row in usable.tolist():
        others = usable[usable != row]
        if not len(others):
            shares[row] = np.nan
            continue
        random = generator(seed, "error null", "masks", rule, ids[row])
        chosen = counts[random.choice(others, size=draws)]
        shares[row] = _share_wins(np.broadcast_to(values[row], (draws, values.shape[1])), chosen,
                                  rule=rule)  # fmt: skip
    return shares


def draw_partitions(
    parts: ArrayLike, *, ids: Sequence[str], draws: int, seed: int = 0
) -> NDArray[np.bool_]:
    """Deal the patches of each image out at random to parts of the same sizes.

    Args:
        parts: (B,P,N) whether a patch belongs to a part; each patch to one.
        ids: B names that chance is drawn by.
        draws: for each image.
        seed: of the run.

    Returns:
        bool (B,draws,P,N).

    Example:
        >>> dealt = draw_partitions([[[1, 0, 0], [0, 1, 1]]], ids=["a"], draws=5)
        >>> dealt.sum(-1)[0, 0].tolist(), bool((dealt.sum(2) == 1).all())
        ([1, 2], True)
    """
    owned = np.asarray(parts, bool)
    images, count, patches = owned.shape
    dealt = np.zeros((images, draws, count, patches), bool)
    for row in range(images):
        random = generator(seed, "error null", "partitions", ids[row])
        for draw in range(draws):
            dealt[row, draw] = owned[row][:, random.permutation(patches)]
    return dealt


def share_wins(verdicts: ArrayLike, *, parts: int) -> Floats:
    """Return the share of draws that each part won: (...,draws) to (...,parts).

    Example:
        >>> share_wins([[0, 1, 1, -1]], parts=2).tolist()
        [[0.25, 0.5]]
    """
    found = np.asarray(verdicts)
    return np.asarray((found[..., None] == np.arange(parts)).mean(axis=-2), np.float64)


def _share_wins(maps: Floats, parts: Floats, *, rule: MapRule) -> Floats:
    return share_wins(find_source(score_parts(maps, parts, rule=rule)), parts=parts.shape[-2])
