"""`gcompris`: its list, splits by object, and building out of a package that is faked."""

from __future__ import annotations

import io
import json
import struct
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fieldmark.core.atomic import hash_file
from fieldmark.core.errors import (
    FetchError,
    ImageError,
    RunExistsError,
    UnknownNameError,
    UsageError,
)
from fieldmark.core.fetch import fetch_debian
from fieldmark.data.datasets import DATASETS, build_dataset, check_dataset, open_dataset
from fieldmark.data.datasets import gcompris as module
from fieldmark.data.datasets.gcompris import (
    TASKS,
    Photograph,
    build_gcompris,
    check_photographs,
    read_photographs,
    split_objects,
)
from fieldmark.data.tables import read_table
from fieldmark.data.tasks import Task

LABELS = {member: name for name, members in TASKS["all"].items() for member in members}
SURROUNDINGS = {"sky", "plain", "plants", "water", "ground", "indoors", ""}


def encode_image(colour: str, *, sides: tuple[int, int]) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", sides, colour).save(stream, "PNG")
    return stream.getvalue()


def write_resource(path: Path, files: dict[str, bytes]) -> None:
    """Write a flat resource file, version 2, nothing packed."""
    names, data, tree = b"", b"", struct.pack(">IHIIQ", 0, 2, len(files), 1, 0)
    for name, payload in files.items():
        text = name.encode("utf-16-be")
        tree += struct.pack(">IHHHIQ", len(names), 0, 0, 0, len(data), 0)
        names += struct.pack(">HI", len(name), 0) + text
        data += struct.pack(">I", len(payload)) + payload
    start = 20
    offsets = (2, start, start + len(tree), start + len(tree) + len(data))
    path.write_bytes(b"qres" + struct.pack(">4I", *offsets) + tree + data + names)


@pytest.fixture
def fake_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stand in for the package and its list: eight photographs of one colour each."""
    folder = tmp_path / "package"
    folder.mkdir()
    files = {f"{kind}{n}.png": kind for kind in ("fish", "tool") for n in range(4)}
    colours = {"fish": "navy", "tool": "white"}
    write_resource(
        folder / "a.rcc",
        {name: encode_image(colours[kind], sides=(90, 60)) for name, kind in files.items()},
    )
    rows = [
        Photograph(f"a.rcc!{name}", kind, kind, "water" if kind == "fish" else "")
        for name, kind in files.items()
    ]
    source = {"package": module.PACKAGE, "version": "0", "sha256": "0" * 64}
    monkeypatch.setattr(module, "read_photographs", lambda: rows)
    monkeypatch.setattr(module, "fetch_debian", lambda package: folder)
    monkeypatch.setattr(module, "read_manifest", lambda folder: source)
    return folder


def test_the_list_is_sound():
    rows = read_photographs()
    assert len(rows) == 272
    assert len({row.file for row in rows}) == len({row.id for row in rows}) == len(rows)
    assert {row.label for row in rows} == LABELS.keys()
    assert {row.surroundings for row in rows} <= SURROUNDINGS
    assert all(row.name and ".rcc!" in row.file for row in rows)


def test_every_class_of_the_usual_task_has_fifteen_photographs():
    counts = Counter(row.label for row in read_photographs())
    assert min(counts[name] for name in TASKS["kinds"]) >= 15
    assert tuple(DATASETS["gcompris"].choices["task"]) == tuple(TASKS)


def test_photographs_of_one_monument_are_one_object():
    objects = Counter(row.object for row in read_photographs())
    assert objects["Eiffel Tower"] == objects["Taj Mahal"] == 3
    assert max(count for name, count in objects.items() if "-" in name) == 1


@settings(max_examples=20)
@given(share=st.floats(0, 0.99), seed=st.integers(0, 99))
def test_no_object_is_in_both_splits(share, seed):
    rows = read_photographs()
    splits = split_objects(rows, LABELS, share=share, seed=seed)
    parts = {
        name: {row.object for row, own in zip(rows, splits, strict=True) if own == name}
        for name in ("val", "test")
    }
    assert not parts["val"] & parts["test"]
    for label in LABELS:
        every = {row.object for row in rows if row.label == label}
        assert len(every & parts["val"]) == int(share * len(every))


def test_the_split_of_a_class_does_not_change_with_the_other_classes():
    rows = read_photographs()
    fish = [row for row in rows if row.label == "fish"]
    among_all = split_objects(rows, LABELS, share=0.5, seed=3)
    alone = split_objects(fish, {"fish": "fish"}, share=0.5, seed=3)
    assert [s for row, s in zip(rows, among_all, strict=True) if row.label == "fish"] == alone


def test_a_faked_package_is_built_whole_and_the_same_again(fake_package, tmp_path):
    out = build_dataset("gcompris", tmp_path / "a", options={"task": "all", "size": 16})
    again = build_gcompris(tmp_path / "b", task="all", size=16)
    files = sorted(p.relative_to(out) for p in out.rglob("*") if p.is_file())
    assert [hash_file(out / f) for f in files] == [hash_file(again / f) for f in files]
    assert check_dataset(out) == []
    table = read_table(out)
    assert Counter(table.splits or ()) == {"val": 4, "test": 4}
    assert table.classes == ("fish", "tool")
    assert table.attributes is not None
    assert [table.attribute_names[a] for a in table.attributes if a >= 0] == ["water"] * 4
    assert table.read(0).size == (48, 32)
    card = json.loads((out / "card.json").read_text())
    assert card["sources"][0]["package"] == module.PACKAGE
    assert sum(sum(groups.values()) for groups in card["groups"].values()) == 8


def test_a_faked_package_opens_as_a_task_with_all_in_test(fake_package, tmp_path):
    build_gcompris(tmp_path / "a", task="coarse", val_share=0)
    task = open_dataset("gcompris", tmp_path / "a")
    assert isinstance(task, Task)
    assert task.name == task.table.name == "gcompris/coarse"
    assert task.tests == ("test",)
    assert set(task.table.splits or ()) == {"test"}
    assert task.table.classes == ("animal", "object")


def test_a_damaged_build_of_a_faked_package_is_named(fake_package, tmp_path):
    out = build_gcompris(tmp_path / "a", task="all")
    next((out / "images").rglob("*.png")).unlink()
    (line,) = check_dataset(out)
    assert "metadata.csv" in line
    assert "missing" in line


def test_a_listed_photograph_that_is_not_in_the_package_is_named(tmp_path):
    with pytest.raises(FetchError, match=r"1 of 1 photographs .*: a\.rcc!b\.png"):
        check_photographs([Photograph("a.rcc!b.png", "fish", "fish", "")], tmp_path)


def test_a_faked_package_with_a_broken_photograph_is_named(fake_package, tmp_path):
    files = {f"{kind}{n}.png": b"no image" for kind in ("fish", "tool") for n in range(4)}
    module._open_resource.cache_clear()
    write_resource(fake_package / "a.rcc", files)
    with pytest.raises(ImageError, match=r"fish0\.png cannot be read as an image"):
        build_gcompris(tmp_path / "a", task="all")
    assert not (tmp_path / "a").exists()


def test_arguments_that_cannot_be_are_refused(fake_package, tmp_path):
    with pytest.raises(UnknownNameError, match="known: all, animals, coarse, kinds"):
        build_gcompris(tmp_path / "a", task="birds")
    with pytest.raises(UsageError, match=r"val_share 1 is not in \[0, 1\)"):
        build_gcompris(tmp_path / "a", val_share=1)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "file").touch()
    with pytest.raises(RunExistsError, match="holds other files"):
        build_gcompris(tmp_path / "c", task="all")


@pytest.mark.network
def test_every_listed_photograph_is_in_the_package():
    check_photographs(read_photographs(), fetch_debian(module.PACKAGE))
