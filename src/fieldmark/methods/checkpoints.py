"""The state of an unfinished training run, in one safetensors file, and its log of losses.

Everything that decides the next step is in the file: weights, both moments of AdamW and the step.
The file carries its checksum, and one that does not fit it is refused.
What is drawn at random is a function of seed and epoch, so it needs no state.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fieldmark.core.atomic import write_text
from fieldmark.core.errors import InputError
from fieldmark.core.json_text import parse_json
from fieldmark.core.sealed import SEAL, check, is_whole, read_sealed_json, sealing
from fieldmark.models.checkpoint import load_weights

CHECKPOINT, LOG = "checkpoint.safetensors", "loss.jsonl"
MEND_FOLDER = "delete its folder, and --resume trains again from the start"


@dataclass(frozen=True)
class LossRow:
    """What one optimiser step did.

    Attributes:
        step: number of the step, from 0.
        epoch: number of the epoch, from 0.
        loss: mean loss over the batch.
        learning_rate: of the image tower.
    """

    step: int
    epoch: int
    loss: float
    learning_rate: float


def save_checkpoint(
    folder: Path, modules: nn.ModuleDict, *, optimizer: torch.optim.AdamW, step: int
) -> None:
    """Write weights, moments and step, whole or not at all.

    Args:
        folder: of the run.
        modules: everything that is trained, by name.
        optimizer: over the parameters of `modules`.
        step: how many steps have been taken.
    """
    tensors = {
        f"weight.{k}": v.detach().cpu().contiguous() for k, v in modules.state_dict().items()
    }
    for name, parameter in modules.named_parameters():
        for moment, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{moment}.{name}"] = value.detach().cpu().contiguous()
    # Two names of one storage (tied weights) cannot be saved as they are: give each its own.
    tensors = {name: value.clone() for name, value in tensors.items()}
    with sealing(folder / CHECKPOINT) as part:
        save_file(tensors, part, metadata={**SEAL, "step": str(step)})


def load_checkpoint(folder: Path, modules: nn.ModuleDict, *, optimizer: torch.optim.AdamW) -> int:
    """Put a checkpoint back and return its step; 0 where there is none.

    Args:
        folder: of the run.
        modules: as they were given to `save_checkpoint`.
        optimizer: over the parameters of `modules`.

    Raises:
        InputError: it is damaged.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return 0
    if not is_whole(path):
        raise InputError(
            "is damaged (its checksum does not fit its bytes)",
            where=path,
            mend="delete it, and --resume trains again from the start",
        )
    steps: list[int] = []
    load_weights(lambda: steps.append(_restore(path, modules, optimizer=optimizer)), path=path)
    return steps[0]


def _restore(path: Path, modules: nn.ModuleDict, *, optimizer: torch.optim.AdamW) -> int:
    device = next(modules.parameters()).device
    with safe_open(path, framework="pt", device=str(device)) as stored:
        names = set(stored.keys())
        weights = {
            n.removeprefix("weight."): stored.get_tensor(n) for n in names if n[:7] == "weight."
        }
        modules.load_state_dict(weights)
        for name, parameter in modules.named_parameters():
            state: dict[str, Tensor] = {}
            for moment in ("step", "exp_avg", "exp_avg_sq"):
                if f"{moment}.{name}" in names:
                    value = stored.get_tensor(f"{moment}.{name}")
                    if value.shape != (() if moment == "step" else parameter.shape):
                        raise ValueError(f"{moment} of {name} has another shape")
                    # AdamW counts its steps on the CPU.
                    state[moment] = value.cpu() if moment == "step" else value
            if len(state) not in (0, 3):
                raise ValueError(f"{name} lacks a moment")
            if state:
                optimizer.state[parameter] = state
        return int(stored.metadata()["step"])


def read_scores(path: Path) -> list[float]:
    """Return the score of each epoch so far out of the sealed file that keeps them.

    Args:
        path: of the file; none before the first epoch.

    Raises:
        InputError: it is damaged, or holds anything but numbers.

    Example:
        >>> read_scores(Path("nowhere/scores.json"))
        []
    """
    if not path.is_file():
        return []
    scores: Any = read_sealed_json(path).get("scores")
    try:
        found = [float(score) for score in scores if not isinstance(score, str)]
    except (TypeError, OverflowError):
        found = []
    if not found or len(found) != len(scores) or not all(map(math.isfinite, found)):
        raise InputError("holds no scores", where=path, mend=MEND_FOLDER)
    return found


def load_best(path: Path, modules: nn.Module) -> None:
    """Load the weights of the best epoch.

    Raises:
        InputError: they are damaged, or of other modules.
    """
    check(path, mend=MEND_FOLDER)
    load_weights(lambda: modules.load_state_dict(load_file(path)), path=path)


def read_losses(folder: Path, *, before: int | None = None) -> list[LossRow]:
    """Return the log of a run, all of it or the steps before `before`.

    Raises:
        InputError: a line of it is damaged, or one is missing.
    """
    path = folder / LOG
    if not path.exists():
        return []
    try:
        # A killed run may have left half a line at the end.
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        rows = [LossRow(**parse_json(line)) for line in lines]
        rows = [row for row in rows if before is None or row.step < before]
        whole = [row.step for row in rows] == list(range(len(rows) if before is None else before))
    except (ValueError, TypeError):
        whole = False
    if not whole:
        raise InputError(
            "is damaged (a line is missing or is no row of a log)",
            where=path,
            mend=f"delete it and {CHECKPOINT}, and --resume trains again from the start",
        )
    return rows


def write_losses(folder: Path, rows: list[LossRow]) -> None:
    """Write a whole log."""
    write_text(folder / LOG, "".join(json.dumps(asdict(row)) + "\n" for row in rows))


def append_loss(folder: Path, row: LossRow) -> None:
    """Add a line to the log."""
    with (folder / LOG).open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(asdict(row)) + "\n")
