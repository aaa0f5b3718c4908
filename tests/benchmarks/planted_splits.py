"""Squares on grounds in three splits, and an encoder that a green ground misleads.

The classes are red and blue squares in the middle of 16 x 16 pixels, prompted by "red" and "blue".
The tower of `make_misled_encoder` adds the green of the ground to the red of the square, so that it
takes blue on green for red: the known answer of a discovery. In training a green ground goes with
red, in the other splits with nothing. Boxes are the square and the strip above it.
"""

from __future__ import annotations

import csv

import numpy as np
import torch
from PIL import Image

from fieldmark.benchmarks.discovery import run_discovery
from fieldmark.benchmarks.discovery_request import DiscoveryRequest
from fieldmark.testing import FakeEncoder

CLASS_NAMES, LABELS = ("blue", "red"), ("berry", "rose")
SHARES = {"train": (0.2, 0.8), "val": (0.5, 0.5), "test": (0.5, 0.5)}
LEAK = 3.0


def make_misled_encoder():
    encoder = FakeEncoder()
    with torch.no_grad():
        encoder.image_tower.mix.weight[0, 4] = LEAK
    return encoder


def draw_splits(folder, *, count=40, captions=True, attributes=False):
    """Write `count` images a split, `table.csv` and `boxes.csv`; return the path of the table.

    A caption names the colour that the class is prompted by; every tenth names none.
    """
    random = np.random.default_rng(0)
    rows, boxes = [], []
    for split, shares in SHARES.items():
        (folder / split).mkdir(parents=True)
        for number in range(count):
            label = number % 2
            green = number // 2 % 10 < 10 * shares[label]
            path = f"{split}/{number}.png"
            _draw(random, label=label, green=green).save(folder / path)
            row = {"path": path, "label": LABELS[label], "split": split}
            if captions:
                text = f"A {CLASS_NAMES[label]} thing, no. {number}"
                row["caption"] = "a thing" if number % 10 == 0 else text
            if attributes:
                row["attribute"] = "green" if green else "grey"
            rows.append(row)
            boxes.append([path, 4, 4, 12, 12, LABELS[label]])
            boxes.append([path, 0, 0, 16, 4, "ground"])
    _write(folder / "boxes.csv", ["image", "x0", "y0", "x1", "y1", "name"], boxes)
    _write(folder / "table.csv", list(rows[0]), [list(row.values()) for row in rows])
    return folder / "table.csv"


def _draw(random, *, label, green):
    ground = (0.02, 0.9, 0.02) if green else (0.3, 0.02, 0.3)
    square = (0.9, 0.05, 0.05) if label else (0.05, 0.05, 0.9)
    pixels = np.tile(np.array(ground), (16, 16, 1))
    pixels[4:12, 4:12] = square
    pixels += random.normal(0, 0.02, (1, 1, 3))
    return Image.fromarray((255 * pixels.clip(0, 1)).astype(np.uint8))


def _write(path, header, rows):
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        writer.writerows(rows)


def discover_grounds(table, out, **changed):
    """Run a discovery on split val; `load_encoder` must be patched to give the misled encoder."""
    words, templates = out.parent / "words.txt", out.parent / "templates.txt"
    words.write_text("red\ngreen\nwhite\n")
    templates.write_text("{}\n")
    asked = {
        "model": "fake:colours",
        "data": str(table),
        "out": out,
        "regions": f"boxes:{table.parent / 'boxes.csv'}",
        "class_names": CLASS_NAMES,
        "clusters": 4,
        "templates": str(templates),
        "vocabulary": words,
        "precision": "fp32",
        "permutations": 199,
    }
    return run_discovery(DiscoveryRequest(**{**asked, **changed}))
