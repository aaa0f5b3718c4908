"""What gradient methods are tested against: the libraries' own forward passes in float64.

Torch's attention kernel is replaced by one whose weights can be read; a library's own image tower
then runs, and queries, keys, values and weights are read there. No code is shared with the methods.
"""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.nn import functional

from fieldmark.attribution.config import AttributionConfig
from fieldmark.attribution.maps import Subject
from fieldmark.models.encoder import normalise
from tests.attribution.plain_towers import load_tiny
from tests.models import tiny


class Read(NamedTuple):
    """Of one attention: queries, keys, values (B,heads,N,d), weights (B,heads,Q,N), mixed."""

    q: Any
    k: Any
    v: Any
    a: Any
    o: Any


def load_double(family: str) -> Any:
    """Load a tiny model in float64, to be looked into; tests must not change it."""
    return load_tiny(family, double=True)


def draw_subject(encoder, *, count=2, texts=2, seed=0, with_empty=False, **settings) -> Subject:
    generator = torch.Generator().manual_seed(seed)
    embedded = torch.randn(texts + 1, encoder.spec.dim, generator=generator)
    embedded = functional.normalize(embedded, dim=-1)
    return Subject(
        encoder=encoder,
        images=tiny.images(encoder.spec.image_size, count=count, seed=seed),
        texts=embedded[:texts],
        config=AttributionConfig(**settings),
        ids=tuple(map(str, range(count))),
        empty_text=embedded[texts] if with_empty else None,
    )


@contextlib.contextmanager
def readable_attention(monkeypatch, *, one_head_in_call: int | None = None):
    """Put in torch's place an attention that can be read; MHA with weights goes through softmax."""
    found: list[Read] = []
    softmax = functional.softmax

    def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **_):
        assert attn_mask is None
        assert not dropout_p
        assert not is_causal
        shape = query.shape
        if len(found) == one_head_in_call:
            query, key, value = (x.transpose(1, 2).flatten(2)[:, None] for x in (query, key, value))
            scale = None
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        weight = softmax(torch.einsum("bhqc,bhnc->bhqn", query, key) * scale, -1)
        mixed = torch.einsum("bhqn,bhnc->bhqc", weight, value)
        if len(found) == one_head_in_call:
            mixed = mixed[:, 0].unflatten(-1, (shape[1], shape[3])).transpose(1, 2)
        found.append(Read(query, key, value, weight, mixed))
        return mixed

    def soften(values, dim=None, **options):
        weight = softmax(values, dim=dim, **options)
        # nn.MultiheadAttention has images and heads in one dimension: one query of three heads.
        found.append(Read(None, None, None, weight, None))
        return weight

    with monkeypatch.context() as patch:
        patch.setattr(functional, "scaled_dot_product_attention", attend)
        patch.setattr(functional, "softmax", soften)
        yield found


def embed_pixels(encoder, images):
    """Embed pixels by the library's own tower, in float64, recorded."""
    pixels = normalise(images, spec=encoder.spec, dtype=torch.float64).requires_grad_()
    return functional.normalize(encoder.image_tower(pixels), dim=-1)


def assert_same(values, expected, *, rtol=1e-4):
    """Compare maps (h,w) with rows of patches; what is far below a map's top is rounding."""
    values, expected = np.asarray(values).ravel(), np.asarray(expected.detach()).ravel()
    np.testing.assert_allclose(values, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


def count_prefix(encoder, subject) -> int:
    return int(encoder.tokens(subject.images[:1]).prefix)
