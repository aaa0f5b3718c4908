"""Medoids against brute force and the Voronoi iteration, the estimator against scikit-learn."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.metrics import silhouette_samples, silhouette_score
from sklearn.metrics.pairwise import cosine_distances
from sklearn.utils.estimator_checks import parametrize_with_checks

from fieldmark.core.errors import InputError
from fieldmark.discovery import medoids
from fieldmark.discovery.clustering import CosineMedoids
from fieldmark.discovery.cosine import compute_cosine_distances, find_nearest
from fieldmark.discovery.grouping import group_columns, sum_by_cluster
from fieldmark.discovery.medoids import (
    alternate,
    assign,
    compute_objective,
    find_medoids,
    initialise,
    swap,
    swap_nearby,
)
from fieldmark.discovery.silhouettes import (
    compute_clipped_silhouettes,
    compute_cosine_silhouettes,
    compute_silhouettes,
)


@parametrize_with_checks([CosineMedoids()])
def test_scikit_learn(estimator, check):
    check(estimator)


def _lump(*, rows, lumps=6, dim=16, seed=0, spread=0.6):
    random = np.random.default_rng(seed)
    centers = random.normal(size=(lumps, dim))
    lump = random.integers(lumps, size=rows)
    return centers[lump] + spread * random.normal(size=(rows, dim)), lump


@st.composite
def _distances(draw):
    """Symmetric whole numbers: sums are exact, ties and duplicates are frequent."""
    count = draw(st.integers(1, 9))
    values = draw(st.lists(st.integers(0, 6), min_size=count**2, max_size=count**2))
    upper = np.triu(np.array(values, dtype=np.float64).reshape(count, count), 1)
    return upper + upper.T


def _plain_objective(distances, chosen):
    return sum(min(distances[row, medoid] for medoid in chosen) for row in range(len(distances)))


def _list_swaps(chosen, count):
    for place, new in itertools.product(range(len(chosen)), range(count)):
        yield [*chosen[:place], new, *chosen[place + 1 :]]


def _voronoi(distances, seeds):
    """RaVL's way: scikit-learn-extra's `alternate`, from its description in the facts."""
    chosen = list(seeds)
    for _ in range(300):
        labels = [min(range(len(chosen)), key=lambda k: row[chosen[k]]) for row in distances]
        moved = list(chosen)
        for place, medoid in enumerate(chosen):
            members = [row for row, label in enumerate(labels) if label == place]
            costs = {row: sum(distances[row, other] for other in members) for row in members}
            now = sum(distances[medoid, other] for other in members)
            if costs and min(costs.values()) < now:
                moved[place] = min(costs, key=lambda row: (costs[row], row))
        if moved == chosen:
            break
        chosen = moved
    return chosen


@settings(deadline=None, max_examples=150)
@given(_distances(), st.integers(1, 9), st.integers(0, 3))
def test_local_optimum_never_above_alternate(distances, n_clusters, seed):
    n_clusters = min(n_clusters, len(distances))
    seeds = initialise(distances, n_clusters, random=np.random.default_rng(seed))
    found = find_medoids(distances, n_clusters, random=np.random.default_rng(seed))
    assert found.objective == _plain_objective(distances, found.indices)
    assert found.objective <= _plain_objective(distances, _voronoi(distances, seeds))
    assert len(set(found.indices)) == len(found.indices) == len(seeds)
    for neighbour in _list_swaps(list(found.indices), len(distances)):
        assert _plain_objective(distances, neighbour) >= found.objective


@settings(deadline=None, max_examples=60)
@given(_distances(), st.integers(1, 4))
def test_swaps_against_all_subsets(distances, n_clusters):
    """From any start at or above the least objective of all; from the optimum, no swap."""
    n_clusters = min(n_clusters, len(distances))
    subsets = list(itertools.combinations(range(len(distances)), n_clusters))
    objectives = [_plain_objective(distances, chosen) for chosen in subsets]
    optimum = int(np.argmin(objectives))
    assert swap(distances, np.array(subsets[optimum])).swaps == 0
    for chosen, before in list(zip(subsets, objectives, strict=True))[::5]:
        found = swap(distances, np.array(chosen))
        assert objectives[optimum] <= found.objective <= before
        assert (found.swaps == 0) == (found.objective == before)


@settings(deadline=None, max_examples=60)
@given(_distances(), st.integers(1, 9), st.integers(0, 3))
def test_alternate_is_the_plain_one(distances, n_clusters, seed):
    n_clusters = min(n_clusters, len(distances))
    seeds = initialise(distances, n_clusters, random=np.random.default_rng(seed))
    assert alternate(distances, seeds).tolist() == _voronoi(distances, seeds)


@pytest.mark.parametrize("n_clusters", [2, 7, 20, 150])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_swap_helps_at_size(n_clusters, dtype):
    """Every swap weighed by brute force, through the small blocks and both ways of adding up."""
    values, _ = _lump(rows=300)
    distances = cosine_distances(values).astype(dtype)
    found = find_medoids(distances, n_clusters, random=np.random.default_rng(0))
    exact = distances.astype(np.float64)
    for place in range(n_clusters):
        rest = np.delete(found.indices, place)
        changed = np.minimum(exact, exact[rest].min(axis=0)).sum(axis=1)
        assert changed.min() >= found.objective * (1 - 1e-7)


def test_nearby_swaps_lower_the_objective():
    values, _ = _lump(rows=400, spread=1.2)
    distances = compute_cosine_distances(values)
    found = find_medoids(distances, 8, random=np.random.default_rng(0))
    seeds = medoids.extend(distances, found.indices, 9, random=np.random.default_rng(0))
    objectives = [compute_objective(distances, seeds)]
    for share in (0.1, 1.0):
        nearby = swap_nearby(distances, seeds, share=share)
        assert nearby.objective == pytest.approx(compute_objective(distances, nearby.indices))
        objectives.append(nearby.objective)
    assert objectives == sorted(objectives, reverse=True)
    assert objectives[-1] <= 1.01 * swap(distances, seeds).objective


def test_updated_assignment_is_the_fresh_one():
    values, _ = _lump(rows=60, seed=3)
    distances, random = cosine_distances(values), np.random.default_rng(0)
    for n_clusters in (1, 2, 9):
        chosen = initialise(distances, n_clusters, random=random)
        assignment = assign(distances, chosen)
        for _ in range(20):
            place = int(random.integers(n_clusters))
            chosen[place] = random.choice(np.setdiff1d(np.arange(60), chosen))
            assignment = medoids._replace(distances, chosen, assignment, place=place)
            fresh = assign(distances, chosen)
            assert assignment.first_distance == pytest.approx(fresh.first_distance)
            assert assignment.second_distance == pytest.approx(fresh.second_distance)
            assert (assignment.nearest == fresh.nearest).all()


def test_screening_is_the_change_of_the_objective():
    values, _ = _lump(rows=40, seed=5)
    distances, chosen = cosine_distances(values), np.array([3, 11, 30])
    assignment = assign(distances, chosen)
    grouping = group_columns(assignment.nearest, 3, dtype=distances.dtype)
    changes = medoids._screen(distances.copy(), assignment, grouping)
    now = _plain_objective(distances, chosen)
    for candidate in range(40):
        after = [
            _plain_objective(distances, [*np.delete(chosen, place), candidate])
            for place in range(3)
        ]
        assert changes[candidate] == pytest.approx(min(after) - now)
        place, change = medoids._weigh(distances[candidate], assignment, 3)
        assert change == pytest.approx(min(after) - now)
        assert after[place] == pytest.approx(min(after))


@pytest.mark.parametrize("n_clusters", [5, 200])
def test_columns_add_up_with_empty_clusters(n_clusters):
    random = np.random.default_rng(0)
    labels, values = random.integers(1, 4, size=30), random.normal(size=(7, 30))
    sums = sum_by_cluster(values, group_columns(labels, n_clusters, dtype=values.dtype))
    assert sums.shape == (7, n_clusters)
    for cluster in range(n_clusters):
        assert sums[:, cluster] == pytest.approx(values[:, labels == cluster].sum(axis=1))


def test_seeds_are_distinct_and_spread():
    distances = cosine_distances(_lump(rows=200, lumps=5, spread=0.01)[0])
    lump = _lump(rows=200, lumps=5, spread=0.01)[1]
    for seed in range(10):
        seeds = initialise(distances, 5, random=np.random.default_rng(seed))
        assert len(set(lump[seeds])) == 5


@pytest.mark.parametrize(
    ("distances", "n_clusters", "problem"),
    [
        (np.zeros((2, 3)), 1, "shape"),
        (np.zeros((3, 3)), 0, "0 clusters of 3 rows"),
        (np.zeros((3, 3)), 4, "4 clusters of 3 rows"),
        (np.full((3, 3), np.nan), 2, "finite"),
        (-np.ones((3, 3)), 2, "not negative"),
    ],
)
def test_bad_matrix_is_refused(distances, n_clusters, problem):
    with pytest.raises(InputError, match=problem):
        find_medoids(distances, n_clusters, random=np.random.default_rng(0))


def test_distances_are_scikit_learns():
    values = np.vstack([_lump(rows=50)[0], [[0.0] * 16]])
    theirs = cosine_distances(values)
    assert compute_cosine_distances(values) == pytest.approx(theirs, abs=1e-6)
    clipped = compute_cosine_distances(values, clip=True)
    assert clipped == pytest.approx(np.clip(theirs, 0, 1), abs=1e-6)
    assert (clipped == clipped.T).all()
    assert clipped.dtype == np.float32


def test_length_does_not_matter():
    values, _ = _lump(rows=30)
    scales = np.geomspace(1e-200, 1e200, 30)[:, None]
    assert compute_cosine_distances(values * scales) == pytest.approx(
        compute_cosine_distances(values), abs=1e-6
    )


@pytest.mark.parametrize("n_clusters", [2, 6, 140])
def test_silhouettes_are_scikit_learns(n_clusters):
    values, _ = _lump(rows=1500, spread=1.5)
    distances = compute_cosine_distances(values)
    labels = CosineMedoids(n_clusters).fit(values).labels_
    ours, theirs = (
        compute_silhouettes(distances, labels),
        silhouette_samples(distances, labels, metric="precomputed"),
    )
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert ours.mean() == pytest.approx(theirs.mean(), abs=1e-6)
    fast = compute_cosine_silhouettes(values, labels)
    assert fast == pytest.approx(theirs, abs=1e-5)
    assert fast.mean() == pytest.approx(theirs.mean(), abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(_distances(), st.data())
def test_silhouettes_of_odd_clusters(distances, data):
    count = len(distances)
    labels = data.draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    ours = compute_silhouettes(distances, labels)
    if len(set(labels)) < 2:
        assert np.isnan(ours).all()
    elif len(set(labels)) < count:
        theirs = silhouette_samples(distances, labels, metric="precomputed")
        assert ours == pytest.approx(theirs)
    else:
        assert (ours == 0).all()


def test_sweep_finds_the_lumps():
    values, lump = _lump(rows=300, spread=0.2)
    found = CosineMedoids((3, 10)).fit(values)
    assert found.n_clusters_ == 6
    assert len(set(zip(found.labels_, lump, strict=True))) == 6
    assert [trial.n_clusters for trial in found.trials_] == list(range(3, 11))
    objectives = [trial.inertia for trial in found.trials_]
    assert objectives == sorted(objectives, reverse=True)
    assert found.silhouette_ == max(trial.silhouette for trial in found.trials_)


@pytest.mark.parametrize("clip", [False, True])
def test_silhouettes_of_a_sweep_are_scikit_learns(clip):
    values, _ = _lump(rows=200, dim=4)
    found = CosineMedoids((2, 6), clip=clip).fit(values)
    distances = compute_cosine_distances(values, clip=clip)
    theirs = silhouette_score(distances, found.labels_, metric="precomputed")
    assert found.silhouette_ == pytest.approx(theirs, abs=1e-6)


def test_choice_of_a_sweep_is_a_local_optimum():
    values, _ = _lump(rows=300, spread=1.5)
    found = CosineMedoids((2, 12)).fit(values)
    assert found.n_clusters_ > 2
    again = swap(compute_cosine_distances(values), found.medoid_indices_)
    assert again.swaps == 0
    chosen = [trial for trial in found.trials_ if trial.n_clusters == found.n_clusters_]
    assert chosen[0].inertia == pytest.approx(found.inertia_)


def test_fit_is_consistent():
    values, _ = _lump(rows=200)
    found = CosineMedoids(7, random_state=3).fit(values)
    assert (found.labels_[found.medoid_indices_] == np.arange(7)).all()
    assert (found.cluster_centers_ == values[found.medoid_indices_]).all()
    distances = compute_cosine_distances(values)
    assert found.inertia_ == pytest.approx(compute_objective(distances, found.medoid_indices_))
    assert (found.predict(values) == found.labels_).all()
    assert (CosineMedoids(7, random_state=3).fit(values).labels_ == found.labels_).all()


def test_ties_take_the_smaller_number():
    alone = CosineMedoids((2, 4)).fit(np.eye(4))
    assert alone.n_clusters_ == 2
    assert [trial.silhouette for trial in alone.trials_] == [0, 0, 0]


def test_no_silhouette_above_zero_still_gives_clusters():
    values = np.random.default_rng(0).normal(size=(60, 200))
    found = CosineMedoids((2, 5)).fit(values)
    scores = [trial.silhouette for trial in found.trials_]
    assert found.silhouette_ >= max(scores) - 1e-6
    assert 2 <= found.n_clusters_ <= 5


def test_fewer_distinct_rows_than_clusters():
    values = np.repeat(np.eye(3), 5, axis=0) * np.arange(1, 16)[:, None]
    with pytest.warns(ConvergenceWarning, match="3 clusters instead of 6"):
        found = CosineMedoids(6).fit(values)
    assert found.labels_.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    assert found.inertia_ == 0
    swept = CosineMedoids((2, 6)).fit(values)
    assert swept.n_clusters_ == 3
    assert [trial.n_clusters for trial in swept.trials_] == [2, 3]
    assert swept.silhouette_ == 1


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 12), min_size=2, max_size=12), st.integers(1, 6), st.booleans())
def test_no_cluster_is_empty_among_near_duplicates(steps, n_clusters, swept):
    """Up to two steps apart rows count as equal, three as distinct: likeness is not transitive."""
    angles = 7e-4 * np.array(steps)
    values = np.column_stack([np.cos(angles), np.sin(angles)])
    n_clusters = min(n_clusters, len(steps))
    found = CosineMedoids((1, n_clusters) if swept else n_clusters).fit(values)
    assert np.unique(found.labels_).tolist() == list(range(found.n_clusters_))
    assert len(found.medoid_indices_) == len(found.cluster_centers_) == found.n_clusters_
    assert found.n_clusters_ <= max(n_clusters, 1)
    assert (found.predict(values) == found.labels_).all()


def test_equal_rows_are_one_cluster():
    with pytest.warns(ConvergenceWarning, match="1 clusters instead of 2"):
        found = CosineMedoids((2, 4)).fit(np.ones((9, 4)))
    assert found.labels_.tolist() == [0] * 9
    assert np.isnan(found.silhouette_)


def test_rows_of_zeros_are_a_kind_of_their_own():
    values = np.vstack([np.zeros((3, 4)), np.eye(4)[[0, 0, 1]]])
    found = CosineMedoids((2, 3)).fit(values)
    assert found.labels_.tolist() == [0, 0, 0, 1, 1, 2]
    assert found.predict(np.zeros((1, 4))).tolist() == [0]
    assert find_nearest(np.zeros((1, 4)), values).distances.tolist() == [0]


def test_clipped_distances_tie_at_a_right_angle():
    plain = find_nearest([[1.0, 0.0]], [[-1.0, 0.1], [-0.1, 1.0]])
    assert plain.labels.tolist() == [1]
    clipped = find_nearest([[1.0, 0.0]], [[-1.0, 0.1], [-0.1, 1.0]], clip=True)
    assert clipped.labels.tolist() == [0]
    assert clipped.distances.tolist() == [1]


def test_samples_come_near_the_whole():
    values = load_digits().data[:1200]
    whole = CosineMedoids(10).fit(values)
    sampled = CosineMedoids(10, sample_above=1000, sample_rows=400).fit(values)
    assert whole.inertia_ <= sampled.inertia_ <= 1.05 * whole.inertia_
    assert sampled.trials_[0].inertia == pytest.approx(sampled.inertia_)
    assert len(set(sampled.labels_)) == sampled.n_clusters_ == 10
    one = CosineMedoids(10, sample_above=1000, sample_rows=400, samples=1).fit(values)
    assert sampled.inertia_ <= one.inertia_
    theirs = silhouette_score(values, sampled.labels_, metric="cosine")
    assert sampled.silhouette_ == pytest.approx(theirs, abs=1e-6)
    values = np.random.default_rng(0).normal(size=(1200, 3))
    clipped = CosineMedoids(10, sample_above=1000, sample_rows=100, clip=True).fit(values)
    distances = compute_cosine_distances(values, clip=True)
    theirs = silhouette_score(distances, clipped.labels_, metric="precomputed")
    assert clipped.silhouette_ == pytest.approx(theirs, abs=1e-6)


def test_clipped_silhouettes_of_some_rows_are_those_of_the_whole(monkeypatch):
    values = np.random.default_rng(1).normal(size=(500, 3))
    values[7] = values[8]
    values[9] = 0
    labels = np.random.default_rng(2).integers(0, 140, 500)
    labels[:3] = 200
    whole = compute_silhouettes(compute_cosine_distances(values, clip=True), labels)
    rows = np.array([0, 7, 8, 9, 499, 3])
    found = compute_clipped_silhouettes(values, labels, rows=rows)
    np.testing.assert_allclose(found, whole[rows], atol=1e-5)
    assert np.isnan(compute_clipped_silhouettes(values, np.zeros(500, int), rows=rows)).all()
    monkeypatch.setattr("fieldmark.discovery.clustering._SILHOUETTES", 300)
    fits = [
        CosineMedoids(5, sample_above=400, sample_rows=100, clip=True).fit(values) for _ in range(2)
    ]
    assert fits[0].silhouette_ == fits[1].silhouette_
    exact = silhouette_score(
        compute_cosine_distances(values, clip=True), fits[0].labels_, metric="precomputed"
    )
    assert 0 < abs(fits[0].silhouette_ - exact) < 0.05


def test_more_clusters_than_a_sample_has_distinct_rows():
    values = np.repeat(np.eye(4), 100, axis=0)
    with pytest.warns(ConvergenceWarning, match="4 clusters instead of 9"):
        found = CosineMedoids(9, sample_above=300, sample_rows=100).fit(values)
    assert found.inertia_ == 0


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"n_clusters": 0}, "1 or more"),
        ({"n_clusters": (5, 2)}, "ascend"),
        ({"n_clusters": (2, 3, 4)}, "a number or"),
        ({"n_clusters": 2.5}, "a number or"),
        ({"n_clusters": 31}, "n_samples=30 should be >= n_clusters=31"),
        ({"n_clusters": (2, 3), "sample_above": 20}, "must be one number"),
        ({"samples": 0}, "samples must be"),
        ({"sample_rows": 7}, "sample_rows=7 should be >= n_clusters=8"),
    ],
)
def test_bad_options_are_refused(options, problem):
    with pytest.raises(ValueError, match=problem):
        CosineMedoids(**options).fit(_lump(rows=30)[0])


def test_nan_and_unfitted_are_refused():
    values = _lump(rows=30)[0]
    with pytest.raises(NotFittedError):
        CosineMedoids().predict(values)
    values[3, 2] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        CosineMedoids().fit(values)
