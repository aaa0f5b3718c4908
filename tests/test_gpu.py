"""The same on CUDA as on the CPU. Runs by itself where there is a GPU (tests/QUARANTINES.md)."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from fieldmark.data.backgrounds import read_backgrounds
from fieldmark.data.compositing import Compositor
from fieldmark.data.foregrounds import read_foregrounds
from fieldmark.methods.bap.config import METHOD_NAMES
from fieldmark.methods.bap.pretrain import Pretraining, pretrain
from fieldmark.methods.processes import Processes
from fieldmark.models.adapter import replace_image_tower
from fieldmark.models.device import (
    deterministic,
    has_native_bf16,
    pick_device,
    pick_extraction_dtype,
    synchronise,
    training_autocast,
)
from fieldmark.models.embed import embed_batches
from fieldmark.models.load import load_encoder
from fieldmark.models.open_clip import load_folder
from fieldmark.models.prompts import TEMPLATES, ensemble_prompts
from fieldmark.models.transformers import load_transformers
from fieldmark.testing import FakeEncoder
from tests.methods.bap_material import CONFIG, open_compositor
from tests.models import tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA (tests/QUARANTINES.md)"),
]
FAMILIES = tuple(tiny.FAMILIES)


@pytest.fixture(autouse=True)
def full_float32():
    """Keep TF32 out of comparisons with the CPU; for matrix products it is off by default."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


@pytest.fixture
def encoder(tmp_path):
    """Return a function from a family to an encoder on the CPU."""
    return lambda family: load_folder(tiny.write_open_clip(tmp_path / family, family))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_embeddings_are_those_of_the_cpu(encoder, family):
    here = encoder(family)
    there = here.place(device="cuda")
    image = tiny.images(here.spec.image_size)
    expected = here.encode_image(image)
    assert there.spec == here.spec
    assert there.encode_image(image).device.type == "cuda"
    assert tiny.largest([there.encode_image(image.cuda()).cpu() - expected]) < 1e-4
    assert tiny.largest([there.encode_text(tiny.TEXTS).cpu() - here.encode_text(tiny.TEXTS)]) < 1e-4
    assert tiny.largest([there.pool(there.run(there.tokens(image))).cpu() - expected]) < 1e-4
    side = float(here.spec.image_size)
    [region, _] = there.encode_regions(
        image, [torch.tensor([[0, 0, side, side]]), torch.ones(0, 4)]
    )
    assert tiny.largest([region.cpu() - expected[:1]]) < 1e-4


@pytest.mark.parametrize("family", ["clip", "siglip", "siglip2"])
@torch.no_grad()
def test_models_of_transformers_are_those_of_the_cpu(tmp_path, family):
    here = load_transformers(str(tiny.write_transformers(tmp_path / family, family)))
    there = here.place(device="cuda")
    image = here.preprocess(tiny.photograph(97, 61))[None]
    assert tiny.largest([there.encode_image(image).cpu() - here.encode_image(image)]) < 1e-4
    assert tiny.largest([there.encode_text(tiny.TEXTS).cpu() - here.encode_text(tiny.TEXTS)]) < 1e-4


def test_the_device_is_found_and_has_its_number_type(tmp_path):
    folder = tiny.write_open_clip(tmp_path / "clip", "clip")
    assert pick_device("auto").type == "cuda"
    placed = load_encoder(f"local-dir:{folder}", device="auto", precision="auto")
    weight = next(placed.image_tower.parameters())
    assert weight.dtype == pick_extraction_dtype("cuda")
    assert has_native_bf16("cuda") == (weight.dtype == torch.bfloat16)


def test_extraction_in_bfloat16_is_close(encoder):
    here = encoder("clip")
    batches = [tiny.images(32, count=8, seed=seed) for seed in range(3)]
    exact = embed_batches(here, batches, precision="fp32")
    cast = embed_batches(here.place(device="cuda"), batches, precision="bf16")
    assert float((exact * cast).sum(1).min()) > 0.999


def test_prompts_are_those_of_the_cpu(encoder):
    here = encoder("clip")
    names = ["landbird", "waterbird"]
    there = ensemble_prompts(here.place(device="cuda"), names, TEMPLATES).cpu()
    assert tiny.largest([there - ensemble_prompts(here, names, TEMPLATES)]) < 1e-4


def take_steps(tower: torch.nn.Module, pixels: torch.Tensor) -> list[float]:
    optimizer = torch.optim.AdamW(tower.parameters(), lr=1e-3)
    losses = []
    for _ in range(5):
        with training_autocast("cuda"):
            embedded = torch.nn.functional.normalize(tower(pixels).float(), dim=-1)
        loss = (1 - embedded[:, 0]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_training_steps_repeat_to_the_bit_and_come_back(encoder, family):
    placed = encoder(family).place(device="cuda")
    pixels = torch.randn(4, 3, placed.spec.image_size, placed.spec.image_size, device="cuda")
    with deterministic():
        first, second = (copy.deepcopy(placed.image_tower) for _ in range(2))
        losses = take_steps(first, pixels)
        assert losses == take_steps(second, pixels)
    synchronise("cuda")
    assert losses[-1] < losses[0]
    trained = replace_image_tower(placed, first.state_dict())
    expected = torch.nn.functional.normalize(first(pixels), dim=-1)
    assert tiny.largest([trained.encode_image(pixels) - expected]) < 1e-5


def test_composites_are_those_of_the_cpu(tmp_path):
    random = np.random.default_rng(0)
    for kind, count in (("objects/a", 3), ("objects/b", 3), ("scenes/land", 4)):
        (tmp_path / kind).mkdir(parents=True)
        for index in range(count):
            image = tiny.photograph(90 + index, 70, seed=index).convert("RGBA")
            alpha = random.integers(0, 2, (4, 5), dtype=np.uint8) * 255
            alpha[1:3, 1:4] = 255
            if kind.startswith("objects"):
                image.putalpha(Image.fromarray(alpha).resize(image.size, Image.Resampling.BICUBIC))
            image.save(tmp_path / kind / f"{index}.png")
    compositor = Compositor(
        read_foregrounds(tmp_path / "objects"),
        read_backgrounds(tmp_path / "scenes"),
        side=64,
        cache=tmp_path / "cache",
    )
    chosen = (np.arange(6), np.arange(6) % 4, np.arange(6) % compositor.n_scales)
    here = compositor.composite(*chosen)
    there = compositor.composite(*chosen, device="cuda")
    assert there.image.device.type == "cuda"
    assert torch.equal(there.mask.cpu(), here.mask)
    assert int((there.image.cpu().int() - here.image.int()).abs().max()) <= 1


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_pre_training_runs_and_resumes(tmp_path, method):
    run = Pretraining(
        encoder=FakeEncoder().place(device="cuda"),
        compositor=open_compositor(tmp_path),
        config=CONFIG.model_copy(update={"precision": "bf16"}),
        seed=0,
        folder=tmp_path / "training",
        cache=tmp_path / "anchors",
        processes=Processes(),
    )
    whole = pretrain(run, method=method)
    assert next(whole.encoder.image_tower.parameters()).device.type == "cuda"
    assert len(whole.trained.losses) == 15
    again = pretrain(run, method=method)
    assert again.trained.losses == whole.trained.losses
