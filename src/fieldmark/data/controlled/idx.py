"""IDX files, the format of MNIST and FashionMNIST (LeCun et al. 1998; Xiao et al. 2017).

A file is two zero bytes, a byte for the type of its values, a byte for how many dimensions there
are, each dimension as a big-endian 32-bit number, and the values, the last dimension fastest.
Only unsigned bytes are read (type 8), which is what the images and labels of both data sets are.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fieldmark.core.errors import InputError
from fieldmark.data.layout import find_folder

Ints = NDArray[np.int64]
# The largest set in this format, EMNIST, has 0.55 GB; a header that claims more is damaged.
LARGEST = 1 << 30
# `raw` is where torchvision puts them.
FOLDERS = ("raw", "MNIST/raw", "FashionMNIST/raw", "mnist", "MNIST", "fashion-mnist")
_BLOCK = 1 << 20
_ZIPPED = b"\x1f\x8b"
# Two zero bytes, and the type of unsigned bytes.
_MAGIC, _DIMENSIONS = b"\0\0\x08", 4
_MEND = "download the file again"


class LabelledImages(NamedTuple):
    """Grey images and their classes.

    Attributes:
        images: (n,H,W) uint8.
        labels: (n,) from 0.
    """

    images: NDArray[np.uint8]
    labels: Ints


def find_idx(root: Path, name: str) -> Path:
    """Return the file of a name, zipped or not, in `root` or where torchvision puts it below.

    Args:
        root: a folder.
        name: of the file without `.gz`, such as `train-images-idx3-ubyte`; a dot before `idx`,
            which some copies have, is taken for the hyphen.

    Raises:
        TableError: there is no such file.

    Example:
        >>> find_idx(Path("nowhere"), "t10k-labels-idx1-ubyte")
        Traceback (most recent call last):
        ...
        fieldmark.core.errors.TableError: nowhere: has no t10k-labels-idx1-ubyte, nor has ...
    """
    forms = (name, name.replace("-idx", ".idx"))
    for folder in (root, *(root / below for below in FOLDERS)):
        for form in forms:
            for path in (folder / form, folder / f"{form}.gz"):
                if path.is_file():
                    return path
    return find_folder(root, FOLDERS, holds=name) / name


def read_pair(root: Path, *, part: str, classes: int) -> LabelledImages:
    """Read the images of a part of a data set and their labels.

    Args:
        root: folder of the files, as `find_idx` takes it.
        part: `train` or `t10k`.
        classes: how many there are, 10 of digits and of garments.

    Raises:
        TableError: a file is not there.
        InputError: a file is damaged, the two do not fit, or a label is no class.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     root = Path(folder)
        ...     header = bytes([0, 0, 8, 3, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 2])
        ...     _ = (root / "train-images-idx3-ubyte").write_bytes(header + bytes([7, 9]))
        ...     label = bytes([0, 0, 8, 1, 0, 0, 0, 1, 4])
        ...     _ = (root / "train-labels-idx1-ubyte").write_bytes(label)
        ...     read_pair(root, part="train", classes=10)
        LabelledImages(images=array([[[7, 9]]], dtype=uint8), labels=array([4]))
    """
    paths = [find_idx(root, f"{part}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")]
    images, labels = (read_idx(path) for path in paths)
    for path, values, rank in zip(paths, (images, labels), (3, 1), strict=True):
        if values.ndim != rank:
            raise InputError(
                f"has {values.ndim} dimensions, not {rank}", where=path, mend="check its name"
            )
    if len(images) != len(labels):
        raise InputError(
            f"has {len(labels)} labels, and {paths[0].name} has {len(images)} images",
            where=paths[1],
            mend="take both files from one place",
        )
    wrong = np.flatnonzero(labels >= classes)
    if len(wrong):
        row = int(wrong[0])
        raise InputError(
            f"row {row} has the label {labels[row]}, and there are {classes} classes",
            where=paths[1],
            mend=_MEND,
        )
    return LabelledImages(images, labels.astype(np.int64))


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes, zipped or not; its name plays no part.

    Returns:
        An array of as many dimensions as the file has.

    Raises:
        InputError: no such file, no IDX file of bytes, cut short, or longer than its header says.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "labels"
        ...     _ = path.write_bytes(bytes([0, 0, 8, 1, 0, 0, 0, 2, 5, 3]))
        ...     read_idx(path).tolist()
        [5, 3]
    """
    try:
        with path.open("rb") as stream:
            zipped = stream.read(2) == _ZIPPED
            stream.seek(0)
            if not zipped:
                return _read(stream, path)
            with gzip.open(stream) as unzipped:
                return _read(unzipped, path)
    except FileNotFoundError as error:
        raise InputError("no such file", where=path, mend="mend the path") from error
    except EOFError as error:
        raise InputError("is cut short", where=path, mend=_MEND) from error
    except (OSError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot be read ({reason})", where=path, mend=_MEND) from error


def _read(stream: IO[bytes] | gzip.GzipFile, path: Path) -> NDArray[np.uint8]:
    head = stream.read(4)
    if len(head) < 4 or head[:3] != _MAGIC or not 1 <= head[3] <= _DIMENSIONS:
        raise InputError(
            f"is no IDX file of unsigned bytes (it begins with {head.hex() or 'nothing'})",
            where=path,
            mend="give the files of MNIST or FashionMNIST as they are published",
        )
    sizes = stream.read(4 * head[3])
    if len(sizes) < 4 * head[3]:
        raise InputError("is cut short in its header", where=path, mend=_MEND)
    shape = tuple(np.frombuffer(sizes, ">u4").tolist())
    count = math.prod(shape)
    if count > LARGEST:
        claim = " x ".join(map(str, shape))
        raise InputError(f"claims to hold {claim} values", where=path, mend=_MEND)
    content = bytearray()
    # By blocks, so that a header cannot ask for memory that the file does not fill.
    while block := stream.read(min(_BLOCK, count + 1 - len(content))):
        content += block
    if len(content) != count:
        short = len(content) < count
        problem = f"is cut short: {len(content)} of" if short else "holds more than"
        raise InputError(f"{problem} {count} values", where=path, mend=_MEND)
    return np.frombuffer(content, np.uint8).reshape(shape)
