"""PruSC: its loss by hand, gradients that reach the gates, weights that stay zero."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from fieldmark.core.errors import NotApplicableError, UsageError
from fieldmark.methods import prusc
from fieldmark.methods.masked_layers import (
    MaskedTower,
    draw_mask,
    find_maskable,
    measure_sparsity,
    prune,
)
from fieldmark.methods.prusc import (
    PruscConfig,
    cluster_embeddings,
    compute_cluster_contrast,
    sample_task_rows,
)
from fieldmark.methods.recipe import Adapted
from fieldmark.testing import FakeEncoder
from tests.methods.task_material import (
    SETTINGS,
    Killed,
    kill_at,
    make_material,
    run_after_base,
)

CONFIG = PruscConfig(
    **SETTINGS,
    clusters=3,
    task_ratio=0.5,
    mask_epochs=6,
    mask_batch_size=6,
    mask_learning_rate=0.3,
    sparsity=0.05,
)


def contrast_by_loops(z, labels, clusters, temperature) -> list[float]:
    """The loss as its docstring has it, image by image."""
    found = []
    for i in range(len(z)):
        s = [float(z[i] @ z[j]) / temperature for j in range(len(z))]
        same = [labels[i] == labels[j] for j in range(len(z))]
        near = [clusters[i] == clusters[j] for j in range(len(z))]
        positive = [j for j in range(len(z)) if same[j] and not near[j]]
        negative = [j for j in range(len(z)) if near[j] and not same[j]]
        total = sum(np.exp(s[j]) for j in [*positive, *negative])
        terms = [-np.log(np.exp(s[j]) / total) for j in positive]
        found.append(float(np.mean(terms)) if terms else 0.0)
    return found


@settings(deadline=None, max_examples=30)
@given(
    pairs=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=9),
    temperature=st.sampled_from([0.2, 1.0]),
)
def test_the_contrast_is_that_of_loops(pairs, temperature):
    z = functional.normalize(
        torch.randn(len(pairs), 4, generator=torch.Generator().manual_seed(0)).double(), dim=-1
    ).requires_grad_()
    labels, clusters = torch.tensor(pairs).unbind(1)
    losses = compute_cluster_contrast(z, labels, clusters, temperature=temperature)
    expected = contrast_by_loops(
        z.detach().numpy(), labels.tolist(), clusters.tolist(), temperature
    )
    np.testing.assert_allclose(losses.detach().numpy(), expected, atol=1e-9)
    losses.sum().backward()
    assert z.grad is not None
    assert torch.isfinite(z.grad).all()


def test_the_contrast_falls_as_classes_meet_across_clusters():
    labels, clusters = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    by_cluster, by_class = torch.eye(2)[clusters], torch.eye(2)[labels]
    spoilt, mended = (
        compute_cluster_contrast(z, labels, clusters, temperature=0.5).mean()
        for z in (by_cluster, by_class)
    )
    assert mended < spoilt


def test_the_contrast_alone_moves_every_gate():
    torch.manual_seed(0)
    tower = MaskedTower(
        nn.Sequential(nn.Conv2d(3, 4, 2), nn.GELU(), nn.Flatten(), nn.Linear(36, 5)),
        start=1.5,
        temperature=1.0,
    )
    z = functional.normalize(tower(torch.randn(8, 3, 4, 4)), dim=-1)
    labels, clusters = torch.tensor([0, 1] * 4), torch.tensor([0, 0, 1, 1] * 2)
    compute_cluster_contrast(z, labels, clusters, temperature=0.5).mean().backward()
    for gate in tower.gates:
        assert gate.grad is not None
        assert (gate.grad != 0).float().mean() > 0.9
    assert all(p.grad is None for p in tower.tower.parameters())


def test_a_mask_is_hard_and_kept_with_the_gates_probability():
    gate = torch.full((20000,), 1.5)
    mask = draw_mask(
        gate, torch.rand(20000, generator=torch.Generator().manual_seed(0)), temperature=0.7
    )
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert float(mask.mean()) == pytest.approx(float(torch.sigmoid(torch.tensor(1.5))), abs=0.01)


def test_the_masked_gradient_is_that_of_the_soft_mask():
    gate = torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)
    noise = torch.tensor([0.2, 0.7], dtype=torch.float64)
    draw_mask(gate, noise, temperature=0.5).sum().backward()
    soft = torch.sigmoid((gate.detach() + torch.log(noise / (1 - noise))) / 0.5)
    torch.testing.assert_close(gate.grad, soft * (1 - soft) / 0.5)


def test_weights_inside_attention_are_masked_too():
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    names = find_maskable(layer)
    assert names == (
        "self_attn.in_proj_weight",
        "self_attn.out_proj.weight",
        "linear1.weight",
        "linear2.weight",
    )
    assert find_maskable(nn.MultiheadAttention(4, 1, kdim=3)) == (
        "q_proj_weight",
        "k_proj_weight",
        "v_proj_weight",
        "out_proj.weight",
    )


def test_open_gates_are_the_dense_tower():
    tower = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    image = torch.randn(2, 3, 2, 2)
    expected = tower(image).detach()
    masked = MaskedTower(tower, start=100.0, temperature=1.0)
    torch.testing.assert_close(masked(image), expected)
    assert float(masked.count_kept().detach()) == pytest.approx(36)
    assert measure_sparsity(masked.binarise()) == 0.0


def test_a_tower_without_layers_is_refused():
    with pytest.raises(NotApplicableError, match="no linear or convolution layer"):
        find_maskable(nn.BatchNorm2d(3))


def test_pruned_weights_stay_zero_under_adamw():
    torch.manual_seed(0)
    layer = nn.Linear(6, 4)
    mask = torch.rand(4, 6) > 0.5
    prune(layer, {"weight": mask})
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        layer(torch.randn(3, 6)).square().sum().backward()
        optimizer.step()
    assert (layer.weight[~mask] == 0).all()
    assert (layer.weight[mask] != 0).all()


@given(
    cells=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 3)), min_size=8, max_size=60),
    ratio=st.floats(0.1, 1.0),
)
def test_the_task_set_is_even_over_classes_and_clusters(cells, ratio):
    codes, clusters = np.array([*cells, (0, 0), (1, 0)]).T
    rows = sample_task_rows(codes, clusters, ratio=ratio, seed=0)
    assert len(set(rows.tolist())) == len(rows)
    share = max(round(ratio * len(codes) / 2), 2)
    for code in (0, 1):
        chosen = rows[codes[rows] == code]
        assert len(chosen) == min(share, int((codes == code).sum()))
        taken = np.bincount(clusters[chosen], minlength=4)
        there = np.bincount(clusters[codes == code], minlength=4)
        # A cluster gives less than another only if it has no more to give.
        for k in range(4):
            assert taken[k] == there[k] or taken[k] >= taken.max() - 1


def test_clusters_find_groups_of_vectors():
    rng = np.random.default_rng(0)
    centres = np.eye(3, dtype=np.float32)
    truth = rng.integers(3, size=60)
    values = centres[truth] + rng.normal(scale=0.05, size=(60, 3)).astype(np.float32)
    found = cluster_embeddings(values, clusters=3, seed=0)
    assert len({(t, f) for t, f in zip(truth, found, strict=True)}) == 3
    assert cluster_embeddings(values, clusters=3, seed=0).tolist() == found.tolist()


def test_pruned_weights_are_exactly_zero_in_the_saved_tower(tmp_path):
    adapted = run_after_base(prusc.RECIPE, tmp_path, config=CONFIG)
    sparsity = adapted.notes["sparsity"]
    assert 0 < sparsity < 1
    weight = adapted.encoder.image_tower.state_dict()["mix.weight"]
    # Weights that were zero in the dense tower are none: fine-tuning has moved them all.
    assert float((weight == 0).float().mean()) == pytest.approx(sparsity)
    adapted.encoder.save(tmp_path / "saved")
    saved = FakeEncoder.load(tmp_path / "saved")
    assert torch.equal(saved.image_tower.state_dict()["mix.weight"], weight)
    assert sum(adapted.notes["cluster_sizes"]) == 24
    assert adapted.notes["task_images"] == 12
    assert len(adapted.notes["mask_loss_by_epoch"]) == 6


@pytest.mark.parametrize(("phase", "step"), [("masks", 5), ("subnetwork", 4)])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, phase, step):
    whole = run_after_base(prusc.RECIPE, tmp_path, config=CONFIG, name="whole")
    with pytest.raises(Killed):
        run_after_base(prusc.RECIPE, tmp_path, config=CONFIG, report=kill_at(phase, step))
    resumed = run_after_base(prusc.RECIPE, tmp_path, config=CONFIG)
    assert resumed.encoder.spec.fingerprint == whole.encoder.spec.fingerprint
    assert resumed.notes == whole.notes


def test_the_last_stage_may_see_all_images(tmp_path):
    config = CONFIG.model_copy(update={"tune_on": "train", "mask_epochs": 1, "epochs": 1})
    adapted = run_after_base(prusc.RECIPE, tmp_path, config=config)
    # Twenty-four images in batches of five.
    assert adapted.notes["steps"] == 5


def test_a_base_without_a_head_is_refused(tmp_path):
    material = make_material(tmp_path, config=CONFIG)
    base = {"lp-ft": Adapted(encoder=material.encoder)}
    with pytest.raises(UsageError, match="lp-ft has no linear head"):
        prusc.RECIPE.adapt(replace(material, base=base))
