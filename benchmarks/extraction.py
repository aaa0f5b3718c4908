"""Images embedded a second: `embed_images` from files against the bare encoder on ready tensors.

Run: `python benchmarks/extraction.py` (dinov2-small, two cores: about a minute a round)

Rates, all in this process on the same images, rounds taken in turn:
  bare    the encoder alone, weights cast as for extraction, on uint8 batches made beforehand
  embed   `embed_images` from image files, cache written: hash, read, preprocess, encode, store
  again   the same once more, all from the cache
  plain   the usual loop without fieldmark's reading ahead: open, preprocess, encode, in turn
  fp32    the encoder alone with the weights as they came
Target: `embed` at 95 % of `bare` or more. The cosine is that of the extraction weights to fp32.
Photographs are drawn as JPEG, 448 x 336 px, unless a table or folder of real ones is given.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fieldmark.core.seeds import generator
from fieldmark.data.tables import ImageTable, read_table
from fieldmark.models.device import pick_extraction_dtype, synchronise
from fieldmark.models.embed import embed_batches, embed_images
from fieldmark.models.encoder import Encoder
from fieldmark.models.load import load_encoder

SIZE = (448, 336)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="packaged:dinov2-small")
    parser.add_argument("--data", type=Path, help="a table or a folder of folders")
    parser.add_argument("--images", type=int, default=384)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    encoder = load_encoder(options.model)
    with tempfile.TemporaryDirectory() as name:
        if options.data is None:
            draw_photographs(Path(name) / "photographs" / "drawn", count=options.images)
        table = read_table(options.data or Path(name) / "photographs")
        table = table.take(np.arange(min(options.images, len(table))))
        report = measure(
            encoder, table, folder=Path(name), batch=options.batch, rounds=options.rounds
        )
    print(json.dumps(report, indent=2))


def measure(
    encoder: Encoder, table: ImageTable, *, folder: Path, batch: int, rounds: int
) -> dict[str, object]:
    device = next(encoder.image_tower.parameters()).device
    dtype = pick_extraction_dtype(device)
    cast = encoder.place(dtype=dtype)
    pixels = torch.stack([encoder.preprocess(table.read(i)) for i in range(len(table))])
    ready = list(pixels.split(batch))
    caches = [folder / "cache warm"]

    def embed() -> None:
        caches.append(folder / f"cache {len(caches)}")
        embed_images(encoder, table, cache=caches[-1], batch_size=batch)

    ways: dict[str, Callable[[], object]] = {
        "bare": lambda: encode_alone(cast, ready),
        "embed": embed,
        "again": lambda: embed_images(encoder, table, cache=caches[-1], batch_size=batch),
        "plain": lambda: embed_plainly(cast, table, batch=batch),
        "fp32": lambda: encode_alone(encoder, ready),
    }
    for warm in (cast, encoder):
        encode_alone(warm, ready[:1])
    embed_images(encoder, table.take(np.arange(4)), cache=caches[-1])
    low, high = (embed_batches(encoder, ready, precision=p) for p in ("auto", "fp32"))
    cosines = (low * high).sum(axis=1)
    return {
        "model": encoder.spec.uri,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype),
        "images": len(table),
        "cosine to fp32": {"mean": float(cosines.mean()), "least": float(cosines.min())},
        **summarise(take_turns(ways, rounds=rounds, device=device), images=len(table)),
    }


def take_turns(
    ways: dict[str, Callable[[], object]], *, rounds: int, device: torch.device
) -> dict[str, list[Seconds]]:
    taken: dict[str, list[Seconds]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            taken[name].append(time_once(way, device))
    return taken


def summarise(taken: dict[str, list[Seconds]], *, images: int) -> dict[str, object]:
    pairs = list(zip(taken["bare"], taken["embed"], strict=True))
    return {
        "images a second": {
            name: round(images / statistics.median(time.wall for time in times), 1)
            for name, times in taken.items()
        },
        "milliseconds of processor an image": {
            name: round(1000 * statistics.median(time.cpu for time in times) / images, 1)
            for name, times in taken.items()
        },
        "embed to bare, each round": [round(bare.wall / embed.wall, 3) for bare, embed in pairs],
        "embed to bare": round(statistics.median(b.wall / e.wall for b, e in pairs), 3),
        "embed to bare, processor": round(statistics.median(b.cpu / e.cpu for b, e in pairs), 3),
    }


class Seconds(NamedTuple):
    """What one round took; on a machine that others use, `cpu` says more than `wall`."""

    wall: float
    cpu: float


def time_once(way: Callable[[], object], device: torch.device) -> Seconds:
    wall, cpu = time.perf_counter(), time.process_time()
    way()
    synchronise(device)
    return Seconds(time.perf_counter() - wall, time.process_time() - cpu)


def encode_alone(encoder: Encoder, batches: list[Tensor]) -> None:
    with torch.inference_mode():
        for batch in batches:
            encoder.encode_image(batch).cpu()


def embed_plainly(encoder: Encoder, table: ImageTable, *, batch: int) -> None:
    for start in range(0, len(table), batch):
        rows = range(start, min(start + batch, len(table)))
        images = [Image.open(table.paths[row]).convert("RGB") for row in rows]
        encode_alone(encoder, [torch.stack([encoder.preprocess(image) for image in images])])


def draw_photographs(folder: Path, *, count: int) -> None:
    """Write JPEG files that cost as much to decode as photographs: smooth, with fine noise."""
    folder.mkdir(parents=True)
    for number in range(count):
        random = generator(0, "photograph", number)
        coarse = Image.fromarray(random.integers(0, 255, (6, 8, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize(SIZE, Image.Resampling.BICUBIC), np.int16)
        noisy = smooth + random.integers(-12, 13, smooth.shape, dtype=np.int16)
        image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        image.save(folder / f"{number}.jpg", quality=90)


if __name__ == "__main__":
    main()
