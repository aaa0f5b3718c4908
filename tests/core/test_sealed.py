"""Files that carry their own checksum."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from fieldmark.core.errors import InputError
from fieldmark.core.sealed import (
    KEY,
    SEAL,
    check,
    discard,
    is_whole,
    judge,
    read_sealed_json,
    seal,
    sealing,
    write_sealed_json,
)

VALUES = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array([1, -1])}
WORDS = {"images": '["a\\"b", "é\u2028"]', "z": "\x01\n", "made": "here"}


def write(path):
    with sealing(path) as part:
        save_file(VALUES, part, metadata={**SEAL, **WORDS})
    return path


def test_the_digest_is_that_of_the_bytes_with_zeros_in_its_place(tmp_path):
    data = write(tmp_path / "a.safetensors").read_bytes()
    with safe_open(tmp_path / "a.safetensors", framework="numpy") as file:
        words = file.metadata()
        np.testing.assert_array_equal(file.get_tensor("a"), VALUES["a"])
        np.testing.assert_array_equal(file.get_tensor("b"), VALUES["b"])
    stated = words.pop(KEY)
    assert words == WORDS
    assert hashlib.sha256(data.replace(stated.encode(), b"0" * 64)).hexdigest() == stated


def test_equal_contents_give_equal_bytes(tmp_path):
    """safetensors itself writes metadata in any order."""
    found = {write(tmp_path / f"{number}.safetensors").read_bytes() for number in range(12)}
    assert len(found) == 1


def test_a_flipped_bit_in_any_byte_and_a_cut_are_found(tmp_path):
    path = write(tmp_path / "a.safetensors")
    data = path.read_bytes()
    for place in range(len(data)):
        bad = bytearray(data)
        bad[place] ^= 1 << place % 8
        path.write_bytes(bad)
        assert not is_whole(path), place
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        assert not is_whole(path), length
    path.write_bytes(data + b"\0")
    assert judge(path) == "damaged"
    path.write_bytes(data)
    assert judge(path) == "whole"


@settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_judged_and_never_whole(tmp_path, data):
    path = tmp_path / "a.safetensors"
    path.write_bytes(data)
    assert judge(path) in ("damaged", "unsealed")


def test_a_file_of_others_is_unsealed_and_passes(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file(VALUES, path)
    assert judge(path) == "unsealed"
    check(path, mend="")
    with pytest.raises(InputError, match="has no place for a checksum"):
        seal(path)


def test_a_damaged_file_is_one_line(tmp_path):
    path = write(tmp_path / "a.safetensors")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"a\.safetensors: is damaged .*; fetch it again"):
        check(path, mend="fetch it again")


def test_what_is_discarded_is_said_and_gone(tmp_path, caplog):
    path = write(tmp_path / "a.safetensors")
    discard(path, instead="it is made again")
    assert not path.exists()
    assert [record.getMessage().count("\n") for record in caplog.records] == [0]
    discard(path, instead="it is made again")


def test_damaged_json_is_found(tmp_path):
    path = tmp_path / "a.json"
    write_sealed_json(path, {"a": 1, "b": ["é", None]})
    assert read_sealed_json(path) == {"a": 1, "b": ["é", None]}
    data = path.read_bytes()
    for place in range(len(data)):
        bad = bytearray(data)
        bad[place] ^= 1 << place % 8
        path.write_bytes(bad)
        # A flip may turn one blank into another; what is read is then what was written.
        try:
            assert read_sealed_json(path) == {"a": 1, "b": ["é", None]}
        except InputError:
            continue
    path.write_text(json.dumps({"a": 1}))
    with pytest.raises(InputError, match="is no sealed JSON object"):
        read_sealed_json(path)
    path.write_text("[1]")
    with pytest.raises(InputError, match="is no sealed JSON object"):
        read_sealed_json(path)
    path.write_text(f'{{"a": NaN, "{KEY}": "x"}}')
    with pytest.raises(InputError, match="is damaged"):
        read_sealed_json(path)
