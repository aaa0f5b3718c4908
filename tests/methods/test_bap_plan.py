"""Plans of composites and the learning rate."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.core.errors import UsageError
from fieldmark.methods.bap.plan import (
    draw_anchor_contexts,
    draw_epoch,
    sample_objects,
)
from fieldmark.methods.training_config import compute_learning_rate

labels_of = st.lists(st.integers(0, 3), min_size=1, max_size=40).map(np.array)
SHAPE: dict[str, Any] = {"contexts": 4, "n_backgrounds": 7, "n_scales": 3, "seed": 1}


@settings(deadline=None, max_examples=30)
@given(labels=labels_of, count=st.integers(1, 50))
def test_sampled_objects_are_distinct_and_balanced(labels, count):
    chosen = sample_objects(labels, count, seed=0)
    assert len(set(chosen.tolist())) == len(chosen) == min(count, len(labels))
    available = np.bincount(labels)
    taken = np.bincount(labels[chosen], minlength=len(available))
    # A class falls behind another by more than one only when it has no objects left.
    for a in range(len(available)):
        for b in range(len(available)):
            assert taken[a] >= taken[b] - 1 or taken[a] == available[a]


def test_unbalanced_sample_follows_the_pool():
    labels = np.array([0] * 900 + [1] * 100)
    share = np.mean(labels[sample_objects(labels, 500, seed=0, balanced=False)])
    assert 0.05 < share < 0.15


@settings(deadline=None, max_examples=30)
@given(labels=labels_of, contexts=st.integers(1, 6), epoch=st.integers(0, 3))
def test_an_epoch_shows_classes_equally_often(labels, contexts, epoch):
    plan = draw_epoch(labels, contexts=contexts, n_backgrounds=9, n_scales=2, seed=3, epoch=epoch)
    assert len(plan) == len(labels) * contexts
    shown = np.bincount(labels[plan.objects])[np.unique(labels)]
    assert shown.max() - shown.min() <= 1
    for label in np.unique(labels):
        each = np.bincount(plan.objects, minlength=len(labels))[labels == label]
        assert each.max() - each.min() <= 1
    assert plan.backgrounds.max() < 9
    assert plan.scales.max() < 2


def test_unbalanced_epoch_shows_objects_equally_often():
    plan = draw_epoch(np.array([0, 0, 0, 1]), epoch=0, balanced=False, **SHAPE)
    assert np.bincount(plan.objects).tolist() == [4, 4, 4, 4]


def test_plans_repeat_and_epochs_differ():
    labels = np.array([0, 1, 0, 1])
    first, again, next_ = (draw_epoch(labels, epoch=e, **SHAPE) for e in (0, 0, 1))
    assert (first.backgrounds == again.backgrounds).all()
    assert (first.backgrounds != next_.backgrounds).any()


def test_fixed_contexts_change_their_order_alone():
    labels = np.array([0, 1, 0, 1])
    plans = [draw_epoch(labels, epoch=e, redraw=False, **SHAPE) for e in (0, 5)]
    rows = [sorted(zip(p.objects, p.backgrounds, p.scales, strict=True)) for p in plans]
    assert rows[0] == rows[1]
    assert (plans[0].objects != plans[1].objects).any()


@pytest.mark.parametrize("n_backgrounds", [4, 12, 1000])
def test_anchor_contexts_are_distinct_where_possible(n_backgrounds):
    plan = draw_anchor_contexts(
        5, contexts=10, n_backgrounds=n_backgrounds, n_scales=2, seed=0, part=0
    )
    for row in plan.backgrounds.reshape(5, 10):
        assert len(set(row.tolist())) == min(10, n_backgrounds)
    other = draw_anchor_contexts(
        5, contexts=10, n_backgrounds=n_backgrounds, n_scales=2, seed=0, part=1
    )
    assert (plan.backgrounds != other.backgrounds).any()


def test_learning_rate_against_the_closed_form():
    rates = [
        compute_learning_rate(s, total=100, peak=2.0, minimum=0.5, warmup=0.1) for s in range(100)
    ]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == 2.0
    assert rates[55] == pytest.approx(0.5 + 1.5 * 0.5)  # half way down the cosine
    assert rates[99] == pytest.approx(0.5 + 0.75 * (1 + math.cos(math.pi * 89 / 90)))
    in_steps = compute_learning_rate(9, total=100, peak=2.0, minimum=0.5, warmup=10)
    assert in_steps == rates[9]


def test_a_minimum_above_the_peak_is_refused():
    with pytest.raises(UsageError, match="minimum_learning_rate"):
        compute_learning_rate(0, total=1, peak=1.0, minimum=2.0, warmup=0)
