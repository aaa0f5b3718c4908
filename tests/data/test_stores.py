import multiprocessing
import os
import pickle
import resource
from pathlib import Path

import numpy as np
import pytest

from fieldmark.core.errors import FieldmarkError, InputError
from fieldmark.data import stores
from fieldmark.data.stores import open_store


def draw_number(index):
    return [np.full((1, 2, index % 3 + 1), index % 251, np.uint8)]


def test_a_store_that_was_cut_off_goes_on(tmp_path):
    drawn = []

    def fail_late(index):
        drawn.append(index)
        if index == 150:
            raise InputError("stop")
        return draw_number(index)

    path = tmp_path / "a.u8"
    with pytest.raises(InputError, match="stop"):
        open_store(path, count=200, draw=fail_late)
    with path.open("ab") as stream:
        stream.write(b"half a block")
    drawn.clear()

    def draw(index):
        drawn.append(index)
        return draw_number(index)

    store = open_store(path, count=200, draw=draw)
    assert sorted(drawn) == list(range(128, 200))
    assert len(store) == 200
    for index in (0, 127, 128, 199):
        assert np.array_equal(store.read(index), draw_number(index)[0])
    assert np.array_equal(pickle.loads(pickle.dumps(store)).read(199), draw_number(199)[0])


def test_a_store_cut_short_is_drawn_again_and_never_read_as_whole(tmp_path):
    path = tmp_path / "a.u8"
    store = open_store(path, count=10, draw=draw_number)
    os.truncate(path, 3)
    with pytest.raises(FieldmarkError, match=r"a\.u8: image 9 of this cache is damaged; run again"):
        pickle.loads(pickle.dumps(store)).read(9)
    assert np.array_equal(open_store(path, count=10, draw=draw_number).read(9), draw_number(9)[0])
    path.with_suffix(".index.safetensors").write_bytes(b"no index")
    assert np.array_equal(open_store(path, count=10, draw=draw_number).read(9), draw_number(9)[0])


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FieldmarkError, match=r"the cache cannot be written .*; free some space"):
        open_store(tmp_path / "file" / "a.u8", count=1, draw=draw_number)


def test_a_full_disk_is_named_and_what_was_written_is_kept(tmp_path):
    """A limit on the size of files stands for the disk: past it writing fails alike."""
    path, drawn = tmp_path / "a.u8", []

    def draw(index):
        drawn.append(index)
        return [np.full((1, 64, 64), index, np.uint8)]

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100 * 64 * 64, hard))
    try:
        with pytest.raises(
            FieldmarkError, match=r"the cache cannot be written .*; free some space"
        ):
            open_store(path, count=128, draw=draw)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    drawn.clear()
    store = open_store(path, count=128, draw=draw)
    assert sorted(drawn) == list(range(64, 128))
    assert [int(store.read(index).max()) for index in (0, 63, 64, 127)] == [0, 63, 64, 127]


def draw_in_process(path, name):
    def draw(index):
        with (path.parent / name).open("a") as stream:
            stream.write(f"{index}\n")
        return draw_number(index)

    assert len(open_store(path, count=100, draw=draw)) == 100


def test_processes_take_turns(tmp_path):
    context = multiprocessing.get_context("spawn")
    names = ("first", "second")
    workers = [
        context.Process(target=draw_in_process, args=(tmp_path / "a.u8", name)) for name in names
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    drawn = [path.read_text().split() for name in names if (path := tmp_path / name).exists()]
    assert [len(lines) for lines in drawn] == [100]


def resident_bytes():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts pages through /proc")
def test_reading_all_of_a_large_store_keeps_the_process_small(tmp_path):
    block = np.zeros((3, 512, 512), np.uint8)
    store = open_store(tmp_path / "a.u8", count=128, draw=lambda index: [block])
    out, before = np.empty_like(block), resident_bytes()
    for index in range(len(store)):
        store.read_into(out, index)
    assert (tmp_path / "a.u8").stat().st_size > 100e6
    assert resident_bytes() - before < 10e6


def test_a_flipped_bit_is_never_read_and_the_image_is_drawn_again(tmp_path, caplog):
    path = tmp_path / "a.u8"

    def draw(index):
        return [np.full((1, 2, 3), 2 * index + number, np.uint8) for number in range(2)]

    store = open_store(path, count=9, draw=draw)
    data = bytearray(path.read_bytes())
    for bit in range(0, len(data) * 8, 13):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        assert [int(store.read(index).min()) for index in range(18)] == list(range(18))
        assert path.read_bytes() == data
    assert "is damaged and is drawn again" in caplog.text
    copy = pickle.loads(pickle.dumps(store))
    path.write_bytes(bad)
    with pytest.raises(FieldmarkError, match="is damaged; run again, and it is drawn anew"):
        copy.read(bit // 8 // 6)
    again = open_store(path, count=9, draw=draw)
    assert [int(again.read(index).max()) for index in range(18)] == list(range(18))


def test_a_damaged_index_is_drawn_anew(tmp_path):
    path = tmp_path / "a.u8"
    open_store(path, count=5, draw=draw_number)
    index = path.with_suffix(".index.safetensors")
    data = bytearray(index.read_bytes())
    data[-3] ^= 4
    index.write_bytes(data)
    drawn = []

    def draw(number):
        drawn.append(number)
        return draw_number(number)

    open_store(path, count=5, draw=draw)
    assert sorted(drawn) == list(range(5))


def test_a_whole_store_is_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    """Root obeys no permission, so opening the lock stands for the refusal."""
    path = tmp_path / "a.u8"
    open_store(path, count=5, draw=draw_number)

    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(stores, "_locked", refuse)
    assert len(open_store(path, count=5, draw=draw_number)) == 5
    with pytest.raises(FieldmarkError, match="the cache cannot be written"):
        open_store(path, count=6, draw=draw_number)
