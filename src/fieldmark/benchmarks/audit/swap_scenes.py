"""Scenes of the user's own photographs, the object painted over, and which object gets which.

What is left of the object is nothing: no pixel of its mask, nor within 3 % of the side around it,
enters the fill. What remains is that a fill is there, about as large as the object was; most of it
lies under the object that is laid on the scene.

    WORK/scenes/KEY.png    KEY covers the bytes of photograph and mask, and the sizes

Shape letters: H and W pixels.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from fieldmark.core.atomic import hash_json
from fieldmark.core.errors import FieldmarkError, InputError
from fieldmark.core.seeds import generator
from fieldmark.data.backgrounds import Backgrounds
from fieldmark.data.covar.layers import find_square, fit_square
from fieldmark.data.covar.manifest import is_whole
from fieldmark.data.images import hash_image, read_grey
from fieldmark.data.masks import DILATION_RADIUS, FULL_SIDE, THRESHOLD, dilate_mask
from fieldmark.data.tables import ImageTable

Pixels = NDArray[np.uint8]
Floats = NDArray[np.float64]
# Raised when the same photograph and mask give another scene.
_FORMAT = 1
# Above this share of the photograph there is too little left that tells of the scene.
MOST_PAINTED = 0.6
# Sweeps at each size of the fill, coarse to fine; on twice as many it changes by less than a grey
# level in most holes.
_SWEEPS = 8
_GRAIN = 3.0
# Each is decoded and painted once: at most about 15 seconds on two cores.
MOST_SCENES = 240


def paint_over(image_HW3: Pixels, mask_HW: Pixels) -> Pixels:
    """Paint over an object from its surroundings.

    The hole is the object grown by 3 % of the longer side. Its colours go on smoothly from its
    border, as a membrane does (Laplace's equation), and the grain of the surroundings is mirrored
    into it. No colour of the object enters.

    Args:
        image_HW3: uint8 (H,W,3).
        mask_HW: uint8 (H,W), the object above 100.

    Returns:
        uint8 (H,W,3), the same outside the hole.

    Raises:
        ValueError: the sizes differ, or the hole leaves nothing to paint from.

    Example:
        >>> image = np.full((9, 9, 3), 40, np.uint8)
        >>> mask = np.zeros((9, 9), np.uint8)
        >>> image[4, 4], mask[4, 4] = 255, 255
        >>> int(paint_over(image, mask).max())
        40
    """
    hole = grow_hole(mask_HW)
    if image_HW3.shape[:2] != hole.shape:
        raise ValueError(f"an image {image_HW3.shape} and a mask {mask_HW.shape} differ in size")
    if hole.all():
        raise ValueError("the object leaves nothing to paint from")
    if not hole.any():
        return image_HW3.copy()
    part = _frame(hole)
    within, colours = hole[part], image_HW3[part].astype(np.float64)
    fill = _stretch(colours, within) + _mirror_grain(colours, within)
    painted = image_HW3.copy()
    painted[part][within] = np.clip(np.rint(fill[within]), 0, 255).astype(np.uint8)
    return painted


def grow_hole(mask_HW: Pixels) -> NDArray[np.bool_]:
    """Return the object grown by 3 % of the longer side, at least one pixel: (H,W).

    Example:
        >>> mask = np.zeros((9, 9), np.uint8)
        >>> mask[4, 4] = 255
        >>> int(grow_hole(mask).sum())
        5
    """
    reach = max(1.0, DILATION_RADIUS / FULL_SIDE * max(mask_HW.shape))
    return np.asarray(dilate_mask(mask_HW, reach) > THRESHOLD)


def _frame(hole: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return the rows and columns of the hole with as much around it again."""
    lines = [np.flatnonzero(hole.any(axis=axis)) for axis in (1, 0)]
    reach = max(2, *(int(line[-1] - line[0] + 1) for line in lines))
    rows, columns = (slice(max(0, int(line[0]) - reach), int(line[-1]) + reach + 1)
                     for line in lines)  # fmt: skip
    return rows, columns


def _stretch(colours: Floats, hole: NDArray[np.bool_]) -> Floats:
    """Fill a hole smoothly: solve at half the size first, then smooth what it gave."""
    known = ~hole
    if min(hole.shape) <= 2 or not hole.any():
        mean = colours[known].mean(axis=0) if known.any() else np.zeros(3)
        return np.where(hole[..., None], mean, colours)
    height, width = hole.shape
    weight, total = (
        _halve(part) for part in (known[..., None].astype(float), colours * known[..., None])
    )
    coarse = np.divide(total, weight, out=np.zeros_like(total), where=weight > 0)
    solved = _stretch(coarse, weight[..., 0] == 0)
    larger = solved.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    filled = np.where(hole[..., None], larger, colours)
    for _ in range(_SWEEPS):
        framed = np.pad(filled, ((1, 1), (1, 1), (0, 0)), mode="edge")
        around = framed[:-2, 1:-1] + framed[2:, 1:-1] + framed[1:-1, :-2] + framed[1:-1, 2:]
        filled[hole] = around[hole] / 4
    return filled


def _halve(values: Floats) -> Floats:
    """Add up blocks of 2 by 2 pixels; a last odd row or column counts alone."""
    height, width = values.shape[:2]
    even = np.pad(values, ((0, height % 2), (0, width % 2), (0, 0)))
    return np.asarray(even[::2, ::2] + even[1::2, ::2] + even[::2, 1::2] + even[1::2, 1::2])


def _mirror_grain(colours: Floats, hole: NDArray[np.bool_]) -> Floats:
    """Return the surroundings less their smooth part, mirrored at the border of the hole."""
    known = (~hole).astype(float)
    smooth = np.stack(
        [ndimage.gaussian_filter(colours[..., k] * known, _GRAIN) for k in range(3)], -1
    )
    weight = ndimage.gaussian_filter(known, _GRAIN)[..., None]
    grain = np.where(hole[..., None], 0.0, colours - smooth / np.maximum(weight, 1e-6))
    nearest = ndimage.distance_transform_edt(hole, return_distances=False, return_indices=True)
    places = np.indices(hole.shape)
    rows, columns = (
        np.clip(2 * border - place, 0, length - 1)
        for border, place, length in zip(nearest, places, hole.shape, strict=True)
    )
    return np.asarray(grain[rows, columns])


def keep_picture(path: Path, image: Image.Image) -> None:
    """Write a PNG file whole or not at all as far as a kill goes.

    A power cut may leave a torn one, which `is_whole` finds: hundreds of flushes take seconds.

    Raises:
        FieldmarkError: the file cannot be written.
    """
    part = path.with_name(f".part-{path.name}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(part, "PNG", compress_level=1)
        part.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink()
        reason = error.strerror or str(error)
        raise FieldmarkError(
            f"cannot be written ({reason})",
            where=path,
            mend="free some space or choose another OUT",
        ) from error


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A scene without its object.

    Attributes:
        row: of the table of scenes.
        key: of its content and size.
        path: of the PNG, a square.
    """

    row: int
    key: str
    path: Path


@dataclass(eq=False, kw_only=True)
class ScenePool:
    """Photographs that become scenes when they are first drawn.

    Attributes:
        table: the photographs.
        masks: of their objects, None where there is none.
        folder: where scenes are kept.
        side: of a scene in pixels.
        faults: how many photographs cannot be used, by reason.
    """

    table: ImageTable
    masks: Sequence[Path | None]
    folder: Path
    side: int
    faults: Counter[str] = field(default_factory=Counter)
    _made: dict[int, Scene | None] = field(default_factory=dict, repr=False)

    def find(self, row: int) -> Scene | None:
        """Return the scene of a photograph, painted now or before; None where it cannot be used."""
        if row not in self._made:
            try:
                self._made[row] = self._make(row)
            except InputError:
                self._made[row] = None
                self.faults["cannot be read, or the mask fits another image"] += 1
        return self._made[row]

    def _make(self, row: int) -> Scene | None:
        mask_path = self.masks[row]
        assert mask_path is not None
        digest = [hash_image(self.table.paths[row]), hash_image(mask_path)]
        key = hash_json([_FORMAT, *digest, self.side])
        path = self.folder / f"{key[:32]}.png"
        if is_whole(path):
            return Scene(row=row, key=key, path=path)
        image, mask = self.table.read(row), read_grey(mask_path)
        if image.size != mask.size:
            raise InputError("the mask has another size", where=mask_path)
        square = find_square(image.size)
        pixels, outline = (
            np.asarray(fit_square(part, square, side=self.side)) for part in (image, mask)
        )
        if float(grow_hole(outline).mean()) > MOST_PAINTED:
            self.faults[f"show the object on more than {MOST_PAINTED:.0%} of the photograph"] += 1
            return None
        keep_picture(path, Image.fromarray(paint_over(pixels, outline)))
        return Scene(row=row, key=key, path=path)

    def show(self, scenes: Iterable[Scene]) -> Backgrounds:
        """Return scenes as a pool of backgrounds; their category is their class."""
        chosen = list(scenes)
        rows = [scene.row for scene in chosen]
        return Backgrounds(
            name="own photographs, object painted over",
            root=self.folder,
            ids=tuple(self.table.ids[row] for row in rows),
            paths=tuple(scene.path for scene in chosen),
            category_ids=self.table.labels[rows],
            categories=self.table.classes,
        )


@dataclass(frozen=True, kw_only=True)
class Draw:
    """A scene for an object.

    Attributes:
        item: number of the object.
        scene: the scene.
        other: whether it comes from another class than the object's.
    """

    item: int
    scene: Scene
    other: bool


def draw_scenes(
    table: ImageTable,
    rows: Sequence[int],
    pool: ScenePool,
    *,
    count: int,
    seed: int,
    most: int = MOST_SCENES,
) -> list[Draw]:
    """Draw scenes of its own class and of others for each object.

    Never its own photograph, nor one of the same object or place. Scenes that were drawn least come
    first, so that few objects share one; other classes take turns. An object gets fewer where there
    are fewer.

    Args:
        table: of the objects.
        rows: of the objects.
        pool: the photographs.
        count: scenes of each kind.
        seed: of the draws.
        most: distinct scenes, spread evenly over the classes; more where they do not suffice.
    """
    queues = _line_up(table, pool, most=most, seed=seed)
    draws: list[Draw] = []
    for item, row in enumerate(rows):
        own = int(table.labels[row])
        chance = generator(seed, "swap classes", table.ids[row])
        others = [k for k in sorted(queues) if k != own]
        others = [others[k] for k in chance.permutation(len(others)).tolist()]
        for classes, other in (([own], False), (others, True)):
            taken = _take_turns(queues, classes, pool, barred=_Bar(table, row, pool), count=count)
            draws += [Draw(item=item, scene=scene, other=other) for scene in taken]
    return draws


@dataclass(eq=False, kw_only=True)
class _Queue:
    """The photographs of a class: those drawn before, the least drawn first, and the rest."""

    ready: list[int]
    rest: list[int]
    most: int


def _line_up(table: ImageTable, pool: ScenePool, *, most: int, seed: int) -> dict[int, _Queue]:
    """Return the photographs with a mask by class of `table`, in an order drawn by their ids."""
    place = {name: number for number, name in enumerate(table.classes)}
    found: dict[int, list[int]] = {}
    for row in range(len(pool.table)):
        label = place.get(pool.table.classes[pool.table.labels[row]])
        if label is not None and pool.masks[row] is not None:
            found.setdefault(label, []).append(row)
    queues = {}
    for label, rows in found.items():
        order = generator(seed, "swap scenes", table.classes[label]).permutation(len(rows))
        rest = [rows[k] for k in order.tolist()]
        queues[label] = _Queue(ready=[], rest=rest, most=most // len(found))
    return queues


class _Bar:
    """Which photographs an object must not be laid on."""

    def __init__(self, table: ImageTable, row: int, pool: ScenePool) -> None:
        self.pool = pool.table
        self.content = hash_image(table.paths[row])
        # An id that is not known is not the same as another that is not.
        self.item = (table.objects[row] if table.objects else "") or None
        self.place = (table.scenes[row] if table.scenes else "") or None

    def holds(self, row: int) -> bool:
        """Whether a photograph shows this object or its place."""
        item = self.pool.objects[row] if self.pool.objects else ""
        place = self.pool.scenes[row] if self.pool.scenes else ""
        if item == self.item or place == self.place:
            return True
        return hash_image(self.pool.paths[row]) == self.content


def find_free_scenes(
    table: ImageTable, rows: Sequence[int], pool: ScenePool, *, scenes: Iterable[Scene]
) -> list[Scene]:
    """Return the scenes that are no photograph of some objects, nor of the place of one."""
    bars = [_Bar(table, row, pool) for row in rows]
    return [one for one in scenes if not any(bar.holds(one.row) for bar in bars)]


def _take_turns(
    queues: dict[int, _Queue], classes: Sequence[int], pool: ScenePool, *, barred: _Bar, count: int
) -> list[Scene]:
    taken: list[Scene] = []
    used: set[int] = set()
    waiting = [queues[label] for label in classes if label in queues]
    while waiting and len(taken) < count:
        for queue in tuple(waiting[: count - len(taken)]):
            scene = _take(queue, pool, barred=barred, used=used)
            if scene is None:
                waiting.remove(queue)
            else:
                taken.append(scene)
                used.add(scene.row)
    return taken


def _take(queue: _Queue, pool: ScenePool, *, barred: _Bar, used: set[int]) -> Scene | None:
    """Take a fresh photograph while the class may have more, or else the one drawn least."""
    full = len(queue.ready) >= queue.most
    for source in (queue.ready, queue.rest) if full else (queue.rest, queue.ready):
        for row in tuple(source):
            scene = None if row in used else pool.find(row)
            if scene is None or barred.holds(row):
                continue
            source.remove(row)
            queue.ready.append(row)
            return scene
    return None
