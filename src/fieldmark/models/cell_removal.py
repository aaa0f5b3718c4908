"""Embed images with some cells of a conv tower's last map removed.

Convolutions mix neighbours, so a removed cell is zeroed in front of every spatial convolution and
pool, at each resolution, and left out of what is averaged or attended to at the end: the nearest
there is to masking a token in every layer (facts/attribution.md section 4, point 7). A trunk that
also mixes cells in another way (squeeze-and-excitation, a global norm) does not bear this; it is
found out by a trial. Shape letters as in encoder.py, M variants of each image, N cells.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias
from weakref import WeakSet

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.hooks import RemovableHandle

from fieldmark.core.errors import InputError, UnsupportedEncoderError
from fieldmark.models.conv_towers import ConvNeXt, ModifiedResNet, TimmTrunk
from fieldmark.models.encoder import Tokens

ConvTower: TypeAlias = ConvNeXt | TimmTrunk | ModifiedResNet
_SPATIAL = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)
# Trunks that the trial has passed.
_passed: WeakSet[nn.Module] = WeakSet()


def encode_kept_cells(
    tower: ConvTower, pixels_BCHW: Tensor, kept_BMN: Tensor, *, batch_size: int = 64
) -> Tensor:
    """Embed each image from the cells that each of its variants keeps.

    Args:
        tower: a conv tower in evaluation.
        pixels_BCHW: normalised float (B,3,H,W).
        kept_BMN: bool (B,M,N), rows of the last map one after the other. A variant that keeps none
            is NaN.
        batch_size: variants that are run at once.

    Returns:
        (B,M,D), not of unit norm, on the device of the pixels.

    Raises:
        UnsupportedEncoderError: the trunk mixes cells in another way than by convolutions.
        InputError: N is not the number of the tower's cells.

    Example:
        >>> import open_clip
        >>> visual = open_clip.modified_resnet.ModifiedResNet([1, 1, 1, 1], 5, 2, 64, 8).eval()
        >>> kept = torch.ones(1, 2, 4, dtype=torch.bool)
        >>> kept[0, 1, :2] = False
        >>> with torch.inference_mode():
        ...     encode_kept_cells(ModifiedResNet(visual), torch.ones(1, 3, 64, 64), kept).shape
        torch.Size([1, 2, 5])
    """
    images, variants, cells = kept_BMN.shape
    rows, columns = tower.grid
    if cells != rows * columns:
        raise InputError(
            f"a mask of {cells} cells does not fit the tower's {rows} x {columns}",
            mend="give one value for each cell of `encoder.spec.grid`",
        )
    flat = kept_BMN.flatten(0, 1).to(pixels_BCHW.device)
    if not bool(flat.all()):
        require_separable(tower, pixels_BCHW[:1])
    found: dict[int, Tensor] = {}
    for part in flat.any(1).nonzero().flatten().split(batch_size):
        if not len(part):
            break
        with _masking(tower, flat[part].view(-1, 1, rows, columns)):
            whole = _run_whole(tower, pixels_BCHW[part // variants])
        found.update(zip(part.tolist(), _pool_kept(tower, whole, flat[part]), strict=True))
    if not found:
        return pixels_BCHW.new_full((images, variants, 1), torch.nan)
    nothing = torch.full_like(next(iter(found.values())), torch.nan)
    stacked = torch.stack([found.get(row, nothing) for row in range(len(flat))])
    return stacked.view(images, variants, -1)


def require_separable(tower: ConvTower, pixels_1CHW: Tensor) -> None:
    """Check that nothing but convolutions and pools carries anything between a tower's cells.

    What removed cells hold is disturbed behind every convolution; no kept cell may notice.

    Raises:
        UnsupportedEncoderError: one does, as under squeeze-and-excitation or a global norm.
    """
    trunk = _find_trunk(tower)
    rows, columns = tower.grid
    if trunk in _passed or rows * columns == 1:
        return
    kept = (torch.arange(rows)[:, None] + torch.arange(columns)) % 2 == 0
    kept = kept.to(pixels_1CHW.device)
    with _masking(tower, kept.expand(2, 1, -1, -1), disturbed=1):
        whole = _run_whole(tower, pixels_1CHW.expand(2, -1, -1, -1)).values.float()
    calm, moved = whole[:, kept.flatten()]
    if float((calm - moved).abs().max()) > 1e-3 * float(calm.abs().max()):
        raise UnsupportedEncoderError(
            f"its {type(trunk).__name__} pools over all cells inside "
            "(squeeze-and-excitation or a global norm), so none can be removed",
            mend="set remove=pixels, which needs nothing of a tower",
        )
    _passed.add(trunk)


def _find_trunk(tower: ConvTower) -> nn.Module:
    trunk: nn.Module = tower.visual if isinstance(tower, ModifiedResNet) else tower.visual.trunk
    return trunk


def _run_whole(tower: ConvTower, pixels_BCHW: Tensor) -> Tokens:
    """Return all cells of the last map."""
    tokens = tower.tokens(pixels_BCHW)
    return tower.run(tokens) if isinstance(tower, ConvNeXt) else tokens


def _pool_kept(tower: ConvTower, whole: Tokens, kept_MN: Tensor) -> Tensor:
    """Pool the kept cells of each map, those of one count together."""
    lengths = kept_MN.sum(1)
    pooled: dict[int, Tensor] = {}
    for length in lengths.unique().tolist():
        same = (lengths == length).nonzero().flatten()
        index = kept_MN[same].nonzero()[:, 1].view(len(same), -1)
        left = whole._replace(values=whole.values[same[:, None], index])
        left = tower.run(left) if isinstance(tower, ModifiedResNet) else left
        pooled.update(zip(same.tolist(), tower.pool(left), strict=True))
    return torch.stack([pooled[row] for row in range(len(kept_MN))])


@contextlib.contextmanager
def _masking(
    tower: ConvTower, kept_B1HW: Tensor, *, disturbed: int | None = None
) -> Iterator[None]:
    """Zero removed cells in front of all that mixes neighbours, while the block lasts.

    Args:
        tower: whose trunk is hooked.
        kept_B1HW: bool, on the last map's grid.
        disturbed: index of an image whose removed cells are moved behind each of those too.
    """
    trunk = _find_trunk(tower)
    handles: list[RemovableHandle] = []
    before, after = _make_hooks(kept_B1HW, disturbed=disturbed)
    if not bool(kept_B1HW.all()):
        mixing = [module for module in trunk.modules() if _mixes(module)]
        handles = [module.register_forward_pre_hook(before) for module in mixing]
        if disturbed is not None:
            handles += [module.register_forward_hook(after) for module in mixing]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _make_hooks(
    kept_B1HW: Tensor, *, disturbed: int | None
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    mask = kept_B1HW.float()
    sizes: dict[torch.Size, Tensor] = {}

    def fit(values: Tensor) -> Tensor:
        size = values.shape[-2:]
        if size not in sizes:
            sizes[size] = functional.interpolate(mask, size=size, mode="nearest").to(values.dtype)
        return sizes[size]

    def zero(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (inputs[0] * fit(inputs[0]), *inputs[1:])

    def disturb(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        moved = output.clone()
        moved[disturbed] += (1 - fit(output)[disturbed]) * (1 + output.abs().amax())
        return moved

    return zero, disturb


def _mixes(module: nn.Module) -> bool:
    """Say whether a module looks at more than one place."""
    if not isinstance(module, _SPATIAL):
        return False
    size = module.kernel_size
    return max(size if isinstance(size, tuple) else (size,)) > 1
