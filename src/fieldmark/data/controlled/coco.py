"""Images of COCO for a controlled setting: a category is tied to another (RaVL 3.2, appendix B).

The paper says that images, captions and boxes are those of COCO, and how closely feature and class
go together. The rest is decided here:

- An image is of a class if that class, and no other of the label set, has a region in it. It has
  the feature if that has a region in it. An image is left out if a class or the feature is in it
  without a region: as a crowd, or cut off by the encoder's crop.
- The caption of a fine-tuning image names its class and no other of the label set.
- Classes of a fine-tuning set are of one size. In an evaluation set half of the images of each
  class have the feature, so that Cramer's V is 0, and classes are as large as COCO allows.

Shape letters: m chosen or eligible images, T captions, S the side of an encoder's input.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fieldmark.core.atomic import hash_json
from fieldmark.core.errors import NotApplicableError, TableError, UsageError
from fieldmark.core.seeds import generator
from fieldmark.data.columns import Columns, resolve_paths
from fieldmark.data.controlled.coco_split import Flags, View
from fieldmark.data.controlled.correlate import tie_feature
from fieldmark.data.controlled.images import ControlledImages, Ints, Setting
from fieldmark.data.images import hash_image, read_image
from fieldmark.data.layout import require_files
from fieldmark.data.stores import ImageStore, Pixels, open_store

# Ten images with the feature and ten without it leave epsilon in steps of 10 points.
LEAST_TRAINING, LEAST_EVALUATION = 50, 10


@dataclass(frozen=True, eq=False)
class StoredPixels:
    """Square images in a file.

    Attributes:
        store: the images, uint8 (3,S,S) each.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     image = np.zeros((3, 2, 2), np.uint8)
        ...     store = open_store(Path(folder) / "a.u8", count=3, draw=lambda i: [image + i])
        ...     StoredPixels(store).read(np.array([2, 0])).amax((1, 2, 3)).tolist()
        [2, 0]
    """

    store: ImageStore

    def __len__(self) -> int:
        return len(self.store)

    def read(self, indices: Ints, /) -> Tensor:
        """Return some of them: uint8 (b,3,S,S)."""
        values = np.empty((len(indices), *self.store.shapes[0]), np.uint8)
        for slot, index in zip(values, indices, strict=True):
            self.store.read_into(slot, int(index))
        return torch.from_numpy(values)


class Eligible(NamedTuple):
    """Images of a view that a setting may draw.

    Attributes:
        rows: (m,) images, ascending.
        labels: (m,) class, a place in the label set.
        feature: (m,) whether the feature is there.
        captions: (T,) which captions of the view may stand for their image.
    """

    rows: Ints
    labels: Ints
    feature: Flags
    captions: Flags


def name_feature(category: str) -> str:
    """Return what a setting calls a category as a feature: one word.

    Example:
        >>> name_feature("cell phone")
        'cell-phone'
    """
    return "-".join(category.split())


def find_eligible(setting: Setting, view: View, *, tied: bool) -> Eligible:
    """Find the images that a setting may draw.

    Args:
        setting: which classes and which feature.
        view: of the training or the evaluation images.
        tied: whether captions must name the class of their image and no other.

    Raises:
        UsageError: a class or a feature that is no category, or a feature that is a class.
    """
    codes, feature = _find_codes(setting, view)
    split, watched = view.split, [*codes, feature]
    obscure = (view.shown[:, watched] & ~view.clear[:, watched]).any(1)
    of_class = view.clear[:, codes]
    label = of_class.argmax(1)
    fits = (of_class.sum(1) == 1) & ~obscure
    captions = fits[split.speakers]
    if tied:
        said = view.named[:, codes]
        captions &= (said.sum(1) == 1) & (said.argmax(1) == label[split.speakers])
    spoken = np.zeros(len(split), np.bool_)
    spoken[split.speakers[captions]] = True
    rows = np.flatnonzero(spoken)
    return Eligible(rows, label[rows], view.clear[rows, feature], captions)


def _find_codes(setting: Setting, view: View) -> tuple[list[int], int]:
    names = view.split.names
    features = {name_feature(name): code for code, name in enumerate(names)}
    unknown = [name for name in setting.classes if name not in names]
    if setting.feature not in features:
        unknown.append(setting.feature)
    if unknown:
        raise UsageError(
            f"{view.split.source.name} has no category {unknown[0]!r}",
            mend=f"choose among {', '.join(names)}",
        )
    codes = [names.index(name) for name in setting.classes]
    if features[setting.feature] in codes or len(set(codes)) < len(codes):
        raise UsageError(f"{setting.name!r} names one category twice")
    return codes, features[setting.feature]


def choose_images(
    setting: Setting, view: View, *, tied: bool, per_class: int = 1000
) -> tuple[Ints, Eligible]:
    """Choose the images of a setting.

    Args:
        setting: what is tied to what; its `draw` is the seed.
        view: of the training or the evaluation images.
        tied: whether the feature goes with the target (a fine-tuning set) or with no class.
        per_class: most images of a class.

    Returns:
        (m,) places in the eligible images, ascending, and these.

    Raises:
        NotApplicableError: too few images; the message has the counts by class.
    """
    eligible = find_eligible(setting, view, tied=tied)
    flags = eligible.feature.astype(np.int64)
    # By class, without the feature and with it.
    cells = 2 * eligible.labels + flags
    counts = np.bincount(cells, minlength=2 * len(setting.classes)).reshape(-1, 2)
    if tied:
        wanted = _count_tied(setting, counts, per_class=per_class)
    else:
        most = np.minimum(counts.min(1), per_class // 2)
        wanted = np.stack([most, most], 1) if most.min() >= LEAST_EVALUATION else None
    if wanted is None:
        raise NotApplicableError(_describe_counts(setting, counts, view=view, tied=tied))
    random = generator(setting.draw, "coco", setting.name, "tied" if tied else "untied")
    chosen = [
        random.permutation(np.flatnonzero(cells == cell))[:most]
        for cell, most in enumerate(wanted.ravel().tolist())
    ]
    return np.sort(np.concatenate(chosen)), eligible


def _count_tied(setting: Setting, counts: Ints, *, per_class: int) -> Ints | None:
    """Return how many images to take by class and feature, or none if there are too few."""
    size = min(per_class, int(counts.sum(1).min()))
    while size >= LEAST_TRAINING:
        labels = np.repeat(np.arange(len(counts)), size)
        feature = tie_feature(
            labels, target=setting.code, correlation=setting.correlation, seed=setting.draw
        )
        cells = 2 * labels + feature.astype(np.int64)
        wanted = np.bincount(cells, minlength=counts.size).reshape(-1, 2).astype(np.int64)
        if (wanted <= counts).all():
            return wanted
        share = float((counts[wanted > 0] / wanted[wanted > 0]).min())
        size = min(size - 1, int(size * share) + 1)
    return None


def _describe_counts(setting: Setting, counts: Ints, *, view: View, tied: bool) -> str:
    held = ", ".join(
        f"{name} {present} with and {absent} without"
        for name, (absent, present) in zip(setting.classes, counts.tolist(), strict=True)
    )
    needed = (
        f"{LEAST_TRAINING} images a class tied by {setting.correlation:g}"
        if tied
        else f"{LEAST_EVALUATION} images a class with and without"
    )
    return (
        f"{view.split.source.name} has too few images for {setting.name!r}, which needs {needed} "
        f"{setting.feature}: {held}"
    )


def draw_coco_images(
    setting: Setting,
    view: View,
    *,
    tied: bool,
    cache: Path,
    per_class: int = 1000,
    on_progress: Callable[[int, int], None] | None = None,
) -> ControlledImages:
    """Draw the images of a setting; the same arguments give the same ones.

    Args:
        setting: what is tied to what.
        view: of the training images where `tied`, else of the evaluation images.
        tied: whether the feature goes with the target (a fine-tuning set) or with no class (an
            evaluation set, half of the images of each class).
        cache: folder for the pixels, 3 S^2 bytes an image; a setting has a file of its own.
        per_class: most images of a class.
        on_progress: called with how many images are prepared and how many there are.

    Returns:
        Regions are COCO's boxes as the encoder sees them; what they show is a class, the feature,
        or one of the other categories in the order of the file.

    Raises:
        NotApplicableError: too few images; the message has the counts by class.
        UsageError: a class or a feature that is no category.
        TableError: an image is not there, or not of the size that its annotation says.
        ImageError: an image cannot be read.
    """
    chosen, eligible = choose_images(setting, view, tied=tied, per_class=per_class)
    rows = eligible.rows[chosen]
    regions = _take_regions(setting, view, rows)
    return ControlledImages(
        pixels=_open_pixels(view, rows, cache=cache, on_progress=on_progress),
        labels=eligible.labels[chosen],
        captions=_draw_captions(setting, view, rows, allowed=eligible.captions),
        feature=eligible.feature[chosen],
        owners=regions.owners,
        boxes=regions.boxes,
        shows=regions.shows,
        names=regions.names,
    )


class _Regions(NamedTuple):
    owners: Ints
    boxes: NDArray[np.float32]
    shows: Ints
    names: tuple[str, ...]


def _take_regions(setting: Setting, view: View, rows: Ints) -> _Regions:
    codes, feature = _find_codes(setting, view)
    split = view.split
    first = [*codes, feature]
    others = [code for code in range(len(split.names)) if code not in first]
    place = np.empty(len(split.names), np.int64)
    place[[*first, *others]] = np.arange(len(place))
    position = np.full(len(split), -1)
    position[rows] = np.arange(len(rows))
    taken = view.marked & (position[split.owners] >= 0)
    names = (*setting.classes, setting.feature, *(split.names[code] for code in others))
    owners = position[split.owners[taken]].astype(np.int64)
    return _Regions(owners, view.boxes[taken], place[split.categories[taken]], names)


def _draw_captions(setting: Setting, view: View, rows: Ints, *, allowed: Flags) -> tuple[str, ...]:
    split = view.split
    places = np.flatnonzero(allowed)
    starts = np.searchsorted(split.speakers[places], rows)
    stops = np.searchsorted(split.speakers[places], rows, side="right")
    picked = generator(setting.draw, "coco captions", setting.name).integers(starts, stops)
    return tuple(split.captions[place] for place in places[picked].tolist())


def _open_pixels(
    view: View, rows: Ints, *, cache: Path, on_progress: Callable[[int, int], None] | None
) -> StoredPixels:
    split, frame = view.split, view.frame
    files = [split.files[row] for row in rows.tolist()]
    columns = Columns(split.source, {}, [f"of image {name}" for name in files])
    require_files((split.folder / name for name in files), root=split.folder)
    paths = resolve_paths(columns, files, root=split.folder)
    key = {"images": [hash_image(path) for path in paths], "frame": dict(frame.key)}

    def draw(number: int) -> list[Pixels]:
        image = read_image(paths[number])
        size = tuple(split.sizes[rows[number]].tolist())
        if image.size != size:
            raise TableError(
                f"the image is {image.width} x {image.height}, its annotation says "
                f"{size[0]} x {size[1]}",
                where=paths[number],
                mend="unpack the images again",
            )
        return [frame.prepare(image)]

    path = cache / f"controlled-{hash_json(key)[:32]}.u8"
    return StoredPixels(open_store(path, count=len(rows), draw=draw, on_progress=on_progress))
