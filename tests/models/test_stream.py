"""Embedding of streams: the encoder's own vectors, in order, a shard at a time, resumable."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file

from fieldmark.core.errors import ImageError, InputError
from fieldmark.models.stream import embed_stream, read_embedded
from fieldmark.testing import FakeEncoder


@dataclasses.dataclass(frozen=True)
class FakeImage:
    """An image whose bytes are its colour; b"" cannot be read."""

    id: str
    data: bytes
    label: str = ""
    split: str = ""


def make(count, *, seed=0):
    colours = np.random.default_rng(seed).integers(1, 255, (count, 3), dtype=np.uint8)
    return [FakeImage(f"s/{i}", colour.tobytes(), "ab"[i % 2], "test")
            for i, colour in enumerate(colours)]  # fmt: skip


def decode(image):
    if not image.data:
        raise ImageError("is not an image", where=image.id)
    return Image.new("RGB", (16, 16), tuple(image.data))


def embed(images, out, **options):
    settings = {"batch_size": 4, "shard_size": 10, "precision": "fp32", **options}
    encoder = settings.pop("encoder", FakeEncoder())
    return embed_stream(encoder, images, out=out, decode=settings.pop("decode", decode), **settings)


def read(out):
    return np.concatenate(
        [load_file(path)["embeddings"] for path in sorted(out.glob("shard-*.safetensors"))]
    )


def bytes_of(out):
    return {path.name: path.read_bytes() for path in out.iterdir()}


def test_equals_the_encoder_in_order(tmp_path):
    images, encoder = make(37), FakeEncoder()
    summary = embed(iter(images), tmp_path)
    pixels = torch.stack([encoder.preprocess(decode(image)) for image in images])
    with torch.inference_mode():
        assert read(tmp_path) == pytest.approx(encoder.encode_image(pixels).numpy(), abs=1e-6)
    assert (summary.images, summary.shards, summary.reused, summary.unreadable) == (37, 4, 0, 0)
    shards = list(read_embedded(tmp_path))
    assert [len(shard.rows) for shard in shards] == [10, 10, 10, 7]
    rows = [row for shard in shards for row in shard.rows]
    assert [row.id for row in rows] == [image.id for image in images]
    assert rows[1] == ("s/1", "b", "test", "")


def test_no_images(tmp_path):
    assert embed([], tmp_path).images == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [0, 9, 10, 25, 36])
def test_a_run_that_dies_goes_on_with_the_same_bytes(tmp_path, stop):
    images = make(37)
    whole = embed(images, tmp_path / "whole")

    def die():
        yield from images[:stop]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        embed(die(), tmp_path / "part")
    decoded = []

    def watch(image):
        decoded.append(image.id)
        return decode(image)

    again = embed(images, tmp_path / "part", decode=watch)
    assert again.reused == stop // 10
    assert sorted(decoded) == sorted(image.id for image in images[stop // 10 * 10 :])
    assert bytes_of(tmp_path / "part") == bytes_of(tmp_path / "whole")
    assert (again.content, again.images) == (whole.content, whole.images)


def test_a_damaged_shard_alone_is_made_again(tmp_path):
    images = make(37)
    embed(images, tmp_path)
    before = bytes_of(tmp_path)
    path = tmp_path / "shard-000001.safetensors"
    for spoilt in (path.read_bytes()[:-4], path.read_bytes()[:-1] + b"\x7f", b"", b"words"):
        path.write_bytes(spoilt)
        assert embed(images, tmp_path).reused == 3
        assert bytes_of(tmp_path) == before
    path.write_bytes(b"words")
    with pytest.raises(InputError, match=r"shard-000001.*is not a whole shard"):
        list(read_embedded(tmp_path))


@pytest.mark.parametrize(
    "change", ["bytes", "id", "label", "split", "order", "fewer", "more", "shards fewer"]
)
def test_another_stream_is_refused(tmp_path, change):
    images = make(37)
    embed(images, tmp_path)
    other = {
        "bytes": [*images[:5], dataclasses.replace(images[5], data=b"abc"), *images[6:]],
        "id": [*images[:5], dataclasses.replace(images[5], id="x"), *images[6:]],
        "label": [*images[:5], dataclasses.replace(images[5], label="z"), *images[6:]],
        "split": [*images[:5], dataclasses.replace(images[5], split="val"), *images[6:]],
        "order": [images[1], images[0], *images[2:]],
        "fewer": images[:35],
        "more": [*images, FakeImage("new", b"abc")],
        "shards fewer": images[:20],
    }[change]
    with pytest.raises(InputError, match=r"was made of other images or labels than the stream"):
        embed(other, tmp_path)


def test_other_weights_embed_anew(tmp_path):
    images = make(12)
    embed(images, tmp_path)
    assert embed(images, tmp_path, encoder=FakeEncoder(background=0.5)).reused == 0
    assert embed(images, tmp_path, encoder=FakeEncoder(background=0.5)).reused == 2
    assert (
        embed(images, tmp_path, encoder=FakeEncoder(background=0.5), precision="bf16").reused == 0
    )


def test_unreadable_images_stop_or_are_recorded(tmp_path):
    images = make(12)
    images[3] = FakeImage("bad", b"")
    with pytest.raises(ImageError, match="bad: is not an image"):
        embed(images, tmp_path)
    summary = embed(images, tmp_path, skip_unreadable=True)
    assert (summary.images, summary.unreadable) == (12, 1)
    assert summary.problems == {"bad": "bad: is not an image"}
    values = read(tmp_path)
    assert np.isnan(values).all(axis=1).tolist() == [i == 3 for i in range(12)]
    [row] = [row for shard in read_embedded(tmp_path) for row in shard.rows if row.problem]
    assert row.id == "bad"


def test_other_errors_are_not_swallowed(tmp_path):
    def broken(image):
        raise RuntimeError("a fault of ours")

    with pytest.raises(RuntimeError, match="a fault of ours"):
        embed(make(3), tmp_path, decode=broken, skip_unreadable=True)


def test_reading_stays_near_the_encoder(tmp_path):
    """Memory is bounded: no more than two batches and one are read ahead."""
    taken, ahead = [], []

    def watch():
        for image in make(200):
            taken.append(image)
            yield image

    class FakeWatcher(FakeEncoder):
        def encode_image(self, image_BCHW):
            ahead.append(len(taken))
            return super().encode_image(image_BCHW)

    embed(watch(), tmp_path, encoder=FakeWatcher(), batch_size=10, shard_size=100)
    assert len(ahead) == 20
    assert all(reads <= 10 * (call + 1) + 21 for call, reads in enumerate(ahead))


def test_progress_ends_at_the_total(tmp_path):
    seen: list[int] = []
    embed(make(12), tmp_path, progress=seen.append)
    assert seen == [4, 8, 10, 10, 12, 12]


def test_a_shard_says_what_it_is(tmp_path):
    embed(make(3), tmp_path)
    with safe_open(tmp_path / "shard-000000.safetensors", framework="numpy") as file:
        words = file.metadata()
    assert json.loads(words["rows"])[0] == ["s/0", "a", "test", ""]
    assert len(words["content"]) == len(words["key"]) == len(words["fieldmark_sha256"]) == 64


def test_shapes_of_a_naflex_encoder_are_batched_apart(tmp_path):
    class FakeNaflex(FakeEncoder):
        def preprocess(self, image):
            side = 8 if image.getpixel((0, 0))[0] > 128 else 16
            return torch.full((3, side, 8), 1, dtype=torch.uint8)

        def encode_image(self, image_BCHW):
            shape = torch.tensor([[image_BCHW.shape[2], 8.0, 0, 0, 0, 0]])
            return shape.expand(len(image_BCHW), -1)

    images = [FakeImage(str(red), bytes([red, 0, 0])) for red in (200, 50, 210, 60)]
    embed(images, tmp_path, encoder=FakeNaflex())
    assert read(tmp_path)[:, 0].tolist() == [8, 16, 8, 16]
