"""Stored images and their batches: decoded once, shuffled, flipped, mixed, shared by processes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from fieldmark.core.errors import ImageError, NotApplicableError, UnsupportedEncoderError
from fieldmark.methods.fine_tuning import classify_softly
from fieldmark.methods.images import (
    ImageBatches,
    embed_task_images,
    make_targets,
    mix_images,
    open_task_images,
    weigh_classes,
)
from fieldmark.methods.processes import Processes
from fieldmark.testing import FakeEncoder
from tests.methods.task_material import draw_table

CPU = torch.device("cpu")


@pytest.fixture
def table(tmp_path):
    return draw_table(tmp_path).select("train")


@pytest.fixture
def images(table, tmp_path):
    return open_task_images(table, FakeEncoder(), cache=tmp_path / "cache")


def source(images, **changes):
    target = torch.arange(len(images))
    return ImageBatches(images, target, **{"batch_size": 5, "flip": False, "seed": 3, **changes})


class CountingEncoder(FakeEncoder):
    """Counts how many images it prepares."""

    prepared = 0

    def preprocess(self, image):
        self.prepared += 1
        return super().preprocess(image)


class UnevenEncoder(FakeEncoder):
    """Stands for a NaFlex encoder: sizes differ."""

    prepared = 0

    def preprocess(self, image):
        self.prepared += 1
        return super().preprocess(image)[:, : 8 - 2 * (self.prepared % 2)]


def test_images_are_prepared_once(table, tmp_path):
    first, second = CountingEncoder(), CountingEncoder(background=0.0)
    images = open_task_images(table, first, cache=tmp_path / "cache")
    again = open_task_images(table, second, cache=tmp_path / "cache")
    assert (first.prepared, second.prepared) == (len(table), 0)
    for row in (0, 7, 23):
        wanted = FakeEncoder().preprocess(table.read(row))
        assert torch.equal(images.read(np.array([row]))[0], wanted)
        assert torch.equal(again.read(np.array([row]))[0], wanted)


def test_stored_images_embed_as_the_encoder_does(table, images):
    wanted = torch.stack([FakeEncoder().preprocess(table.read(i)) for i in range(len(table))])
    expected = FakeEncoder().encode_image(wanted).detach().numpy()
    np.testing.assert_allclose(
        embed_task_images(FakeEncoder(), images, batch_size=7), expected, atol=1e-6
    )


def test_images_of_several_sizes_are_refused(table, tmp_path):
    with pytest.raises(UnsupportedEncoderError, match="images of one size"):
        open_task_images(table, UnevenEncoder(), cache=tmp_path / "other")


def test_one_class_is_refused(table, tmp_path):
    one = table.take(np.flatnonzero(table.labels == 0))
    with pytest.raises(NotApplicableError, match="needs 2 classes, task has 1"):
        open_task_images(one, FakeEncoder(), cache=tmp_path / "cache")


def test_a_broken_image_is_named(table, tmp_path):
    table.paths[3].write_bytes(b"no image")
    with pytest.raises(ImageError, match=table.paths[3].name):
        open_task_images(table, FakeEncoder(), cache=tmp_path / "other")


def test_a_part_without_a_class_is_refused(images):
    with pytest.raises(NotApplicableError, match="none of class 1"):
        images.take(np.flatnonzero(images.codes == 0))


def test_an_epoch_shows_every_image_once_in_a_new_order(images):
    batches = source(images)
    assert batches.steps_an_epoch == 5
    epochs = [
        torch.cat(
            [batches.draw(5 * e + s, processes=Processes(), device=CPU).target for s in range(5)]
        ).tolist()
        for e in range(2)
    ]
    assert [sorted(epoch) for epoch in epochs] == [list(range(24))] * 2
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_processes_share_a_batch(images, mixup):
    target = functional.one_hot(torch.arange(24)).float()
    batches = ImageBatches(images, target, batch_size=5, mixup=mixup, seed=3)
    whole = batches.draw(2, processes=Processes(), device=CPU)
    parts = [batches.draw(2, processes=Processes(r, 2), device=CPU) for r in range(2)]
    assert [part.total for part in parts] == [5, 5]
    for rank, part in enumerate(parts):
        assert torch.equal(part.image, whole.image[rank::2])
        assert torch.equal(part.target, whole.target[rank::2])


def test_flips_mirror_about_half_of_the_images(images):
    batches = source(images, flip=True, batch_size=24)
    turned = 0
    for step in range(4):
        batch = batches.draw(step, processes=Processes(), device=CPU)
        plain = images.read(batch.target.numpy())
        for seen, own in zip(batch.image, plain, strict=True):
            flipped = torch.equal(seen, own.flip(-1))
            assert flipped or torch.equal(seen, own)
            turned += flipped
    assert 30 < turned < 66


def test_mixup_mixes_images_and_targets_alike(images):
    target = functional.one_hot(torch.arange(24)).float()
    batches = ImageBatches(images, target, batch_size=6, flip=False, mixup=1.0, seed=3)
    batch = batches.draw(1, processes=Processes(), device=CPU)
    everything = images.read(np.arange(24)).float()
    expected = torch.einsum("bn,nchw->bchw", batch.target, everything)
    torch.testing.assert_close(batch.target.sum(1), torch.ones(6))
    assert float((batch.image.float() - expected).abs().max()) <= 0.51


@given(share=st.floats(0, 1), values=st.tuples(st.integers(0, 255), st.integers(0, 255)))
def test_mixed_pixels_lie_between(share, values):
    first, second = (torch.full((1, 3, 1, 1), v, dtype=torch.uint8) for v in values)
    mixed = int(mix_images(first, second, share=share)[0, 0, 0, 0])
    assert min(values) <= mixed <= max(values)


def test_soft_targets_are_torchs_label_smoothing():
    logits, codes = torch.randn(6, 3), np.array([0, 1, 2, 0, 1, 1])
    loss = classify_softly(torch.nn.Identity())
    target = make_targets(codes, weights=np.ones(3), smoothing=0.2)
    expected = functional.cross_entropy(
        logits, torch.from_numpy(codes), label_smoothing=0.2, reduction="none"
    )
    torch.testing.assert_close(loss(logits, target), expected)


def test_weighted_targets_are_torchs_class_weights():
    logits, codes = torch.randn(6, 3), np.array([0, 1, 2, 0, 1, 1])
    weights = weigh_classes(codes)
    assert weights[codes].mean() == pytest.approx(1.0)
    found = classify_softly(torch.nn.Identity())(logits, make_targets(codes, weights=weights))
    expected = functional.cross_entropy(
        logits,
        torch.from_numpy(codes),
        weight=torch.from_numpy(weights).float(),
        reduction="none",
    )
    torch.testing.assert_close(found, expected)


def test_pixels_are_keyed_by_what_prepares_them(table, tmp_path):
    class Darker(CountingEncoder):
        """Prepares its images otherwise, as its spec says."""

        @property
        def spec(self):
            return dataclasses.replace(super().spec, interpolation="nearest")

    for encoder in (CountingEncoder(), Darker()):
        open_task_images(table, encoder, cache=tmp_path / "cache")
        assert encoder.prepared == len(table)
