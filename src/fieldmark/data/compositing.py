"""Composites: an object on a scene, after BAP appendix M.3.3.

`composite_reference` is the definition, a few lines of Pillow. `Compositor` gives the same pixels,
bit for bit, at the rate that training needs: objects are resized once for each of a few scales and
scenes once, both into files on disk, so that a composite is one read, one small blend and no
decoding, and memory does not grow with their number.

The paper's points that are open: the scale is the longer side of the object; scenes become square
by a centre crop; the mask is softened within the box of the object, so it stays hard where the
object touches that box.

Shape letters: B composites, C channels, H and W pixels, S the side of a composite.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fieldmark.core.errors import InputError
from fieldmark.data.backgrounds import Backgrounds, fit_background
from fieldmark.data.foregrounds import Foregrounds
from fieldmark.data.sprites import draw_sprite, spread_scales, store_backgrounds, store_sprites

Indices: TypeAlias = NDArray[np.int64]
SCALES = (0.6, 0.8)


class Composites(NamedTuple):
    """A batch of composites and what they were made of.

    Attributes:
        image: uint8 (B,3,S,S).
        mask: uint8 (B,S,S), the refined mask that each object was pasted with.
        objects: (B,) index into the foregrounds.
        backgrounds: (B,) index into the backgrounds.
        scales: (B,) index into the scales.
    """

    image: Tensor
    mask: Tensor
    objects: Indices
    backgrounds: Indices
    scales: Indices


class Placement(NamedTuple):
    """The rows and columns of a composite that an object covers."""

    rows: slice
    columns: slice


def find_place(width: int, height: int, *, side: int) -> Placement:
    """Return where an object goes: the centre, or half a pixel up and left of it.

    Example:
        >>> find_place(3, 2, side=6)
        Placement(rows=slice(2, 4, None), columns=slice(1, 4, None))
    """
    top, left = (side - height) // 2, (side - width) // 2
    return Placement(slice(top, top + height), slice(left, left + width))


def composite_reference(
    cutout: Image.Image, background: Image.Image, *, side: int, scale: float
) -> Image.Image:
    """Paste one object on one scene, readably and slowly (BAP M.3.3).

    Args:
        cutout: RGBA, as `Foregrounds.read` gives it.
        background: RGB of any size.
        side: S of the composite.
        scale: longer side of the object as a share of S, above 0 and at most 1.

    Returns:
        RGB, S by S.

    Raises:
        MaskError: there is no object, or none is left at this size.

    Example:
        >>> red = Image.new("RGBA", (4, 4), (255, 0, 0, 255))
        >>> blue = Image.new("RGB", (9, 9), "blue")
        >>> composite = composite_reference(red, blue, side=8, scale=0.5)
        >>> composite.getpixel((2, 2)), composite.getpixel((1, 1))
        ((255, 0, 0), (0, 0, 255))
    """
    sprite = draw_sprite(cutout, side=side, scale=scale)
    composite = fit_background(background, side=side)
    place = find_place(*sprite.size, side=side)
    composite.paste(sprite, (place.columns.start, place.rows.start), sprite.getchannel("A"))
    return composite


def blend(sprite_BCHW: Tensor, background_BCHW: Tensor) -> Tensor:
    """Paste sprites on backgrounds of the same size, with the very integers of Pillow's `paste`.

    `(fg * a + bg * (255 - a)) / 255`, rounded to the nearest. The sum fits 16 bits unsigned; torch
    has only signed ones, but sums wrap around alike, and `& 255` undoes the sign of a shift.

    Args:
        sprite_BCHW: uint8 (B,4,H,W), colours and alpha.
        background_BCHW: uint8 (B,3,H,W).

    Returns:
        uint8 (B,3,H,W) on the same device.

    Example:
        >>> sprite = torch.tensor([200, 100, 0, 51], dtype=torch.uint8).view(1, 4, 1, 1)
        >>> blend(sprite, torch.full((1, 3, 1, 1), 50, dtype=torch.uint8)).flatten().tolist()
        [80, 60, 40]
    """
    alpha = sprite_BCHW[:, 3:].to(torch.int16)
    total = sprite_BCHW[:, :3] * alpha
    total += background_BCHW * (255 - alpha)
    total += 128
    total += (total >> 8) & 255
    return (total >> 8).to(torch.uint8)


class Compositor:
    """Composites of some foregrounds on some backgrounds, fast.

    Building one prepares the two stores in the cache folder, keyed by the content of all files and
    the settings; where they are there already it costs only the hashing of the files.

    Args:
        foregrounds: the objects.
        backgrounds: the scenes.
        side: S in pixels.
        scales: least and largest longer side of an object as a share of S.
        scale_steps: how many scales between them are kept; one stands for the middle.
        cache: folder of the stores.
        on_progress: called with what is prepared ("foregrounds"), how many are done and how many
            there are.

    Raises:
        UsageError: a side, a scale or a number of steps that cannot be.
        InputError: no foregrounds or no backgrounds.
        ImageError: a file that cannot be read.
        MaskError: a mask that cannot be used.

    Example:
        >>> import tempfile
        >>> from fieldmark.data.backgrounds import read_backgrounds
        >>> from fieldmark.data.foregrounds import read_foregrounds
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder = Path(name)
        ...     for part, image in {
        ...         "objects/red/a.png": Image.new("RGBA", (20, 20), (255, 0, 0, 254)),
        ...         "scenes/blue/b.png": Image.new("RGB", (40, 30), "blue"),
        ...     }.items():
        ...         (folder / part).parent.mkdir(parents=True)
        ...         image.save(folder / part)
        ...     compositor = Compositor(
        ...         read_foregrounds(folder / "objects"),
        ...         read_backgrounds(folder / "scenes"),
        ...         side=32,
        ...         cache=folder / "cache",
        ...     )
        ...     composites = compositor.composite([0, 0], [0, 0], [0, 7])
        >>> composites.image[0, :, 16, 16].tolist(), composites.image[0, :, 0, 0].tolist()
        ([255, 0, 0], [0, 0, 255])
        >>> (composites.mask == 255).sum((1, 2)).tolist()  # 19 and 26 pixels a side
        [361, 676]
    """

    def __init__(
        self,
        foregrounds: Foregrounds,
        backgrounds: Backgrounds,
        *,
        side: int,
        scales: tuple[float, float] = SCALES,
        scale_steps: int = 8,
        cache: Path,
        on_progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        for pool, kind in ((foregrounds, "foreground"), (backgrounds, "background")):
            if not len(pool):
                raise InputError(f"the {kind} pool is empty", mend="put images into it")
        self.side = side
        self.scale_values = spread_scales(scales, steps=scale_steps, side=side)
        self.labels = foregrounds.labels
        self.foregrounds = foregrounds
        self.backgrounds = backgrounds
        self._sprites = store_sprites(
            foregrounds, side=side, scales=self.scale_values, cache=cache, on_progress=on_progress
        )
        self._scenes = store_backgrounds(
            backgrounds, side=side, cache=cache, on_progress=on_progress
        )

    @property
    def n_objects(self) -> int:
        """How many foregrounds there are."""
        return len(self.foregrounds)

    @property
    def n_backgrounds(self) -> int:
        """How many backgrounds there are."""
        return len(self.backgrounds)

    @property
    def n_scales(self) -> int:
        """How many scales there are."""
        return len(self.scale_values)

    def composite(
        self,
        objects: Sequence[int] | Indices,
        backgrounds: Sequence[int] | Indices,
        scales: Sequence[int] | Indices,
        *,
        flip: NDArray[np.bool_] | None = None,
        device: torch.device | str | None = None,
    ) -> Composites:
        """Make B composites.

        Args:
            objects: (B,) index of the foreground of each.
            backgrounds: (B,) index of its background.
            scales: (B,) index into `scale_values`.
            flip: (B,) which to mirror left to right, scene and all.
            device: where to blend and leave the result; the CPU by default.

        Raises:
            IndexError: an index is out of range.
        """
        chosen = [np.asarray(index, np.int64) for index in (objects, backgrounds, scales)]
        self._check_indices(*chosen)
        target = torch.device(device or "cpu")
        if target.type == "cpu":
            image, mask = self._draw_here(*chosen)
        else:
            image, mask = self._draw_on(*chosen, device=target)
        if flip is not None and np.any(flip):
            turned = torch.from_numpy(np.flatnonzero(flip)).to(target)
            image[turned] = image[turned].flip(-1)
            mask[turned] = mask[turned].flip(-1)
        return Composites(image, mask, *chosen)

    def _check_indices(self, *chosen: Indices) -> None:
        for index, count in zip(
            chosen, (self.n_objects, self.n_backgrounds, self.n_scales), strict=True
        ):
            if index.shape != chosen[0].shape or index.ndim != 1:
                raise IndexError("objects, backgrounds and scales must be of one length")
            if index.size and not 0 <= index.min() <= index.max() < count:
                raise IndexError(f"an index of {int(index.max())} in a pool of {count}")

    def _draw_here(
        self, objects: Indices, backgrounds: Indices, scales: Indices
    ) -> tuple[Tensor, Tensor]:
        """Blend one by one, where the object is: what is worked on fits the processor's cache."""
        image = np.empty((len(objects), 3, self.side, self.side), np.uint8)
        mask = np.zeros((len(objects), self.side, self.side), np.uint8)
        pixels = torch.from_numpy(image)
        for i, sprite in enumerate(map(self._sprites.read, objects * self.n_scales + scales)):
            self._scenes.read_into(image[i], backgrounds[i])
            rows, columns = find_place(sprite.shape[2], sprite.shape[1], side=self.side)
            mask[i, rows, columns] = sprite[3]
            part = pixels[i : i + 1, :, rows, columns]
            part.copy_(blend(torch.from_numpy(sprite)[None], part))
        return pixels, torch.from_numpy(mask)

    def _draw_on(
        self, objects: Indices, backgrounds: Indices, scales: Indices, *, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Blend the batch at once on another device; sprites travel on a transparent canvas."""
        scene = np.empty((len(objects), 3, self.side, self.side), np.uint8)
        canvas = np.zeros((len(objects), 4, self.side, self.side), np.uint8)
        for i, sprite in enumerate(map(self._sprites.read, objects * self.n_scales + scales)):
            self._scenes.read_into(scene[i], backgrounds[i])
            rows, columns = find_place(sprite.shape[2], sprite.shape[1], side=self.side)
            canvas[i, :, rows, columns] = sprite
        sprites = torch.from_numpy(canvas).to(device)
        return blend(sprites, torch.from_numpy(scene).to(device)), sprites[:, 3]
