"""The training loop: it learns, it resumes to the same bits, it is data-parallel."""

from __future__ import annotations

import copy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fieldmark.core.errors import InputError, UnknownNameError
from fieldmark.methods.bap.config import METHOD_NAMES
from fieldmark.methods.bap.objectives import align_to
from fieldmark.methods.bap.pretrain import METHODS, Pretraining, pretrain
from fieldmark.methods.bap.training import Trained, average_epochs, freeze_batch_norm, train
from fieldmark.methods.checkpoints import CHECKPOINT, read_losses
from fieldmark.methods.processes import Processes
from fieldmark.testing import FakeEncoder
from tests.methods.bap_material import CONFIG, open_compositor


class Killed(Exception):
    """Stands for a killed process."""


def align(folder, compositor, *, config=CONFIG, progress=None, name="run") -> Trained:
    encoder = FakeEncoder()
    anchors = torch.nn.functional.normalize(torch.rand(compositor.n_objects, 6) + 0.1, dim=-1)
    anchors = torch.nn.functional.normalize(torch.arange(1.0, 7.0).expand_as(anchors), dim=-1)
    return train(
        copy.deepcopy(encoder.image_tower),
        compositor,
        spec=encoder.spec,
        loss=align_to(anchors),
        config=config,
        seed=0,
        folder=folder / name,
        progress=progress,
    )


def weights(trained: Trained) -> list[torch.Tensor]:
    return list(trained.tower.state_dict().values())


def test_the_loss_falls(tmp_path):
    trained = align(tmp_path, open_compositor(tmp_path))
    means = average_epochs(trained.losses)
    assert len(means) == CONFIG.epochs
    assert means[-1] < means[0]
    assert not trained.stopped_early


@pytest.mark.parametrize("step", [1, 7, 13])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, step):
    compositor = open_compositor(tmp_path)
    whole = align(tmp_path, compositor, name="whole")

    def kill(at):
        if at.step == step:
            raise Killed

    # Every third step is kept, so that a kill loses some.
    with pytest.raises(Killed):
        align(tmp_path, compositor, progress=kill)
    resumed = align(tmp_path, compositor)
    for a, b in zip(weights(whole), weights(resumed), strict=True):
        assert torch.equal(a, b)
    assert resumed.losses == whole.losses
    assert read_losses(tmp_path / "run") == whole.losses


def test_steps_since_the_last_checkpoint_are_taken_again(tmp_path):
    compositor = open_compositor(tmp_path)
    whole = align(tmp_path, compositor, name="whole")
    rare = CONFIG.model_copy(update={"checkpoint_seconds": 3600.0})

    def kill(at):
        if at.step == 4:
            raise Killed

    with pytest.raises(Killed):
        align(tmp_path, compositor, config=rare, progress=kill)
    assert len(read_losses(tmp_path / "run")) == 4
    assert not (tmp_path / "run" / CHECKPOINT).exists()
    resumed = align(tmp_path, compositor)
    assert resumed.losses == whole.losses


def test_half_a_line_in_the_log_is_dropped(tmp_path):
    compositor = open_compositor(tmp_path)
    align(tmp_path, compositor)
    with (tmp_path / "run" / "loss.jsonl").open("a") as stream:
        stream.write('{"step": 99, "ep')
    assert [row.step for row in read_losses(tmp_path / "run")] == list(range(15))


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "loss.jsonl"])
def test_a_damaged_checkpoint_or_log_is_refused(tmp_path, name):
    compositor = open_compositor(tmp_path)

    def kill(at):
        if at.step == 8:
            raise Killed

    with pytest.raises(Killed):
        align(tmp_path, compositor, progress=kill)
    path = tmp_path / "run" / name
    data = bytearray(path.read_bytes())
    for place, bit in ((len(data) // 2, 128), (12, 128)):
        bad = bytearray(data)
        bad[place] ^= bit
        path.write_bytes(bad)
        with pytest.raises(InputError, match=r"is damaged .*; delete it.*trains again from"):
            align(tmp_path, compositor)


def test_a_log_that_lacks_a_line_is_refused(tmp_path):
    compositor = open_compositor(tmp_path)
    align(tmp_path, compositor)
    path = tmp_path / "run" / "loss.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], *lines[4:]]))
    with pytest.raises(InputError, match="a line is missing"):
        read_losses(tmp_path / "run")


def test_accumulation_changes_nothing_but_rounding(tmp_path):
    compositor = open_compositor(tmp_path)
    whole = align(tmp_path, compositor, name="whole")
    parts = align(
        tmp_path, compositor, config=CONFIG.model_copy(update={"accumulation": 3}), name="parts"
    )
    for a, b in zip(weights(whole), weights(parts), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_early_stop_on_the_alignment_loss(tmp_path):
    config = CONFIG.model_copy(update={"epochs": 50, "patience": 2, "minimum_improvement": 10.0})
    trained = align(tmp_path, open_compositor(tmp_path), config=config)
    assert trained.stopped_early
    assert len(average_epochs(trained.losses)) == 3
    again = align(tmp_path, open_compositor(tmp_path), config=config)
    assert again.losses == trained.losses


def test_batch_norm_statistics_are_frozen():
    tower = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5))
    freeze_batch_norm(tower)
    before = tower.state_dict()["1.running_mean"].clone()
    tower(torch.randn(4, 3, 2, 2) + 5)
    assert torch.equal(tower.state_dict()["1.running_mean"], before)
    assert tower[2].training
    assert not tower[1].training


def pretraining(folder: Path, **changes) -> Pretraining:
    return Pretraining(
        encoder=FakeEncoder(),
        compositor=open_compositor(folder),
        config=CONFIG.model_copy(update={"learning_rate": 0.05, "epochs": 8, **changes}),
        seed=0,
        folder=folder / "training",
        cache=folder / "anchors",
        processes=Processes(),
    )


def background_share(encoder) -> float:
    """How far embeddings of one object move over scenes of other colours."""
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    images[:, 0, 2:6, 2:6] = 255
    images[1, 1], images[2, 2], images[3, :2] = 200, 200, 200
    images[:, 1:, 2:6, 2:6] = 0
    with torch.no_grad():
        z = encoder.encode_image(images)
    return float((z - z.mean(0)).norm(dim=-1).mean())


def test_bap_makes_an_encoder_ignore_the_background(tmp_path):
    run = pretraining(tmp_path)
    pretrained = pretrain(run)
    assert background_share(pretrained.encoder) < 0.5 * background_share(run.encoder)
    assert pretrained.anchors is not None
    assert pretrained.encoder.spec.fingerprint != run.encoder.spec.fingerprint
    texts = ["red", "blue"]
    assert torch.equal(pretrained.encoder.encode_text(texts), run.encoder.encode_text(texts))


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_every_method_sees_the_same_composites(tmp_path, method):
    run = pretraining(tmp_path, epochs=2)
    trained = pretrain(run, method=method).trained
    assert len(trained.losses) == 10
    assert np.isfinite([row.loss for row in trained.losses]).all()


def test_methods_are_named_once():
    assert tuple(METHODS) == METHOD_NAMES


def test_an_unknown_method_lists_the_known_ones(tmp_path):
    with pytest.raises(UnknownNameError, match="known: bap"):
        pretrain(pretraining(tmp_path), method="bop")


PROGRAM = Path(__file__).with_name("bap_program.py")


def test_kill_9_and_resume_give_the_same_weights(tmp_path):
    open_compositor(tmp_path)
    for name in ("whole", "killed"):
        words = [sys.executable, "-m", "tests.methods.bap_program", str(tmp_path), name]
        if name == "whole":
            subprocess.run(words, check=True, cwd=PROGRAM.parents[2])
            continue
        with subprocess.Popen([*words, "slowly"], cwd=PROGRAM.parents[2]) as process:
            log = tmp_path / name / "loss.jsonl"
            while not log.exists() or len(log.read_text().splitlines()) < 5:
                time.sleep(0.01)
                assert process.poll() is None
            process.send_signal(signal.SIGKILL)
        assert not (tmp_path / "killed.pt.safetensors").exists()
        subprocess.run(words, check=True, cwd=PROGRAM.parents[2])
    whole, killed = ((tmp_path / f"{n}.safetensors").read_bytes() for n in ("whole", "killed"))
    assert whole == killed


def test_two_processes_train_as_one(tmp_path):
    open_compositor(tmp_path)
    program = ["-m", "tests.methods.bap_program", str(tmp_path)]
    subprocess.run([sys.executable, *program, "one"], check=True, cwd=PROGRAM.parents[2])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    address = ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    ran = subprocess.run(
        [*torchrun, *address, *program, "two"],
        cwd=PROGRAM.parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    from safetensors.torch import load_file

    one, two = (load_file(tmp_path / f"{name}.safetensors") for name in ("one", "two"))
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, atol=1e-5, rtol=1e-5)
