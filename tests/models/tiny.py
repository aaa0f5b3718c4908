"""Tiny random models of every family, built offline with the libraries' own classes.

Folders are written here by hand and not by fieldmark, so that loading is tested against what the
libraries themselves read out of the same folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn

TEXTS = ["a photo of a landbird", "Water, and a DUCK."]
CLIP_PREPROCESS: dict[str, Any] = {
    "mean": list(open_clip.OPENAI_DATASET_MEAN),
    "std": list(open_clip.OPENAI_DATASET_STD),
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}
SIGLIP_PREPROCESS: dict[str, Any] = {
    "mean": [0.5] * 3,
    "std": [0.25] * 3,
    "interpolation": "bicubic",
    "resize_mode": "squash",
}
LONGEST_PREPROCESS = {**CLIP_PREPROCESS, "interpolation": "bilinear", "resize_mode": "longest"}
VIT = {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8}
RESNET = {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32}


def _timm(name: str, *, pool: str, proj: str = "linear", side: int = 160) -> dict[str, Any]:
    return {"timm_model_name": name, "timm_pool": pool, "timm_proj": proj, "image_size": side}


# What each family's configuration says about its image tower, and its preprocessing.
FAMILIES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "clip": (VIT, CLIP_PREPROCESS),
    "clip-mean": ({**VIT, "pool_type": "avg", "final_ln_after_pool": True}, CLIP_PREPROCESS),
    "clip-attention": (
        {**VIT, "attentional_pool": True, "attn_pooler_queries": 3, "attn_pooler_heads": 4},
        CLIP_PREPROCESS,
    ),
    "siglip": (_timm("test_vit", pool="map", proj="none"), SIGLIP_PREPROCESS),
    "siglip-registers": (_timm("test_vit3", pool="map"), SIGLIP_PREPROCESS),
    "dinov2": (_timm("test_vit", pool="token"), CLIP_PREPROCESS),
    "vit-mean": (_timm("test_vit2", pool="avg"), CLIP_PREPROCESS),
    "convnext": (_timm("test_convnext", pool=""), CLIP_PREPROCESS),
    "efficientnet": (_timm("test_efficientnet", pool="avg"), LONGEST_PREPROCESS),
    "resnet": (RESNET, CLIP_PREPROCESS),
}
VITS = (
    "clip",
    "clip-mean",
    "clip-attention",
    "siglip",
    "siglip-registers",
    "dinov2",
    "vit-mean",
)
CONVS = ("convnext", "efficientnet", "resnet")


def images(side: int, *, count: int = 2, seed: int = 0) -> Tensor:
    """Return random images, uint8 (count,3,side,side)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def photograph(width: int, height: int, *, seed: int = 0) -> Image.Image:
    """Return a smooth random RGB image of any size."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def shake(model: nn.Module, *, seed: int = 0, by: float = 0.05) -> None:
    """Move all weights and running statistics off their initial values, which hide mistakes."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in model.state_dict().items():
        if value.is_floating_point() and not name.endswith(("logit_scale", "logit_bias")):
            noise = torch.randn(value.shape, generator=generator) * by
            value += noise.abs() if name.endswith("running_var") else noise


def write_tokenizer(folder: Path, *, length: int = 16) -> Any:
    """Write the files of a small lower-casing word-piece tokenizer that pads to the right."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<pad>", "<eos>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([*TEXTS, "the quick brown fox jumps over a lazy dog"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A <eos>", special_tokens=[("<eos>", 1)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=length,
        padding_side="right",
    )
    fast.save_pretrained(folder)
    return fast


def model_cfg(family: str) -> dict[str, Any]:
    """Return open_clip's configuration of a tiny model."""
    vision, _ = FAMILIES[family]
    text: dict[str, Any] = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2}
    cfg: dict[str, Any] = {"embed_dim": 64, "vision_cfg": vision, "text_cfg": text}
    text["layers"] = 2
    if family.startswith("siglip"):
        text |= {"context_length": 16, "vocab_size": 120, "hf_tokenizer_name": "org/tiny"}
        text |= {"tokenizer_kwargs": {"clean": "canonicalize"}, "no_causal_mask": True}
        text |= {"pool_type": "last", "proj_bias": True}
        cfg |= {"custom_text": True, "init_logit_bias": -10.0, "init_logit_scale": 2.3}
    else:
        cfg["quick_gelu"] = family != "clip-mean"
    return cfg


def write_open_clip(folder: Path, family: str) -> Path:
    """Write a tiny model of one family as open_clip's `local-dir:` folder."""
    folder.mkdir(parents=True)
    cfg = model_cfg(family)
    kwargs = json.loads(json.dumps(cfg))
    custom = kwargs.pop("custom_text", False)
    torch.manual_seed(0)
    model = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**kwargs)
    # Eight narrow layers in a row lose the image unless they are moved further.
    shake(model, by=0.2 if family == "resnet" else 0.05)
    write_folder(folder, cfg, FAMILIES[family][1], model)
    if family.startswith("siglip"):
        write_tokenizer(folder)
    return folder


def write_bert_text(folder: Path) -> Path:
    """Write a CLIP whose text tower is a tiny BERT of transformers, as packaged:dinov2-small is."""
    import transformers as hf

    folder.mkdir(parents=True)
    write_tokenizer(folder)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = hf.BertConfig(vocab_size=120, intermediate_size=48, pad_token_id=0, **shape)
    config.save_pretrained(folder)
    text = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "context_length": 16}
    text |= {"hf_proj_type": "linear", "hf_pooler_type": "mean_pooler"}
    cfg: dict[str, Any] = {"embed_dim": 64, "vision_cfg": VIT, "text_cfg": text}
    torch.manual_seed(0)
    model = open_clip.CustomTextCLIP(
        64, vision_cfg=VIT, text_cfg={**text, "hf_model_pretrained": False}
    )
    shake(model)
    write_folder(folder, cfg, CLIP_PREPROCESS, model)
    return folder


def write_folder(
    folder: Path, cfg: dict[str, Any], preprocess: dict[str, Any], model: nn.Module
) -> None:
    """Write configuration and weights."""
    config = {"model_cfg": cfg, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    safetensors.torch.save_file(state, folder / "open_clip_model.safetensors")


def largest(values: Iterable[Tensor]) -> float:
    """Return the largest absolute value."""
    return max(float(value.detach().abs().max()) for value in values)


def write_transformers(folder: Path, family: str) -> Path:
    """Write a tiny model of transformers: `clip`, `siglip` or `siglip2`."""
    import transformers as hf

    folder.mkdir(parents=True)
    tokenizer = write_tokenizer(folder)
    text: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}
    text |= {"num_attention_heads": 3, "vocab_size": 120, "max_position_embeddings": 16}
    text |= {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    vision: dict[str, Any] = {"hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 3, "patch_size": 8}
    torch.manual_seed(0)
    model: Any
    processor: Any
    if family == "clip":
        vision |= {"image_size": 32}
        config = hf.CLIPConfig(text_config=text, vision_config=vision, projection_dim=40)
        model = hf.CLIPModel(config)
        images = hf.CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
        )
        processor = hf.CLIPProcessor(images, tokenizer)
    elif family == "siglip":
        vision |= {"image_size": 32}
        model = hf.SiglipModel(hf.SiglipConfig(text_config=text, vision_config=vision))
        images = hf.SiglipImageProcessor(size={"height": 32, "width": 32})
        processor = hf.SiglipProcessor(images, tokenizer)
    else:
        vision |= {"num_patches": 16}
        model = hf.Siglip2Model(hf.Siglip2Config(text_config=text, vision_config=vision))
        images = hf.Siglip2ImageProcessor(patch_size=8, max_num_patches=16)
        processor = hf.Siglip2Processor(images, tokenizer)
    shake(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
