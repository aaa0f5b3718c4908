"""Masks of objects on the encoder's input and on its grid of patches.

Shape letters: B images, h and w rows and columns of the tower's grid, H and W pixels of its input.
"""

from __future__ import annotations

from PIL import Image
from torch import Tensor
from torch.nn import functional

from fieldmark.core.errors import MaskError
from fieldmark.models.encoder import Encoder

# A patch is foreground if this share of its pixels is (facts/attribution.md section 5).
LEAST_SHARE = 0.5


def prepare_mask(mask: Image.Image, *, image: Image.Image, encoder: Encoder) -> Tensor:
    """Resize and crop a mask as its image is: float32 (H,W) in [0, 1].

    Args:
        mask: greyscale, of the image's size.
        image: what the mask belongs to.
        encoder: whose preprocessing it goes through.

    Raises:
        MaskError: the mask is of another size than the image.

    Example:
        >>> from fieldmark.testing import FakeEncoder
        >>> mask = Image.new("L", (16, 16))
        >>> mask.paste(255, (0, 0, 8, 16))
        >>> prepared = prepare_mask(mask, image=Image.new("RGB", (16, 16)), encoder=FakeEncoder())
        >>> prepared.shape, float(prepared.mean())
        (torch.Size([8, 8]), 0.5)
    """
    if mask.size != image.size:
        raise MaskError(
            f"the mask is {mask.width} x {mask.height}, the image {image.width} x {image.height}",
            mend="use the mask that was made for this image",
        )
    return encoder.preprocess(mask.convert("L").convert("RGB"))[0].float() / 255


def share_foreground(mask_BHW: Tensor, *, grid: tuple[int, int]) -> Tensor:
    """Return the share of each patch that is foreground: (B,H,W) in [0, 1] to (B,h,w).

    Example:
        >>> import torch
        >>> share_foreground(torch.tensor([[[1.0, 1.0, 0.0, 1.0]]]), grid=(1, 2)).tolist()
        [[[1.0, 0.5]]]
    """
    return functional.adaptive_avg_pool2d(mask_BHW[:, None].float(), grid)[:, 0]


def find_foreground(mask_BHW: Tensor, *, grid: tuple[int, int]) -> Tensor:
    """Tell which patches are foreground, at least half of their pixels: bool (B,h,w).

    An image without such a patch is not resolvable: its object is smaller than a patch.

    Example:
        >>> import torch
        >>> find_foreground(torch.tensor([[[1.0, 1.0, 0.0, 0.0]]]), grid=(1, 2)).tolist()
        [[[True, False]]]
    """
    return share_foreground(mask_BHW, grid=grid) >= LEAST_SHARE
