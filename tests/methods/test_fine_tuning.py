"""LP-FT: it learns, resumes to the same bits, keeps the epoch it should, refuses bad data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR

from fieldmark.core.errors import InputError, NotApplicableError, UnknownNameError
from fieldmark.methods.classifier import fold_head, make_probe, open_head
from fieldmark.methods.epochs import read_scores, restore_best, score_epoch
from fieldmark.methods.fine_tuning import (
    HELD_OUT_RECIPE,
    RECIPE,
    fine_tune,
    open_material,
    probe_frozen,
    split_holdout,
)
from fieldmark.methods.fine_tuning_config import (
    FineTuningConfig,
    HeldOutConfig,
    find_preset,
    make_schedule,
)
from fieldmark.methods.images import embed_task_images, open_task_images
from fieldmark.methods.linear_probe import LinearProbe
from fieldmark.testing import FakeEncoder
from tests.methods.task_material import CONFIG, SETTINGS, Killed, kill_at, make_material


def bits(adapted) -> list[bytes]:
    state = adapted.encoder.image_tower.state_dict()
    head = adapted.head
    values = [*(value.numpy() for value in state.values()), head.coef_, head.intercept_]
    return [np.ascontiguousarray(value).tobytes() for value in values]


def accuracy(adapted, table, folder) -> float:
    images = open_task_images(table, adapted.encoder, cache=folder / "cache")
    found = adapted.head.predict(embed_task_images(adapted.encoder, images))
    return float((found == table.labels).mean())


def test_it_learns_and_leaves_what_it_started_from(tmp_path):
    material = make_material(tmp_path)
    adapted = RECIPE.adapt(material)
    losses = adapted.notes["loss_by_epoch"]
    assert len(losses) == CONFIG.epochs
    assert losses[-1] < losses[0]
    assert accuracy(adapted, material.train, tmp_path) == 1.0
    assert adapted.encoder.spec.fingerprint != material.encoder.spec.fingerprint
    assert material.encoder.spec.fingerprint == FakeEncoder().spec.fingerprint
    assert adapted.notes["selected_on"] == "nothing"
    texts = ["red", "blue"]
    assert torch.equal(adapted.encoder.encode_text(texts), FakeEncoder().encode_text(texts))


@pytest.mark.parametrize(("phase", "step"), [("images", 24), ("fine-tuning", 4)])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, phase, step):
    whole = RECIPE.adapt(make_material(tmp_path, name="whole", cache=tmp_path / "other"))
    killed = make_material(tmp_path, report=kill_at(phase, step))
    with pytest.raises(Killed):
        RECIPE.adapt(killed)
    resumed = RECIPE.adapt(make_material(tmp_path))
    assert bits(resumed) == bits(whole)
    assert resumed.notes == whole.notes
    assert bits(RECIPE.adapt(make_material(tmp_path))) == bits(whole)


def test_another_seed_is_another_run(tmp_path):
    first = RECIPE.adapt(make_material(tmp_path, name="a"))
    second = RECIPE.adapt(make_material(tmp_path, name="b", seed=1))
    assert bits(first) != bits(second)


def test_the_probe_comes_first_and_is_made_once(tmp_path):
    run = open_material(make_material(tmp_path))
    head = probe_frozen(run)
    values = embed_task_images(run.encoder, run.images)
    assert head.predict(values).tolist() == run.images.codes.tolist()
    (tmp_path / "cache").rename(tmp_path / "gone")
    again = probe_frozen(run)
    assert np.array_equal(again.coef_, head.coef_)
    assert isinstance(again, LinearProbe)


def test_a_folded_head_is_the_head(tmp_path):
    rng = np.random.default_rng(0)
    probe = make_probe(rng.normal(size=(3, 5)), rng.normal(size=3), classes=np.array([2, 4, 7]))
    head = open_head(probe)
    values = torch.nn.functional.normalize(torch.randn(9, 5), dim=-1)
    folded = fold_head(head, classes=probe.classes_)
    np.testing.assert_allclose(folded.coef_, probe.coef_, atol=1e-6)
    expected = head(values).detach().numpy()
    np.testing.assert_allclose(folded.decision_function(values.numpy()), expected, atol=1e-5)
    assert folded.predict(values.numpy()).tolist() == [
        [2, 4, 7][i] for i in expected.argmax(1).tolist()
    ]


def test_the_rate_is_torchs_sequential_schedule():
    config = FineTuningConfig(warmup=20, longest_warmup=1.0)
    schedule = make_schedule(config)
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=1e-3)
    rise = LinearLR(optimizer, start_factor=0.01, total_iters=20)
    fall = CosineAnnealingLR(optimizer, T_max=80, eta_min=1e-6)
    both = SequentialLR(optimizer, [rise, fall], milestones=[20])
    for step in range(100):
        assert schedule(step, 100, 1e-3) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        both.step()


def test_a_short_run_warms_up_for_a_quarter():
    schedule = make_schedule(FineTuningConfig())
    rates = [schedule(step, 40, 1e-3) for step in range(40)]
    assert rates[0] == pytest.approx(1e-5)
    assert rates[10] == max(rates) == pytest.approx(1e-3)
    # M.5.3: the backbone's peak is the minimum.
    assert schedule(39, 40, 1e-6) == 1e-6
    assert schedule(39, 40, 5e-7) == 5e-7


@pytest.mark.parametrize("by", ["average", "worst-group"])
def test_validation_data_choose_an_epoch_when_asked(tmp_path, by):
    config = CONFIG.model_copy(update={"select": by, "epochs": 4})
    material = make_material(tmp_path, config=config)
    adapted = RECIPE.adapt(material)
    scores = adapted.notes["score_by_epoch"]
    assert len(scores) == 4
    assert adapted.notes["selected_epoch"] == int(np.argmax(scores))
    assert material.val is not None
    assert adapted.head is not None
    images = open_task_images(material.val, adapted.encoder, cache=tmp_path / "cache")
    found = adapted.head.predict(embed_task_images(adapted.encoder, images))
    score = score_epoch(found == material.val.labels, material.val.group_ids(), by=by)
    assert score == max(scores)


def test_a_killed_run_with_a_choice_resumes_to_the_same_epoch(tmp_path):
    config = CONFIG.model_copy(update={"select": "worst-group"})
    whole = RECIPE.adapt(make_material(tmp_path, name="whole", config=config))
    with pytest.raises(Killed):
        RECIPE.adapt(make_material(tmp_path, config=config, report=kill_at("fine-tuning", 10)))
    assert len(read_scores(tmp_path / "run" / "best")) == 2
    assert bits(RECIPE.adapt(make_material(tmp_path, config=config))) == bits(whole)


def test_a_damaged_best_epoch_is_refused(tmp_path):
    config = CONFIG.model_copy(update={"select": "worst-group"})
    with pytest.raises(Killed):
        RECIPE.adapt(make_material(tmp_path, config=config, report=kill_at("fine-tuning", 10)))
    path = tmp_path / "run" / "best" / "best.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"best\.safetensors: is damaged .*trains again"):
        restore_best(path.parent, nn.Linear(1, 1), nn.Linear(1, 1))
    (path.parent / "scores.json").write_text('{"scores": [0.5, 0.75]}')
    with pytest.raises(InputError, match=r"scores\.json: is no sealed JSON object"):
        read_scores(path.parent)


def test_worst_group_ignores_unknown_groups():
    right, groups = np.array([False, True, True]), np.array([-1, 0, 1])
    assert score_epoch(right, groups, by="worst-group") == 1.0
    assert score_epoch(right, groups, by="average") == pytest.approx(2 / 3)


def test_a_choice_without_its_data_is_refused(tmp_path):
    config = CONFIG.model_copy(update={"select": "worst-group"})
    with pytest.raises(NotApplicableError, match="needs validation images"):
        RECIPE.adapt(make_material(tmp_path, config=config, val=None))
    material = make_material(tmp_path, config=config)
    assert material.val is not None
    nameless = replace(material.val, attributes=np.full(8, -1))
    with pytest.raises(NotApplicableError, match="with groups"):
        RECIPE.adapt(replace(material, val=nameless))


def test_without_images_it_does_not_apply(tmp_path):
    with pytest.raises(NotApplicableError, match="needs labelled training images"):
        RECIPE.adapt(make_material(tmp_path, train=None))


def test_held_out_rows_are_a_fifth_and_untouched(tmp_path):
    config = HeldOutConfig(**{**SETTINGS, "epochs": 2})
    material = make_material(tmp_path, config=config)
    adapted = HELD_OUT_RECIPE.adapt(material)
    kept, out = split_holdout(24, share=0.2, seed=0)
    assert adapted.holdout is not None
    assert adapted.holdout.tolist() == out.tolist()
    assert len(out) == 5
    assert sorted([*kept.tolist(), *out.tolist()]) == list(range(24))
    # Nineteen images in batches of five, twice.
    assert adapted.notes["steps"] == 8
    other = split_holdout(24, share=0.2, seed=1)[1]
    assert other.tolist() != out.tolist()


def test_it_starts_from_any_encoder(tmp_path):
    start = FakeEncoder(background=0.1)
    material = make_material(tmp_path)
    assert material.train is not None
    config = CONFIG.model_copy(update={"learning_rate": 1e-12, "minimum_learning_rate": 0.0})
    adapted = fine_tune(
        start,
        material.train,
        config=config,
        seed=0,
        folder=tmp_path / "after",
        cache=tmp_path / "cache",
    )
    weight = adapted.encoder.image_tower.state_dict()["mix.weight"]
    torch.testing.assert_close(weight, start.image_tower.state_dict()["mix.weight"])


def test_presets():
    assert find_preset("paper") == FineTuningConfig()
    small = find_preset("small")
    assert (small.batch_size, small.epochs, small.learning_rate) == (32, 40, 1e-6)
    assert small.head_learning_rate == 1e-4
    with pytest.raises(UnknownNameError, match="known: paper, quick, small"):
        find_preset("huge")
