"""The names of `methods.checkpoints`, where BAP's callers look for them."""

from __future__ import annotations

from fieldmark.methods.checkpoints import (
    CHECKPOINT,
    LOG,
    LossRow,
    append_loss,
    load_checkpoint,
    read_losses,
    save_checkpoint,
    write_losses,
)

__all__ = [
    "CHECKPOINT",
    "LOG",
    "LossRow",
    "append_loss",
    "load_checkpoint",
    "read_losses",
    "save_checkpoint",
    "write_losses",
]
