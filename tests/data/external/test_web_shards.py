"""Webdataset shards: the pixels that went in, keys, labels, and every way a tar can be off."""

from __future__ import annotations

import json
import os
import pickle
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fieldmark.core.errors import ImageError, TableError, UsageError
from fieldmark.data.external import open_external, tar_members
from fieldmark.data.external.web_shards import (
    find_shards,
    from_webdataset,
    read_packed,
    stream_webdataset,
)
from tests.data.external.pictures import draw, pack, same, write_tar


def write_shards(folder: Path, *, shards: int = 2, each: int = 3) -> str:
    """Write shards as webdataset's own writer lays them out."""
    for shard in range(shards):
        members = []
        for i in range(each):
            members += [
                (f"{i:05d}.cls", str(i % 2).encode()),
                (f"{i:05d}.png", pack(draw(shard * each + i))),
            ]
        write_tar(folder / f"a-{shard:03d}.tar", members)
    return str(folder / f"a-{{000..{shards - 1:03d}}}.tar")


def test_pixels_labels_and_ids_come_back(tmp_path):
    table = from_webdataset(write_shards(tmp_path / "birds"))
    assert table.name == "birds"
    assert table.ids[:4] == ("a-000/00000", "a-000/00001", "a-000/00002", "a-001/00000")
    assert table.classes == ("0", "1")
    assert table.labels.tolist() == [0, 1, 0, 0, 1, 0]
    assert all(same(table.read(i), draw(i)) for i in range(6))


def test_shards_of_the_library_itself_are_read(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "000.tar")) as writer:
        for i in range(3):
            writer.write({"__key__": f"k/{i}", "png": pack(draw(i)), "cls": i % 2,
                          "json": {"background": "sea", "split": "test"}})  # fmt: skip
    table = open_external("wds:000.tar", root=tmp_path)
    assert table.ids == ("000/k/0", "000/k/1", "000/k/2")
    assert table.group_names() == {0: "y:0_background:sea", 1: "y:1_background:sea"}
    assert table.splits == ("test",) * 3
    assert all(same(table.read(i), draw(i)) for i in range(3))


def test_names_of_classes_stand_beside_the_shards(tmp_path):
    pattern = write_shards(tmp_path / "train")
    (tmp_path / "classnames.txt").write_text("wren\ngull\n")
    table = from_webdataset(pattern)
    assert (table.classes, table.labels.tolist()) == (("wren", "gull"), [0, 1, 0, 0, 1, 0])
    assert table.splits == ("train",) * 6
    named = from_webdataset(pattern, classes=["x", "y", "z"])
    assert named.classes == ("x", "y", "z")


def test_what_json_says_of_a_sample(tmp_path):
    facts = {"label": 1, "attribute": "sea", "split": "val", "object": "o", "scene": 7}
    members = [
        ("a.json", json.dumps(facts).encode()),
        ("a.mask.png", pack(draw(8))),
        ("a.jpg", pack(draw(0), "JPEG")),
        ("b.json", json.dumps({"class_name": "wren", "label": 0}).encode()),
        ("b.webp", pack(draw(1), "WEBP")),
        ("c.txt", b" gull\n"),
        ("c.png", pack(draw(2))),
    ]
    shard = write_tar(tmp_path / "s.tar", members)
    table = from_webdataset([shard], classes=("wren", "gull"))
    assert table.labels.tolist() == [1, 0, 1]
    assert (table.splits, table.objects, table.scenes) == (
        ("val", "", ""), ("o", "", ""), ("7", "", ""))  # fmt: skip
    assert table.attributes is not None
    assert table.attributes.tolist() == [0, -1, -1]
    assert table.masks is not None
    assert table.masks[0] is not None
    assert [path.suffix for path in table.paths] == [".jpg", ".webp", ".png"]
    assert same(table.read(1), draw(1))


def test_every_word_for_validation_is_one_split(tmp_path):
    for number, word in enumerate(("valid", "dev", "validation")):
        members = [("a.png", pack(draw(number))), ("a.cls", b"x")]
        write_tar(tmp_path / word / f"{number}.tar", members)
    pattern = str(tmp_path / "{valid,dev,validation}/*.tar")
    assert from_webdataset(pattern).splits == ("val",) * 3
    assert {one.split for one in stream_webdataset(find_shards(pattern))} == {"val"}


def test_a_stream_yields_the_same_images_one_at_a_time(tmp_path):
    shards = find_shards(write_shards(tmp_path))
    table = from_webdataset(shards)
    streamed = list(stream_webdataset(shards))
    assert [image.id for image in streamed] == list(table.ids)
    assert [image.data for image in streamed] == [path.read_bytes() for path in table.paths]
    assert [image.label for image in streamed] == ["0", "1", "0"] * 2
    os.truncate(shards[1], 700)
    images = stream_webdataset(shards)
    assert [next(images).id for _ in range(3)] == list(table.ids[:3])


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_packed_tars_are_read(tmp_path, mode):
    members = [("a.png", pack(draw(0))), ("a.cls", b"1")]
    table = from_webdataset([write_tar(tmp_path / "s.tar.x", members, mode=mode)])
    assert same(table.read(0), draw(0))


class Evil:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("kind", ["pyd", "pickle", "pkl", "pth", "npy"])
def test_pickles_are_never_opened(tmp_path, kind):
    evil = pickle.dumps(Evil(tmp_path / "touched"))
    members = [(f"a.{kind}", evil), ("a.png", pack(draw(0))), ("a.cls", b"0")]
    shard = write_tar(tmp_path / "s.tar", members)
    [packed] = read_packed([shard])
    assert (packed.others, set(packed.members)) == ((kind,), {"png", "cls"})
    assert len(from_webdataset([shard])) == 1
    shard = write_tar(tmp_path / "t.tar", members[:2])
    with pytest.raises(TableError, match=rf"has no label .* png, {kind}; .*never read"):
        from_webdataset([shard])
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize("name", ["../x.png", "a/../../x.png", "/etc/x.png", "a\\..\\..\\x.png"])
def test_a_name_that_climbs_is_refused(tmp_path, name):
    shard = write_tar(tmp_path / "s.tar", [(name, pack(draw(0)))])
    with pytest.raises(TableError, match="its name leads out of the folder"):
        from_webdataset([shard])
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path, kind):
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        info = tarfile.TarInfo("a.png")
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(TableError, match=r"'a\.png': is a link or a device"):
        from_webdataset([tmp_path / "s.tar"])


def test_keys_that_occur_twice_are_refused(tmp_path):
    image, label = pack(draw(0)), b"0"
    apart = [("a.png", image), ("a.cls", label), ("b.png", image), ("b.cls", label),
             ("a.png", image), ("a.cls", label)]  # fmt: skip
    with pytest.raises(TableError, match="sample 'a': its key occurs twice"):
        from_webdataset([write_tar(tmp_path / "s.tar", apart)])
    beside = [("a.png", image), ("a.PNG", image), ("a.cls", label)]
    with pytest.raises(TableError, match=r"sample 'a': has two members \.png"):
        from_webdataset([write_tar(tmp_path / "t.tar", beside)])


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.cls", b"0")], "sample 'a': has no image"),
        ([("a.png", b""), ("a.jpg", b""), ("a.cls", b"0")], "has 2 images"),
        ([("a.png", b""), ("a.cls", b"5")], "the label 5 is out of the range 0 to 1"),
        ([("a.png", b""), ("a.cls", b"-1")], "the label -1 is out of the range"),
        ([("a.png", b""), ("a.cls", b"dodo")], "'dodo' is none of the classes"),
        ([("a.png", b""), ("a.cls", b"\xff")], r"its \.cls is not UTF-8"),
        ([("a.png", b""), ("a.json", b"{")], r"its \.json is not JSON"),
        ([("a.png", b""), ("a.json", b"[" * 100_000)], r"its \.json is not JSON"),
        ([("a.png", b""), ("a.json", b"[1]")], "no JSON object"),
        ([("a.png", b""), ("a.json", b'{"label": [1]}')], "'label' in its .json is no string"),
        ([], "has no image"),
    ],
)
def test_samples_that_are_off_are_named(tmp_path, members, message):
    shard = write_tar(tmp_path / "s.tar", members)
    with pytest.raises(TableError, match=message):
        from_webdataset([shard], classes=("x", "y"))


def test_a_tar_cut_off_anywhere_is_refused(tmp_path):
    """Python's tarfile takes most of these for whole."""
    members = [(f"{i}.{kind}", data) for i in range(2)
               for kind, data in (("png", pack(draw(i))), ("cls", b"1"))]  # fmt: skip
    whole = write_tar(tmp_path / "s.tar", members).read_bytes()
    used = len(whole.rstrip(b"\0"))
    end = -(-used // 512) * 512
    for length in {*range(0, end, 256), used, end}:
        (tmp_path / "s.tar").write_bytes(whole[:length])
        with pytest.raises(TableError, match=r"s\.tar"):
            from_webdataset([tmp_path / "s.tar"])
    (tmp_path / "s.tar").write_bytes(whole[: end + 512])
    assert len(from_webdataset([tmp_path / "s.tar"])) == 2


def test_a_damaged_header_in_the_middle_is_refused(tmp_path):
    pattern = write_shards(tmp_path, shards=1)
    path = tmp_path / "a-000.tar"
    data = bytearray(path.read_bytes())
    data[data.index(b"00001.cls") + 150] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(TableError, match=r"a-000\.tar: is (damaged after byte|not a whole tar)"):
        from_webdataset(pattern)


@pytest.mark.parametrize("data", [b"", b"words", b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0", b"x" * 2000])
def test_what_is_no_tar_is_refused(tmp_path, data):
    (tmp_path / "s.tar").write_bytes(data)
    with pytest.raises(TableError, match=r"s\.tar: is (not a whole tar|cut off)"):
        from_webdataset([tmp_path / "s.tar"])


def test_a_member_too_large_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_members, "MAX_MEMBER", 100)
    shard = write_tar(tmp_path / "s.tar", [("a.png", b"x" * 101)])
    with pytest.raises(TableError, match=r"'a\.png': has 101 bytes; more than 100"):
        from_webdataset([shard])


def test_a_bomb_in_a_stream_is_an_unreadable_image(tmp_path, monkeypatch):
    from PIL import Image

    table = from_webdataset(write_shards(tmp_path))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ImageError, match="taken for safe"):
        table.read(0)


def test_patterns(tmp_path):
    for name in ("train/0.tar", "train/1.tar", "test/0.tar"):
        write_tar(tmp_path / name, [("a.png", b"")])

    def names(pattern: str) -> list[str]:
        return [str(p.relative_to(tmp_path)) for p in find_shards(pattern, root=tmp_path)]

    assert names("{train,test}/0.tar") == ["train/0.tar", "test/0.tar"]
    assert names("train/*.tar") == ["train/0.tar", "train/1.tar"]
    assert names(".") == ["test/0.tar", "train/0.tar", "train/1.tar"]
    with pytest.raises(TableError, match=r"train/2\.tar: no such file"):
        names("train/{0..2}.tar")
    with pytest.raises(TableError, match="no tar file fits"):
        names("nothing/*.tar")
    with pytest.raises(UsageError, match=r"\{x\} is no range and no list"):
        names("{x}.tar")
    for pattern in ("{000..999999999999}.tar", "pipe:cat train/0.tar", "https://x.org/0.tar"):
        with pytest.raises(TableError, match="no such file"):
            names(pattern)


def test_shards_of_one_name_are_told_apart_by_their_folders(tmp_path):
    for split in ("train", "test"):
        write_tar(tmp_path / split / "0.tar", [("a.png", pack(draw(0))), ("a.cls", b"0")])
    table = from_webdataset(str(tmp_path / "{train,test}" / "0.tar"))
    assert table.ids == ("train/0/a", "test/0/a")
    assert table.splits == ("train", "test")
    twice = [tmp_path / "train" / "0.tar"] * 2
    with pytest.raises(TableError, match="train/0: two shards have this name"):
        from_webdataset(twice)


def test_memory_of_a_tar_does_not_grow(tmp_path):
    """`tarfile` keeps every header; here none is kept."""
    shard = write_tar(tmp_path / "s.tar", [(f"{i}.x", b"") for i in range(50)])
    kept = []
    original = tarfile.TarFile.next

    def watch(self):
        kept.append(len(self.members))
        return original(self)

    tarfile.TarFile.next, before = watch, tarfile.TarFile.next  # type: ignore[method-assign]
    try:
        assert len(list(tar_members.read_members(shard, wanted=frozenset()))) == 50
    finally:
        tarfile.TarFile.next = before  # type: ignore[method-assign]
    assert max(kept) <= 1


@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_a_spoilt_tar_gives_our_errors_alone(tmp_path, data):
    members = [("a.png", pack(draw(0))), ("a.cls", b"0"), ("b.json", b'{"label": 1}'),
               ("b.png", pack(draw(1)))]  # fmt: skip
    spoilt = bytearray(write_tar(tmp_path / "s.tar", members).read_bytes())
    headers = [i for i in range(0, len(spoilt), 512) if spoilt[i : i + 1] in b"ab"]
    for _ in range(data.draw(st.integers(1, 4))):
        anywhere = st.integers(0, len(spoilt) - 1)
        inside = st.builds(lambda i, j: i + j, st.sampled_from(headers), st.integers(0, 511))
        spoilt[data.draw(anywhere | inside)] = data.draw(st.integers(0, 255))
    (tmp_path / "s.tar").write_bytes(spoilt[: data.draw(st.integers(0, len(spoilt)))])
    images, problem = 0, ""
    try:
        images = len(from_webdataset([tmp_path / "s.tar"]))
    except TableError as error:
        problem = str(error)
    assert (images > 0) != bool(problem)
    assert images <= 4
    assert "\n" not in problem


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=2000) | st.binary(max_size=99).map(lambda b: b"\x1f\x8b\x08" + b))
def test_any_bytes_give_our_errors_alone(tmp_path_factory, junk):
    path = tmp_path_factory.getbasetemp() / "junk.tar"
    path.write_bytes(junk)
    with pytest.raises(TableError):
        list(stream_webdataset([path])) or from_webdataset([path])
