"""Which epoch of a fine-tuning run is kept, where validation data may choose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from fieldmark.core.errors import NotApplicableError
from fieldmark.core.sealed import SEAL, sealing, write_sealed_json
from fieldmark.methods import checkpoints
from fieldmark.methods.fine_tuning_config import Selection
from fieldmark.methods.images import TaskImages
from fieldmark.metrics.groups import count_groups, worst_group_accuracy
from fieldmark.models.encoder import EncoderSpec, normalise

SCORES, BEST = "scores.json", "best.safetensors"


@dataclass(frozen=True, eq=False, kw_only=True)
class EpochChoice:
    """Validation data that choose an epoch; the first of equals is kept.

    Attributes:
        by: `average` accuracy, or that of the `worst-group` of those that have images.
        images: validation images.
        groups: (n,) group of each, -1 where it is not known.
        classes: (C,) label of each row of the head that is trained.

    Raises:
        NotApplicableError: the worst group is wanted, and the group of no image is known.
    """

    by: Selection
    images: TaskImages
    groups: NDArray[np.int64]
    classes: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.by == "worst-group" and not (self.groups >= 0).any():
            raise NotApplicableError("select = 'worst-group' needs validation images with groups")

    def score(
        self, folder: Path, spec: EncoderSpec, tower: nn.Module, head: nn.Module, epoch: int
    ) -> None:
        """Score the tower and head of an epoch; keep them in a folder if none before was as good.

        An epoch that is scored again after a kill replaces what was known of it.
        """
        labels = self.images.classes[self.images.codes]
        right = self._predict(spec, tower, head) == labels
        score = score_epoch(right, self.groups, by=self.by)
        before = read_scores(folder)[:epoch]
        if score > max(before, default=-1.0):
            modules = nn.ModuleDict({"tower": tower, "head": head})
            state = {k: v.detach().cpu().clone() for k, v in modules.state_dict().items()}
            with sealing(folder / BEST) as part:
                save_file(state, part, metadata=dict(SEAL))
        write_sealed_json(folder / SCORES, {"scores": [*before, score]})

    def _predict(self, spec: EncoderSpec, tower: nn.Module, head: nn.Module) -> NDArray[np.int64]:
        tower.eval()
        device = next(tower.parameters()).device
        found = []
        with torch.inference_mode():
            for rows in np.array_split(np.arange(len(self.images)), -(-len(self.images) // 64)):
                image = self.images.read(rows).to(device)
                values = tower(normalise(image, spec=spec, dtype=torch.float32)).float()
                logits = head(functional.normalize(values, dim=-1))
                found.append(logits.argmax(-1).cpu().numpy())
        return np.asarray(self.classes[np.concatenate(found)])


def score_epoch(right: NDArray[np.bool_], groups: NDArray[np.int64], *, by: Selection) -> float:
    """Return the accuracy that an epoch is chosen by, in [0, 1].

    Args:
        right: (n,) whether each image was classified rightly.
        groups: (n,) its group, -1 where it is not known.
        by: `average`, or `worst-group` over the groups that occur.

    Example:
        >>> right, groups = np.array([True, True, False]), np.array([0, 0, 1])
        >>> score_epoch(right, groups, by="worst-group")
        0.0
    """
    if by == "average":
        return float(right.mean())
    known = groups >= 0
    return worst_group_accuracy(count_groups(right[known], groups[known]))


def read_scores(folder: Path) -> list[float]:
    """Return the score of each epoch so far."""
    return checkpoints.read_scores(folder / SCORES)


def restore_best(folder: Path, tower: nn.Module, head: nn.Module) -> tuple[int, list[float]]:
    """Load the best epoch into a tower and a head; return its number and all scores."""
    checkpoints.load_best(folder / BEST, nn.ModuleDict({"tower": tower, "head": head}))
    scores = read_scores(folder)
    return int(np.argmax(scores)), scores
