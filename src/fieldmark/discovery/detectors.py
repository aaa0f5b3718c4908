"""Let one of torchvision's detectors propose regions, in place of RaVL's region proposal network.

The caller loads the detector, so that its weights are the caller's choice; nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn
from torchvision.ops import batched_nms, nms

from fieldmark.core.errors import InputError, UsageError
from fieldmark.models.preprocess import pixels_of

_NEEDED = frozenset({"boxes", "scores", "labels"})


def propose_by_detector(
    detector: nn.Module,
    *,
    least_score: float = 0.05,
    most: int = 100,
    overlap: float = 0.5,
    by_class: bool = False,
) -> Callable[[Image.Image], NDArray[np.float32]]:
    """Make a function for `regions.propose_regions` out of a detector.

    Args:
        detector: of torchvision's kind, in evaluation mode: from a list of float (3,H,W) in [0, 1]
            to a list of dicts with `boxes` (r,4), `scores` (r,) and `labels` (r,).
        least_score: boxes with less are left out, in [0, 1].
        most: boxes an image at most, the highest scores first.
        overlap: of two boxes that overlap by more than this (intersection over union) the lower
            score goes; RegionCLIP uses 0.5 and 0.9.
        by_class: let boxes of different classes overlap.

    Raises:
        UsageError: the detector is in training mode, or a number is out of its range.

    Example:
        >>> class Whole(nn.Module):
        ...     def forward(self, images):
        ...         box = torch.tensor([[0.0, 0.0, 4.0, 2.0]])
        ...         return [{"boxes": box, "scores": torch.ones(1), "labels": torch.ones(1)}]
        >>> propose_by_detector(Whole().eval())(Image.new("RGB", (4, 2))).tolist()
        [[0.0, 0.0, 4.0, 2.0]]
    """
    if detector.training:
        raise UsageError("the detector is in training mode", mend="call its eval() first")
    if not (0 <= least_score <= 1 and 0 < overlap <= 1 and most >= 1):
        raise UsageError(
            f"least_score {least_score:g}, overlap {overlap:g} or most {most} is out of its range",
            mend="give shares of 0 to 1 and a number of 1 or more",
        )
    device = next((weight.device for weight in detector.parameters()), torch.device("cpu"))

    @torch.inference_mode()
    def propose(image: Image.Image) -> NDArray[np.float32]:
        pixels = pixels_of(image.convert("RGB")).to(device).float() / 255
        found = detector([pixels])
        if not (isinstance(found, list) and len(found) == 1 and set(found[0]) >= _NEEDED):
            raise InputError(
                f"the detector {type(detector).__name__} did not give boxes, scores and labels",
                mend="give one of torchvision.models.detection",
            )
        boxes, scores, labels = (found[0][name] for name in ("boxes", "scores", "labels"))
        has_area = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
        good = has_area & (scores >= least_score)
        boxes, scores, labels = boxes[good], scores[good], labels[good]
        kept = (
            batched_nms(boxes, scores, labels, overlap) if by_class else nms(boxes, scores, overlap)
        )
        return np.asarray(boxes[kept[:most]].float().cpu().numpy(), np.float32)

    return propose
