"""A short run of `benchmarks/fuzz.py`: of damaged inputs only our own errors come out."""

from __future__ import annotations

import ast
import logging
import sys

import pytest

from fieldmark.core.errors import FieldmarkError
from tests.fuzz.inventory import LONG_RUN, NOT_REACHED, SOURCE, find_readers, reads
from tests.fuzz.readers import list_readers
from tests.fuzz.run import LIMIT, Reader, damage_inputs, feed

READERS = list_readers()
COUNT = 12
# Each of their inputs costs many milliseconds; the long run gives them more.
COSTLY = ("page", "pictures of", "name of data")


@pytest.fixture(autouse=True)
def quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", READERS)
def test_only_our_own_errors_come_out(name, tmp_path, capfd):
    reader = READERS[name]
    folder = tmp_path / "a" / "b" / "work"
    folder.mkdir(parents=True)
    reader.prepare(folder)
    count = len(reader.seeds) + (6 if any(word in name for word in COSTLY) else COUNT)
    tally = feed(reader, folder, count=count, seed=1)
    assert not tally.failures, tally.failures[0][0]
    assert tally.inputs == count == tally.accepted + tally.refused
    assert tally.slowest < LIMIT


def read_badly(content, folder):
    """Refuse texts in our words, but run into numbers and loops."""
    if content == b"loop":
        while True:
            pass
    if content == b"1":
        raise KeyError("one")
    raise FieldmarkError("no")


def test_the_fuzzer_sees_foreign_errors_and_loops(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.fuzz.run.LIMIT", 0.05)
    seeds = [b"text", b"1", b"loop"]
    reader = Reader(name="r", seeds=seeds, read=read_badly, damage=lambda rng, seed, others: seed)
    tally = feed(reader, tmp_path, count=3)
    kinds = [told.partition(":")[0] for told, _ in tally.failures]
    assert (tally.inputs, tally.accepted, tally.refused, tally.foreign) == (3, 0, 1, 2)
    assert kinds == ["KeyError", "TooSlowError"]


def test_inputs_depend_on_their_number_alone():
    reader = READERS["COCO objects"]
    all_of_them = list(damage_inputs(reader, count=12, seed=3))
    assert list(damage_inputs(reader, count=12, seed=3, start=7)) == all_of_them[7:]
    assert list(damage_inputs(reader, count=12, seed=4))[2:] != all_of_them[2:]
    assert len(set(all_of_them)) > 9


def find_reached(folder):
    """Read the whole inputs of every reader; return each function of fieldmark that was called."""
    reached = set()

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(f"{SOURCE}/"):
            name = frame.f_code.co_qualname.replace(".<locals>", "")
            reached.add((frame.f_code.co_filename[len(f"{SOURCE}/") :], name))

    for number, reader in enumerate(READERS.values()):
        place = folder / str(number) / "a" / "work"
        place.mkdir(parents=True)
        reader.prepare(place)
        before = sys.getprofile()
        sys.setprofile(note)
        try:
            feed(reader, place, count=len(reader.seeds))
        finally:
            sys.setprofile(before)
    return reached


def test_the_fuzzer_reaches_every_function_that_reads(tmp_path):
    reached, found = find_reached(tmp_path), find_readers()
    assert len(found) > 120
    forgotten = found - reached - NOT_REACHED.keys() - LONG_RUN.keys()
    assert not forgotten, f"fuzz them, or say in inventory.py why not: {sorted(forgotten)}"
    stale = (NOT_REACHED.keys() | LONG_RUN.keys()) - found
    assert not stale, f"take them out of inventory.py: {sorted(stale)}"


@pytest.mark.parametrize(
    "line",
    [
        "path.read_text()", "open(p)", "p.open('rb')", "tarfile.open(p)", "json.loads(t)",
        "safe_open(p, framework='pt')", "Image.open(p)", "np.load(p, allow_pickle=False)",
        "archive.open('w.bin')",
    ],
)  # fmt: skip
def test_the_search_for_readers_sees_each(line):
    assert reads(ast.parse(line).body[0].value)


@pytest.mark.parametrize("line", ["open(p, 'w')", "p.open('ab')", "p.open(mode='x')", "p.write(t)"])
def test_the_search_for_readers_passes_over_what_writes(line):
    assert not reads(ast.parse(line).body[0].value)
