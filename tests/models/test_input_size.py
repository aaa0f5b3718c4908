from __future__ import annotations

import pytest
import torch

from fieldmark.core.errors import UnsupportedEncoderError, UsageError
from fieldmark.models.load import load_encoder
from tests.models import tiny

SIDES = {"clip": 48, "clip-mean": 64, "convnext": 128, "efficientnet": 128}


@pytest.mark.parametrize("family", SIDES)
def test_another_size_runs_saves_and_loads(tmp_path, family, open_clip_folder):
    side = SIDES[family]
    folder = open_clip_folder(family)
    encoder = load_encoder(f"local-dir:{folder}@{side}")
    image = tiny.images(side)
    with torch.inference_mode():
        whole = encoder.encode_image(image)
        assert torch.allclose(encoder.pool(encoder.run(encoder.tokens(image))), whole, atol=1e-5)
        encoder.save(tmp_path / "saved")
        again = load_encoder(f"local-dir:{tmp_path / 'saved'}")
        assert again.spec.image_size == side
        assert torch.allclose(again.encode_image(image), whole, atol=1e-5)
    assert encoder.spec.uri.endswith(f"@{side}")


def test_a_size_that_cuts_patches_is_refused(open_clip_folder):
    folder = open_clip_folder("clip")
    with pytest.raises(UsageError, match="multiple of its patch"):
        load_encoder(f"local-dir:{folder}@33")


@pytest.mark.parametrize("family", ["resnet", "siglip"])
def test_a_tower_of_fixed_size_is_refused(open_clip_folder, family):
    folder = open_clip_folder(family)
    with pytest.raises(UnsupportedEncoderError, match="fixed input size"):
        load_encoder(f"local-dir:{folder}@96")
