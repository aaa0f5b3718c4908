"""Deletion and insertion protocols: what is taken away, in which steps, and what is watched.

Fields and presets follow facts/attribution.md section 2. Figures of two protocols must not be
compared, so the name of the preset and every field changed go into each record.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from fieldmark.core.registry import look_up

ScoreName = Literal["accuracy@1", "accuracy@5", "probability", "cosine"]
SCORES: tuple[ScoreName, ...] = ("accuracy@1", "accuracy@5", "probability", "cosine")
Fill = Literal["noise", "mean", "blur", "black"]
Curve = Literal["deletion", "insertion"]
CURVES: tuple[Curve, ...] = ("deletion", "insertion")


class Protocol(BaseModel):
    """How pixels are taken away and brought back.

    Attributes:
        preset: name of what the other fields started from.
        space: pixels of the `model_input`, or of the `native` image before it is resized.
        fraction_max: share of the pixels that is changed at the last step, in (0, 1].
        points: equal steps up to there, 2 at least; the image as it is comes on top.
        delete_fill: what a deleted pixel becomes: `noise` (each channel even over 0 to 255), the
            checkpoint's `mean` colour, the image `blur`red, or `black`.
        insert_start: what insertion starts from, likewise.
        score: the score that tables are sorted by; all of `SCORES` are measured.
        endpoints: whether insertion begins at 0; without, as in Grad-ECLIP's code, its first point
            is one step in and the whole image is put at the end, at 1.
        target: text that the score watches: of the true `label`, or of the `prediction` on the
            image as it is.
        tie_break: how equal pixels are ordered: at `random`, by the map of `maskclip`, or `none`:
            from the upper left to the lower right.
        native_side: a native image whose shorter side is longer is brought to this, in pixels.
        seed: of noise and ties, the same for all methods.

    Example:
        >>> find_protocol("cci").fraction_max
        0.5
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str = "fieldmark"
    space: Literal["model_input", "native"] = "model_input"
    fraction_max: float = Field(default=1.0, gt=0, le=1)
    points: int = Field(default=20, ge=2)
    delete_fill: Fill = "noise"
    insert_start: Fill = "blur"
    score: ScoreName = "probability"
    endpoints: bool = True
    target: Literal["label", "prediction"] = "label"
    tie_break: Literal["random", "maskclip", "none"] = "random"
    native_side: int = Field(default=640, ge=1)
    seed: int = Field(default=0, ge=0)

    def fractions(self) -> NDArray[np.float64]:
        """Return the share of changed pixels at each step: (points,), the last `fraction_max`."""
        steps = np.arange(1, self.points + 1, dtype=np.float64)
        return np.asarray(steps * (self.fraction_max / self.points))

    def grid(self, curve: Curve) -> NDArray[np.float64]:
        """Return the x of a curve: (P,) share of pixels deleted or inserted.

        Example:
            >>> find_protocol("gradeclip").grid("insertion")[[0, -2, -1]].tolist()
            [0.05, 0.5, 1.0]
        """
        steps = self.fractions()
        if curve == "deletion" or self.endpoints:
            return np.concatenate([[0.0], steps])
        return steps if self.fraction_max == 1 else np.concatenate([steps, [1.0]])

    def changed(self) -> dict[str, Any]:
        """Return the fields that differ from the preset's, the seed left out."""
        base = PROTOCOLS[self.preset].model_dump()
        mine = self.model_dump()
        return {key: mine[key] for key in mine if key != "seed" and mine[key] != base[key]}


PROTOCOLS: Mapping[str, Protocol] = MappingProxyType(
    {
        "fieldmark": Protocol(),
        "gradeclip": Protocol(
            preset="gradeclip",
            space="native",
            fraction_max=0.5,
            points=10,
            delete_fill="noise",
            insert_start="black",
            score="accuracy@1",
            endpoints=False,
        ),
        "cci": Protocol(
            preset="cci",
            fraction_max=0.5,
            points=100,
            delete_fill="noise",
            insert_start="black",
            score="accuracy@1",
        ),
        "rise": Protocol(
            preset="rise",
            points=28,
            delete_fill="mean",
            insert_start="blur",
            score="probability",
            target="prediction",
        ),
    }
)


def find_protocol(name: str) -> Protocol:
    """Return a preset by its name.

    Raises:
        UnknownNameError: there is none; the message lists those there are.
    """
    return look_up(PROTOCOLS, name, kind="protocol")
