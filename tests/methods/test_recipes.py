"""Every recipe runs on FakeEncoder, a ViT and a conv tower; names, presets, what it needs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import BaseModel

from fieldmark.core.errors import NotApplicableError, UnknownNameError
from fieldmark.methods.bap.config import BapConfig
from fieldmark.methods.linear_probe import LinearProbe
from fieldmark.methods.recipe import Adapted
from fieldmark.methods.recipes import RECIPES, find_settings
from fieldmark.models.encoder import Encoder
from fieldmark.models.load import load_encoder
from fieldmark.testing import FakeEncoder
from tests.methods.bap_material import CONFIG as BAP_CONFIG
from tests.methods.bap_material import open_compositor
from tests.methods.task_material import draw_table, make_material
from tests.models import tiny

BRIEF = {
    "epochs": 1,
    "batch_size": 6,
    "learning_rate": 1e-3,
    "probe_epochs": 2,
    "precision": "fp32",
}
PRUSC = {"task_ratio": 0.4, "mask_epochs": 1, "clusters": 2, "mask_batch_size": 6}
ON_IMAGES = tuple(n for n, r in RECIPES.items() if r.uses != "composites")
ON_COMPOSITES = tuple(n for n, r in RECIPES.items() if r.uses == "composites")


def configure(name: str) -> BaseModel:
    config = RECIPES[name].config
    values: dict[str, Any] = BRIEF if "probe_epochs" in config.model_fields else {}
    return config(**values, **(PRUSC if name == "prusc" else {}))


def run_all(folder: Path, encoder: Encoder) -> dict[str, Adapted]:
    """Run the recipes that use images, each once, those under others first."""
    done: dict[str, Adapted] = {}
    for name in ON_IMAGES:
        recipe = RECIPES[name]
        material = make_material(folder, name=name, encoder=encoder, config=configure(name))
        base = {below: done[below] for below in recipe.starts_from}
        done[name] = recipe.adapt(replace(material, base=base))
    return done


def test_there_are_nine():
    assert set(RECIPES) == {
        "lp-ft",
        "erm-80",
        "wise-ft",
        "bang",
        "weight-ensemble",
        "prusc",
        "bap",
        "data-matched-control",
        "random-orthogonal-anchors",
    }
    for name, recipe in RECIPES.items():
        assert recipe.name == name
        assert recipe.source
        assert set(recipe.starts_from) <= set(RECIPES)


@pytest.mark.parametrize("family", ["clip", "efficientnet"])
def test_every_recipe_on_images_trains_a_tiny_tower(tmp_path, family):
    tiny.write_open_clip(tmp_path / family, family)
    encoder = load_encoder(f"local-dir:{tmp_path / family}", device="cpu")
    draw_table(tmp_path, count=12, side=32)
    before = {k: v.clone() for k, v in encoder.image_tower.state_dict().items()}
    for name, adapted in run_all(tmp_path, encoder).items():
        state = adapted.encoder.image_tower.state_dict()
        assert adapted.encoder.spec.fingerprint != encoder.spec.fingerprint, name
        assert all(torch.isfinite(v).all() for v in state.values() if v.is_floating_point())
        for key in state:
            if key.endswith(("running_mean", "running_var", "num_batches_tracked")):
                assert torch.equal(state[key], before[key]), (name, key)
        assert isinstance(adapted.head, LinearProbe)
        assert adapted.head.coef_.shape == (2, encoder.spec.dim)
    after = encoder.image_tower.state_dict()
    assert all(torch.equal(after[k], before[k]) for k in before)


@pytest.mark.parametrize("name", ON_COMPOSITES)
def test_pre_training_as_a_recipe(tmp_path, name):
    config = BAP_CONFIG.model_copy(update={"epochs": 1})
    material = make_material(
        tmp_path, config=config, compositor=lambda: open_compositor(tmp_path), train=None
    )
    phases = set()
    adapted = RECIPES[name].adapt(
        replace(material, report=lambda phase, done, total, note: phases.add(phase))
    )
    assert adapted.encoder.spec.fingerprint != FakeEncoder().spec.fingerprint
    assert adapted.notes["steps"] == 5
    assert len(adapted.notes["loss_by_epoch"]) == 1
    assert phases == ({name, "anchors"} if name == "bap" else {name})
    assert adapted.head is None


def test_without_objects_pre_training_does_not_apply(tmp_path):
    with pytest.raises(NotApplicableError, match="bap needs foregrounds and backgrounds"):
        RECIPES["bap"].adapt(make_material(tmp_path, config=BapConfig()))


@pytest.mark.parametrize("name", RECIPES)
def test_the_papers_settings_are_the_defaults(name):
    assert find_settings(name) == RECIPES[name].config()
    assert isinstance(find_settings(name, "quick"), RECIPES[name].config)


def test_presets_of_recipes():
    assert find_settings("prusc", "small").model_dump()["batch_size"] == 32
    assert find_settings("erm-80", "small").model_dump()["epochs"] == 5
    assert find_settings("bap", "nico").model_dump()["epochs"] == 160
    with pytest.raises(UnknownNameError, match="unknown recipe 'lpft'"):
        find_settings("lpft")
    with pytest.raises(UnknownNameError, match="unknown preset 'nico'"):
        find_settings("lp-ft", "nico")
