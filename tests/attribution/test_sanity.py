"""Sanity checks on encoders and methods whose answer is known."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.attribution.attribute import attribute
from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.maps import Attributions
from fieldmark.attribution.sanity import (
    check_sanity,
    compare_texts,
    draw_clusters,
    measure_cluster_drops,
    order_weights,
    shuffle_weights,
)
from fieldmark.core.errors import InputError
from fieldmark.core.seeds import generator
from fieldmark.models.token_removal import encode_kept
from fieldmark.testing import FakeEncoder
from tests.attribution.plain_towers import load_tiny
from tests.models import tiny

TEXTS = ["red", "green on red", "blue on yellow"]
FAST = AttributionConfig(clusters=3, rise_masks=60)


def run(method, *, encoder=None, count=6, texts=TEXTS, **arguments):
    encoder = encoder or FakeEncoder()
    images = tiny.images(encoder.spec.image_size, count=count)
    checks = check_sanity(encoder, images, texts, method=method, config=FAST, **arguments)
    return {(check.name, check.share): check for check in checks}


def test_a_method_that_looks_at_nothing_fails_both_checks_with_one():
    for method in ("random", "centre"):
        checks = run(method)
        assert [check.mean.value for check in checks.values()] == pytest.approx([1] * 4)
        assert {check.mean.count for check in checks.values()} == {6}


@pytest.mark.parametrize("method", ["occlusion", "rise", "cci"])
def test_a_method_that_looks_at_the_model_and_the_text_passes_on_a_real_tower(method):
    encoder = load_tiny("clip")
    checks = run(method, encoder=encoder, texts=["a duck", "a brown fox"], shares=(1.0,))
    assert abs(checks["weights", 1.0].mean.value) < 0.5
    assert checks["text", None].mean.value < 0.95
    assert checks["text", None].mean.count == 6
    assert ("cluster-ids", None) in checks if method == "cci" else len(checks) == 2


def test_clusters_in_another_order_give_the_same_cci_map():
    for encoder in (FakeEncoder(), load_tiny("siglip"), load_tiny("convnext")):
        found = run("cci", encoder=encoder, count=3, shares=(1.0,), draws=2)
        assert found["cluster-ids", None].mean.value < 1e-5
        assert found["random-clusters", None].mean.count == 3


def test_clusters_that_mean_something_are_worth_more_than_random_ones():
    """Red in the middle on blue, in two clusters: taking red away costs the most."""
    images = torch.zeros(4, 3, 8, 8)
    images[:, 2] = torch.tensor([0.7, 0.8, 0.9, 1.0]).view(4, 1, 1)
    images[:, :, 2:6, 2:6] = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1)
    checks = check_sanity(
        FakeEncoder(), images, ["red"], method="cci", config=AttributionConfig(clusters=2)
    )
    [gain] = [check for check in checks if check.name == "random-clusters"]
    assert gain.mean.interval.low > 0.1
    [text] = [check for check in checks if check.name == "text"]
    assert (text.mean.count, text.undefined) == (0, 4)


def test_other_settings_of_cci_leave_out_the_check_of_its_map():
    images = tiny.images(8, count=2)
    for update, last in ({"per_area": True}, "random-clusters"), ({"remove": "pixels"}, "text"):
        config = AttributionConfig(clusters=3).model_copy(update=update)
        checks = check_sanity(FakeEncoder(), images, TEXTS, method="cci", config=config)
        assert checks[-1].name == last


def test_intervals_draw_objects():
    alone = run("occlusion", shares=(1.0,))["text", None].mean
    paired = run("occlusion", shares=(1.0,), objects=["a", "a", "b", "b", "c", "c"])
    one = run("occlusion", shares=(1.0,), objects=["a"] * 6)["text", None].mean
    assert (alone.objects, paired["text", None].mean.objects, one.objects) == (6, 3, 1)
    assert alone.value == one.value
    assert np.isnan(one.interval).all()


def test_weights_are_shuffled_from_the_top_down():
    encoder = load_tiny("clip")
    image = tiny.images(32, count=1)
    names = order_weights(encoder, image)
    state = encoder.image_tower.state_dict()
    assert sorted(names) == sorted(dict(encoder.image_tower.named_parameters()))
    place = {name.rsplit("visual.", 1)[-1]: number for number, name in enumerate(names)}
    assert place["proj"] < place["transformer.resblocks.1.mlp.c_fc.weight"]
    assert (
        place["transformer.resblocks.1.mlp.c_fc.weight"]
        < place["transformer.resblocks.0.mlp.c_fc.weight"]
        < place["conv1.weight"]
    )
    before = {name: value.clone() for name, value in state.items()}
    half, whole = (shuffle_weights(encoder, image, share=share, seed=0) for share in (0.5, 1))
    changed = [
        name
        for name, value in half.image_tower.state_dict().items()
        if not torch.equal(value, before[name])
    ]
    assert set(changed) <= set(names[: round(len(names) / 2)])
    for name in changed:
        assert torch.equal(
            half.image_tower.state_dict()[name], whole.image_tower.state_dict()[name]
        )
        torch.testing.assert_close(
            whole.image_tower.state_dict()[name].flatten().sort().values,
            before[name].flatten().sort().values,
        )
    assert all(torch.equal(value, before[name]) for name, value in state.items())
    assert len({part.spec.fingerprint for part in (encoder, half, whole)}) == 3


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match="share of weights"):
        shuffle_weights(FakeEncoder(), torch.ones(1, 3, 8, 8), share=share, seed=0)


def test_rank_correlations_of_texts_worked_by_hand():
    values = np.array(
        [[[[1, 2, 3]], [[3, 2, 1]], [[1, 3, 2]]], [[[1, 2, 3]], [[5, 5, 5]], [[2, 4, 9]]]], float
    )
    found = Attributions(
        method="planted",
        values=values,
        similarity=np.zeros((2, 3), np.float32),
        no_support=np.zeros((2, 3), bool),
    )
    assert compare_texts(found, texts=[0, 2]) == pytest.approx([(-1 + 0.5) / 2, 1.0])
    assert np.isnan(compare_texts(found, texts=[0, 1])[1])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.integers(0, 99))
def test_random_clusters_keep_the_sizes(rows, columns, clusters, seed):
    random = generator(seed, "test")
    given_clusters = random.integers(clusters, size=(rows, columns))
    drawn = draw_clusters(given_clusters, random=random)
    assert drawn.shape == given_clusters.shape
    assert (
        np.bincount(drawn.ravel(), minlength=clusters)
        == np.bincount(given_clusters.ravel(), minlength=clusters)
    ).all()


def test_random_clusters_are_regions_and_lie_anywhere():
    """Of two equal halves of a grid, neighbours agree more often than those of a shuffle."""
    random = generator(0, "test")
    halves = np.repeat([0, 1], 32).reshape(8, 8)
    drawn = np.stack([draw_clusters(halves, random=random) for _ in range(200)])
    assert (drawn[:, 1:] == drawn[:, :-1]).mean() > 0.75
    assert np.abs(drawn.mean(0) - 0.5).max() < 0.15


def test_drops_of_several_clusterings_equal_those_of_one_at_a_time():
    encoder, images = load_tiny("clip"), tiny.images(32)
    texts = encoder.encode_text(["a duck", "water"]).detach()
    clusters = generator(0, "test").integers(3, size=(2, 2, 4, 4))
    clusters[0, 0] = np.where(clusters[0, 0] == 1, 0, clusters[0, 0])
    drops, maps = measure_cluster_drops(encoder, images, texts, clusters=clusters, batch_size=3)
    with torch.inference_mode():
        whole = encoder.encode_image(images) @ texts.T
        for b, m, k in np.ndindex(2, 2, 3):
            where = clusters[b, m] == k
            if not where.any():
                assert np.isnan(drops[b, m, :, k]).all()
                continue
            kept = torch.from_numpy(~where).view(1, 1, -1)
            left = encode_kept(encoder, images[b : b + 1], kept)[0, 0] @ texts.T
            expected = (whole[b] - left).numpy()
            assert drops[b, m, :, k] == pytest.approx(expected, abs=1e-5)
            assert maps[b, m][:, where] == pytest.approx(
                np.broadcast_to(expected[:, None], (2, where.sum())), abs=1e-5
            )
    assert np.isnan(drops[0, 0, :, 1]).all()


def test_the_own_text_is_the_given_one_or_the_most_similar():
    images = tiny.images(8, count=3)
    own = attribute(FakeEncoder(), images, TEXTS, method="centre").similarity.argmax(1).tolist()
    chosen = run("occlusion", count=3, truth=own, shares=(1.0,))["text", None].mean
    assert chosen == run("occlusion", count=3, shares=(1.0,))["text", None].mean
    other = [(text + 1) % 3 for text in own]
    assert chosen != run("occlusion", count=3, truth=other, shares=(1.0,))["text", None].mean


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"truth": [0, 1, 2, 3, 4, 3]}, "image 3: its own text is number 3"),
        ({"truth": [0]}, "1 truth for 6 images"),
        ({"ids": ["a"]}, "1 ids for 6 images"),
        ({"objects": ["a"] * 7}, "7 objects for 6 images"),
    ],
)
def test_lists_that_do_not_fit_are_refused(arguments, words):
    with pytest.raises(InputError, match=words):
        run("centre", **arguments)
