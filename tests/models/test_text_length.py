"""Texts that an encoder would cut off are found, by both libraries' tokenizers."""

from __future__ import annotations

import pytest
import torch

from fieldmark.core.errors import InputError
from fieldmark.models.load import load_encoder
from fieldmark.models.text_length import count_context, count_tokens, require_short_texts
from fieldmark.testing import FakeEncoder


@pytest.fixture(params=["open_clip:clip", "open_clip:bert-text", "hf:clip", "hf:siglip"])
def encoder(request, open_clip_folder, transformers_folder):
    library, family = request.param.split(":")
    if library == "hf":
        return load_encoder(f"hf:{transformers_folder(family)}")
    return load_encoder(f"local-dir:{open_clip_folder(family)}")


def test_the_longest_text_that_fits_is_the_last_whose_end_is_read(encoder):
    """One word more changes the embedding up to the limit; beyond it nothing changes any more."""
    limit = count_context(encoder)
    assert limit is not None
    texts = [" ".join(["a"] * words) for words in range(1, limit + 3)]
    lengths = count_tokens(encoder, texts)
    assert list(lengths) == list(range(lengths[0], lengths[0] + len(texts)))
    fits = [text for text, length in zip(texts, lengths, strict=True) if length <= limit]
    require_short_texts(encoder, fits)
    with torch.inference_mode():
        embedded = encoder.encode_text([fits[-2], fits[-1], texts[len(fits)], texts[-1]])
    assert not torch.allclose(embedded[0], embedded[1], atol=1e-6)
    assert torch.allclose(embedded[2], embedded[3], atol=1e-6)
    with pytest.raises(InputError, match=f"has {limit + 1} tokens, .* reads {limit}") as found:
        require_short_texts(encoder, [*fits, texts[len(fits)]])
    assert "\n" not in str(found.value)
    assert f"text {len(fits) + 1}:" in str(found.value)


def test_an_empty_text_is_told_by_its_number(encoder):
    with pytest.raises(InputError, match="text 2: the text is empty"):
        require_short_texts(encoder, ["a bird", "\t "])


def test_a_fake_encoder_has_no_limit():
    require_short_texts(FakeEncoder(), ["word " * 1000])
    assert count_tokens(FakeEncoder(), ["a", "b"]) == (0, 0)
