"""What a sweep keeps: found by its checksum, made again where it does not fit."""

from __future__ import annotations

import json

import pytest
import torch

from fieldmark.benchmarks.store import Measured, Store
from fieldmark.core.errors import InputError
from fieldmark.core.records import ResultRow
from fieldmark.methods.recipe import Adapted
from fieldmark.testing import FakeEncoder

MEASURED = Measured(rows=(ResultRow(suite="s", dataset="d", metric="m", value=0.25),))


def spoil(path, *, at=-3):
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_job_comes_back_as_it_was_kept(tmp_path):
    store = Store(tmp_path)
    assert not store.has("key")
    store.write("key", MEASURED, job={"a": 1})
    assert store.has("key")
    assert [row.value for row in store.read("key").rows] == [0.25]


@pytest.mark.parametrize("how", ["digit", "cut", "unsealed"])
def test_a_damaged_job_is_not_finished(tmp_path, caplog, how):
    store = Store(tmp_path)
    store.write("key", MEASURED, job={})
    path = tmp_path / "jobs" / "key.json"
    text = path.read_text()
    if how == "unsealed":
        values = json.loads(text)
        del values["fieldmark_sha256"]
        path.write_text(json.dumps(values))
    else:
        path.write_text(text.replace("0.25", "0.35") if how == "digit" else text[:-9])
    assert not store.has("key")
    assert "the job is done again" in caplog.text
    with pytest.raises(InputError, match="is no finished job"):
        store.read("key")
    store.write("key", MEASURED, job={})
    assert store.has("key")


@pytest.mark.parametrize("name", ["tower.safetensors", "notes.json"])
def test_a_damaged_encoder_is_adapted_again(tmp_path, caplog, name):
    store, native = Store(tmp_path), FakeEncoder()
    with torch.no_grad():
        next(native.image_tower.parameters()).add_(0.5)
    adapted = Adapted(encoder=native, notes={"a": 1})
    store.write_adapted("key", adapted)
    found = store.read_adapted("key", native=FakeEncoder())
    assert found is not None
    assert found.notes == {"a": 1}
    for a, b in zip(
        found.encoder.image_tower.parameters(), native.image_tower.parameters(), strict=True
    ):
        assert torch.equal(a, b)
    spoil(tmp_path / "adapted" / "key" / name)
    assert store.read_adapted("key", native=FakeEncoder()) is None
    assert "the encoder is adapted again" in caplog.text
    store.write_adapted("key", adapted)
    assert store.read_adapted("key", native=FakeEncoder()) is not None
