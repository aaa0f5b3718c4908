"""A training step fed by the real pipeline against the same step on tensors made beforehand.

    python benchmarks/training_step.py [--model packaged:dinov2-small] [--steps 6]

The rival is the same step, in the same process, on a batch that is already there. The two take
turns, step by step, so that a change of the machine's speed meets both; the ratio is of medians.
Target: 0.95 or more.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from fieldmark.core.records import ResultRow
from fieldmark.data.backgrounds import read_backgrounds
from fieldmark.data.compositing import Compositor
from fieldmark.data.datasets import build_dataset
from fieldmark.data.foregrounds import read_foregrounds
from fieldmark.methods.bap.objectives import compute_alignment_loss
from fieldmark.methods.bap.plan import draw_epoch
from fieldmark.methods.prefetch import prefetch
from fieldmark.models.device import training_autocast
from fieldmark.models.encoder import normalise
from fieldmark.models.load import load_encoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="packaged:dinov2-small")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=6)
    args = parser.parse_args()
    encoder = load_encoder(args.model)
    tower = copy.deepcopy(encoder.image_tower).train()
    optimizer = torch.optim.AdamW(tower.parameters(), lr=1e-6)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_dataset("synthetic", folder / "data", options={"seed": 0})
        compositor = Compositor(
            read_foregrounds(folder / "data" / "foregrounds"),
            read_backgrounds(folder / "data" / "backgrounds"),
            side=encoder.spec.image_size,
            cache=folder / "cache",
        )
        plan = draw_epoch(
            compositor.labels,
            contexts=100,
            n_backgrounds=compositor.n_backgrounds,
            n_scales=compositor.n_scales,
            seed=0,
            epoch=0,
        )
        anchor = torch.randn(args.batch, encoder.spec.dim)

        def step(image: torch.Tensor) -> None:
            optimizer.zero_grad(set_to_none=True)
            with training_autocast(image.device):
                z = tower(normalise(image, spec=encoder.spec, dtype=torch.float32))
            compute_alignment_loss(z.float(), anchor).mean().backward()
            optimizer.step()

        def batches() -> Iterator[torch.Tensor]:
            for i in range(args.steps + 2):
                rows = plan.rows(slice(i * args.batch, (i + 1) * args.batch))
                yield compositor.composite(rows.objects, rows.backgrounds, rows.scales).image

        fed, ready, composing = [], [], []
        stream = iter(prefetch(batches()))
        made = next(stream)
        step(made)
        for _ in range(args.steps):
            start = time.perf_counter()
            step(next(stream))
            fed.append(time.perf_counter() - start)
            start = time.perf_counter()
            step(made)
            ready.append(time.perf_counter() - start)
        start = time.perf_counter()
        for image in batches():
            composing.append(len(image))
        seconds = time.perf_counter() - start
    fed_rate, ready_rate = (args.batch / statistics.median(times) for times in (fed, ready))
    print(f"step on ready tensors   {ready_rate:8.2f} images/s")
    print(f"step fed by composites  {fed_rate:8.2f} images/s")
    print(f"compositing alone       {sum(composing) / seconds:8.0f} images/s")
    row = ResultRow(
        suite="benchmark", dataset="synthetic", encoder=args.model, metric="training_feed_ratio",
        value=fed_rate / ready_rate, count=args.steps,
    )  # fmt: skip
    print(row.to_json())


if __name__ == "__main__":
    main()
