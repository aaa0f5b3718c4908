"""The one module that knows about devices, number types and what makes a run repeatable."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from pathlib import Path

import torch

from fieldmark.core.errors import UsageError
from fieldmark.core.registry import look_up
from fieldmark.core.seeds import derive_seed

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NATIVE_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16", "asimdbf16"}


def pick_device(name: torch.device | str = "auto") -> torch.device:
    """Return the device of that name; `auto` is the first CUDA device, else the CPU.

    Raises:
        UsageError: no such device here.

    Example:
        >>> pick_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(
            f"unknown device {name!r}", mend="known: auto, cpu, cuda, cuda:N"
        ) from None
    if device.type == "cuda" and not (device.index or 0) < torch.cuda.device_count():
        raise UsageError(
            f"device {name!r} is not here ({torch.cuda.device_count()} CUDA devices)",
            mend="use --device cpu or auto",
        )
    return device


def has_native_bf16(device: torch.device | str = "cpu") -> bool:
    """Say whether arithmetic in bfloat16 is faster than in float32 on this device.

    A CPU without the instructions emulates them and is several times slower than in float32.
    """
    if torch.device(device).type == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return not NATIVE_BF16_FLAGS.isdisjoint(_cpu_flags())


def _cpu_flags() -> set[str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    flags = (
        line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features"))
    )
    return set(next(flags, "").split())


def pick_extraction_dtype(device: torch.device | str = "cpu") -> torch.dtype:
    """Return the weights' type to extract embeddings with: bfloat16 where native, else float32."""
    return torch.bfloat16 if has_native_bf16(device) else torch.float32


def pick_dtype(precision: str, *, device: torch.device | str = "cpu") -> torch.dtype:
    """Return the type that `precision` names; `auto` is what `pick_extraction_dtype` says.

    Raises:
        UnknownNameError: not one of auto, fp32, bf16, fp16.

    Example:
        >>> pick_dtype("bf16")
        torch.bfloat16
    """
    if precision == "auto":
        return pick_extraction_dtype(device)
    return look_up({**PRECISIONS, "auto": torch.float32}, precision, kind="precision")


@contextlib.contextmanager
def training_autocast(
    device: torch.device | str, dtype: torch.dtype = torch.bfloat16
) -> Iterator[None]:
    """Run a training step's forward pass in `dtype` over float32 weights; float32 switches it off.

    Raises:
        UsageError: entered under `torch.inference_mode` on a CPU, where autocast keeps casting the
            weights anew for each call and is slower than float32; extract with weights cast once by
            `Encoder.place`.

    Example:
        >>> with training_autocast("cpu"):
        ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
        torch.bfloat16
    """
    kind = torch.device(device).type
    if kind == "cpu" and torch.is_inference_mode_enabled():
        raise UsageError(
            "autocast under inference_mode on a CPU casts all weights for each call",
            mend="cast the weights once with Encoder.place(dtype=...)",
        )
    with torch.autocast(kind, dtype=dtype, enabled=dtype != torch.float32):
        yield


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python and torch, for libraries that draw from those.

    Example:
        >>> seed_everything(0); first = torch.rand(1)
        >>> seed_everything(0); bool(torch.rand(1) == first)
        True
    """
    random.seed(derive_seed(seed, "python"))
    torch.manual_seed(derive_seed(seed, "torch"))


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """Let torch use only kernels that give the same bits each time, inside the block."""
    # cuBLAS is deterministic only with a fixed workspace, which it reads when CUDA starts.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark


def synchronise(device: torch.device | str) -> None:
    """Wait until all work on the device is done, so that a clock read afterwards is right."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
