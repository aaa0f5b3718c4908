"""Orders of pixels and perturbed images, against torch's bilinear and loops."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from fieldmark.attribution.maps import enlarge_maps
from fieldmark.attribution.perturbing import (
    Window,
    blur_image,
    find_window,
    make_fill,
    place_map,
    rank_pixels,
    read_native,
    replace_pixels,
    to_input,
)
from fieldmark.attribution.protocols import Protocol, find_protocol
from fieldmark.core.errors import InputError, UnknownNameError
from fieldmark.testing import FakeEncoder


def test_a_map_is_enlarged_as_torch_does_it():
    values = np.random.default_rng(0).random((3, 4))
    values[0, 0], values[2, 3] = 0, 1
    expected = enlarge_maps(torch.from_numpy(values), size=(17, 22)).numpy()
    assert place_map(values, size=(17, 22)) == pytest.approx(expected, abs=1e-6)


def test_a_cluster_stays_one_value_after_enlargement():
    values = np.array([[0.1, 0.1, 0.7], [0.1, 0.1, 0.7], [0.1, 0.1, 0.3]])
    large = place_map(values, size=(98, 98))
    assert len(np.unique(large[:40, :40])) == 1


@settings(max_examples=30)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 9))
def test_ranks_are_a_permutation_and_follow_the_map(rows, columns, seed):
    values = np.random.default_rng(seed).integers(0, 3, (rows, columns)).astype(float)
    ranks = rank_pixels(values, size=(9, 7), identity="a", seed=seed)
    assert sorted(ranks.ravel().tolist()) == list(range(63))
    large = place_map(values, size=(9, 7)).ravel()
    assert (np.diff(large[np.argsort(ranks.ravel())]) <= 0).all()


def test_ties_are_broken_by_image_and_seed_alike_for_all_methods():
    flat, other = np.zeros((2, 2)), np.full((2, 2), 5.0)
    first = rank_pixels(flat, size=(6, 6), identity="a", seed=1)
    assert (first == rank_pixels(other, size=(6, 6), identity="a", seed=1)).all()
    assert (first != rank_pixels(flat, size=(6, 6), identity="b", seed=1)).any()
    assert (first != rank_pixels(flat, size=(6, 6), identity="a", seed=2)).any()
    straight = rank_pixels(flat, size=(2, 3), identity="a", shuffle=False)
    assert straight.tolist() == [[0, 1, 2], [3, 4, 5]]


def test_ties_can_be_broken_by_another_map_but_not_overruled():
    values = np.array([[1.0, 1.0], [0.0, 0.0]])
    ties = np.array([[0.0, 3.0], [9.0, 8.0]])
    ranks = rank_pixels(values, size=(2, 2), identity="a", ties=ties)
    assert ranks.tolist() == [[1, 0], [2, 3]]


def test_a_map_that_is_not_finite_names_its_image():
    with pytest.raises(InputError, match=r"image dog\.png: the map holds values"):
        rank_pixels(np.array([[np.nan]]), size=(2, 2), identity="dog.png")


def test_pixels_outside_the_crop_come_last():
    window = Window(left=0.25, width=0.5)
    ranks = rank_pixels(np.ones((2, 2)), size=(4, 8), identity="a", window=window)
    assert set(ranks[:, 2:6].ravel().tolist()) == set(range(16))


@pytest.mark.parametrize("size", [(20, 40), (40, 20), (30, 30)])
@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
def test_the_window_is_what_the_preprocessing_shows(resize, size):
    """A bright spot in the native image and the same spot in the model's input have one rank."""
    encoder = FakeEncoder()
    spec = dataclasses.replace(encoder.spec, resize=resize, image_size=80)
    from fieldmark.models.preprocess import preprocess_image

    spot = np.zeros((*size, 3), np.uint8)
    row, column = size[0] // 2 + 3, size[1] // 2 - 4
    spot[row, column] = 255
    seen = preprocess_image(Image.fromarray(spot), spec=spec)[0].double().numpy()
    placed = place_map(seen, size=size, window=find_window(size, spec=spec))
    found = np.unravel_index(np.argmax(placed), size)
    assert abs(found[0] - row) <= 1
    assert abs(found[1] - column) <= 1


def test_noise_is_the_images_own_and_covers_all_values():
    pixels, spec = torch.zeros(3, 40, 40, dtype=torch.uint8), FakeEncoder().spec
    noise = make_fill(pixels, "noise", identity="a", seed=0, spec=spec)
    assert torch.equal(noise, make_fill(pixels + 9, "noise", identity="a", seed=0, spec=spec))
    assert not torch.equal(noise, make_fill(pixels, "noise", identity="b", seed=0, spec=spec))
    assert not torch.equal(noise, make_fill(pixels, "noise", identity="a", seed=1, spec=spec))
    assert (int(noise.min()), int(noise.max())) == (0, 255)
    assert noise.float().mean() == pytest.approx(127.5, abs=3)


def test_mean_and_black_are_colours():
    pixels = torch.full((3, 4, 4), 77, dtype=torch.uint8)
    spec = dataclasses.replace(FakeEncoder().spec, mean=(0.5, 0.25, 1.0))
    assert make_fill(pixels, "mean", identity="a", seed=0, spec=spec)[:, 0, 0].tolist() == [
        128, 64, 255]  # fmt: skip
    assert int(make_fill(pixels, "black", identity="a", seed=0, spec=spec).max()) == 0


def test_blur_is_a_gaussian_of_sigma_5_cut_off_at_5_pixels():
    drawn = np.random.default_rng(0).integers(0, 256, (3, 20, 31), np.uint8)
    expected = [
        ndimage.gaussian_filter(part.astype(float), 5, radius=5, mode="nearest") for part in drawn
    ]
    blurred = blur_image(torch.from_numpy(drawn)).numpy()
    assert blurred == pytest.approx(np.round(expected), abs=1)


def test_a_native_image_is_preprocessed_after_it_was_perturbed():
    encoder, protocol = FakeEncoder(), find_protocol("gradeclip")
    pixels = read_native(Image.new("RGB", (1280, 1600), "red"), most=protocol.native_side)
    assert pixels.shape == (3, 800, 640)
    assert to_input(pixels, encoder=encoder, protocol=protocol).shape == (3, 8, 8)
    assert to_input(pixels, encoder=encoder, protocol=Protocol()) is pixels


def test_the_share_of_pixels_asked_for_is_replaced():
    pixels = torch.zeros(3, 10, 10, dtype=torch.uint8)
    ranks = torch.randperm(100, generator=torch.Generator().manual_seed(0)).reshape(10, 10)
    for share in (0.0, 0.005, 0.37, 1.0):
        changed = replace_pixels(pixels, pixels + 1, ranks=ranks, share=share)
        assert int(changed[0].sum()) == round(100 * share)


def test_presets_are_those_of_the_facts():
    gradeclip, cci, rise = (find_protocol(name) for name in ("gradeclip", "cci", "rise"))
    steps = [round(0.05 * k, 2) for k in range(1, 11)]
    assert gradeclip.grid("deletion").round(9).tolist() == [0.0, *steps]
    assert gradeclip.grid("insertion").round(9).tolist() == [*steps, 1.0]
    assert (gradeclip.space, gradeclip.native_side) == ("native", 640)
    assert (len(cci.grid("deletion")), cci.grid("insertion")[[0, 1, -1]].tolist()) == (
        101, [0.0, 0.005, 0.5])  # fmt: skip
    assert (cci.delete_fill, cci.insert_start, cci.score) == ("noise", "black", "accuracy@1")
    assert rise.grid("insertion")[[0, -1]].tolist() == [0.0, 1.0]
    assert (rise.delete_fill, rise.insert_start, rise.target) == ("mean", "blur", "prediction")
    assert len(rise.grid("deletion")) == 29


def test_changed_fields_are_told_and_the_seed_is_not_one():
    changed = find_protocol("cci").model_copy(update={"points": 10, "seed": 7})
    assert changed.changed() == {"points": 10}
    with pytest.raises(UnknownNameError, match="did you mean cci"):
        find_protocol("ccj")
