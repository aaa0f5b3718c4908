"""Write one table of real images with and without exact masks, for `fieldmark faithfulness`.

Photographs of `gcompris` as they were taken, and cut-outs of `stamps` on landscapes (the subset
`background` of a COVAR), which have exact masks; as many of each, drawn by the seed. Cut-outs keep
their object's name, so that intervals take composites of one object together.

    fieldmark data build gcompris --set task=all --set val_share=0 --out gcompris
    fieldmark covar build --foregrounds stamps --backgrounds stamps --out covar
    python benchmarks/photographs.py --gcompris gcompris --covar covar --out photographs.csv
    fieldmark faithfulness --model packaged:dinov2-small@98 --data photographs.csv --root / ...
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np

from fieldmark.core.seeds import generator
from fieldmark.data.covar.manifest import open_covar
from fieldmark.data.tables import ImageTable, read_table

COLUMNS = ("id", "path", "label", "mask", "object")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gcompris", type=Path, required=True)
    parser.add_argument("--covar", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--each", type=int, default=160)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    pools = {
        "gcompris": read_table(given.gcompris),
        "stamps": open_covar(given.covar).table.select("background"),
    }
    with given.out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for name, table in pools.items():
            rows = generator(given.seed, "photographs", name).permutation(len(table))
            for row in np.sort(rows[: given.each]).tolist():
                writer.writerow(_describe(name, table, row))


def _describe(name: str, table: ImageTable, row: int) -> tuple[str, ...]:
    mask = table.masks[row] if table.masks is not None else None
    own = table.objects[row] if table.objects is not None else table.ids[row]
    return (
        f"{name}/{table.ids[row]}",
        str(table.paths[row]).lstrip("/"),
        table.classes[table.labels[row]],
        str(mask or "").lstrip("/"),
        f"{name}/{own}",
    )


if __name__ == "__main__":
    main()
