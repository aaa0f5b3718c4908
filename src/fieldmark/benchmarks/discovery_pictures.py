"""Pictures of regions: cut out of the image file, and the whole image with the box drawn in.

A box lies in pixels of the encoder's square input; a picture is taken from the image file, so the
encoder's resizing and cropping is undone.

Shape letters: R regions.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fieldmark.benchmarks.discovery_search import Search
from fieldmark.core.atomic import replacing, write_json
from fieldmark.data.tables import ImageTable
from fieldmark.discovery.candidates import Candidate
from fieldmark.discovery.evidence import Evidence
from fieldmark.discovery.regions import Regions, place_image
from fieldmark.models.encoder import EncoderSpec
from fieldmark.report.discovery_parts import PICTURES

# Sides in pixels: a picture on the page is at most 7 rem wide, on a dense screen twice that.
CROP_SIDE, WHOLE_SIDE = 144, 224
# Candidates beyond these have no pictures; they stay in the table.
MOST_PICTURED = 8
_LINES = ((5, (255, 255, 255)), (3, (200, 30, 30)))

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """All that pictures are drawn of.

    Attributes:
        table: the images.
        regions: their regions.
        spec: of the encoder that the regions are for.
        evidence: what the model says of the images.
        search: what was found.
    """

    table: ImageTable
    regions: Regions
    spec: EncoderSpec
    evidence: Evidence
    search: Search


def locate_box(box: Sequence[float], *, size: tuple[int, int], spec: EncoderSpec) -> Box:
    """Carry a box from pixels of the encoder's input back to pixels of the image file.

    Args:
        box: x0 y0 x1 y1 in the input.
        size: width and height of the upright image.
        spec: of the encoder.

    Returns:
        x0 y0 x1 y1, cut to the image: what the encoder padded is no part of it.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> locate_box([0, 0, 4, 8], size=(16, 32), spec=FakeEncoder().spec)
        (0.0, 0.0, 8.0, 32.0)
    """
    placed = place_image(size, spec=spec)
    scale, offset = np.array(placed.scale * 2), np.array(placed.offset * 2)
    found = (np.asarray(box, np.float64) + offset) / scale
    x0, y0, x1, y1 = np.clip(found, 0, np.array(size * 2)).tolist()
    return x0, y0, x1, y1


def crop_region(image: Image.Image, box: Box) -> Image.Image:
    """Cut a region out, rounded outwards to whole pixels; a small one is enlarged in whole steps.

    Example:
        >>> crop_region(Image.new("RGB", (64, 64)), (0, 0, 32, 16)).size
        (128, 64)
    """
    x0, y0, x1, y1 = box
    left, top = min(math.floor(x0), image.width - 1), min(math.floor(y0), image.height - 1)
    right, bottom = max(math.ceil(x1), left + 1), max(math.ceil(y1), top + 1)
    return _fit(image.crop((left, top, right, bottom)), side=CROP_SIDE)


def frame_region(image: Image.Image, box: Box | None) -> Image.Image:
    """Return a small copy of an image with a box drawn in, red on white.

    Example:
        >>> frame_region(Image.new("RGB", (448, 224)), (0, 0, 100, 100)).size
        (224, 112)
    """
    small = _fit(image, side=WHOLE_SIDE)
    if box is None:
        return small
    factor = small.width / image.width
    x0, y0, x1, y1 = (value * factor for value in box)
    draw = ImageDraw.Draw(small)
    inner = (max(x0, 1), max(y0, 1), min(x1, small.width - 2), min(y1, small.height - 2))
    if inner[0] < inner[2] and inner[1] < inner[3]:
        for width, colour in _LINES:
            draw.rectangle(inner, outline=colour, width=width)
    return small


def _fit(image: Image.Image, *, side: int) -> Image.Image:
    """Bring the longer side near to `side`: down smoothly, up in whole steps without smoothing."""
    longest = max(image.size)
    if longest > side:
        copy = image.copy()
        copy.thumbnail((side, side), Image.Resampling.LANCZOS)
        return copy
    factor = side // longest
    size = (image.width * factor, image.height * factor)
    return image.resize(size, Image.Resampling.NEAREST)


def draw_pictures(scene: Scene, folder: Path, *, gallery: int) -> None:
    """Write the pictures of the first candidates, and `pictures.json`, which says what they show.

    Args:
        scene: what they are drawn of.
        folder: `OUT/page`.
        gallery: pictures in a strip at most; 0 for none.
    """
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted run may have left some
    found = scene.search.discovery.candidates[: MOST_PICTURED if gallery else 0]
    strips = {
        str(one.cluster): {
            name: {
                "count": count,
                "pictures": [
                    _draw(scene, folder, image=image, row=row) for image, row in chosen[:gallery]
                ],
            }
            for name, (count, chosen) in choose_images(scene, one).items()
        }
        for one in found
    }
    write_json(folder / PICTURES, strips)


Chosen = list[tuple[int, int | None]]


def choose_images(scene: Scene, candidate: Candidate) -> Mapping[str, tuple[int, Chosen]]:
    """Choose what to show of a candidate: how many there are, and (image, row of its region).

    Returns:
        nearest: images with the cluster, each by one region: first the regions that the candidate
            names, then those nearest to the medoid. Ten pieces of one plate would show little.
        misled: images with the cluster that are wrongly named, where a class is tied to it, after
            that class; those whose region is nearest to the medoid first.
        missed: images of the tied class without the cluster that are wrongly named.
    """
    evidence = scene.evidence
    members = scene.search.members[candidate.cluster]
    rows = _find_closest(evidence, members, medoid=candidate.medoid)
    wrong = evidence.predictions != evidence.labels
    with_cluster = np.zeros(len(wrong), np.bool_)
    with_cluster[list(rows)] = True
    tied = candidate.tied_class
    label = evidence.classes.index(tied) if tied is not None else None
    misled = wrong if label is None else wrong & (evidence.predictions == label)
    missed = np.zeros_like(wrong) if label is None else wrong & (evidence.labels == label)
    shown = [(image, row) for image, row in rows.items() if misled[image]]
    absent = np.flatnonzero(missed & ~with_cluster).tolist()
    owners = evidence.owners
    nearest: dict[int, int] = {}
    for row in (*candidate.nearest, *rows.values()):
        nearest.setdefault(int(owners[row]), row)
    return {
        "nearest": (len(rows), list(nearest.items())),
        "misled": (len(shown), list(shown)),
        "missed": (len(absent), [(image, None) for image in absent]),
    }


def _find_closest(evidence: Evidence, members: NDArray[np.int64], *, medoid: int) -> dict[int, int]:
    """Return the region of each image that is nearest to the medoid, the nearest image first."""
    similarity = evidence.regions[members] @ evidence.regions[medoid]
    found: dict[int, int] = {}
    for row in members[np.argsort(-similarity, kind="stable")].tolist():
        found.setdefault(int(evidence.owners[row]), row)
    return found


def _draw(scene: Scene, folder: Path, *, image: int, row: int | None) -> dict[str, Any]:
    table, evidence = scene.table, scene.evidence
    whole = f"image-{image}.jpg" if row is None else f"whole-{row}.jpg"
    crop = None if row is None else f"crop-{row}.jpg"
    if not (folder / whole).exists():
        pixels = table.read(image)
        box = None
        if row is not None:
            box = locate_box(scene.regions.boxes[row].tolist(), size=pixels.size, spec=scene.spec)
        if crop and box:
            _save(crop_region(pixels, box), folder / crop)
        _save(frame_region(pixels, box), folder / whole)
    return {
        "image": table.ids[image],
        "label": evidence.classes[int(evidence.labels[image])],
        "predicted": evidence.classes[int(evidence.predictions[image])],
        "whole": whole,
        "crop": crop,
    }


def _save(image: Image.Image, path: Path) -> None:
    with replacing(path) as part:
        image.save(part, "JPEG", quality=88)
