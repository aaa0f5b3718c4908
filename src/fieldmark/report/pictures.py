"""Photographs inside a page: small JPEG copies as data URIs."""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path

from PIL import Image

BACKDROP = (238, 237, 232)


def embed_thumbnail(path: Path, *, side: int = 192, quality: int = 80) -> str | None:
    """Return a small copy of an image as a `data:` URI.

    Args:
        path: any image that Pillow reads; transparency shows a light backdrop.
        side: the longest side of the copy in pixels; a smaller image is not enlarged.
        quality: of the JPEG, 1 to 95.

    Returns:
        The URI, or None where the file is missing or is no readable image.

    Example:
        >>> embed_thumbnail(Path("nowhere.png")) is None
        True
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.draft("RGB", (2 * side, 2 * side))
                small = _flatten(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    except Image.DecompressionBombWarning:
        return None
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    small.save(stream, "JPEG", quality=quality, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()


def _flatten(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    clear = image.convert("RGBA")
    below = Image.new("RGBA", clear.size, (*BACKDROP, 255))
    return Image.alpha_composite(below, clear).convert("RGB")


def embed_text(text: str, *, kind: str) -> str:
    """Return a text as a `data:` URI to be saved from a page.

    Args:
        text: the content.
        kind: its media type, for example `text/csv`.

    Example:
        >>> embed_text("a", kind="text/csv")
        'data:text/csv;charset=utf-8;base64,YQ=='
    """
    return f"data:{kind};charset=utf-8;base64,{base64.b64encode(text.encode()).decode()}"
