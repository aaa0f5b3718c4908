"""Readers of images and masks, and whole files of every kind of image to damage."""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fieldmark.core.errors import ImageError
from fieldmark.data.datasets.waterbirds_build import _read_plain
from fieldmark.data.foregrounds import read_foregrounds
from fieldmark.data.images import hash_image, read_cutout, read_grey, read_image
from fieldmark.report.pictures import embed_thumbnail
from tests.fuzz.mutate import damage_bytes
from tests.fuzz.run import Reader


def draw(mode: str, size: tuple[int, int] = (12, 10)) -> Image.Image:
    """Draw a small image of a mode with some structure in it."""
    height, width = size[1], size[0]
    ramp = np.linspace(0, 255, height * width).reshape(height, width)
    if mode == "I;16":
        return Image.fromarray((ramp * 257).astype(np.uint16))
    if mode == "F":
        return Image.fromarray(ramp.astype(np.float32))
    if mode == "I":
        return Image.fromarray((ramp * 257).astype(np.int32))
    colour = Image.fromarray(
        np.stack([ramp, ramp.T.reshape(height, width), 255 - ramp], 2).astype("u1")
    )
    if mode in ("RGBA", "LA", "PA"):
        colour.putalpha(Image.fromarray(ramp.astype(np.uint8)))
        return colour.convert(mode) if mode != "PA" else colour.convert("RGBA").quantize(8)
    return colour.convert(mode)


def save(image: Image.Image, kind: str, options: Mapping[str, Any]) -> bytes:
    """Return an image as the bytes of a file."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _turned() -> bytes:
    tags = Image.Exif()
    tags[0x0112] = 6
    return tags.tobytes()


def make_bomb(side: int = 30_000) -> bytes:
    """Return a PNG file of a few hundred bytes that declares `side` by `side` pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = zlib.crc32(kind + body)
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


KINDS: Mapping[str, tuple[tuple[str, Mapping[str, Any]], ...]] = {
    "PNG": (
        ("RGB", {}), ("RGBA", {}), ("L", {}), ("LA", {}), ("P", {}), ("P", {"transparency": 0}),
        ("1", {}), ("I;16", {}), ("RGB", {"exif": _turned()}), ("RGB", {"transparency": (0, 0, 0)}),
    ),
    "JPEG": (
        ("RGB", {}), ("L", {}), ("CMYK", {}), ("RGB", {"progressive": True}),
        ("RGB", {"exif": _turned()}), ("RGB", {"subsampling": 0, "quality": 100}),
    ),
    "WEBP": (
        ("RGB", {}), ("RGBA", {"lossless": True}), ("RGB", {"exif": _turned()}),
        ("RGB", {"save_all": True, "append_images": [draw("RGB").rotate(90)]}),
    ),
    "GIF": (
        ("P", {}), ("L", {}), ("P", {"save_all": True, "append_images": [draw("P").rotate(90)]}),
        ("P", {"transparency": 1, "interlace": True}),
    ),
    "BMP": (("RGB", {}), ("L", {}), ("P", {}), ("1", {}), ("RGBA", {})),
    "TIFF": (
        ("RGB", {}), ("RGBA", {}), ("I;16", {}), ("F", {}), ("I", {}), ("CMYK", {}), ("1", {}),
        ("RGB", {"compression": "tiff_lzw"}), ("RGB", {"compression": "tiff_adobe_deflate"}),
        ("RGB", {"compression": "jpeg"}), ("1", {"compression": "group4"}), ("P", {}), ("LA", {}),
        ("L", {"save_all": True, "append_images": [draw("L")]}),
        ("RGB", {"compression": "packbits"}),
    ),
    "PPM": (("RGB", {}), ("L", {}), ("1", {}), ("I;16", {})),
}  # fmt: skip


def list_seeds(kind: str) -> tuple[bytes, ...]:
    """Return whole files of a kind of image; of PNG a bomb and an image of one pixel as well."""
    files = [save(draw(mode), kind, options) for mode, options in KINDS[kind]]
    if kind == "PNG":
        files += [make_bomb(), save(Image.new("RGBA", (1, 1)), "PNG", {})]
    if kind == "PPM":
        files += [b"P3\n# remark\n2 1\n255\n1 2 3 4 5 6\n", b"Pf\n2 1\n-1.0\n" + b"\0" * 8]
    return tuple(files)


def _read_all_ways(content: bytes, folder: Path, *, suffix: str) -> None:
    path = folder / f"image{suffix}"
    path.write_bytes(content)
    hash_image(path)
    embed_thumbnail(path, side=8)
    failures = []
    with contextlib.suppress(ImageError):
        assert _read_plain(path, least=(4, 4)).mode == "RGB"
    for read in (read_image, read_cutout, read_grey):
        try:
            image = read(path)
        except ImageError as error:
            failures.append(error)
            continue
        assert image.mode == {read_image: "RGB", read_cutout: "RGBA", read_grey: "L"}[read]
        assert np.asarray(image).dtype == np.uint8
    if failures:
        raise failures[0]


def _prepare_objects(folder: Path) -> None:
    (folder / "photo.png").write_bytes(save(draw("RGB"), "PNG", {}))
    (folder / "t.csv").write_text("path,label,mask\nphoto.png,bird,mask.png\n")
    (folder / "cut.csv").write_text("path,label\nmask.png,bird\n")


def _read_mask(content: bytes, folder: Path, *, table: str) -> None:
    (folder / "mask.png").write_bytes(content)
    objects = read_foregrounds(folder / table)
    assert objects.read(0).mode == "RGBA"
    assert objects.with_degradation("eroded").read(0).width > 0


def list_readers() -> list[Reader]:
    """Return the readers of images, a kind at a time, and those of masks."""
    suffixes = {"JPEG": ".jpg", "TIFF": ".tif"}
    read: Callable[[bytes, Path], object]
    readers = []
    for kind in KINDS:
        read = functools.partial(_read_all_ways, suffix=suffixes.get(kind, f".{kind.lower()}"))
        readers.append(
            Reader(
                name=f"image {kind}",
                seeds=list_seeds(kind),
                read=read,
                damage=damage_bytes,
                share=0.8,
            )
        )
    masks = (save(draw("L"), "PNG", {}), save(draw("1"), "PNG", {}), save(draw("P"), "PNG", {}))
    cutouts = (save(draw("RGBA"), "PNG", {}), save(draw("LA"), "PNG", {}))
    for name, seeds, table in (("mask", masks, "t.csv"), ("cut-out", cutouts, "cut.csv")):
        read = functools.partial(_read_mask, table=table)
        readers.append(
            Reader(
                name=name,
                seeds=seeds,
                read=read,
                damage=damage_bytes,
                prepare=_prepare_objects,
                share=0.8,
            )
        )
    return readers
