from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from fieldmark.attribution.patch_clusters import (
    cluster_patches,
    compare_clusters,
    count_clusters,
    draw_centres,
    embed_patches,
    measure_stability,
    number_by_first,
    run_lloyd,
)
from fieldmark.core.errors import UnsupportedEncoderError, UsageError
from fieldmark.testing import FakeEncoder

IDS = ("a", "b", "c")


def _lumps(*, images=3, patches=30, dim=8, seed=0):
    """Return unit vectors around a few directions, (B,N,C)."""
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(images, 5, dim, generator=random)
    which = torch.randint(5, (images, patches), generator=random)
    points = centres.gather(1, which[..., None].expand(-1, -1, dim))
    points = points + 0.4 * torch.randn(points.shape, generator=random)
    return torch.nn.functional.normalize(points, dim=-1)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 7))
def test_labels_are_those_of_scikit_learn_from_the_same_centres(seed, clusters):
    points = _lumps(seed=seed)
    random = np.random.default_rng(seed)
    rows = torch.from_numpy(np.stack([random.permutation(30)[:clusters] for _ in range(6)]))
    centres = points.repeat_interleave(2, 0).gather(1, rows[..., None].expand(-1, -1, 8))
    centres = centres.view(3, 2, clusters, 8)
    labels, inertia = run_lloyd(points, centres)
    for image in range(3):
        for start in range(2):
            init = centres[image, start].numpy()
            fit = KMeans(clusters, init=init, n_init=1, tol=0).fit(points[image].numpy())
            assert labels[image, start].tolist() == fit.labels_.tolist()
            assert float(inertia[image, start]) == pytest.approx(fit.inertia_, abs=1e-4)


def test_a_cluster_that_loses_its_points_takes_the_farthest():
    points = torch.tensor([[[0.0], [1.0], [2.0], [10.0]]])
    centres = torch.tensor([[[[1.0], [50.0]]]])
    labels, inertia = run_lloyd(points, centres)
    assert labels.tolist() == [[[0, 0, 0, 1]]]
    assert inertia.tolist() == [[2.0]]
    fit = KMeans(2, init=centres[0, 0].numpy(), n_init=1, tol=0).fit(points[0].numpy())
    assert fit.labels_.tolist() == [0, 0, 0, 1]


def test_an_image_gets_the_same_clusters_in_any_batch():
    points = _lumps()
    options = {"clusters": 6, "starts": 4, "seed": 3}
    together = cluster_patches(points, ids=IDS, **options)
    for row, name in enumerate(IDS):
        alone = cluster_patches(points[row : row + 1], ids=[name], **options)
        assert torch.equal(together[row], alone[0])
    turned = cluster_patches(points.flip(0), ids=IDS[::-1], **options)
    assert torch.equal(turned.flip(0), together)


def test_more_starts_never_raise_the_inertia():
    points = _lumps(images=1, patches=60)
    draws = torch.rand(1, 16, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    _, inertia = run_lloyd(points, draw_centres(points, draws))
    best = cluster_patches(points, clusters=7, starts=16, seed=0, ids=["a"])
    ours = sum(
        float((part - part.mean(0)).square().sum())
        for part in (points[0][best[0] == cluster] for cluster in range(7))
    )
    assert ours <= float(inertia.max()) + 1e-5


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=12), st.integers(1, 8))
def test_there_are_never_more_clusters_than_distinct_patches(values, clusters):
    points = torch.eye(5)[torch.tensor(values)][None]
    labels = cluster_patches(points, clusters=clusters, starts=2, seed=0, ids=["a"])
    count = int(count_clusters(labels)[0])
    assert count == min(clusters, len(set(values)))
    assert labels.unique().tolist() == list(range(count))
    if clusters >= len(set(values)):
        assert all(
            (a == b) == (x == y)
            for a, x in zip(labels[0].tolist(), values, strict=True)
            for b, y in zip(labels[0].tolist(), values, strict=True)
        )


def test_centres_are_drawn_by_squared_distance():
    # From 0: 1 has weight 1 and 3 has weight 9, so the second centre is 1 for draws below 0.1.
    points = torch.tensor([[[0.0], [1.0], [3.0]]])
    draws = torch.tensor([[[0.0, 0.09], [0.0, 0.11]]], dtype=torch.float64)
    assert draw_centres(points, draws).squeeze().tolist() == [[0, 1], [0, 3]]


def test_clusters_are_numbered_by_their_first_patch():
    labels = torch.tensor([[2, 2, 0, 1], [1, 1, 1, 1]])
    assert number_by_first(labels).tolist() == [[0, 0, 1, 2], [0, 0, 0, 0]]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=20))
def test_rand_index_is_that_of_scikit_learn(pairs):
    first, second = torch.tensor(pairs).T
    expected = adjusted_rand_score(first, second)
    assert float(compare_clusters(first[None], second[None])[0]) == pytest.approx(expected)


def test_stability_is_the_mean_over_pairs_of_seeds():
    points = _lumps()
    options: dict[str, Any] = {"clusters": 7, "starts": 1, "ids": IDS}
    found = [cluster_patches(points, seed=seed, **options) for seed in (0, 1, 2)]
    expected = [
        np.mean([adjusted_rand_score(found[a][row], found[b][row]) for a, b in pairs])
        for row, pairs in enumerate([((0, 1), (0, 2), (1, 2))] * 3)
    ]
    stability = measure_stability(points, seeds=(0, 1, 2), **options)
    assert stability.tolist() == pytest.approx(expected)
    with pytest.raises(UsageError, match="two seeds"):
        measure_stability(points, seeds=(0,), **options)


def test_a_tower_without_blocks_has_no_layers_to_choose():
    with pytest.raises(UnsupportedEncoderError, match="no blocks"):
        embed_patches(FakeEncoder(), torch.ones(1, 3, 8, 8), layer=0)
