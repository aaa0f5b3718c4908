"""A task of red and blue squares on green and white, for FakeEncoder's 8 x 8 pixels."""

from __future__ import annotations

import itertools

from PIL import Image

from fieldmark.data.backgrounds import read_backgrounds
from fieldmark.data.foregrounds import read_foregrounds
from fieldmark.data.tables import read_table
from fieldmark.data.tasks import Task

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255), "green": (0, 255, 0), "white": (255,) * 3}
PLACES = ("green", "white")
BAP = {
    "epochs": 2,
    "batch_size": 4,
    "contexts": 2,
    "anchor_contexts": 3,
    "precision": "fp32",
    "scale_steps": 2,
}


def draw(path, side, colour, *, hole=None, middle=None):
    """Write a plain picture with a transparent hole or with a square in its middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGBA" if hole else "RGB", (side, side), colour)
    if middle:
        image.paste(middle, (2, 2, 6, 6))
    if hole:
        image.paste((0, 0, 0, 0), hole)
    image.save(path)


def draw_task(folder):
    """Red and blue squares on green and white, every colour as FakeEncoder's texts name it."""
    for i, name in itertools.product(range(4), ("red", "blue")):
        colour = tuple(min(c + 3 * i, 255) for c in COLOURS[name])
        draw(folder / f"objects/{name}/{i}.png", 14, (*colour, 255), hole=(0, 0, 14, 1))
    for i, name in itertools.product(range(3), PLACES):
        colour = tuple(max(c - 3 * i, 0) for c in COLOURS[name])
        draw(folder / f"scenes/{name}/{i}.png", 16, colour)
    draw(folder / "scenes/other/0.png", 16, (90, 90, 10))
    rows = ["path,label,background,split"]
    for number, split in enumerate(("train", "test")):
        for i, (label, place) in enumerate(itertools.product(("blue", "red"), PLACES * 2)):
            usual = ("green", "white")[label == "red"]
            place = usual if split == "train" and i % 4 else place
            ground = tuple(max(c - i - number, 0) for c in COLOURS[place])
            draw(folder / f"{split}-{i}.png", 8, ground, middle=COLOURS[label])
            rows.append(f"{split}-{i}.png,{label},{place},{split}")
    (folder / "task.csv").write_text("\n".join(rows) + "\n")
    table = read_table(folder / "task.csv")
    return Task(
        name="squares",
        table=table,
        foregrounds=read_foregrounds(folder / "objects"),
        backgrounds=read_backgrounds(folder / "scenes"),
        class_words=table.classes,
    )
