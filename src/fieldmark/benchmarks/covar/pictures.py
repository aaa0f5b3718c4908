"""The picture strip of a page: one object on one scene in all variants, and what encoders say.

OUT/page/strip-scale_2.jpg and so on, small copies, so that the page needs nothing of the COVAR.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fieldmark.benchmarks.covar.describe import Encoded
from fieldmark.benchmarks.covar.material import CovarImages
from fieldmark.core.atomic import replacing
from fieldmark.data.covar.settings import BACKGROUND, ORIGINAL

SIDE = 224


def draw_strip(
    images: CovarImages, encoded: Sequence[Encoded], *, out: Path
) -> list[dict[str, Any]]:
    """Copy the pictures of the composition on which the encoders' answers vary most.

    Args:
        images: that were named.
        encoded: what each encoder said.
        out: folder of the run.

    Returns:
        One record a picture: its subset, file, true class, area, and each encoder's answer.
    """
    folder = out / "page"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    table, names = images.table, images.candidates.names
    records = []
    for row in choose_composition(images, encoded):
        subset = images.subsets[int(images.cells[row])]
        file = f"strip-{subset}.jpg"
        picture = table.read(row)
        picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
        with replacing(folder / file) as part:
            picture.save(part, "JPEG", quality=88)
        records.append(
            {
                "subset": subset,
                "file": file,
                "label": table.classes[int(images.labels[row])],
                "area": float(images.area[row]),
                "said": [
                    {
                        "uri": one.uri,
                        "class": names[int(one.predictions[row])],
                        "right": bool(one.correct[row]),
                    }
                    for one in encoded
                ],
            }
        )
    return records


def choose_composition(images: CovarImages, encoded: Sequence[Encoded]) -> list[int]:
    """Choose an object on a scene: named right where only the background varies, and often wrong.

    Args:
        images: that were named.
        encoded: what each encoder said.

    Returns:
        Its rows in the order of the subsets, the original first.
    """
    scenes = images.table.scenes or ("",) * len(images.table)
    groups: dict[tuple[str, str], list[int]] = {}
    originals: dict[str, int] = {}
    for row, (thing, scene) in enumerate(zip(images.objects, scenes, strict=True)):
        if images.subsets[int(images.cells[row])] == ORIGINAL:
            originals[thing] = row
        else:
            groups.setdefault((thing, scene), []).append(row)
    if not groups:
        return []
    right = np.stack([one.correct for one in encoded])
    plain = images.subsets.index(BACKGROUND) if BACKGROUND in images.subsets else -1

    def rate(key: tuple[str, str]) -> tuple[int, int, float]:
        rows = groups[key]
        first = [row for row in rows if images.cells[row] == plain]
        known = int(right[:, first].sum()) + int(right[:, originals.get(key[0], rows[0])].sum())
        # Half right and half wrong shows most.
        return len(rows), known, -abs(float(right[:, rows].mean()) - 0.5)

    best = max(sorted(groups), key=rate)
    rows = sorted(groups[best], key=lambda row: int(images.cells[row]))
    return [originals[best[0]], *rows] if best[0] in originals else rows
