"""Encoders of transformers: CLIPModel, SiglipModel and Siglip2Model (NaFlex).

Which one a checkpoint is, its `model_type` says and not its name: the fixed-size SigLIP 2
checkpoints are of type `siglip`. SigLIP was trained on lower-case text padded to full length with
attention over the padding, so no attention mask is passed, and its text is padded to that length
always (facts/ecosystem.md section 2). Images go through the checkpoint's own processor, with its
rescaling and normalising left to `normalise`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from fieldmark.core.errors import FetchError, InputError
from fieldmark.core.registry import look_up
from fieldmark.models.adapter import DualEncoder, fingerprint
from fieldmark.models.checkpoint import PICKLES, check_sizes, load_weights, replacing_folder
from fieldmark.models.encoder import EncoderSpec, Interpolation, Resize
from fieldmark.models.hf_towers import ClipTower, NaflexTower, SiglipTower, join_patches
from fieldmark.models.hub import (
    fetch_hub_file,
    first_line,
    is_folder,
    is_offline,
    missing_file,
    missing_library,
)
from fieldmark.models.towers import Tower

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
# transformers 5 writes one file for image processor and tokenizer, older checkpoints have two.
PROCESSORS = ("preprocessor_config.json", "processor_config.json")
# Values of PIL's resampling filters, as processors keep them.
INTERPOLATIONS: dict[int, Interpolation] = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}


TOWERS: dict[str, type[ClipTower] | type[SiglipTower]] = {
    "clip": ClipTower,
    "siglip": SiglipTower,
    "siglip2": NaflexTower,
}
RESIZES: dict[str, Resize] = {"clip": "shortest", "siglip": "squash", "siglip2": "naflex"}


@dataclass(frozen=True)
class TransformersLibrary:
    """How transformers wants a model used.

    Attributes:
        processor: the checkpoint's image processor and tokenizer.
    """

    processor: Any

    def image_tower(self, model: Any) -> nn.Module:
        """Return the vision model with what projects it."""
        return TOWERS[model.config.model_type](model)

    def take_apart(self, model: Any) -> Tower:
        """Return the image tower, which comes in pieces too."""
        return TOWERS[model.config.model_type](model)

    def preprocess(self, image: Image.Image, *, spec: EncoderSpec) -> Tensor:
        """Resize and crop one image by the checkpoint's own processor."""
        batch = self.processor.image_processor(
            image, do_rescale=False, do_normalize=False, return_tensors="pt"
        )
        pixels: Tensor = batch["pixel_values"][0]
        if spec.resize == "naflex":
            rows, columns = batch["spatial_shapes"][0].tolist()
            pixels = join_patches(pixels[: rows * columns], rows=rows, columns=columns)
        return pixels.to(torch.uint8)

    def encode_text(self, model: Any, texts: list[str]) -> Tensor:
        """Tokenise as the checkpoint was trained, and embed."""
        config, device = model.config, next(model.parameters()).device
        is_clip = config.model_type == "clip"
        batch = self.processor.tokenizer(
            texts if is_clip else [text.lower() for text in texts],
            padding=True if is_clip else "max_length",
            truncation=True,
            max_length=config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(device)
        named = {"attention_mask": batch["attention_mask"]} if is_clip else {}
        output = model.get_text_features(input_ids=batch["input_ids"], **named)
        embedded: Tensor = output.pooler_output
        return embedded

    def save(self, model: Any, folder: Path, *, spec: EncoderSpec) -> None:
        """Write a folder that `AutoModel` and `AutoProcessor` open."""
        with replacing_folder(folder) as part, _without_progress_bars():
            model.save_pretrained(part)
            self.processor.save_pretrained(part)


def load_transformers(name: str) -> DualEncoder:
    """Load a CLIP, SigLIP or SigLIP 2 (NaFlex) model of transformers.

    Args:
        name: a folder, or `org/repo` on the hub.

    Raises:
        MissingExtraError: transformers is not installed.
        UnknownNameError: a model of another type.
        FetchError: a hub file cannot be had.
        InputError: a folder without safetensors weights, or a damaged one.
    """
    try:
        from transformers import AutoConfig, AutoModel, AutoProcessor
    except ImportError as error:
        raise missing_library(error) from error
    try:
        folder = Path(name).expanduser()
    except RuntimeError:
        # The home of nobody.
        folder = Path(name)
    is_local = is_folder(folder)
    source = str(folder) if is_local else name
    if is_local:
        _check_folder(folder)
    else:
        for names in (("config.json",), WEIGHTS, PROCESSORS):
            fetch_hub_file(name, names, hint="hf:PATH")
    # Offline, the library would ask the hub for half a minute before it looks into its cache.
    local_only = is_local or is_offline()
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=local_only)
        look_up(TOWERS, config.model_type, kind="transformers model type")
        check_sizes(config.to_dict(), where=source)
        processor = AutoProcessor.from_pretrained(source, local_files_only=local_only)
    except ImportError as error:
        raise missing_library(error) from error
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(source, error, is_local=is_local) from error
    found: list[nn.Module] = []
    with _without_progress_bars():
        load_weights(
            lambda: found.append(
                AutoModel.from_pretrained(
                    source, dtype=torch.float32, use_safetensors=True, local_files_only=local_only
                )
            ),
            path=folder,
        )
    return wrap_model(found[0].eval(), processor, uri=f"hf:{name}")


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if before:
            logging.enable_progress_bar()


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise InputError("holds no config.json", where=folder, mend="give a model's folder")
    if not any((folder / name).is_file() for name in WEIGHTS):
        pickles = [path.name for pattern in PICKLES for path in folder.glob(pattern)]
        problem = "holds no model.safetensors" + (
            f" but a pickle ({pickles[0]})" if pickles else ""
        )
        raise InputError(problem, where=folder, mend="convert the weights to safetensors")


def _unreadable(source: str, error: Exception, *, is_local: bool) -> InputError | FetchError:
    reason = first_line(error)
    if is_local:
        return InputError(
            f"processor or tokenizer cannot be read ({reason})",
            where=source,
            mend="put preprocessor_config.json and tokenizer.json beside the weights",
        )
    return missing_file(source, "tokenizer.json", reason=reason, hint="hf:PATH")


def wrap_model(model: Any, processor: Any, *, uri: str) -> DualEncoder:
    """Return a transformers model that is in memory as an encoder.

    Args:
        model: `CLIPModel`, `SiglipModel` or `Siglip2Model`.
        processor: its image processor and tokenizer.
        uri: the name for the record.

    Raises:
        InputError: the processor makes images of another size than the model takes.
    """
    tower = TOWERS[model.config.model_type](model)
    prepared, vision = processor.image_processor, model.config.vision_config
    if model.config.model_type == "siglip2":
        side = math.isqrt(prepared.max_num_patches) * vision.patch_size
        if prepared.patch_size != vision.patch_size:
            raise _wrong_size(uri, prepared.patch_size, vision.patch_size)
    else:
        side = vision.image_size
        made = prepared.crop_size if getattr(prepared, "do_center_crop", False) else prepared.size
        if (made["height"], made["width"]) != (side, side):
            raise _wrong_size(uri, (made["height"], made["width"]), side)
    spec = EncoderSpec(
        uri=uri,
        dim=getattr(model.config, "projection_dim", None) or vision.hidden_size,
        image_size=side,
        mean=tuple(prepared.image_mean),
        std=tuple(prepared.image_std),
        interpolation=INTERPOLATIONS[int(prepared.resample)],
        resize=RESIZES[model.config.model_type],
        grid=(side // vision.patch_size, side // vision.patch_size),
        pooling=tower.pooling,
        logit_scale=math.exp(model.logit_scale.item()),
        logit_bias=model.logit_bias.item() if hasattr(model, "logit_bias") else 0.0,
        fingerprint=fingerprint(model),
    )
    return DualEncoder(model, TransformersLibrary(processor), spec)


def _wrong_size(uri: str, made: object, wanted: object) -> InputError:
    return InputError(
        f"its processor makes {made} and its model takes {wanted}",
        where=uri,
        mend="give the preprocessor_config.json of these weights",
    )
