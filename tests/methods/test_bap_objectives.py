"""Anchors, losses and controls against independent arithmetic."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from fieldmark.core.errors import UsageError
from fieldmark.methods.bap.anchors import average_embeddings, make_anchors
from fieldmark.methods.bap.objectives import (
    align_to,
    classify_with,
    compute_alignment_loss,
    draw_orthogonal_anchors,
)
from fieldmark.methods.bap.plan import draw_anchor_contexts
from fieldmark.methods.classifier import ClassifierHead
from fieldmark.testing import FakeEncoder
from tests.methods.bap_material import open_compositor


def test_anchor_is_the_normalised_mean_of_unit_embeddings():
    z = functional.normalize(torch.randn(3, 5, 4, dtype=torch.float64), dim=-1).numpy()
    mean = z.sum(1) / 5
    expected = mean / np.sqrt((mean**2).sum(-1, keepdims=True))
    np.testing.assert_allclose(average_embeddings(torch.from_numpy(z)), expected, atol=1e-6)


def test_alignment_loss_is_torchs_cosine_embedding_loss():
    embedding, anchor = torch.randn(6, 8), torch.randn(6, 8)
    expected = functional.cosine_embedding_loss(
        embedding, anchor, torch.ones(6), margin=1.0, reduction="none"
    )
    torch.testing.assert_close(compute_alignment_loss(embedding, anchor), expected)


def test_align_to_takes_each_objects_own_anchor():
    anchors = torch.eye(3)
    losses = align_to(anchors)(torch.eye(3)[[0, 1]], torch.tensor([0, 2]))
    torch.testing.assert_close(losses, torch.tensor([0.0, 1.0]))


def test_orthogonal_anchors_are_orthonormal_and_seeded():
    labels = np.array([0, 1, 2, 0])
    anchors = draw_orthogonal_anchors(labels, dim=16, seed=0)
    torch.testing.assert_close(anchors[:3] @ anchors[:3].T, torch.eye(3))
    assert (anchors[0] == anchors[3]).all()
    assert (draw_orthogonal_anchors(labels, dim=16, seed=1) != anchors).any()
    with pytest.raises(UsageError, match="3 classes"):
        draw_orthogonal_anchors(labels, dim=2, seed=0)


def test_the_controls_head_starts_undecided():
    head = ClassifierHead(4, 3)
    losses = classify_with(head, torch.tensor([0, 2]))(torch.randn(2, 4), torch.tensor([1, 0]))
    torch.testing.assert_close(losses, torch.full((2,), float(np.log(3))))


def test_anchors_of_real_composites_are_cached_and_exact(tmp_path):
    compositor = open_compositor(tmp_path)
    encoder = FakeEncoder()
    seen = []
    options = {"contexts": 4, "seed": 0, "batch_size": 5, "cache": tmp_path / "anchors"}
    anchors = make_anchors(
        encoder, compositor, progress=lambda done, total: seen.append((done, total)), **options
    )
    plan = draw_anchor_contexts(
        6, contexts=4, n_backgrounds=5, n_scales=compositor.n_scales, seed=0, part=0
    )
    image = compositor.composite(plan.objects, plan.backgrounds, plan.scales).image
    with torch.no_grad():
        z = encoder.encode_image(image).view(6, 4, -1)
    torch.testing.assert_close(anchors, functional.normalize(z.mean(1), dim=-1))
    assert seen[-1] == (24, 24)
    (stored,) = (tmp_path / "anchors").iterdir()
    before = stored.stat().st_mtime_ns
    torch.testing.assert_close(make_anchors(encoder, compositor, **options), anchors)
    assert stored.stat().st_mtime_ns == before
    options["contexts"] = 3
    make_anchors(encoder, compositor, **options)
    assert len(list((tmp_path / "anchors").iterdir())) == 2
