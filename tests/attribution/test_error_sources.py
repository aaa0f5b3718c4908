"""Error sources on an encoder whose scores can be worked out by hand, and on a tiny ViT."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fieldmark.attribution.error_sources import (
    divide_patches,
    encode_parts,
    judge_maps,
    judge_removals,
    measure_drops,
    paint_background,
    touch_patches,
)
from fieldmark.core.errors import MaskError, UnsupportedEncoderError
from fieldmark.metrics.overlap import UNRESOLVABLE
from fieldmark.testing import FakeEncoder

CENTRE = torch.zeros(1, 8, 8)
CENTRE[:, 2:6, 2:6] = 1


def paint(inside, outside):
    image = Image.new("RGB", (8, 8), outside)
    image.paste(inside, (2, 2, 6, 6))
    return FakeEncoder().preprocess(image)[None]


def judge(texts, image, *, score="cosine", draws=0):
    encoder = FakeEncoder()
    parts = divide_patches(CENTRE, grid=(4, 4))
    embedded = encode_parts(encoder, image, parts, draws=draws, ids=["a"])
    classes = encoder.encode_text(texts).numpy()
    predictions = (embedded[:, 0, 0] @ classes.T).argmax(axis=1)
    drops = measure_drops(embedded, classes, predictions=predictions, score=score, logit_scale=10.0)
    return predictions[0], drops, judge_removals(drops, parts)


@pytest.mark.parametrize("score", ["cosine", "log-softmax", "margin"])
def test_a_class_that_only_the_background_names_is_driven_by_it(score):
    # The image is red on blue. One class is a green thing on blue, the other a cyan one on green.
    predicted, _, found = judge(["green on blue", "cyan on green"], paint("red", "blue"),
                                score=score)  # fmt: skip
    assert predicted == 0
    assert found.verdicts.tolist() == [1]


@pytest.mark.parametrize("score", ["cosine", "log-softmax", "margin"])
def test_a_class_that_only_the_object_names_is_driven_by_it(score):
    predicted, _, found = judge(["red on green", "cyan on magenta"], paint("red", "blue"),
                                score=score)  # fmt: skip
    assert predicted == 0
    assert found.verdicts.tolist() == [0]


def test_drops_are_those_worked_out_by_hand():
    # Whole: (red, blue) / sqrt 2. Without the background: red alone. Text: red on green.
    _, drops, _ = judge(["red on green"], paint("red", "blue"))
    half = 1 / np.sqrt(2)
    assert drops[0, 0] == pytest.approx([0.5 - 0.0, 0.5 - half], abs=1e-5)


def test_log_softmax_and_margin_are_those_of_torch():
    random = np.random.default_rng(0)
    embedded = random.normal(size=(3, 1, 3, 8)).astype(np.float32)
    texts = random.normal(size=(4, 8)).astype(np.float32)
    predictions = np.array([0, 3, 2])
    cosines = torch.from_numpy(embedded).double() @ torch.from_numpy(texts).double().T
    soft = (cosines * 7).log_softmax(-1)
    for row, label in enumerate(predictions):
        found = measure_drops(
            embedded, texts, predictions=predictions, score="log-softmax", logit_scale=7.0
        )[row, 0]
        mine = soft[row, 0, :, label]
        assert found == pytest.approx((mine[0] - mine[1:]).numpy())
        found = measure_drops(embedded, texts, predictions=predictions, score="margin")[row, 0]
        rest = np.delete(cosines[row, 0].numpy(), label, axis=1).max(axis=1)
        margin = cosines[row, 0, :, label].numpy() - rest
        assert found == pytest.approx(margin[0] - margin[1:])


def test_random_sets_of_the_same_sizes_are_the_null():
    _, drops, found = judge(["green on blue"], paint("red", "blue"), draws=20)
    assert drops.shape == (1, 21, 2)
    assert found.null is not None
    assert found.null.shape == (1, 2)
    assert 0 < found.null.sum() <= 1


def test_parts_are_embedded_as_the_patches_that_are_left():
    encoder, image = FakeEncoder(), paint("red", "blue")
    parts = divide_patches(CENTRE, grid=(4, 4))
    found = encode_parts(encoder, image, parts)[0, 0]
    assert found[0] == pytest.approx(encoder.encode_image(image)[0].detach().numpy())
    assert found[1] == pytest.approx([0, 0, 0, 0, 0, 1])
    assert found[2] == pytest.approx([1, 0, 0, 0, 0, 0])


def test_a_batch_of_images_equals_each_alone():
    images = torch.cat([paint("red", "blue"), paint("green", "white")])
    parts = divide_patches(CENTRE.expand(2, -1, -1), grid=(4, 4))
    both = encode_parts(FakeEncoder(), images, parts, draws=3, ids=["a", "b"])
    one = encode_parts(FakeEncoder(), images[1:], parts[1:], draws=3, ids=["b"])
    np.testing.assert_allclose(both[1], one[0], atol=1e-6)


def test_masks_become_parts_of_the_grid():
    mask = torch.zeros(1, 8, 8)
    mask[:, :2, :3] = 1
    other = torch.zeros(1, 8, 8)
    other[:, :2, 2:] = 1
    parts = divide_patches(mask, grid=(4, 4), other_BHW=other)[0]
    # The second patch is half of each: it is the target's.
    assert parts[0].nonzero()[0].tolist() == [0, 1]
    assert parts[1].nonzero()[0].tolist() == [2, 3]
    assert (parts.sum(axis=0) == 1).all()
    with pytest.raises(MaskError, match="draw both for the same images"):
        divide_patches(mask, grid=(4, 4), other_BHW=other[:, :4])


def test_an_object_below_half_a_patch_is_not_resolvable_by_any_rule():
    mask = torch.zeros(1, 8, 8)
    mask[:, 0, 0] = 1
    parts = divide_patches(mask, grid=(4, 4))
    found = judge_removals(np.array([[[0.1, np.nan]]]), parts)
    assert found.verdicts.tolist() == [UNRESOLVABLE]
    for rule in ("paper", "density"):
        judged = judge_maps(
            np.ones((1, 16), np.float32), parts, rule=rule, grid=(4, 4), ids=["a"], draws=5
        )
        assert judged.verdicts.tolist() == [UNRESOLVABLE]
        assert judged.null is not None
        assert judged.null.sum() == 0


def test_maps_are_judged_with_the_null_of_their_clusters():
    parts = divide_patches(CENTRE, grid=(4, 4))
    clusters = parts[:, 1].astype(np.int64)
    maps = np.where(clusters == 0, 0.9, 0.1).astype(np.float32)
    found = judge_maps(maps, parts, rule="density", grid=(4, 4), ids=["a"], clusters=clusters)
    assert found.verdicts.tolist() == [0]
    assert found.null is not None
    # Two clusters and two values: one way round is as likely as the other.
    assert found.null[0] == pytest.approx([0.5, 0.5], abs=0.12)


def test_a_grid_that_does_not_fit_is_refused():
    parts = np.ones((1, 2, 9), bool)
    with pytest.raises(UnsupportedEncoderError, match="16 patches, the masks 9"):
        encode_parts(FakeEncoder(), paint("red", "blue"), parts)


OFF_GRID = torch.zeros(1, 8, 8)
OFF_GRID[:, 1:6, 1:6] = 1


def paint_off_grid(inside, outside):
    image = Image.new("RGB", (8, 8), outside)
    image.paste(inside, (1, 1, 6, 6))
    return FakeEncoder().preprocess(image)[None]


def test_nothing_of_a_part_is_left_where_it_was_removed():
    encoder, image = FakeEncoder(), paint_off_grid("red", "blue")
    parts = touch_patches(OFF_GRID, grid=(4, 4))
    assert parts[0, 0].reshape(4, 4)[:3, :3].all()
    assert parts[0, 0].sum() == 9
    painted = paint_background(image, OFF_GRID, spec=encoder.spec)
    _, without_object, without_scene = encode_parts(encoder, image, parts, painted=painted)[0, 0]
    # FakeEncoder counts colours: red is the first, blue the last.
    assert without_object.tolist() == pytest.approx([0, 0, 0, 0, 0, 1])
    assert without_scene[0] > 0.9
    assert without_scene[-1] == pytest.approx(0, abs=1e-6)


def test_by_half_a_patch_the_scene_is_left_in_the_patches_of_the_object():
    encoder, image = FakeEncoder(), paint_off_grid("red", "blue")
    found = encode_parts(encoder, image, divide_patches(OFF_GRID, grid=(4, 4)))[0, 0]
    assert found[2, -1] > 0.05


def test_normalised_images_are_painted_as_bytes_are():
    spec, image = FakeEncoder().spec, paint_off_grid("red", "blue")
    mean, std = (torch.tensor(one).view(1, 3, 1, 1) for one in (spec.mean, spec.std))
    wanted = (paint_background(image, OFF_GRID, spec=spec).float() / 255 - mean) / std
    found = paint_background((image.float() / 255 - mean) / std, OFF_GRID, spec=spec)
    torch.testing.assert_close(found, wanted)


def test_painting_leaves_the_null_and_the_other_parts_as_they_are():
    encoder, image = FakeEncoder(), paint_off_grid("red", "blue")
    parts = touch_patches(OFF_GRID, grid=(4, 4))
    plain = encode_parts(encoder, image, parts, draws=3, ids=["a"])
    painted = paint_background(image, OFF_GRID, spec=encoder.spec)
    found = encode_parts(encoder, image, parts, painted=painted, draws=3, ids=["a"])
    np.testing.assert_array_equal(found[:, 1:], plain[:, 1:])
    np.testing.assert_array_equal(found[:, 0, :2], plain[:, 0, :2])
    assert not np.allclose(found[:, 0, 2], plain[:, 0, 2])


def test_an_object_that_touches_every_patch_is_not_resolvable_by_the_causal_rule():
    mask = torch.ones(1, 8, 8)
    mask[:, 6:, 6:] = 0.3
    half = divide_patches(mask, grid=(4, 4))
    embedded = encode_parts(FakeEncoder(), paint("red", "blue"), touch_patches(mask, grid=(4, 4)))
    drops = measure_drops(embedded, np.eye(6, dtype=np.float32), predictions=np.array([0]))
    assert np.isnan(drops[0, 0, 0])
    assert judge_removals(drops, half).verdicts.tolist() == [UNRESOLVABLE]
