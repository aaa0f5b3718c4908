"""The recipes that turn an encoder and data into another encoder, by name, with their presets."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import BaseModel

from fieldmark.core.registry import look_up
from fieldmark.methods import ensembles, fine_tuning, prusc, wise_ft
from fieldmark.methods.bap import config as bap_config
from fieldmark.methods.bap import recipes as bap_recipes
from fieldmark.methods.fine_tuning_config import PRESET_VALUES as FINE_TUNING
from fieldmark.methods.fine_tuning_config import FineTuningConfig
from fieldmark.methods.recipe import Recipe

RECIPES: Mapping[str, Recipe] = {
    recipe.name: recipe
    for recipe in (
        fine_tuning.RECIPE,
        fine_tuning.HELD_OUT_RECIPE,
        wise_ft.RECIPE,
        ensembles.BANG_RECIPE,
        ensembles.WEIGHT_ENSEMBLE_RECIPE,
        prusc.RECIPE,
        *bap_recipes.RECIPES,
    )
}
# What a recipe's own settings are beside those of the preset.
_OWN: Mapping[tuple[str, str], Mapping[str, object]] = {
    # M.2 asks for 5 epochs whatever the data.
    ("erm-80", "small"): {"epochs": 5},
    ("erm-80", "quick"): {"epochs": 1},
    ("weight-ensemble", "quick"): {"members": 2},
    # Few steps, so larger ones: a gate can still cross 0.
    ("prusc", "quick"): {
        "task_ratio": 0.25,
        "mask_epochs": 3,
        "mask_batch_size": 16,
        "mask_learning_rate": 0.1,
    },
}


def find_settings(recipe: str, preset: str = "paper") -> BaseModel:
    """Return the settings of a recipe under a preset.

    `paper` is what the paper says. `small` (M.5.3, few images) and `quick` (two slow cores) change
    fine-tuning; BAP and its controls have `paper`, `nico` and `quick`. A recipe that trains
    nothing, such as `wise-ft`, has its defaults under each.

    Args:
        recipe: a key of `RECIPES`.
        preset: name of the settings.

    Raises:
        UnknownNameError: there is no such recipe, or it has no such preset.

    Example:
        >>> find_settings("erm-80", "small").epochs
        5
    """
    config = look_up(RECIPES, recipe, kind="recipe").config
    if config is bap_config.BapConfig:
        return bap_config.find_preset(preset)
    values = look_up(FINE_TUNING, preset, kind="preset")
    if not issubclass(config, FineTuningConfig):
        return config()
    return config.model_validate({**values, **_OWN.get((recipe, preset), {})})
