"""Linear and convolution layers whose every weight has a learnable gate, and what is left of them.

A gate g keeps its weight with probability sigmoid(g). In training a hard mask is drawn by the
Gumbel-sigmoid trick, and its gradient is that of the soft one (straight-through), so a loss of the
tower's output moves the gates; the weights themselves are frozen. The tower is called with masked
copies of its weights, whatever its modules do with them: the projections inside
`torch.nn.MultiheadAttention` are masked too. Afterwards the mask is g >= 0, as in PruSC's code.

Not masked: biases, normalisation layers, embeddings of class and position, and bare projection
parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fieldmark.core.errors import NotApplicableError

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
Masks = Mapping[str, Tensor]


def find_maskable(tower: nn.Module) -> tuple[str, ...]:
    """Return the names of the parameters that are weights of linear or convolution layers.

    Raises:
        NotApplicableError: there are none.

    Example:
        >>> find_maskable(nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Flatten()))
        ('0.weight',)
    """
    wanted = {id(m.weight) for m in tower.modules() if isinstance(m, _LAYERS)}
    for module in tower.modules():
        if isinstance(module, nn.MultiheadAttention):
            wanted |= {id(getattr(module, name)) for name in _ATTENTION}
    found = tuple(name for name, value in tower.named_parameters() if id(value) in wanted)
    if not found:
        raise NotApplicableError("the image tower has no linear or convolution layer to prune")
    return found


def draw_mask(gate: Tensor, noise: Tensor, *, temperature: float) -> Tensor:
    """Return a hard mask whose gradient is that of the soft one (straight-through).

    The soft mask is sigmoid((g + log u - log(1 - u)) / t), the hard one is 1 where that is above
    1/2, which has probability sigmoid(g).

    Args:
        gate: g, any shape.
        noise: u, uniform in (0, 1), of the same shape.
        temperature: t, above 0.

    Returns:
        0 and 1, of the same shape.

    Example:
        >>> gate = torch.tensor([2.0, -2.0], requires_grad=True)
        >>> mask = draw_mask(gate, torch.tensor([0.5, 0.5]), temperature=1.0)
        >>> mask.sum().backward()
        >>> mask.tolist(), gate.grad.round(decimals=3).tolist()
        ([1.0, 0.0], [0.10..., 0.10...])
    """
    soft = torch.sigmoid((gate + torch.logit(noise, eps=1e-6)) / temperature)
    hard = (soft > 0.5).to(soft.dtype)
    return hard + (soft - soft.detach())


class MaskedTower(nn.Module):
    """An image tower with frozen weights and a gate on each weight of its layers.

    Args:
        tower: the dense tower; its parameters are frozen in place.
        start: value of every gate at first.
        temperature: of the Gumbel-sigmoid.

    Raises:
        NotApplicableError: there is no layer to mask.
    """

    def __init__(self, tower: nn.Module, *, start: float, temperature: float) -> None:
        super().__init__()
        self.names = find_maskable(tower)
        self.tower = tower.requires_grad_(False)
        self.temperature = temperature
        weights = dict(tower.named_parameters())
        self.gates = nn.ParameterList(torch.full_like(weights[n], start) for n in self.names)

    def forward(self, image_BCHW: Tensor) -> Tensor:
        """Embed normalised images (B,3,S,S) with one draw of the masks: (B,D)."""
        weights = dict(self.tower.named_parameters())
        masked = {
            name: weights[name]
            * draw_mask(gate, torch.rand_like(gate), temperature=self.temperature)
            for name, gate in zip(self.names, self.gates, strict=True)
        }
        embedding: Tensor = functional_call(self.tower, masked, (image_BCHW,))
        return embedding

    def _draw(self, gate: Tensor) -> Tensor:
        return draw_mask(gate, torch.rand_like(gate), temperature=self.temperature)

    def count_kept(self) -> Tensor:
        """Return how many weights the masks are expected to keep, differentiably: a scalar."""
        return torch.stack([torch.sigmoid(gate).sum() for gate in self.gates]).sum()

    def binarise(self) -> dict[str, Tensor]:
        """Return the final masks: for each masked parameter where its gate is 0 or above."""
        return {n: gate.detach() >= 0 for n, gate in zip(self.names, self.gates, strict=True)}


def prune(tower: nn.Module, masks: Masks) -> None:
    """Set the weights that masks leave out to zero, in place, and keep them there in training.

    Their gradients are set to zero too. AdamW then never moves them: its moments stay zero, and
    its weight decay takes a share of zero.

    Args:
        tower: with parameters of the names in `masks`.
        masks: for each parameter where it is kept, bool.

    Example:
        >>> layer = nn.Linear(2, 1)
        >>> prune(layer, {"weight": torch.tensor([[True, False]])})
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> layer.weight[0, 1].item(), layer.weight.grad.tolist()
        (0.0, [[1.0, 0.0]])
    """
    parameters = dict(tower.named_parameters())
    for name, mask in masks.items():
        parameter = parameters[name]
        dropped = ~mask.to(parameter.device)
        with torch.no_grad():
            parameter.masked_fill_(dropped, 0.0)
        parameter.register_hook(_silence(dropped))


def _silence(dropped: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda gradient: gradient.masked_fill(dropped, 0.0)


def measure_sparsity(masks: Masks) -> float:
    """Return the share of weights that masks leave out, in [0, 1].

    Example:
        >>> measure_sparsity({"a": torch.tensor([True, False]), "b": torch.tensor([True, True])})
        0.25
    """
    kept = sum(int(mask.sum()) for mask in masks.values())
    return 1 - kept / sum(mask.numel() for mask in masks.values())
