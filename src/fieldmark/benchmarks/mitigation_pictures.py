"""Pictures of the regions that are trained away: those of training images, by cluster."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from fieldmark.benchmarks.discovery_pictures import crop_region, frame_region, locate_box
from fieldmark.benchmarks.mitigation_material import Floats, Part
from fieldmark.core.atomic import replacing, write_json
from fieldmark.models.encoder import EncoderSpec
from fieldmark.report.discovery_parts import PICTURES


def choose_regions(part: Part, cluster: int, *, medoid: Floats, most: int) -> list[int]:
    """Return rows of a cluster's regions, the nearest to its medoid first, one of each image.

    Args:
        part: images and regions.
        cluster: its id.
        medoid: (D,) unit embedding of the region in its middle.
        most: rows at most.
    """
    members = np.flatnonzero(part.clusters == cluster)
    similarity = part.embeddings[members] @ medoid
    found: dict[int, int] = {}
    for row in members[np.argsort(-similarity, kind="stable")].tolist():
        found.setdefault(int(part.regions.images[row]), row)
    return list(found.values())[:most]


def draw_regions(
    part: Part, folder: Path, *, medoids: Floats, spec: EncoderSpec, most: int
) -> None:
    """Write pictures of each chosen cluster, and `pictures.json`, which says what they show.

    Args:
        part: the training images.
        folder: `OUT/page`.
        medoids: (C,D) of the discovery.
        spec: of the encoder that the regions are for.
        most: pictures of a cluster at most; 0 for none.
    """
    shutil.rmtree(folder, ignore_errors=True)  # an interrupted run may have left some
    strips = {
        str(cluster): [
            _draw(part, folder, row=row, spec=spec)
            for row in choose_regions(part, cluster, medoid=medoids[cluster], most=most)
        ]
        for cluster in part.chosen
    }
    write_json(folder / PICTURES, strips)


def _draw(part: Part, folder: Path, *, row: int, spec: EncoderSpec) -> dict[str, Any]:
    image = int(part.regions.images[row])
    crop, whole = f"crop-{row}.jpg", f"whole-{row}.jpg"
    pixels = part.table.read(image)
    box = locate_box(part.regions.boxes[row].tolist(), size=pixels.size, spec=spec)
    for name, picture in ((crop, crop_region(pixels, box)), (whole, frame_region(pixels, box))):
        with replacing(folder / name) as target:
            picture.save(target, "JPEG", quality=88)
    return {
        "image": part.table.ids[image],
        "label": part.table.classes[int(part.table.labels[image])],
        "whole": whole,
        "crop": crop,
    }
