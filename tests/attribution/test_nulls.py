"""The two nulls."""

import torch

from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.maps import Subject
from fieldmark.attribution.nulls import explain_at_random, explain_by_centre
from fieldmark.testing import FakeEncoder


def subject(ids, *, seed=0, texts=2):
    encoder = FakeEncoder()
    return Subject(
        encoder=encoder,
        images=torch.zeros(len(ids), 3, 8, 8),
        texts=encoder.encode_text(["red", "blue"][:texts]),
        config=AttributionConfig(seed=seed),
        ids=ids,
    )


def test_noise_follows_the_id_and_the_seed_alone():
    both = explain_at_random(subject(("a", "b"))).values
    alone = explain_at_random(subject(("b",), texts=1)).values
    assert both.shape == (2, 2, 4, 4)
    assert torch.equal(both[1, 0], alone[0, 0])
    assert torch.equal(both[:, 0], both[:, 1])
    assert not torch.allclose(both[0], both[1])
    assert not torch.allclose(explain_at_random(subject(("b",), seed=1)).values, both[1:])


def test_noise_is_standard_normal():
    values = explain_at_random(subject(tuple(map(str, range(400))))).values[:, 0]
    assert abs(values.mean()) < 0.05
    assert abs(values.std() - 1) < 0.05


def test_the_bump_is_symmetric_and_highest_in_the_middle():
    maps = explain_by_centre(subject(("a", "b")))
    values = maps.values[0, 0]
    assert torch.equal(maps.values[0], maps.values[1])
    torch.testing.assert_close(values, values.T)
    torch.testing.assert_close(values, values.flip(0))
    assert values[1:3, 1:3].min() > values[0].max()
    assert values.min() > 0
    assert maps.forwards == 0
