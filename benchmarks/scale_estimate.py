"""What a large run takes: shards, bytes, hours and money, from numbers that the reader puts in.

    python benchmarks/scale_estimate.py embed --images 1e9 --rate 2841 --hosts 8 --gpus 8 --price 2
    python benchmarks/scale_estimate.py bap --objects 1e6 --rate 2841 --training-rate 393 --price 2
    python benchmarks/scale_estimate.py decoding FOLDER

The first two measure nothing; the third says what to give as `--decoding`. A rate is in images a
second of one GPU (or of one worker on a CPU); the `share` of it that a run reaches, what a thread
decodes, and the price of a GPU's hour are assumptions, and are printed. Images are read by 4
threads for each GPU, which is often less than the GPU could embed; composites come from prepared
pixels and need no decoding.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

# As in `models.embed`, `methods.bap.anchors` and `methods.bap.config`.
SHARD, PART, SCALES, READERS = 512, 256, 8, 4
# A vector's share of a cache file beside its numbers: the hash of its image, with quotes and comma.
NAME_BYTES = 68


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What the work runs on.

    Attributes:
        hosts: machines.
        gpus: GPUs of each (on CPUs: workers).
        share: share of the given rates that a run reaches, in (0, 1].
        price: of a GPU's hour, in any currency.
        decoding: images a second that one thread reads, decodes and resizes.
    """

    hosts: int
    gpus: int
    share: float
    price: float
    decoding: float

    def hours(self, images: float, *, rate: float, decoded: bool = False) -> float:
        """Return the hours that images take at a rate of one GPU, if they can be read as fast.

        Example:
            >>> cluster = Cluster(hosts=2, gpus=5, share=0.5, price=2, decoding=10)
            >>> cluster.hours(3.6e6, rate=100), cluster.hours(3.6e6, rate=100, decoded=True)
            (2.0, 2.5)
        """
        reached = min(rate * self.share, READERS * self.decoding if decoded else math.inf)
        return images / (reached * self.gpus * self.hosts) / 3600

    def cost(self, hours: float) -> float:
        """Return the price of all GPUs for some hours.

        Example:
            >>> Cluster(hosts=2, gpus=5, share=0.5, price=2, decoding=100).cost(2.0)
            40.0
        """
        return hours * self.hosts * self.gpus * self.price


def estimate_embedding(
    images: float, *, dim: int, rate: float, image_bytes: float, cluster: Cluster
) -> dict[str, float]:
    """Return what it takes to embed images once.

    Args:
        images: how many.
        dim: D, numbers of an embedding.
        rate: forward passes a second of one GPU.
        image_bytes: mean size of an image file.
        cluster: what it runs on.

    Example:
        >>> cluster = Cluster(hosts=1, gpus=1, share=1.0, price=1, decoding=100)
        >>> found = estimate_embedding(1e6, dim=100, rate=100, image_bytes=1e5, cluster=cluster)
        >>> found["shards"], found["GB of embeddings"], found["GB read"]
        (1954.0, 0.468, 100.0)
        >>> round(found["hours"], 2), round(found["MB/s read a host"])
        (2.78, 10)
    """
    hours = cluster.hours(images, rate=rate, decoded=True)
    return {
        "images": images,
        "shards": float(-(-images // SHARD)),
        "GB of embeddings": images * (4 * dim + NAME_BYTES) / 1e9,
        "GB read": images * image_bytes / 1e9,
        "MB/s read a host": images * image_bytes / hours / 3600 / cluster.hosts / 1e6,
        "images/s a GPU": images / hours / 3600 / cluster.hosts / cluster.gpus,
        "hours": hours,
        "GPU hours": hours * cluster.hosts * cluster.gpus,
        "cost": cluster.cost(hours),
    }


def estimate_bap(
    objects: float,
    *,
    contexts: int,
    anchor_contexts: int,
    epochs: int,
    dim: int,
    side: int,
    rate: float,
    training_rate: float,
    preparing: float,
    cluster: Cluster,
) -> dict[str, float]:
    """Return what BAP takes: anchors (phase 1), then alignment to them (phase 2).

    Args:
        objects: N.
        contexts: M, composites of an object in an epoch.
        anchor_contexts: K, composites behind an anchor.
        epochs: of phase 2.
        dim: D, numbers of an anchor.
        side: S, pixels of a side; objects are kept in 8 sizes of 0.6 to 0.8 of it.
        rate: forward passes a second of one GPU.
        training_rate: images a second of one GPU, forward, backward and step.
        preparing: objects a second that one thread cuts out and resizes; one process does, once.
        cluster: what it runs on.

    Example:
        >>> cluster = Cluster(hosts=1, gpus=10, share=1.0, price=1, decoding=100)
        >>> found = estimate_bap(3600, contexts=5, anchor_contexts=10, epochs=30, dim=100, side=10,
        ...                      rate=10, training_rate=3, preparing=1, cluster=cluster)
        >>> found["hours of preparing, one host"]
        0.25
        >>> found["parts"], found["hours of phase 1"], found["hours of phase 2"], found["cost"]
        (15.0, 0.1, 5.0, 51.0)
    """
    first = cluster.hours(objects * anchor_contexts, rate=rate)
    second = cluster.hours(objects * contexts * epochs, rate=training_rate)
    # Mean of the squares of sizes from 0.6 to 0.8, for objects as wide as high: an upper bound.
    area = sum((0.6 + 0.2 * (i + 0.5) / SCALES) ** 2 for i in range(SCALES)) / SCALES
    return {
        "objects": objects,
        "composites of phase 1": objects * anchor_contexts,
        "composites of phase 2": objects * contexts * epochs,
        "parts": float(-(-objects // PART)),
        "GB of anchors": objects * 4 * dim / 1e9,
        "GB of prepared objects at most": objects * SCALES * 4 * area * side**2 / 1e9,
        "hours of preparing, one host": objects / preparing / READERS / 3600,
        "hours of phase 1": first,
        "hours of phase 2": second,
        "GPU hours": (first + second) * cluster.hosts * cluster.gpus,
        "cost": cluster.cost(first + second),
    }


def measure_decoding(folder: Path, *, side: int, count: int = 400) -> dict[str, float]:
    """Read, decode and resize images of a folder in one thread, as for an encoder.

    Args:
        folder: of images, at any depth.
        side: S, pixels of a side of the encoder's input.
        count: how many at most, spread over the folder.
    """
    from fieldmark.data.images import list_images, read_image
    from fieldmark.models.preprocess import preprocess_image
    from fieldmark.testing import FakeEncoder

    spec = replace(FakeEncoder().spec, image_size=side, interpolation="bicubic", resize="shortest")
    paths = list_images(folder)
    paths = paths[:: -(-len(paths) // count)]
    # What others do on the machine does not count.
    start = time.thread_time()
    for path in paths:
        preprocess_image(read_image(path), spec=spec)
    seconds = time.thread_time() - start
    return {
        "images": len(paths),
        "KB an image": sum(path.stat().st_size for path in paths) / len(paths) / 1000,
        "images/s of a thread": len(paths) / seconds,
    }


def format_table(values: dict[str, float]) -> Iterator[str]:
    r"""Yield the lines of a Markdown table.

    Example:
        >>> print(*format_table({"images": 1e9, "hours": 12.34}), sep="\n")
        | | |
        |---|---:|
        | images | 1,000,000,000 |
        | hours | 12.3 |
    """
    yield "| | |"
    yield "|---|---:|"
    for name, value in values.items():
        yield f"| {name} | {value:,.{0 if value >= 100 else 1 if value >= 1 else 3}f} |"


def read_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True)
    embed, bap = verbs.add_parser("embed"), verbs.add_parser("bap")
    decoding = verbs.add_parser("decoding")
    decoding.add_argument("folder", type=Path, help="of images")
    decoding.add_argument("--side", type=int, default=224, help="S")
    embed.add_argument("--images", type=float, required=True)
    embed.add_argument("--image-bytes", type=float, default=110_000, help="mean size of a file")
    bap.add_argument("--objects", type=float, required=True, help="N")
    bap.add_argument("--contexts", type=int, default=5, help="M")
    bap.add_argument("--anchor-contexts", type=int, default=10, help="K")
    bap.add_argument("--epochs", type=int, default=30)
    bap.add_argument("--side", type=int, default=224, help="S")
    bap.add_argument("--preparing", type=float, default=50, help="objects a second of a thread")
    bap.add_argument("--training-rate", type=float, help="of one GPU; a third of --rate if unknown")
    for verb in (embed, bap):
        verb.add_argument("--dim", type=int, default=512, help="D")
        verb.add_argument("--rate", type=float, required=True, help="images a second of one GPU")
        verb.add_argument("--hosts", type=int, default=1)
        verb.add_argument("--gpus", type=int, default=8, help="of each host")
        verb.add_argument("--share", type=float, default=0.7, help="of the rate that a run reaches")
        verb.add_argument("--price", type=float, required=True, help="of a GPU's hour")
        verb.add_argument("--decoding", type=float, default=100, help="images a second of a thread")
    return parser.parse_args(words)


def main() -> None:
    given = read_arguments()
    if given.verb == "decoding":
        print(*format_table(measure_decoding(given.folder, side=given.side)), sep="\n")
        return
    cluster = Cluster(
        hosts=given.hosts,
        gpus=given.gpus,
        share=given.share,
        price=given.price,
        decoding=given.decoding,
    )
    if given.verb == "embed":
        found = estimate_embedding(
            given.images,
            dim=given.dim,
            rate=given.rate,
            image_bytes=given.image_bytes,
            cluster=cluster,
        )
    else:
        found = estimate_bap(
            given.objects,
            contexts=given.contexts,
            anchor_contexts=given.anchor_contexts,
            epochs=given.epochs,
            dim=given.dim,
            side=given.side,
            rate=given.rate,
            training_rate=given.training_rate or given.rate / 3,
            preparing=given.preparing,
            cluster=cluster,
        )
    print("given:", ", ".join(f"{key} {value}" for key, value in vars(given).items()))
    print(*format_table(found), sep="\n")


if __name__ == "__main__":
    main()
