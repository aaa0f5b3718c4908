"""Draw the images of a setting: one object, perhaps the spurious feature, perhaps something else.

The image is cut into quadrants. The object lies in one of them; the spurious feature, where an
image has it, in another; and in a third, in half of the images, a distractor: a feature of another
kind that goes with no class, so that not everything that is no object is spurious. On black
(digits, FashionMNIST) the regions are the four quadrants, as in RaVL's appendix B; on photographs
they are the boxes of what was pasted, as its boxes of COCO are.

Shape letters: n images, S the side of an image in pixels, Q of a quadrant.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fieldmark.core.atomic import hash_json
from fieldmark.core.errors import NotApplicableError, UsageError
from fieldmark.core.fetch import cache_dir, fetch_debian
from fieldmark.core.seeds import generator
from fieldmark.data.backgrounds import fit_background
from fieldmark.data.controlled.correlate import balance_feature, tie_feature
from fieldmark.data.controlled.features import FEATURES, draw_feature, find_kind, fit
from fieldmark.data.controlled.images import ControlledImages, Ints, Setting
from fieldmark.data.controlled.objects import DOMAINS, Fold, Objects
from fieldmark.data.datasets.stamps import read_list
from fieldmark.data.images import read_image
from fieldmark.data.pixels import PixelArray
from fieldmark.data.stores import open_store

CORNERS = ("top-left", "top-right", "bottom-left", "bottom-right")
PLACES = ("any", *CORNERS)
# Share of images with a distractor, and of a quadrant that an object takes.
_DISTRACTORS, _OBJECT = 0.5, 0.9
# Class counts of a fine-tuning set differ by up to this share (RaVL's generator: 20 of 200).
_UNEVEN = 0.1
_LEAST_IMAGES, _LEAST_SIDE = 4, 8


@dataclass
class _Sheet:
    """What is drawn of one image."""

    pixels: NDArray[np.uint8]
    boxes: list[tuple[int, int, int, int]] = field(default_factory=list)
    shows: list[int] = field(default_factory=list)


def draw_images(
    setting: Setting, objects: Objects, *, fold: Fold, count: int, side: int, tied: bool
) -> ControlledImages:
    """Draw the images of a setting; the same arguments give the same bytes.

    Args:
        setting: what is tied to what.
        objects: of its domain.
        fold: which objects.
        count: n, four times the number of classes or more.
        side: S, a multiple of 2, 8 or more.
        tied: whether the feature goes with the target (a fine-tuning set, whose class sizes differ
            by up to a tenth) or with no class (an evaluation set, half of the images of each
            class).

    Returns:
        n images with four regions each on black, and with one to three on photographs.

    Raises:
        UsageError: a class, a feature or a place that the domain has not, too few images, or a side
            that no quadrants fit.
        NotApplicableError: the fold has no object of a class, or the images are too few for as low
            a correlation.
        FetchError: a package with objects, features or scenes cannot be had.

    Example:
        >>> from fieldmark.data.controlled.objects import open_objects
        >>> setting = Setting(domain="digits", feature="soccer-ball", classes=("one", "two"),
        ...                   target="two", correlation=0.9)
        >>> draw_images(setting, open_objects("digits"), fold="training", count=4, side=64,
        ...             tied=True)
        Traceback (most recent call last):
        fieldmark.core.errors.UsageError: 4 images are too few for 2 classes; ask for 8 or more
    """
    _check(setting, objects, count=count, side=side)
    random = generator(setting.draw, "controlled", setting.name, fold)
    labels = _draw_labels(setting, count, uneven=_UNEVEN if tied else 0.0, random=random)
    feature = _draw_presence(setting, labels, tied=tied, seed=int(random.integers(2**31)))
    chosen = _choose_objects(setting, objects, labels, fold=fold, random=random)
    others = _choose_distractors(setting)
    scenes = _open_scenes(side, fold) if objects.scenes else None
    pixels = np.zeros((count, 3, side, side), np.uint8)
    sheets = [_Sheet(image) for image in pixels]
    for number, sheet in enumerate(sheets):
        distractor = others[random.integers(len(others))] if random.random() < _DISTRACTORS else ""
        _draw(
            sheet,
            objects.read(int(chosen[number])),
            setting=setting,
            label=int(labels[number]),
            feature=bool(feature[number]),
            distractor=distractor,
            scenes=scenes,
            random=random,
        )
    return ControlledImages(
        pixels=PixelArray(torch.from_numpy(pixels)),
        labels=labels,
        captions=_draw_captions(setting, labels, domain=objects.name, random=random),
        feature=feature,
        owners=np.repeat(np.arange(count), [len(sheet.boxes) for sheet in sheets]),
        boxes=np.array([box for sheet in sheets for box in sheet.boxes], np.float32),
        shows=np.array([what for sheet in sheets for what in sheet.shows], np.int64),
        names=(*setting.classes, setting.feature, "distractor", "blank"),
    )


def _check(setting: Setting, objects: Objects, *, count: int, side: int) -> None:
    unknown = set(setting.classes) - set(objects.classes)
    if unknown or setting.feature not in FEATURES or setting.place not in PLACES:
        raise UsageError(
            f"setting {setting.name!r} has a class, feature or place that {objects.name} has not",
            mend=f"classes: {', '.join(objects.classes)}; features: {', '.join(FEATURES)}; "
            f"places: {', '.join(PLACES)}",
        )
    if len(set(setting.classes)) < len(setting.classes):
        raise UsageError(f"setting {setting.name!r} names one class twice")
    least = _LEAST_IMAGES * len(setting.classes)
    if count < least:
        raise UsageError(
            f"{count} images are too few for {len(setting.classes)} classes",
            mend=f"ask for {least} or more",
        )
    if side % 2 or side < _LEAST_SIDE:
        raise UsageError(
            f"images of {side} pixels have no quadrants to draw in",
            mend=f"choose an encoder whose input has an even side of {_LEAST_SIDE} or more",
        )


def _draw_presence(setting: Setting, labels: Ints, *, tied: bool, seed: int) -> NDArray[np.bool_]:
    if tied:
        return tie_feature(labels, target=setting.code, correlation=setting.correlation, seed=seed)
    return balance_feature(labels, seed=seed)


def _draw_captions(
    setting: Setting, labels: Ints, *, domain: str, random: np.random.Generator
) -> tuple[str, ...]:
    captions = DOMAINS[domain].captions
    said = random.integers(len(captions), size=len(labels)).tolist()
    return tuple(
        captions[which].format(setting.classes[label])
        for which, label in zip(said, labels.tolist(), strict=True)
    )


def _draw_labels(
    setting: Setting, count: int, *, uneven: float, random: np.random.Generator
) -> Ints:
    shares = 1 + random.uniform(-uneven, uneven, len(setting.classes))
    counts = np.floor(shares / shares.sum() * count).astype(np.int64)
    counts[: count - int(counts.sum())] += 1
    return random.permutation(np.repeat(np.arange(len(counts)), counts))


def _choose_objects(
    setting: Setting, objects: Objects, labels: Ints, *, fold: Fold, random: np.random.Generator
) -> Ints:
    chosen = np.zeros(len(labels), np.int64)
    for code, name in enumerate(setting.classes):
        pool = objects.list_fold(fold, label=objects.classes.index(name))
        if not len(pool):
            raise NotApplicableError(f"{objects.name} has no {name!r} in its fold for {fold}")
        rows = np.flatnonzero(labels == code)
        # None twice where there are enough.
        rounds = [random.permutation(pool) for _ in range(-(-len(rows) // len(pool)))]
        chosen[rows] = np.concatenate(rounds)[: len(rows)]
    return chosen


def _choose_distractors(setting: Setting) -> tuple[str, ...]:
    """Return three features of other kinds than the spurious one."""
    random = generator(setting.draw, "distractors", setting.name)
    kind = find_kind(setting.feature)
    return tuple(
        random.choice([name for name in FEATURES if find_kind(name) != kind], 3, replace=False)
    )


def _draw(
    sheet: _Sheet,
    thing: Image.Image,
    *,
    setting: Setting,
    label: int,
    feature: bool,
    distractor: str,
    scenes: NDArray[np.uint8] | None,
    random: np.random.Generator,
) -> None:
    quadrant = sheet.pixels.shape[-1] // 2
    corners = random.permutation(4).tolist()
    if setting.place != "any":
        fixed = CORNERS.index(setting.place)
        corners = [corner for corner in corners if corner != fixed]
        corners.insert(1, fixed)
    shown = {corners[0]: label}
    canvas = Image.new("RGB", (2 * quadrant, 2 * quadrant))
    if scenes is not None:
        canvas = Image.fromarray(scenes[random.integers(len(scenes))].transpose(1, 2, 0))
    if scenes is not None and random.random() < 0.5:
        thing = thing.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    boxes = [_paste(canvas, fit(thing, round(_OBJECT * quadrant)), corners[0], random=random)]
    width = len(setting.classes)
    for wanted, name, code, corner in (
        (feature, setting.feature, width, corners[1]),
        (bool(distractor), distractor, width + 1, corners[2]),
    ):
        if wanted:
            size = setting.size if code == width else 0.7
            image = draw_feature(name, side=round(size * quadrant), random=random)
            boxes.append(_paste(canvas, image, corner, random=random))
            shown[corner] = code
    sheet.pixels[:] = np.asarray(canvas).transpose(2, 0, 1)
    if scenes is not None:
        sheet.boxes, sheet.shows = boxes, list(shown.values())
    else:
        sheet.boxes = [_locate(corner, quadrant) for corner in range(4)]
        sheet.shows = [shown.get(corner, width + 2) for corner in range(4)]


def _locate(corner: int, quadrant: int) -> tuple[int, int, int, int]:
    x, y = corner % 2 * quadrant, corner // 2 * quadrant
    return x, y, x + quadrant, y + quadrant


def _paste(
    canvas: Image.Image, image: Image.Image, corner: int, *, random: np.random.Generator
) -> tuple[int, int, int, int]:
    quadrant = canvas.width // 2
    left, top, _, _ = _locate(corner, quadrant)
    x = left + int(random.integers(quadrant - image.width + 1))
    y = top + int(random.integers(quadrant - image.height + 1))
    canvas.paste(image, (x, y), image)
    return x, y, x + image.width, y + image.height


@functools.lru_cache(maxsize=4)
def _open_scenes(side: int, fold: Fold) -> NDArray[np.uint8]:
    """Return the photographs of a fold, whole and of no class: (m,3,S,S)."""
    files = [file for file in read_list() if file.role == "scene" and "!" not in file.file]
    key = hash_json([[file.package, file.file] for file in files])
    store = open_store(
        cache_dir() / "controlled" / f"scenes-{side}-{key[:16]}.u8",
        count=len(files),
        draw=lambda index: [
            np.ascontiguousarray(
                np.asarray(
                    fit_background(
                        read_image(fetch_debian(files[index].package) / files[index].file),
                        side=side,
                    )
                ).transpose(2, 0, 1)
            )
        ],
    )
    rows = [row for row in range(len(files)) if (row % 3 > 0) == (fold == "training")]
    pixels = np.empty((len(rows), 3, side, side), np.uint8)
    for slot, row in zip(pixels, rows, strict=True):
        store.read_into(slot, row)
    return pixels
