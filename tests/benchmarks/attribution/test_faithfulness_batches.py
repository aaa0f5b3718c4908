"""Every method that a small real CLIP bears gives maps and curves that can be kept and read."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.faithfulness import measure_curves, score_classes
from fieldmark.attribution.methods import METHODS, list_supported
from fieldmark.attribution.protocols import Protocol
from fieldmark.benchmarks.attribution.faithfulness_batches import (
    Measured,
    explain_batch,
    join_measured,
    read_measured,
    write_measured,
)
from fieldmark.benchmarks.attribution.faithfulness_material import cut_batches
from fieldmark.testing import FakeEncoder
from tests.attribution.plain_towers import load_tiny

QUICK = AttributionConfig(
    batch_size=16, clusters=3, rise_masks=4, gradient_steps=2, bottleneck_steps=1,
    bottleneck_samples=1, legrad_blocks=1, surgery_blocks=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def clip():
    return load_tiny("clip")


@pytest.mark.parametrize("method", METHODS)
def test_a_method_gives_finite_maps_of_each_images_own_text(clip, method):
    assert method in list_supported(clip)
    images = torch.randint(
        0, 256, (3, 3, clip.spec.image_size, clip.spec.image_size),
        generator=torch.Generator().manual_seed(0), dtype=torch.uint8,
    )  # fmt: skip
    texts = torch.nn.functional.normalize(clip.encode_text(["a cat", "a dog"]).float(), dim=1)
    texts = texts.detach()
    named = {"method": method, "config": QUICK}
    made = explain_batch(
        clip, images, texts, targets=torch.tensor([1, 0, 1]), ids=["a", "b", "c"], **named
    )
    assert made.maps.shape == (3, *clip.spec.grid)
    assert np.isfinite(made.maps).all()
    assert made.seconds > 0
    # The same images in another order and company get the same maps.
    other = explain_batch(
        clip, images[[2, 1]], texts, targets=torch.tensor([1, 0]), ids=["c", "b"], **named
    )
    assert other.maps == pytest.approx(made.maps[[2, 1]], abs=1e-3 * float(np.abs(made.maps).max()))
    score = score_classes(texts, torch.tensor([1, 0, 1]), scale=10.0)
    curves = measure_curves(
        clip, list(images), made.maps, ids=["a", "b", "c"], score=score, protocol=Protocol(points=2)
    )
    assert curves.deletion["cosine"].shape == (3, 3)


def make_measured(rows, seed):
    random = np.random.default_rng(seed)
    return Measured(
        rows=np.array(rows),
        maps=random.random((len(rows), 2, 3)).astype(np.float32),
        curves={"deletion/cosine": random.random((len(rows), 4))},
        localisation={"energy": np.full(len(rows), np.nan)},
        seconds=1.5,
        forwards=8.0,
        backwards=0.5,
        curve_forwards=6.0,
    )


def test_what_is_kept_is_read_again_unless_it_is_of_other_images(tmp_path):
    path, measured = tmp_path / "a" / "0.safetensors", make_measured([3, 1], 0)
    write_measured(path, measured)
    again = read_measured(path, rows=np.array([3, 1]))
    assert again is not None
    assert again.maps.tolist() == measured.maps.tolist()
    assert again.curves["deletion/cosine"].tolist() == measured.curves["deletion/cosine"].tolist()
    assert np.isnan(again.localisation["energy"]).all()
    assert (again.seconds, again.forwards, again.backwards) == (1.5, 8.0, 0.5)
    assert read_measured(path, rows=np.array([1, 3])) is None


def test_batches_are_joined_in_the_order_of_the_table():
    first, second = make_measured([2, 0], 0), make_measured([1], 1)
    joined = join_measured([first, second], count=3)
    assert joined.maps[2].tolist() == first.maps[0].tolist()
    assert joined.maps[1].tolist() == second.maps[0].tolist()
    assert joined.seconds == 3.0
    with pytest.raises(ValueError, match="each image once"):
        join_measured([first], count=3)


def test_batches_hold_one_shape_and_every_row_once():
    shapes = [(3, 8, 8), (3, 8, 4)] * 5
    batches = cut_batches(shapes, [k % 3 for k in range(10)], size=3)
    assert sorted(np.concatenate(batches).tolist()) == list(range(10))
    assert all(len({shapes[row] for row in rows}) == 1 and len(rows) <= 3 for rows in batches)


def test_a_null_of_a_fake_encoder_needs_no_pieces():
    encoder = FakeEncoder()
    made = explain_batch(
        encoder, torch.zeros(2, 3, 8, 8), encoder.encode_text(["red"]),
        targets=torch.tensor([0, 0]), method="random", config=QUICK, ids=["a", "b"],
    )  # fmt: skip
    assert (made.maps[0] != made.maps[1]).any()
