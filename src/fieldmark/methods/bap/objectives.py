"""What the image tower is trained for: BAP's phase 2 and the two controls of the paper.

A loss maps unit embeddings (B,D) and object indices (B,) to losses (B,).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from fieldmark.core.errors import UsageError
from fieldmark.core.seeds import derive_seed
from fieldmark.methods.bap.training import Loss
from fieldmark.methods.classifier import ClassifierHead


def compute_alignment_loss(embedding_BD: Tensor, anchor_BD: Tensor) -> Tensor:
    """Return the cosine distance of each embedding to its anchor, in [0, 2] (Eq. 3).

    The margin of 1.0 in the paper's Table 17 acts on negative pairs alone and there are none.

    Args:
        embedding_BD: (B,D), any length.
        anchor_BD: (B,D), any length.

    Example:
        >>> compute_alignment_loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]]))
        tensor([1.])
    """
    return 1 - functional.cosine_similarity(embedding_BD, anchor_BD, dim=-1)


def align_to(anchor_ND: Tensor) -> Loss:
    """Return the loss that pulls every composite of object i to `anchor_ND[i]` (BAP 3.1.2)."""
    return lambda embedding, objects: compute_alignment_loss(embedding, anchor_ND[objects])


def draw_orthogonal_anchors(labels: NDArray[np.int64], *, dim: int, seed: int) -> Tensor:
    """Draw one random unit vector a class, orthogonal to the others (BAP appendix F).

    Args:
        labels: class of each object, (n,), from 0.
        dim: D.
        seed: seed of the run.

    Returns:
        (n,D) float32: the vector of each object's class.

    Raises:
        UsageError: there are more classes than dimensions.

    Example:
        >>> anchor = draw_orthogonal_anchors(np.array([0, 1, 0]), dim=8, seed=0)
        >>> bool((anchor[0] @ anchor[1]).abs() < 1e-6), bool((anchor[0] == anchor[2]).all())
        (True, True)
    """
    classes = int(labels.max()) + 1
    if classes > dim:
        raise UsageError(f"{classes} classes have no orthogonal anchors in {dim} dimensions")
    chance = torch.Generator().manual_seed(derive_seed(seed, "orthogonal anchors"))
    basis = torch.linalg.qr(torch.randn(dim, classes, generator=chance)).Q
    anchors: Tensor = basis.T[torch.from_numpy(labels)]
    return anchors


def classify_with(head: ClassifierHead, label_N: Tensor) -> Loss:
    """Return the data-matched control's cross-entropy (BAP M.3.1).

    Args:
        head: maps embeddings to logits.
        label_N: class of each object, (n,).
    """
    return lambda embedding, objects: functional.cross_entropy(
        head(embedding), label_N[objects], reduction="none"
    )
