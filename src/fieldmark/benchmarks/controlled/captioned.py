"""COCO as a domain: photographs, their captions and their annotated boxes (RaVL appendix B)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from fieldmark.core.fetch import cache_dir
from fieldmark.data.controlled.coco import draw_coco_images
from fieldmark.data.controlled.coco_split import Frame, View, read_split, view_split
from fieldmark.data.controlled.images import ControlledImages, Setting
from fieldmark.discovery.regions import place_image
from fieldmark.methods.mitigation.captions import parse_captions
from fieldmark.models.encoder import Encoder, EncoderSpec

COCO = "coco"
PROMPTS = ("there is a {}", "a photo of the {}", "a photo of a {}", "{}")


def _parse(texts: Sequence[str], names: Sequence[Sequence[str]]) -> tuple[tuple[int, ...], ...]:
    return parse_captions(texts, names).mentions


def open_coco(root: Path, *, tied: bool, encoder: Encoder) -> View:
    """Read the split that fine-tuning sets (`tied`) or evaluation sets are drawn from.

    Args:
        root: folder with `annotations`, `train2017` and `val2017`.
        tied: whether it is for fine-tuning.
        encoder: whose input boxes and pixels are in.

    Returns:
        The split as the encoder sees it; the last two are kept in memory.

    Raises:
        InputError: a file is missing or damaged.
    """
    return _open_view(root, "train2017" if tied else "val2017", encoder.spec, encoder.preprocess)


@functools.lru_cache(maxsize=2)
def _open_view(
    root: Path, split: str, spec: EncoderSpec, preprocess: Callable[[Image.Image], Tensor]
) -> View:
    frame = Frame(
        side=spec.image_size,
        place=functools.partial(place_image, spec=spec),
        prepare=lambda image: preprocess(image).numpy(),
        key={
            "side": spec.image_size,
            "mean": spec.mean,
            "interpolation": spec.interpolation,
            "resize": spec.resize,
        },
    )
    return view_split(read_split(root, split=split), frame, parse=_parse)


def draw_photographs(
    setting: Setting, view: View, *, tied: bool, per_class: int
) -> ControlledImages:
    """Return the photographs of a setting, decoded once and kept in the cache.

    Args:
        setting: what is tied to what.
        view: from `open_coco`, of the same `tied`.
        tied: whether the feature goes with the target (a fine-tuning set) or with no class.
        per_class: most images of a class.

    Raises:
        NotApplicableError: there are too few; the message says how many.
    """
    return draw_coco_images(
        setting, view, tied=tied, cache=cache_dir() / "controlled", per_class=per_class
    )
