from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fieldmark.core.errors import InputError, TableError
from fieldmark.core.fetch import cache_dir
from fieldmark.data.controlled.idx import find_idx, read_idx, read_pair

IMAGES = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
FASHION = cache_dir() / "debian/dataset-fashion-mnist/usr/share/datasets/fashion-mnist"


def _pack(values):
    shape = values.shape
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + values.tobytes()


def _write_pair(root, labels, *, images=IMAGES, suffix=""):
    root.mkdir(parents=True, exist_ok=True)
    for kind, values in (("images-idx3", images), ("labels-idx1", np.array(labels, np.uint8))):
        content = _pack(values)
        path = root / f"train-{kind}-ubyte{suffix}"
        path.write_bytes(gzip.compress(content) if suffix else content)


@pytest.mark.parametrize("squeeze", [bytes, gzip.compress])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (2, 3, 4), (0, 28, 28)])
def test_what_was_written_is_read(tmp_path, squeeze, shape):
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = tmp_path / "values"
    path.write_bytes(squeeze(_pack(values)))
    read = read_idx(path)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, values)


@pytest.mark.parametrize("folder", ["", "raw", "MNIST/raw", "FashionMNIST/raw"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_pair_is_found_where_it_may_lie(tmp_path, folder, suffix):
    _write_pair(tmp_path / folder, [3, 9], suffix=suffix)
    images, labels = read_pair(tmp_path, part="train", classes=10)
    np.testing.assert_array_equal(images, IMAGES)
    assert labels.tolist() == [3, 9]
    assert labels.dtype == np.int64


def test_a_dot_before_idx_is_taken_for_the_hyphen(tmp_path):
    path = tmp_path / "train-images.idx3-ubyte"
    path.write_bytes(_pack(IMAGES))
    assert find_idx(tmp_path, "train-images-idx3-ubyte") == path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(length=st.integers(0, len(_pack(IMAGES)) - 1), zipped=st.booleans())
def test_a_file_cut_anywhere_is_an_error(tmp_path, length, zipped):
    path = tmp_path / "cut"
    content = _pack(IMAGES)[:length]
    path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(InputError, match=r"cut short|is no IDX file"):
        read_idx(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.data())
def test_a_damaged_archive_is_one_line_or_the_same_values(tmp_path, data):
    content = bytearray(gzip.compress(_pack(IMAGES)))
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    path = tmp_path / "damaged.gz"
    path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        read = read_idx(path)
    except InputError as error:
        message = str(error)
    else:
        np.testing.assert_array_equal(read, IMAGES)
        return
    assert message.startswith(f"{path}: ")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "begins with nothing"),
        (b"\x89PNG\r\n\x1a\n", "begins with 89504e47"),
        (b"\0\0\x0d\x01\0\0\0\1\0\0\0\0", "no IDX file of unsigned bytes"),
        (b"\0\0\x08\x41" + b"\0\0\0\1" * 65 + b"!", "no IDX file of unsigned bytes"),
        (b"\0\0\x08\x00", "no IDX file of unsigned bytes"),
        (_pack(IMAGES) + b"!", "holds more than 24 values"),
        (struct.pack(">BBBB3I", 0, 0, 8, 3, *[2**32 - 1] * 3), "claims to hold 4294967295 x"),
        (struct.pack(">BBBBI", 0, 0, 8, 1, 10**9), "cut short: 0 of 1000000000 values"),
        (gzip.compress(_pack(IMAGES), mtime=0)[:20], "cut short"),
        (b"\x1f\x8bnonsense", "cannot be read"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, content, problem):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(InputError, match=problem) as caught:
        read_idx(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_idx(tmp_path / "absent")
    with pytest.raises(TableError, match="has no train-images-idx3-ubyte"):
        read_pair(tmp_path, part="train", classes=10)


def test_files_that_do_not_fit_are_said(tmp_path):
    _write_pair(tmp_path, [1, 2, 3])
    with pytest.raises(InputError, match=r"has 3 labels, and .* has 2 images"):
        read_pair(tmp_path, part="train", classes=10)
    _write_pair(tmp_path, [1, 10])
    with pytest.raises(InputError, match="row 1 has the label 10, and there are 10 classes"):
        read_pair(tmp_path, part="train", classes=10)
    _write_pair(tmp_path, [1, 1], images=IMAGES[0])
    with pytest.raises(InputError, match="has 2 dimensions, not 3"):
        read_pair(tmp_path, part="train", classes=10)


@pytest.mark.skipif(not FASHION.is_dir(), reason="FashionMNIST has not been fetched")
def test_fashion_mnist_is_read_as_it_was_published():
    images, labels = read_pair(FASHION, part="t10k", classes=10)
    assert images.shape == (10000, 28, 28)
    # Every class has a thousand test images (Xiao et al. 2017).
    assert np.bincount(labels).tolist() == [1000] * 10
    assert labels[:5].tolist() == [9, 2, 1, 1, 6]
