"""Sprites and scenes: what composites are made of, resized once and kept on disk.

Both stores are named by a hash over the content of all files and every setting that their pixels
depend on.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

from fieldmark.core.atomic import hash_json
from fieldmark.core.errors import MaskError, UsageError
from fieldmark.data.backgrounds import Backgrounds, fit_background
from fieldmark.data.foregrounds import Foregrounds
from fieldmark.data.masks import find_box, refine_mask
from fieldmark.data.stores import ImageStore, Pixels, open_store

Progress = Callable[[str, int, int], None]

# Part of every key: raise it when the pixels that are stored change.
RECIPE = 1


def find_size(width: int, height: int, *, side: int, scale: float) -> tuple[int, int]:
    """Return the size of an object whose longer side becomes `round(scale * side)` pixels.

    Example:
        >>> find_size(100, 50, side=224, scale=0.75)
        (168, 84)
    """
    longer = max(1, round(scale * side))
    ratio = longer / max(width, height)
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def draw_sprite(cutout: Image.Image, *, side: int, scale: float) -> Image.Image:
    """Crop an RGBA object by its mask, resize it, and refine its mask (BAP M.3.3 steps 1 to 3).

    Colours and mask are resized apart, so that no colour is weighted by its transparency;
    `Foregrounds.read` sees to it that colours mean something outside the mask too.

    Args:
        cutout: RGBA; the object is where alpha is above 100.
        side: S of the composite.
        scale: longer side of the object as a share of S, above 0 and at most 1.

    Returns:
        RGBA of the size that `find_size` gives.

    Raises:
        MaskError: there is no object, or none is left at this size.
    """
    cutout = cutout.crop(find_box(np.asarray(cutout.getchannel("A"))))
    size = find_size(*cutout.size, side=side, scale=scale)
    colour = cutout.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    mask = refine_mask(np.asarray(cutout.getchannel("A").resize(size, Image.Resampling.LANCZOS)))
    if not mask.any():
        raise MaskError(
            f"nothing of the object is left at {size[0]} x {size[1]} pixels",
            mend="leave this foreground out (--skip-unreadable): it is too thin",
        )
    colour.putalpha(Image.fromarray(mask))
    return colour


def spread_scales(scales: tuple[float, float], *, steps: int, side: int) -> tuple[float, ...]:
    """Spread `steps` scales evenly from the least to the largest; one step is the middle.

    Raises:
        UsageError: no steps, no side, or scales that are not 0 < least <= largest <= 1.

    Example:
        >>> spread_scales((0.5, 1.0), steps=3, side=224)
        (0.5, 0.75, 1.0)
    """
    low, high = scales
    if not 0 < low <= high <= 1:
        raise UsageError(f"scales of {low} to {high}", mend="use 0 < least <= largest <= 1")
    if steps < 1 or side < 1:
        raise UsageError(f"{steps} scale steps at a side of {side}", mend="use at least 1 of each")
    values = np.linspace(low, high, steps) if steps > 1 else np.array([(low + high) / 2])
    return tuple(float(value) for value in values)


def store_sprites(
    foregrounds: Foregrounds,
    *,
    side: int,
    scales: tuple[float, ...],
    cache: Path,
    on_progress: Progress | None = None,
) -> ImageStore:
    """Resize each object once a scale; sprite `object * len(scales) + scale` is (4,h,w), RGBA.

    Raises:
        ImageError: a file that cannot be read.
        MaskError: a mask that cannot be used, or an object too thin for its size.
    """

    def draw(index: int) -> list[Pixels]:
        cutout = foregrounds.read(index)
        try:
            sprites = [draw_sprite(cutout, side=side, scale=scale) for scale in scales]
        except MaskError as error:
            raise MaskError(
                error.problem, where=foregrounds.paths[index], mend=error.mend
            ) from error
        return [_to_planes(sprite) for sprite in sprites]

    return open_store(
        _name_store(cache, "sprites", [side, list(scales), foregrounds.hashes()]),
        count=len(foregrounds),
        draw=draw,
        on_progress=_tag(on_progress, "foregrounds"),
    )


def store_backgrounds(
    backgrounds: Backgrounds, *, side: int, cache: Path, on_progress: Progress | None = None
) -> ImageStore:
    """Crop and resize each scene once; scene i is (3,side,side).

    Raises:
        ImageError: a file that cannot be read.
    """
    return open_store(
        _name_store(cache, "scenes", [side, backgrounds.hashes()]),
        count=len(backgrounds),
        draw=lambda index: [_to_planes(fit_background(backgrounds.read(index), side=side))],
        on_progress=_tag(on_progress, "backgrounds"),
    )


def _to_planes(image: Image.Image) -> Pixels:
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _name_store(cache: Path, kind: str, content: list[object]) -> Path:
    # Another Pillow may resize or decode to other values.
    key = hash_json([RECIPE, PIL.__version__, *content])
    return cache / f"{kind}-{key[:32]}.u8"


def _tag(on_progress: Progress | None, kind: str) -> Callable[[int, int], None] | None:
    if on_progress is None:
        return None
    return lambda done, total: on_progress(kind, done, total)
