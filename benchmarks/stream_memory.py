"""Memory of `fieldmark embed` on webdataset shards against the number of images.

    python benchmarks/stream_memory.py            # 1,000, 10,000 and 100,000; some minutes

Shards of 1,000 small PNG images each are drawn into a temporary folder, every image another one.
Each line is a process of its own that embeds its shards with `FakeEncoder`, whose tower costs
nothing, so that what is measured is reading, decoding, batching and writing; the index and the
record are written too. `peak` is the largest resident size that the kernel saw, `start` that of the
process before it read a shard, `ratio` is the peak against the first line's. Target: within 10 %.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import numpy as np
from PIL import Image

from fieldmark.core.seeds import generator

A_SHARD = 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--side", type=int, default=32, help="of an image in pixels")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(embed_here(options.child[0], out=Path(options.child[1]))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(-(-max(options.images) // A_SHARD)):
            write_shard(folder / f"{number:05d}.tar", number=number, side=options.side)
        first = 0.0
        for count in options.images:
            found = embed_apart(folder, count=count)
            first = first or found["peak"]
            ratio, rate = found["peak"] / first, count / found["seconds"]
            print(
                f"{count:>9,} images: "
                f"peak {found['peak']:.0f} MiB, start {found['start']:.0f} MiB, "
                f"ratio {ratio:.3f}, {rate:.0f} images/s",
                flush=True,
            )


def write_shard(path: Path, *, number: int, side: int) -> None:
    """Write one shard of noise with numbers as labels."""
    random = generator(number, "stream_memory")
    with tarfile.open(path, "w") as tar:
        for i in range(A_SHARD):
            pixels = random.integers(0, 256, (side, side, 3), dtype=np.uint8)
            stream = io.BytesIO()
            Image.fromarray(pixels).save(stream, "PNG", compress_level=1)
            for kind, data in (("png", stream.getvalue()), ("cls", str(i % 10).encode())):
                info = tarfile.TarInfo(f"{i:06d}.{kind}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def embed_apart(folder: Path, *, count: int) -> dict[str, float]:
    """Embed the first `count` images in a process of its own."""
    pattern = f"wds:{folder}/{{00000..{count // A_SHARD - 1:05d}}}.tar"
    out = folder / f"run-{count}"
    told = subprocess.run(
        [sys.executable, __file__, "--child", pattern, str(out)],
        check=True,
        capture_output=True,
        text=True,
    )
    found: dict[str, float] = json.loads(told.stdout)
    assert found["images"] == count, "not all images were embedded"
    return found


def embed_here(pattern: str, *, out: Path) -> dict[str, float]:
    """Run the verb's own function and say how large this process became."""
    from fieldmark.benchmarks import streams
    from fieldmark.core.records import read_rows
    from fieldmark.testing import FakeEncoder

    start, began = read_peak(), time.monotonic()
    with patch.object(streams, "load_encoder", lambda name, device: FakeEncoder()):
        streams.run_stream_embedding(model="fake", data=pattern, out=out, precision="fp32")
    [row] = read_rows(out)
    seconds = time.monotonic() - began
    return {"peak": read_peak(), "start": start, "seconds": seconds, "images": row.value}


def read_peak() -> float:
    """Return the largest resident size of this process so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
