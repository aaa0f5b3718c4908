"""How much of everything a suite uses: the paper's amounts, or what two slow cores can do."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fieldmark.core.registry import look_up
from fieldmark.methods.recipes import RECIPES


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Amounts.

    Attributes:
        name: of the budget.
        summary: what it means, in a line, for the record.
        models: what stands for an encoder, by its URI: the same one with fewer pixels.
        data: options of data sets that are built, by name.
        settings: of recipes, by name; what is not given is the paper's.
        study: amounts of studies: composites, words, values of a sweep.
    """

    name: str
    summary: str
    models: Mapping[str, str] = field(default_factory=dict)
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    study: Mapping[str, Any] = field(default_factory=dict)

    def settings_of(
        self, recipe: str, *, published: Mapping[str, Mapping[str, Any]] | None = None
    ) -> dict[str, dict[str, Any]]:
        """Return the settings of a recipe and of those that it starts from.

        Args:
            recipe: its name.
            published: what the paper has for the data at hand; the budget goes before it.
        """
        names, found = [recipe], {}
        for name in names:
            if name in RECIPES:
                names.extend(RECIPES[name].starts_from)
            values = {**(published or {}).get(name, {}), **self.settings.get(name, {})}
            if values:
                found[name] = values
        return found


# Larger steps than the paper's, since there are a hundredth as many of them.
_PRETRAINING = {
    "contexts": 4,
    "anchor_contexts": 8,
    "epochs": 3,
    "batch_size": 16,
    "learning_rate": 3e-5,
    "checkpoint_seconds": 30,
}
_TUNING = {
    "epochs": 3,
    "batch_size": 16,
    "learning_rate": 1e-5,
    "warmup": 5,
    "checkpoint_seconds": 30,
}
_SMALL = {"size": 112, "per_class": 100, "per_group": 50}
_WHOLE = {"size": 224, "per_class": 200, "per_group": 100}

BUDGETS: Mapping[str, Budget] = {
    "quick": Budget(
        name="quick",
        summary="packaged encoders at 98 or 128 pixels, 100 training images a class, few epochs",
        models={
            "packaged:dinov2-small": "packaged:dinov2-small@98",
            "packaged:efficientnet-lite0": "packaged:efficientnet-lite0@128",
        },
        data={"stamps": _SMALL, "synthetic": _SMALL},
        settings={
            "bap": _PRETRAINING,
            "data-matched-control": _PRETRAINING,
            "random-orthogonal-anchors": _PRETRAINING,
            "lp-ft": _TUNING,
            "erm-80": _TUNING,
            "bang": _TUNING,
            "weight-ensemble": {**_TUNING, "members": 2},
            # Sixty images in D_task: a gate starts at 1.5, so steps of 1e-2 could close none.
            "prusc": {
                **_TUNING,
                "task_ratio": 0.3,
                "mask_epochs": 4,
                "mask_batch_size": 16,
                "mask_learning_rate": 0.1,
            },
        },
        study={"composites": 256, "backgrounds": 400, "sequences": 400},
    ),
    "full": Budget(
        name="full",
        summary="the paper's settings at the encoder's own size: a GPU",
        data={"stamps": _WHOLE, "synthetic": _WHOLE},
        study={
            "composites": 300_000,
            "backgrounds": 100_000,
            "sequences": 2_000,
            # RaVL: 620 fine-tuning sets, those of digits and garments of 40,000 images (B, D.2).
            "settings": 155,
            "mitigations": 155,
            "tuning": 40_000,
            "evaluation": 2_000,
            "epochs": 100,
            "batch_size": 128,
            "learning_rate": 5e-5,
            "patience": 10,
            "validation_share": 0.05,
        },
    ),
}


def change_budget(budget: Budget, given: Sequence[tuple[tuple[str, str], Any]]) -> Budget:
    """Return a budget with some settings of recipes and amounts of studies changed.

    Args:
        budget: the budget.
        given: pairs of where ("bap", "study") and key, with the value. What is for `data` is left
            to the request.

    Raises:
        UnknownNameError: a place that is neither a recipe, nor `study`, nor `data`.
    """
    settings = {name: dict(values) for name, values in budget.settings.items()}
    study = dict(budget.study)
    for (where, key), value in given:
        look_up({**RECIPES, "study": None, "data": None}, where, kind="place of a setting")
        if where in RECIPES:
            settings.setdefault(where, {})[key] = value
        elif where == "study":
            study[key] = value
    return dataclasses.replace(budget, settings=settings, study=study)


def find_budget(name: str) -> Budget:
    """Return a budget by its name.

    Raises:
        UnknownNameError: there is none.
    """
    return look_up(BUDGETS, name, kind="budget")
