"""Many uint8 images in one file: written once, resumable, read by position.

The file grows by whole blocks, and after each block a small index beside it is replaced; a run that
dies leaves a shorter store that the next run completes. Images are read with `preadv` straight into
the caller's array: unlike a memory map this leaves the pages with the operating system, so that the
process stays the same size however large the store is, and a file cut short is an error rather than
a crash.
"""

from __future__ import annotations

import fcntl
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fieldmark.core.atomic import replacing
from fieldmark.core.errors import FieldmarkError

Pixels = NDArray[np.uint8]
BLOCK = 64
WORKERS = 4


class ImageStore:
    """A finished store; image i has `shapes[i]` and is read into an array of the caller's.

    Attributes:
        path: the file of pixels; its index lies beside it.
        shapes: (n,3) channels, height and width of each image.
    """

    def __init__(self, path: Path, shapes: NDArray[np.int64]) -> None:
        self.path = path
        self.shapes = shapes
        self._offsets = np.concatenate([[0], np.cumsum(shapes.prod(1))])
        self._handle = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._handle)

    def __len__(self) -> int:
        return len(self.shapes)

    def __reduce__(self) -> tuple[type[ImageStore], tuple[Path, NDArray[np.int64]]]:
        return ImageStore, (self.path, self.shapes)

    def read(self, index: int) -> Pixels:
        """Return image `index`, (channels, height, width)."""
        return self.read_into(np.empty(self.shapes[index], np.uint8), index)

    def read_into(self, out: Pixels, index: int) -> Pixels:
        """Read image `index` into a contiguous array of its shape and return the array.

        Raises:
            FieldmarkError: the file is shorter than its index says.
        """
        wanted = int(self._offsets[index + 1] - self._offsets[index])
        if os.preadv(self._handle, [out.data], int(self._offsets[index])) != wanted:
            raise FieldmarkError("the cache is damaged", where=self.path, mend="delete this file")
        return out


def open_store(
    path: Path,
    *,
    count: int,
    draw: Callable[[int], Sequence[Pixels]],
    on_progress: Callable[[int, int], None] | None = None,
) -> ImageStore:
    """Open the store at `path`, drawing whatever of it is missing.

    Processes that ask for the same store at the same time take turns: one draws, the others find it
    done.

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
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_suffix(".lock")):
            shapes = _read_index(path)
            if len(shapes) < count:
                shapes = _extend(path, shapes, count=count, draw=draw, on_progress=on_progress)
    except OSError as error:
        raise FieldmarkError(
            f"the cache cannot be written ({error.strerror or error})",
            where=error.filename or path,
            mend="free some space or set FIELDMARK_CACHE to another folder",
        ) from error
    return ImageStore(path, shapes.reshape(-1, 3))


def _read_index(path: Path) -> NDArray[np.int64]:
    """Return (items, images an item, 3) of what is safely in the file, none if the two disagree."""
    index = _index_path(path)
    nothing = np.empty((0, 1, 3), np.int64)
    if not (index.is_file() and path.is_file()):
        return nothing
    try:
        shapes = np.asarray(np.load(index, allow_pickle=False), np.int64)
    except (OSError, ValueError, EOFError):
        return nothing
    return shapes if path.stat().st_size >= shapes.prod(-1).sum() else nothing


def _extend(
    path: Path,
    shapes: NDArray[np.int64],
    *,
    count: int,
    draw: Callable[[int], Sequence[Pixels]],
    on_progress: Callable[[int, int], None] | None,
) -> NDArray[np.int64]:
    known = [*shapes]
    with path.open("ab") as stream, ThreadPoolExecutor(WORKERS) as pool:
        # Whatever follows the last block that the index knows of may be half a block.
        stream.truncate(int(shapes.prod(-1).sum()))
        for start in range(len(known), count, BLOCK):
            numbers = range(start, min(start + BLOCK, count))
            for images in pool.map(draw, numbers):
                known.append(np.array([image.shape for image in images]))
                stream.writelines(np.ascontiguousarray(image).data for image in images)
            stream.flush()
            os.fsync(stream.fileno())
            with replacing(_index_path(path)) as part, part.open("wb") as index:
                np.save(index, np.stack(known))
            if on_progress is not None:
                on_progress(numbers.stop, count)
    return np.stack(known)


def _index_path(path: Path) -> Path:
    return path.with_suffix(".index.npy")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
