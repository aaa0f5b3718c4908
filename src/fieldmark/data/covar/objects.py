"""Prepare objects: from a cut-out or a photograph with its mask to a layer on the canvas."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image

from fieldmark.core.errors import FieldmarkError, InputError, MaskError, UsageError
from fieldmark.core.user_files import run_user_file
from fieldmark.data.coco import draw_segmentation
from fieldmark.data.covar.layers import (
    FEATHER,
    FILTER,
    Layer,
    find_square,
    fit_square,
    premultiply,
    shape_edge,
    trim_layer,
)
from fieldmark.data.covar.settings import VIEWPOINTS, CovarSettings
from fieldmark.data.covar.variants import Actor, Stage
from fieldmark.data.foregrounds import Foregrounds, Outline
from fieldmark.data.images import read_grey, read_image
from fieldmark.data.masks import Mask, degrade_mask, find_box

# An object as RGBA and the number of the view, 1 or 2 -> the view as RGBA.
ShowView: TypeAlias = Callable[[Image.Image, int], Image.Image]


def open_actor(
    foregrounds: Foregrounds,
    index: int,
    *,
    settings: CovarSettings,
    show_view: ShowView | None = None,
) -> Actor:
    """Prepare an object.

    A cut-out is centred, its longer side `object_side` of the image. An object of a photograph
    keeps its place in the largest square around it, and has that square as its own stage, unless
    the settings say that it too is centred.

    Args:
        foregrounds: the pool.
        index: which of it.
        settings: sizes and edge.
        show_view: what makes other views, from the object as RGBA and the number of the view.

    Raises:
        ImageError: the image cannot be read.
        MaskError: the mask cannot be used, or is too small to leave anything.
        InputError: the user's function fails.
    """
    where = f"{foregrounds.paths[index]} ({foregrounds.ids[index]})"
    keeps = not foregrounds.outlines[index].is_alpha and settings.placement == "keep"
    if keeps:
        layer, own = _keep_place(foregrounds, index, settings=settings, where=where)
    else:
        length = settings.object_side * settings.canvas_side
        middle = settings.canvas_side / 2
        cutout = foregrounds.read(index)
        layer, own = _centre(cutout, (middle, middle), length=length, settings=settings), None
    if not layer.sprite.getchannel(3).getbbox():
        raise MaskError(
            "nothing is left of the object at this size", where=where, mend="raise --side"
        )
    if show_view is None:
        return Actor(layer=layer, own=own)
    middle_of = (layer.left + layer.sprite.width / 2, layer.top + layer.sprite.height / 2)
    views = [show_view(foregrounds.read(index), number + 1) for number in range(len(VIEWPOINTS))]
    length = max(layer.sprite.size)
    placed = [_centre(view, middle_of, length=length, settings=settings) for view in views]
    return Actor(layer=layer, own=own, views=tuple(placed))


def _centre(
    cutout: Image.Image, middle: tuple[float, float], *, length: float, settings: CovarSettings
) -> Layer:
    """Resize a cut-out so that its longer side is `length` and lay its middle on a point."""
    factor = length / max(cutout.size)
    width, height = (max(1, round(side * factor)) for side in cutout.size)
    # Colours go on beneath the transparent pixels, so they are resampled without the alpha.
    colours = cutout.convert("RGB").resize((width, height), FILTER)
    alpha = cutout.getchannel("A").resize((width, height), FILTER)
    if settings.edge == "feathered":
        pad = math.ceil(3 * FEATHER * settings.supersample)
        borders = ((pad, pad), (pad, pad), (0, 0))
        colours = Image.fromarray(np.pad(np.asarray(colours), borders, mode="edge"))
        alpha = Image.fromarray(np.pad(np.asarray(alpha), pad))
    alpha = shape_edge(alpha, settings.edge, pixel=settings.supersample)
    left, top = (round(point - side / 2) for point, side in zip(middle, colours.size, strict=True))
    return trim_layer(Layer(premultiply(colours, alpha), left, top))


def _keep_place(
    foregrounds: Foregrounds, index: int, *, settings: CovarSettings, where: str
) -> tuple[Layer, Stage]:
    image = read_image(foregrounds.paths[index])
    try:
        mask = _draw_mask(foregrounds.outlines[index], image=image)
        mask = degrade_mask(mask, foregrounds.degrade)
        box = find_box(mask)
    except MaskError as error:
        raise MaskError(error.problem, where=where, mend=error.mend) from error
    around = ((box.left + box.right) / 2, (box.top + box.bottom) / 2)
    square = find_square(image.size, around=around)
    colours = fit_square(image, square, side=settings.canvas_side)
    alpha = fit_square(Image.fromarray(mask), square, side=settings.canvas_side)
    alpha = shape_edge(alpha, settings.edge, pixel=settings.supersample)
    layer = trim_layer(Layer(premultiply(colours, alpha), 0, 0))
    return layer, Stage(canvas=colours, supersample=settings.supersample)


def _draw_mask(outline: Outline, *, image: Image.Image) -> Mask:
    """Return the mask of a whole photograph, where `Foregrounds.read` gives its box alone."""
    size = (image.height, image.width)
    if outline.segmentation is not None:
        return draw_segmentation(outline.segmentation, size=size)
    if outline.box is not None and outline.mask is None:
        x, y, width, height = outline.box
        mask = np.zeros(size, np.uint8)
        rows = slice(max(0, round(y)), max(0, round(y + height)))
        mask[rows, max(0, round(x)) : max(0, round(x + width))] = 255
        return mask
    assert outline.mask is not None
    mask = np.asarray(read_grey(outline.mask))
    if mask.shape != size:
        problem = f"the mask is {mask.shape[1]} x {mask.shape[0]}, the image {size[1]} x {size[0]}"
        raise MaskError(problem, mend="use the mask that was made for this image")
    return mask


def load_views(text: str) -> tuple[ShowView, str]:
    """Load a user's function that makes other views; its file is executed.

    It gets an object as RGBA and the number of the view, 1 or 2, and returns the view as RGBA.

    Args:
        text: function:FILE.py:NAME.

    Returns:
        The function, guarded and called by one thread at a time, and the SHA-256 of its file.

    Raises:
        UsageError: the text has another form.
        InputError: the file fails or holds no such function.

    Example:
        >>> load_views("mirror")
        Traceback (most recent call last):
        fieldmark.core.errors.UsageError: a viewpoint of 'mirror' is no function; write ...
    """
    kind, _, rest = text.partition(":")
    file, _, name = rest.rpartition(":")
    if kind != "function" or not file or not name.isidentifier():
        raise UsageError(
            f"a viewpoint of {text!r} is no function", mend="write function:FILE.py:NAME"
        )
    held, digest = run_user_file(Path(file))
    function = held.get(name)
    if not callable(function):
        raise InputError(f"holds no function {name!r}", where=file, mend="define it there")
    return _guard(function, where=f"{file}:{name}"), digest


def _guard(function: Callable[[Image.Image, int], object], *, where: str) -> ShowView:
    # Nothing says that a user's function may be called by several threads at once.
    lock = threading.Lock()

    def show_view(cutout: Image.Image, number: int) -> Image.Image:
        try:
            with lock:
                view = function(cutout.copy(), number)
        except FieldmarkError:
            raise
        except Exception as error:  # a user's function may fail in any way
            problem = f"fails on an object ({type(error).__name__}: {error})"
            raise InputError(problem, where=where, mend="mend the function") from error
        if not isinstance(view, Image.Image) or view.mode != "RGBA" or not view.getbbox():
            raise InputError(
                "returns no RGBA image with an object", where=where, mend="mend the function"
            )
        return view.crop(view.getchannel("A").getbbox())

    return show_view
