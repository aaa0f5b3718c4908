"""Cached embedding: equal to the encoder's own, decoded once, resumable, keyed by content."""

import hashlib
import json
import threading
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file, save_file

from fieldmark.core.errors import ImageError, UnknownNameError
from fieldmark.models import embed
from fieldmark.models.embed import Precision, embed_batches, embed_images
from fieldmark.testing import FakeEncoder


class FakeImages:
    """Images in memory that count how often they are read; colour None cannot be read."""

    def __init__(self, colours, *, size=(16, 16)):
        self.colours, self.size, self.reads = list(colours), size, []

    def __len__(self):
        return len(self.colours)

    def read(self, index, /):
        self.reads.append(index)
        if self.colours[index] is None:
            raise ImageError("is not an image", where=f"image {index}")
        return Image.new("RGB", self.size, self.colours[index])

    def hashes(self):
        return [hashlib.sha256(str(colour).encode()).hexdigest() for colour in self.colours]


def _colours(count, seed=0):
    return [tuple(c) for c in np.random.default_rng(seed).integers(1, 255, (count, 3)).tolist()]


def _direct(encoder, images):
    pixels = [encoder.preprocess(images.read(i)) for i in range(len(images))]
    with torch.inference_mode():
        return encoder.encode_image(torch.stack(pixels)).numpy()


def test_equals_the_encoder_in_order():
    images = FakeImages(_colours(37))
    encoder = FakeEncoder()
    result = embed_images(encoder, images, batch_size=8, precision="fp32")
    assert result.values == pytest.approx(_direct(encoder, images), abs=1e-6)
    assert result.values.dtype == np.float32
    assert (result.computed, result.reused, result.unreadable) == (37, 0, ())


def test_bf16_is_near_fp32_and_still_float32():
    images = FakeImages(_colours(20))
    low = embed_images(FakeEncoder(), images, precision="bf16").values
    high = embed_images(FakeEncoder(), images, precision="fp32").values
    assert low.dtype == np.float32
    assert (low != high).any()
    assert (low * high).sum(axis=1) == pytest.approx(np.ones(20), abs=1e-3)


def test_the_encoder_stays_as_it_is():
    encoder = FakeEncoder()
    embed_images(encoder, FakeImages(_colours(3)), precision="bf16")
    assert encoder.image_tower.mix.weight.dtype == torch.float32


def test_one_hash_is_read_once():
    colours = _colours(5)
    images = FakeImages(colours * 4)
    result = embed_images(FakeEncoder(), images)
    assert sorted(images.reads) == [0, 1, 2, 3, 4]
    assert result.computed == 5
    assert (result.values[:5] == result.values[15:]).all()


def test_no_images():
    result = embed_images(FakeEncoder(), FakeImages([]))
    assert result.values.shape == (0, 6)


def test_cache_is_shared_by_tables(tmp_path):
    colours = _colours(10)
    first = embed_images(FakeEncoder(), FakeImages(colours[:7]), cache=tmp_path)
    images = FakeImages(colours[::-1])
    second = embed_images(FakeEncoder(), images, cache=tmp_path)
    assert (second.reused, second.computed) == (7, 3)
    assert sorted(images.reads) == [0, 1, 2]
    assert (second.values[::-1][:7] == first.values).all()


def test_cache_is_keyed_by_weights_and_precision(tmp_path):
    images = FakeImages(_colours(4))
    embed_images(FakeEncoder(), images, cache=tmp_path, precision="fp32")
    other = embed_images(FakeEncoder(background=0.5), images, cache=tmp_path, precision="fp32")
    assert other.computed == 4
    other = embed_images(FakeEncoder(), images, cache=tmp_path, precision="bf16")
    assert other.computed == 4
    folders = sorted(path for path in tmp_path.iterdir())
    assert len(folders) == 3
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in folders]
    assert sorted(m["dtype"] for m in manifests) == ["bfloat16", "float32", "float32"]
    assert len({m["fingerprint"] for m in manifests}) == 2
    assert {m["resize"] for m in manifests} == {"squash"}


def test_stopped_run_keeps_what_it_had(tmp_path, monkeypatch):
    monkeypatch.setattr(embed, "SHARD", 8)
    colours = _colours(40)
    images = FakeImages(colours)

    def stop(done, total):
        if done >= 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed_images(FakeEncoder(), images, cache=tmp_path, batch_size=4, progress=stop)
    again = FakeImages(colours)
    result = embed_images(FakeEncoder(), again, cache=tmp_path, batch_size=4)
    assert (result.reused, result.computed) == (20, 20)
    assert sorted(again.reads) == list(range(20, 40))
    whole = embed_images(FakeEncoder(), FakeImages(colours), batch_size=4).values
    assert result.values == pytest.approx(whole, abs=1e-6)
    assert not list(tmp_path.rglob(".part-*"))


def test_two_runs_may_write_the_same(tmp_path):
    colours = _colours(60)
    results = {}

    def work(name):
        images = FakeImages(colours)
        results[name] = embed_images(FakeEncoder(), images, cache=tmp_path, batch_size=4).values

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results["a"] == pytest.approx(results["b"], abs=1e-6)
    assert embed_images(FakeEncoder(), FakeImages(colours), cache=tmp_path).computed == 0


@pytest.mark.parametrize("how", ["bit", "cut", "unsealed"])
def test_a_damaged_shard_is_never_used_and_made_again(tmp_path, caplog, how):
    images = FakeImages(_colours(3))
    before = embed_images(FakeEncoder(), images, cache=tmp_path)
    [shard] = tmp_path.rglob("shard-*")
    whole = shard.read_bytes()
    bad = bytearray(whole)
    bad[-3] ^= 64
    if how == "unsealed":
        save_file(load_file(shard), shard, metadata={"images": "[]"})
    else:
        shard.write_bytes(bad if how == "bit" else whole[:-4])
    after = embed_images(FakeEncoder(), images, cache=tmp_path)
    assert after.computed == 3
    assert np.array_equal(after.values, before.values)
    assert shard.read_bytes() == whole
    [record] = caplog.records
    assert f"{shard.name}: is damaged or of an older fieldmark" in record.getMessage()
    assert embed_images(FakeEncoder(), images, cache=tmp_path).reused == 3


def test_unreadable_image_stops_the_run():
    images = FakeImages([*_colours(3), None])
    with pytest.raises(ImageError, match="image 3: is not an image"):
        embed_images(FakeEncoder(), images)


def test_unreadable_images_are_skipped_and_listed(tmp_path):
    first, second = _colours(2)
    images = FakeImages([first, None, second, None])
    result = embed_images(FakeEncoder(), images, skip_unreadable=True, cache=tmp_path)
    assert [image.index for image in result.unreadable] == [1, 3]
    assert "is not an image" in result.unreadable[0].reason
    assert np.isnan(result.values[[1, 3]]).all()
    assert np.isfinite(result.values[[0, 2]]).all()
    assert result.computed == 2
    again = embed_images(FakeEncoder(), images, skip_unreadable=True, cache=tmp_path)
    assert [image.index for image in again.unreadable] == [1, 3]


def test_other_errors_are_not_swallowed():
    class FakeBroken(FakeImages):
        def read(self, index, /):
            raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        embed_images(FakeEncoder(), FakeBroken(_colours(3)), skip_unreadable=True)


def test_progress_ends_at_the_total():
    seen = []
    images = FakeImages(_colours(10) * 2)
    embed_images(FakeEncoder(), images, batch_size=4, progress=lambda *step: seen.append(step))
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_reading_stays_near_the_encoder():
    """Memory is bounded: no more than two batches and one are read ahead."""
    images = FakeImages(_colours(200))
    ahead = []

    class FakeWatcher(FakeEncoder):
        def encode_image(self, image_BCHW):
            ahead.append(len(images.reads))
            return super().encode_image(image_BCHW)

    embed_images(FakeWatcher(), images, batch_size=10, precision="fp32")
    assert all(reads <= 10 * (call + 1) + 21 for call, reads in enumerate(ahead))
    assert len(ahead) == 20


def test_shapes_of_a_naflex_encoder_are_batched_apart():
    class FakeNaflex(FakeEncoder):
        def preprocess(self, image):
            side = 8 if image.getpixel((0, 0))[0] > 128 else 16
            return torch.full((3, side, 8), image.getpixel((0, 0))[0], dtype=torch.uint8)

        def encode_image(self, image_BCHW):
            shape = torch.tensor([[image_BCHW.shape[2], 8.0, 0, 0, 0, 0]])
            return shape.expand(len(image_BCHW), -1)

    images = FakeImages([(200, 0, 0), (50, 0, 0), (210, 0, 0), (60, 0, 0)])
    result = embed_images(FakeNaflex(), images, precision="fp32")
    assert result.values[:, 0].tolist() == [8, 16, 8, 16]


def test_unknown_precision_lists_the_known():
    with pytest.raises(UnknownNameError, match="bf16, fp16, fp32"):
        embed_images(FakeEncoder(), FakeImages(_colours(1)), precision=cast(Precision, "int4"))


def test_batches_in_memory():
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(0, 255, (10, 3, 8, 8), dtype=np.uint8))
    encoder = FakeEncoder()
    values = embed_batches(encoder, iter(pixels.split(4)), precision="fp32")
    assert values == pytest.approx(encoder.encode_image(pixels).detach().numpy(), abs=1e-6)
    assert embed_batches(encoder, []).shape == (0, 6)
