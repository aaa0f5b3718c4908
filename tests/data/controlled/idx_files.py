"""Files in the layout of MNIST, written by hand."""

from __future__ import annotations

import struct

import numpy as np


def pack(values):
    """Return an array of bytes as an IDX file."""
    shape = values.shape
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + values.tobytes()


def write_pair(root, labels, *, part, images=None):
    """Write the images and labels of a part, `train` or `t10k`; black images by default."""
    labels = np.asarray(labels, np.uint8)
    images = np.zeros((len(labels), 28, 28), np.uint8) if images is None else images
    for kind, values in (("images-idx3", images), ("labels-idx1", labels)):
        (root / f"{part}-{kind}-ubyte").write_bytes(pack(values))
