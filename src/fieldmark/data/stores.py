"""Many uint8 images in one file: written once, resumable, read by position.

The file grows by whole blocks, and after each block a small index beside it is replaced; a run that
dies leaves a shorter store that the next run completes. The index is sealed and holds a checksum of
each image, which is checked whenever the image is read; a damaged image is drawn again. Images are
read with `preadv` straight into the caller's array: unlike a memory map this leaves the pages with
the operating system, so that the process stays the same size however large the store is, and a file
cut short is an error rather than a crash.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import weakref
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fieldmark.core.errors import FieldmarkError
from fieldmark.core.sealed import SEAL, is_whole, report_damage, sealing

log = logging.getLogger("fieldmark")

Pixels = NDArray[np.uint8]
Draw = Callable[[int], Sequence[Pixels]]
BLOCK = 64
WORKERS = 4


class ImageStore:
    """A finished store; image i has `shapes[i]` and is read into an array of the caller's.

    Attributes:
        path: the file of pixels; its index lies beside it.
        shapes: (n,3) channels, height and width of each image.
        checksums: (n,) CRC-32 of the bytes of each image.
    """

    def __init__(
        self,
        path: Path,
        shapes: NDArray[np.int64],
        checksums: NDArray[np.int64],
        *,
        draw: Draw | None = None,
        per_item: int = 1,
    ) -> None:
        self.path = path
        self.shapes = shapes
        self.checksums = checksums
        self._draw, self._per_item = draw, per_item
        self._offsets = np.concatenate([[0], np.cumsum(shapes.prod(1))])
        self._handle = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._handle)

    def __len__(self) -> int:
        return len(self.shapes)

    def __reduce__(
        self,
    ) -> tuple[type[ImageStore], tuple[Path, NDArray[np.int64], NDArray[np.int64]]]:
        return ImageStore, (self.path, self.shapes, self.checksums)

    def read(self, index: int) -> Pixels:
        """Return image `index`, (channels, height, width)."""
        return self.read_into(np.empty(self.shapes[index], np.uint8), index)

    def read_into(self, out: Pixels, index: int) -> Pixels:
        """Read image `index` into a contiguous array of its shape and return the array.

        A damaged image is drawn again and put right in the file. A copy in another process cannot
        draw; it raises, and the index is dropped, so that the next run draws the store anew.

        Raises:
            FieldmarkError: the image is damaged and cannot be drawn here.
        """
        start, stop = int(self._offsets[index]), int(self._offsets[index + 1])
        count = os.preadv(self._handle, [out.data], start)
        if count == stop - start and zlib.crc32(out.data) == self.checksums[index]:
            return out
        image = None if self._draw is None else self._draw(index // self._per_item)
        if image is None or image[index % self._per_item].shape != out.shape:
            _index_path(self.path).unlink(missing_ok=True)
            raise FieldmarkError(
                f"image {index} of this cache is damaged",
                where=self.path,
                mend="run again, and it is drawn anew",
            )
        log.warning("%s: image %d is damaged and is drawn again", self.path, index)
        out[...] = image[index % self._per_item]
        with contextlib.suppress(OSError), self.path.open("rb+") as stream:
            os.pwrite(stream.fileno(), out.data, start)
        return out


def open_store(
    path: Path,
    *,
    count: int,
    draw: Draw,
    on_progress: Callable[[int, int], None] | None = None,
) -> ImageStore:
    """Open the store at `path`, drawing whatever of it is missing.

    Processes that ask for the same store at the same time take turns: one draws, the others find it
    done. A store that is whole needs no permission to write.

    Args:
        path: file of pixels; its name must hold a key of all that the pixels depend on.
        count: how many items are drawn.
        draw: from the number of an item to its images, uint8 (channels, height, width), the same
            number for each item. Called from several threads.
        on_progress: called with how many items are done and how many there are.

    Raises:
        FieldmarkError: the disk is full or the folder cannot be written; whatever `draw` raises.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     image = np.full((3, 2, 2), 7, np.uint8)
        ...     store = open_store(Path(folder) / "a.u8", count=2, draw=lambda i: [image + i])
        ...     int(store.read(1).max())
        8
    """
    try:
        facts = _read_index(path)
        if facts is None or len(facts) < count:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _locked(path.with_suffix(".lock")):
                facts = _read_index(path)
                if facts is None:
                    report_damage(path, instead="its images are drawn again")
                    facts = np.empty((0, 1, 4), np.int64)
                if len(facts) < count:
                    facts = _extend(path, facts, count=count, draw=draw, on_progress=on_progress)
    except OSError as error:
        raise FieldmarkError(
            f"the cache cannot be written ({error.strerror or error})",
            where=error.filename or path,
            mend="free some space or set FIELDMARK_CACHE to another folder",
        ) from error
    flat = facts.reshape(-1, 4)
    return ImageStore(path, flat[:, :3], flat[:, 3], draw=draw, per_item=facts.shape[1])


def _read_index(path: Path) -> NDArray[np.int64] | None:
    """Return (items, images an item, 4): the shape and the checksum of what is in the file.

    It is empty where there is no index, None where it is damaged or says more than the file holds.
    """
    index = _index_path(path)
    if not (index.is_file() and path.is_file()):
        return np.empty((0, 1, 4), np.int64)
    if is_whole(index):
        with contextlib.suppress(SafetensorError, KeyError):
            facts: NDArray[np.int64] = load_file(index)["images"]
            fits = facts.dtype == np.int64 and facts.ndim == 3 and facts.shape[2] == 4
            if fits and (facts >= 0).all():
                # In floats no product overflows.
                needed = facts[..., :3].prod(-1, dtype=np.float64).sum()
                return facts if path.stat().st_size >= needed else None
    return None


def _count_bytes(facts: NDArray[np.int64]) -> int:
    return int(facts[..., :3].prod(-1).sum())


def _extend(
    path: Path,
    facts: NDArray[np.int64],
    *,
    count: int,
    draw: Draw,
    on_progress: Callable[[int, int], None] | None,
) -> NDArray[np.int64]:
    known = [*facts]
    with path.open("ab") as stream, ThreadPoolExecutor(WORKERS) as pool:
        # Whatever follows the last block that the index knows of may be half a block.
        stream.truncate(_count_bytes(facts))
        for start in range(len(known), count, BLOCK):
            numbers = range(start, min(start + BLOCK, count))
            for drawn in pool.map(draw, numbers):
                images = [np.ascontiguousarray(image) for image in drawn]
                known.append(np.array([(*image.shape, zlib.crc32(image.data)) for image in images]))
                stream.writelines(image.data for image in images)
            stream.flush()
            os.fsync(stream.fileno())
            with sealing(_index_path(path)) as part:
                save_file({"images": np.stack(known).astype(np.int64)}, part, metadata=dict(SEAL))
            if on_progress is not None:
                on_progress(numbers.stop, count)
    return np.stack(known)


def _index_path(path: Path) -> Path:
    return path.with_suffix(".index.safetensors")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
