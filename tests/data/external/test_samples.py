"""Samples in the cache: whole, once, by content, and nothing that leads out of it."""

from __future__ import annotations

import io
import json
import threading
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fieldmark.core.errors import FieldmarkError, ImageError, TableError
from fieldmark.data.external.samples import Sample, decode_image, encode_image, materialise
from fieldmark.data.tables import find_unreadable
from tests.data.external.pictures import draw, pack, same


def make(count: int = 3, **changes) -> list[Sample]:
    return [
        Sample(
            **{
                "id": f"s{i}",
                "where": f"row {i}",
                "image": pack(draw(i)),
                "suffix": ".png",
                "label": "ab"[i % 2],
                **changes,
            }
        )
        for i in range(count)
    ]


def test_pixels_and_words_come_back():
    samples = [
        Sample(id="x", where="", image=pack(draw(0)), suffix=".png", label="gull",
               attribute="sea", split="train", object="o1", scene="p1", mask=pack(draw(9))),
        Sample(id="y", where="", image=pack(draw(1), "WEBP"), suffix=".webp", label="ant",
               attribute="land", split="test"),
    ]  # fmt: skip
    table = materialise("mine", lambda: samples, classes=("gull", "ant"))
    assert (table.name, table.ids, table.classes) == ("mine", ("x", "y"), ("gull", "ant"))
    assert table.labels.tolist() == [0, 1]
    assert table.group_names()[1] == "y:gull_background:sea"
    assert (table.splits, table.objects, table.scenes) == (
        ("train", "test"), ("o1", ""), ("p1", ""))  # fmt: skip
    assert all(same(table.read(i), draw(i)) for i in range(2))
    assert table.masks is not None
    assert table.masks[0] is not None
    assert table.masks[0].read_bytes() == samples[0].mask
    assert table.masks[1] is None


def test_columns_that_nothing_fills_are_none():
    table = materialise("mine", make)
    assert (table.splits, table.objects, table.scenes) == (None, None, None)
    assert (table.masks, table.attributes) == (None, None)


def test_what_is_there_is_not_written_again():
    first = materialise("mine", make)
    stamps = [path.stat().st_mtime_ns for path in first.paths]
    second = materialise("mine", make)
    assert second.paths == first.paths
    assert [path.stat().st_mtime_ns for path in second.paths] == stamps


@pytest.mark.parametrize("change", [{"label": "c"}, {"id": "t"}, {"image": pack(draw(7))}])
def test_other_content_lies_elsewhere(change):
    one = materialise("mine", lambda: make(1))
    other = materialise("mine", lambda: make(1, **change))
    assert one.root != other.root
    assert same(one.read(0), draw(0))


@pytest.mark.parametrize("spoil", ["cut", "gone", "bit", "more", "table", "manifest"])
def test_a_damaged_copy_is_made_anew(spoil):
    table = materialise("mine", make)
    target = {
        "cut": table.paths[1],
        "gone": table.paths[1],
        "bit": table.paths[1],
        "more": table.paths[1].with_name("more.png"),
        "table": table.root / "metadata.csv",
        "manifest": table.root / "manifest.json",
    }[spoil]
    if spoil == "gone":
        target.unlink()
    elif spoil == "more":
        target.write_bytes(b"")
    elif spoil == "bit":
        target.write_bytes(target.read_bytes()[:-1] + b"\0")
    else:
        target.write_bytes(target.read_bytes()[:-5])
    again = materialise("mine", make)
    assert [same(again.read(i), draw(i)) for i in range(3)] == [True] * 3
    assert json.loads((again.root / "manifest.json").read_text())["images"] == 3


def test_a_run_that_dies_leaves_nothing(cache):
    calls = []

    def draw_and_die():
        calls.append(1)
        yield from make(2)
        if len(calls) > 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        materialise("mine", draw_and_die)
    assert [p for p in (cache / "external").iterdir() if not p.name.endswith(".lock")] == []


def test_two_at_once_write_one_copy(cache):
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(materialise("mine", lambda: make(20))))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({table.root for table in found}) == 1
    assert len(found) == 4
    assert len([p for p in (cache / "external").iterdir() if p.is_dir()]) == 1


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "mine: has no image"),
        (make(1, label=""), "row 0: the label is blank"),
        (make(1, id=""), "row 0: the id is blank"),
        (make(2, id="twice"), "row 1: the id 'twice' occurs twice"),
        (make(1, label="\udcff"), "row 0: a name is not UTF-8"),
        (make(1, label=" a"), "row 0: a name in .* has a blank at its end"),
    ],
)
def test_samples_that_make_no_table_are_named(samples, message):
    with pytest.raises(TableError, match=message):
        materialise("mine", lambda: samples)


def test_labels_outside_the_classes_are_named():
    with pytest.raises(TableError, match="row 0: the label 'a' is none of the classes"):
        materialise("mine", make, classes=("b", "c"))
    with pytest.raises(TableError, match="two of one name"):
        materialise("mine", make, classes=("a", "a"))


def test_a_source_that_changes_between_the_readings_is_refused(cache):
    turns = iter([make(2), make(3)])
    with pytest.raises(TableError, match="mine: changed while it was read"):
        materialise("mine", lambda: next(turns))
    assert not [p for p in (cache / "external").iterdir() if p.is_dir()]


def test_a_cache_that_cannot_be_written_is_one_line(cache):
    cache.write_text("")
    with pytest.raises(FieldmarkError, match=r"the cache cannot be written .* FIELDMARK_CACHE"):
        materialise("mine", make)


def test_an_unreadable_image_is_kept_and_named_by_its_sample():
    samples = [*make(1), Sample(id="birds/b 2", where="", image=b"no", suffix=".jpg", label="a")]
    [found] = find_unreadable(materialise("mine", lambda: samples))
    assert found.path.name == "0000001-birds_b_2.jpg"


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.text(min_size=1, max_size=30),
    label=st.text(min_size=1, max_size=20),
    suffix=st.sampled_from(["", ".png", "/../../x", ".JPG"]),
)
def test_no_name_leads_out_of_the_cache(cache, name, label, suffix):
    sample = Sample(id=name, where="w", image=pack(draw(1)), suffix=suffix, label=label)
    try:
        table = materialise(name, lambda: [sample])
    except TableError:
        assert (
            name != name.strip()
            or label != label.strip()
            or "\0" in name + label
            or any("\ud800" <= c <= "\udfff" for c in name + label)
        )
        return
    assert (table.ids, table.classes) == ((name,), (label,))
    assert table.paths[0].resolve().is_relative_to(cache.resolve())
    assert same(table.read(0), draw(1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK", "F", "I"])
def test_modes_are_kept_without_loss(mode):
    image = draw(3).convert("L").convert(mode) if mode != "I;16" else Image.new(mode, (3, 2), 999)
    encoded = encode_image(image)
    path = Path("x").with_suffix(encoded.suffix)
    assert path.suffix in (".png", ".tiff")
    back = Image.open(io.BytesIO(encoded.data))
    assert (back.mode, back.size) == (image.mode, image.size)
    assert back.tobytes() == image.tobytes()


def test_bytes_are_decoded_as_files_are():
    assert same(decode_image(pack(draw(4)), where="w"), draw(4))
    with pytest.raises(ImageError, match=r"a\.tar, sample b: "):
        decode_image(pack(draw(4))[:60], where="a.tar, sample b")


def test_a_decompression_bomb_is_refused(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(ImageError, match="b: has more than the 20 pixels that are taken for safe"):
        decode_image(pack(draw(4)), where="b")
    table = materialise("mine", make)
    with pytest.raises(ImageError, match="taken for safe"):
        table.read(0)
