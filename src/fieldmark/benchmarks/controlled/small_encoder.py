"""A CLIP small enough to be fine-tuned hundreds of times on two cores.

Its image tower is open_clip's ResNet CLIP with one block a stage, an eighth of the width and 64
pixels, 0.4 million parameters; its text tower is that of a packaged encoder, frozen. It is trained
here, once for each domain, with features that go with no class: for digits on garments and for
garments on digits, so it knows shapes and features and must learn the classes when it is
fine-tuned, as CLIP must those of a domain that it has seen little of.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from fieldmark.benchmarks.controlled.texts import embed_captions
from fieldmark.core.atomic import hash_json
from fieldmark.core.fetch import cache_dir
from fieldmark.core.sealed import SEAL, discard, is_whole, sealing
from fieldmark.core.seeds import generator
from fieldmark.data.controlled.canvases import draw_images
from fieldmark.data.controlled.features import FEATURES
from fieldmark.data.controlled.images import ControlledImages, Setting
from fieldmark.data.controlled.objects import DOMAINS, open_objects
from fieldmark.data.pixels import PixelArray
from fieldmark.methods.mitigation.config import MitigationConfig
from fieldmark.methods.mitigation.fine_tune import mitigate
from fieldmark.methods.mitigation.material import MitigationData
from fieldmark.models.adapter import DualEncoder, fingerprint
from fieldmark.models.conv_towers import ModifiedResNet
from fieldmark.models.encoder import EncoderSpec
from fieldmark.models.load import load_encoder
from fieldmark.models.open_clip import OpenClipLibrary
from fieldmark.models.preprocess import preprocess_image
from fieldmark.models.towers import Tower

NAME = "small"
DONOR = "packaged:efficientnet-lite0"
SIDE = 64
_LAYERS, _WIDTH, _HEAD = (1, 1, 1, 1), 8, 64
_VISION = {"layers": [*_LAYERS], "width": _WIDTH, "head_width": _HEAD, "image_size": SIDE}
_MEAN, _STD = (0.45, 0.45, 0.45), (0.25, 0.25, 0.25)
# Raise when what the base is trained on changes.
_RECIPE = 2
# What each domain's base is trained on, and for how long. No other domain knows what a bird is, so
# that of the cut-outs is trained on their own fold for training.
_LESSONS: dict[str, tuple[tuple[str, ...], int]] = {
    "digits": (("fashion",), 2),
    "fashion": (("digits",), 2),
    "stamps": (("stamps",), 5),
}
_IMAGES, _DRAWS = 6000, 15


@dataclass(frozen=True)
class BorrowedText:
    """How the small encoder is used: its model is the image tower alone.

    Attributes:
        donor: the encoder whose text tower it speaks with.
    """

    donor: DualEncoder

    def image_tower(self, model: Any) -> nn.Module:
        """Return the model itself."""
        tower: nn.Module = model
        return tower

    def take_apart(self, model: Any) -> Tower:
        """Return the image tower in pieces."""
        return ModifiedResNet(model)

    def preprocess(self, image: Image.Image, *, spec: EncoderSpec) -> Tensor:
        """Resize and crop one image."""
        return preprocess_image(image, spec=spec)

    def encode_text(self, model: Any, texts: list[str]) -> Tensor:
        """Embed texts with the donor."""
        with torch.inference_mode():
            return self.donor.encode_text(texts).clone()

    def save(self, model: Any, folder: Path, *, spec: EncoderSpec) -> None:
        """Write image and text tower as one model that open_clip loads."""
        library = self.donor.library
        assert isinstance(library, OpenClipLibrary)
        config = {**copy.deepcopy(library.model_cfg), "vision_cfg": dict(_VISION)}
        whole = copy.deepcopy(self.donor.model)
        whole.visual = copy.deepcopy(model)
        OpenClipLibrary(config, library.tokenizer).save(whole, folder, spec=spec)


def build_small_encoder(*, seed: int = 0) -> DualEncoder:
    """Return the small encoder with random weights in its image tower.

    Raises:
        FetchError: the donor of the text tower cannot be had.
    """
    from open_clip.modified_resnet import ModifiedResNet as ResNet

    donor = load_encoder(DONOR)
    assert isinstance(donor, DualEncoder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = ResNet(
            layers=_LAYERS,
            output_dim=donor.spec.dim,
            heads=_WIDTH * 32 // _HEAD,
            image_size=SIDE,
            width=_WIDTH,
        )
    spec = replace(
        donor.spec,
        uri=NAME,
        image_size=SIDE,
        mean=_MEAN,
        std=_STD,
        resize="squash",
        grid=(SIDE // 32, SIDE // 32),
        pooling="conv",
        logit_scale=1 / 0.07,
        logit_bias=0.0,
        fingerprint=fingerprint(tower),
    )
    return DualEncoder(tower.eval(), BorrowedText(donor), spec)


def open_small_encoder(
    domain: str, *, report: Callable[[int, int], None] = lambda done, total: None
) -> DualEncoder:
    """Return the base of a domain: trained on the other domains, once, then read from the cache.

    Args:
        domain: a key of `DOMAINS`.
        report: called with steps done and in all while it is trained.

    Raises:
        FetchError: packages cannot be had.
    """
    start = build_small_encoder()
    others, epochs = _LESSONS[domain]
    key = hash_json(
        [_RECIPE, _VISION, start.spec.fingerprint, others, sorted(FEATURES), _IMAGES, epochs]
    )
    path = cache_dir() / "controlled" / f"small-{domain}-{key[:16]}.safetensors"
    if path.is_file() and not is_whole(path):
        discard(path, instead="it is trained again")
    if not path.is_file():
        data = _draw_lessons(start, others)
        config = MitigationConfig(
            epochs=epochs, batch_size=64, learning_rate=2e-3, precision="bf16",
            validation_share=0, patience=None, freeze_norms=False, contrast_temperature=0.07,
        )  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            trained = mitigate(
                start,
                data,
                method="standard",
                config=config,
                seed=0,
                folder=Path(folder),
                progress=lambda now: report(now.step, now.total),
            )
        with sealing(path) as part:
            save_file(trained.encoder.image_tower.state_dict(), part, metadata=dict(SEAL))
    start.model.load_state_dict(load_file(path))
    spec = replace(start.spec, uri=f"{NAME}:{domain}", fingerprint=fingerprint(start.model))
    return replace(start, spec=spec)


def _draw_lessons(encoder: DualEncoder, domains: tuple[str, ...]) -> MitigationData:
    """Draw captioned images of all classes of some domains, with features that go with none."""
    parts: list[ControlledImages] = []
    features = generator(0, "small encoder").permutation(sorted(FEATURES)).tolist()
    share = _IMAGES // len(domains) // _DRAWS
    for domain in domains:
        classes = DOMAINS[domain].classes
        for number in range(_DRAWS):
            setting = Setting(
                domain=domain, feature=features[number], classes=classes, target=classes[0],
                correlation=1.0, draw=number,
            )  # fmt: skip
            objects = open_objects(domain)
            parts.append(
                draw_images(setting, objects, fold="training", count=share, side=SIDE, tied=False)
            )
    random = generator(0, "small encoder", "zoom")
    pixels = torch.cat([_zoom(part, random=random) for part in parts])
    captions = [text for part in parts for text in part.captions]
    texts = embed_captions(encoder, captions)
    return MitigationData(
        pixels=PixelArray(pixels),
        captions=texts,
        labels=np.full(len(captions), -1),
        prototypes=texts[:1],
        owners=[],
        boxes=[],
        spurious=[],
    )


def _zoom(images: ControlledImages, *, random: np.random.Generator) -> Tensor:
    """Return the images, half of them cut down to a window around their object.

    So the encoder knows its objects at more than one size, as CLIP does, which the embedding of a
    region asks of it.
    """
    pixels = images.pixels.read(np.arange(len(images)))
    width = images.names.index("distractor") - 1
    objects = images.boxes[images.shows < width].astype(int)
    for number, (x0, y0, x1, y1) in enumerate(objects.tolist()):
        if random.random() < 0.5:
            side = int(random.integers(max(x1 - x0, y1 - y0), SIDE + 1))
            left = int(random.integers(max(0, x1 - side), min(x0, SIDE - side) + 1))
            top = int(random.integers(max(0, y1 - side), min(y0, SIDE - side) + 1))
            window = pixels[number : number + 1, :, top : top + side, left : left + side].float()
            made = functional.interpolate(window, (SIDE, SIDE), mode="bilinear", antialias=True)
            pixels[number] = made[0].round().clamp(0, 255).to(torch.uint8)
    return pixels
