"""Background swaps of the user's own objects: what an encoder leans on, measured by changing it.

Every object is cut out by its mask and laid, at its own place and size, on photographs of its own
class and of other classes, whose objects are painted over. The gap between the two accuracies is
the BG-gap (Xiao et al. 2020, "Noise or Signal"). The same composites give BSI and additivity (BAP
D.1 and Eq. 1), and a small COVAR of the same objects the drop under each of its changes.

All is kept under WORK by content, and embeddings in the cache, so a run that was killed goes on.

Known gaps. A mask that takes surroundings along takes some of the background along, in both kinds
of composite. A fill tells roughly how large the object of that photograph was. Objects share
scenes where there are few photographs, and intervals are by object alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fieldmark.benchmarks.audit.swap_changes import build_changes, measure_changes
from fieldmark.benchmarks.audit.swap_composites import (
    Composite,
    Composites,
    Report,
    list_composites,
    render_composites,
)
from fieldmark.benchmarks.audit.swap_figures import (
    EncoderAnswers,
    describe_additivity,
    describe_sensitivity,
    list_differences,
    list_results,
    tabulate_answers,
)
from fieldmark.benchmarks.audit.swap_objects import ChosenObjects, choose_objects
from fieldmark.benchmarks.audit.swap_pictures import (
    choose_objects_to_show,
    choose_tiles,
    draw_tiles,
)
from fieldmark.benchmarks.audit.swap_scenes import Draw, ScenePool, draw_scenes, find_free_scenes
from fieldmark.core.errors import NotApplicableError, UsageError
from fieldmark.core.fetch import cache_dir
from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.covar import CovarSettings
from fieldmark.data.foregrounds import Foregrounds
from fieldmark.data.tables import ImageTable
from fieldmark.models.embed import Precision, embed_images
from fieldmark.models.encoder import Encoder

# Embeddings (n,D) to the class of each, (n,).
Predict: TypeAlias = Callable[[NDArray[np.float32]], NDArray[np.int64]]
OWN = "own photographs, object painted over"


@dataclass(frozen=True, kw_only=True)
class SwapSettings:
    """How much is swapped.

    With 74 objects or more, the interval of a gap of 0 on all of them lies below 5 %.

    Attributes:
        objects: at most.
        scenes: of its own class, and as many of others, for each object.
        seed: of all that is drawn.
        side: of the composites in pixels; the largest input of the encoders by default.
        covar_changes: whether to measure COVAR's changes too.
        change_objects: of the COVAR, at most.
        change_scenes: of the COVAR, the same for all objects.
        batch_size: images in one forward.
        precision: of the weights.
        pictures: objects shown at most.

    Raises:
        UsageError: a number below 1, or below 0 for pictures.
    """

    objects: int = 80
    scenes: int = 3
    seed: int = 0
    side: int | None = None
    covar_changes: bool = True
    change_objects: int = 24
    change_scenes: int = 2
    batch_size: int = 64
    precision: Precision = "auto"
    pictures: int = 6

    def __post_init__(self) -> None:
        least = min(self.objects, self.scenes, self.change_objects, self.change_scenes)
        if least < 1 or self.pictures < 0:
            raise UsageError("swaps need at least 1 object and 1 scene, and no number below 0")


@dataclass(frozen=True, eq=False, kw_only=True)
class _Swaps:
    """What is swapped, ready to be asked."""

    encoders: Sequence[Encoder]
    predictors: Sequence[Mapping[str, Predict]]
    settings: SwapSettings
    covar: CovarSettings
    chosen: ChosenObjects
    pool: ScenePool
    draws: Sequence[Draw]
    work: Path
    report: Report

    def render(self, wanted: Sequence[Composite]) -> Composites:
        """Render composites, or find them where they were rendered before."""
        folder = self.work / "composites"
        return render_composites(
            wanted, self.chosen, settings=self.covar, folder=folder, report=self.report
        )

    def ask(self, number: int, table: ImageTable) -> EncoderAnswers:
        """Embed images, through the cache, and ask every head of an encoder."""
        embedded = embed_images(
            self.encoders[number],
            table,
            cache=cache_dir() / "embeddings",
            batch_size=self.settings.batch_size,
            precision=self.settings.precision,
            progress=lambda done, total: self.report("swaps: embeddings", done, total),
        )
        heads = self.predictors[number]
        return EncoderAnswers(
            embeddings=embedded.values,
            predictions={
                name: np.asarray(say(embedded.values), np.int64) for name, say in heads.items()
            },
        )


def measure_swaps(
    encoders: Sequence[Encoder],
    predictors: Sequence[Mapping[str, Predict]],
    table: ImageTable,
    *,
    masks: Sequence[Path | None],
    names: Sequence[str],
    scenes_from: ImageTable | None,
    scene_masks: Sequence[Path | None] | None,
    backgrounds: Backgrounds | None,
    settings: SwapSettings,
    work: Path,
    out: Path,
    report: Report,
) -> dict[str, Any]:
    """Measure what changes when objects change their background.

    Args:
        encoders: one, or two to compare; they see the same composites.
        predictors: of each encoder, by head.
        table: the images that are judged.
        masks: of the images, None where there is none.
        names: of the classes, as they are shown.
        scenes_from: photographs that become scenes, such as the train split; those of `table` by
            default.
        scene_masks: of these photographs; by default their own, or `masks` without `scenes_from`.
        backgrounds: scenes of the COVAR; some of the photographs by default.
        settings: how much is swapped.
        work: folder of unfinished work.
        out: folder of the run, which gets `pictures`.
        report: called with the phase, what is done and how much there is.

    Returns:
        The part `swaps` of audit.json, as JSON values; what is undefined is null. Counts of figures
        are objects. `flip_rate` is the share of answers on scenes of other classes that are not the
        object's usual answer on scenes of its own.

    Raises:
        NotApplicableError: no object or no scene can be used; the message says why.
        InputError: a file changed or went away meanwhile.
    """
    side = settings.side or max(encoder.spec.image_size for encoder in encoders)
    covar = CovarSettings(
        side=side, seed=settings.seed, backgrounds_per_object=settings.change_scenes
    )
    report("swaps: objects", 0, 1)
    chosen = choose_objects(
        table, masks, count=settings.objects, settings=covar, seed=settings.seed
    )
    _require(bool(chosen.rows), "object", chosen.faults)
    pool = ScenePool(
        table=table if scenes_from is None else scenes_from,
        masks=_find_scene_masks(scenes_from, scene_masks, masks),
        folder=work / "scenes",
        side=side,
    )
    draws = draw_scenes(table, chosen.rows, pool, count=settings.scenes, seed=settings.seed)
    _require(bool(draws), "scene", pool.faults)
    swaps = _Swaps(
        encoders=encoders,
        predictors=predictors,
        settings=settings,
        covar=covar,
        chosen=chosen,
        pool=pool,
        draws=draws,
        work=work,
        report=report,
    )
    return _measure(swaps, table, names=names, backgrounds=backgrounds, out=out)


def _measure(
    swaps: _Swaps,
    table: ImageTable,
    *,
    names: Sequence[str],
    backgrounds: Backgrounds | None,
    out: Path,
) -> dict[str, Any]:
    seed, draws = swaps.settings.seed, swaps.draws
    wanted = list_composites(draws)
    composites = swaps.render(wanted)
    answers = [swaps.ask(number, composites.table) for number in range(len(swaps.encoders))]
    tables = [tabulate_answers(composites, one) for one in answers]
    pool_of_changes = _find_change_scenes(swaps, table) if backgrounds is None else backgrounds
    return {
        "objects": len(swaps.chosen.rows),
        "scenes": len({draw.scene.row for draw in draws}),
        "composites": len(draws),
        "scene_source": OWN,
        "notes": _list_notes(swaps, table, backgrounds=backgrounds, changes=pool_of_changes),
        "results": list_results(tables, names, seed=seed),
        "sensitivity": [
            describe_sensitivity(composites, one, encoder=number)
            for number, one in enumerate(answers)
        ],
        "additivity": [
            describe_additivity(composites, one, encoder=number, seed=seed)
            for number, one in enumerate(answers)
        ],
        "drops": _measure_drops(swaps, pool_of_changes),
        "differences": list_differences(tables, seed=seed),
        "pictures": _draw_pictures(swaps, wanted, composites, answers, names=names, out=out),
    }


def _measure_drops(swaps: _Swaps, scenes: Backgrounds) -> list[dict[str, Any]]:
    settings = swaps.settings
    if not settings.covar_changes or not len(scenes):
        return []
    changes = build_changes(
        _take_change_objects(swaps),
        scenes,
        settings=swaps.covar,
        work=swaps.work,
        report=swaps.report,
    )
    return measure_changes(changes, swaps.ask, encoders=len(swaps.encoders), seed=settings.seed)


def _take_change_objects(swaps: _Swaps) -> Foregrounds:
    objects = swaps.chosen.foregrounds
    return objects.take(range(min(swaps.settings.change_objects, len(objects))))


def _find_change_scenes(swaps: _Swaps, table: ImageTable) -> Backgrounds:
    """Return the drawn scenes that no object of the COVAR comes from: all lie on all of them."""
    rows = swaps.chosen.rows[: swaps.settings.change_objects]
    scenes = {draw.scene.row: draw.scene for draw in swaps.draws}
    drawn = [scenes[place] for place in sorted(scenes)]
    free = find_free_scenes(table, rows, swaps.pool, scenes=drawn)
    return swaps.pool.show(free)


def _draw_pictures(
    swaps: _Swaps,
    wanted: Sequence[Composite],
    composites: Composites,
    answers: Sequence[EncoderAnswers],
    *,
    names: Sequence[str],
    out: Path,
) -> list[dict[str, Any]]:
    """Show the objects that tell most by the last head of the first encoder."""
    heads = tuple(answers[0].predictions)
    if not swaps.settings.pictures or not heads:
        return []
    told = tabulate_answers(composites, answers[0])[heads[-1]]
    objects = choose_objects_to_show(told, most=swaps.settings.pictures)
    pairs = choose_tiles(composites, answers[0], objects=objects, head=heads[-1])
    shown = [
        one
        for same, other in pairs
        for one in (Composite("original", wanted[same].item, None), wanted[same], wanted[other])
    ]
    if not shown:
        return []
    again = swaps.render(shown)
    said = [swaps.ask(number, again.table) for number in range(len(swaps.encoders))]
    rows = [(place, place + 1, place + 2) for place in range(0, len(shown), 3)]
    return draw_tiles(again, said, rows, names=names, out=out)


def _find_scene_masks(
    scenes_from: ImageTable | None,
    scene_masks: Sequence[Path | None] | None,
    masks: Sequence[Path | None],
) -> Sequence[Path | None]:
    if scene_masks is not None:
        return scene_masks
    if scenes_from is None:
        return masks
    return scenes_from.masks or (None,) * len(scenes_from)


def _require(held: bool, kind: str, faults: Mapping[str, int]) -> None:
    if held:
        return
    why = "; ".join(f"{count} {reason}" for reason, count in sorted(faults.items()))
    raise NotApplicableError(
        f"no image gives {'an' if kind == 'object' else 'a'} {kind} for background swaps"
        + (f" ({why})" if why else ""),
        mend="give masks of the objects with --masks, or have them made with --mask-source",
    )


def _list_notes(
    swaps: _Swaps, table: ImageTable, *, backgrounds: Backgrounds | None, changes: Backgrounds
) -> list[str]:
    chosen, draws = swaps.chosen, swaps.draws
    notes = [f"{n} images gave no object: they {why}" for why, n in sorted(chosen.faults.items())]
    notes += [
        f"{n} photographs gave no scene: they {why}" for why, n in sorted(swaps.pool.faults.items())
    ]
    present = {table.classes[table.labels[row]] for row in chosen.rows}
    absent = [name for name in table.classes if name not in present]
    if absent:
        notes.append(f"no object is of {', '.join(absent[:5])}{' and others' * (len(absent) > 5)}")
    kinds = [{draw.item for draw in draws if draw.other == other} for other in (False, True)]
    alone = len(chosen.rows) - len(kinds[0] & kinds[1])
    if alone:
        notes.append(f"{alone} objects lack scenes of their own class or of others, so have no gap")
    count = len({draw.scene.row for draw in draws})
    if count < len(draws):
        notes.append(f"{count} scenes bear {len(draws)} composites; intervals are by object alone")
    if backgrounds is not None and swaps.settings.covar_changes:
        notes.append(f"the changes are measured on scenes of {backgrounds.name}")
    elif swaps.settings.covar_changes and not len(changes):
        notes.append("no scene is free of the objects of the changes, so these were left out")
    return notes
