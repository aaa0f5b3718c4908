"""DIAL on planted core and spurious directions, and its steps by hand."""

import json
from functools import cache
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import false_discovery_control, norm
from sklearn.neighbors import NearestNeighbors

from fieldmark.core.errors import NotApplicableError, UsageError
from fieldmark.methods.dial import HEAD, DialSettings, fit_dial, make_dial, remove_subspace
from fieldmark.methods.head import Concepts, Features, HeadData
from fieldmark.methods.linear_probe import ConvexProbe
from fieldmark.methods.spurious_latents import (
    Moments,
    compare_poles,
    discover,
    find_neighbours,
    measure_cells,
    select_candidates,
    split_scores,
)

DIM = 16
AXES = np.linalg.qr(np.random.default_rng(7).normal(size=(DIM, DIM)))[0].T
CORE, SPURIOUS, IMAGE, TEXT = AXES[:4]


def unit(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows / np.linalg.norm(rows, axis=-1, keepdims=True))


def plant(count: int, *, correlation: float, seed: int) -> tuple[Features, np.ndarray]:
    """Return features with a class, a spurious attribute, 12 nuisances and noise; the attribute."""
    random = np.random.default_rng(seed)
    label = random.integers(0, 2, count)
    attribute = np.where(random.random(count) < correlation, label, 1 - label)
    scale = 1 + 0.2 * random.normal(size=(2, count, 1))
    rows = 0.6 * IMAGE + 0.05 * random.normal(size=(count, DIM))
    rows += 0.2 * scale[0] * np.outer(2 * label - 1, CORE)
    rows += 0.2 * scale[1] * np.outer(2 * attribute - 1, SPURIOUS)
    rows += 0.08 * random.laplace(size=(count, DIM - 4)) @ AXES[4:]
    names = {0: "00", 1: "01", 2: "10", 3: "11"}
    return Features(
        embeddings=unit(rows).astype(np.float32),
        labels=label,
        groups=2 * label + attribute,
        names=names,
    ), attribute


def plant_texts() -> tuple[np.ndarray, Concepts]:
    """Return prototypes that lean on the spurious direction, and one pair of noisy texts."""
    random = np.random.default_rng(8)
    prototypes = unit(np.stack([TEXT + k * (0.3 * CORE + 0.2 * SPURIOUS) for k in (-1, 1)]))
    pair = [TEXT + 0.3 * k * SPURIOUS + 0.03 * random.normal(size=DIM) for k in (-1, 1)]
    reject = unit(np.stack([pair]))
    return prototypes.astype(np.float32), Concepts(
        reject=reject.astype(np.float32), accept=prototypes[None].astype(np.float32)
    )


def make_data(correlation: float, count: int = 6000) -> HeadData:
    prototypes, concepts = plant_texts()
    train, _ = plant(count, correlation=correlation, seed=0)
    return HeadData(train=train, prototypes=prototypes, concepts=concepts, seed=0)


@cache
def make_head(correlation: float, strength: float = 0.9):
    return make_dial(make_data(correlation), DialSettings(strength=strength))


def worst_group(predicted: np.ndarray, test: Features) -> float:
    right = predicted == test.labels
    return float(min(right[test.groups == group].mean() for group in range(4)))


def probe_accuracy(embeddings: np.ndarray, target: np.ndarray) -> float:
    half = len(target) // 2
    probe = ConvexProbe().fit(embeddings[:half], target[:half])
    return float((probe.predict(embeddings[half:]) == target[half:]).mean())


@pytest.fixture(scope="module")
def balanced():
    return plant(4000, correlation=0.5, seed=1)


def test_worst_group_rises_at_the_papers_strength(balanced):
    test, _ = balanced
    head = make_head(0.9)
    native = test.embeddings @ plant_texts()[0].T
    before, after = (
        worst_group(native.argmax(axis=1), test),
        worst_group(head.predict(test.embeddings), test),
    )
    assert before < 0.85
    assert after > 0.98
    assert (
        head.decision_function(test.embeddings).argmax(axis=1).tolist()
        == head.predict(test.embeddings).tolist()
    )


def test_whole_removal_leaves_a_probe_at_chance(balanced):
    test, attribute = balanced
    mapped = make_head(0.9, 1.0).removal.remove(test.embeddings)
    assert probe_accuracy(test.embeddings, attribute) > 0.99
    assert abs(probe_accuracy(mapped, attribute) - 0.5) <= 0.05
    core = probe_accuracy(test.embeddings, test.labels)
    assert abs(probe_accuracy(mapped, test.labels) - core) <= 0.02


def test_the_papers_strength_leaves_a_tenth_that_a_probe_still_reads(balanced):
    test, attribute = balanced
    head = make_head(0.9)
    mapped = head.removal.remove(test.embeddings)
    assert probe_accuracy(mapped, attribute) > 0.9
    # Unit length is lost by the removal and put back, so lengths differ by a sample's norm.
    rest = np.abs(mapped @ head.removal.basis[0]) / np.abs(test.embeddings @ head.removal.basis[0])
    assert (rest < 0.12).all()


def test_without_a_minority_it_says_so_and_still_helps(balanced):
    test, _ = balanced
    head = make_head(1.0)
    assert head.describe()["confounded"] == [True]
    assert make_head(0.9).describe()["confounded"] == [False]
    assert worst_group(head.predict(test.embeddings), test) > 0.95


def test_labels_and_groups_are_not_read():
    data = make_data(0.9, count=300)
    train = data.train
    assert train is not None
    blank = Features(
        embeddings=train.embeddings, labels=0 * train.labels, groups=0 * train.groups - 1
    )
    other = HeadData(train=blank, prototypes=data.prototypes, concepts=data.concepts, seed=0)
    basis = make_dial(data).removal.basis
    assert np.array_equal(basis, make_dial(other).removal.basis)


def test_seed_is_used_and_gives_one_head():
    data = make_data(0.9, count=300)
    assert data.train is not None
    assert data.concepts is not None
    assert data.prototypes is not None
    basis = [
        fit_dial(
            data.train.embeddings, prototypes=data.prototypes, reject=data.concepts.reject, seed=s
        ).basis
        for s in (0, 0, 1)
    ]
    assert np.array_equal(basis[0], basis[1])
    assert not np.array_equal(basis[0], basis[2])


def test_a_repeated_pair_adds_no_direction():
    data = make_data(0.9, count=1000)
    assert data.train is not None
    assert data.concepts is not None
    assert data.prototypes is not None
    twice = np.concatenate([data.concepts.reject, data.concepts.reject[:, ::-1]])
    removal = fit_dial(data.train.embeddings, prototypes=data.prototypes, reject=twice)
    assert removal.basis.shape == (1, DIM)
    assert removal.directions[0].vector == pytest.approx(-removal.directions[1].vector, abs=1e-6)


def test_record_holds_settings_and_findings():
    record = json.loads(json.dumps(make_head(0.9).describe()))
    assert (record["head"], record["alpha"], record["strength"]) == ("dial", 0.65, 0.9)
    assert (record["neighbours"], record["expansion"], record["rank"]) == (10, 8, 1)
    assert record["spurious_latents"][0] > 10
    assert record["candidates"][0] == pytest.approx(0.65 * 6000, abs=4)


def test_head_kind():
    assert (HEAD.name, HEAD.seeded) == ("dial", True)
    assert HEAD.needs == {"train", "prototypes", "concepts"}


@given(st.integers(2, 40), st.integers(0, 100))
@settings(deadline=None)
def test_the_split_has_the_least_variance_within(count, seed):
    values = np.random.default_rng(seed).normal(size=count).round(1)
    if len(set(values)) < 2:
        return
    above = split_scores(values)
    within = {
        cut: values[values > cut].var() * (values > cut).sum()
        + values[values <= cut].var() * (values <= cut).sum()
        for cut in sorted(set(values))[:-1]
    }
    found = values[above].var() * above.sum() + values[~above].var() * (~above).sum()
    assert found == pytest.approx(min(within.values()), abs=1e-9)
    assert values[above].min() > values[~above].max()


def test_neighbours_match_scikit_learn():
    rows = unit(np.random.default_rng(0).normal(size=(1500, 5))).astype(np.float32)
    search = NearestNeighbors(n_neighbors=4, metric="cosine").fit(rows)
    expected = search.kneighbors(return_distance=False)
    assert np.array_equal(np.sort(find_neighbours(rows, 4), axis=1), np.sort(expected, axis=1))


@given(st.lists(st.floats(-6, 6), min_size=1, max_size=40))
@settings(deadline=None)
def test_discoveries_match_scipy(z):
    adjusted = false_discovery_control(np.minimum(2 * norm.sf(np.abs(z)), 1))
    clear = np.abs(adjusted - 0.05) > 1e-9
    assert (discover(z)[clear] == (adjusted <= 0.05)[clear]).all()
    assert not discover([np.nan]).any()


def test_candidates_are_a_share_of_each_combination():
    random = np.random.default_rng(0)
    classes, poles = random.integers(0, 3, 200), random.random(200) < 0.3
    around = random.integers(0, 200, (200, 5))
    kept = select_candidates(classes, poles, neighbours=around, alpha=0.4)
    influence = [
        np.mean([poles[j] == poles[i] and classes[j] != classes[i] for j in around[i]])
        for i in range(200)
    ]
    for c, p in product(range(3), (False, True)):
        cell = np.flatnonzero((classes == c) & (poles == p))
        inside = np.isin(cell, kept)
        assert inside.sum() == np.ceil(0.4 * len(cell))
        values = np.array(influence)[cell]
        assert values[inside].min() >= values[~inside].max()


def test_gap_within_classes_by_hand():
    # Class 0: means 1 and 3 of 2 and 2 samples; class 1: 10 and 20 of 1 and 3.
    values = np.array([[0.0], [2], [2], [4], [10], [18], [20], [22]], np.float32)
    cells = np.array([0, 0, 1, 1, 2, 3, 3, 3])
    moments = measure_cells(values, cells, number=4, features=lambda block: block)
    # Weights 2*2/4 = 1 and 1*3/4 = 0.75.
    found = compare_poles(moments, least=1)
    assert found.gap == pytest.approx([(1 * 2 + 0.75 * 10) / 1.75])
    noise = (1 / 1.75) ** 2 * (1 / 2 + 1 / 2) + (0.75 / 1.75) ** 2 * (0 + (8 / 3) / 3)
    assert found.z == pytest.approx(found.gap / np.sqrt(noise))
    assert compare_poles(moments, least=2).gap == pytest.approx([2])
    pooled = compare_poles(moments, least=3)
    assert pooled.confounded
    assert pooled.gap == pytest.approx([66 / 5 - 12 / 3])


def test_constant_features_have_no_z():
    moments = Moments(count=np.ones(2), total=np.ones((2, 1)), square=np.ones((2, 1)))
    assert compare_poles(moments, least=1).z.tolist() == [0.0]


@given(st.floats(0, 1), st.integers(0, 20))
@settings(deadline=None)
def test_removal_scales_only_the_subspace(strength, seed):
    random = np.random.default_rng(seed)
    basis = np.linalg.qr(random.normal(size=(6, 2)))[0].T
    rows = unit(random.normal(size=(5, 6)))
    mapped = remove_subspace(rows, basis, strength=strength)
    assert np.linalg.norm(mapped, axis=1) == pytest.approx(np.ones(5), abs=1e-6)
    inside, outside = rows @ basis.T, rows - rows @ basis.T @ basis
    assert mapped == pytest.approx(unit((1 - strength) * inside @ basis + outside), abs=1e-6)


def test_bad_input_is_named():
    data = make_data(0.9, count=40)
    assert data.train is not None
    assert data.concepts is not None
    assert data.prototypes is not None
    X, prototypes, reject = data.train.embeddings, data.prototypes, data.concepts.reject
    with pytest.raises(NotApplicableError, match="at least 11 images, got 10"):
        fit_dial(X[:10], prototypes=prototypes, reject=reject)
    with pytest.raises(NotApplicableError, match="at least one pair"):
        fit_dial(X, prototypes=prototypes, reject=reject[:0])
    with pytest.raises(NotApplicableError, match="pairs of texts"):
        make_dial(HeadData(train=data.train, prototypes=prototypes))
    with pytest.raises(NotApplicableError, match="no poles"):
        fit_dial(np.tile(X[:1], (20, 1)), prototypes=prototypes, reject=reject)
    with pytest.raises(UsageError, match="equal embeddings"):
        fit_dial(X, prototypes=prototypes, reject=reject[:, [0, 0]])
    with pytest.raises(UsageError, match="of one D"):
        fit_dial(X[:, :5], prototypes=prototypes, reject=reject)
    with pytest.raises(UsageError, match="embeddings hold a value"):
        fit_dial(X * np.nan, prototypes=prototypes, reject=reject)
    with pytest.raises(UsageError, match="do not fit a subspace"):
        remove_subspace(X[:, :5], np.eye(DIM)[:1], strength=1.0)


@pytest.mark.parametrize("setting", [{"alpha": 0}, {"strength": 1.1}, {"neighbours": 0}])
def test_bad_settings_are_refused(setting):
    with pytest.raises(UsageError, match="alpha must be"):
        DialSettings(**setting)
