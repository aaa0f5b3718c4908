"""How far accuracy drops under each change of COVAR, on a small COVAR of the user's own objects.

WORK/covar-KEY/    as `fieldmark covar build` writes it; KEY covers objects, scenes and settings
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fieldmark.benchmarks.audit.swap_figures import EncoderAnswers, plain_figure
from fieldmark.benchmarks.covar.figures import average_classes, read_accuracies, read_drops, tally
from fieldmark.core.atomic import hash_json
from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.covar import Covar, CovarSettings, build_covar, check_covar, open_covar
from fieldmark.data.covar.settings import BACKGROUND, ORIGINAL
from fieldmark.data.foregrounds import Foregrounds
from fieldmark.data.tables import ImageTable

# An encoder and a table to what the encoder makes of it, by number of the encoder.
Ask = Callable[[int, ImageTable], EncoderAnswers]


@dataclass(frozen=True, eq=False, kw_only=True)
class Changes:
    """A COVAR of some of the user's objects.

    Attributes:
        covar: the images.
        labels: (n,) class of each, as the user's table numbers them.
    """

    covar: Covar
    labels: NDArray[np.int64]


def build_changes(
    objects: Foregrounds,
    scenes: Backgrounds,
    *,
    settings: CovarSettings,
    work: Path,
    report: Callable[[str, int, int], None],
) -> Changes:
    """Build a COVAR, or go on with it where it was.

    Args:
        objects: to build with.
        scenes: to lay every object on.
        settings: what to build; as many scenes as there are at most.
        work: folder of unfinished work.
        report: called with the phase, images done and in all.

    Raises:
        InputError: an image or a mask that cannot be used.
    """
    count = min(settings.backgrounds_per_object, len(scenes))
    fitted = dataclasses.replace(settings, backgrounds_per_object=count)
    content = [objects.hashes(), objects.ids, scenes.hashes(), scenes.ids]
    key = hash_json([[list(part) for part in content], dataclasses.asdict(fitted)])
    folder = work / f"covar-{key[:16]}"

    def build() -> Path:
        return build_covar(
            folder,
            foregrounds=objects,
            backgrounds=scenes,
            settings=fitted,
            resume=True,
            on_progress=lambda _, done, total: report("swaps: changes", done, total),
        )

    if build() and check_covar(folder):
        # What was finished before and is torn now is made again.
        shutil.rmtree(folder)
        build()
    covar = open_covar(folder)
    place = np.array([objects.classes.index(name) for name in covar.table.classes], np.int64)
    return Changes(covar=covar, labels=place[covar.table.labels])


def measure_changes(
    changes: Changes, ask: Ask, *, encoders: int, seed: int
) -> list[dict[str, Any]]:
    """Return accuracy and drop under each change, all encoders and heads on the same draws.

    Args:
        changes: the images.
        ask: what gives an encoder's answers.
        encoders: how many there are.
        seed: of the resampling.

    Returns:
        For each encoder and head the accuracy on the originals, and for each change its accuracy,
        its `drop` below the originals, and `drop_background`: below the same objects on the same
        scenes without any other change (null for the change of background itself).
    """
    answers = [ask(number, changes.covar.table) for number in range(encoders)]
    asked = [(number, head) for number, one in enumerate(answers) for head in one.predictions]
    subsets, table = changes.covar.subsets, changes.covar.table
    correct = [answers[number].predictions[head] == changes.labels for number, head in asked]
    counted = tally(
        np.array(correct),
        [subsets.index(name) for name in table.splits or ()],
        width=len(subsets),
        labels=changes.labels,
        objects=table.objects or table.ids,
        classes=int(changes.labels.max()) + 1,
        seed=seed,
    )
    columns = average_classes(counted, subsets)
    found = []
    for place, (number, head) in enumerate(asked):
        accuracies = read_accuracies(columns, encoder=place)
        drops = read_drops(columns, encoder=place, against=ORIGINAL)
        further = read_drops(columns, encoder=place, against=BACKGROUND)
        found.append(
            {
                "encoder": number,
                "head": head,
                "reference": {"name": ORIGINAL, "accuracy": plain_figure(accuracies[ORIGINAL])},
                "changes": [
                    {
                        "change": name,
                        "accuracy": plain_figure(accuracies[name]),
                        "drop": plain_figure(drops[name]),
                        "drop_background": plain_figure(further[name]) if name in further else None,
                    }
                    for name in subsets
                    if name != ORIGINAL
                ],
            }
        )
    return found
