"""A short run of `benchmarks/fuzz.py`: of damaged inputs only our own errors come out."""

from __future__ import annotations

import logging

import pytest

from fieldmark.core.errors import FieldmarkError
from tests.fuzz.readers import list_readers
from tests.fuzz.run import LIMIT, Reader, damage_inputs, feed

# To name an encoder loads every library of encoders, which takes seconds: in the long run only.
READERS = {name: one for name, one in list_readers().items() if name != "name of an encoder"}
COUNT = 20
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
