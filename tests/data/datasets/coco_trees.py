"""Tiny COCO 2017 trees in the published layout, drawn by the tests."""

import json

import numpy as np
from PIL import Image

from fieldmark.data.coco import encode_runs

CATEGORIES = ("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat")
LICENCES = [
    {"id": 1, "name": "Attribution-NonCommercial License", "url": "http://example.org/by-nc"},
    {"id": 4, "name": "Attribution License", "url": "http://example.org/by"},
]


class CocoTree:
    """Collects images and annotations, then writes them."""

    def __init__(self, root, *, split="train2017", images="train2017"):
        self.root, self.split = root, split
        self.folder = root / images
        self.folder.mkdir(parents=True, exist_ok=True)
        self.images, self.annotations = [], []

    def add_image(self, pixels, *, licence=1):
        number = len(self.images) + 1
        name = f"{number:012d}.png"
        Image.fromarray(pixels).save(self.folder / name)
        height, width = pixels.shape[:2]
        self.images.append(
            {"id": number, "file_name": name, "height": height, "width": width, "license": licence}
        )
        return number

    def add_object(self, image, category, segmentation, *, box, crowd=0):
        number = len(self.annotations) + 1
        self.annotations.append(
            {
                "id": number,
                "image_id": image,
                "category_id": CATEGORIES.index(category) + 1,
                "segmentation": segmentation,
                "area": box[2] * box[3],
                "bbox": list(box),
                "iscrowd": crowd,
            }
        )
        return number

    def write(self):
        folder = self.root / "annotations"
        folder.mkdir(exist_ok=True)
        content = {
            "info": {},
            "licenses": LICENCES,
            "images": self.images,
            "annotations": self.annotations,
            "categories": [
                {"id": number + 1, "name": name} for number, name in enumerate(CATEGORIES)
            ],
        }
        path = folder / f"instances_{self.split}.json"
        path.write_text(json.dumps(content))
        return path


def box_polygon(x, y, width, height):
    """Return one polygon around a box."""
    return [[x, y, x + width, y, x + width, y + height, x, y + height]]


def box_runs(x, y, width, height, *, size):
    """Return the uncompressed run lengths of a box, down the columns."""
    mask = np.zeros(size, np.uint8)
    mask[y : y + height, x : x + width] = 255
    return {"counts": encode_runs(mask), "size": list(size)}


def write_people(root, colours, *, side=120):
    """Write one person of 112 x 112 pixels an image, of a colour each, on blue."""
    tree = CocoTree(root)
    for number, colour in enumerate(colours):
        pixels = np.zeros((side, side, 3), np.uint8)
        pixels[...] = (0, 0, 255)
        pixels[4:116, 4:116] = colour
        image = tree.add_image(pixels, licence=(1, 4)[number % 2])
        tree.add_object(image, "person", box_polygon(4, 4, 112, 112), box=(4, 4, 112, 112))
    tree.write()
    return tree


def write_places(root, counts, *, side=20):
    """Write scenes in the easy format, so many of each category: a grey of its own each."""
    for number, (category, count) in enumerate(counts.items()):
        folder = root / "places365_standard" / "train" / category.replace("/", "-")
        folder.mkdir(parents=True)
        for scene in range(count):
            colour = (number % 256, 100 + scene, 50)
            Image.new("RGB", (side, side + 4), colour).save(folder / f"{scene:04d}.png")
    return root
