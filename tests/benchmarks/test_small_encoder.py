"""The small encoder on a donor of random weights, with lessons of a few images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fieldmark.benchmarks.controlled import small_encoder
from fieldmark.benchmarks.controlled.small_encoder import (
    SIDE,
    build_small_encoder,
    open_small_encoder,
)
from fieldmark.core.seeds import generator
from fieldmark.data.controlled.canvases import draw_images
from fieldmark.data.controlled.images import Setting
from fieldmark.data.controlled.objects import open_objects
from fieldmark.models.load import load_encoder
from tests.data.controlled.fake_packages import fake_packages
from tests.models import tiny


@pytest.fixture(scope="module", autouse=True)
def tiny_donor(tmp_path_factory):
    donor = load_encoder(
        f"local-dir:{tiny.write_open_clip(tmp_path_factory.mktemp('donor') / 'resnet', 'resnet')}"
    )
    with (
        fake_packages(tmp_path_factory.mktemp("cache")),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr(small_encoder, "load_encoder", lambda uri: donor)
        patch.setattr(small_encoder, "_LESSONS", {"stamps": (("digits",), 1)})
        patch.setattr(small_encoder, "_IMAGES", 120)
        patch.setattr(small_encoder, "_DRAWS", 3)
        yield donor


def test_its_texts_are_the_donors_and_its_weights_of_a_seed(tiny_donor):
    state = torch.random.get_rng_state()
    one, two, other = (build_small_encoder(seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert one.spec.fingerprint == two.spec.fingerprint != other.spec.fingerprint
    assert (one.spec.image_size, one.spec.dim) == (SIDE, tiny_donor.spec.dim)
    torch.testing.assert_close(one.encode_text(tiny.TEXTS), tiny_donor.encode_text(tiny.TEXTS))
    embedded = one.encode_image(tiny.images(SIDE))
    torch.testing.assert_close(embedded.norm(dim=-1), torch.ones(2))


def test_lessons_are_learned_once_and_kept(monkeypatch):
    told = []
    trained = open_small_encoder("stamps", report=lambda *step: told.append(step))
    assert told[-1][0] == told[-1][1] > 0
    assert trained.spec.uri == "small:stamps"
    start = build_small_encoder()
    assert trained.spec.fingerprint != start.spec.fingerprint

    def refuse(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(small_encoder, "mitigate", refuse)
    again = open_small_encoder("stamps")
    assert again.spec == trained.spec
    pixels = tiny.images(SIDE)
    torch.testing.assert_close(again.encode_image(pixels), trained.encode_image(pixels))
    # What the lessons are is part of what is kept.
    monkeypatch.setattr(small_encoder, "_LESSONS", {"stamps": (("digits",), 2)})
    with pytest.raises(AssertionError, match="trained again"):
        open_small_encoder("stamps")


def test_it_is_saved_as_one_model_that_open_clip_loads(tmp_path):
    encoder = build_small_encoder(seed=3)
    encoder.save(tmp_path / "model")
    loaded = load_encoder(f"local-dir:{tmp_path / 'model'}")
    pixels = tiny.images(SIDE, count=3)
    torch.testing.assert_close(loaded.encode_image(pixels), encoder.encode_image(pixels))
    torch.testing.assert_close(loaded.encode_text(tiny.TEXTS), encoder.encode_text(tiny.TEXTS))
    assert loaded.spec.image_size == SIDE
    image = tiny.photograph(90, 70)
    assert torch.equal(loaded.preprocess(image), encoder.preprocess(image))


def test_a_window_holds_the_whole_object():
    setting = Setting(
        domain="digits",
        feature="stripes",
        classes=("one", "two"),
        target="one",
        correlation=1.0,
    )
    objects = open_objects("digits")
    images = draw_images(setting, objects, fold="training", count=40, side=SIDE, tied=False)
    before = images.pixels.read(np.arange(40))
    after = small_encoder._zoom(images, random=generator(0, "zoom"))
    assert after.shape == before.shape
    assert after.dtype == torch.uint8
    same = (after == before).flatten(1).all(1)
    # Half are left as they are, and no window is emptier than the whole.
    assert 8 <= int(same.sum()) <= 32
    shown = [pixels.float().mean() for pixels in (before[~same], after[~same])]
    assert shown[1] > shown[0]
    # The images themselves are as they were.
    assert torch.equal(images.pixels.read(np.arange(40)), before)
