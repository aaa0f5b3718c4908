"""Read image files of every common kind into upright 8-bit images, or say which file is at fault.

Only what Pillow opens is read, the first frame of it, so that a picture means the same here as in
the libraries that encoders were trained with. Depths above 8 bits are scaled, not clipped.
"""

from __future__ import annotations

import functools
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.Image import Transpose

from fieldmark.core.atomic import hash_file
from fieldmark.core.errors import ImageError, InputError

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"}
)
WHITE = (255, 255, 255, 255)

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
# What Pillow's readers raise on damaged bytes.
_DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
    struct.error,
    zlib.error,
)
# These warn when they are opened at most, so that many threads may decode them at once.
_CALM = frozenset({"JPEG", "PNG", "WEBP"})
# Warning filters belong to the process, so only one thread may change them at a time.
_FILTERS = threading.Lock()


def read_image(path: Path) -> Image.Image:
    """Read a file as an upright RGB image; transparent pixels are laid on white.

    EXIF orientation is applied; CMYK, palette and greyscale are converted; 16 bits are scaled to 8.

    Raises:
        ImageError: no such file, not an image, truncated, a decompression bomb, or a depth without
            a range.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "grey.png"
        ...     Image.new("I;16", (2, 1), 65535).save(path)
        ...     image = read_image(path)
        >>> image.mode, image.getpixel((0, 0))
        ('RGB', (255, 255, 255))
    """
    image = _load(path)
    if not image.has_transparency_data:
        return _convert(image, "RGB", path=path)
    cutout = _convert(image, "RGBA", path=path)
    return Image.alpha_composite(Image.new("RGBA", cutout.size, WHITE), cutout).convert("RGB")


def read_cutout(path: Path) -> Image.Image:
    """Read a file as an upright RGBA image; alpha is 255 throughout where the file has none.

    Raises:
        ImageError: as in `read_image`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "cutout.png"
        ...     Image.new("RGBA", (2, 1), (9, 8, 7, 0)).save(path)
        ...     read_cutout(path).getpixel((0, 0))
        (9, 8, 7, 0)
    """
    return _convert(_load(path), "RGBA", path=path)


def read_grey(path: Path) -> Image.Image:
    """Read a file as an upright 8-bit greyscale image, for masks; its alpha is left out of account.

    Raises:
        ImageError: as in `read_image`.
    """
    return _convert(_load(path), "L", path=path)


def hash_image(path: Path) -> str:
    """Return the SHA-256 of a file's bytes as 64 hexadecimal digits; a file is read once a process.

    Raises:
        ImageError: the file cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.png"
        ...     _ = path.write_bytes(b"")
        ...     hash_image(path)[:12]
        'e3b0c44298fc'
    """
    try:
        state = path.stat()
        return _hash_version(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise _unreadable(path, error) from error


def list_images(folder: Path) -> list[Path]:
    """Return the image files under a folder, at any depth, sorted; hidden ones are left out.

    Raises:
        InputError: the folder cannot be listed, or changes meanwhile.
    """
    try:
        return sorted(
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in IMAGE_SUFFIXES
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        )
    except OSError as error:
        reason = error.strerror or error
        raise InputError(
            f"cannot be listed ({reason})", where=folder, mend="give a folder that nobody changes"
        ) from error


@functools.lru_cache(maxsize=1_000_000)
def _hash_version(path: Path, _size: int, _mtime: int) -> str:
    return hash_file(path)


def _load(path: Path) -> Image.Image:
    try:
        with _quiet():
            image = Image.open(path)
        with image:
            with nullcontext() if image.format in _CALM else _quiet():
                image.load()
            turn = _read_orientation(image)
            return image if turn is None else image.transpose(turn)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(
            f"has more than the {Image.MAX_IMAGE_PIXELS} pixels that are taken for safe",
            where=path,
            mend="make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS if you trust it",
        ) from error
    except _DAMAGED as error:
        raise _unreadable(path, error) from error


@contextmanager
def _quiet() -> Iterator[None]:
    with _FILTERS, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def _read_orientation(image: Image.Image) -> Transpose | None:
    with _quiet():
        try:
            return _UPRIGHT.get(image.getexif().get(_ORIENTATION_TAG, 1))
        except _DAMAGED:
            # A damaged EXIF block says nothing; the pixels beside it are whole.
            return None


def _convert(image: Image.Image, mode: str, *, path: Path) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        image = _scale_depth(image, path=path)
    if image.mode in ("P", "PA"):
        # Pillow warns of any other way out of a palette with transparency.
        image = image.convert("RGBA")
    try:
        return image if image.mode == mode else image.convert(mode)
    except ValueError as error:
        raise ImageError(
            f"has the colour mode {image.mode}", where=path, mend="save it as RGB"
        ) from error


def _scale_depth(image: Image.Image, *, path: Path) -> Image.Image:
    value = np.asarray(image)
    if image.mode == "F" or value.min() < 0 or value.max() > 65535:
        raise ImageError(
            f"has 32-bit pixels (mode {image.mode}) without a known range",
            where=path,
            mend="save it with 8 or 16 bits a channel",
        )
    return Image.fromarray(((value.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _unreadable(path: Path, error: BaseException) -> ImageError:
    if isinstance(error, FileNotFoundError):
        return ImageError("no such file", where=path, mend="mend the path or leave its row out")
    if isinstance(error, UnidentifiedImageError):
        return ImageError("is not an image", where=path, mend="replace it or leave it out")
    reason = (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")
    return ImageError(f"cannot be read ({reason})", where=path, mend="replace it or leave it out")
