"""Interpolated and averaged weights, against hand-worked values; BANG and the ensemble."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldmark.core.errors import UsageError
from fieldmark.methods import ensembles, fine_tuning, wise_ft
from fieldmark.methods.classifier import make_probe
from fieldmark.methods.ensembles import (
    BangConfig,
    WeightEnsembleConfig,
    average_heads,
    average_weights,
)
from fieldmark.methods.wise_ft import WiseFtConfig, interpolate_weights, sweep_alpha
from fieldmark.testing import FakeEncoder
from tests.methods.task_material import SETTINGS, Killed, kill_at, make_material, run_after_base

# Minus zero, infinity and the smallest number: what arithmetic would not give back.
START = {"w": torch.tensor([-0.0, 1.0, 1e-45, 3.0]), "steps": torch.tensor([4])}
END = {"w": torch.tensor([2.0, 0.1, torch.inf, -1.0]), "steps": torch.tensor([9])}


def bits(state) -> dict[str, bytes]:
    return {name: value.numpy().tobytes() for name, value in state.items()}


def test_alpha_0_and_1_are_the_very_bits_of_either_end():
    assert bits(interpolate_weights(START, END, alpha=0)) == bits(START)
    assert bits(interpolate_weights(START, END, alpha=1)) == bits(END)


def test_between_by_hand():
    mixed = interpolate_weights(START, END, alpha=0.25)
    torch.testing.assert_close(mixed["w"], torch.tensor([0.5, 0.775, torch.inf, 2.0]))
    assert mixed["steps"].tolist() == [4]
    assert interpolate_weights(START, END, alpha=0.5)["steps"].tolist() == [9]
    assert mixed["steps"].dtype == torch.int64


@given(alpha=st.floats(0, 1), values=st.tuples(st.floats(-9, 9), st.floats(-9, 9)))
def test_interpolated_values_lie_between(alpha, values):
    ends = [{"w": torch.tensor([value], dtype=torch.float64)} for value in values]
    mixed = float(interpolate_weights(*ends, alpha=alpha)["w"])
    assert min(values) - 1e-12 <= mixed <= max(values) + 1e-12


def test_neither_end_is_changed_or_shared():
    mixed = interpolate_weights(START, END, alpha=0)
    mixed["w"] += 1
    assert START["w"][1] == 1.0


@pytest.mark.parametrize(
    "other",
    [{"w": torch.zeros(4)}, {**END, "v": torch.zeros(1)}, {**END, "w": torch.zeros(3)}],
)
def test_weights_of_another_architecture_are_refused(other):
    with pytest.raises(UsageError, match=r"weights to be averaged differ in '(steps|v|w)'"):
        interpolate_weights(START, other, alpha=0.5)


def test_an_alpha_out_of_range_is_refused():
    with pytest.raises(UsageError, match=r"in \[0, 1\], got 1.5"):
        interpolate_weights(START, END, alpha=1.5)


def test_a_sweep_ends_at_both_encoders():
    before, after = FakeEncoder(), FakeEncoder(background=0.0)
    marks = [e.spec.fingerprint for _, e in sweep_alpha(before, after, alphas=(0, 0.5, 1))]
    assert marks[0] == before.spec.fingerprint
    assert marks[2] == after.spec.fingerprint
    assert len(set(marks)) == 3


def test_wise_ft_lies_halfway_and_keeps_the_trained_head(tmp_path):
    material = make_material(tmp_path)
    tuned = fine_tuning.RECIPE.adapt(material)
    run = replace(material, base={"lp-ft": tuned}, config=WiseFtConfig(), train=None)
    adapted = wise_ft.RECIPE.adapt(run)
    start, end, found = (
        encoder.image_tower.state_dict()["mix.weight"]
        for encoder in (material.encoder, tuned.encoder, adapted.encoder)
    )
    torch.testing.assert_close(found, (start + end) / 2)
    assert adapted.head is tuned.head
    assert adapted.notes == {"alpha": 0.5}


def test_averages_by_hand():
    first, second = START, {"w": torch.tensor([2.0, 0.0, 1.0, 1.0]), "steps": torch.tensor([9])}
    mean = average_weights([first, second])
    torch.testing.assert_close(mean["w"], torch.tensor([1.0, 0.5, 0.5, 2.0]))
    assert mean["w"].dtype == torch.float32
    assert mean["steps"].tolist() == [4]
    heads = [
        make_probe(np.full((2, 3), v), np.full(2, -v), classes=np.array([0, 1])) for v in (1.0, 2.0)
    ]
    assert average_heads(heads).coef_.tolist() == [[1.5] * 3] * 2
    assert average_heads(heads).intercept_.tolist() == [-1.5, -1.5]


def test_bang_is_smoothed_mixed_and_halfway(tmp_path):
    config = BangConfig(**SETTINGS)
    assert (config.label_smoothing, config.mixup, config.alpha) == (0.1, 0.5, 0.5)
    material = make_material(tmp_path, config=config)
    adapted = ensembles.BANG_RECIPE.adapt(material)
    tuned = fine_tuning.RECIPE.adapt(replace(material, folder=tmp_path / "tuned"))
    start, end, found = (
        encoder.image_tower.state_dict()["mix.weight"]
        for encoder in (material.encoder, tuned.encoder, adapted.encoder)
    )
    torch.testing.assert_close(found, (start + end) / 2)
    plain = fine_tuning.RECIPE.adapt(make_material(tmp_path, name="plain"))
    assert plain.encoder.spec.fingerprint != tuned.encoder.spec.fingerprint


def test_an_ensemble_averages_lp_ft_and_its_members(tmp_path):
    config = WeightEnsembleConfig(**SETTINGS)
    adapted = run_after_base(ensembles.WEIGHT_ENSEMBLE_RECIPE, tmp_path, config=config)
    assert len(adapted.notes["members"]) == 3
    tails = [member["loss_by_epoch"] for member in adapted.notes["members"]]
    assert len({tuple(tail) for tail in tails}) == 3
    with pytest.raises(Killed):
        run_after_base(
            ensembles.WEIGHT_ENSEMBLE_RECIPE,
            tmp_path,
            config=config,
            name="killed",
            report=kill_at("member 3", 4),
        )
    again = run_after_base(ensembles.WEIGHT_ENSEMBLE_RECIPE, tmp_path, config=config, name="killed")
    assert again.encoder.spec.fingerprint == adapted.encoder.spec.fingerprint
