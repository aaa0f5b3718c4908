"""Composites of the user's objects, each rendered once into a file, whatever it is asked of.

    WORK/composites/KEY.png    KEY covers the bytes of object, mask and scene, and the sizes

An object keeps its place and its size: of a photograph that is no square, the largest square around
the object is taken (`data.covar`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fieldmark.benchmarks.audit.swap_objects import ChosenObjects
from fieldmark.benchmarks.audit.swap_scenes import Draw, Scene, keep_picture
from fieldmark.core.atomic import hash_json
from fieldmark.data.covar.manifest import is_whole
from fieldmark.data.covar.objects import open_actor
from fieldmark.data.covar.settings import BACKGROUND, CovarSettings
from fieldmark.data.covar.variants import Actor, Stage, Variant, render_variant
from fieldmark.data.images import read_image
from fieldmark.data.tables import ImageTable

Kind: TypeAlias = Literal["same", "other", "alone", "scene", "original"]
Report: TypeAlias = Callable[[str, int, int], None]
# Raised when the same files give another composite.
_FORMAT = 1
# Stands behind an object that is shown alone (BAP L.1).
GREY = (128, 128, 128)


class Composite(NamedTuple):
    """One image to render.

    Attributes:
        kind: the object on a scene of its own class (`same`) or another (`other`), on grey
            (`alone`), on its own photograph (`original`); or the scene without it.
        item: number of the object.
        scene: None where there is none.
    """

    kind: Kind
    item: int
    scene: Scene | None


@dataclass(frozen=True, eq=False, kw_only=True)
class Composites:
    """Rendered images.

    Attributes:
        table: n images; `objects` are ids of the objects, `labels` their classes.
        kinds: (n,) of `Kind`.
        items: (n,) number of the object.
    """

    table: ImageTable
    kinds: NDArray[np.str_]
    items: NDArray[np.int64]

    def find(self, *kinds: Kind) -> NDArray[np.int64]:
        """Return the images of some kinds."""
        return np.flatnonzero(np.isin(self.kinds, kinds))


def list_composites(draws: Sequence[Draw]) -> list[Composite]:
    """List what swaps need: every draw, and for additivity an object's parts alone.

    The parts are those of its first composite on a scene of another class.
    """
    found = [Composite("other" if one.other else "same", one.item, one.scene) for one in draws]
    seen: set[int] = set()
    for one in draws:
        if one.other and one.item not in seen:
            seen.add(one.item)
            found.append(Composite("alone", one.item, None))
            found.append(Composite("scene", one.item, one.scene))
    return found


def render_composites(
    wanted: Sequence[Composite],
    chosen: ChosenObjects,
    *,
    settings: CovarSettings,
    folder: Path,
    report: Report,
) -> Composites:
    """Render what is not there yet, object by object.

    Args:
        wanted: what to render.
        chosen: the objects.
        settings: sizes.
        folder: of the files.
        report: called with the phase, images done and in all.

    Raises:
        InputError: an image or a mask cannot be read any more.
    """
    objects, digests = chosen.foregrounds, chosen.foregrounds.hashes()
    paths = [folder / f"{_name(one, digests, settings=settings)}.png" for one in wanted]
    by_item = sorted(range(len(wanted)), key=lambda place: wanted[place].item)
    actor, item = None, -1
    for done, place in enumerate(by_item, start=1):
        one, path = wanted[place], paths[place]
        if not is_whole(path):
            if actor is None or item != one.item:
                actor, item = open_actor(objects, one.item, settings=settings), one.item
            keep_picture(path, _render(one, actor, settings=settings))
        report("swaps: composites", done, len(wanted))
    items = [one.item for one in wanted]
    table = ImageTable(
        name="swaps",
        root=folder,
        ids=tuple(f"{one.kind}-{place}" for place, one in enumerate(wanted)),
        paths=tuple(paths),
        labels=objects.labels[items],
        classes=objects.classes,
        objects=tuple(objects.ids[one.item] for one in wanted),
    )
    return Composites(
        table=table,
        kinds=np.array([one.kind for one in wanted], dtype=str),
        items=np.array(items, np.int64),
    )


def _name(one: Composite, digests: Sequence[str], *, settings: CovarSettings) -> str:
    # A scene alone does not depend on the object that it is compared with.
    content = None if one.kind == "scene" else digests[one.item]
    kind = "composite" if one.kind in ("same", "other") else one.kind
    scene = one.scene and one.scene.key
    sizes = [settings.side, settings.supersample, settings.edge]
    return hash_json([_FORMAT, kind, content, scene, sizes])[:32]


def _render(one: Composite, actor: Actor, *, settings: CovarSettings) -> Image.Image:
    side = settings.canvas_side
    if one.scene is not None:
        repeated = read_image(one.scene.path).resize((side, side), Image.Resampling.BOX)
        stage = Stage(canvas=repeated, supersample=settings.supersample)
    elif one.kind == "original":
        assert actor.own is not None
        stage = actor.own
    else:
        stage = Stage(canvas=Image.new("RGB", (side, side), GREY), supersample=settings.supersample)
    if one.kind in ("scene", "original"):
        return stage.reduced
    return render_variant(Variant(BACKGROUND, {}), actor, stage, settings=settings).image
