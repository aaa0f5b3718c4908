"""Objects of the drawn domains: real digits, FashionMNIST, and the cut-outs of Tux Paint.

Each object is in one of two folds, and nothing of the fold `evaluation` is ever trained on.
"""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

from fieldmark.core.errors import FetchError
from fieldmark.core.fetch import fetch_debian
from fieldmark.core.registry import look_up
from fieldmark.core.seeds import generator
from fieldmark.data.controlled.features import PACKAGE, read_stamp
from fieldmark.data.controlled.idx import read_pair

Fold = Literal["training", "evaluation"]
_FOLDERS = Path("usr/share/tuxpaint/stamps")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
FASHION = (
    "t-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
# Classes of cut-outs by where their files lie. What is mirrored or drawn by hand is left out.
STAMPS: Mapping[str, tuple[str, ...]] = {
    "bird": ("animals/birds/*",),
    "mammal": ("animals/mammals/*",),
    "plant": ("plants/*",),
    "tool": ("household/tools/*", "household/arttools/*", "household/dishes/*"),
    "fruit": ("food/fruit/*",),
    "vegetable": ("food/vegetables/*",),
    "vehicle": ("vehicles/*",),
    "clothes": ("clothes/*",),
}
_LEFT_OUT = ("*cartoon*", "*_mirror*", "*_flip*", "*rubberduck*", "*balloon360*", "*firetruck*")
_EVALUATION_SHARE = 0.4


@dataclass(frozen=True, eq=False, kw_only=True)
class Objects:
    """The objects of a domain.

    Attributes:
        name: of the domain.
        classes: names of all its classes.
        labels: (m,) class of each object.
        training: (m,) whether it is in the fold `training`.
        read: from the number of an object to an RGBA image.
        scenes: whether objects lie on photographs (else on black).
    """

    name: str
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    training: NDArray[np.bool_]
    read: Callable[[int], Image.Image]
    scenes: bool = False

    def list_fold(self, fold: Fold, *, label: int) -> NDArray[np.int64]:
        """Return the numbers of a class's objects in a fold."""
        chosen = self.training if fold == "training" else ~self.training
        return np.flatnonzero(chosen & (self.labels == label))


@dataclass(frozen=True, kw_only=True)
class Domain:
    """Where objects come from and how they are spoken of.

    Attributes:
        classes: names of all its classes.
        captions: what a caption says, with `{}` for the class.
        prompts: of the zero-shot prompt ensemble (RaVL appendix B).
        open: from a folder of the user's files, or None, to the objects.
    """

    classes: tuple[str, ...]
    captions: tuple[str, ...]
    prompts: tuple[str, ...]
    open: Callable[[Path | None], Objects]


def open_objects(name: str, *, root: Path | None = None) -> Objects:
    """Open the objects of a domain.

    Args:
        name: a key of `DOMAINS`.
        root: folder with MNIST's own four files, for `digits`; else scikit-learn's 1,797 digits
            are taken.

    Raises:
        UnknownNameError: there is no such domain.
        FetchError: a package cannot be had.
        InputError: a file of the user's is damaged.

    Example:
        >>> objects = open_objects("digits")
        >>> objects.classes[9], len(objects.labels), objects.read(0).size
        ('nine', 1797, (28, 28))
    """
    return look_up(DOMAINS, name, kind="domain").open(root)


@functools.lru_cache(maxsize=2)
def _open_digits(root: Path | None) -> Objects:
    if root is not None:
        return _open_idx("digits", root, classes=DIGITS)
    digits = load_digits()
    training = generator(0, "digits").random(len(digits.target)) >= _EVALUATION_SHARE

    def read(number: int) -> Image.Image:
        grey = Image.fromarray((digits.images[number] / 16 * 255).astype(np.uint8))
        return grey.resize((28, 28), Image.Resampling.BICUBIC).convert("RGBA")

    return Objects(
        name="digits",
        classes=DIGITS,
        labels=digits.target.astype(np.int64),
        training=training,
        read=read,
    )


@functools.lru_cache(maxsize=2)
def _open_fashion(root: Path | None) -> Objects:
    folder = root or fetch_debian("dataset-fashion-mnist") / "usr/share/datasets/fashion-mnist"
    return _open_idx("fashion", folder, classes=FASHION)


def _open_idx(name: str, folder: Path, *, classes: tuple[str, ...]) -> Objects:
    parts = [read_pair(folder, part=part, classes=len(classes)) for part in ("train", "t10k")]
    images = np.concatenate([image for image, _ in parts])
    labels = np.concatenate([label for _, label in parts]).astype(np.int64)
    return Objects(
        name=name,
        classes=classes,
        labels=labels,
        training=np.arange(len(labels)) < len(parts[0][1]),
        read=lambda number: Image.fromarray(images[number]).convert("RGBA"),
    )


@functools.lru_cache(maxsize=1)
def _open_stamps(root: Path | None) -> Objects:
    folder = fetch_debian(PACKAGE) / _FOLDERS
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    kept = [name for name in files if not any(fnmatch.fnmatch(name, out) for out in _LEFT_OUT)]
    found = [
        (name, label)
        for label, patterns in enumerate(STAMPS.values())
        for name in kept
        if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
    ]
    if not found:
        raise FetchError("has no cut-outs", where=folder, mend="delete it and fetch it again")
    labels = np.array([label for _, label in found], np.int64)
    random = generator(0, "stamps")
    training = np.zeros(len(labels), bool)
    for label in range(len(STAMPS)):
        members = random.permutation(np.flatnonzero(labels == label))
        training[members[round(len(members) * _EVALUATION_SHARE) :]] = True
    read = functools.lru_cache(maxsize=None)(lambda number: read_stamp(found[number][0]))
    return Objects(
        name="stamps",
        classes=tuple(STAMPS),
        labels=labels,
        training=training,
        read=read,
        scenes=True,
    )


_PHOTO_PROMPTS = ("there is a {}", "a photo of the {}", "a photo of a {}", "{}")
DOMAINS: Mapping[str, Domain] = {
    "digits": Domain(
        classes=DIGITS,
        captions=(
            "there is an image showing a {}",
            "the digit appears to be {}",
            "the image shows a {}",
            "a picture of the number {}",
        ),
        prompts=("a photo of the number {}", "the digit {}", "an image of a {}", "{}"),
        open=_open_digits,
    ),
    "fashion": Domain(
        classes=FASHION,
        captions=(
            "there is an image showing a {}",
            "the garment appears to be a {}",
            "the image shows a {}",
            "a picture of the {}",
        ),
        prompts=("a photo of a {}", "the {}", "an image of a {}", "{}"),
        open=_open_fashion,
    ),
    "stamps": Domain(
        classes=tuple(STAMPS),
        captions=(
            "there is a {} in the picture",
            "a {} outdoors",
            "the image shows a {}",
            "a photograph with a {}",
        ),
        prompts=_PHOTO_PROMPTS,
        open=_open_stamps,
    ),
}
