"""What a map that knows nothing is called, raw and corrected for chance, by area of the object.

    python benchmarks/error_sources_null.py [--layouts 20000] [--draws 20]

Maps are random Voronoi cells (K = 7) with values from a flat Dirichlet distribution on a grid of
14 x 14, the object a square in the middle of 224 x 224 pixels (facts/attribution.md section 5).
Each rule calls each map; its null shuffles the values among the map's own cells. The corrected
share should be 0, within 5 points, at every area. Each layout of cells is given as many sets of
values as an area needs: by the paper's rule the null is near 99 % for a small object, so that one
map in a hundred decides; the interval says how well that is known, layouts drawn together.
"""

from __future__ import annotations

import argparse
import math
import time

import numpy as np
import torch

from fieldmark.attribution.error_nulls import VORONOI_CELLS, sample_cells
from fieldmark.attribution.error_sources import MAP_RULES, divide_patches
from fieldmark.core.seeds import generator
from fieldmark.metrics.overlap import (
    MapRule,
    correct_for_chance,
    count_regions,
    find_source,
    score_parts,
)

GRID, SIDE = (14, 14), 224
AREAS = (0.64, 0.49, 0.25, 0.06, 0.016)
# Sets of values for each layout.
VALUES = {0.64: 2, 0.49: 2, 0.25: 4, 0.06: 8, 0.016: 25}


def centre_square(area: float) -> torch.Tensor:
    side = round(SIDE * math.sqrt(area))
    start = (SIDE - side) // 2
    mask = torch.zeros(1, SIDE, SIDE)
    mask[:, start : start + side, start : start + side] = 1
    return mask


def call_background(values: np.ndarray, counts: np.ndarray, *, rule: MapRule) -> np.ndarray:
    return np.asarray(find_source(score_parts(values, counts, rule=rule)) == 1)


def measure(area: float, *, rule: MapRule, layouts: int, draws: int) -> tuple[np.ndarray, ...]:
    """Return for each layout the share called background and that of its null."""
    parts = divide_patches(centre_square(area), grid=GRID)[0]
    random = generator(0, "null benchmark", area, rule)
    observed, null = np.zeros(layouts), np.zeros(layouts)
    for row in range(layouts):
        cells = sample_cells(random, grid=GRID, count=1)[0]
        counts = count_regions(cells, parts, regions=VORONOI_CELLS)
        # Two sites in one patch leave a cell without any: its value is not on the map.
        counts = counts[:, counts.sum(axis=0) > 0]
        values = random.dirichlet(np.ones(VORONOI_CELLS), size=VALUES[area])
        values = values[:, : counts.shape[1]]
        observed[row] = call_background(values, counts, rule=rule).mean()
        shuffled = random.permuted(np.repeat(values, draws, axis=0), axis=1)
        null[row] = call_background(shuffled, counts, rule=rule).mean()
    return observed, null


def bound(observed: np.ndarray, null: np.ndarray) -> tuple[float, float]:
    """Return the 95 % interval of the corrected share over layouts."""
    random = generator(0, "null benchmark", "bootstrap")
    rows = random.integers(len(observed), size=(1000, len(observed)))
    drawn = correct_for_chance(observed[rows].mean(axis=1), null[rows].mean(axis=1))
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layouts", type=int, default=20000)
    parser.add_argument("--draws", type=int, default=20)
    arguments = parser.parse_args()
    for rule in MAP_RULES:
        for area in AREAS:
            start = time.perf_counter()
            observed, null = measure(
                area, rule=rule, layouts=arguments.layouts, draws=arguments.draws
            )
            corrected = float(correct_for_chance(observed.mean(), null.mean()))
            low, high = bound(observed, null)
            patches = int(divide_patches(centre_square(area), grid=GRID)[0, 0].sum())
            print(
                f"{rule:8} area {area:6.1%} ({patches:3d} patches)  maps "
                f"{arguments.layouts * VALUES[area]:7d}  background {observed.mean():6.2%}  null "
                f"{null.mean():6.2%}  corrected {corrected:+6.2%} [{low:+.2%}, {high:+.2%}]  "
                f"{'ok' if abs(corrected) < 0.05 else 'MISSED'}  "
                f"{time.perf_counter() - start:.0f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
