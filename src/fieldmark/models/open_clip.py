"""Encoders of open_clip: CLIP, SigLIP, SigLIP 2, ConvNeXt, ResNet and any timm tower.

The model is built from its configuration and loaded with its weights here, not by open_clip's
`create_model`, for three reasons: that one starts from random weights where a hub file is missing
and only logs it; it warns where a tag was trained with QuickGELU and its plain name says otherwise,
and goes on with the wrong activation (facts/peers_and_layouts.md 4.10); and it fills in CLIP's
preprocessing where a folder states none, also for SigLIP (4.9). Here each of these is settled or an
error, and what was settled is saved with the weights.
"""

from __future__ import annotations

import copy
import difflib
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from fieldmark.core.errors import (
    FetchError,
    InputError,
    UnknownNameError,
    UnsupportedEncoderError,
)
from fieldmark.core.json_text import parse_json
from fieldmark.models.adapter import DualEncoder, fingerprint
from fieldmark.models.checkpoint import (
    check_sizes,
    find_weights,
    load_weights,
    replacing_folder,
    write_weights,
)
from fieldmark.models.conv_towers import ConvNeXt, ModifiedResNet, TimmTrunk
from fieldmark.models.encoder import EncoderSpec
from fieldmark.models.hub import fetch_hub_file, fetch_tokenizer, first_line, missing_library
from fieldmark.models.preprocess import preprocess_image
from fieldmark.models.towers import ClipViT, TimmViT, Tower

CONFIG = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
LOCAL_WEIGHTS = (WEIGHTS, "open_clip_pytorch_model.safetensors", "model.safetensors")
# The second is a pickle, read with weights_only=True; old hub models have no other.
HUB_WEIGHTS = (WEIGHTS, "open_clip_pytorch_model.bin")
PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode")


@dataclass(frozen=True)
class OpenClipLibrary:
    """How open_clip wants a model used.

    Attributes:
        model_cfg: its configuration, activation included.
        tokenizer: open_clip's tokenizer of the same checkpoint.
    """

    model_cfg: dict[str, Any]
    tokenizer: Any

    def image_tower(self, model: Any) -> nn.Module:
        """Return `model.visual`."""
        tower: nn.Module = model.visual
        return tower

    def take_apart(self, model: Any) -> Tower:
        """Return the image tower in pieces."""
        return take_apart(model.visual)

    def preprocess(self, image: Image.Image, *, spec: EncoderSpec) -> Tensor:
        """Resize and crop one image."""
        return preprocess_image(image, spec=spec)

    def encode_text(self, model: Any, texts: list[str]) -> Tensor:
        """Tokenise and embed texts."""
        tokens = self.tokenizer(texts).to(next(model.parameters()).device)
        embedded: Tensor = model.encode_text(tokens)
        return embedded

    def save(self, model: Any, folder: Path, *, spec: EncoderSpec) -> None:
        """Write a folder that `open_clip.create_model_and_transforms('local-dir:...')` opens."""
        model_cfg = copy.deepcopy(self.model_cfg)
        with replacing_folder(folder) as part:
            if hasattr(self.tokenizer, "save_pretrained"):
                self.tokenizer.save_pretrained(str(part))
            if "hf_model_name" in model_cfg["text_cfg"]:
                # open_clip reads this tower's shape from there; after a move it must be rewritten.
                model_cfg["text_cfg"]["hf_model_name"] = str(folder.absolute())
                model.text.config.save_pretrained(part)
            write_weights(model, part / WEIGHTS)
            config = {
                "model_cfg": model_cfg,
                "preprocess_cfg": {
                    "size": spec.image_size,
                    "mean": list(spec.mean),
                    "std": list(spec.std),
                    "interpolation": spec.interpolation,
                    "resize_mode": spec.resize,
                },
                "fieldmark": {"uri": spec.uri, "fingerprint": spec.fingerprint},
            }
            (part / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def take_apart(visual: nn.Module) -> Tower:
    """Return an open_clip `visual` module in pieces.

    Raises:
        UnsupportedEncoderError: a module of a kind that is not known.
    """
    import open_clip.modified_resnet
    import open_clip.timm_model
    import open_clip.transformer
    import timm.models

    if isinstance(visual, open_clip.transformer.VisionTransformer):
        return ClipViT(visual)
    if isinstance(visual, open_clip.modified_resnet.ModifiedResNet):
        return ModifiedResNet(visual)
    if isinstance(visual, open_clip.timm_model.TimmModel):
        if isinstance(visual.trunk, timm.models.VisionTransformer):
            return TimmViT(visual)
        if isinstance(visual.trunk, timm.models.ConvNeXt):
            return ConvNeXt(visual)
        return TimmTrunk(visual)
    raise UnsupportedEncoderError(
        f"an image tower of type {type(visual).__name__} is not known",
        mend="use an open_clip ViT, ResNet or timm tower",
    )


def load_tag(name: str, tag: str) -> DualEncoder:
    """Load a built-in architecture with a published tag of weights.

    Args:
        name: such as `ViT-B-16`.
        tag: such as `laion2b_s34b_b88k`.

    Raises:
        UnknownNameError: no such architecture or tag.
        FetchError: the weights cannot be had.
    """
    import open_clip

    name = name.replace("/", "-")
    model_cfg = open_clip.get_model_config(name)
    if model_cfg is None:
        # A bare `org/repo` looks like a name and a tag.
        others = [f"hf:{name}/{tag}", f"hf-hub:{name}/{tag}"] if tag else []
        close = difflib.get_close_matches(name, open_clip.list_models(), n=1)
        asked = name if close or not tag else f"{name}/{tag}"
        raise UnknownNameError("open_clip model", asked, [*open_clip.list_models(), *others])
    published = open_clip.get_pretrained_cfg(name, tag)
    if not published:
        tags = open_clip.list_pretrained_tags_by_model(name)
        raise UnknownNameError(f"weights of {name}", tag, tags)
    repo, _, file = published["hf_hub"].rpartition("/")
    safe = Path(file).with_suffix(".safetensors").name if file else ""
    names = (safe, file) if file else HUB_WEIGHTS
    weights = fetch_hub_file(repo, names)
    model_cfg["quick_gelu"] = bool(model_cfg.get("quick_gelu") or published.get("quick_gelu"))
    preprocess_cfg = {key: published[key] for key in PREPROCESS_KEYS if published.get(key)}
    tokenizer = _fetch_text_files(model_cfg)
    model = build_model(model_cfg, weights=weights)
    uri = f"open_clip:{name}/{tag}"
    return wrap_model(model, model_cfg, preprocess_cfg, tokenizer=tokenizer, uri=uri)


def load_hub(repo: str) -> DualEncoder:
    """Load a hub repository in open_clip's layout.

    Raises:
        FetchError: a file of it cannot be had.
    """
    config = fetch_hub_file(repo, (CONFIG,))
    model_cfg, preprocess_cfg = read_config(config)
    weights = fetch_hub_file(repo, HUB_WEIGHTS)
    tokenizer = _fetch_text_files(model_cfg)
    model = build_model(model_cfg, weights=weights)
    return wrap_model(model, model_cfg, preprocess_cfg, tokenizer=tokenizer, uri=f"hf-hub:{repo}")


def load_folder(folder: Path, *, uri: str | None = None) -> DualEncoder:
    """Load a folder with `open_clip_config.json`, safetensors weights and tokenizer files.

    Args:
        folder: what `Encoder.save` or open_clip wrote.
        uri: the name for the record, `local-dir:FOLDER` by default.

    Raises:
        InputError: a file is missing, damaged, a pickle, or does not state its preprocessing.
    """
    if not (folder / CONFIG).is_file():
        raise InputError(f"holds no {CONFIG}", where=folder, mend="give a model's folder")
    model_cfg, preprocess_cfg = read_config(folder / CONFIG)
    text_cfg = model_cfg["text_cfg"]
    if "hf_model_name" in text_cfg:
        # Its configuration lies beside the weights: a folder sends nobody to the hub.
        text_cfg["hf_model_name"] = str(folder.absolute())
    weights = find_weights(folder, names=LOCAL_WEIGHTS)
    tokenizer = make_tokenizer(text_cfg, folder=folder)
    model = build_model(model_cfg, weights=weights)
    uri = uri or f"local-dir:{folder}"
    return wrap_model(model, model_cfg, preprocess_cfg, tokenizer=tokenizer, uri=uri)


def read_config(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Read the model's and the preprocessing's configuration of an `open_clip_config.json`.

    Raises:
        InputError: no JSON, no model, or no preprocessing, for which open_clip would silently take
            CLIP's.
    """
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
        model_cfg, preprocess_cfg = config["model_cfg"], config.get("preprocess_cfg", {})
        if not (isinstance(model_cfg, dict) and isinstance(preprocess_cfg, dict)):
            raise TypeError("model_cfg and preprocess_cfg are no objects")
        is_siglip = model_cfg.get("init_logit_bias") is not None
        lacking = [k for k in ("text_cfg", "vision_cfg") if not isinstance(model_cfg.get(k), dict)]
        if lacking:
            raise KeyError(*lacking)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"is no open_clip configuration ({error})", where=path, mend="write it anew"
        ) from error
    check_sizes(config, where=path)
    timm_name = model_cfg["vision_cfg"].get("timm_model_name")
    if timm_name and ":" in str(timm_name):
        # timm would ask the hub, or any folder, for it.
        raise InputError(
            f"names the image tower {timm_name!r}, which lies elsewhere",
            where=path,
            mend="name an architecture of timm",
        )
    wanted = PREPROCESS_KEYS if is_siglip else PREPROCESS_KEYS[:2]
    lacking = [key for key in wanted if not preprocess_cfg.get(key)]
    if lacking:
        raise InputError(
            f"preprocess_cfg lacks {', '.join(lacking)}, and CLIP's would be taken instead",
            where=path,
            mend='add what the weights were trained with, e.g. "mean": [0.5, 0.5, 0.5] for SigLIP',
        )
    return model_cfg, preprocess_cfg


def _fetch_text_files(model_cfg: dict[str, Any]) -> Any:
    """Return the tokenizer of a hub model; point its text tower at a local configuration."""
    text_cfg = model_cfg["text_cfg"]
    if "hf_model_name" in text_cfg:
        config = fetch_hub_file(text_cfg["hf_model_name"], ("config.json",))
        text_cfg["hf_model_name"] = str(config.parent)
    wanted = text_cfg.get("hf_tokenizer_name")
    return make_tokenizer(text_cfg, folder=fetch_tokenizer(wanted) if wanted else None)


def make_tokenizer(text_cfg: dict[str, Any], *, folder: Path | None) -> Any:
    """Return the tokenizer that a text configuration asks for.

    Args:
        text_cfg: CLIP's own tokenizer where it names none.
        folder: holds the files of any other.

    Raises:
        MissingExtraError: transformers is not installed.
        FetchError: another library that this tokenizer needs is not installed.
        InputError: the folder lacks its files.
    """
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

    length = text_cfg.get("context_length", 77)
    kwargs = text_cfg.get("tokenizer_kwargs") or {}
    if not text_cfg.get("hf_tokenizer_name"):
        return SimpleTokenizer(context_length=length, **kwargs)
    mode = text_cfg.get("tokenizer_mode")
    try:
        return HFTokenizer(str(folder), context_length=length, tokenizer_mode=mode, **kwargs)
    except ImportError as error:
        raise missing_library(error) from error
    except (OSError, ValueError) as error:
        raise InputError(
            f"its tokenizer cannot be read ({first_line(error)})",
            where=folder,
            mend="put tokenizer.json and tokenizer_config.json beside the weights",
        ) from error


def build_model(model_cfg: dict[str, Any], *, weights: Path) -> nn.Module:
    """Build an open_clip model from its configuration and load all its weights.

    Raises:
        UnsupportedEncoderError: a generative model (CoCa).
        FetchError: the shape of a transformers text tower cannot be had.
        InputError: the weights are damaged or of another model.
    """
    import open_clip

    if "multimodal_cfg" in model_cfg:
        raise UnsupportedEncoderError(
            "a CoCa model is no plain dual encoder", mend="use a CLIP or SigLIP model"
        )
    kwargs = copy.deepcopy(model_cfg)
    kwargs["vision_cfg"]["timm_model_pretrained"] = False
    kwargs["text_cfg"]["hf_model_pretrained"] = False
    custom = kwargs.pop("custom_text", False) or "hf_model_name" in kwargs["text_cfg"]
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    try:
        model: nn.Module = kind(**kwargs)
    except OSError as error:
        where = kwargs["text_cfg"].get("hf_model_name")
        raise FetchError(
            "the configuration of this text tower cannot be had",
            where=where,
            mend="put its config.json beside the weights",
        ) from error
    load_weights(
        lambda: open_clip.load_checkpoint(model, str(weights), weights_only=True), path=weights
    )
    return model.eval()


def wrap_model(
    model: Any,
    model_cfg: dict[str, Any],
    preprocess_cfg: dict[str, Any],
    *,
    tokenizer: Any,
    uri: str,
) -> DualEncoder:
    """Return an open_clip model that is in memory as an encoder.

    Args:
        model: `open_clip.CLIP` or `CustomTextCLIP`.
        model_cfg: what it was built from.
        preprocess_cfg: mean, std, interpolation and resize mode; open_clip's defaults where absent.
        tokenizer: from texts to token numbers (T,L).
        uri: the name for the record.
    """
    from open_clip.transform import PreprocessCfg

    prepared = PreprocessCfg(
        **{k: preprocess_cfg[k] for k in PREPROCESS_KEYS if k in preprocess_cfg}
    )
    library = OpenClipLibrary(copy.deepcopy(model_cfg), tokenizer)
    tower = take_apart(model.visual)
    spec = EncoderSpec(
        uri=uri,
        dim=int(model_cfg["embed_dim"]),
        image_size=_square_side(model.visual.image_size),
        mean=_three(prepared.mean),
        std=_three(prepared.std),
        interpolation="bilinear" if prepared.interpolation == "bilinear" else "bicubic",
        resize=prepared.resize_mode,
        grid=tower.grid,
        pooling=tower.pooling,
        logit_scale=math.exp(model.logit_scale.item()),
        logit_bias=0.0 if model.logit_bias is None else model.logit_bias.item(),
        fingerprint=fingerprint(model),
    )
    return DualEncoder(model.eval(), library, spec)


def _three(values: Any) -> tuple[float, float, float]:
    red, green, blue = values
    return float(red), float(green), float(blue)


def _square_side(size: Any) -> int:
    sides = {size} if isinstance(size, int) else set(size)
    if len(sides) != 1:
        raise UnsupportedEncoderError(
            f"its input of {tuple(size)} pixels is no square", mend="use a square model"
        )
    return int(sides.pop())
