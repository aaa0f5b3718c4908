from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from fieldmark.models.adapter import replace_image_tower
from fieldmark.models.encoder import Encoder
from fieldmark.testing import FakeEncoder


def square(colour: str, ground: str) -> Image.Image:
    image = Image.new("RGB", (8, 8), ground)
    image.paste(colour, (2, 2, 6, 6))
    return image


def embed(encoder: FakeEncoder, *images: Image.Image) -> torch.Tensor:
    return encoder.encode_image(torch.stack([encoder.preprocess(image) for image in images]))


@pytest.mark.parametrize("background", [0.0, 0.5, 1.0])
def test_the_embedding_is_two_mean_colours(background):
    encoder = FakeEncoder(background=background)
    assert isinstance(encoder, Encoder)
    expected = np.array([1, 1, 0, 0, 0, background]) / np.sqrt(2 + background**2)
    found = embed(encoder, square("yellow", "blue"))
    assert np.allclose(found.detach().numpy(), [expected], atol=1e-6)


def test_an_image_and_its_text_meet():
    encoder = FakeEncoder()
    text = encoder.encode_text(["a red thing on cyan", "blue, alone", "no colour at all"])
    assert torch.allclose(embed(encoder, square("red", "cyan")), text[:1])
    assert torch.allclose(embed(encoder, square("blue", "black")), text[1:2])
    assert torch.allclose(text[2], torch.full((6,), 6**-0.5))


def test_tokens_can_be_removed():
    encoder = FakeEncoder()
    image = encoder.preprocess(square("red", "blue"))[None]
    tokens = encoder.tokens(image)
    assert torch.allclose(encoder.pool(encoder.run(tokens)), encoder.encode_image(image))
    objects = tokens.values[0, :, 3] == 1
    assert objects.nonzero().flatten().tolist() == [5, 6, 9, 10]
    left = encoder.pool(tokens._replace(values=tokens.values[:, objects]))
    assert left.tolist() == [[1, 0, 0, 0, 0, 0]]


def test_attention_is_even_over_object_and_background():
    encoder = FakeEncoder()
    image = encoder.preprocess(square("red", "blue"))[None]
    attention = encoder.last_attention(encoder.tokens(image))
    assert attention.weight[0, 0, 0].unique().tolist() == [0, 0.25]
    assert attention.weight[0, 1, 0].unique().tolist() == [0, pytest.approx(1 / 12)]
    assert torch.allclose(attention.output[:, 0], encoder.image_tower(image / 255))
    scores = attention.query @ attention.key.mT
    assert torch.equal(scores.softmax(-1), attention.weight)


def test_a_region_is_enlarged():
    encoder = FakeEncoder()
    image = encoder.preprocess(square("red", "blue"))[None]
    [regions] = encoder.encode_regions(image, [torch.tensor([[2, 2, 6, 6], [0, 0, 8, 8]])])
    assert torch.allclose(regions[0], torch.tensor([1.0, 0, 0, 1, 0, 0]) / 2**0.5)
    assert torch.allclose(regions[1], encoder.encode_image(image)[0])


def test_training_the_tower_mends_a_misled_encoder():
    encoder = FakeEncoder()
    tower = copy.deepcopy(encoder.image_tower)
    images = [square("red", ground) for ground in ("blue", "green", "white")]
    pixels = torch.stack([encoder.preprocess(image) for image in images]) / 255
    anchor = torch.tensor([1.0, 0, 0, 0, 0, 0])
    optimizer = torch.optim.Adam(tower.parameters(), lr=0.05)
    for _ in range(150):
        loss = (1 - torch.nn.functional.normalize(tower(pixels), dim=-1) @ anchor).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    mended = replace_image_tower(encoder, tower.state_dict())
    with torch.no_grad():
        assert float(encoder.encode_image(pixels)[0, 0]) == pytest.approx(2**-0.5)
        assert float(mended.encode_image(pixels)[:, 0].min()) > 0.99
    assert mended.spec.fingerprint != encoder.spec.fingerprint


def test_saving_and_placing(tmp_path):
    encoder = FakeEncoder(background=0.3)
    encoder.save(tmp_path)
    assert FakeEncoder.load(tmp_path).spec == encoder.spec
    cast = encoder.place(dtype=torch.bfloat16)
    image = encoder.preprocess(square("red", "blue"))[None]
    assert cast.encode_image(image).dtype == torch.float32
    assert torch.allclose(cast.encode_image(image), encoder.encode_image(image), atol=1e-2)
    assert encoder.image_tower.mix.weight.dtype == torch.float32
