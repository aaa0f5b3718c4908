"""COCO as a domain: real photographs, their captions and their annotated boxes (RaVL appendix B)."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from fieldmark.core.fetch import cache_dir
from fieldmark.data.controlled.coco import draw_coco_images
from fieldmark.data.controlled.coco_split import Frame, View, read_split, view_split
from fieldmark.data.controlled.images import ControlledImages, Setting
from fieldmark.discovery.regions import place_image
from fieldmark.methods.mitigation.captions import parse_captions
from fieldmark.models.encoder import Encoder

COCO = "coco"
PROMPTS = ("there is a {}", "a photo of the {}", "a photo of a {}", "{}")


def _parse(texts: Sequence[str], names: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    return parse_captions(texts, names).mentions


@functools.lru_cache(maxsize=2)
def open_coco(root: Path, *, tied: bool, encoder: Encoder) -> View:
    """Read the split that fine-tuning sets (`tied`) or evaluation sets are drawn from.

    Args:
        root: folder with `annotations`, `train2017` and `val2017`.
        tied: whether it is for fine-tuning.
        encoder: whose input boxes and pixels are in.

    Raises:
        InputError: a file is missing or damaged.
    """
    spec = encoder.spec
    frame = Frame(
        side=spec.image_size,
        place=functools.partial(place_image, spec=spec),
        prepare=lambda image: encoder.preprocess(image).numpy(),
        key={
            "side": spec.image_size,
            "mean": spec.mean,
            "interpolation": spec.interpolation,
            "resize": spec.resize,
        },
    )
    split = read_split(root, split="train2017" if tied else "val2017")
    return view_split(split, frame, parse=_parse)


def draw_photographs(
    setting: Setting, view: View, *, tied: bool, per_class: int
) -> ControlledImages:
    """Return the photographs of a setting, decoded once and kept in the cache.

    Raises:
        NotApplicableError: there are too few; the message says how many.
    """
    return draw_coco_images(
        setting, view, tied=tied, cache=cache_dir() / "controlled", per_class=per_class
    )
