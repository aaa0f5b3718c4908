"""Mitigation end to end: it learns, it resumes to the same bits, and it refuses bad data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fieldmark.core.errors import (
    FieldmarkError,
    InputError,
    NotApplicableError,
    RunExistsError,
    UnknownNameError,
)
from fieldmark.data.pixels import PixelArray
from fieldmark.methods.mitigation.captions import assign_labels, parse_captions
from fieldmark.methods.mitigation.config import MitigationConfig
from fieldmark.methods.mitigation.fine_tune import Mitigated, mitigate
from fieldmark.methods.mitigation.groups import RowBatches, group_images, weigh_rows
from fieldmark.methods.mitigation.material import MitigationData, prepare_material
from fieldmark.methods.mitigation.objectives import MITIGATIONS
from fieldmark.methods.processes import Processes
from fieldmark.models.encoder import Encoder
from fieldmark.models.load import load_encoder
from fieldmark.testing import FakeEncoder
from tests.models import tiny

CONFIG = MitigationConfig(
    epochs=3, batch_size=8, learning_rate=0.02, patience=None, checkpoint_seconds=0
)
QUADRANTS = np.array([[0, 0, 4, 4], [4, 0, 8, 4], [0, 4, 4, 8], [4, 4, 8, 8]], np.float32)


class Killed(Exception):
    """Stands for a killed process."""


def draw_data(count: int = 40, *, side: int = 8, dim: int = 6, **changes: Any) -> MitigationData:
    """Return red and blue images; a green last quadrant goes with red 9 times of 10."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % 2
    marked = random.random(count) < np.where(labels == 0, 0.9, 0.1)
    pixels = np.zeros((count, 3, side, side), np.uint8)
    pixels[labels == 0, 0], pixels[labels == 1, 2] = 200, 200
    half = side // 2
    pixels[marked, :, half:, half:] = np.array([0, 255, 0], np.uint8)[:, None, None]
    words = np.eye(dim, dtype=np.float32)[[0, 2]]
    values: dict[str, Any] = {
        "pixels": PixelArray(torch.from_numpy(pixels)),
        "captions": words[labels],
        "labels": labels,
        "prototypes": words,
        "owners": np.repeat(np.arange(count), 4),
        "boxes": np.tile(QUADRANTS * side / 8, (count, 1)),
        "spurious": (np.tile(np.arange(4) == 3, count) & np.repeat(marked, 4)),
    }
    return MitigationData(**(values | changes))


def run(folder: Path, data: MitigationData | None = None, **changes: Any) -> Mitigated:
    values: dict[str, Any] = {"method": "ravl", "config": CONFIG, "seed": 0, "folder": folder}
    encoder: Encoder = changes.pop("encoder", FakeEncoder())
    return mitigate(encoder, data or draw_data(), **(values | changes))


def weights(mitigated: Mitigated) -> list[torch.Tensor]:
    return list(mitigated.encoder.image_tower.state_dict().values())


@pytest.fixture(scope="module")
def resnet(tmp_path_factory) -> Encoder:
    folder = tiny.write_open_clip(tmp_path_factory.mktemp("tiny") / "resnet", "resnet")
    return load_encoder(f"local-dir:{folder}", device="cpu")


@pytest.mark.parametrize("method", sorted(MITIGATIONS))
def test_the_loss_of_a_tiny_resnet_falls(tmp_path, resnet, method):
    data = draw_data(24, side=64, dim=64)
    config = CONFIG.model_copy(
        update={"epochs": 8, "learning_rate": 5e-3, "batch_size": 24, "validation_share": 0.0}
    )
    done = run(tmp_path, data, encoder=resnet, method=method, config=config)
    losses = [row.loss for row in done.losses]
    # Batches that are drawn with replacement differ in how hard they are.
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    assert done.encoder.spec.fingerprint != resnet.spec.fingerprint
    texts = ["a photo of a duck"]
    assert torch.equal(done.encoder.encode_text(texts), resnet.encode_text(texts))
    before = dict(resnet.image_tower.named_buffers())
    for name, value in done.encoder.image_tower.named_buffers():
        assert torch.equal(value, before[name]), f"{name} is a statistic of a batch norm"


def test_a_vit_learns_from_crops(tmp_path):
    folder = tiny.write_open_clip(tmp_path / "clip", "clip")
    vit = load_encoder(f"local-dir:{folder}", device="cpu")
    config = CONFIG.model_copy(update={"epochs": 4, "batch_size": 8, "learning_rate": 2e-3})
    done = run(tmp_path / "run", draw_data(8, side=32, dim=64), encoder=vit, config=config)
    assert done.losses[-1].loss < done.losses[0].loss
    done.encoder.save(tmp_path / "saved")
    saved = load_encoder(f"local-dir:{tmp_path / 'saved'}", device="cpu")
    assert saved.spec.fingerprint == done.encoder.spec.fingerprint


def test_batch_norms_learn_statistics_where_asked(tmp_path, resnet):
    data = draw_data(8, side=64, dim=64)
    config = CONFIG.model_copy(update={"epochs": 1, "validation_share": 0, "freeze_norms": False})
    done = run(tmp_path, data, encoder=resnet, method="standard", config=config)
    name = "bn1.running_mean"
    after, before = (e.image_tower.state_dict()[name] for e in (done.encoder, resnet))
    assert not torch.equal(after, before)


@pytest.mark.parametrize("method", ["ravl", "vl-gdro", "upsampled"])
@pytest.mark.parametrize("step", [2, 7])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, method, step):
    config = CONFIG.model_copy(update={"validation_share": 0.2})
    whole = run(tmp_path / "whole", method=method, config=config)

    def kill(at):
        if at.step == step:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "killed", method=method, config=config, progress=kill)
    resumed = run(tmp_path / "killed", method=method, config=config)
    assert resumed.losses == whole.losses
    assert (resumed.validation, resumed.epoch) == (whole.validation, whole.epoch)
    for a, b in zip(weights(whole), weights(resumed), strict=True):
        assert torch.equal(a, b)


def test_a_killed_run_of_a_resnet_resumes_to_the_same_bits(tmp_path, resnet):
    data = draw_data(10, side=64, dim=64)
    config = CONFIG.model_copy(update={"epochs": 2, "batch_size": 4, "validation_share": 0.2})
    whole = run(tmp_path / "whole", data, encoder=resnet, config=config)

    def kill(at):
        if at.step == 3:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path / "killed", data, encoder=resnet, config=config, progress=kill)
    resumed = run(tmp_path / "killed", data, encoder=resnet, config=config)
    assert resumed.losses == whole.losses
    for a, b in zip(weights(whole), weights(resumed), strict=True):
        assert torch.equal(a, b)
        assert a.is_contiguous()


def test_an_ended_run_is_read_again(tmp_path):
    first = run(tmp_path)
    steps: list[int] = []
    again = run(tmp_path, progress=lambda at: steps.append(at.step))
    assert steps == []
    assert again.losses == first.losses
    assert again.encoder.spec.fingerprint == first.encoder.spec.fingerprint


@pytest.mark.parametrize(
    "changes",
    [{"method": "standard"}, {"seed": 1}, {"encoder": FakeEncoder(background=0.5)}],
)
def test_a_folder_of_another_run_is_refused(tmp_path, changes):
    run(tmp_path)
    with pytest.raises(RunExistsError, match="another method, seed, encoder, data or settings"):
        run(tmp_path, **changes)


def test_held_out_images_stop_the_run_and_choose_the_epoch(tmp_path):
    config = CONFIG.model_copy(
        update={"epochs": 30, "learning_rate": 3.0, "patience": 2, "validation_share": 0.3}
    )
    done = run(tmp_path, config=config.model_copy(update={"schedule": "constant"}))
    assert done.stopped_early
    assert done.epoch == int(np.argmin(done.validation)) < len(done.validation) - 1
    assert done.counts["held_out"] == 12


def test_the_training_loss_stops_a_run_without_held_out_images(tmp_path):
    config = CONFIG.model_copy(
        update={"validation_share": 0.0, "patience": 1, "minimum_improvement": 100.0}
    )
    done = run(tmp_path, config=config)
    assert done.stopped_early
    assert done.epoch == 1
    assert done.validation == []


def feature_shift(encoder: Encoder) -> float:
    """How much nearer to red the green quadrant brings a blue image, in cosine."""
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    images[:, 2] = 200
    images[1, :, 4:, 4:] = torch.tensor([0, 255, 0], dtype=torch.uint8)[:, None, None]
    with torch.no_grad():
        toward = encoder.encode_image(images)[:, [0, 2]]
    margin = toward[:, 0] - toward[:, 1]
    return float(margin[1] - margin[0])


def test_ravl_unties_a_planted_feature_and_standard_does_not(tmp_path):
    config = CONFIG.model_copy(update={"epochs": 40, "batch_size": 40, "validation_share": 0.0})
    found = {
        method: feature_shift(run(tmp_path / method, method=method, config=config).encoder)
        for method in ("standard", "ravl")
    }
    assert found["ravl"] < 0.7 * found["standard"]


def test_lambda_of_one_is_standard_fine_tuning(tmp_path):
    config = CONFIG.model_copy(update={"contrast_weight": 1.0})
    plain = run(tmp_path / "standard", method="standard", config=config)
    region = run(tmp_path / "ravl", config=config)
    for a, b in zip(weights(plain), weights(region), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_labels_come_out_of_captions(tmp_path):
    texts = ["a red wall", "a blue wall", "red and blue", "a wall"] * 10
    labels = assign_labels(parse_captions(texts, ["red", "blue"]), several="all")
    config = CONFIG.model_copy(update={"validation_share": 0.0, "epochs": 1})
    for method in MITIGATIONS:
        done = run(tmp_path / method, draw_data(labels=labels), method=method, config=config)
        assert done.counts["unlabelled"] == 10
        assert np.isfinite([row.loss for row in done.losses]).all()


def test_what_takes_no_part_is_counted(tmp_path):
    labels = np.where(np.arange(40) < 5, -1, np.arange(40) % 2)
    spurious = np.repeat(np.arange(40) >= 37, 4)
    config = CONFIG.model_copy(update={"validation_share": 0.0, "epochs": 1})
    done = run(tmp_path, draw_data(labels=labels, spurious=spurious), config=config)
    assert done.counts == {
        "images": 40,
        "held_out": 0,
        "unlabelled": 5,
        "without_plain_region": 3,
        "groups": 5,
    }


def test_batches_draw_groups_evenly_and_follow_from_the_step():
    groups = np.array([0] * 90 + [1] * 10)
    pixels = PixelArray(torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2))

    def open_batches() -> RowBatches:
        rows = np.arange(100)
        return RowBatches(pixels, rows, chances=weigh_rows(groups), batch_size=32, seed=3)

    batches, again = open_batches(), open_batches()
    drawn = np.concatenate([groups[batches.order(epoch)] for epoch in range(40)])
    assert abs(drawn.mean() - 0.5) < 0.03
    cpu = torch.device("cpu")
    late = again.draw(9, processes=Processes(), device=cpu)
    steps = [batches.draw(step, processes=Processes(), device=cpu) for step in range(10)]
    assert torch.equal(steps[9].target, late.target)
    assert [batch.total for batch in steps[:4]] == [32, 32, 32, 4]
    assert torch.equal(late.image[:, 0, 0, 0].long(), late.target)


def test_groups_are_class_and_feature():
    labels = np.array([[1, 0], [1, 0], [0, 1], [0, 0], [1, 1]], bool)
    groups = group_images(labels, np.array([True, False, True, True, True]))
    assert len(set(groups.tolist())) == 5


def test_regions_of_rows_come_in_order():
    data = draw_data(4, owners=[2, 0, 2, 3], boxes=QUADRANTS, spurious=[False] * 4)
    material = prepare_material(data)
    found = material.find_regions(torch.tensor([3, 1, 2, 2]))
    assert found.places.tolist() == [0, 2, 2, 3, 3]
    boxes = material.boxes[found.regions]
    assert boxes.tolist() == QUADRANTS[[3, 0, 2, 0, 2]].tolist()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.full(40, 2)}, "image 0 has label 2, and there are 2 classes"),
        ({"labels": np.zeros(3, int)}, r"labels int64 \(3,\) are neither"),
        ({"labels": np.zeros(40)}, "neither whole numbers"),
        ({"captions": np.zeros((40, 6))}, "caption 0 has norm 0, not 1"),
        ({"prototypes": np.full((2, 6), np.nan)}, "prototype of a class 0 has norm nan"),
        ({"captions": np.eye(6)}, "do not fit 40 images"),
        ({"owners": np.full(160, 40)}, "region 0 belongs to image 40, and there are 40 images"),
        ({"spurious": [True]}, "160 owners, 160 boxes and 1 marks"),
        ({"boxes": np.zeros((160, 4))}, "is empty or not inside 8 x 8"),
    ],
)
def test_bad_arrays_are_one_clear_line(tmp_path, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        run(tmp_path, draw_data(**changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("ravl", {"spurious": np.ones(160, bool)}, "has a region that is not spurious"),
        ("ravl", {"labels": np.full(40, -1)}, "no image has a class label"),
        ("ravl", {"owners": [], "boxes": np.zeros((0, 4)), "spurious": []}, "not spurious"),
        (
            "upsampled",
            {"labels": np.zeros(40, int), "spurious": np.zeros(160, bool)},
            "all images are of one group",
        ),
    ],
)
def test_data_that_do_not_bear_a_method(tmp_path, method, changes, message):
    with pytest.raises(NotApplicableError, match=message):
        run(tmp_path, draw_data(**changes), method=method)
    assert not (tmp_path / "mitigation.json").exists()


def test_one_image_is_not_enough(tmp_path):
    with pytest.raises(NotApplicableError, match="needs 2 images, and 1 of 1 are left"):
        run(tmp_path, draw_data(1), method="standard")


def test_an_unknown_method_lists_the_known_ones(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean ravl"):
        run(tmp_path, method="ravel")


@pytest.mark.parametrize("share", [0.0, 0.2])
def test_a_loss_that_is_not_finite_is_an_error(tmp_path, share):
    config = CONFIG.model_copy(update={"learning_rate": 1e30, "validation_share": share})
    with pytest.raises(FieldmarkError, match="lower learning_rate"):
        run(tmp_path, config=config)
