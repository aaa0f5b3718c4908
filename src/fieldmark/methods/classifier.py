"""The linear head of a tower in training, and the same head on unit embeddings afterwards."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fieldmark.methods.linear_probe import LinearProbe


class ClassifierHead(nn.Module):
    """The linear head that an image tower is trained with.

    Its input is the unit embedding times sqrt(D), so that coordinates are of the order of 1, and it
    starts at zero: every class is equally likely at first, whatever the encoder.
    """

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, classes)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.scale = math.sqrt(dim)

    def forward(self, embedding_BD: Tensor) -> Tensor:
        """Return logits (B,classes) of unit embeddings (B,D)."""
        logits: Tensor = self.linear(embedding_BD * self.scale)
        return logits


def open_head(probe: LinearProbe) -> ClassifierHead:
    """Return a head to train that starts as a probe on unit embeddings.

    Args:
        probe: fitted, `coef_` (C,D).

    Example:
        >>> probe = make_probe(np.eye(2), np.zeros(2), classes=np.array([3, 5]))
        >>> open_head(probe)(torch.eye(2)).detach().round().tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    head = ClassifierHead(probe.coef_.shape[1], len(probe.coef_))
    with torch.no_grad():
        head.linear.weight.copy_(torch.from_numpy(probe.coef_) / head.scale)
        head.linear.bias.copy_(torch.from_numpy(probe.intercept_))
    return head


def fold_head(head: ClassifierHead, *, classes: NDArray[np.int64]) -> LinearProbe:
    """Return a trained head as a probe on unit embeddings; its scale goes into `coef_`.

    Args:
        head: as it was trained.
        classes: (C,) label of each row of the head.

    Example:
        >>> fold_head(ClassifierHead(4, 2), classes=np.array([0, 1])).coef_.shape
        (2, 4)
    """
    weight = head.linear.weight.detach().cpu().double().numpy()
    bias = head.linear.bias.detach().cpu().double().numpy()
    return make_probe(weight * head.scale, bias, classes=classes)


def make_probe(
    coef: NDArray[np.float64], intercept: NDArray[np.float64], *, classes: NDArray[np.int64]
) -> LinearProbe:
    """Return a fitted probe with given weights.

    Args:
        coef: (C,D).
        intercept: (C,).
        classes: (C,) labels, ascending.
    """
    probe = LinearProbe()
    probe.coef_, probe.intercept_, probe.classes_ = coef, intercept, classes
    probe.n_features_in_ = coef.shape[1]
    return probe
