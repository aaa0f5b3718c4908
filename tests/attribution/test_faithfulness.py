"""Deletion and insertion curves on encoders whose scores can be worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fieldmark.attribution.faithfulness import (
    embed_ends,
    measure_curves,
    score_classes,
    score_retrieval,
)
from fieldmark.attribution.protocols import PROTOCOLS, Protocol
from fieldmark.core.errors import InputError
from fieldmark.testing import FakeEncoder

TEXTS = ["red", "green", "blue", "yellow", "cyan", "magenta"]


def draw(colour, ground="blue", size=(8, 8)):
    image = Image.new("RGB", size, ground)
    width, height = size
    image.paste(colour, (width // 4, height // 4, 3 * width // 4, 3 * height // 4))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def object_map(sign=1.0):
    values = np.full((4, 4), -sign, np.float32)
    values[1:3, 1:3] = sign
    return values


@pytest.fixture
def encoder():
    return FakeEncoder(background=0.0)


def measure(encoder, images, maps, protocol, **more):
    texts = encoder.encode_text(TEXTS)
    score = score_classes(texts, torch.zeros(len(images), dtype=torch.long), scale=10.0)
    ids = [str(i) for i in range(len(images))]
    return measure_curves(
        encoder, images, np.stack(maps), ids=ids, score=score, protocol=protocol, **more
    )


def test_the_object_first_falls_and_rises_faster_than_the_object_last(encoder):
    protocol = Protocol(points=8, delete_fill="black", insert_start="black")
    found = measure(encoder, [draw("red")] * 2, [object_map(), object_map(-1)], protocol)
    deletion, insertion = found.deletion["probability"], found.insertion["probability"]
    assert (deletion[0] <= deletion[1] + 1e-9).all()
    assert (insertion[0] >= insertion[1] - 1e-9).all()
    assert deletion[0].mean() < deletion[1].mean() - 0.3
    # Half of the pixels hold the whole object, so from there on nothing is left to lose or to win.
    assert deletion[0, 4:] == pytest.approx(deletion[0, -1])
    assert insertion[0, 4:] == pytest.approx(insertion[0, -1], abs=1e-4)


def test_curves_start_and_end_with_what_all_methods_share(encoder):
    protocol, images = Protocol(points=5), [draw("red"), draw("green")]
    ends = embed_ends(encoder, images, ids=["0", "1"], protocol=protocol)
    found = measure(encoder, images, [object_map()] * 2, protocol, ends=ends)
    red = encoder.encode_text(["red"])[0]
    assert found.deletion["cosine"][:, 0] == pytest.approx((ends.whole @ red).numpy())
    assert found.insertion["cosine"][:, -1] == pytest.approx((ends.whole @ red).numpy())
    assert found.deletion["cosine"][:, -1] == pytest.approx((ends.deleted @ red).numpy())
    assert found.insertion["cosine"][:, 0] == pytest.approx((ends.start @ red).numpy())
    assert found.forwards == 2 * 4  # the ends are shared


@pytest.mark.parametrize("name", PROTOCOLS)
def test_every_preset_gives_a_point_for_each_x(encoder, name):
    protocol = PROTOCOLS[name].model_copy(update={"points": 4, "native_side": 12})
    images = [draw("red", size=(16, 12) if protocol.space == "native" else (8, 8))]
    found = measure(encoder, images, [object_map()], protocol)
    for curve in ("deletion", "insertion"):
        assert found.of(curve)["cosine"].shape == (1, len(protocol.grid(curve)))
        assert np.isfinite(found.of(curve)["probability"]).all()


def test_batches_do_not_change_curves(encoder):
    protocol, images = Protocol(points=6), [draw(c) for c in ("red", "green", "yellow")]
    maps = [object_map(), object_map(-1), object_map()]
    whole = measure(encoder, images, maps, protocol, batch_size=100)
    small = measure(encoder, images, maps, protocol, batch_size=2)
    for curve in ("deletion", "insertion"):
        for name, values in whole.of(curve).items():
            assert values == pytest.approx(small.of(curve)[name], abs=1e-6)


def test_an_image_has_one_curve_whatever_else_is_measured(encoder):
    protocol, image = Protocol(points=4), draw("red")
    alone = measure(encoder, [image], [object_map()], protocol)
    among = measure(encoder, [image, draw("cyan")], [object_map(), object_map(-1)], protocol)
    assert alone.deletion["cosine"][0] == pytest.approx(among.deletion["cosine"][0], abs=1e-6)


def test_only_the_order_of_a_map_matters(encoder):
    protocol, image = Protocol(points=6), draw("red")
    values = np.random.default_rng(0).random((4, 4)).astype(np.float32)
    first = measure(encoder, [image], [values], protocol)
    second = measure(encoder, [image], [values * 40 - 7], protocol)
    assert first.deletion["cosine"] == pytest.approx(second.deletion["cosine"], abs=1e-6)


def test_accuracy_counts_ranks_as_argmax_does():
    score = score_classes(torch.eye(7), torch.tensor([0, 6]), scale=1.0)
    tied = torch.full((2, 7), 0.1)
    found = score(tied, torch.tensor([0, 1]))
    assert found["accuracy@1"].tolist() == [1.0, 0.0]
    assert found["accuracy@5"].tolist() == [1.0, 0.0]
    assert "accuracy@5" not in score_classes(torch.eye(5), torch.tensor([0]), scale=1.0)(
        torch.ones(1, 5), torch.tensor([0])
    )


def test_retrieval_agrees_with_counting_by_hand():
    random = torch.Generator().manual_seed(0)
    unit = torch.nn.functional.normalize
    captions, gallery = (unit(torch.randn(n, 5, generator=random), dim=1) for n in (7, 9))
    owners = torch.tensor([0, 1, 2, 3, 4, 5, 6, 0, 1])
    places = torch.tensor([7, 2])
    changed = unit(torch.randn(2, 5, generator=random), dim=1)
    score = score_retrieval(captions, gallery, owners=owners, places=places, scale=1.0)
    found = score(changed, torch.tensor([0, 1]))
    for row, place in enumerate(places.tolist()):
        own = int(owners[place])
        texts = (captions @ changed[row]).argsort(descending=True).tolist()
        mine = float(changed[row] @ captions[own])
        rivals = [
            i for i in range(9)
            if owners[i] != own and float(gallery[i] @ captions[own]) > mine
        ]  # fmt: skip
        for k in (1, 5):
            assert bool(found[f"text-retrieval@{k}"][row]) == (own in texts[:k])
            assert bool(found[f"image-retrieval@{k}"][row]) == (len(rivals) < k)


def test_numbers_that_differ_and_maps_that_are_not_finite_are_refused(encoder):
    with pytest.raises(ValueError, match="2 images, 1 maps"):
        measure(encoder, [draw("red")] * 2, [object_map()], Protocol())
    with pytest.raises(InputError, match="not finite"):
        measure(encoder, [draw("red")], [object_map() * np.nan], Protocol())
