"""DFR: its protocol written out with scikit-learn, both readings, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from fieldmark.core.errors import NotApplicableError, UsageError
from fieldmark.core.seeds import derive_seed, generator
from fieldmark.methods.dfr import (
    _L1,
    HEAD,
    DeepFeatureReweighting,
    check_groups,
    draw_balanced,
    split_groups,
)
from fieldmark.methods.head import HeadData
from tests.methods.planted import NAMES, plant_features

SMALL = (60, 40, 40, 60)


def _fit(val, train, **settings):
    return DeepFeatureReweighting(**settings).fit(
        val.embeddings, val.labels, groups=val.groups, X_train=train.embeddings
    )


@pytest.fixture(scope="module")
def parts():
    train = plant_features((90, 10, 10, 90), split="train", dim=8)
    return plant_features(SMALL, split="val", dim=8), train


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_balanced_draw_has_the_smallest_group_of_each(groups):
    groups = np.array(groups)
    rows = draw_balanced(groups, random=np.random.default_rng(0))
    _, sizes = np.unique(groups, return_counts=True)
    assert len(set(rows.tolist())) == len(rows) == sizes.min() * len(sizes)
    assert (np.unique(groups[rows], return_counts=True)[1] == sizes.min()).all()


@given(st.lists(st.integers(0, 2), max_size=40))
def test_halves_part_the_rows_and_keep_each_group(more):
    groups = np.array([0, 0, 1, 1, 2, 2, *more])
    first, second = split_groups(groups, random=np.random.default_rng(1))
    assert sorted([*first, *second]) == list(range(len(groups)))
    for group in range(3):
        ahead = (groups[second] == group).sum() - (groups[first] == group).sum()
        assert ahead in (0, 1)


@pytest.mark.parametrize("retrain_on", ["full", "rest"])
def test_is_the_protocol_written_out(parts, retrain_on):
    """The loop of the paper in plain scikit-learn, on the same draws and solver seeds."""
    val, train = parts
    X = val.embeddings.astype(np.float64)
    seed = 3

    def solve(rows, scaler, penalty, name):
        solver_seed = derive_seed(seed, "dfr", "solver", name) % 2**31
        solver = LogisticRegression(
            C=penalty, solver="liblinear", max_iter=1000, random_state=solver_seed, **_L1
        )
        return solver.fit(scaler.transform(X[rows]), val.labels[rows])

    scored, rest = split_groups(val.groups, random=generator(seed, "dfr", "halves"))
    rows = rest[draw_balanced(val.groups[rest], random=generator(seed, "dfr", "tune"))]
    scaler = StandardScaler().fit(X[rows])
    penalties, worst = (1.0, 0.3, 0.1, 0.01), []
    for penalty in penalties:
        right = solve(rows, scaler, penalty, "tune").predict(scaler.transform(X[scored]))
        right = right == val.labels[scored]
        worst.append(min(right[val.groups[scored] == g].mean() for g in range(4)))
    best = penalties[int(np.argmax(worst))]
    pool = rest if retrain_on == "rest" else np.arange(len(X))
    scaler = StandardScaler().fit(train.embeddings.astype(np.float64))
    heads = []
    for k in range(4):
        rows = draw_balanced(val.groups[pool], random=generator(seed, "dfr", "draw", k))
        heads.append(solve(pool[rows], scaler, best, k))
    coef = np.mean([head.coef_[0] for head in heads], axis=0)
    intercept = np.mean([head.intercept_[0] for head in heads])
    ours = _fit(
        val, train, penalties=penalties, n_retrains=4, retrain_on=retrain_on, random_state=seed
    )
    assert best == ours.C_
    assert ours.tuning_ == pytest.approx(dict(zip(penalties, worst, strict=True)))
    theirs = scaler.transform(X) @ coef + intercept
    assert ours.decision_function(X) == pytest.approx(theirs, abs=1e-8)


def test_first_of_equal_penalties_wins(parts):
    val, train = parts
    head = _fit(val, train, penalties=(1e-6, 1e-7, 1e-5))
    assert len(set(head.tuning_.values())) == 1
    assert head.C_ == 1e-6


def test_search_ends_where_nothing_can_be_better():
    val = plant_features(SMALL, split="val", dim=4, core=30, spurious=0)
    head = _fit(val, val, penalties=(1.0, 0.5, 0.1))
    assert head.tuning_ == {1.0: 1.0}


@pytest.mark.parametrize("scale_on", ["val", "none"])
def test_scaling_without_training_data(parts, scale_on):
    val, _ = parts
    head = DeepFeatureReweighting(scale_on=scale_on, penalties=(1.0,), n_retrains=2)
    head.fit(val.embeddings, val.labels, groups=val.groups)
    assert head.score(val.embeddings, val.labels) > 0.8


def test_none_scales_nothing(parts):
    """With one draw of everything the head is plain L1 logistic regression."""
    val = plant_features((30,) * 4, split="val", dim=8)
    head = DeepFeatureReweighting(scale_on="none", penalties=(2.0,), n_retrains=1)
    head.fit(val.embeddings, val.labels, groups=val.groups)
    plain = LogisticRegression(C=2.0, solver="liblinear", tol=1e-6, random_state=0, **_L1)
    plain.fit(val.embeddings.astype(np.float64), val.labels)
    assert head.decision_function(val.embeddings) == pytest.approx(
        plain.decision_function(val.embeddings), abs=0.05
    )


def test_three_classes_have_a_score_each():
    random = np.random.default_rng(0)
    y, place = np.repeat([2, 5, 9], 40), np.tile([0, 1], 60)
    X = np.eye(4)[np.searchsorted([2, 5, 9], y)] + 0.2 * random.normal(size=(120, 4))
    head = DeepFeatureReweighting(scale_on="val", n_retrains=2).fit(X, y, groups=2 * y + place)
    assert head.coef_.shape == (3, 4)
    assert head.score(X, y) > 0.95


def test_seed_decides(parts):
    val, train = parts
    first, again, other = (_fit(val, train, n_retrains=2, random_state=s).coef_ for s in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


def test_record_and_clone(parts):
    val, train = parts
    head = _fit(val, train, penalties=(0.7,), n_retrains=1)
    record = head.describe()
    assert record["head"] == "dfr"
    assert record["selected"] == {"C": 0.7, "val_acc_wg": head.tuning_[0.7]}
    assert clone(head).get_params() == head.get_params()


def test_head_is_refused_without_a_group(parts):
    _, train = parts
    val = plant_features((50, 1, 0, 50), split="val", dim=8)
    with pytest.raises(NotApplicableError, match="split val has fewer than 2 images of: landbird"):
        HEAD.make(HeadData(train=train, val=val))
    assert HEAD.needs == {"train", "val"}
    assert val.names == NAMES


def test_bad_input_is_refused(parts):
    val, train = parts
    with pytest.raises(UsageError, match="retrain_on must be"):
        _fit(val, train, retrain_on="half")
    with pytest.raises(UsageError, match="scale_on must be"):
        _fit(val, train, scale_on="test")
    with pytest.raises(UsageError, match="above 0"):
        _fit(val, train, penalties=())
    with pytest.raises(UsageError, match="needs X_train"):
        DeepFeatureReweighting().fit(val.embeddings, val.labels, groups=val.groups)
    with pytest.raises(ValueError, match="NaN"):
        DeepFeatureReweighting().fit(
            val.embeddings, val.labels, groups=val.groups, X_train=np.full((3, 8), np.nan)
        )
    with pytest.raises(ValueError, match="5 features"):
        DeepFeatureReweighting().fit(
            val.embeddings, val.labels, groups=val.groups, X_train=np.ones((3, 5))
        )
    with pytest.raises(NotApplicableError, match="group of 1 of 3 images is not known"):
        check_groups([0, -1, 2], count=3)
    with pytest.raises(ValueError, match="expected \\(4,\\)"):
        check_groups([0, 1], count=4)
    with pytest.raises(NotApplicableError, match="group 1 has 1 validation image"):
        split_groups([0, 0, 1], random=np.random.default_rng(0))
