"""AFR: weights by hand, the batched descent against autograd, selection, and what it refuses."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fieldmark.core.errors import NotApplicableError, UsageError
from fieldmark.methods.afr import (
    GAMMAS,
    HEAD,
    AutomaticFeatureReweighting,
    Layers,
    Stage,
    take_step,
    weigh_examples,
)
from fieldmark.methods.head import Features, HeadData, hold_out
from fieldmark.methods.linear_probe import ConvexProbe, LinearProbe
from fieldmark.methods.zero_shot import ZeroShotClassifier
from tests.methods.planted import plant_features


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """On products this small a second thread costs more than it saves."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def parts():
    train = plant_features((90, 10, 12, 88), split="train", dim=8)
    return train, plant_features((30, 31, 32, 33), split="val", dim=8)


def test_weights_by_hand():
    """Two of class 0 count 3/2 each, one of class 1 counts 3; exp(-gamma p) is 1, 1/2, 1/4."""
    probability = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    codes = torch.tensor([0, 0, 1])
    weights = weigh_examples(probability, codes, gamma=math.log(4))
    expected = np.array([1.5, 0.75, 0.75])
    assert weights.numpy() == pytest.approx(expected / expected.sum())
    plain = weigh_examples(probability, codes, gamma=math.log(4), balanced=False)
    assert plain.tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7])


@given(probability=st.lists(st.floats(0, 1), min_size=2, max_size=20), gamma=st.floats(0, 10**4))
def test_weights_sum_to_one_and_fall_with_belief(probability, gamma):
    p = torch.tensor(probability, dtype=torch.float64)
    codes = torch.arange(len(p)) % 2
    weights = weigh_examples(p, codes, gamma=gamma, balanced=False)
    assert weights.sum().item() == pytest.approx(1)
    assert (weights[p.argsort()].diff() <= 1e-15).all()


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), max_norm=st.sampled_from([0.05, 1.0, 100.0]))
def test_batched_step_is_autograd_layer_by_layer(seed, max_norm):
    """torch's own loss, gradient, clipping and SGD on one layer after another."""
    random = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    values, codes = draw(9, 4), torch.randint(0, 3, (9,), generator=random)
    start = Layers(draw(1, 3, 4), draw(1, 3))
    layers = Layers(draw(5, 3, 4), draw(5, 3))
    weights, lambdas = draw(5, 9).abs(), draw(5).abs()
    stage = Stage(values, nn.functional.one_hot(codes, 3).double(), weights, lambdas, start)
    after = take_step(layers, stage, learning_rate=0.1, max_norm=max_norm)
    for k in range(5):
        theta = [part[k].clone().requires_grad_() for part in layers]
        losses = nn.functional.cross_entropy(
            values @ theta[0].T + theta[1], codes, reduction="none"
        )
        pull = sum((a - b[0]).square().sum() for a, b in zip(theta, start, strict=True))
        ((weights[k] * losses).sum() + lambdas[k] * pull).backward()
        nn.utils.clip_grad_norm_(theta, max_norm)
        torch.optim.SGD(theta, lr=0.1).step()
        assert after.weights[k].numpy() == pytest.approx(theta[0].detach().numpy(), abs=1e-9)
        assert after.biases[k].numpy() == pytest.approx(theta[1].detach().numpy(), abs=1e-9)


def _fit_alone(part, start, *, gamma, pull, n_steps):
    """One setting by autograd, on embeddings of root mean square 1."""
    scale = math.sqrt(np.mean(part.embeddings.astype(np.float64) ** 2))
    X, y = torch.tensor(part.embeddings / scale).double(), torch.tensor(part.labels)
    first = [torch.tensor(start.coef_ * scale), torch.tensor(start.intercept_)]
    theta = [part.clone().requires_grad_() for part in first]
    own = (X @ first[0].T + first[1]).softmax(-1)[torch.arange(len(y)), y]
    weights = torch.exp(-gamma * own) * (len(y) / torch.bincount(y))[y]
    optimiser = torch.optim.SGD(theta, lr=0.01)
    for _ in range(n_steps):
        optimiser.zero_grad()
        losses = nn.functional.cross_entropy(X @ theta[0].T + theta[1], y, reduction="none")
        distance = sum((a - b).square().sum() for a, b in zip(theta, first, strict=True))
        ((weights / weights.sum() * losses).sum() + pull * distance).backward()
        nn.utils.clip_grad_norm_(theta, 1.0)
        optimiser.step()
    return theta[0].detach().numpy() / scale, theta[1].detach().numpy()


def _worst(coef, intercept, val):
    right = (val.embeddings @ coef.T + intercept).argmax(1) == val.labels
    return min(right[val.groups == g].mean() for g in range(4))


def test_grid_is_every_setting_by_itself(parts):
    train, val = parts
    first, second = hold_out(train, share=0.5, seed=0)
    start = LinearProbe(learning_rate=0.05, epochs=5).fit(first.embeddings, first.labels)
    head = AutomaticFeatureReweighting(
        gammas=(0.0, 3.0, 8.0), lambdas=(0.0, 0.4), n_steps=30, keep_best_step=False
    ).fit(second.embeddings, second.labels, start=start, val=val)
    worst = {}
    for gamma in (0.0, 3.0, 8.0):
        for pull in (0.0, 0.4):
            alone = _fit_alone(second, start, gamma=gamma, pull=pull, n_steps=30)
            worst[gamma, pull] = _worst(alone[0], alone[1], val)
            if (gamma, pull) == (head.gamma_, head.lambda_):
                assert head.coef_ == pytest.approx(alone[0], abs=1e-4)
                assert head.intercept_ == pytest.approx(alone[1], abs=1e-4)
    assert head.tuning_.ravel().tolist() == pytest.approx(list(worst.values()))
    assert (head.gamma_, head.lambda_) == max(worst, key=lambda setting: worst[setting])


def test_best_step_is_the_first_best(parts):
    train, val = parts
    start = LinearProbe(epochs=2).fit(train.embeddings, train.labels)

    def fit(n_steps, *, best):
        head = AutomaticFeatureReweighting(gammas=(6.0,), n_steps=n_steps, keep_best_step=best)
        return head.fit(train.embeddings, train.labels, start=start, val=val)

    kept = fit(25, best=True)
    last = [fit(n, best=False).tuning_[0, 0] for n in range(1, 26)]
    assert kept.step_ == 1 + int(np.argmax(last))
    assert kept.tuning_[0, 0] == max(last)
    assert kept.coef_ == pytest.approx(fit(kept.step_, best=False).coef_)


def test_scale_of_embeddings_does_not_matter(parts):
    train, val = parts
    fits = []
    for factor in (1, 10):
        X = factor * train.embeddings
        start = LinearProbe(epochs=2).fit(train.embeddings, train.labels)
        start.coef_ = start.coef_ / factor
        more = Features(embeddings=factor * val.embeddings, labels=val.labels, groups=val.groups)
        fits.append(AutomaticFeatureReweighting().fit(X, train.labels, start=start, val=more))
    assert fits[1].coef_ * 10 == pytest.approx(fits[0].coef_, abs=1e-4)
    assert fits[1].gamma_ == fits[0].gamma_


def test_held_out_part_has_every_group():
    train = plant_features((40, 2, 3, 40), split="train", dim=4)
    first, second = hold_out(train, share=0.2, seed=0)
    assert np.bincount(second.groups).tolist() == [8, 1, 1, 8]
    assert len(first) + len(second) == 85
    again, other = (hold_out(train, share=0.2, seed=s)[1].embeddings for s in (0, 1))
    assert (again == second.embeddings).all()
    assert (other != second.embeddings).any()


def test_head_uses_what_was_held_out_and_the_trained_head(parts):
    train, val = parts
    first, second = hold_out(train, share=0.3, seed=4)
    trained = ConvexProbe().fit(first.embeddings, first.labels)
    made: Any = HEAD.make(HeadData(train=first, val=val, holdout=second, trained=trained))
    fitted = AutomaticFeatureReweighting().fit(
        second.embeddings, second.labels, start=trained, val=val
    )
    assert (made.coef_ == fitted.coef_).all()
    assert made.gamma_ in GAMMAS
    assert made.describe()["selected"] == {
        "gamma": made.gamma_,
        "lambda": 0.0,
        "step": made.step_,
        "val_acc_wg": made.tuning_.max(),
    }


def test_frozen_encoder_falls_back_to_a_fifth_of_train(parts):
    train, val = parts
    made: Any = HEAD.make(HeadData(train=train, val=val, seed=2))
    first, second = hold_out(train, share=0.2, seed=2)
    start = LinearProbe(random_state=2).fit(first.embeddings, first.labels)
    fitted = AutomaticFeatureReweighting().fit(
        second.embeddings, second.labels, start=start, val=val
    )
    assert (made.coef_ == fitted.coef_).all()


def test_head_is_refused_with_the_reason(parts):
    train, val = parts
    pure = train.take(np.flatnonzero((train.groups == 0) | (train.groups == 3)))
    trained = ConvexProbe().fit(train.embeddings, train.labels)
    with pytest.raises(NotApplicableError, match="split train has no image of: landb"):
        HEAD.make(HeadData(train=pure, val=val))
    with pytest.raises(NotApplicableError, match="split val has no image of: landbird on water"):
        HEAD.make(HeadData(train=train, val=val.take(np.flatnonzero(val.groups != 1))))
    with pytest.raises(NotApplicableError, match="none were held out; fine-tune it on 80 %"):
        HEAD.make(HeadData(train=train, val=val, trained=trained))
    other = ZeroShotClassifier(np.eye(8)[:2])
    with pytest.raises(NotApplicableError, match="starts from a linear head"):
        HEAD.make(HeadData(train=train, val=val, holdout=train, trained=other))


def test_bad_input_is_refused(parts):
    train, val = parts
    start = ConvexProbe().fit(train.embeddings, train.labels)

    def fit(val=val, start=start, **settings):
        head = AutomaticFeatureReweighting(**settings)
        return head.fit(train.embeddings, train.labels, start=start, val=val)

    with pytest.raises(UsageError, match="gammas and lambdas of 0 or more"):
        fit(gammas=(-1.0,))
    with pytest.raises(UsageError, match="must be above 0"):
        fit(n_steps=0)
    with pytest.raises(UsageError, match="feature_scale must be"):
        fit(feature_scale="unit")
    with pytest.raises(UsageError, match="other classes or another width"):
        fit(start=ConvexProbe().fit(train.embeddings[:, :3], train.labels))
    unknown = Features(embeddings=val.embeddings, labels=val.labels, groups=val.groups - 1)
    with pytest.raises(NotApplicableError, match="group of 30 of 126 images is not known"):
        fit(val=unknown)
