from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from fieldmark.core.errors import UnknownNameError, UsageError
from fieldmark.models import device


def test_auto_is_cuda_where_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.pick_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.pick_device("auto") == torch.device("cuda")


def test_a_device_that_is_not_here_is_an_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert device.pick_device("cuda:0") == torch.device("cuda:0")
    with pytest.raises(UsageError, match=r"'cuda:1' is not here \(1 CUDA devices\)"):
        device.pick_device("cuda:1")
    with pytest.raises(UsageError, match="unknown device 'tpu9'; known: auto, cpu"):
        device.pick_device("tpu9")


@pytest.mark.parametrize(
    ("text", "native"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512_bf16 sse\n", True),
        ("flags : fpu avx2 amx_bf16\n", True),
        ("Features : fp asimd bf16\n", True),
        ("flags : fpu avx2 avx512f\n", False),
        ("", False),
    ],
)
def test_native_bfloat16_is_read_off_the_processors_flags(monkeypatch, text, native):
    monkeypatch.setattr(Path, "read_text", lambda _: text)
    assert device.has_native_bf16("cpu") is native
    expected = torch.bfloat16 if native else torch.float32
    assert device.pick_extraction_dtype("cpu") == expected
    assert device.pick_dtype("auto", device="cpu") == expected


def test_precisions_by_name():
    assert device.pick_dtype("fp32") == torch.float32
    assert device.pick_dtype("fp16") == torch.float16
    with pytest.raises(UnknownNameError, match=r"unknown precision 'int8'; .*auto, bf16"):
        device.pick_dtype("int8")


def test_autocast_casts_in_training_and_float32_switches_it_off():
    matrix = torch.ones(2, 2)
    with device.training_autocast("cpu"):
        assert (matrix @ matrix).dtype == torch.bfloat16
    with device.training_autocast("cpu", torch.float32):
        assert (matrix @ matrix).dtype == torch.float32


def test_autocast_under_inference_mode_on_a_cpu_is_refused():
    with (
        torch.inference_mode(),
        pytest.raises(UsageError, match="cast the weights once"),
        device.training_autocast("cpu"),
    ):
        pass


def test_a_seed_repeats_python_and_torch():
    device.seed_everything(3)
    first = (random.random(), torch.rand(2).tolist())
    device.seed_everything(3)
    assert (random.random(), torch.rand(2).tolist()) == first
    device.seed_everything(4)
    assert random.random() != first[0]


def test_deterministic_kernels_end_with_the_block():
    before = torch.are_deterministic_algorithms_enabled()
    with device.deterministic():
        assert torch.are_deterministic_algorithms_enabled()
    assert torch.are_deterministic_algorithms_enabled() == before


def test_waiting_for_a_cpu_is_nothing():
    device.synchronise("cpu")
