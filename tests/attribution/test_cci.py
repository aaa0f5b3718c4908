from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fieldmark.attribution.attribute import attribute
from fieldmark.attribution.cci import (
    blur,
    draw_maps,
    embed_clusters,
    explain_by_clusters,
    explain_clusters,
    measure_floor,
    score_clusters,
    weigh_clusters,
)
from fieldmark.attribution.cluster_cache import embed_cached, open_cluster_cache
from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.maps import Subject
from fieldmark.attribution.patch_clusters import embed_patches
from fieldmark.core.errors import NotApplicableError, UsageError
from fieldmark.models.adapter import take_apart
from fieldmark.models.load import load_encoder
from fieldmark.testing import FakeEncoder
from tests.models import tiny
from tests.models.conftest import open_clip_folder, transformers_folder

__all__ = ["open_clip_folder", "transformers_folder"]
CONFIG = AttributionConfig(clusters=4, batch_size=8)


@pytest.fixture
def loaded(open_clip_folder, transformers_folder):
    """Return a function from a family to its encoder."""

    def load(family):
        if family.startswith("hf-"):
            return load_encoder(f"hf:{transformers_folder(family[3:])}", device="cpu")
        return load_encoder(f"local-dir:{open_clip_folder(family)}", device="cpu")

    return load


def _scene():
    """A red square on black under a blue row: three clusters."""
    image = torch.zeros(1, 3, 8, 8)
    image[:, 0, 2:6, 2:6], image[:, 2, :2] = 1, 1
    return image


def _texts(dim, *, count=3, seed=0):
    random = torch.Generator().manual_seed(seed)
    return functional.normalize(torch.randn(count, dim, generator=random), dim=-1)


def test_drops_of_a_hand_worked_scene():
    encoder = FakeEncoder()
    # The object is red; the background is blue; the object is green.
    texts = torch.eye(6)[[0, 5, 1]]
    subject = Subject(
        encoder=encoder, images=_scene(), texts=texts, config=AttributionConfig(), ids=("a",)
    )
    maps = explain_by_clusters(subject)
    assert maps.clusters is not None
    assert maps.drops is not None
    assert maps.clusters[0].tolist() == [[0] * 4, [1, 2, 2, 1], [1, 2, 2, 1], [1] * 4]
    # Red 1 and blue 1/3: cosine 0.949 to red, 0.316 to blue. Without blue: 1 and 0; without black:
    # both colours are full; without red: 0 and 1.
    red, blue = 0.9487, 0.3162
    expected = [[red - 1, red - 0.7071, red], [blue, blue - 0.7071, blue - 1], [0, 0, 0]]
    assert torch.allclose(maps.drops[0, :, :3], torch.tensor(expected), atol=1e-3)
    assert bool(maps.drops[0, :, 3:].isnan().all())
    assert maps.no_support is not None
    assert maps.no_support.tolist() == [[False, False, True]]
    assert maps.values[0, 0, 0, 0] == pytest.approx(red - 1, abs=1e-3)
    # One whole image, then 12, 8 and 12 of 16 patches.
    assert maps.forwards == pytest.approx(1 + (12 + 8 + 12) / 16)


def test_sufficiency_scores_each_cluster_alone():
    encoder, texts = FakeEncoder(), torch.eye(6)[[0, 5]]
    config = AttributionConfig(mode="sufficiency", clusters=3)
    found = embed_clusters(encoder, _scene(), config=config, ids=["a"])
    scores = score_clusters(found, texts, logit_scale=1.0)
    assert torch.allclose(scores[0], torch.tensor([[0.0, 0, 1], [1, 0, 0]]), atol=1e-6)
    assert float(found.forwards[0]) == pytest.approx(2.0)
    chance = score_clusters(found, texts, score="log-softmax", logit_scale=1.0)
    assert chance[0, :, 1].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert chance[0, 0, 2] > 0 > chance[0, 1, 2]


@pytest.mark.parametrize("score", ["cosine", "log-softmax", "margin"])
def test_scores_equal_those_worked_out_one_by_one(score):
    encoder, texts = FakeEncoder(), FakeEncoder().encode_text(["red", "blue on red", "green"])
    found = embed_clusters(encoder, _scene(), config=AttributionConfig(clusters=3), ids=["a"])

    def rate(embedding, text):
        cosines = [float(embedding @ other) for other in texts]
        if score == "cosine":
            return cosines[text]
        if score == "margin":
            return cosines[text] - max(c for i, c in enumerate(cosines) if i != text)
        return float(torch.tensor(cosines).mul(10).log_softmax(0)[text])

    drops = score_clusters(found, texts, score=score, logit_scale=10.0)
    for text in range(3):
        for cluster in range(3):
            expected = rate(found.whole[0], text) - rate(found.without[0, cluster], text)
            assert float(drops[0, text, cluster]) == pytest.approx(expected, abs=1e-5)


def test_a_score_that_compares_texts_needs_two():
    found = embed_clusters(FakeEncoder(), _scene(), config=CONFIG, ids=["a"])
    with pytest.raises(NotApplicableError, match="give two at least"):
        score_clusters(found, _texts(6, count=1), score="margin", logit_scale=1.0)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(4)))
def test_permuting_cluster_ids_leaves_the_map_unchanged(order):
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (1, 3, 3), generator=random)
    drops = torch.randn(1, 2, 4, generator=random)
    turned = torch.empty_like(drops)
    turned[..., list(order)] = drops
    values, _ = draw_maps(labels, drops)
    again, _ = draw_maps(torch.tensor(order)[labels], turned)
    assert torch.equal(values, again)


def test_drops_of_clusters_that_are_not_there_are_undefined():
    maps = explain_by_clusters(
        Subject(
            encoder=FakeEncoder(),
            images=torch.ones(1, 3, 8, 8),
            texts=FakeEncoder().encode_text(["red"]),
            config=AttributionConfig(remove="pixels"),
            ids=("a",),
        )
    )
    # The fake's tokens say whether a patch is the object's, so there are two kinds of them.
    assert maps.clusters is not None
    assert maps.drops is not None
    assert maps.clusters.unique().tolist() == [0, 1]
    assert bool(maps.drops[0, 0, 2:].isnan().all())
    values, none = draw_maps(
        torch.zeros(1, 2, 2, dtype=torch.long), torch.full((1, 1, 1), torch.nan)
    )
    assert values.unique().tolist() == [0]
    assert none.tolist() == [[True]]


def test_weights_sum_to_one_or_are_all_zero():
    weights = weigh_clusters(torch.tensor([[[0.2, 0.6, -1.0], [-0.1, -0.2, torch.nan]]]))
    assert weights.sum(-1).tolist() == [[pytest.approx(1), 0]]


@pytest.mark.parametrize("fill", ["mean", "blur"])
def test_pixels_removed_equal_images_filled_by_hand(fill):
    encoder = FakeEncoder()
    config = AttributionConfig(clusters=3, remove="pixels", fill=fill)
    found = embed_clusters(encoder, _scene(), config=config, ids=["a"])
    filled = torch.zeros(1, 3, 8, 8) if fill == "mean" else blur(_scene(), sigma=2.0)
    for cluster in range(3):
        gone = (found.labels[0] == cluster).repeat_interleave(2, 0).repeat_interleave(2, 1)
        expected = encoder.encode_image(torch.where(gone, filled, _scene()))[0]
        assert tiny.largest([found.without[0, cluster] - expected]) < 1e-6
    assert float(found.forwards[0]) == 4


def test_blur_is_a_gaussian():
    point = torch.zeros(1, 1, 21, 21)
    point[..., 10, 10] = 1
    found = blur(point, sigma=2.0)[0, 0]
    assert float(found.sum()) == pytest.approx(1, abs=1e-5)
    assert float(found[10, 12] / found[10, 10]) == pytest.approx(2.71828**-0.5, abs=1e-4)


@pytest.mark.parametrize("family", ["clip", "siglip", "siglip-registers", "hf-siglip2", "convnext"])
def test_maps_of_real_towers_are_the_same_in_any_batch(loaded, family):
    encoder = loaded(family)
    images, texts = tiny.images(encoder.spec.image_size, count=3), _texts(encoder.spec.dim)
    names = ["a", "b", "c"]
    together = attribute(encoder, images, texts, method="cci", config=CONFIG, ids=names)
    for row, name in enumerate(names):
        part = images[row : row + 1]
        alone = attribute(encoder, part, texts, method="cci", config=CONFIG, ids=[name])
        assert abs(alone.values[0] - together.values[row]).max() < 1e-5
    with torch.inference_mode():
        similarity = encoder.encode_image(images) @ texts.T
    assert abs(together.similarity - similarity.numpy()).max() < 1e-5
    assert together.drops is not None
    assert (together.drops.shape, together.values.shape[1]) == ((3, 3, 4), 3)


@pytest.mark.parametrize("family", ["clip", "siglip", "clip-attention", "hf-clip", "hf-siglip"])
def test_the_last_layer_is_the_default_and_others_differ(loaded, family):
    encoder = loaded(family)
    images = tiny.images(encoder.spec.image_size)
    last = len(take_apart(encoder).blocks) - 1
    with torch.inference_mode():
        default, chosen, first = (
            embed_patches(encoder, images, layer=layer) for layer in (None, last, 0)
        )
        assert tiny.largest([default.features - chosen.features]) < 1e-6
        assert tiny.largest([default.features - first.features]) > 1e-3
        assert tiny.largest([default.whole - encoder.encode_image(images)]) < 1e-5
        with pytest.raises(UsageError, match="no layer 99"):
            embed_patches(encoder, images, layer=99)


def test_seven_clusters_cost_less_than_seven_forwards(loaded):
    encoder = loaded("clip")
    config = AttributionConfig(clusters=7)
    found = embed_clusters(encoder, tiny.images(32), config=config, ids=["a", "b"])
    # 1 + (7 * 17 - 16) / 17: each patch is missing once.
    assert found.forwards.tolist() == pytest.approx([1 + 7 - 16 / 17] * 2)


def test_many_texts_from_one_set_of_embeddings_equal_separate_runs():
    encoder = FakeEncoder()
    found = embed_clusters(encoder, _scene(), config=CONFIG, ids=["a"])
    texts = _texts(6, count=5)
    together = explain_clusters(found, texts, config=CONFIG, logit_scale=1.0)
    for row in range(5):
        alone = explain_clusters(found, texts[row : row + 1], config=CONFIG, logit_scale=1.0)
        assert torch.allclose(alone.values[:, 0], together.values[:, row], atol=1e-6)


def test_floor_is_the_same_for_any_image(loaded):
    encoder, texts = loaded("clip"), _texts(64)
    images = tiny.images(32)
    floors = [measure_floor(encoder, image[None], texts) for image in images]
    assert floors[0].shape == (3,)
    assert tiny.largest([floors[0] - floors[1]]) < 1e-6


class _Counted(FakeEncoder):
    """Counts the calls of `tokens`."""

    calls = 0

    def tokens(self, image_BCHW):
        type(self).calls += 1
        return super().tokens(image_BCHW)


def test_cached_embeddings_are_found_by_image_name_and_settings(tmp_path):
    encoder, images, names = _Counted(), torch.rand(3, 3, 8, 8), ["a", "b", "c"]
    cache = open_cluster_cache(tmp_path, spec=encoder.spec, config=CONFIG)
    first = embed_cached(cache, encoder, images[:2], ids=names[:2])
    calls = _Counted.calls
    again = open_cluster_cache(tmp_path, spec=encoder.spec, config=CONFIG)
    found = embed_cached(again, encoder, images[:2].flip(0), ids=names[1::-1])
    assert _Counted.calls == calls
    assert torch.equal(found.labels.flip(0), first.labels)
    assert torch.equal(found.without.flip(0).nan_to_num(9), first.without.nan_to_num(9))
    assert torch.equal(found.forwards.flip(0), first.forwards)
    mixed = embed_cached(again, encoder, images, ids=names)
    plain = embed_clusters(encoder, images, config=CONFIG, ids=names)
    assert torch.allclose(mixed.whole, plain.whole, atol=1e-6)
    assert len(again.index) == 3
    embed_cached(again, encoder, images[:1], ids=["another name"])
    assert len(again.index) == 4
    other = CONFIG.model_copy(update={"clusters": 2})
    assert not open_cluster_cache(tmp_path, spec=encoder.spec, config=other).index
    larger = CONFIG.model_copy(update={"batch_size": 99})
    assert len(open_cluster_cache(tmp_path, spec=encoder.spec, config=larger).index) == 4


def test_a_damaged_shard_is_never_used_and_made_again(tmp_path, caplog):
    encoder, images = FakeEncoder(), torch.rand(1, 3, 8, 8)
    cache = open_cluster_cache(tmp_path, spec=encoder.spec, config=CONFIG)
    before = embed_cached(cache, encoder, images, ids=["a"])
    (shard,) = cache.folder.glob("shard-*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    after = embed_cached(cache, encoder, images, ids=["a"])
    assert torch.equal(after.without.nan_to_num(9), before.without.nan_to_num(9))
    assert "its images are embedded again" in caplog.text
    assert open_cluster_cache(tmp_path, spec=encoder.spec, config=CONFIG).index
    shard.write_bytes(data[:40])
    assert not open_cluster_cache(tmp_path, spec=encoder.spec, config=CONFIG).index


def test_other_texts_for_images_that_were_explained_run_no_block(tmp_path, monkeypatch):
    encoder, chance = FakeEncoder(), torch.Generator().manual_seed(0)
    images = torch.rand(3, 3, 8, 8, generator=chance)
    attribute(encoder, images, ["red on blue"], config=CONFIG, cache=tmp_path)
    plain = attribute(encoder, images, ["green on red"], config=CONFIG)
    monkeypatch.setattr(FakeEncoder, "run", lambda *_: pytest.fail("a block ran"))
    kept = attribute(encoder, images, ["green on red"], config=CONFIG, cache=tmp_path)
    np.testing.assert_array_equal(kept.values, plain.values)
