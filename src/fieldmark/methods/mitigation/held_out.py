"""Held-out images: their loss chooses the epoch that is kept, and stops a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from fieldmark.core.errors import FieldmarkError
from fieldmark.core.sealed import SEAL, sealing, write_sealed_json
from fieldmark.methods.checkpoints import load_best, read_scores

SCORES, BEST = "validation.json", "best.safetensors"


@dataclass(frozen=True, eq=False, kw_only=True)
class EpochKeeper:
    """Keeps the epoch with the lowest loss on held-out images, the first of equals.

    What it knows is in two files of the run's folder, so that a killed run goes on with it.

    Attributes:
        tower: that is trained.
        measure: the loss on the held-out images, of the tower as it is.
        folder: of the run.
        patience: epochs without a lower loss that end the run; None never does.
        minimum_improvement: how much lower a loss must be to count.
    """

    tower: nn.Module
    measure: Callable[[], float]
    folder: Path
    patience: int | None
    minimum_improvement: float

    def judge(self, epoch: int) -> None:
        """Measure an epoch and keep its weights if they are the best; again, it replaces itself.

        Raises:
            FieldmarkError: the loss is not finite.
        """
        self.tower.eval()
        with torch.no_grad():
            score = self.measure()
        if not math.isfinite(score):
            raise FieldmarkError(
                f"the loss on held-out images is {score} after epoch {epoch}",
                where=self.folder,
                mend="lower learning_rate",
            )
        before = self.read_scores()[:epoch]
        if score < min(before, default=math.inf):
            tensors = {
                name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, value in self.tower.state_dict().items()
            }
            with sealing(self.folder / BEST) as part:
                save_file(tensors, part, metadata=dict(SEAL))
        write_sealed_json(self.folder / SCORES, {"scores": [*before, score]})

    def has_converged(self, epochs: int) -> bool:
        """Return whether the last `patience` of so many epochs brought nothing."""
        scores = self.read_scores()[:epochs]
        if self.patience is None or len(scores) <= self.patience:
            return False
        goal = min(scores[: -self.patience]) - self.minimum_improvement
        return min(scores[-self.patience :]) > goal

    def read_scores(self) -> list[float]:
        """Return the loss of each epoch so far."""
        return read_scores(self.folder / SCORES)

    def restore(self) -> int:
        """Put the best epoch's weights back into the tower and return its number, from 0."""
        load_best(self.folder / BEST, self.tower)
        return int(np.argmin(self.read_scores()))
