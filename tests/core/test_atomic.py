"""Files are written whole or not at all."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldmark.core.atomic import hash_file, hash_json, replacing, write_json, write_text
from fieldmark.core.errors import FieldmarkError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def stop_half_way():
        with replacing(path) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        stop_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_in_the_place_of_a_folder_is_one_line(tmp_path):
    (tmp_path / "a").write_text("")
    with pytest.raises(FieldmarkError, match=r"a/b\.txt: cannot be written .*; free some space"):
        write_text(tmp_path / "a" / "b.txt", "x")


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from safetensors.numpy import save_file
from fieldmark.core.atomic import replacing
from fieldmark.core.errors import FieldmarkError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    with replacing(Path(sys.argv[1])) as part:
        save_file({"a": np.zeros(100_000)}, part)
except FieldmarkError as error:
    print(error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="no file size limits here")
def test_a_disk_that_fills_up_is_one_line_and_nothing_is_left(tmp_path):
    """A limit on the size of files stands for the full disk."""
    path = tmp_path / "weights.safetensors"
    told = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=True
    )
    assert "cannot be written" in told.stdout
    assert told.stdout.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_new_files_obey_the_umask(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1})
    assert (tmp_path / "a.json").stat().st_mode & 0o777 == 0o644


@settings(deadline=None, max_examples=30)
@given(value=st.dictionaries(st.text(), json_values))
def test_the_hash_of_json_is_free_of_order(value):
    turned = dict(reversed(value.items()))
    assert hash_json(value) == hash_json(turned)


def test_file_hash_is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert hash_file(tmp_path / "a") == expected
