"""Matryoshka autoencoder against arithmetic by hand, its own nesting, and planted features."""

import json
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone

from fieldmark.core.errors import InputError, UsageError
from fieldmark.methods.sparse_autoencoder import (
    MatryoshkaAutoencoder,
    choose_levels,
    drawn_loss,
    keep_largest,
    load_autoencoder,
    nested_loss,
    save_autoencoder,
    weigh_levels,
)


def plant(count: int = 600, dim: int = 16, parts: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Return sums of 2 of `parts` unit directions, and the directions."""
    random = np.random.default_rng(0)
    directions = random.normal(size=(parts, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    codes = np.zeros((count, parts))
    for row in codes:
        row[random.choice(parts, 2, replace=False)] = random.uniform(0.5, 1, 2)
    return (codes @ directions).astype(np.float32), directions


@pytest.fixture(scope="module")
def fitted():
    X, _ = plant()
    return MatryoshkaAutoencoder(expansion=2, epochs=30, batch_size=64, learning_rate=1e-2).fit(
        X
    ), X


@given(st.integers(1, 12), st.integers(1, 14), st.integers(0, 50))
@settings(deadline=None, max_examples=40)
def test_keeping_the_largest_matches_a_sort(width, k, seed):
    scores = np.random.default_rng(seed).normal(size=(5, width)).astype(np.float32)
    kept = keep_largest(torch.from_numpy(scores), k).numpy()
    for row, out in zip(scores, kept, strict=True):
        expected = [value if value > 0 else 0 for value in sorted(row, reverse=True)[:k]]
        assert sorted(out[out > 0], reverse=True) == [value for value in expected if value > 0]
        assert ((out == 0) | (out == row)).all()


@given(st.integers(1, 11), st.integers(0, 50))
@settings(deadline=None, max_examples=40)
def test_levels_are_nested(k, seed):
    scores = torch.from_numpy(np.random.default_rng(seed).normal(size=(4, 12)))
    small, large = keep_largest(scores, k), keep_largest(scores, k + 1)
    assert torch.where(small > 0, large, small).equal(small)


@given(st.integers(1, 5000))
def test_levels_double_and_end_at_all_latents(latents):
    levels = choose_levels(latents)
    assert levels[-1] == latents
    assert 1 <= levels[0] <= 64
    assert all(b == 2 * a for a, b in pairwise(levels[:-1]))
    assert list(levels) == sorted(set(levels))


def test_levels_of_the_paper_sizes():
    assert choose_levels(8 * 512) == (64, 128, 256, 512, 1024, 2048, 4096)
    with pytest.raises(UsageError, match="at least 1 latent"):
        choose_levels(0)


def test_reverse_weights_favour_the_sparsest_level():
    assert weigh_levels(4) == (0.25,) * 4
    assert weigh_levels(3, "reverse") == pytest.approx((3 / 6, 2 / 6, 1 / 6))


def test_loss_by_hand():
    decoder = torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8]])
    scores = torch.tensor([[2.0, 1.0, -1.0]])
    inputs = torch.tensor([[2.0, 2.0]])
    # Level 1 keeps 2 on the first row: error (0, 2), 4 of 8. Level 3: error (0, 1), 1 of 8.
    loss = nested_loss(
        scores, inputs, decoder=decoder, levels=(1, 3), weights=torch.tensor([0.25, 0.75])
    )
    assert loss.item() == pytest.approx(0.25 * 4 / 8 + 0.75 * 1 / 8)


def test_drawn_levels_average_to_the_nested_loss():
    random = torch.Generator().manual_seed(0)
    scores, inputs = torch.randn(1, 16, generator=random), torch.randn(1, 4, generator=random)
    decoder, levels = torch.randn(16, 4, generator=random), (1, 2, 4, 16)
    weights = torch.tensor(weigh_levels(4, "reverse"))
    drawn = [drawn_loss(scores, inputs, decoder=decoder, drawn=[k]) for k in levels]
    whole = nested_loss(scores, inputs, decoder=decoder, levels=levels, weights=weights)
    assert (torch.stack(drawn) * weights).sum().item() == pytest.approx(whole.item(), rel=1e-5)


def test_rows_of_the_decoder_have_unit_norm(fitted):
    norms = np.linalg.norm(fitted[0].decoder_.astype(np.float64), axis=1)
    assert norms == pytest.approx(np.ones(32), abs=1e-6)


def test_more_latents_reconstruct_better(fitted):
    autoencoder, X = fitted
    assert autoencoder.levels_ == (2, 4, 8, 16, 32)
    assert autoencoder.error_[0] > 2 * autoencoder.error_[1] > 2 * autoencoder.error_[-1]
    assert autoencoder.error_[-1] < 0.05
    rest = X - autoencoder.reconstruct(X)
    assert np.square(rest).sum() / np.square(X - X.mean(0)).sum() < 0.05
    assert ((autoencoder.encode(X, level=2) > 0).sum(axis=1) <= 2).all()


def test_planted_directions_are_found(fitted):
    _, directions = plant()
    cosines = directions @ fitted[0].decoder_.T
    start = np.random.default_rng(1).normal(size=(32, 16))
    chance = directions @ (start / np.linalg.norm(start, axis=1, keepdims=True)).T
    assert np.median(chance.max(axis=1)) < 0.6
    assert np.median(cosines.max(axis=1)) > 0.85


def test_silent_latents_are_counted(fitted):
    autoencoder, X = fitted
    silent = (autoencoder.encode(X) > 0).sum(axis=0) == 0
    assert autoencoder.dead_ == silent.sum()
    assert autoencoder.frequency_ == pytest.approx((autoencoder.encode(X) > 0).mean(axis=0))


def test_a_seed_gives_one_autoencoder():
    X, _ = plant(count=100)
    one = MatryoshkaAutoencoder(epochs=2, random_state=3)
    assert np.array_equal(one.fit(X).decoder_, clone(one).fit(X).decoder_)
    assert not np.array_equal(
        one.decoder_, MatryoshkaAutoencoder(epochs=2, random_state=4).fit(X).decoder_
    )


def test_every_level_at_once_trains_as_well():
    X, _ = plant(count=200)
    autoencoder = MatryoshkaAutoencoder(
        expansion=2,
        epochs=20,
        batch_size=64,
        learning_rate=1e-2,
        every_level=True,
        weighting="reverse",
    ).fit(X)
    assert autoencoder.error_[-1] < 0.15


def test_saved_and_read_back(fitted, tmp_path):
    autoencoder, X = fitted
    save_autoencoder(autoencoder, tmp_path)
    read = load_autoencoder(tmp_path)
    assert np.array_equal(read.encode(X, level=2), autoencoder.encode(X, level=2))
    assert (read.levels_, read.dead_) == (autoencoder.levels_, autoencoder.dead_)
    assert read.get_params() == autoencoder.get_params()
    record = json.loads((tmp_path / "autoencoder.json").read_text())
    (tmp_path / "autoencoder.json").write_text(json.dumps({**record, "fitted": {}}))
    with pytest.raises(InputError, match="no whole autoencoder"):
        load_autoencoder(tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"levels": (4, 2)}, "ascending"),
        ({"levels": (1, 1000)}, "from 1 to 128 latents"),
        ({"levels": ()}, "ascending"),
        ({"epochs": 0}, "epochs must be 1 or more"),
        ({"expansion": 0}, "expansion must be 1 or more"),
        ({"weighting": "even"}, "weighting must be"),
    ],
)
def test_bad_settings_are_named(setting, message):
    with pytest.raises(UsageError, match=message):
        MatryoshkaAutoencoder(**setting).fit(plant(count=20)[0])


def test_bad_embeddings_are_refused(fitted):
    with pytest.raises(UsageError, match="same point"):
        MatryoshkaAutoencoder().fit(np.ones((5, 3)))
    with pytest.raises(ValueError, match="NaN"):
        MatryoshkaAutoencoder().fit(np.array([[np.nan, 1.0], [0, 1]]))
    with pytest.raises(ValueError, match="minimum of 2"):
        MatryoshkaAutoencoder().fit([[0.0, 1.0]])
    with pytest.raises(ValueError, match="16 features"):
        fitted[0].encode(np.ones((2, 5)))
    with pytest.raises(UsageError, match="level must be"):
        fitted[0].encode(np.ones((2, 16)), level=0)
    with pytest.raises(UsageError, match=r"no \(n, 32\)"):
        fitted[0].decode(np.ones((2, 5)))
