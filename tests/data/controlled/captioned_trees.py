"""Tiny COCO trees with captions, in the published layout, and how a test's encoder sees them."""

import json
from functools import partial

import numpy as np

from fieldmark.data.controlled.coco_split import Frame, read_split, view_split
from fieldmark.discovery.regions import place_image
from fieldmark.methods.mitigation.captions import parse_captions
from fieldmark.models.preprocess import preprocess_image
from fieldmark.testing import FakeEncoder
from tests.data.datasets.coco_trees import CocoTree

WIDTH, HEIGHT = 32, 16
SPEC = FakeEncoder().spec


class CaptionedTree(CocoTree):
    """Collects images, objects and captions, then writes them."""

    def __init__(self, root, *, split="train2017"):
        super().__init__(root, split=split, images=split)
        self.captions = []

    def add_scene(self, objects, captions, *, crowds=(), size=(WIDTH, HEIGHT)):
        """Add an image of objects in a row, each as its box or in a place of its own."""
        width, height = size
        colour = len(self.images) % 256
        image = self.add_image(np.full((height, width, 3), colour, np.uint8))
        for number, one in enumerate(objects):
            category, box = one if isinstance(one, tuple) else (one, (4 * number, 2, 4, 8))
            self.add_object(image, category, [], box=box, crowd=int(category in crowds))
        for text in captions:
            number = len(self.captions) + 1
            self.captions.append({"id": number, "image_id": image, "caption": text})
        return image

    def write(self):
        path = super().write()
        content = {"images": self.images, "annotations": self.captions}
        path.with_name(f"captions_{self.split}.json").write_text(json.dumps(content))
        return path


def make_frame(*, resize="squash"):
    """Return how the fake encoder takes images in, with another way to resize."""
    spec = SPEC.__class__(**{**SPEC.__dict__, "resize": resize})
    return Frame(
        side=spec.image_size,
        place=partial(place_image, spec=spec),
        prepare=lambda image: preprocess_image(image, spec=spec).numpy(),
        key={"side": spec.image_size, "resize": resize},
    )


def parse(texts, names):
    """Find the categories that captions name, as mitigation does."""
    return parse_captions(texts, names).mentions


def open_view(root, *, split="train2017", resize="squash"):
    """Read a split and see it."""
    return view_split(read_split(root, split=split), make_frame(resize=resize), parse=parse)


def write_vehicles(root, *, split="train2017", count=80):
    """Write so many images of a bus, a car and a boat each, with and without a person."""
    tree = CaptionedTree(root, split=split)
    for vehicle in ("bus", "car", "boat"):
        for number in range(2 * count):
            persons = ["person"] * (number % 2)
            others = ["bicycle"] if number % 3 == 0 else []
            texts = [
                f"A {vehicle} {number} on a street.\n",
                f"Two {vehicle}{'es' if vehicle == 'bus' else 's'} and people.",
                "Nothing that is named.",
            ]
            tree.add_scene([vehicle, *persons, *others], texts)
    tree.write()
    return tree
