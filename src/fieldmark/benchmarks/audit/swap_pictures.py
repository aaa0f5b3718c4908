"""Pictures of the swaps that tell most: right on a scene of its own class, wrong on another.

OUT/pictures/swap-N-original.jpg, swap-N-same.jpg, swap-N-other.jpg
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fieldmark.benchmarks.audit.swap_composites import Composites
from fieldmark.benchmarks.audit.swap_figures import EncoderAnswers
from fieldmark.core.atomic import replacing
from fieldmark.data.images import read_image
from fieldmark.metrics.background_gap import ObjectAnswers

SIDE, QUALITY = 224, 85
# Shown where no object tells anything, so that one sees what was done.
EXAMPLES = 2
_TITLES = {
    "original": "{name} in its own photograph",
    "same": "the same {name} on a scene of its own class",
    "other": "the same {name} on a scene of another class",
}


def choose_objects_to_show(table: ObjectAnswers, *, most: int) -> list[str]:
    """Choose objects by how much more is right on scenes of their own class.

    Args:
        table: what one head says.
        most: of them.

    Returns:
        Ids; a few that do not differ where none does.
    """
    gaps = np.where(np.isnan(table.gaps), -np.inf, table.gaps)
    order = np.argsort(-gaps, kind="stable").tolist()
    telling = [place for place in order if gaps[place] > 0][:most]
    known = [place for place in order if np.isfinite(gaps[place])]
    chosen = telling or known[: min(EXAMPLES, most)]
    return [table.objects[place] for place in chosen]


def choose_tiles(
    composites: Composites, answers: EncoderAnswers, *, objects: Sequence[str], head: str
) -> list[tuple[int, int]]:
    """Choose for each object a composite that is right and one that is wrong, if there are.

    Returns:
        For each object the rows of its `same` and its `other` image.
    """
    table = composites.table
    names = np.array(table.objects or table.ids, dtype=str)
    right = answers.predictions[head] == table.labels
    chosen = []
    for item in objects:
        same, other = (
            np.flatnonzero((names == item) & (composites.kinds == kind))
            for kind in ("same", "other")
        )
        best = same[np.argsort(~right[same], kind="stable")[0]]
        worst = other[np.argsort(right[other], kind="stable")[0]]
        chosen.append((int(best), int(worst)))
    return chosen


def draw_tiles(
    composites: Composites,
    answers: Sequence[EncoderAnswers],
    rows: Sequence[tuple[int, int, int]],
    *,
    names: Sequence[str],
    out: Path,
) -> list[dict[str, Any]]:
    """Write the pictures and say what every encoder says of them.

    Args:
        composites: has the images.
        answers: of each encoder on them.
        rows: of the original, the `same` and the `other` image of each object.
        names: of the classes, as they are shown.
        out: folder of the run.
    """
    found = []
    table = composites.table
    for number, places in enumerate(rows):
        name = names[int(table.labels[places[0]])]
        tiles = []
        for kind, row in zip(_TITLES, places, strict=True):
            source = f"pictures/swap-{number}-{kind}.jpg"
            _write_jpeg(table.paths[row], out / source)
            tiles.append(
                {
                    "src": source,
                    "alt": _TITLES[kind].format(name=name),
                    "kind": kind,
                    "said": _list_said(answers, row, label=int(table.labels[row]), names=names),
                }
            )
        item = (table.objects or table.ids)[places[0]]
        found.append({"object": item, "label": name, "tiles": tiles})
    return found


def _list_said(
    answers: Sequence[EncoderAnswers], row: int, *, label: int, names: Sequence[str]
) -> list[dict[str, Any]]:
    return [
        {
            "encoder": number,
            "head": head,
            "predicted": names[int(said[row])],
            "right": int(said[row]) == label,
        }
        for number, one in enumerate(answers)
        for head, said in one.predictions.items()
    ]


def _write_jpeg(source: Path, path: Path) -> None:
    image = read_image(source)
    if max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    with replacing(path) as part:
        image.save(part, "JPEG", quality=QUALITY, optimize=True)
