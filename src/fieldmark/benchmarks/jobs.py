"""A job: one encoder, adapted in one way on one task with one seed, and what is measured on it.

A suite is a list of jobs. Two jobs that ask for the same thing are one job, whichever suite or
table they are for: what a table calls them (`suite`, `setting`) is no part of what they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fieldmark.data.masks import Degradation

NATIVE = "native"


@dataclass(frozen=True, kw_only=True)
class TaskRef:
    """Which task: a data set by name, where it lies, and what it is told.

    Attributes:
        dataset: name of a data set, or the path of a built folder or a table.
        root: folder of a published data set; None for one that is built.
        options: of the data set.
    """

    dataset: str
    root: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        root = None if self.root is None else str(self.root)
        return {"dataset": self.dataset, "root": root, "options": dict(self.options)}


@dataclass(frozen=True, kw_only=True)
class Source:
    """What pre-training takes its objects from.

    Attributes:
        foregrounds: `task` takes the task's own; `photographs` cuts them out of its training images
            by their masks, with the true surroundings that spoilt masks let in.
        masks: how masks are spoilt (BAP I.2).
    """

    foregrounds: Literal["task", "photographs"] = "task"
    masks: Degradation = "none"


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is to be measured.

    Attributes:
        task: the data.
        model: URI of the encoder.
        recipe: what is done to the encoder: `native`, or a key of `methods.recipes.RECIPES`.
        settings: what to change of the settings of a recipe and of those that it starts from, by
            the recipe's name.
        source: objects of a recipe that pre-trains.
        measure: a key of `benchmarks.measures.MEASURES`.
        arguments: of the measure.
        seed: of the recipe, of heads and of resampling.
        suite: for the rows: the suite that asks.
        setting: for the rows: what a sweep varies ("K=4").
    """

    task: TaskRef
    model: str
    recipe: str = NATIVE
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    source: Source = field(default_factory=Source)
    measure: str = "accuracy"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    suite: str = ""
    setting: str = ""

    @property
    def head(self) -> str:
        """The head that an `accuracy` job is about, else nothing."""
        return str(self.arguments.get("head", ""))

    def to_json(self) -> dict[str, Any]:
        """Return what the job is as JSON values, without what a table calls it."""
        return {
            "task": self.task.to_json(),
            "model": self.model,
            "recipe": self.recipe,
            "settings": {name: dict(values) for name, values in self.settings.items()},
            "foregrounds": self.source.foregrounds,
            "masks": self.source.masks,
            "measure": self.measure,
            "arguments": dict(self.arguments),
            "seed": self.seed,
        }

    def describe(self) -> str:
        """Return the job in a few words, for a line of progress."""
        what = self.head or self.measure
        words = [self.task.dataset, *map(str, self.task.options.values()), self.recipe, what]
        return " ".join([*words, self.setting, f"seed {self.seed}"]).replace("  ", " ")
