"""The path through transformers' GroundingDINO and SAM, with tiny random models.

The published weights cannot be had here, so nothing is said about the quality of the masks.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image

from fieldmark.core.errors import FetchError, UsageError
from fieldmark.models.grounded_masks import (
    GroundedConfig,
    GroundedModels,
    ground_masks,
    load_grounded_models,
    write_prompt,
)

WORDS = {
    0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]", 1012: ".", 1029: "?",
    1030: "cat", 1031: "foreground", 1032: "objects",
}  # fmt: skip


def build_detector():
    from transformers import (
        BertTokenizerFast,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    backbone = SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2],
        window_size=2, out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    text = {
        "model_type": "bert", "vocab_size": 1040, "hidden_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 64,
    }  # fmt: skip
    config = GroundingDinoConfig(
        backbone_config=backbone, text_config=text, d_model=32, encoder_layers=1, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, num_queries=5, max_text_len=16, num_feature_levels=4,
        encoder_n_points=2, decoder_n_points=2,
    )  # fmt: skip
    words = [WORDS.get(place, f"[unused{place}]") for place in range(1040)]
    tokenizer = BertTokenizerFast(vocab={word: place for place, word in enumerate(words)})
    images = GroundingDinoImageProcessor(size={"shortest_edge": 128, "longest_edge": 192})
    model = GroundingDinoForObjectDetection(config).eval()
    return model, GroundingDinoProcessor(images, tokenizer)


def build_segmenter():
    from transformers import SamConfig, SamImageProcessor, SamModel, SamProcessor

    vision = {
        "hidden_size": 16, "output_channels": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 64, "patch_size": 16, "mlp_dim": 16, "window_size": 2,
        "global_attn_indexes": [0], "num_pos_feats": 4,
    }  # fmt: skip
    prompts = {
        "hidden_size": 8, "image_size": 64, "patch_size": 16, "mask_input_channels": 4,
        "image_embedding_size": 4,
    }  # fmt: skip
    decoder = {
        "hidden_size": 8, "mlp_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
        "attention_downsample_rate": 2, "iou_head_hidden_dim": 8, "iou_head_depth": 2,
    }  # fmt: skip
    config = SamConfig(
        vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder
    )
    images = SamImageProcessor(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64},
        mask_size={"longest_edge": 16}, mask_pad_size={"height": 16, "width": 16},
    )  # fmt: skip
    return SamModel(config).eval(), SamProcessor(images)


@pytest.fixture(scope="module")
def models():
    pytest.importorskip("transformers")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        detector, detector_processor = build_detector()
        segmenter, segmenter_processor = build_segmenter()
    return GroundedModels(
        detector=detector,
        detector_processor=detector_processor,
        segmenter=segmenter,
        segmenter_processor=segmenter_processor,
    )


def draw_noise():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_tiny_random_models_give_a_mask_of_the_images_size_that_is_flagged(models):
    (found,) = ground_masks([draw_noise()], ["Cat"], models=models, config=GroundedConfig(box=0))
    assert found.mask.shape == (40, 60)
    assert found.mask.dtype == np.uint8
    assert set(np.unique(found.mask)) <= {0, 255}
    assert found.source == "grounded-sam"
    assert 0 < found.score < 1
    assert found.note == ""


def test_tiny_random_models_give_the_union_over_boxes(models):
    masks = [
        ground_masks(
            [draw_noise()], ["cat"], models=models, config=GroundedConfig(box=0, most_boxes=most)
        )[0].mask
        for most in (1, 5)
    ]
    assert (masks[1] >= masks[0]).all()


def test_tiny_random_models_with_no_box_over_the_threshold_give_an_empty_flagged_mask(models):
    (found,) = ground_masks([draw_noise()], ["cat"], models=models, config=GroundedConfig(box=1))
    assert found.is_empty
    assert math.isnan(found.score)
    assert "no box of 'cat'" in found.note


def test_the_prompt_is_that_of_the_paper():
    assert write_prompt("Great white_shark.") == "great white shark. foreground objects."


@pytest.mark.parametrize("names", [[], ["cat", "dog"], [" "]])
def test_there_must_be_a_name_for_each_image(names):
    nothing = GroundedModels(
        detector=None, detector_processor=None, segmenter=None, segmenter_processor=None
    )
    with pytest.raises(UsageError, match="needs a class name for each of 1 images"):
        ground_masks([draw_noise()], names, models=nothing)


def test_thresholds_out_of_range_are_refused():
    with pytest.raises(UsageError, match="is not in"):
        GroundedConfig(box=1.5)


def test_weights_that_cannot_be_had_are_one_line(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(FetchError, match=r"cannot be had .*; put its files") as caught:
        load_grounded_models(detector=str(tmp_path), segmenter=str(tmp_path))
    assert "\n" not in str(caught.value)
