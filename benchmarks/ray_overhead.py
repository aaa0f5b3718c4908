"""Ray with one worker against the local path: the same images, threads and bytes, in turns.

    OMP_NUM_THREADS=1 python benchmarks/ray_overhead.py [--images 1024] [--rounds 5]

A round embeds all images on each engine, with nothing in a cache; which engine begins changes from
round to round. What is timed is `embed_images` as a verb calls it: for Ray that holds sending the
encoder to the worker and the embeddings back. What is paid once is told apart: starting the cluster
(`open_engine`), and the first call (8 images: the worker starts, imports torch, is sent the
encoder). Printed are the rates, the ratio of the rates of each round, their geometric mean, and its
95 % interval by Student's t over rounds. Target: 0.90 or more. Beside it stands the same ratio in
seconds of processor time, of this process and, for Ray, its worker: what others do on the machine
moves it less, and it leaves out what Ray's own processes do.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Generator

import numpy as np
import torch
from scipy import stats

from fieldmark.benchmarks.jobs import TaskRef
from fieldmark.benchmarks.runner import open_ref
from fieldmark.benchmarks.sources import open_table
from fieldmark.core.records import ResultRow
from fieldmark.data.tables import ImageTable
from fieldmark.models.embed import Embeddings, embed_images
from fieldmark.models.engine import LOCAL, Engine, open_engine
from fieldmark.models.load import load_encoder


def measure(
    run: Callable[[Engine], Embeddings], ray: Engine, *, rounds: int
) -> tuple[list[float], list[float]]:
    """Return the ratio of rates of each round, by the clock and by processor time."""
    by_clock, by_processor = [], []
    for number in range(rounds):
        seconds, used, values = {}, {}, {}
        for name in ("local", "ray") if number % 2 else ("ray", "local"):
            before, start = read_processor_time(ray), time.perf_counter()
            found = run(LOCAL if name == "local" else ray)
            seconds[name] = time.perf_counter() - start
            used[name] = read_processor_time(ray) - before
            values[name] = found.values
            rate = found.computed / seconds[name]
            print(f"round {number} {name:<6} {rate:7.2f} images/s, {used[name]:.1f} s of processor")
        assert np.array_equal(values["local"], values["ray"])
        by_clock.append(seconds["local"] / seconds["ray"])
        by_processor.append(used["local"] / used["ray"])
    return by_clock, by_processor


def read_processor_time(ray: Engine) -> float:
    """Return the seconds of processor time that this process and Ray's one worker have had."""
    ((_, parts),) = ray.map(tell_processor_time, None, [0])
    return time.process_time() + sum(parts)


def tell_processor_time(shared: None, shard: int) -> Generator[float]:
    yield time.process_time()


def find_interval(ratios: list[float]) -> tuple[float, float, float]:
    """Return the geometric mean and its 95 % interval."""
    logs = np.log(ratios)
    mean, error = float(logs.mean()), float(logs.std(ddof=1)) / math.sqrt(len(logs))
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * error
    return math.exp(mean), math.exp(mean - half), math.exp(mean + half)


def take_images(data: str, count: int) -> ImageTable:
    table = open_table(data) if data != "stamps" else open_ref(TaskRef(dataset=data)).table
    return table.take(np.arange(min(count, len(table))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="packaged:dinov2-small@98")
    parser.add_argument("--data", default="stamps", help="or a table, or a folder")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    table = take_images(options.data, options.images)
    encoder = load_encoder(options.model, device="cpu")
    start = time.perf_counter()
    with open_engine("ray", workers=1) as ray:
        print(f"start of the cluster {time.perf_counter() - start:7.1f} s")
        start = time.perf_counter()
        embed_images(encoder, table.take(np.arange(8)), engine=ray)
        print(f"first call           {time.perf_counter() - start:7.1f} s")
        embed_images(encoder, table.take(np.arange(8)))
        measured = measure(
            lambda engine: embed_images(encoder, table, engine=engine), ray, rounds=options.rounds
        )
    print(f"images {len(table)}, threads {torch.get_num_threads()}, load {os.getloadavg()[0]:.1f}")
    for metric, ratios in zip(("ray_ratio", "ray_processor_ratio"), measured, strict=True):
        print(metric, *(f"{ratio:.3f}" for ratio in ratios))
        mean, low, high = find_interval(ratios)
        row = ResultRow(suite="benchmark", dataset=table.name, encoder=options.model, value=mean,
                        metric=metric, ci_low=low, ci_high=high, count=len(ratios))  # fmt: skip
        print(row.to_json())


if __name__ == "__main__":
    main()
