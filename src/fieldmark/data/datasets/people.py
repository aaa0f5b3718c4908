"""People for `coco_gender`: alone on grey, labelled by a margin, sampled flat (BAP L.1 to L.4).

The labeller is a function from people to margins M = C_man - C_woman in [-1, 1] (equation 8), so
that nothing here needs a model. Its margins can be kept in a table and used again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fieldmark.core.atomic import hash_json
from fieldmark.core.errors import InputError, MaskError, TableError, UsageError
from fieldmark.core.seeds import derive_seed, generator
from fieldmark.data.columns import check_unique, read_columns
from fieldmark.data.datasets.built import write_rows
from fieldmark.data.foregrounds import Foregrounds
from fieldmark.data.masks import find_box, threshold_mask
from fieldmark.data.sprites import find_size

GREY = (128, 128, 128)
BOUNDS = (0.20, 0.99)
BINS = 15


@dataclass(frozen=True, eq=False)
class People:
    """People alone on a grey canvas: what a labeller looks at.

    Attributes:
        foregrounds: the people with their masks.
        size: side of the canvas in pixels.
    """

    foregrounds: Foregrounds
    size: int = 224

    def __len__(self) -> int:
        return len(self.foregrounds)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids of the people."""
        return self.foregrounds.ids

    def read(self, index: int, /) -> Image.Image:
        """Draw person `index`: RGB, `size` pixels square.

        Raises:
            ImageError: the photograph cannot be read.
            MaskError: the mask has no object.
        """
        return isolate_person(self.foregrounds.read(index), size=self.size)

    def hashes(self) -> tuple[str, ...]:
        """Return a SHA-256 of each person's photograph, outline and canvas."""
        return tuple(
            hash_json([digest, "grey canvas", self.size]) for digest in self.foregrounds.hashes()
        )


Labeller = Callable[[People], NDArray[np.float64]]


def isolate_person(cutout: Image.Image, *, size: int = 224) -> Image.Image:
    """Put a cut-out in the middle of a grey canvas, its longer side as long as the canvas's (L.1).

    The mask is cut at 100 after resizing, as it is for composites, but not softened: the paper
    softens it for composites alone.

    Args:
        cutout: RGBA; the object is where alpha is above 100.
        size: side of the canvas in pixels.

    Returns:
        RGB, `size` by `size`, (128, 128, 128) around the object.

    Raises:
        MaskError: there is no object, or none is left at this size.

    Example:
        >>> canvas = isolate_person(Image.new("RGBA", (20, 40), (255, 0, 0, 255)), size=8)
        >>> canvas.getpixel((0, 4)), canvas.getpixel((4, 4))
        ((128, 128, 128), (255, 0, 0))
    """
    # Imported late: it loads torch, which a list of data sets does not need.
    from fieldmark.data.compositing import find_place

    cutout = cutout.crop(find_box(np.asarray(cutout.getchannel("A"))))
    shape = find_size(*cutout.size, side=size, scale=1.0)
    colour = cutout.convert("RGB").resize(shape, Image.Resampling.LANCZOS)
    alpha = cutout.getchannel("A").resize(shape, Image.Resampling.LANCZOS)
    mask = threshold_mask(np.asarray(alpha))
    if not mask.any():
        raise MaskError("nothing of the object is left when it is resized", mend="leave it out")
    canvas = Image.new("RGB", (size, size), GREY)
    place = find_place(*shape, side=size)
    canvas.paste(colour, (place.columns.start, place.rows.start), Image.fromarray(mask))
    return canvas


def shrink_cutout(cutout: Image.Image, *, size: int) -> Image.Image:
    """Make a cut-out's longer side `size` at most; colours and mask apart, as in `draw_sprite`.

    Example:
        >>> shrink_cutout(Image.new("RGBA", (80, 40)), size=20).size
        (20, 10)
    """
    if max(cutout.size) <= size:
        return cutout
    shape = find_size(*cutout.size, side=size, scale=1.0)
    small = cutout.convert("RGB").resize(shape, Image.Resampling.LANCZOS)
    small.putalpha(cutout.getchannel("A").resize(shape, Image.Resampling.LANCZOS))
    return small


def find_bins(
    margins: NDArray[np.float64], *, bins: int = BINS, bounds: tuple[float, float] = BOUNDS
) -> NDArray[np.int64]:
    """Return the bin of each absolute margin, or -1 outside the bounds and for NaN (L.3).

    Args:
        margins: (n,) in [-1, 1].
        bins: how many bins of equal width lie between the bounds.
        bounds: least and largest absolute margin, both included.

    Raises:
        UsageError: no bins, or bounds that are not 0 <= least < largest <= 1.

    Example:
        >>> find_bins(np.array([0.1, -0.2, 0.5, 0.99, 1.0, np.nan])).tolist()
        [-1, 0, 5, 14, -1, -1]
    """
    low, high = bounds
    if bins < 1 or not 0 <= low < high <= 1:
        raise UsageError(
            f"{bins} bins between {low} and {high}", mend="use 0 <= least < largest <= 1"
        )
    size = np.abs(margins)
    inside = (size >= low) & (size <= high)
    place = (np.where(inside, size, low) - low) / (high - low) * bins
    return np.where(inside, np.minimum(place.astype(np.int64), bins - 1), -1)


def sample_flat(
    margins: NDArray[np.float64],
    *,
    count: int,
    bins: int = BINS,
    bounds: tuple[float, float] = BOUNDS,
    seed: int,
) -> NDArray[np.int64]:
    """Draw as evenly over the bins of the absolute margin as they allow (L.3).

    A randomised round robin: each round visits the bins that are not used up in a random order and
    draws one at random from each, until there are enough.

    Args:
        margins: (n,) in [-1, 1]; NaN is left out.
        count: how many to draw.
        bins: how many bins of equal width lie between the bounds.
        bounds: least and largest absolute margin, both included.
        seed: of the draw.

    Returns:
        (count,) indices, in the order in which they are drawn.

    Raises:
        InputError: fewer than `count` lie within the bounds.
        UsageError: as `find_bins`.

    Example:
        >>> drawn = sample_flat(np.array([0.3, 0.31, 0.32, 0.9, 1.0]), count=2, bins=2, seed=0)
        >>> sorted(np.array([0.3, 0.3, 0.3, 0.9, 1.0])[drawn].tolist())
        [0.3, 0.9]
    """
    bin_of = find_bins(margins, bins=bins, bounds=bounds)
    rng = generator(seed, "flat sample")
    pool = np.flatnonzero(bin_of >= 0)
    if pool.size < count:
        raise InputError(
            f"only {pool.size} of {int(np.isfinite(margins).sum())} margins lie between "
            f"{bounds[0]} and {bounds[1]}, {count} are wanted",
            mend="ask for fewer, or for wider bounds",
        )
    pool = rng.permutation(pool)
    turn = np.zeros(pool.size, np.int64)
    for number in range(bins):
        inside = bin_of[pool] == number
        turn[inside] = np.arange(int(inside.sum()))
    order = np.lexsort((rng.random(pool.size), turn))
    return np.asarray(pool[order[:count]], np.int64)


def choose_people(
    margins: NDArray[np.float64],
    *,
    per_class: int,
    bins: int = BINS,
    bounds: tuple[float, float] = BOUNDS,
    seed: int,
) -> dict[str, NDArray[np.int64]]:
    """Draw as many men (M above 0) as women (M below 0), each flat over the bins (L.3, L.4).

    Returns:
        `man` and `woman` to (per_class,) indices in a random order.

    Raises:
        InputError: there are too few of one.

    Example:
        >>> chosen = choose_people(np.array([0.5, -0.5, 0.1, 0.7]), per_class=1, seed=0)
        >>> chosen["woman"].tolist()
        [1]
    """
    chosen = {}
    for label, sign in (("man", 1), ("woman", -1)):
        of_class = np.where(np.sign(margins) == sign, margins, np.nan)
        try:
            chosen[label] = sample_flat(
                of_class,
                count=per_class,
                bins=bins,
                bounds=bounds,
                seed=derive_seed(seed, "people", label),
            )
        except InputError as error:
            raise InputError(error.problem, where=f"class {label}", mend=error.mend) from error
    return chosen


def count_margins(
    margins: NDArray[np.float64], *, bins: int = BINS, bounds: tuple[float, float] = BOUNDS
) -> dict[str, Any]:
    """Count people, those without a margin, and those in each bin, class by class, for a card.

    Example:
        >>> count_margins(np.array([0.3, -0.9, np.nan]), bins=2)
        {'people': 3, 'without a margin': 1, 'by bin': {'man': [1, 0], 'woman': [0, 1]}}
    """
    place = find_bins(margins, bins=bins, bounds=bounds)
    of_class = {
        label: np.bincount(place[(place >= 0) & (np.sign(margins) == sign)], minlength=bins)
        for label, sign in (("man", 1), ("woman", -1))
    }
    return {
        "people": int(margins.size),
        "without a margin": int(np.isnan(margins).sum()),
        "by bin": {label: counts.tolist() for label, counts in of_class.items()},
    }


def write_margins(path: Path, *, ids: Sequence[str], margins: NDArray[np.float64]) -> None:
    """Write margins as a CSV table: `id` and `margin`, blank where there is none."""
    texts = ("" if np.isnan(margin) else repr(margin) for margin in margins.tolist())
    write_rows(path, ("id", "margin"), zip(ids, texts, strict=True))


def read_margins(path: Path) -> Labeller:
    """Return a labeller that looks margins up in a table of `id` and `margin`.

    A person who is not in the table has no margin (NaN) and is not used.

    Raises:
        TableError: no such table, or a margin that is no number in [-1, 1], with its row.
    """
    columns = read_columns(path)
    ids = check_unique(columns, columns.require("id"))
    known: dict[str, float] = {}
    for index, text in enumerate(columns.require("margin")):
        try:
            known[ids[index]] = float(text or "nan")
        except ValueError:
            known[ids[index]] = np.inf
        if abs(known[ids[index]]) > 1:
            raise TableError(
                f"the margin {text!r} is no number between -1 and 1",
                where=columns.where(index),
                mend="mend the row or measure the margins again",
            )

    def look_up(people: People) -> NDArray[np.float64]:
        return np.array([known.get(name, np.nan) for name in people.ids], np.float64)

    return look_up
