"""Additivity and residual variance, on composites whose parts are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from fieldmark.benchmarks.structure import SIZES, isolate_objects, measure_images, measure_texts
from fieldmark.core.records import ResultRow
from fieldmark.testing import FakeEncoder
from tests.methods.bap_material import open_compositor

BLANK = ResultRow(suite="t", dataset="t", metric="")


def test_an_isolated_object_stands_on_grey():
    image = torch.full((1, 3, 2, 2), 200, dtype=torch.uint8)
    mask = torch.tensor([[[255, 0], [51, 0]]], dtype=torch.uint8)
    alone = isolate_objects(image, mask)[0, 0]
    assert alone.tolist() == [[200, 128], [round(0.2 * 200 + 0.8 * 128), 128]]


def test_images_are_measured_against_their_parts(tmp_path):
    compositor = open_compositor(tmp_path)
    rows = {r.metric: r for r in measure_images(FakeEncoder(), compositor, blank=BLANK, count=40)}
    score = rows["additivity"]
    assert score.count == 40
    assert score.ci_low < score.value < score.ci_high <= 1.1
    residual = [rows[f"residual_variance:{size}"].value for size in SIZES]
    # Independent draws: the variance of a mean falls as 1/K (Eq. 6).
    slope = np.polyfit(np.log(SIZES), np.log(residual), 1)[0]
    assert slope == pytest.approx(-1, abs=0.15)


def test_texts_are_measured_against_their_words():
    encoder = FakeEncoder()
    (row,) = measure_texts(encoder, [("red", "blue"), ("green", "white")], blank=BLANK)
    expected = []
    for first, second in (("red", "blue"), ("green", "white")):
        texts = [f"a photo of a {w}" for w in (first, second, f"{first}, {second}")]
        a, b, both = encoder.encode_text(texts)
        expected.append(float(functional.cosine_similarity(both, a + b, dim=0)))
    assert row.metric == "text_additivity"
    assert row.value == pytest.approx(np.mean(expected), abs=1e-5)
    assert row.count == 2
