"""The losses of mitigation against plain loops in float64, tables worked by hand, and extremes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from fieldmark.data.pixels import PixelArray
from fieldmark.methods.mitigation.config import MitigationConfig
from fieldmark.methods.mitigation.losses import (
    compute_clip_loss,
    compute_label_loss,
    compute_maximum_similarity,
    compute_penalty,
    compute_region_loss,
    compute_siglip_loss,
    compute_zero_shot_loss,
)
from fieldmark.methods.mitigation.material import MitigationData, prepare_material
from fieldmark.methods.mitigation.objectives import (
    MITIGATIONS,
    Embedded,
    Task,
    compute_region_terms,
)
from fieldmark.testing import FakeEncoder


def loop_region_losses(batch: dict[str, Any], *, tau: float, repeat: bool) -> list[float | None]:
    """Write Eq. 3 to 9 out by hand, image by image; None for an image that takes no part."""
    regions, texts = batch["regions"], batch["prototypes"]

    def sigma(region: int, label: int) -> float:
        return math.exp(float(regions[region] @ texts[label]) / tau)

    def sigma_m(image: int, label: int) -> float:
        return max(sigma(region, label) for region in batch["plain"][image])

    images = range(len(batch["labels"]))
    labels = [label for of in batch["labels"] for label in sorted(of)]
    labels = labels if repeat else sorted(set(labels))
    penalty = sum(max((sigma(r, k) for k in labels), default=0.0) for r in batch["spurious"])
    found: list[float | None] = []
    for i in images:
        own = batch["labels"][i]
        if not own or not batch["plain"][i]:
            found.append(None)
            continue
        total = 0.0
        for y in own:
            top = sigma_m(i, y)
            below = penalty
            for k in labels:
                if k == y or k not in own:
                    below += sigma_m(i, k)
            total -= math.log(top / below)
            below = top
            for j in images:
                if batch["labels"][j] and batch["plain"][j] and y not in batch["labels"][j]:
                    below += sigma_m(j, y)
            below += sum(sigma(r, y) for r in batch["spurious"])
            total -= math.log(top / below)
        found.append(total / len(own))
    return found


def draw_batch(seed: int, *, several: bool) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    count, classes, width = int(random.integers(1, 7)), int(random.integers(1, 5)), 5
    owners = np.sort(random.integers(0, count, int(random.integers(0, 16))))
    spurious = random.random(len(owners)) < random.choice([0.0, 0.3, 1.0])
    regions = random.normal(size=(len(owners), width))
    prototypes = random.normal(size=(classes, width))
    most = min(2, classes) if several else 1
    labels = [
        set(random.choice(classes, int(random.integers(0, most + 1)), replace=False).tolist())
        for _ in range(count)
    ]
    unit = [value / np.linalg.norm(value, axis=1, keepdims=True) for value in (regions, prototypes)]
    plain = [[int(r) for r in np.flatnonzero((owners == i) & ~spurious)] for i in range(count)]
    return {
        "regions": unit[0],
        "prototypes": unit[1],
        "labels": labels,
        "plain": plain,
        "spurious": [int(r) for r in np.flatnonzero(spurious)],
        "owners": owners,
        "marks": spurious,
    }


def compute_ours(batch: dict[str, Any], config: MitigationConfig) -> tuple[Tensor, Tensor]:
    """Return the region terms (B,) of a drawn batch in float64, and its regions, with gradient."""
    count, classes = len(batch["labels"]), len(batch["prototypes"])
    labels = np.array([[k in of for k in range(classes)] for of in batch["labels"]], bool)
    material = prepare_material(
        MitigationData(
            pixels=PixelArray(torch.zeros(count, 3, 1, 1, dtype=torch.uint8)),
            captions=np.eye(5)[np.zeros(count, int)],
            labels=labels.reshape(count, classes),
            prototypes=batch["prototypes"],
            owners=batch["owners"],
            boxes=np.zeros((len(batch["owners"]), 4)),
            spurious=batch["marks"],
        )
    )
    exact = vars(material) | {"prototypes": torch.from_numpy(batch["prototypes"])}
    regions = torch.from_numpy(batch["regions"]).requires_grad_()
    embedded = Embedded(
        rows=torch.arange(count),
        images=torch.zeros(count, 5, dtype=torch.float64),
        regions=regions,
        owners=torch.from_numpy(batch["owners"]),
        spurious=torch.from_numpy(batch["marks"]),
    )
    terms = compute_region_terms(embedded, material=type(material)(**exact), config=config)
    return terms, regions


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.booleans(), st.booleans(), st.sampled_from([0.07, 1.0]))
def test_region_losses_equal_the_equations_written_as_loops(seed, several, repeat, tau):
    batch = draw_batch(seed, several=several)
    config = MitigationConfig(
        temperature=tau, reduction="sum", label_sum="images" if repeat else "distinct"
    )
    terms, regions = compute_ours(batch, config)
    wanted = [value or 0.0 for value in loop_region_losses(batch, tau=tau, repeat=repeat)]
    # The factor of the sum is B, as the loop divides by it.
    np.testing.assert_allclose(terms.detach() / len(wanted), wanted, rtol=1e-9, atol=1e-9)
    if terms.requires_grad:
        (gradient,) = torch.autograd.grad(terms.sum(), regions)
        assert torch.isfinite(gradient).all()


def test_the_mean_is_over_images_that_take_part():
    batch = draw_batch(33, several=False)
    terms, _ = compute_ours(batch, MitigationConfig())
    wanted = [v for v in loop_region_losses(batch, tau=0.07, repeat=False) if v is not None]
    assert 0 < len(wanted) < len(terms), "the draw has images of both kinds"
    assert float(terms.detach().mean()) == pytest.approx(np.mean(wanted))


def test_a_table_worked_by_hand():
    """Two images of labels 0 and 1 with exp(similarity) of whole numbers, one spurious region.

    sigma_m is [[4, 1], [2, 3]], sigma of the spurious region (5, 2), so P = 5.
    L_R: -log(4 / (4 + 1 + 5)), -log(3 / (2 + 3 + 5)).
    L_A: -log(4 / (4 + 2 + 5)), -log(3 / (3 + 1 + 2)).
    """
    maximum = torch.tensor([[4.0, 1.0], [2.0, 3.0]]).log()
    spurious = torch.tensor([[5.0, 2.0]]).log()
    labels = torch.eye(2, dtype=torch.bool)
    penalty = compute_penalty(spurious)
    assert float(penalty.exp()) == pytest.approx(5.0)
    of_labels = compute_label_loss(maximum, labels, penalty=penalty)
    of_regions = compute_region_loss(maximum, labels, similarity_SK=spurious)
    assert (-of_labels).exp().tolist() == pytest.approx([4 / 10, 3 / 10])
    assert (-of_regions).exp().tolist() == pytest.approx([4 / 11, 3 / 6])


def test_nothing_overflows_and_nothing_is_nan_at_small_temperatures():
    for tau in (0.07, 1e-3, 1e-6):
        similarity = (torch.tensor([[1.0, -1.0], [-1.0, 1.0]]) / tau).requires_grad_()
        labels = torch.eye(2, dtype=torch.bool)
        penalty = compute_penalty(similarity)
        loss = compute_label_loss(similarity, labels, penalty=penalty)
        loss = loss + compute_region_loss(similarity, labels, similarity_SK=similarity)
        (gradient,) = torch.autograd.grad(loss.sum(), similarity)
        assert torch.isfinite(loss).all()
        assert torch.isfinite(gradient).all()


def test_one_label_and_no_spurious_region_leave_nothing_to_learn():
    maximum = torch.tensor([[0.3], [0.9]], requires_grad=True)
    labels, none = torch.ones(2, 1, dtype=torch.bool), torch.zeros(0, 1)
    loss = compute_label_loss(maximum, labels, penalty=compute_penalty(none))
    loss = loss + compute_region_loss(maximum, labels, similarity_SK=none)
    (gradient,) = torch.autograd.grad(loss.sum(), maximum)
    assert loss.tolist() == [0.0, 0.0]
    assert gradient.tolist() == [[0.0], [0.0]]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_maxima_equal_a_loop(seed):
    random = np.random.default_rng(seed)
    owners = np.sort(random.integers(0, 4, int(random.integers(0, 12))))
    values = random.normal(size=(len(owners), 3))
    ours = compute_maximum_similarity(
        torch.from_numpy(values), torch.from_numpy(owners), count=5
    ).numpy()
    for image in range(5):
        own = values[owners == image]
        wanted = own.max(0) if len(own) else np.full(3, -1e9)
        np.testing.assert_array_equal(ours[image], wanted)


def unit(count: int, seed: int = 0) -> Tensor:
    chance = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(count, 6, generator=chance, dtype=torch.float64))


def test_clip_loss_equals_open_clip():
    from open_clip.loss import ClipLoss

    images, texts = unit(7), unit(7, seed=1)
    wanted = ClipLoss()(images, texts, logit_scale=torch.tensor(20.0, dtype=torch.float64))
    found = compute_clip_loss(images, texts, scale=20.0)
    assert float(found.mean()) == pytest.approx(float(wanted))


def test_siglip_loss_equals_open_clip():
    from open_clip.loss import SigLipLoss

    images, texts = unit(7), unit(7, seed=1)
    wanted = SigLipLoss()(images, texts, torch.tensor(10.0), torch.tensor(-3.0))
    found = compute_siglip_loss(images, texts, scale=10.0, bias=-3.0)
    assert float(found.mean()) == pytest.approx(float(wanted), rel=1e-6)


def test_zero_shot_loss_is_cross_entropy_over_labels():
    images, texts = unit(4), unit(3, seed=1)
    labels = torch.tensor([[1, 0, 0], [0, 0, 1], [0, 0, 0], [1, 1, 0]], dtype=torch.bool)
    found = compute_zero_shot_loss(images, texts, labels_BY=labels, temperature=0.07)
    logits = images @ texts.T / 0.07
    one = functional.cross_entropy(logits[:2], torch.tensor([0, 2]), reduction="none")
    both = functional.cross_entropy(logits[3:], torch.tensor([[0.5, 0.5, 0]]).double())
    assert found.tolist() == pytest.approx([*one.tolist(), 0.0, float(both)])


def make_task(**changes: Any) -> Task:
    data = MitigationData(
        pixels=PixelArray(torch.zeros(5, 3, 1, 1, dtype=torch.uint8)),
        captions=np.eye(6)[[0, 0, 1, 1, 2]],
        labels=[0, 0, 1, 1, -1],
        prototypes=np.eye(6)[:2],
        owners=[0, 2],
        boxes=np.zeros((2, 4)),
        spurious=[True, True],
    )
    config = MitigationConfig(**changes)
    rows = torch.arange(5)
    material = prepare_material(data)
    return Task(material=material, rows=rows, spec=FakeEncoder().spec, config=config)


def embed_whole() -> Embedded:
    none = torch.zeros(0, dtype=torch.long)
    images = unit(5).float()
    return Embedded(torch.arange(5), images, images[:0], none, none.bool())


@pytest.mark.parametrize("contrast", ["opposed", "feature"])
def test_spurious_aware_equals_its_formula_in_loops(contrast):
    task = make_task(spurious_contrast=contrast, class_weight=0.5, spurious_weight=2.0)
    batch = embed_whole()
    objective, _ = MITIGATIONS["spurious-aware"].make(task)
    cosine = (batch.images @ batch.images.T).tolist()
    clip = compute_clip_loss(batch.images, task.material.captions, scale=10.0).tolist()
    label, has = [0, 0, 1, 1, -1], [True, False, True, False, False]
    for i, found in enumerate(objective(batch, True).tolist()):
        wanted = clip[i]
        for j in range(5):
            known = label[i] >= 0 and label[j] >= 0
            same, shared = label[i] == label[j], has[i] == has[j]
            if known:
                wanted += 0.5 * (-1 if same else 1) * cosine[i][j] / 5
            if contrast == "feature":
                wanted += 2 * (-1 if shared else 1) * cosine[i][j] / 5
            elif known and same != shared:
                wanted += 2 * (-1 if same else 1) * cosine[i][j] / 5
        assert found == pytest.approx(wanted, rel=1e-5)


def test_group_dro_raises_the_weight_of_a_hard_group_and_weighs_by_it():
    task, batch = make_task(group_step=0.5, contrast_weight=0.0), embed_whole()
    objective, state = MITIGATIONS["vl-gdro"].make(task)
    assert state is not None
    groups = task.material.groups
    labels = task.material.labels
    losses = compute_zero_shot_loss(
        batch.images, task.material.prototypes, labels_BY=labels, temperature=0.07
    )
    unlabelled = int(groups[4])
    q = np.where(np.arange(5) == unlabelled, 0.0, 1 / 4)
    means = {int(g): float(losses[groups == g].mean()) for g in groups[:4]}
    for _ in range(3):
        for group, mean in means.items():
            q[group] *= math.exp(0.5 * mean)
        q /= q.sum()
        wanted = sum(q[group] * mean for group, mean in means.items())
        assert objective(batch, True).mean().item() == pytest.approx(wanted, rel=1e-5)
    np.testing.assert_allclose(state.get_buffer("values"), q, rtol=1e-5)
    # An epoch is judged by its worst group, and judging moves no weight.
    assert objective(batch, False).mean().item() == pytest.approx(max(means.values()))
    np.testing.assert_allclose(state.get_buffer("values"), q, rtol=1e-5)


def test_vl_erm_mixes_with_lambda_over_labelled_images():
    task, batch = make_task(contrast_weight=0.75), embed_whole()
    objective, _ = MITIGATIONS["vl-erm"].make(task)
    material = task.material
    clip = compute_clip_loss(batch.images, material.captions, scale=10.0).mean()
    zero_shot = compute_zero_shot_loss(
        batch.images, material.prototypes, labels_BY=material.labels, temperature=0.07
    )
    wanted = 0.75 * float(clip) + 0.25 * float(zero_shot[:4].mean())
    assert float(objective(batch, True).mean()) == pytest.approx(wanted, rel=1e-5)


def test_the_contrastive_objective_follows_encoder_and_options():
    batch = embed_whole()

    def mean(task: Task) -> float:
        return float(MITIGATIONS["standard"].make(task)[0](batch, True).mean())

    task = make_task()
    captions = task.material.captions
    assert mean(task) == pytest.approx(
        float(compute_clip_loss(batch.images, captions, scale=10.0).mean())
    )
    warm = make_task(contrast_temperature=0.5)
    assert mean(warm) == pytest.approx(
        float(compute_clip_loss(batch.images, captions, scale=2.0).mean())
    )
    biased = Task(
        material=task.material,
        rows=task.rows,
        spec=type(task.spec)(**(vars(task.spec) | {"logit_bias": -3.0})),
        config=task.config,
    )
    sigmoid = compute_siglip_loss(batch.images, captions, scale=10.0, bias=-3.0).mean()
    assert mean(biased) == pytest.approx(float(sigmoid))
    forced = make_task(objective="siglip")
    plain = compute_siglip_loss(batch.images, captions, scale=10.0, bias=0.0).mean()
    assert mean(forced) == pytest.approx(float(plain))
