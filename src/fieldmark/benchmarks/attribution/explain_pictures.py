"""Pictures of an explanation: what the encoder saw, each map over it, and the clusters.

OUT/pictures/0.png               the encoder's own input, the mask outlined
OUT/pictures/0-clusters.png      the clusters of CCI over it
OUT/pictures/0-2-cci.png         what speaks for text 2
OUT/pictures/0-2-cci-signed.png  the same with what speaks against it, where anything does

Shape letters: h and w rows and columns of the grid, H and W pixels of a picture.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fieldmark.attribution.maps import clip_maps, enlarge_maps
from fieldmark.benchmarks.attribution.explain_material import Material, Picture
from fieldmark.benchmarks.attribution.explain_measure import MethodResult
from fieldmark.core.atomic import replacing
from fieldmark.report.heatmap import (
    Colours,
    outline_clusters,
    outline_mask,
    overlay_map,
    scale_signed,
)

FOLDER = "pictures"
# Pixels along the longer side of a picture at least.
SIDE = 224


def scale_to_show(values: NDArray[np.float32]) -> tuple[NDArray[np.float32], bool]:
    """Bring a map (h,w) to [0, 1] to be looked at.

    What is below 0 is cut off and the top is 1. A map that nowhere comes down to 0 (cosines of
    patches) would be bright all over, so its lowest value becomes 0.

    Returns:
        The map, and whether its lowest value was moved.

    Example:
        >>> scale_to_show(np.array([[2.0, 3.0]], np.float32))
        (array([[0., 1.]], dtype=float32), True)
        >>> scale_to_show(np.array([[-2.0, 3.0]], np.float32))
        (array([[0., 1.]], dtype=float32), False)
    """
    lowest = float(values.min())
    moved = lowest > 0 and float(values.max()) > lowest
    return clip_maps(values - lowest if moved else values), moved


def measure_size(height: int, width: int) -> tuple[int, int]:
    """Return the size of a picture: at least `SIDE` pixels along the longer side.

    Example:
        >>> measure_size(8, 4), measure_size(448, 448)
        ((224, 112), (448, 448))
    """
    factor = max(1.0, SIDE / max(height, width))
    return round(height * factor), round(width * factor)


def draw_picture(picture: Picture) -> Colours:
    """Return the encoder's input as a picture (H,W,3), without outlines."""
    pixels = picture.pixels.permute(1, 2, 0).cpu().numpy()
    height, width = measure_size(*pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


def draw_pictures(
    out: Path, material: Material, results: dict[str, MethodResult], *, clusters_of: str = "cci"
) -> None:
    """Write all pictures.

    Args:
        out: folder of the run.
        material: the images.
        results: by method.
        clusters_of: whose clusters are drawn, where it was run.
    """
    for row, picture in enumerate(material.pictures):
        base = draw_picture(picture)
        size = base.shape[:2]
        plain = base if picture.mask is None else _outline(base, picture.mask)
        _write(out / FOLDER / f"{row}.png", plain)
        if clusters_of in results:
            clusters = results[clusters_of].images[row].clusters
            if clusters is not None:
                large = _enlarge_nearest(torch.from_numpy(clusters), size=size)
                drawn = outline_clusters(base, large.long().numpy())
                _write(out / FOLDER / f"{row}-clusters.png", drawn)
        for method, result in results.items():
            for place, text in enumerate(material.shown[row]):
                _draw_map(out, base, result.images[row].values[place], name=(row, text, method))


def name_picture(row: int, text: int, method: str, *, signed: bool = False) -> str:
    """Return the path of a map's picture inside the run.

    Example:
        >>> name_picture(0, 2, "cci", signed=True)
        'pictures/0-2-cci-signed.png'
    """
    return f"{FOLDER}/{row}-{text}-{method}{'-signed' if signed else ''}.png"


def _draw_map(
    out: Path, base: Colours, values: NDArray[np.float32], *, name: tuple[int, int, str]
) -> None:
    shown, _ = scale_to_show(values)
    size = base.shape[:2]
    _write(out / name_picture(*name), overlay_map(base, _enlarge(shown, size=size)))
    if values.min() < 0:
        large = _enlarge(scale_signed(values), size=size)
        _write(out / name_picture(*name, signed=True), overlay_map(base, large, signed=True))


def _enlarge(values: NDArray[np.floating], *, size: tuple[int, int]) -> NDArray[np.float32]:
    tensor = torch.from_numpy(np.asarray(values, np.float32))
    large: NDArray[np.float32] = enlarge_maps(tensor, size=size).numpy()
    return large


def _enlarge_nearest(values: Tensor, *, size: tuple[int, int]) -> Tensor:
    return torch.nn.functional.interpolate(values[None, None].float(), size=size)[0, 0]


def _outline(base: Colours, mask: Tensor) -> Colours:
    large = _enlarge_nearest(mask.cpu(), size=base.shape[:2])
    return outline_mask(base, large.numpy() >= 0.5)


def _write(path: Path, pixels: Colours) -> None:
    with replacing(path) as part:
        Image.fromarray(pixels).save(part, "PNG")
