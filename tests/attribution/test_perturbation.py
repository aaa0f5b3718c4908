"""RISE and occlusion against brute force, worked examples, and what batches must not change."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.maps import Subject, find_grid
from fieldmark.attribution.perturbation import (
    cover_grid,
    draw_masks,
    explain_by_occlusion,
    explain_by_random_masks,
)
from fieldmark.core.errors import UsageError
from fieldmark.models.encoder import normalise
from fieldmark.testing import FakeEncoder
from tests.attribution.plain_towers import load_tiny
from tests.models.tiny import images as random_images
from tests.models.tiny import photograph


class CountingFakeEncoder(FakeEncoder):
    """Keeps how many images each forward had."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def encode_image(self, image_BCHW):
        self.sizes.append(len(image_BCHW))
        return super().encode_image(image_BCHW)


class ConstantFakeEncoder(FakeEncoder):
    """Says the same of every image."""

    def encode_image(self, image_BCHW):
        return torch.full((len(image_BCHW), 6), 6**-0.5)


def subject(images, *, encoder=None, texts=("red", "red on blue"), **settings):
    encoder = encoder or FakeEncoder()
    return Subject(
        encoder=encoder,
        images=images,
        texts=encoder.encode_text(list(texts)).detach(),
        config=AttributionConfig(**settings),
        ids=tuple(map(str, range(len(images)))),
    )


def enlarge_line(cells, *, factor):
    """Bilinear weights along one axis, cell centres on pixel centres, ends held."""
    at = (np.arange((len(cells) + 1) * factor) + 0.5) * len(cells) / ((len(cells) + 1) * factor)
    return np.interp(at - 0.5, np.arange(len(cells)), cells)


def all_rise_masks(*, side, cell):
    """Every mask that RISE can draw with cells of `cell` pixels, and the chance of each."""
    masks, chances = [], []
    for cells in itertools.product([0, 1], repeat=side * side):
        rows = np.array(cells, float).reshape(side, side)
        tall = np.stack([enlarge_line(column, factor=cell) for column in rows.T], 1)
        large = np.stack([enlarge_line(row, factor=cell) for row in tall])
        for top, left in itertools.product(range(cell), repeat=2):
            masks.append(large[top : top + side * cell, left : left + side * cell])
            chances.append(cell**-2 * 0.3 ** sum(cells) * 0.7 ** (side**2 - sum(cells)))
    return np.stack(masks), np.array(chances)


def test_rise_converges_to_the_mean_over_all_masks():
    image = random_images(8, count=1).float() / 255
    masks, chance = all_rise_masks(side=2, cell=4)
    assert chance.sum() == pytest.approx(1)
    encoder = FakeEncoder()
    masked = image * torch.from_numpy(masks).float()[:, None]
    embedded = encoder.encode_image(masked) @ encoder.encode_text(["red"]).T
    scores = embedded[:, 0].detach().double().numpy()
    cells = masks.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4))
    expected = np.einsum("m,m,mhw->hw", chance, scores - chance @ scores, cells) / 0.3
    found = explain_by_random_masks(
        subject(
            image, texts=["red"], rise_masks=20_000, rise_grid=2, rise_share=0.3, batch_size=2000
        )
    ).values[0, 0]
    assert np.abs(found.numpy() - expected).max() < 0.05 * np.ptp(expected)


def test_rise_masks_keep_their_share_everywhere_and_are_soft():
    masks = torch.cat(
        list(draw_masks(AttributionConfig(rise_masks=4000, rise_share=0.3), size=(10, 13)))
    )
    assert masks.shape == (4000, 1, 10, 13)
    assert masks.min() >= 0
    assert masks.max() <= 1
    assert (masks.mean(0) - 0.3).abs().max() < 0.04
    assert ((masks > 0.01) & (masks < 0.99)).float().mean() > 0.1


@pytest.mark.parametrize("explain", [explain_by_random_masks, explain_by_occlusion])
def test_neither_batch_size_nor_companions_change_a_map(explain):
    images = random_images(8, count=3)
    together = explain(subject(images, rise_masks=50, batch_size=64)).values
    for size in (1, 7):
        torch.testing.assert_close(
            explain(subject(images, rise_masks=50, batch_size=size)).values, together
        )
    alone = explain(subject(images[2:], texts=["red on blue"], rise_masks=50)).values
    torch.testing.assert_close(alone[0, 0], together[2, 1])


@pytest.mark.parametrize("explain", [explain_by_random_masks, explain_by_occlusion])
def test_memory_is_bounded_and_forwards_are_counted(explain):
    encoder = CountingFakeEncoder()
    maps = explain(subject(random_images(8, count=3), encoder=encoder, rise_masks=20, batch_size=6))
    assert max(encoder.sizes) <= 6
    assert sum(encoder.sizes) == 3 * maps.forwards


def test_a_seed_draws_its_own_masks():
    images = random_images(8)
    first, same, other = (
        explain_by_random_masks(subject(images, rise_masks=20, seed=seed)).values
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, same)
    assert not torch.allclose(first, other)


def test_a_score_that_never_changes_gives_an_empty_rise_map():
    encoder = ConstantFakeEncoder()
    maps = explain_by_random_masks(subject(random_images(8), encoder=encoder, rise_masks=100))
    assert maps.values.abs().max() < 1e-6


def test_occlusion_of_single_patches_worked_by_hand():
    """Red in the middle on blue: (1,0,0,0,0,1) is left, with 3/4 of red or 11/12 of blue."""
    image = torch.zeros(1, 3, 8, 8)
    image[:, 2] = 1
    image[:, :, 2:6, 2:6] = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    maps = explain_by_occlusion(subject(image, texts=["red"]))
    inside = 2**-0.5 - 0.75 / (0.75**2 + 1) ** 0.5
    outside = 2**-0.5 - 1 / (1 + (11 / 12) ** 2) ** 0.5
    expected = torch.full((4, 4), outside)
    expected[1:3, 1:3] = inside
    torch.testing.assert_close(maps.values[0, 0], expected, atol=1e-6, rtol=0)
    assert maps.similarity is not None
    assert maps.similarity[0, 0].item() == pytest.approx(2**-0.5)
    assert outside < 0 < inside


@pytest.mark.parametrize(("window", "stride"), [(1, 1), (2, 1), (3, 2), (9, 4)])
def test_occlusion_equals_plain_loops_on_a_real_tower(window, stride):
    """The masked pixels of uint8 images become 0 after normalisation."""
    encoder = load_tiny("clip")
    images = random_images(32)
    given = subject(
        images,
        encoder=encoder,
        texts=["a duck", "water"],
        batch_size=5,
        occlusion_window=window,
        occlusion_stride=stride,
    )
    with torch.inference_mode():
        pixels = normalise(images, spec=encoder.spec, dtype=torch.float32)
        whole = encoder.encode_image(pixels) @ given.texts.T
        total, count = torch.zeros(2, 2, 4, 4), torch.zeros(4, 4)
        size = min(window, 4)
        places = sorted({*range(0, 4 - size + 1, stride), 4 - size})
        for top, left in itertools.product(places, repeat=2):
            masked = pixels.clone()
            masked[:, :, top * 8 : (top + size) * 8, left * 8 : (left + size) * 8] = 0
            drop = whole - encoder.encode_image(masked) @ given.texts.T
            total[:, :, top : top + size, left : left + size] += drop[..., None, None]
            count[top : top + size, left : left + size] += 1
    maps = explain_by_occlusion(given)
    torch.testing.assert_close(maps.values, total / count, atol=2e-6, rtol=1e-4)
    torch.testing.assert_close(maps.similarity, whole)
    assert maps.forwards == len(places) ** 2 + 1


@settings(deadline=None)
@given(rows=st.integers(1, 7), columns=st.integers(1, 7), window=st.integers(1, 8), data=st.data())
def test_windows_cover_every_patch_and_have_one_size(rows, columns, window, data):
    stride = data.draw(st.integers(1, window))
    cover = cover_grid((rows, columns), window=window, stride=stride)
    assert (cover.sum(0) >= 1).all()
    assert (cover.sum((1, 2)) == min(window, rows) * min(window, columns)).all()
    assert len(cover.unique(dim=0)) == len(cover)


def test_a_stride_beyond_the_window_is_refused():
    with pytest.raises(UsageError, match="stride of 3 patches"):
        explain_by_occlusion(subject(random_images(8), occlusion_stride=3))


def test_images_of_any_aspect_are_explained_on_their_own_grid():
    encoder = load_tiny("hf-siglip2")
    image = encoder.preprocess(photograph(64, 16))[None]
    grid = encoder.tokens(image).grid
    assert grid[0] < grid[1]
    assert find_grid(encoder, image) == grid
    given = subject(image, encoder=encoder, texts=["a duck"], rise_masks=8)
    for explain in (explain_by_random_masks, explain_by_occlusion):
        maps = explain(given)
        assert maps.values.shape == (1, 1, *grid)
        assert maps.values.std() > 0


@pytest.mark.parametrize("family", ["clip", "efficientnet"])
def test_the_grid_is_that_of_the_tokens(family):
    encoder = load_tiny(family)
    image = encoder.preprocess(photograph(50, 40))[None]
    assert find_grid(encoder, image) == encoder.tokens(image).grid
