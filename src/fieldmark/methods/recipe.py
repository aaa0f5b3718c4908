"""What an adaptation is: from an encoder and data to another encoder. Each is one file.

A recipe names the recipes that it starts from, so that a fine-tuned encoder that several methods
need is trained once. `methods.recipes.RECIPES` holds them by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from fieldmark.data.compositing import Compositor
from fieldmark.data.tables import ImageTable
from fieldmark.methods.head import Head
from fieldmark.models.encoder import Encoder

# Called with what is being done, units done, units in all and a note.
Report = Callable[[str, int, int, str], None]


@dataclass(frozen=True, eq=False, kw_only=True)
class Adapted:
    """What a recipe returns.

    Attributes:
        encoder: the encoder with its new image tower; its text tower is untouched.
        head: the linear head that it was trained with, on its unit embeddings, or None.
        holdout: rows of the training table that were kept from training, or None.
        notes: what to record: losses, what was selected on validation data, masks' sparsity.
    """

    encoder: Encoder
    head: Head | None = None
    holdout: NDArray[np.int64] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False, kw_only=True)
class Material:
    """What a recipe works on.

    Attributes:
        encoder: the native encoder, float32, on the device to train on. Not to be changed.
        train: labelled images of the downstream task, or None where the recipe has no use for them.
        val: its validation images, or None.
        compositor: a maker of composites for pre-training: given `config`, returns
            `data.compositing.Compositor`; None where there are no foregrounds.
        base: the outcome of each recipe that this one starts from, by name.
        config: settings, of the recipe's own type.
        seed: seed of the run.
        folder: keeps checkpoints, so that a killed run goes on.
        cache: folder for what other runs can use again.
        report: told about progress.
    """

    encoder: Encoder
    train: ImageTable | None = None
    val: ImageTable | None = None
    compositor: Callable[[], Compositor] | None = None
    base: Mapping[str, Adapted] = field(default_factory=dict)
    config: Any
    seed: int
    folder: Path
    cache: Path
    report: Report = lambda phase, done, total, note: None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A way to adapt an encoder.

    Attributes:
        name: in flags and records.
        adapt: from the material to the adapted encoder. Raises NotApplicableError where the encoder
            or the data do not bear it.
        config: type of its settings; its defaults are the paper's.
        uses: `images` of the downstream task, `composites`, or `nothing` but its bases.
        starts_from: names of the recipes whose outcome it needs.
        source: paper and equation or section.
    """

    name: str
    adapt: Callable[[Material], Adapted]
    config: type[BaseModel]
    uses: Literal["images", "composites", "nothing"]
    starts_from: tuple[str, ...] = ()
    source: str = ""
