"""BAP's phase 1 against the bare encoder, and its peak memory as N, K and M grow.

    python benchmarks/anchors.py [--model packaged:dinov2-small]

The rival of the rate is the encoder alone on uint8 composites that are already there, with the same
weights and batch, in turns in the same process. Target: 0.95 or more. Peak memory is that of fresh
processes which make anchors and train FakeEncoder; it must not grow with N, K or M.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from fieldmark.core.records import ResultRow
from fieldmark.data.backgrounds import read_backgrounds
from fieldmark.data.compositing import Compositor
from fieldmark.data.datasets import build_dataset
from fieldmark.data.foregrounds import read_foregrounds
from fieldmark.methods.bap.anchors import make_anchors
from fieldmark.models.device import pick_extraction_dtype
from fieldmark.models.load import load_encoder

BATCH = 32
GROWING = """
import resource, sys
from pathlib import Path
import numpy as np
from fieldmark.data.backgrounds import read_backgrounds
from fieldmark.data.foregrounds import read_foregrounds
from fieldmark.methods.bap.config import BapConfig
from fieldmark.methods.bap.pretrain import Pretraining, build_compositor, pretrain
from fieldmark.methods.processes import Processes
from fieldmark.testing import FakeEncoder
folder, n, k, m = Path(sys.argv[1]), *map(int, sys.argv[2:])
config = BapConfig(objects=n, anchor_contexts=k, contexts=m, epochs=1, precision="fp32")
encoder = FakeEncoder()
compositor = build_compositor(
    read_foregrounds(folder / "foregrounds"), read_backgrounds(folder / "backgrounds"),
    side=encoder.spec.image_size, config=config, seed=0, cache=folder / f"cache{n}")
name = folder / f"run{n}-{k}-{m}"
pretrain(Pretraining(encoder=encoder, compositor=compositor, config=config, seed=0, folder=name,
                     cache=name, processes=Processes()))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def measure_rate(model: str, folder: Path, *, rounds: int) -> float:
    teacher = load_encoder(model).place(dtype=pick_extraction_dtype())
    data = build_dataset("synthetic", folder / "rate", options={"n_objects": 8, "per_group": 1})
    compositor = Compositor(
        read_foregrounds(data / "foregrounds"),
        read_backgrounds(data / "backgrounds"),
        side=teacher.spec.image_size,
        cache=folder / "cache",
    )
    contexts = 16
    ready = torch.randint(0, 256, (BATCH, 3, *(teacher.spec.image_size,) * 2), dtype=torch.uint8)
    batches = compositor.n_objects * contexts // BATCH
    count = batches * BATCH
    with torch.inference_mode():
        teacher.encode_image(ready)
    rates: dict[str, list[float]] = {"bare": [], "phase 1": []}
    for seed in range(rounds):
        start = time.perf_counter()
        with torch.inference_mode():
            for _ in range(batches):
                teacher.encode_image(ready)
        rates["bare"].append(count / (time.perf_counter() - start))
        start = time.perf_counter()
        make_anchors(
            teacher, compositor, contexts=contexts, seed=seed, batch_size=BATCH, cache=folder / "a"
        )
        made = compositor.n_objects * contexts
        rates["phase 1"].append(made / (time.perf_counter() - start))
    for name, values in rates.items():
        print(f"{name:<8} {statistics.median(values):7.2f} images/s")
    return statistics.median(rates["phase 1"]) / statistics.median(rates["bare"])


def measure_memory(folder: Path) -> None:
    options = {"size": 32, "n_objects": 400, "n_scenes": 4, "per_class": 2, "per_group": 1}
    data = build_dataset("synthetic", folder / "memory", options=options)
    for n, k, m in ((50, 4, 2), (500, 4, 2), (50, 64, 2), (50, 4, 64)):
        words = [sys.executable, "-c", GROWING, str(data), str(n), str(k), str(m)]
        told = subprocess.run(words, check=True, capture_output=True, text=True)
        print(f"N {n:4} K {k:3} M {m:3}  peak {float(told.stdout):7.1f} MiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="packaged:dinov2-small")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        ratio = measure_rate(options.model, Path(name), rounds=options.rounds)
        row = ResultRow(
            suite="benchmark", dataset="synthetic", encoder=options.model,
            metric="phase_1_ratio", value=ratio, count=options.rounds,
        )  # fmt: skip
        print(row.to_json())
        measure_memory(Path(name))


if __name__ == "__main__":
    main()
