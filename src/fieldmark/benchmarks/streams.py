"""Recorded runs of `fieldmark embed` on webdataset shards, which are read as a stream.

OUT/embeddings/shard-*.safetensors    what `models.stream` writes
OUT/index.csv                         id, shard, row, label, split, problem of each image
OUT/results.jsonl, OUT/run.json       as in every run
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from PIL.Image import Image

from fieldmark.core.atomic import replacing
from fieldmark.core.errors import TableError, UsageError
from fieldmark.core.records import ResultRow, start_run
from fieldmark.data.external.samples import decode_image
from fieldmark.data.external.web_shards import StreamedImage, find_shards, stream_webdataset
from fieldmark.models.device import pick_device
from fieldmark.models.embed import Precision
from fieldmark.models.load import load_encoder
from fieldmark.models.stream import SHARD_SIZE, embed_stream, read_embedded

PREFIX = "wds:"
EMBEDDINGS, INDEX = "embeddings", "index.csv"
# Called with tar files read, tar files in all and a note.
Report = Callable[[int, int, str], None]


def is_stream(data: str) -> bool:
    """Return whether `embed` reads `--data` as a stream.

    Example:
        >>> is_stream("wds:shards/{000..003}.tar"), is_stream("birds.csv")
        (True, False)
    """
    return data.startswith(PREFIX)


def require_local(engine: str) -> None:
    """Refuse any engine but `local`.

    Raises:
        UsageError: another engine was asked for.

    Example:
        >>> require_local("ray")
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.UsageError: --engine ray: a stream is embedded by one process; ...
    """
    if engine != "local":
        raise UsageError(
            "a stream is embedded by one process",
            where=f"--engine {engine}",
            mend="leave it out, and start a process for each part of the shards",
        )


def run_stream_embedding(
    *,
    model: str,
    data: str,
    out: Path,
    root: Path | None = None,
    batch_size: int = 64,
    shard_size: int = SHARD_SIZE,
    precision: Precision = "auto",
    device: str = "auto",
    skip_unreadable: bool = False,
    resume: bool = False,
    report: Report | None = None,
) -> Path:
    """Embed every image of webdataset shards into OUT/embeddings, in memory that does not grow.

    Args:
        model: URI of the encoder.
        data: `wds:PATTERN`.
        out: folder of the run.
        root: folder that the pattern starts from.
        batch_size: images in one forward.
        shard_size: images in one file of embeddings.
        precision: of the weights.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        skip_unreadable: give images that cannot be read a row of NaN instead of stopping.
        resume: go on with the unfinished run in `out`.
        report: called with tar files read, tar files in all and a note.

    Raises:
        UsageError: `data` is no stream, or `out` holds another run.
        InputError: a shard or an image is off, or a resumed run finds other images.
    """
    if not is_stream(data):
        raise UsageError("is no stream", where=data, mend=f"write {PREFIX}PATTERN")
    shards = find_shards(data.removeprefix(PREFIX), root=root)
    encoder = load_encoder(model, device=pick_device(device))
    arguments = {
        "model": model,
        "data": data,
        "root": None if root is None else str(root),
        "shard_size": shard_size,
        "precision": precision,
        "skip_unreadable": skip_unreadable,
    }
    run = start_run(out, "embed", arguments=arguments, resume=resume)
    found = embed_stream(
        encoder,
        _tell(stream_webdataset(shards), shards, report=report),
        out=out / EMBEDDINGS,
        decode=_decode,
        batch_size=batch_size,
        shard_size=shard_size,
        precision=precision,
        skip_unreadable=skip_unreadable,
    )
    if not found.images:
        raise TableError("has no image", where=data, mend="give it at least one")
    _write_index(out)
    name = shards[0].absolute().parent.name
    run.add([ResultRow(suite="embed", dataset=name, encoder=model, metric="images",
                       value=found.images - found.unreadable, count=found.images)])  # fmt: skip
    run.notes = {
        "unreadable": found.problems,
        "unreadable images": found.unreadable,
        "shards": found.shards,
    }
    run.data = {"name": name, "images": found.images, "content": found.content}
    run.weights = {"encoder": encoder.spec.fingerprint}
    return run.finish()


def _decode(image: StreamedImage) -> Image:
    return decode_image(image.data, where=image.where)


def _tell(
    images: Iterator[StreamedImage], shards: Sequence[Path], *, report: Report | None
) -> Iterator[StreamedImage]:
    """Report the tar files that were read, and how many images came out of them."""
    done, count, current = 0, 0, shards[0]
    for image in images:
        if image.shard != current:
            done, current = done + 1, image.shard
        count += 1
        if report is not None:
            report(done, len(shards), f"{count} images")
        yield image
    if report is not None:
        report(len(shards), len(shards), f"{count} images")


def _write_index(out: Path) -> None:
    with (
        replacing(out / INDEX) as part,
        part.open("w", encoding="utf-8", newline="") as stream,
    ):
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["id", "shard", "row", "label", "split", "problem"])
        for shard in read_embedded(out / EMBEDDINGS):
            for number, row in enumerate(shard.rows):
                writer.writerow([row.id, shard.path.name, number, *row[1:]])
