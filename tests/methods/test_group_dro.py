"""Group DRO: q by hand and against a loop, training against plain torch, and what it refuses."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from fieldmark.core.errors import NotApplicableError, UsageError
from fieldmark.core.seeds import generator
from fieldmark.methods.group_dro import (
    HEAD,
    GroupDroProbe,
    average_by_group,
    update_group_weights,
)
from fieldmark.methods.head import Features, HeadData
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
    return train, plant_features((30,) * 4, split="val", dim=8)


def test_q_by_hand():
    """0.2, 0.3, 0.5 times 2, 3, 1 (steps of log) is 0.4, 0.9, 0.5 of 1.8."""
    q = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    losses = torch.tensor([math.log(2), math.log(3), 0.0], dtype=torch.float64)
    everyone = torch.ones(3, dtype=torch.bool)
    after = update_group_weights(q, losses, step=1.0, present=everyone)
    assert after.tolist() == pytest.approx([0.4 / 1.8, 0.9 / 1.8, 0.5 / 1.8])
    half = update_group_weights(q, 2 * losses, step=0.5, present=everyone)
    assert half.tolist() == pytest.approx(after.tolist())


def test_absent_group_changes_by_the_normalisation_alone():
    q = torch.tensor([0.25, 0.25, 0.5], dtype=torch.float64)
    losses = torch.tensor([math.log(3), math.nan, math.log(5)], dtype=torch.float64)
    present = torch.tensor([True, False, False])
    after = update_group_weights(q, losses, step=1.0, present=present)
    assert after.tolist() == pytest.approx([0.75 / 1.5, 0.25 / 1.5, 0.5 / 1.5])


def test_huge_losses_do_not_overflow():
    q = torch.tensor([0.5, 0.5])
    after = update_group_weights(
        q, torch.tensor([1e6, 1e6]), step=1.0, present=torch.tensor([True, True])
    )
    assert after.tolist() == [0.5, 0.5]


@given(
    losses=st.lists(st.floats(0, 20), min_size=2, max_size=6),
    step=st.floats(0, 2),
    data=st.data(),
)
def test_q_is_the_papers_formula(losses, step, data):
    size = {"min_size": len(losses), "max_size": len(losses)}
    raw = data.draw(st.lists(st.floats(0.01, 1), **size))
    q = np.array(raw) / sum(raw)
    present = np.array(data.draw(st.lists(st.booleans(), **size)))
    expected = np.array(
        [
            w * math.exp(step * loss) if here else w
            for w, loss, here in zip(q, losses, present, strict=True)
        ]
    )
    after = update_group_weights(
        torch.from_numpy(q),
        torch.tensor(losses, dtype=torch.float64),
        step=step,
        present=torch.from_numpy(present),
    )
    assert after.numpy() == pytest.approx(expected / expected.sum(), abs=1e-12)


def test_group_means():
    means = average_by_group(
        torch.tensor([1.0, 2.0, 6.0]), torch.tensor([2, 0, 2]), count=3
    ).tolist()
    assert means[0] == 2
    assert math.isnan(means[1])
    assert means[2] == 3.5


def test_training_is_plain_torch(parts):
    """Algorithm 1 written out for the same batches, with one loop over groups."""
    train, _ = parts
    X, y, n = torch.tensor(train.embeddings), torch.tensor(train.labels), len(train)
    sizes = np.bincount(train.groups)
    layer = nn.Linear(8, 2)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    optimiser = torch.optim.AdamW(layer.parameters(), lr=0.01, weight_decay=0.01)
    q, random = np.full(4, 0.25), generator(5, "group-dro")
    for _ in range(4):
        drawn = random.choice(n, n, p=1 / (4 * sizes[train.groups]))
        for rows in np.split(drawn, range(16, n, 16)):
            losses = nn.CrossEntropyLoss(reduction="none")(layer(X[rows]), y[rows])
            means = {
                g: losses[train.groups[rows] == g].mean() for g in set(train.groups[rows].tolist())
            }
            for g, mean in means.items():
                q[g] *= math.exp(0.5 * (mean.item() + 2 / math.sqrt(sizes[g])))
            q /= q.sum()
            optimiser.zero_grad()
            sum(q[g] * mean for g, mean in means.items()).backward()
            optimiser.step()
    probe = GroupDroProbe(
        epochs=4, learning_rate=0.01, batch_size=16, step=0.5, adjustment=2.0, random_state=5
    ).fit(train.embeddings, train.labels, groups=train.groups)
    assert list(probe.group_weights_.values()) == pytest.approx(q.tolist(), abs=1e-5)
    assert probe.coef_ == pytest.approx(layer.weight.detach().numpy(), abs=1e-5)
    assert probe.intercept_ == pytest.approx(layer.bias.detach().numpy(), abs=1e-5)
    assert probe.epoch_ == 4


def test_hard_group_gains_weight():
    X = np.array([[1.0, 0], [1, 0], [-1, 0], [1, 0.1]] * 20)
    groups = np.array([0, 0, 1, 7] * 20)
    y = np.array([0, 0, 1, 1] * 20)
    probe = GroupDroProbe(step=0.5, learning_rate=0.01).fit(X, y, groups=groups)
    assert set(probe.group_weights_) == {0, 1, 7}
    assert probe.group_weights_[7] > probe.group_weights_[1]


def test_first_best_epoch_on_validation_data_is_kept(parts):
    train, val = parts
    settings: dict[str, Any] = {"learning_rate": 0.02, "random_state": 1}
    probe = GroupDroProbe(epochs=6, **settings)
    probe.fit(train.embeddings, train.labels, groups=train.groups, val=val)
    assert len(probe.val_worst_) == 6
    assert probe.epoch_ == 1 + int(np.argmax(probe.val_worst_))
    stopped = GroupDroProbe(epochs=probe.epoch_, **settings)
    stopped.fit(train.embeddings, train.labels, groups=train.groups)
    assert (stopped.coef_ == probe.coef_).all()
    right = probe.predict(val.embeddings) == val.labels
    worst = min(right[val.groups == g].mean() for g in range(4))
    assert probe.describe()["selected"] == {"epoch": probe.epoch_, "val_acc_wg": worst}


def test_global_random_state_is_left_alone(parts):
    train, _ = parts
    before = torch.get_rng_state()
    fits = [
        GroupDroProbe(epochs=1, random_state=seed)
        .fit(train.embeddings, train.labels, groups=train.groups)
        .coef_
        for seed in (0, 0, 1)
    ]
    assert (torch.get_rng_state() == before).all()
    assert (fits[0] == fits[1]).all()
    assert (fits[0] != fits[2]).any()


def test_head_is_refused_without_a_group(parts):
    train, val = parts
    pure = train.take(np.flatnonzero((train.groups == 0) | (train.groups == 3)))
    with pytest.raises(NotApplicableError, match="every group in training, and split train has no"):
        HEAD.make(HeadData(train=pure, val=val))
    with pytest.raises(NotApplicableError, match="split val has no image of: landbird on water"):
        HEAD.make(HeadData(train=train, val=val.take(np.flatnonzero(val.groups != 1))))
    assert HEAD.needs == {"train", "val"}


def test_bad_input_is_refused(parts):
    train, _ = parts
    with pytest.raises(UsageError, match="must be above 0"):
        GroupDroProbe(epochs=0).fit(train.embeddings, train.labels, groups=train.groups)
    with pytest.raises(UsageError, match="must not be negative"):
        GroupDroProbe(step=-1).fit(train.embeddings, train.labels, groups=train.groups)
    unknown = Features(embeddings=train.embeddings, labels=train.labels, groups=train.groups - 1)
    with pytest.raises(NotApplicableError, match="group of 90 of 200 images is not known"):
        GroupDroProbe().fit(unknown.embeddings, unknown.labels, groups=unknown.groups)
