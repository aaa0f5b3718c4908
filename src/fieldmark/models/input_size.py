"""Give an encoder another input size: fewer pixels for a quick study, more for a fine one."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

from torch import nn

from fieldmark.core.errors import UnsupportedEncoderError, UsageError
from fieldmark.models.adapter import DualEncoder, fingerprint
from fieldmark.models.open_clip import OpenClipLibrary, take_apart


def resize_input(encoder: DualEncoder, side: int) -> DualEncoder:
    """Return a copy of an open_clip encoder that takes `side` x `side` pixels.

    Position embeddings of open_clip's own ViTs are resampled as open_clip does it; a convolutional
    tower has none.
    Its accuracy at another size is not that of the published checkpoint.

    Args:
        encoder: an encoder of open_clip (`open_clip:`, `hf-hub:`, `local-dir:`, `packaged:`).
        side: pixels; for a ViT a multiple of its patch.

    Raises:
        UnsupportedEncoderError: an encoder of another library, or a tower with a fixed size.
        UsageError: the side does not fit the patches.
    """
    if not isinstance(encoder.library, OpenClipLibrary):
        raise UnsupportedEncoderError(
            "its input size is fixed", where=encoder.spec.uri, mend="leave @SIDE out of the name"
        )
    model = copy.deepcopy(encoder.model)
    _resize(model, side, name=encoder.spec.uri)
    model_cfg = copy.deepcopy(encoder.library.model_cfg)
    model_cfg["vision_cfg"]["image_size"] = side
    library = dataclasses.replace(encoder.library, model_cfg=model_cfg)
    spec = dataclasses.replace(
        encoder.spec,
        uri=f"{encoder.spec.uri}@{side}",
        image_size=side,
        grid=take_apart(library.image_tower(model)).grid,
        fingerprint=fingerprint(model),
    )
    return DualEncoder(model, library, spec)


def _resize(model: Any, side: int, *, name: str) -> None:
    from open_clip.model import resize_pos_embed
    from open_clip.timm_model import TimmModel
    from open_clip.transformer import VisionTransformer

    visual = model.visual
    try:
        if isinstance(visual, TimmModel) and not hasattr(visual.trunk, "set_input_size"):
            visual.set_input_size(side)
        elif isinstance(visual, VisionTransformer):
            patch = visual.patch_size[0]
            if side % patch:
                raise AssertionError(f"{side} is not a multiple of {patch}")
            visual.image_size = (side, side)
            visual.grid_size = (side // patch, side // patch)
            state = model.state_dict()
            resize_pos_embed(state, model)
            visual.positional_embedding = nn.Parameter(state["visual.positional_embedding"])
        else:
            # open_clip builds timm's ViTs at their own size and could not open what is saved here.
            raise UnsupportedEncoderError(
                f"this {type(visual).__name__} has a fixed input size",
                where=name,
                mend="leave @SIDE out of the name",
            )
    except AssertionError as error:
        problem = f"its input cannot have a side of {side} ({error})"
        raise UsageError(problem, where=name, mend="use a multiple of its patch") from error
