import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fieldmark.core.errors import ImageError
from fieldmark.data.images import hash_image, list_images, read_cutout, read_grey, read_image


@pytest.fixture
def photograph():
    rows, columns = np.mgrid[0:24, 0:32]
    return Image.fromarray(
        np.stack([rows * 10, columns * 7, 255 - rows * 5], axis=-1).astype(np.uint8)
    )


def write_png_16_bit(path: Path, values: np.ndarray) -> None:
    """Write a 16-bit RGB PNG by hand: Pillow can read such files, not write them."""
    height, width, _ = values.shape
    lines = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path, photograph, orientation):
    # For each orientation, how the stored pixels come from the upright ones (EXIF 2.3, 4.6.4).
    stored = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: a.transpose(1, 0, 2)[::-1],
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    }[orientation](np.asarray(photograph))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(read_image(tmp_path / "a.png")), np.asarray(photograph))


def test_broken_exif_leaves_the_picture_upright(tmp_path, photograph):
    photograph.save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert read_image(tmp_path / "a.jpg").size == photograph.size


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        ("CMYK", ".jpg"),
        ("P", ".png"),
        ("L", ".jpg"),
        ("1", ".png"),
        ("LA", ".png"),
        ("LAB", ".tif"),
    ],
)
def test_every_mode_becomes_rgb(tmp_path, photograph, mode, suffix):
    path = tmp_path / f"a{suffix}"
    image = Image.new("LAB", (32, 24)) if mode == "LAB" else photograph.convert(mode)
    image.save(path)
    assert read_image(path).mode == "RGB"
    assert read_image(path).size == (32, 24)


def test_cmyk_keeps_its_colours(tmp_path):
    Image.new("RGB", (16, 16), (200, 40, 90)).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert np.allclose(np.asarray(read_image(tmp_path / "a.jpg"))[8, 8], (200, 40, 90), atol=4)


def test_16_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 32768, 65278, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "grey.png")
    expected = np.round(values / 257).astype(int)
    got = np.asarray(read_image(tmp_path / "grey.png")).astype(int)
    assert np.array_equal(got, np.repeat(expected[..., None], 3, axis=2))

    colour = np.stack([values, values[:, ::-1], values], axis=-1)
    write_png_16_bit(tmp_path / "colour.png", colour)
    got = np.asarray(read_image(tmp_path / "colour.png")).astype(int)
    assert np.abs(got - colour / 257).max() <= 1


def test_big_endian_tiff_of_16_bits(tmp_path):
    Image.fromarray(np.array([[0, 65535]], ">u2")).save(tmp_path / "a.tif")
    assert np.asarray(read_grey(tmp_path / "a.tif")).tolist() == [[0, 255]]


@pytest.mark.parametrize("value", [np.float32(0.5), np.int32(100_000)])
def test_32_bits_without_a_range_are_refused(tmp_path, value):
    Image.fromarray(np.full((2, 2), value)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match=r"a\.tif: has 32-bit pixels .*; save it with 8 or 16"):
        read_image(tmp_path / "a.tif")


def test_alpha_is_laid_on_white(tmp_path):
    cutout = Image.new("RGBA", (3, 1), (10, 20, 30, 255))
    cutout.putpixel((0, 0), (10, 20, 30, 0))
    cutout.putpixel((1, 0), (10, 20, 30, 51))
    cutout.save(tmp_path / "a.png")
    white = np.array([255.0, 255, 255])
    colour = np.array([10.0, 20, 30])
    expected = np.stack([white, white * 0.8 + colour * 0.2, colour])
    assert np.allclose(np.asarray(read_image(tmp_path / "a.png"))[0], expected, atol=1)
    assert np.array_equal(np.asarray(read_cutout(tmp_path / "a.png")), np.asarray(cutout))


def test_palette_with_transparency_is_laid_on_white_without_a_warning(tmp_path):
    image = Image.new("P", (4, 4), 0)
    image.putpalette([9, 9, 9, 200, 100, 50])
    image.putpixel((0, 0), 1)
    image.save(tmp_path / "a.png", transparency=bytes([0, 255]))
    picture = read_image(tmp_path / "a.png")
    assert (picture.getpixel((0, 0)), picture.getpixel((1, 1))) == ((200, 100, 50), (255, 255, 255))


def test_first_frame_of_an_animation(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_image(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


def test_truncated_and_foreign_files_are_named(tmp_path, photograph):
    photograph.resize((300, 300)).save(tmp_path / "whole.jpg")
    body = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(body[: len(body) // 2])
    (tmp_path / "text.jpg").write_text("no image at all")
    (tmp_path / "empty.png").touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(
        ImageError, match=r"half\.jpg: cannot be read \(.*truncated.*\); replace it"
    ):
        read_image(tmp_path / "half.jpg")
    for name in ("text.jpg", "empty.png"):
        with pytest.raises(
            ImageError, match=f"{name}: is not an image; replace it or leave it out"
        ):
            read_image(tmp_path / name)
    with pytest.raises(ImageError, match=r"gone\.jpg: no such file"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(ImageError, match=r"folder\.png: cannot be read"):
        read_image(tmp_path / "folder.png")
    with pytest.raises(ImageError, match=r"gone\.jpg: no such file"):
        hash_image(tmp_path / "gone.jpg")


@pytest.mark.parametrize("limit", [20 * 20 - 1, 20 * 20 // 3])
def test_decompression_bomb_is_refused(tmp_path, monkeypatch, limit):
    # Pillow warns above its limit and raises above twice its limit; both are refused alike.
    Image.new("RGB", (20, 20)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageError, match=rf"bomb\.png: has more than the {limit} pixels"):
        read_image(tmp_path / "bomb.png")


@settings(deadline=None, max_examples=60)
@given(data=st.data(), suffix=st.sampled_from(["jpg", "png", "gif", "tif", "bmp", "webp"]))
def test_damaged_bytes_give_an_image_or_an_image_error(tmp_path_factory, data, suffix):
    path = tmp_path_factory.mktemp("damaged") / f"a.{suffix}"
    exif = Image.Exif()
    exif[0x0112] = 6
    gradient = Image.linear_gradient("L").resize((24, 16)).convert("RGB")
    if suffix in ("jpg", "png", "tif", "webp"):
        gradient.save(path, exif=exif)
    else:
        gradient.save(path)
    body = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(body[: data.draw(st.integers(0, len(body)))]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            outcome = read_image(path).mode
        except ImageError as error:
            outcome = str(error)
    assert outcome == "RGB" or outcome.startswith(f"{path}: ")


def test_hash_follows_the_content(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    first = hash_image(path)
    path.write_bytes(b"three")
    assert first != hash_image(path)
    (tmp_path / "b.png").write_bytes(b"three")
    assert hash_image(tmp_path / "b.png") == hash_image(path)


def test_listing_leaves_out_hidden_and_foreign_files(tmp_path):
    for name in ("b/2.JPG", "a/1.png", ".hidden/3.png", "a/.4.png", "a/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(p.relative_to(tmp_path)) for p in list_images(tmp_path)] == ["a/1.png", "b/2.JPG"]
